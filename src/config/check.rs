//! Checks across settings. Every check runs, so all errors are reported at once.

pub(super) mod access;

use std::collections::BTreeSet;

use super::input::{ConfigError, ConfigExit, ConfigInput};
use super::settings::{
    BusSettings, GatewaySettings, GrpcSettings, OddsFeed, Role, Settings, SupplierSettings,
    TlsSettings,
};
use super::values::supplier_url;
use super::{Config, DEFAULT_SUPPLIER, Suppliers, engines};
use crate::domain::odds::failover::MAX_SOURCES;
use crate::runtime::tls::server::ServerCertificate;

/// Checks the settings against each other and chooses suppliers and engines.
pub(super) fn check(settings: Settings, input: ConfigInput) -> Result<Config, ConfigExit> {
    let roles = roles_of(&settings);
    let mut wrong = input.wrong.clone();
    wrong.extend(orders(&settings, &input));
    wrong.extend(amounts(&settings, &input));
    wrong.extend(equal_names(&settings, &input));
    wrong.extend(priority(&settings.suppliers, &input));
    wrong.extend(certificate(&roles, &settings.tls, &input));
    if settings.cache.odds_feed == OddsFeed::Kafka && settings.bus.kafka_brokers.is_none() {
        wrong.push(input.error("ODDS_FEED", "auto or redis, or KAFKA_BROKERS"));
    }
    wrong.extend(equal_ports(&roles, &settings, &input));
    wrong.extend(access::access(&roles, &settings, &input));
    wrong.extend(gateway(&roles, &settings.gateway, &input));
    let engines = engines::choose(&settings, &input)
        .map_err(|errors| wrong.extend(errors))
        .ok();
    if let Some(engines) = engines
        .as_ref()
        .filter(|_| !input.wrong.iter().any(|error| error.variable == "ROLE"))
    {
        wrong.extend(engines::split_roles(&roles, engines, &input));
    }
    let suppliers = suppliers(&roles, &settings.suppliers, &input)
        .map_err(|error| wrong.push(error))
        .ok();
    match (engines, suppliers) {
        (Some(engines), Some(suppliers)) if wrong.is_empty() => Ok(Config {
            roles,
            suppliers,
            engines,
            settings,
            shown: input.settings,
        }),
        _ => Err(ConfigExit::Wrong(wrong)),
    }
}

fn roles_of(settings: &Settings) -> BTreeSet<Role> {
    if settings.roles.is_empty() {
        BTreeSet::from(Role::ALL)
    } else {
        settings.roles.iter().copied().collect()
    }
}

/// Checks durations that must be smaller than another one.
fn orders(settings: &Settings, input: &ConfigInput) -> Vec<ConfigError> {
    let clients = &settings.clients;
    let suppliers = &settings.suppliers;
    let pairs: [Pair; 8] = [
        (
            settings.store.store_batch_wait < settings.process.shutdown_timeout,
            "STORE_BATCH_WAIT",
            "below",
            "SHUTDOWN_TIMEOUT",
        ),
        (
            clients.ws_ping_interval < clients.ws_silence_limit,
            "WS_PING_INTERVAL",
            "below",
            "WS_SILENCE_LIMIT",
        ),
        (
            suppliers.supplier_ping_interval < suppliers.supplier_read_timeout,
            "SUPPLIER_PING_INTERVAL",
            "below",
            "SUPPLIER_READ_TIMEOUT",
        ),
        (
            suppliers.supplier_ping_interval < suppliers.supplier_stale_after,
            "SUPPLIER_PING_INTERVAL",
            "below",
            "SUPPLIER_STALE_AFTER",
        ),
        (
            suppliers.supplier_reconnect_min <= suppliers.supplier_reconnect_max,
            "SUPPLIER_RECONNECT_MIN",
            "at most",
            "SUPPLIER_RECONNECT_MAX",
        ),
        (
            settings.confirmation.bet_confirm_timeout <= settings.money.bet_confirm_deadline,
            "BET_CONFIRM_TIMEOUT",
            "at most",
            "BET_CONFIRM_DEADLINE",
        ),
        (
            settings.confirmation.bet_confirm_retry_min
                <= settings.confirmation.bet_confirm_retry_max,
            "BET_CONFIRM_RETRY_MIN",
            "at most",
            "BET_CONFIRM_RETRY_MAX",
        ),
        (
            settings.confirmation.bet_confirm_retry_min < settings.money.bet_confirm_deadline,
            "BET_CONFIRM_RETRY_MIN",
            "below",
            "BET_CONFIRM_DEADLINE",
        ),
    ];
    compare("duration", &pairs, input)
}

