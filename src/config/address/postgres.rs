//! PostgreSQL addresses: a URL, or libpq's `host=... user=...`. They are parsed strictly, as libpq
//! splits them, in particular at the end of the password.

use super::{AddressError, check_ats, check_characters, decode};
use crate::telemetry::redact::MASK;

/// All parameters that the bundled libpq knows. It rejects any other; checking here reports this at
/// startup rather than at each connect.
const KEYWORDS: &str =
    " application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval
    krbsrvname load_balance_hosts max_protocol_version min_protocol_version options passfile password port replication
    require_auth requirepeer requiressl scram_client_key scram_server_key service sslcert sslcertmode sslcompression
    sslcrl sslcrldir sslkey sslkeylogfile ssl sslmode sslnegotiation sslpassword sslrootcert sslsni
    ssl_max_protocol_version ssl_min_protocol_version target_session_attrs tcp_user_timeout user
    oauth_issuer oauth_client_id oauth_client_secret oauth_scope ";

/// Parameters with a fixed set of values. libpq repeats an invalid value in its error.
const CHOICES: [(&str, &str); 7] = [
    (
        "sslmode",
        "disable allow prefer require verify-ca verify-full",
    ),
    ("sslnegotiation", "postgres direct"),
    ("sslcertmode", "disable allow require"),
    ("channel_binding", "disable prefer require"),
    ("gssencmode", "disable prefer require"),
    ("load_balance_hosts", "disable random"),
    (
        "target_session_attrs",
        "any read-write read-only primary standby prefer-standby",
    ),
];

/// Parameters with integer values.
const NUMBERS: [&str; 8] = [
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "sslcompression",
];

/// Whether an address is meant for PostgreSQL, valid or not.
pub(crate) fn is_postgres(address: &str) -> bool {
    let address = address.trim();
    let scheme = address
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme == "postgres" || scheme == "postgresql")
        || parameters(address).is_ok()
}

/// Validates an address. The error repeats no part of it.
pub(crate) fn check(address: &str) -> Result<(), AddressError> {
    parameters(address).map(drop)
}

/// The address without its secrets; `None` if it cannot be parsed.
pub(crate) fn shown(address: &str) -> Option<String> {
    let address = address.trim();
    parameters(address).ok()?;
    let Some((scheme, rest)) = address
        .split_once("://")
        .filter(|(scheme, _)| scheme.starts_with("postgres"))
    else {
        return Some(MASK.to_owned());
    };
    let (place, query) = rest
        .split_once('?')
        .map_or((rest, ""), |(place, _)| (place, "?***"));
    let place = match place.split_once('@') {
        Some((login, place)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{place}"),
            None => format!("{login}@{place}"),
        },
        None => place.to_owned(),
    };
    Some(format!("{scheme}://{place}{query}"))
}

/// The decoded parameters, in order.
#[derive(Default)]
pub(crate) struct Parameters(pub Vec<(String, String)>);

/// Parses an address, given as a URL or as libpq's `keyword=value` pairs.
pub(crate) fn parameters(address: &str) -> Result<Parameters, AddressError> {
    let address = address.trim();
    match address.split_once("://") {
        Some(("postgres" | "postgresql", rest)) => of_url(address, rest),
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Err(
            AddressError("its scheme is not postgres:// (in lower case)"),
        ),
        _ => of_pairs(address),
    }
}

impl Parameters {
    fn add(&mut self, key: &str, value: String) -> Result<(), AddressError> {
        if !KEYWORDS.split_ascii_whitespace().any(|known| known == key) {
            return Err(AddressError(
                "one of its parameters is unknown to PostgreSQL's client library",
            ));
        }
        let (key, value) = match (key, value.as_str()) {
            ("ssl", "true") => ("sslmode", "require".to_owned()),
            ("ssl", _) => return Err(AddressError("its `ssl` is not `true`; take `sslmode`")),
            _ => (key, value),
        };
        check_value(key, &value)?;
        self.0.push((key.to_owned(), value));
        Ok(())
    }
}

fn check_value(key: &str, value: &str) -> Result<(), AddressError> {
    let has_tls = cfg!(any(feature = "tls-system", feature = "tls-vendored"));
    if key == "sslmode" && !has_tls && matches!(value, "require" | "verify-ca" | "verify-full") {
        return Err(AddressError(
            "its `sslmode` requires TLS, which this build lacks; build with `--features tls-vendored`",
        ));
    }
    let choices = CHOICES.iter().find(|(known, _)| *known == key);
    if choices.is_some_and(|(_, choices)| !choices.split(' ').any(|choice| choice == value)) {
        return Err(AddressError(
            "a parameter has a value unknown to PostgreSQL's client library",
        ));
    }
    let is_number = |one: &str| one.is_empty() || one.trim().parse::<i32>().is_ok();
    if NUMBERS.contains(&key) && !value.split(',').all(is_number) {
        return Err(AddressError(
            "a numeric parameter such as `port` is not a number",
        ));
    }
    if ["host", "dbname", "user", "hostaddr"].contains(&key)
        && (value.contains("://") || value.contains('\n'))
    {
        return Err(AddressError("its host, user or database contains `://`"));
    }
    if key == "host" && !value.split(',').all(is_host) {
        return Err(AddressError(
            "its host contains a character that is invalid in host names",
        ));
    }
    Ok(())
}

