//! `deploy/k8s` without kustomize: settings, ports and probes. `make check-k8s` checks what it
//! renders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;
use serde::Deserialize;
use serde_norway::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;

use super::compose::Variables;
use super::{file, health_port, image};
use crate::support::{TestPlatform, get_text};

const BASE: &str = "deploy/k8s/base";
const POD: &str = "deploy/k8s/components/pod/pod.yaml";
const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The objects of a file.
fn objects(path: &str) -> Vec<Value> {
    let text = file(path);
    let documents = serde_norway::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// The lines `NAME=value` of a file; none if there is no file.
fn lines(path: &str) -> Variables {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_sequence().map_or(&[], Vec::as_slice)
}

/// The container of each role.
fn containers() -> BTreeMap<&'static str, Value> {
    let mut found = BTreeMap::new();
    for role in Role::ALL.map(Role::name) {
        let path = match role {
            "simulator" => "deploy/k8s/overlays/dev/simulator.yaml".to_owned(),
            role => format!("{BASE}/{role}.yaml"),
        };
        let objects = objects(&path);
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment");
        let pod = &deployment.unwrap()["spec"]["template"]["spec"];
        let [container] = list(&pod["containers"]) else {
            panic!("{role}: not one container");
        };
        let args: Vec<_> = list(&container["args"]).iter().map(text).collect();
        assert_eq!(args, ["serve", "--role", role]);
        found.insert(role, container.clone());
    }
    found
}

/// The values of a Secret's key in an overlay.
fn secret(overlay: &str, name: &str, key: &str) -> Option<String> {
    if overlay == "dev" {
        let file = name.strip_prefix("sports-bet-").unwrap();
        return lines(&format!("deploy/k8s/overlays/dev/secrets/{file}.env"))
            .get(key)
            .cloned();
    }
    let value = match key {
        "DATABASE_URL" | "DATABASE_RO_URL" => "postgres://user:secret@db.example:5432/sports_bet",
        "REDIS_URL" => "rediss://user:secret@redis.example:6379/0",
        "KAFKA_SASL_PASSWORD" => "secret",
        "SUPPLIER_URLS" => "wss://supplier.example/ws",
        "SUPPLIER_URL" => "https://supplier.example",
        "AUTH_JWT_SECRET" => "a secret of at least 32 bytes is needed",
        "BETFAIR_APP_KEY" | "BETFAIR_SESSION_TOKEN" => "key",
        other => panic!("{name} has no {other}"),
    };
    Some(value.to_owned())
}

/// The environment of a container in an overlay.
fn environment(container: &Value, overlay: &str) -> Variables {
    let mut variables = Variables::new();
    for source in list(&container["envFrom"]) {
        let name = text(&source["configMapRef"]["name"]);
        variables.extend(lines(&format!("{BASE}/{name}.env")));
        variables.extend(lines(&format!("deploy/k8s/overlays/{overlay}/{name}.env")));
    }
    for entry in list(&container["env"]) {
        let name = text(&entry["name"]).to_owned();
        if let Some(value) = entry["value"].as_str() {
            variables.insert(name, value.to_owned());
        } else if let Some(key) = entry["valueFrom"]["secretKeyRef"].as_mapping() {
            let value = secret(overlay, text(&key["name"]), text(&key["key"]));
            let is_optional = key.get("optional").and_then(Value::as_bool) == Some(true);
            assert!(value.is_some() || is_optional, "{overlay}: {name}");
            variables.extend(value.map(|value| (name, value)));
        } else {
            let field = &entry["valueFrom"]["fieldRef"]["fieldPath"];
            variables.insert(name, text(field).to_owned());
        }
    }
    variables
}

/// The checked settings of a role in an overlay.
fn config(role: &str, container: &Value, overlay: &str) -> Config {
    let mut variables = environment(container, overlay);
    variables.insert("ROLE".to_owned(), role.to_owned());
    // The image has a TLS library for Kafka, this binary perhaps not.
    if variables.get("KAFKA_SECURITY_PROTOCOL").map(String::as_str) == Some("sasl_ssl") {
        variables.insert(
            "KAFKA_SECURITY_PROTOCOL".to_owned(),
            "sasl_plaintext".to_owned(),
        );
        variables.insert("KAFKA_SASL_MECHANISM".to_owned(), "plain".to_owned());
    }
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    Config::from_variables(&variables).unwrap_or_else(|wrong| panic!("{overlay}: {role}: {wrong}"))
}

