//! Detects environment variables that look like misspelt settings, which would otherwise be ignored
//! silently. They cause warnings, never errors: a container's environment contains names that the
//! operator did not choose.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

use super::show;

/// Prefixes of setting names, up to and including the `_`.
const PREFIXES: [&str; 21] = [
    "AUTH_",
    "BET_",
    "BETFAIR_",
    "BUS_",
    "DATABASE_",
    "EMBEDDED_BUS_",
    "FEED_",
    "GATEWAY_",
    "HISTORY_",
    "HTTP_PORT_",
    "HTTP_WORKERS_",
    "KAFKA_",
    "LEDGER_",
    "METRICS_PORT_",
    "POSTGRES_DSN_",
    "REDIS_",
    "RESERVATION_",
    "SIMULATOR_",
    "STORE_",
    "SUPPLIER_",
    "WS_",
];
/// Names that other programs read: the PostgreSQL image, and Rust programs.
const OTHERS: [&str; 6] = [
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_DB",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "LOG_FILE",
];

/// A variable that is set and does not belong to any setting. Only its name is kept, because its
/// value may be secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubtful {
    name: String,
    /// The setting that was probably meant.
    meant: Option<String>,
}

impl fmt::Display for Doubtful {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_debug();
        match &self.meant {
            Some(meant) => write!(
                out,
                "{name} is not a setting and is ignored; did you mean {meant}?"
            ),
            None => write!(out, "{name} is not a setting and is ignored"),
        }
    }
}

/// The doubtful names among these, without duplicates and sorted.
pub fn doubtful(names: impl Iterator<Item = OsString>) -> Vec<Doubtful> {
    let known: BTreeSet<String> = show::variables().collect();
    let names: BTreeSet<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names
        .iter()
        .filter(|name| !known.contains(*name) && !is_of_others(name))
        .filter_map(|name| judge(name, &known))
        .collect()
}

fn judge(name: &str, known: &BTreeSet<String>) -> Option<Doubtful> {
    let upper = name.to_ascii_uppercase();
    let meant = nearest(&upper, known);
    let has_prefix = PREFIXES.iter().any(|prefix| upper.starts_with(prefix));
    (meant.is_some() || has_prefix).then(|| Doubtful {
        name: name.to_owned(),
        meant,
    })
}

/// Whether the name belongs to another program. Kubernetes gives every container the addresses of
/// its services in such variables, and a service may be called `redis` or `kafka`.
fn is_of_others(name: &str) -> bool {
    let is_link = ["_SERVICE_HOST", "_SERVICE_PORT"]
        .iter()
        .any(|end| name.ends_with(end))
        || name.contains("_SERVICE_PORT_")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            let before = name.find(protocol).and_then(|place| name.get(..place));
            before
                .and_then(|before| before.rsplit_once("_PORT_"))
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        });
    is_link || OTHERS.contains(&name)
}

/// The known name within a small edit distance, or with the same words in another order.
fn nearest(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let most = if name.len() < 16 { 1 } else { 2 };
    let near = known
        .iter()
        .map(|other| (strsim::osa_distance(name, other), other));
    let near = near.filter(|(distance, _)| *distance <= most).min();
    let words = |name: &str| name.split('_').map(str::to_owned).collect::<BTreeSet<_>>();
    let same_words = || known.iter().find(|other| words(other) == words(name));
    near.map(|(_, other)| other).or_else(same_words).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(names: &[&str]) -> Vec<String> {
        doubtful(names.iter().map(OsString::from))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn misspelt_name_suggests_setting() {
        for (name, meant) in [
            ("KAFKA_BROKER", "KAFKA_BROKERS"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("HTTP_ODDS_PORT", "HTTP_PORT_ODDS"),
            ("ROLES", "ROLE"),
            ("redis_url", "REDIS_URL"),
            ("SUPPLIER_STALE_AFTERR", "SUPPLIER_STALE_AFTER"),
            ("BET_MIN_STAKE_CENT", "BET_MIN_STAKE_CENTS"),
            ("BETFAIR_APPKEY", "BETFAIR_APP_KEY"),
        ] {
            let wanted = format!("{name} is not a setting and is ignored; did you mean {meant}?");
            assert_eq!(warnings(&[name]), [wanted]);
        }
    }

    #[test]
    fn unknown_name_with_prefix_is_reported() {
        for name in [
            "KAFKA_RETENTION",
            "REDIS_PORT",
            "REDIS_PASSWORD",
            "SIMULATOR_COLOUR",
            "WS_COLOUR",
        ] {
            assert_eq!(
                warnings(&[name]),
                [format!("{name} is not a setting and is ignored")]
            );
        }
    }

    #[test]
    fn names_of_other_programs_are_ignored() {
        let of_others = [
            "PATH",
            "HOME",
            "LANG",
            "TERM",
            "USER",
            "RUST_BACKTRACE",
            "HTTP_PROXY",
            "POSTGRES_PASSWORD",
            "PGPASSWORD",
            "REDIS_SERVICE_HOST",
            "REDIS_SERVICE_PORT",
            "REDIS_SERVICE_PORT_TLS",
            "REDIS_PORT_6379_TCP",
            "REDIS_PORT_6379_TCP_ADDR",
            "KAFKA_PORT_9092_TCP_PROTO",
            "NO_COLOR",
            "HOSTNAME",
            "CARGO_HOME",
        ];
        assert_eq!(warnings(&of_others), [""; 0]);
        let known: Vec<String> = show::variables().collect();
        assert_eq!(
            warnings(&known.iter().map(String::as_str).collect::<Vec<_>>()),
            [""; 0]
        );
    }

    #[test]
    fn every_misspelt_setting_is_noticed() {
        for name in show::variables() {
            let slipped = format!("{}X", name);
            assert_eq!(warnings(&[&slipped]).len(), 1, "{slipped}");
        }
    }
}