/// A host name, an IP address, or the directory of a Unix socket.
fn is_host(host: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || ".-_:%".contains(letter);
    host.starts_with('/') || host.strip_prefix('@').unwrap_or(host).chars().all(is_name)
}

/// Parses `postgres://user:password@host:port,host:port/database?key=value`.
fn of_url(address: &str, rest: &str) -> Result<Parameters, AddressError> {
    check_characters(address)?;
    if rest.contains('#') {
        return Err(AddressError("it has a `#` (a literal one is %23)"));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    check_ats(authority, &format!("{database}{query}"))?;
    let mut parameters = Parameters::default();
    let (login, hosts) = authority.split_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (hosts, ports) = hosts_of(hosts)?;
    let decoded = [
        ("user", user),
        ("password", password),
        ("host", hosts.as_str()),
        ("dbname", database),
    ];
    for (key, value) in decoded.into_iter().filter(|(_, value)| !value.is_empty()) {
        parameters.add(key, decode(value)?)?;
    }
    if ports.contains(|one: char| one != ',') {
        parameters.add("port", ports)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or(AddressError("a part of its query has no `=`"))?;
        if value.contains('=') {
            return Err(AddressError(
                "a value of its query contains a `=` (a literal one is %3D)",
            ));
        }
        parameters.add(&decode(key)?, decode(value)?)?;
    }
    Ok(parameters)
}

/// Returns the hosts without brackets and their ports, both joined by commas.
fn hosts_of(text: &str) -> Result<(String, String), AddressError> {
    let bad_port = AddressError(
        "its port is not a number from 1 to 65535; within user and password write %2F for `/`, %3F for `?` and %40 for `@`",
    );
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for one in text.split(',') {
        let (host, rest) = match one.strip_prefix('[') {
            Some(bracketed) => bracketed
                .split_once(']')
                .ok_or(AddressError("a `]` is missing after its host"))?,
            None => one.split_at(one.find(':').unwrap_or(one.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => port,
            None if rest.is_empty() => "",
            None => {
                return Err(AddressError(
                    "a `]` of its host is followed by something other than a port",
                ));
            }
        };
        let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let is_port = is_digits && port.parse::<u16>().is_ok_and(|port| port > 0);
        if !port.is_empty() && !is_port {
            return Err(bad_port);
        }
        hosts.push(host);
        ports.push(port);
    }
    Ok((hosts.join(","), ports.join(",")))
}

/// Parses `key = value` pairs by libpq's rules: optional white space around `=`, values in single
/// quotes, quotes escaped by `\`.
fn of_pairs(text: &str) -> Result<Parameters, AddressError> {
    let mut parameters = Parameters::default();
    let mut characters = text.chars().peekable();
    if text.contains('\0') {
        return Err(AddressError("it contains NUL"));
    }
    while characters.peek().is_some() {
        let mut key = String::new();
        while let Some(one) = characters.next_if(|one| *one != '=' && !one.is_ascii_whitespace()) {
            key.push(one);
        }
        while characters
            .next_if(|one| one.is_ascii_whitespace())
            .is_some()
        {}
        if characters.next() != Some('=') {
            return Err(AddressError(
                "it is not a URL, and not all of it is `keyword=value`; put values with white space in single quotes",
            ));
        }
        while characters
            .next_if(|one| one.is_ascii_whitespace())
            .is_some()
        {}
        let value = value_of_pair(&mut characters)?;
        parameters.add(&key, value)?;
        while characters
            .next_if(|one| one.is_ascii_whitespace())
            .is_some()
        {}
    }
    if parameters.0.is_empty() {
        Err(AddressError("it is empty"))
    } else {
        Ok(parameters)
    }
}

fn value_of_pair(
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<String, AddressError> {
    let quoted = characters.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    while let Some(one) = characters.next_if(|one| quoted || !one.is_ascii_whitespace()) {
        match one {
            '\\' => value.extend(characters.next()),
            '\'' if quoted => return Ok(value),
            other => value.push(other),
        }
    }
    if quoted {
        Err(AddressError("a value's closing quote is missing"))
    } else {
        Ok(value)
    }
}