#[test]
fn manifests_settings_fit_each_role() {
    for overlay in ["dev", "prod"] {
        for (role, container) in containers() {
            let config = config(role, &container, overlay);
            assert_eq!(config.warnings(), Vec::<String>::new(), "{overlay}: {role}");
        }
    }
}

#[test]
fn manifests_ports_are_those_of_settings() {
    for (role, container) in containers() {
        let config = config(role, &container, "dev");
        let ports = &config.settings.ports;
        let http = match role {
            "simulator" => Some(ports.http_port_supplier),
            "odds" => Some(ports.http_port_odds),
            "wallet" => Some(ports.http_port_wallet),
            "bets" => Some(ports.http_port_bet),
            "gateway" => Some(ports.http_port_gateway),
            _ => None,
        };
        let grpc = &config.settings.grpc;
        let grpc = match role {
            "odds" => Some(grpc.grpc_port_odds),
            "wallet" => Some(grpc.grpc_port_wallet),
            "bets" => Some(grpc.grpc_port_bets),
            _ => None,
        };
        let expected: BTreeSet<_> = http
            .map(|port| ("http", u64::from(port)))
            .into_iter()
            .chain(grpc.map(|port| ("grpc", u64::from(port))))
            .chain([("health", u64::from(health_port(role, &config)))])
            .collect();
        let declared: BTreeSet<_> = list(&container["ports"])
            .iter()
            .map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap()))
            .collect();
        assert_eq!(declared, expected, "{role}");
    }
}

#[actix_web::test]
async fn manifests_probes_are_answered() {
    let pod = objects(POD).remove(0);
    let container = &pod["spec"]["template"]["spec"]["containers"][0];
    let platform = TestPlatform::start(&[]).await;
    for probe in PROBES {
        let request = &container[probe]["httpGet"];
        assert_eq!(text(&request["port"]), "health", "{probe}");
        let path = text(&request["path"]);
        assert_eq!(path == "/livez", probe != "readinessProbe", "{probe}");
        for role in Role::ALL {
            let url = format!("http://{}{path}", platform.health(role));
            let (status, _) = get_text(&url).await;
            assert!([200, 503].contains(&status), "{probe}: {url}: {status}");
        }
    }
    platform.stop().await;
}

#[test]
fn manifests_run_as_user_of_image() {
    let user = image::user().parse::<u64>().unwrap();
    for path in [POD, "deploy/k8s/base/migrate.yaml"] {
        let spec = &objects(path).remove(0)["spec"]["template"]["spec"];
        let security = &spec["securityContext"];
        assert_eq!(security["runAsUser"].as_u64(), Some(user), "{path}");
        assert_eq!(security["runAsNonRoot"].as_bool(), Some(true), "{path}");
        assert_eq!(
            spec["enableServiceLinks"].as_bool(),
            Some(false),
            "{path}: a Service would be passed as variables"
        );
    }
}

/// What stops a pod is longer than the process takes to stop.
#[test]
fn grace_period_exceeds_shutdown() {
    let pod = objects(POD).remove(0);
    let grace = &pod["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    let grace = std::time::Duration::from_secs(grace.as_u64().unwrap());
    for (role, container) in containers() {
        let process = config(role, &container, "prod").settings.process;
        let stop = process.drain_delay + process.drain_spread + process.shutdown_timeout;
        assert!(grace > stop, "{role}: {stop:?}");
    }
}

/// All files of the kustomizations are used, and exist.
#[test]
fn kustomizations_name_each_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/k8s");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        folders.extend(entries.iter().filter(|path| path.is_dir()).cloned());
        let Ok(kustomization) = std::fs::read_to_string(folder.join("kustomization.yaml")) else {
            continue;
        };
        for path in entries.iter().filter(|path| path.is_file()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                name == "kustomization.yaml" || kustomization.contains(name),
                "{} is not used",
                path.display()
            );
        }
    }
}
