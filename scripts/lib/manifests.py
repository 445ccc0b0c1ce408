"""Rendered manifests: their objects, and the environment of each container."""

import base64
import copy
import re

import yaml

# A value for each key of the Secrets that prod expects (docs/kubernetes.md#secrets).
SECRETS = {
    "sports-bet-engines": {
        "DATABASE_URL": "postgres://sports_bet_app:secret@postgres.example:5432/sports_bet",
        "DATABASE_RO_URL": "postgres://sports_bet_app:secret@replica.example:5432/sports_bet",
        "REDIS_URL": "rediss://sports_bet:secret@redis.example:6379/0",
        "KAFKA_SASL_PASSWORD": "secret",
    },
    "sports-bet-owner": {
        "DATABASE_URL": "postgres://sports_bet_owner:secret@postgres.example:5432/sports_bet",
    },
    "sports-bet-suppliers": {
        "SUPPLIER_URLS": "wss://supplier.example/ws",
        "SUPPLIER_URL": "https://supplier.example",
        "BETFAIR_APP_KEY": "key",
        "BETFAIR_SESSION_TOKEN": "token",
    },
    "sports-bet-tokens": {"AUTH_JWT_SECRET": "a secret of at least 32 bytes is needed"},
}


class Wrong(Exception):
    """What is wrong with the manifests."""


class Manifests:
    """The objects that an overlay renders."""

    def __init__(self, text):
        self.objects = [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]

    def copy(self):
        return copy.deepcopy(self)

    def text(self):
        return yaml.dump_all(self.objects, Dumper=yaml.CSafeDumper, sort_keys=False)

    def of(self, *kinds):
        return [item for item in self.objects if item["kind"] in kinds]

    def get(self, kind, name):
        for item in self.of(kind):
            if item["metadata"]["name"] == name:
                return item
        raise Wrong(f"there is no {kind} {name}")

    def pods(self):
        """Each workload with its pod's labels and specification."""
        for item in self.of("Deployment", "Job"):
            template = item["spec"]["template"]
            yield item, template["metadata"]["labels"], template["spec"]

    def selected(self, selector):
        """The workloads whose pods a selector selects."""
        return [item for item, labels, _ in self.pods() if selects(selector, labels)]

    def environment(self, container):
        """The environment of a container, as the kubelet resolves it."""
        variables = {}
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            variables.update(self.get("ConfigMap", name).get("data", {}))
        for entry in container.get("env", []):
            value = self.value(entry)
            if value is not None:
                variables[entry["name"]] = re.sub(
                    r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), value
                )
        return variables

    def value(self, entry):
        if "value" in entry:
            return str(entry["value"])
        source = entry["valueFrom"]
        if "fieldRef" in source:
            return "a-field-of-the-pod"
        if "secretKeyRef" not in source:
            raise Wrong(f"{entry['name']}: unknown source {sorted(source)}")
        return self.secret(**source["secretKeyRef"])

    def secret(self, name, key, optional=False):
        for item in self.of("Secret"):
            if item["metadata"]["name"] == name:
                value = item.get("data", {}).get(key)
                if value is not None:
                    return base64.b64decode(value).decode()
                if optional:
                    return None
                raise Wrong(f"Secret {name} has no key {key}")
        if key not in SECRETS.get(name, {}):
            raise Wrong(f"Secret {name} with the key {key} is not one of those that are documented")
        # A Kafka without a login has no password.
        return SECRETS[name][key]


def selects(selector, labels):
    """Whether a selector (matchLabels and matchExpressions) selects these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] != "In" or labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def role_of(container):
    """The role that a container runs; None for a command other than serve."""
    args = container.get("args", [])
    return args[2] if args[:2] == ["serve", "--role"] and len(args) == 3 else None


def ports_of(pod):
    return {port["name"]: port["containerPort"] for c in pod["containers"] for port in c.get("ports", [])}
