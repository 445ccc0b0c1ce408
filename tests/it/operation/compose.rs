//! `docker/compose.yaml`, interpreted as compose does, and `scripts/compose-secrets`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pretty_assertions::assert_eq;
use serde_norway::Value;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::settings::Role;

use super::file;

/// The passwords of the engines and of Grafana.
pub const PASSWORDS: [&str; 6] = [
    "POSTGRES_PASSWORD",
    "POSTGRES_OWNER_PASSWORD",
    "POSTGRES_APP_PASSWORD",
    "REDIS_PASSWORD",
    "KAFKA_PASSWORD",
    "GRAFANA_PASSWORD",
];
/// Fixed by compose: published ports, health checks and Prometheus rely on these.
const FIXED: [&str; 4] = ["BIND_ADDRESS", "HTTP_PORT_", "METRICS_PORT_", "GRPC_PORT_"];

pub type Variables = BTreeMap<String, String>;

/// What docker/.env or the shell must set: a password for each login, and nothing else.
pub fn passwords() -> Variables {
    PASSWORDS
        .into_iter()
        .map(|name| (name.to_owned(), format!("{}-pw", name.to_lowercase())))
        .collect()
}

/// The services, with their merge keys resolved.
pub fn services() -> serde_norway::Mapping {
    let mut compose: Value = serde_norway::from_str(&file("docker/compose.yaml")).unwrap();
    // Once per level: a merged value may contain a merge key itself.
    compose.apply_merge().unwrap();
    compose.apply_merge().unwrap();
    compose["services"].as_mapping().unwrap().clone()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => serde_norway::to_string(other).unwrap().trim().to_owned(),
    }
}

