"""Mistakes in manifests, each of which a check has to find."""

import subprocess
import sys

from answers import ask
from manifests import Wrong


def pod(manifests, role):
    return manifests.get("Deployment", role)["spec"]["template"]["spec"]


def container(manifests, role):
    return pod(manifests, role)["containers"][0]


def settings(manifests, prefix):
    for item in manifests.of("ConfigMap"):
        if item["metadata"]["name"].startswith(prefix + "-") and item["metadata"]["name"] != "keda-kafka":
            return item["data"]
    raise Wrong(f"there is no ConfigMap {prefix}")


def secret(manifests, role):
    sources = [entry["valueFrom"] for entry in container(manifests, role)["env"] if "valueFrom" in entry]
    return next(source["secretKeyRef"] for source in sources if "secretKeyRef" in source)


def trigger(manifests, role):
    return manifests.get("ScaledObject", role)["spec"]["triggers"][0]["metadata"]


def remove(mapping, key):
    del mapping[key]


# What is wrong, how it is planted, which check finds it: the schemas, or ours.
MISTAKES = [
    ("unknown field of a pod", "schema", lambda m: pod(m, "odds").update(enableServiceLink=False)),
    ("unknown field of a custom resource", "schema", lambda m: m.get("ScaledObject", "processor")["spec"].update(maxReplicas=3)),
    ("text where a number is needed", "schema", lambda m: m.get("Deployment", "odds")["spec"].update(replicas="three")),
    ("quantity 5k5", "checks", lambda m: container(m, "odds")["resources"]["requests"].update(memory="5k5")),
    ("probe of a port that no container has", "checks", lambda m: container(m, "odds")["readinessProbe"]["httpGet"].update(port="helth")),
    ("probe of the wrong port", "checks", lambda m: container(m, "odds")["readinessProbe"]["httpGet"].update(port="http")),
    ("probe of an unknown path", "checks", lambda m: container(m, "odds")["readinessProbe"]["httpGet"].update(path="/ready")),
    ("liveness by readiness", "checks", lambda m: container(m, "odds")["livenessProbe"]["httpGet"].update(path="/readyz")),
    ("port on which the role does not listen", "checks", lambda m: container(m, "wallet")["ports"][0].update(containerPort=8083)),
    ("unknown setting", "checks", lambda m: settings(m, "settings").update(LOG_FORMATS="json")),
    ("setting with a wrong value", "checks", lambda m: settings(m, "settings").update(LOG_FORMAT="xml")),
    ("settings that contradict each other", "checks", lambda m: settings(m, "kafka").update(KAFKA_SECURITY_PROTOCOL="plaintext")),
    ("AUTH is missing", "checks", lambda m: remove(settings(m, "settings"), "AUTH")),
    ("secret that is not documented", "checks", lambda m: secret(m, "odds").update(key="DB")),
    ("role that does not exist", "checks", lambda m: container(m, "odds").update(args=["serve", "--role", "odd"])),
    ("budget with both limits", "checks", lambda m: m.get("PodDisruptionBudget", "odds")["spec"].update(minAvailable=1)),
    ("budget that selects nothing", "checks",
     lambda m: m.get("PodDisruptionBudget", "odds")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "ods"})),
    ("selector that does not match the labels", "checks",
     lambda m: m.get("Deployment", "odds")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "ods"})),
    ("service with an unknown target port", "checks", lambda m: m.get("Service", "odds")["spec"]["ports"][0].update(targetPort="web")),
    ("address of the gateway without a service", "checks", lambda m: m.get("Service", "wallet")["spec"]["ports"][0].update(port=80)),
    ("route to an unknown port", "checks", lambda m: m.get("HTTPRoute", "sports-bet")["spec"]["rules"][0]["backendRefs"][0].update(port=80)),
    ("network policy with an unknown component", "checks",
     lambda m: m.get("NetworkPolicy", "redis")["spec"]["podSelector"]["matchExpressions"][0]["values"].append("proccessor")),
    ("replicas of what KEDA scales", "checks", lambda m: m.get("Deployment", "processor")["spec"].update(replicas=2)),
    ("more replicas than partitions", "checks", lambda m: m.get("ScaledObject", "processor")["spec"].update(maxReplicaCount=13)),
    ("group that the role does not join", "checks", lambda m: trigger(m, "processor").update(consumerGroup="odds")),
    ("option that KEDA does not know", "checks", lambda m: trigger(m, "processor").update(lagTreshold="5")),
    ("KEDA without the login of Kafka", "checks", lambda m: m.get("ConfigMap", "keda-kafka")["data"].update(sasl="none")),
    ("grace shorter than the stop", "checks", lambda m: pod(m, "odds").update(terminationGracePeriodSeconds=8)),
    ("service links", "checks", lambda m: remove(pod(m, "bets"), "enableServiceLinks")),
    ("runs as another user", "checks", lambda m: pod(m, "bets")["securityContext"].update(runAsUser=1000)),
    ("writable root", "checks", lambda m: container(m, "bets")["securityContext"].update(readOnlyRootFilesystem=False)),
    ("CPU limit", "checks", lambda m: container(m, "bets")["resources"]["limits"].update(cpu="1")),
]


class Search:
    """Looks for mistakes."""

    def __init__(self, checker, kubeconform):
        self.checker = checker
        self.kubeconform = kubeconform
        # Paths that were asked.
        self.answering = set()

    def by_schema(self, manifests):
        """What the schemas find; None if nothing."""
        checked = subprocess.run(self.kubeconform, input=manifests.text(), capture_output=True, text=True, check=False)
        return None if checked.returncode == 0 else checked.stdout + checked.stderr

    def by_checks(self, manifests):
        """What our own checks find; None if nothing."""
        try:
            self.checker.check(manifests)
            paths = set(self.checker.paths(manifests)) - self.answering
            if paths:
                ask(self.checker.binary, sorted(paths))
                self.answering |= paths
        except Wrong as wrong:
            return str(wrong)
        return None


def plant_all(checker, manifests, kubeconform):
    search = Search(checker, kubeconform)
    wrong = search.by_schema(manifests) or search.by_checks(manifests)
    if wrong:
        print(f"without a mistake: {wrong}", file=sys.stderr)
        return 1
    missed = 0
    for what, finder, planted in plants(manifests):
        if not (search.by_schema if finder == "schema" else search.by_checks)(planted):
            print(f"mistake not found by the {finder}: {what}", file=sys.stderr)
            missed += 1
    print(f"mistakes: {len(MISTAKES) - missed} of {len(MISTAKES)} planted mistakes found")
    return min(missed, 1)


def plants(manifests):
    """The manifests with each mistake."""
    for what, finder, plant in MISTAKES:
        planted = manifests.copy()
        plant(planted)
        yield what, finder, planted


def write_all(manifests, folder):
    """Writes the manifests with each mistake into a folder."""
    for what, _, planted in plants(manifests):
        (folder / f"{what}.yaml").write_text(planted.text())
