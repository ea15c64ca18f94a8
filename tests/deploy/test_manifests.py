"""The Kubernetes manifests as kustomize renders them: every schema strictly, and what must hold for
each pod, policy and budget. Without kubectl the base is judged as it lies in its files."""
import copy
import json
import os
import pathlib
import re
import tempfile

from common import DEPLOY, check, default_of, equal, finish, load_yaml, run, skip, tool

KUSTOMIZE = DEPLOY / "kustomize"
OWN_KINDS = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator: no schema bundled


def rendered(folder):
    done = run(tool("kubectl"), "kustomize", folder)
    equal(done.returncode, 0, f"kubectl kustomize {folder}:\n{done.stdout}")
    return [doc for doc in load_yaml(done.stdout) if doc]


def of_kind(docs, kind):
    return [doc for doc in docs if doc["kind"] == kind]


def mib(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * (1024 if unit == "Gi" else 1)


# ---- schemas ---------------------------------------------------------------------------------------

def schema_errors(doc):
    """What a strict API server of the oldest and of the newest bundled version would say."""
    import kubernetes_validate
    for version in ("1.30.0", kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as wrong:
            return f"{version}: {wrong.message}"
    return None


def check_schemas(name, docs):
    for doc in docs:
        if doc["kind"] not in OWN_KINDS:
            equal(schema_errors(doc), None, f"{name}: schema of {doc['kind']}")


def check_that_schemas_bite(docs):
    good = of_kind(docs, "Deployment")[0]
    container = ("spec", "template", "spec", "containers", 0)
    for where, old, new in ((container, "readinessProbe", "readinesProbe"), (container, "image", 5)):
        bad = copy.deepcopy(good)
        at = bad
        for step in where:
            at = at[step]
        if isinstance(new, str):
            at[new] = at.pop(old)
        else:
            at[old] = new
        check(schema_errors(bad), f"a Deployment with a wrong {old} is refused")


# ---- what must hold --------------------------------------------------------------------------------

def check_pod(name, spec):
    security = spec.get("securityContext", {})
    equal(security.get("runAsNonRoot"), True, f"{name}: runAsNonRoot")
    for who in ("runAsUser", "runAsGroup", "fsGroup"):
        equal(security.get(who), 65532, f"{name}: {who}")
    equal(security.get("seccompProfile"), {"type": "RuntimeDefault"}, f"{name}: seccompProfile")
    equal(spec.get("automountServiceAccountToken"), False, f"{name}: automountServiceAccountToken")
    equal(spec.get("enableServiceLinks"), False, f"{name}: enableServiceLinks")
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        check(not spec.get(forbidden), f"{name}: no {forbidden}")
    for volume in spec.get("volumes", []):
        check("hostPath" not in volume, f"{name}: no hostPath")
        check("emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"),
              f"{name}: every emptyDir has a sizeLimit")


def check_container(name, container):
    security = container["securityContext"]
    equal(security, {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                     "capabilities": {"drop": ["ALL"]}}, f"{name}: securityContext")
    image = container["image"]
    check(re.search(r"@sha256:[0-9a-f]{64}$|:(?!latest$)[\w.-]+$", image), f"{name}: {image} is fixed")
    check("command" not in container, f"{name}: process 1 is the program itself")
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    equal(requests["memory"], limits["memory"], f"{name}: memory requested and allowed")
    check(mib(limits["memory"]) >= 1024, f"{name}: memory for the demo model")
    check("cpu" in limits, f"{name}: a CPU limit, which is the number of threads")
    check("ephemeral-storage" in limits, f"{name}: ephemeral storage is limited")
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    equal(ports, {"http": 8080, "admin": 8081}, f"{name}: ports")
    check_probes(name, container)


def check_probes(name, container):
    for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"),
                        ("livenessProbe", "/livez")):
        asked = container[probe]
        equal(asked["httpGet"], {"path": path, "port": "admin"}, f"{name}: {probe}")
        check(asked["timeoutSeconds"] >= 2, f"{name}: {probe} waits 2 s")
    startup = container["startupProbe"]
    check(startup["failureThreshold"] * startup["periodSeconds"] >= 300,
          f"{name}: five minutes to load")


def check_end(name, spec, config):
    """preStop and the drain run one after the other inside the termination grace."""
    grace = float(config.get("TACA_DRAIN_GRACE", default_of("drain-grace") or 0))
    drain = float(config.get("TACA_DRAIN_TIMEOUT", default_of("drain-timeout") or 0))
    stop = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {})
    sleep = stop.get("seconds", 0)
    check(5 <= sleep + grace < drain + sleep, f"{name}: endpoints have 5 s to learn of the end")
    allowed = spec["terminationGracePeriodSeconds"]
    check(allowed >= sleep + max(grace, drain) + 10,
          f"{name}: {allowed} s of termination cover preStop {sleep} + drain {drain} + 10")