/// The environment of a service, before interpolation.
pub fn environment(services: &serde_norway::Mapping, service: &str) -> Variables {
    let environment = services[service]["environment"].as_mapping().unwrap();
    environment
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Replaces `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, also inside defaults, as compose
/// does.
pub fn interpolated(value: &str, set: &Variables) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        text += before;
        let mut depth = 1;
        let end = after.char_indices().find_map(|(place, letter)| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(place)
        });
        let inside = &after[..end.unwrap()];
        let (name, otherwise) = inside.split_once(':').unwrap_or((inside, "-"));
        match (
            set.get(name).filter(|value| !value.is_empty()),
            otherwise.split_at(1),
        ) {
            (Some(value), _) => text += value,
            (None, ("-", default)) => text += &interpolated(default, set)?,
            (None, (_, message)) => return Err(format!("{name}: {message}")),
        }
        rest = &after[end.unwrap() + 1..];
    }
    Ok(text + rest)
}

/// The environment of a role's container.
pub fn environment_of(role: &str, set: &Variables) -> Result<Variables, String> {
    let all = environment(&services(), role).into_iter();
    let all = all
        .map(|(name, value)| Ok((name, interpolated(&value, set)?)))
        .collect::<Result<Variables, String>>()?;
    Ok(all
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect())
}

fn settings() -> Vec<String> {
    let example = file(".env.example");
    let names = example
        .lines()
        .filter_map(|line| Some(line.strip_prefix('#')?.split_once('=')?.0.to_owned()));
    names
        .filter(|name| {
            name.chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_')
        })
        .collect()
}

#[test]
fn every_setting_reaches_every_role() {
    let services = services();
    let settings = settings();
    assert!(settings.len() > 90, "{settings:?}");
    for role in Role::ALL.map(Role::name) {
        let environment = environment(&services, role);
        let is_fixed = |name: &str| FIXED.iter().any(|fixed| name.starts_with(fixed));
        // The role is set by the command instead.
        for name in settings
            .iter()
            .filter(|name| *name != "ROLE" && !is_fixed(name))
        {
            let value = environment
                .get(name)
                .unwrap_or_else(|| panic!("{name} does not reach {role}"));
            assert!(
                value.starts_with(&format!("${{{name}:-")),
                "{role}: {name}: {value}"
            );
        }
        for name in environment.keys() {
            let is_known = settings.contains(name)
                || PASSWORDS.contains(&name.as_str())
                || name == "HEALTH_PORT";
            assert!(is_known, "{role}: {name} is not a setting");
        }
        let env_file = &services[role]["env_file"][0];
        assert_eq!(
            (text(&env_file["path"]), text(&env_file["required"])),
            (".env".into(), "false".into()),
            "{role}"
        );
        assert_eq!(
            services[role]["command"]
                .as_sequence()
                .unwrap()
                .last()
                .map(text),
            Some(role.to_owned())
        );
    }
}

#[test]
fn composed_roles_accept_their_settings() {
    let mut set = passwords();
    set.insert("BETFAIR_MARKET_IDS".to_owned(), "1.23".to_owned());
    let defaults = Config::from_variables(&[]).unwrap().settings.ports;
    for role in Role::ALL.map(Role::name) {
        let mut variables = environment_of(role, &set).unwrap();
        assert_eq!(
            variables.get("BETFAIR_MARKET_IDS").map(String::as_str),
            Some("1.23"),
            "{role}"
        );
        let leaked: Vec<_> = variables
            .keys()
            .filter(|name| PASSWORDS.contains(&name.as_str()))
            .collect();
        assert!(leaked.is_empty(), "{role} receives {leaked:?}");
        let health = variables.remove("HEALTH_PORT").unwrap();
        variables.insert("ROLE".to_owned(), role.to_owned());
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let config =
            Config::from_variables(&variables).unwrap_or_else(|wrong| panic!("{role}: {wrong}"));
        assert_eq!(
            format!("{:?}", config.settings.ports),
            format!("{defaults:?}"),
            "{role}"
        );
        let port = super::health_port(role, &config);
        assert_eq!(health, port.to_string(), "{role}: the health check");
    }
}

#[test]
fn no_login_has_a_default_password() {
    let compose = file("docker/compose.yaml");
    for name in PASSWORDS {
        assert!(
            !compose.contains(&format!("{name}:-")),
            "{name} has a default"
        );
        let mut set = passwords();
        set.remove(name);
        // Compose interpolates the whole file at once, so one missing password stops every service.
        let lines = compose
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let refused = interpolated(&lines.collect::<Vec<_>>().join("\n"), &set).unwrap_err();
        assert!(
            refused.starts_with(name) && refused.contains("scripts/compose-secrets"),
            "{refused}"
        );
    }
}

#[test]
fn every_container_has_a_memory_limit() {
    let services = services();
    assert!(services.len() > 12);
    for (name, service) in &services {
        let limit = interpolated(&text(&service["mem_limit"]), &Variables::new()).unwrap();
        assert!(limit.ends_with(['m', 'g']), "{}: {limit}", text(name));
    }
}

#[test]
fn compose_engines_require_logins() {
    let services = services();
    let kafka = environment(&services, "kafka");
    assert_eq!(
        kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"],
        "INTERNAL:SASL_PLAINTEXT,HOST:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
    );
    assert!(
        kafka["KAFKA_LISTENERS"].contains("CONTROLLER://127.0.0.1:"),
        "only the node itself reaches the controller"
    );
    let roles = environment_of("wallet", &passwords()).unwrap();
    assert!(
        roles["DATABASE_URL"].starts_with("postgres://sports_bet_app:"),
        "not the owner of the tables"
    );
    let migrate = environment(&services, "migrate");
    assert!(
        interpolated(&migrate["DATABASE_URL"], &passwords())
            .unwrap()
            .contains("//sports_bet_owner:")
    );
    assert_eq!(text(&services["migrate"]["command"][0]), "migrate");
}

#[test]
fn generated_secrets_are_random_and_kept() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join(".env");
    // Without a final newline, and with one password already set.
    std::fs::write(
        &path,
        "BETFAIR_MARKET_IDS=1.2\nREDIS_PASSWORD=mine\nKAFKA_PASSWORD=\nRUST_LOG=debug",
    )
    .unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/compose-secrets");
    let run = || {
        assert!(
            Command::new(&script)
                .arg(&path)
                .output()
                .unwrap()
                .status
                .success()
        );
        std::fs::read_to_string(&path).unwrap()
    };
    let first = run();
    assert_eq!(run(), first, "a second run changes nothing");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // The last line of a name wins.
    let set: Variables = first
        .lines()
        .map(|line| {
            line.split_once('=')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .unwrap()
        })
        .collect();
    assert_eq!(
        (set["REDIS_PASSWORD"].as_str(), set["RUST_LOG"].as_str()),
        ("mine", "debug")
    );
    let drawn: Vec<_> = PASSWORDS
        .iter()
        .filter(|name| **name != "REDIS_PASSWORD")
        .map(|name| &set[*name])
        .collect();
    let is_random =
        |text: &&&String| text.len() == 48 && text.chars().all(|letter| letter.is_ascii_hexdigit());
    assert_eq!(drawn.iter().filter(is_random).count(), 5, "{first}");
    assert_eq!(
        drawn
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        5,
        "{first}"
    );
    assert!(environment_of("odds", &set).is_ok());
}