/// Checks amounts that must be smaller than another one.
fn amounts(settings: &Settings, input: &ConfigInput) -> Vec<ConfigError> {
    let money = &settings.money;
    let least = money.bet_min_stake_cents;
    let most = money.bet_max_stake_cents;
    let pairs = [
        (
            least <= most,
            "BET_MIN_STAKE_CENTS",
            "at most",
            "BET_MAX_STAKE_CENTS",
        ),
        // A payout is always higher than its stake.
        (
            least < money.bet_max_payout_cents,
            "BET_MIN_STAKE_CENTS",
            "below",
            "BET_MAX_PAYOUT_CENTS",
        ),
    ];
    compare("number of cents", &pairs, input)
}

/// Whether the relation holds, the first variable, the required relation, the second variable.
type Pair = (bool, &'static str, &'static str, &'static str);

/// Reports the pairs whose relation does not hold. A pair with a value that could not be parsed is
/// skipped: it already has an error.
fn compare(what: &str, pairs: &[Pair], input: &ConfigInput) -> Vec<ConfigError> {
    let is_reported = |variable: &str| input.wrong.iter().any(|error| error.variable == variable);
    pairs
        .iter()
        .filter(|(holds, lower, _, upper)| !holds && !is_reported(lower) && !is_reported(upper))
        .map(|(_, lower, relation, upper)| {
            // If only the upper one was set, the error names that one.
            let (variable, relation, other) =
                match (*relation, input.is_set(lower), input.is_set(upper)) {
                    ("below", false, true) => (upper, "above", lower),
                    (_, false, true) => (upper, "at least", lower),
                    (relation, ..) => (lower, relation, upper),
                };
            let value = input
                .setting(other)
                .map_or("", |setting| setting.value.as_str());
            input.error(
                variable,
                format!("a {what} {relation} {other}, which is {value}"),
            )
        })
        .collect()
}

/// The order of priority names each source once, and not more than a market has.
fn priority(settings: &SupplierSettings, input: &ConfigInput) -> Option<ConfigError> {
    let listed = &settings.supplier_priority;
    let distinct: BTreeSet<_> = listed.iter().collect();
    (distinct.len() < listed.len() || listed.len() > MAX_SOURCES).then(|| {
        let want = format!("a list of at most {MAX_SOURCES} names, each once, with commas");
        input.error("SUPPLIER_PRIORITY", want)
    })
}

/// A certificate needs its key, and both files must be usable if a role needs them.
fn certificate(
    roles: &BTreeSet<Role>,
    settings: &TlsSettings,
    input: &ConfigInput,
) -> Option<ConfigError> {
    let has_certificate = settings.tls_cert_file.is_some();
    let missing = match (has_certificate, settings.tls_key_file.is_some()) {
        (true, false) => Some(("TLS_CERT_FILE", "it unset, or TLS_KEY_FILE set too")),
        (false, true) => Some(("TLS_KEY_FILE", "it unset, or TLS_CERT_FILE set too")),
        (false, false) if settings.tls_client_ca_file.is_some() => Some((
            "TLS_CLIENT_CA_FILE",
            "it unset, or TLS_CERT_FILE and TLS_KEY_FILE set",
        )),
        _ => None,
    };
    if let Some((variable, want)) = missing {
        return Some(input.error(variable, want));
    }
    let has_clients = Role::WITH_CLIENTS.iter().any(|role| roles.contains(role));
    let files = settings.files().filter(|_| has_clients)?;
    let error = ServerCertificate::load(files).err()?;
    let want = format!("{} ({})", error.want, error.cause);
    Some(input.error(error.variable, want))
}

/// Topics must differ, or records of one kind would be read as another. Groups must differ, or two
/// readers would share the records that each needs in full.
fn equal_names(settings: &Settings, input: &ConfigInput) -> Vec<ConfigError> {
    let bus = &settings.bus;
    let dead_letters = bus.dead_letter_topic();
    let topics = topics(bus, &dead_letters);
    let groups = [
        ("KAFKA_GROUP_LIVE", bus.kafka_group_live.as_str()),
        ("KAFKA_GROUP_STORE", &bus.kafka_group_store),
        ("KAFKA_GROUP_SELECTOR", &bus.kafka_group_selector),
        ("KAFKA_GROUP_CONFIRMATION", &bus.kafka_group_confirmation),
        ("KAFKA_GROUP_SETTLEMENT", &bus.kafka_group_settlement),
    ];
    let equal = |names: &[(&'static str, &str)], what: &str| -> Vec<ConfigError> {
        let place_of_equal = |place: usize| {
            names[..place]
                .iter()
                .find(|(_, other)| *other == names[place].1)
        };
        (1..names.len())
            .filter_map(|place| {
                let ((earlier, _), (later, _)) = (place_of_equal(place)?, names[place]);
                let is_earlier = input.is_set(earlier) && !input.is_set(later);
                let (variable, other) = if is_earlier {
                    (*earlier, later)
                } else {
                    (later, *earlier)
                };
                Some(input.error(variable, format!("a {what} different from {other}")))
            })
            .collect()
    };
    let mut wrong = equal(&topics, "topic name");
    wrong.extend(equal(&groups, "group name"));
    wrong
}

/// All topics, by setting.
fn topics<'a>(bus: &'a BusSettings, dead_letters: &'a str) -> [(&'static str, &'a str); 12] {
    [
        ("KAFKA_TOPIC_ODDS", bus.kafka_topic_odds.as_str()),
        ("KAFKA_TOPIC_SUPPLIERS", &bus.kafka_topic_suppliers),
        ("KAFKA_TOPIC_SOURCE_STATUS", &bus.kafka_topic_source_status),
        (
            "KAFKA_TOPIC_MARKET_RESULTS",
            &bus.kafka_topic_market_results,
        ),
        ("KAFKA_TOPIC_BET_PLACED", &bus.kafka_topic_bet_placed),
        ("KAFKA_TOPIC_BET_CONFIRMED", &bus.kafka_topic_bet_confirmed),
        ("KAFKA_TOPIC_BET_SETTLED", &bus.kafka_topic_bet_settled),
        ("KAFKA_TOPIC_ODDS_DLQ", dead_letters),
        (
            "KAFKA_TOPIC_MARKET_RESULTS_DLQ",
            &bus.kafka_topic_market_results_dlq,
        ),
        (
            "KAFKA_TOPIC_BET_PLACED_DLQ",
            &bus.kafka_topic_bet_placed_dlq,
        ),
        (
            "KAFKA_TOPIC_BET_CONFIRMED_DLQ",
            &bus.kafka_topic_bet_confirmed_dlq,
        ),
        (
            "KAFKA_TOPIC_BET_SETTLED_DLQ",
            &bus.kafka_topic_bet_settled_dlq,
        ),
    ]
}

/// The ports that the roles of this process listen on.
pub(crate) fn ports_of(roles: &BTreeSet<Role>, settings: &Settings) -> Vec<(&'static str, u16)> {
    let ports = &settings.ports;
    let all = [
        (Role::Odds, "HTTP_PORT_ODDS", ports.http_port_odds),
        (
            Role::Simulator,
            "HTTP_PORT_SUPPLIER",
            ports.http_port_supplier,
        ),
        (
            Role::Simulator,
            "METRICS_PORT_SUPPLIER",
            ports.metrics_port_supplier,
        ),
        (Role::Odds, "METRICS_PORT_ODDS", ports.metrics_port_odds),
        (
            Role::Ingest,
            "METRICS_PORT_INGEST",
            ports.metrics_port_ingest,
        ),
        (
            Role::Processor,
            "METRICS_PORT_PROCESSOR",
            ports.metrics_port_processor,
        ),
        (Role::Wallet, "HTTP_PORT_WALLET", ports.http_port_wallet),
        (
            Role::Wallet,
            "METRICS_PORT_WALLET",
            ports.metrics_port_wallet,
        ),
        (Role::Bets, "HTTP_PORT_BET", ports.http_port_bet),
        (Role::Bets, "METRICS_PORT_BET", ports.metrics_port_bet),
        (
            Role::Confirmation,
            "METRICS_PORT_CONFIRMATION",
            ports.metrics_port_confirmation,
        ),
        (
            Role::Settlement,
            "METRICS_PORT_SETTLEMENT",
            ports.metrics_port_settlement,
        ),
        (Role::Gateway, "HTTP_PORT_GATEWAY", ports.http_port_gateway),
        (
            Role::Gateway,
            "METRICS_PORT_GATEWAY",
            ports.metrics_port_gateway,
        ),
    ];
    let grpc = grpc_ports(&settings.grpc)
        .into_iter()
        .filter(|_| settings.grpc.grpc);
    all.into_iter()
        .chain(grpc)
        .filter(|(role, ..)| roles.contains(role))
        .map(|(_, variable, port)| (variable, port))
        .collect()
}

/// The gRPC port of each role that has one.
pub(crate) fn grpc_ports(grpc: &GrpcSettings) -> [(Role, &'static str, u16); 3] {
    [
        (Role::Odds, "GRPC_PORT_ODDS", grpc.grpc_port_odds),
        (Role::Wallet, "GRPC_PORT_WALLET", grpc.grpc_port_wallet),
        (Role::Bets, "GRPC_PORT_BETS", grpc.grpc_port_bets),
    ]
}

/// Checks the addresses that the gateway forwards to, and its timeouts.
fn gateway(
    roles: &BTreeSet<Role>,
    settings: &GatewaySettings,
    input: &ConfigInput,
) -> Vec<ConfigError> {
    if !roles.contains(&Role::Gateway) {
        return Vec::new();
    }
    let timeouts = (
        settings.gateway_connect_timeout <= settings.gateway_answer_timeout,
        "GATEWAY_CONNECT_TIMEOUT",
        "at most",
        "GATEWAY_ANSWER_TIMEOUT",
    );
    let is_reported = |variable: &str| input.wrong.iter().any(|error| error.variable == variable);
    let missing = settings
        .services()
        .into_iter()
        .filter(|(role, variable, url)| {
            !roles.contains(role) && url.is_none() && !is_reported(variable)
        })
        .map(|(role, variable, _)| {
            let want = format!(
                "an address like http://host:port, or \"{}\" in ROLE: the gateway forwards to it",
                role.name()
            );
            input.error(variable, want)
        });
    compare("duration", &[timeouts], input)
        .into_iter()
        .chain(missing)
        .collect()
}

fn equal_ports(
    roles: &BTreeSet<Role>,
    settings: &Settings,
    input: &ConfigInput,
) -> Vec<ConfigError> {
    let ports = ports_of(roles, settings);
    let mut wrong = Vec::new();
    for (place, (later, port)) in ports.iter().enumerate() {
        let earlier = ports
            .iter()
            .take(place)
            .find(|(_, other)| other == port && *port != 0);
        let Some((earlier, _)) = earlier else {
            continue;
        };
        let (variable, other) = if input.is_set(earlier) && !input.is_set(later) {
            (earlier, later)
        } else {
            (later, earlier)
        };
        wrong.push(input.error(
            variable,
            format!("a port different from {other}, or 0 for a free one"),
        ));
    }
    wrong
}

fn suppliers(
    roles: &BTreeSet<Role>,
    settings: &SupplierSettings,
    input: &ConfigInput,
) -> Result<Suppliers, ConfigError> {
    if !settings.supplier_urls.is_empty() {
        return Ok(Suppliers::At(settings.supplier_urls.clone()));
    }
    match &settings.supplier_ws_url {
        Some(url) => Ok(Suppliers::At(vec![url.clone()])),
        None if roles.contains(&Role::Simulator) => Ok(Suppliers::OwnSimulator),
        None => supplier_url(DEFAULT_SUPPLIER)
            .map(|url| Suppliers::At(vec![url]))
            .map_err(|want| input.error("SUPPLIER_URLS", want)),
    }
}

#[cfg(test)]
mod tests;