def check_service_objects(name, docs):
    deployment = of_kind(docs, "Deployment")[0]
    spec = deployment["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for service in of_kind(docs, "Service"):
        check(service["spec"]["selector"].items() <= labels.items(),
              f"{name}: Service {service['metadata']['name']} finds the pods")
    budget = of_kind(docs, "PodDisruptionBudget")[0]["spec"]
    check(budget["selector"]["matchLabels"].items() <= labels.items(), f"{name}: the PDB's pods")
    check(not (spec["replicas"] == 1 and budget.get("minAvailable")), f"{name}: nodes can be drained")
    rolling = spec["strategy"].get("rollingUpdate")
    check(spec["strategy"]["type"] == "Recreate" or rolling["maxUnavailable"] == 0,
          f"{name}: a rollout takes nothing away first")
    policy = of_kind(docs, "NetworkPolicy")[0]["spec"]
    equal(sorted(policy["policyTypes"]), ["Egress", "Ingress"], f"{name}: policy types")
    equal(policy["egress"], [], f"{name}: nothing goes out")
    for rule in policy["ingress"]:
        check(rule.get("from") and rule.get("ports"), f"{name}: every way in names who and where")
    check(policy["podSelector"]["matchLabels"].items() <= labels.items(), f"{name}: the policy's pods")
    for space in of_kind(docs, "Namespace"):
        equal(space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce"), "restricted",
              f"{name}: pod security")


def check_service(name, docs):
    deployment = of_kind(docs, "Deployment")[0]
    spec = deployment["spec"]["template"]["spec"]
    config = {}
    for found in of_kind(docs, "ConfigMap"):
        config.update(found["data"])
    check_pod(name, spec)
    equal(len(spec["containers"]), 1, f"{name}: containers")
    check_container(name, spec["containers"][0])
    check_end(name, spec, config)
    check_service_objects(name, docs)
    claims = [v for v in spec.get("volumes", []) if "persistentVolumeClaim" in v]
    check(not claims or (deployment["spec"]["replicas"] == 1
                         and deployment["spec"]["strategy"]["type"] == "Recreate"),
          f"{name}: a claim that one node mounts has one pod")


def check_rendered(name, docs):
    labels = ("name", "component", "instance", "version", "part-of", "managed-by")
    pod = of_kind(docs, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]
    for label in labels:
        check(f"app.kubernetes.io/{label}" in pod, f"{name}: label {label}")
    names = [m["metadata"]["name"] for m in of_kind(docs, "ConfigMap")]
    used = [e["configMapRef"]["name"] for e in of_kind(docs, "Deployment")[0]["spec"]["template"]
            ["spec"]["containers"][0]["envFrom"]]
    equal(used, names, f"{name}: the configuration by its hashed name")
    check(re.search(r"-[a-z0-9]{10}$", used[0]), f"{name}: a change of configuration rolls out")
    spaces = {d["metadata"].get("namespace") for d in docs if d["kind"] != "Namespace"}
    equal(spaces, {d["metadata"]["name"] for d in of_kind(docs, "Namespace")}, f"{name}: namespaces")


def check_monitoring(docs):
    rules = load_yaml((DEPLOY / "prometheus/rules.yaml").read_text())[0]["groups"]
    check(of_kind(docs, "PrometheusRule")[0]["spec"]["groups"] == rules,
          "PrometheusRule has the groups of prometheus/rules.yaml")
    board = of_kind(docs, "ConfigMap")[0]
    equal(board["metadata"]["labels"].get("grafana_dashboard"), "1", "the sidecar's label")
    equal(json.loads(board["data"]["taca.json"])["uid"], "taca-service", "the dashboard")
    monitor = of_kind(docs, "ServiceMonitor")[0]["spec"]
    services = [s for s in load_yaml((KUSTOMIZE / "base/service.yaml").read_text())
                if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
    equal([s["spec"]["ports"][0]["name"] for s in services], [monitor["endpoints"][0]["port"]],
          "the ServiceMonitor finds one Service and its port")
    equal(services[0]["metadata"]["labels"][monitor["jobLabel"]], "taca", "the job's name")


def check_digest():
    """The documented way to pin the image."""
    digest = "registry.example/taca@sha256:" + "0" * 64
    with tempfile.TemporaryDirectory(prefix="taca-kustomize-") as temp:
        base = os.path.relpath(KUSTOMIZE / "overlays/dev", pathlib.Path(temp).resolve())
        (pathlib.Path(temp) / "kustomization.yaml").write_text(
            f"resources: [{base}]\nimages: [{{name: taca, newName: registry.example/taca, "
            f"digest: 'sha256:{'0' * 64}'}}]\n")
        docs = rendered(temp)
    image = of_kind(docs, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    equal(image, digest, "an image by digest")


base = [doc for path in sorted((KUSTOMIZE / "base").glob("*.yaml"))
        for doc in load_yaml(path.read_text()) if doc["kind"] != "Kustomization"]
listed = load_yaml((KUSTOMIZE / "base/kustomization.yaml").read_text())[0]
equal(sorted(listed["resources"]), sorted(p.name for p in (KUSTOMIZE / "base").glob("*.yaml")
                                          if p.name != "kustomization.yaml"), "files of the base")
literals = dict(l.split("=", 1) for l in listed["configMapGenerator"][0]["literals"])
check_service("base", base + [{"kind": "ConfigMap", "data": literals}])

everything = {"base": base}
if tool("kubectl"):
    for overlay in ("dev", "single-node", "gpu"):
        everything[overlay] = rendered(KUSTOMIZE / "overlays" / overlay)
        check_service(overlay, everything[overlay])
        check_rendered(overlay, everything[overlay])
    everything["monitoring"] = rendered(KUSTOMIZE / "overlays/monitoring")
    check_monitoring(everything["monitoring"])
    check_digest()
else:
    skip("no kubectl: overlays are not rendered (tests/deploy/tools.sh fetches it)")
try:
    for name, docs in everything.items():
        check_schemas(name, docs)
    check_that_schemas_bite(base)
except ImportError:
    skip("no kubernetes-validate: schemas are not checked (tests/deploy/tools.sh fetches it)")
finish(f"{sum(map(len, everything.values()))} manifests")
