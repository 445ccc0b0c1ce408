"""Checks rendered manifests for what no schema says: settings, ports, probes, references, limits.

usage: check_manifests.py BINARY KEDA_SOURCE FILE...
       check_manifests.py --mistakes BINARY KEDA_SOURCE FILE KUBECONFORM_ARG...
       check_manifests.py --write-mistakes FILE FOLDER
The second form plants each mistake in FILE and expects it to be found, the third only writes them.
"""

import pathlib
import re
import subprocess
import sys

from manifests import SECRETS, Manifests, Wrong, ports_of, role_of, selects

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The names of roles in the settings of ports, where they differ.
PORT_NAMES = {"simulator": "SUPPLIER", "bets": "BET"}
SASL = {"plain": "plaintext", "scram-sha-256": "scram_sha256", "scram-sha-512": "scram_sha512"}
# Used by the values of other variables only.
HELPERS = {"POD_NAME"}
NO_TLS = "built without the feature"


def require(holds, text):
    if not holds:
        raise Wrong(text)


class Checker:
    def __init__(self, binary, keda_source):
        self.binary = binary
        example = self.run(["check-config", "--example"], {}).stdout
        self.settings = set(re.findall(r"^#([A-Z_0-9]+)=", example, re.M))
        source = pathlib.Path(keda_source).read_text()
        self.keda = set()
        for name, order in re.findall(r'keda:"name=(\w+),order=([\w;]+)', source):
            if "triggerMetadata" in order:
                self.keda.add(name)
            if "resolvedEnv" in order:
                self.keda.add(name + "FromEnv")
        require(self.keda and self.settings, "the tables of settings or of KEDA cannot be read")
        self.notes = set()
        self.effective = {}

    def run(self, args, variables):
        return subprocess.run(
            [self.binary, *args], env=variables, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )

    def check(self, manifests):
        self.effective = {}
        for workload, labels, pod in manifests.pods():
            name = workload["metadata"]["name"]
            own = workload["spec"].get("selector", {})
            require(selects(own, labels), f"{name}: its selector does not match the labels of its pods")
            for container in pod["containers"]:
                self.container(manifests, name, workload, container)
            self.pod(name, labels, pod)
            self.probes(name, pod)
        for check in (services, budgets, policies, routes, monitors, self.scaled, gateways):
            check(manifests)

    # ---- Settings

    def container(self, manifests, name, workload, container):
        variables = manifests.environment(container)
        require(container["name"] == "sports-bet", f"{name}: a container is not called sports-bet")
        # Kafka without a login refuses one.
        if not variables.get("KAFKA_SECURITY_PROTOCOL", "plaintext").startswith("sasl"):
            variables.pop("KAFKA_SASL_PASSWORD", None)
        unknown = sorted(set(variables) - self.settings - HELPERS)
        require(not unknown, f"{name}: not settings: {', '.join(unknown)}")
        role = role_of(container)
        if workload["kind"] == "Job":
            require(container["args"] == ["migrate"], f"{name}: does not run migrate")
            require("DATABASE_URL" in variables, f"{name}: has no DATABASE_URL")
            return
        require(role == name, f"{name}: runs {container.get('args')}")
        result = self.run(["check-config", "--role", role], variables)
        if result.returncode != 0 and NO_TLS in result.stdout + result.stderr:
            self.notes.add("this binary has no tls- feature, so TLS and SCRAM to Kafka were checked as plain logins")
            variables |= {"KAFKA_SECURITY_PROTOCOL": "sasl_plaintext", "KAFKA_SASL_MECHANISM": "plain"}
            result = self.run(["check-config", "--role", role], variables)
        require(result.returncode == 0, f"{name}: check-config: {result.stdout}{result.stderr}")
        warned = result.stdout.partition("# Warnings")[2].strip() or result.stderr.strip()
        require(not warned, f"{name}: check-config warns: {warned}")
        self.effective[name] = dict(re.findall(r"^([A-Z_0-9]+)=\"?(.*?)\"? +#", result.stdout, re.M))
        self.effective[name].update(
            {key: value for key, value in manifests.environment(container).items() if key.startswith("KAFKA_S")}
        )
        self.ports(name, role, container)

    def ports(self, name, role, container):
        declared = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        suffix = PORT_NAMES.get(role, role.upper())
        wanted = {"health": f"METRICS_PORT_{suffix}", "http": f"HTTP_PORT_{suffix}", "grpc": f"GRPC_PORT_{role.upper()}"}
        effective = self.effective[name]
        expected = {port: effective[key] for port, key in wanted.items() if key in effective}
        require(declared == expected, f"{name}: declares the ports {declared}, the binary listens on {expected}")

    # ---- Pods

    def pod(self, name, labels, pod):
        require(labels.get("app.kubernetes.io/component") == name, f"{name}: its pods have another component")
        require(pod.get("enableServiceLinks") is False, f"{name}: enableServiceLinks must be false")
        require(pod.get("automountServiceAccountToken") is False, f"{name}: mounts a token")
        security = pod.get("securityContext", {})
        user = re.search(r"^USER (\d+)$", (ROOT / "docker/Dockerfile").read_text(), re.M)
        require(user, "docker/Dockerfile has no numeric USER")
        require(security.get("runAsUser") == int(user[1]), f"{name}: does not run as the image's user {user[1]}")
        require(security.get("runAsNonRoot") is True, f"{name}: runAsNonRoot must be true")
        require(security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{name}: has no seccomp profile")
        for container in pod["containers"]:
            context = container.get("securityContext", {})
            require(context.get("readOnlyRootFilesystem") is True, f"{name}: its root is writable")
            require(context.get("allowPrivilegeEscalation") is False, f"{name}: may gain privileges")
            require(context.get("capabilities") == {"drop": ["ALL"]}, f"{name}: has capabilities")
            resources = container["resources"]
            require("cpu" not in resources["limits"], f"{name}: a CPU limit makes a role slow")
            require("memory" in resources["limits"], f"{name}: has no memory limit")
            require({"cpu", "memory"} <= set(resources["requests"]), f"{name}: requests no CPU or memory")
            for quantity in (*resources["limits"].values(), *resources["requests"].values()):
                require(re.fullmatch(r"\d+(\.\d+)?(m|Ki|Mi|Gi)?", str(quantity)), f"{name}: {quantity} is no quantity")
        effective = self.effective.get(name)
        if effective:
            stops = sum(seconds(effective.get(key)) for key in ("DRAIN_DELAY", "DRAIN_SPREAD", "SHUTDOWN_TIMEOUT"))
            grace = pod.get("terminationGracePeriodSeconds", 30)
            require(grace >= stops + 2, f"{name}: is killed after {grace} s, but may take {stops} s to stop")

    def probes(self, name, pod):
        names = ports_of(pod)
        for container in pod["containers"]:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind)
                if role_of(container) is None:
                    require(probe is None, f"{name}: a command that ends has a {kind}")
                    continue
                require(probe, f"{name}: has no {kind}")
                port = probe["httpGet"]["port"]
                require(port == "health" and port in names, f"{name}: the {kind} asks port {port}")
                path = probe["httpGet"]["path"]
                livez = kind != "readinessProbe"
                require((path == "/livez") == livez, f"{name}: the {kind} asks {path}")

    def paths(self, manifests):
        """The probes' paths by role."""
        for workload, _, pod in manifests.pods():
            for container in pod["containers"]:
                for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                    if kind in container:
                        yield workload["metadata"]["name"], container[kind]["httpGet"]["path"]

    # ---- KEDA

    def scaled(self, manifests):
        for item in manifests.of("ScaledObject"):
            name = item["spec"]["scaleTargetRef"]["name"]
            target = manifests.get("Deployment", name)
            require("replicas" not in target["spec"], f"{name}: each apply would reset the replicas that KEDA sets")
            effective = self.effective[name]
            partitions = int(effective["KAFKA_TOPIC_PARTITIONS"])
            require(
                item["spec"]["minReplicaCount"] >= 1 and item["spec"]["maxReplicaCount"] <= partitions,
                f"{name}: is scaled beyond 1 to {partitions} (KAFKA_TOPIC_PARTITIONS)",
            )
            for trigger in item["spec"]["triggers"]:
                self.trigger(manifests, name, trigger, effective)

    def trigger(self, manifests, name, trigger, effective):
        metadata = trigger["metadata"]
        unknown = sorted(set(metadata) - self.keda)
        require(not unknown, f"{name}: KEDA does not know {', '.join(unknown)}")
        topics = {value for key, value in effective.items() if key.startswith("KAFKA_TOPIC_")}
        groups = {value for key, value in effective.items() if key.startswith("KAFKA_GROUP_")}
        require(metadata["topic"] in topics, f"{name}: no topic is called {metadata['topic']}")
        require(metadata["consumerGroup"] in groups, f"{name}: no group is called {metadata['consumerGroup']}")
        container = manifests.get("Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        variables = manifests.environment(container)
        for key, value in metadata.items():
            require(not key.endswith("FromEnv") or value in variables, f"{name}: {value} is not in the environment")
        login = manifests.get("TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]
        given = {
            entry["parameter"]: manifests.get("ConfigMap", entry["name"])["data"][entry["key"]]
            for entry in login["configMapTargetRef"]
        }
        protocol = effective.get("KAFKA_SECURITY_PROTOCOL", "plaintext")
        mechanism = effective.get("KAFKA_SASL_MECHANISM", "plain")
        wanted = {
            "sasl": SASL[mechanism] if protocol.startswith("sasl") else "none",
            "tls": "enable" if protocol.endswith("ssl") else "disable",
        }
        require(given == wanted, f"{name}: KEDA logs in to Kafka with {given}, the roles with {wanted}")


# ---- References between objects


def services(manifests):
    for item in manifests.of("Service"):
        name, spec = item["metadata"]["name"], item["spec"]
        if spec.get("type") == "ExternalName":
            continue
        chosen = [pod for _, labels, pod in manifests.pods() if selects({"matchLabels": spec["selector"]}, labels)]
        require(chosen, f"Service {name}: selects no pods")
        for port in spec["ports"]:
            served = any(port["targetPort"] in ports_of(pod) for pod in chosen)
            require(served, f"Service {name}: no pod has a port {port['targetPort']}")


def budgets(manifests):
    protected = []
    for item in manifests.of("PodDisruptionBudget"):
        name, spec = item["metadata"]["name"], item["spec"]
        require(spec.get("maxUnavailable") == 1 and "minAvailable" not in spec,
                f"PodDisruptionBudget {name}: must have maxUnavailable 1 and nothing else")
        chosen = manifests.selected(spec["selector"])
        require(len(chosen) == 1, f"PodDisruptionBudget {name}: selects {len(chosen)} Deployments instead of 1")
        protected += [workload["metadata"]["name"] for workload in chosen]
    deployments = sorted(item["metadata"]["name"] for item in manifests.of("Deployment"))
    require(sorted(protected) == deployments, f"PodDisruptionBudgets protect {sorted(protected)}")


def policies(manifests):
    denied = [item for item in manifests.of("NetworkPolicy")
              if set(item["spec"]["policyTypes"]) == {"Ingress", "Egress"} and not item["spec"].get("ingress")
              and not item["spec"].get("egress")]
    require(any(len(manifests.selected(item["spec"]["podSelector"])) == len(list(manifests.pods())) for item in denied),
            "no NetworkPolicy denies what is not listed")
    components = {labels["app.kubernetes.io/component"] for _, labels, _ in manifests.pods()}
    for item in manifests.of("NetworkPolicy"):
        name, spec = item["metadata"]["name"], item["spec"]
        chosen = [pod for _, labels, pod in manifests.pods() if selects(spec["podSelector"], labels)]
        require(chosen, f"NetworkPolicy {name}: selects no pods")
        for selector in selectors(spec):
            for rule in selector.get("matchExpressions", []):
                strange = sorted(set(rule["values"]) - components)
                require(not strange, f"NetworkPolicy {name}: no pods are called {strange}")
        for rule in spec.get("ingress", []):
            for port in rule["ports"]:
                known = any(port["port"] in {**ports_of(pod), **{p: p for p in ports_of(pod).values()}} for pod in chosen)
                require(known, f"NetworkPolicy {name}: no pod listens on {port['port']}")


def selectors(spec):
    yield spec["podSelector"]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            for peer in rule.get(peers, []):
                if "podSelector" in peer:
                    yield peer["podSelector"]


def service_port(manifests, name, port, user):
    ports = manifests.get("Service", name)["spec"]["ports"]
    require(any(port in (entry["port"], entry["name"]) for entry in ports), f"{user}: Service {name} has no port {port}")


def routes(manifests):
    for item in manifests.of("HTTPRoute", "GRPCRoute"):
        for rule in item["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service_port(manifests, backend["name"], backend["port"], item["kind"])
    for item in manifests.of("Ingress"):
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service_port(manifests, backend["name"], next(iter(backend["port"].values())), "Ingress")


def monitors(manifests):
    for item in manifests.of("ServiceMonitor"):
        spec = item["spec"]
        found = [s for s in manifests.of("Service") if selects(spec["selector"], s["metadata"].get("labels", {}))]
        require(len(found) == 1, f"ServiceMonitor: selects {len(found)} Services")
        for endpoint in spec["endpoints"]:
            service_port(manifests, found[0]["metadata"]["name"], endpoint["port"], "ServiceMonitor")


def gateways(manifests):
    container = manifests.get("Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]
    for key, value in manifests.environment(container).items():
        if re.fullmatch(r"GATEWAY_\w+_URL", key):
            host, port = re.fullmatch(r"http://([\w-]+):(\d+)", value).groups()
            service_port(manifests, host, int(port), key)


def seconds(text):
    if not text:
        return 0
    units = {"ms": 0.001, "s": 1, "m": 60}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|s|m)\b", text))


def documented():
    page = (ROOT / "docs/kubernetes.md").read_text()
    for name, keys in SECRETS.items():
        for key in [name, *keys]:
            require(f"`{key}`" in page, f"docs/kubernetes.md does not name {key} of the Secret {name}")


def main(args):
    if args[0] == "--write-mistakes":
        from mistakes import write_all

        write_all(Manifests(pathlib.Path(args[1]).read_text()), pathlib.Path(args[2]))
        return 0
    if args[0] == "--mistakes":
        from mistakes import plant_all

        _, binary, keda, file, *kubeconform = args
        return plant_all(Checker(binary, keda), Manifests(pathlib.Path(file).read_text()), kubeconform)
    binary, keda, *files = args
    checker = Checker(binary, keda)
    failed = 0
    try:
        documented()
    except Wrong as wrong:
        print(f"docs: {wrong}", file=sys.stderr)
        failed = 1
    probes = set()
    for file in files:
        try:
            manifests = Manifests(pathlib.Path(file).read_text())
            checker.check(manifests)
            probes |= set(checker.paths(manifests))
        except Wrong as wrong:
            print(f"{pathlib.Path(file).stem}: {wrong}", file=sys.stderr)
            failed = 1
    from answers import ask

    try:
        ask(binary, sorted(probes))
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        failed = 1
    for note in sorted(checker.notes):
        print(f"note: {note}")
    containers = sum(len(list(Manifests(pathlib.Path(file).read_text()).pods())) for file in files)
    print(f"checks: {len(files)} renderings, {containers} containers against check-config, {len(probes)} probe paths asked")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
