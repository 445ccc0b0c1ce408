//! The address and login of the server. An address is parsed strictly and passed to libpq as
//! `key='value'` pairs, so that libpq splits it exactly as this parser does, in particular at the
//! end of the password. Errors of libpq pass through [`Redaction`].

use diesel::pg::PgConnection;
use diesel::prelude::*;
use secrecy::{ExposeSecret, SecretString};

use super::StoreError;
use crate::config::address::{AddressError, check_ats, check_characters, decode};
use crate::telemetry::redact::{MASK, Redaction};

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

/// Parameters whose values are secret or may contain a secret.
const SECRET: [&str; 6] = [
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
    "options",
];

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

/// Defaults for parameters that the address omits. Without them, a vanished server is noticed only
/// after two hours.
const DEFAULTS: [(&str, &str); 5] = [
    ("connect_timeout", "3"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

/// A server address, given as a URL or in libpq's `host=... user=...` format.
#[derive(Clone)]
pub(super) struct PgAddress {
    text: SecretString,
    has_options: bool,
    /// Lists several servers without saying which kind to choose.
    is_ambiguous: bool,
    redaction: Redaction,
}

impl std::fmt::Debug for PgAddress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PgAddress")
    }
}

impl PgAddress {
    /// Parses an address and adds defaults. Errors never repeat any part of the address.
    pub(super) fn parse(
        address: &SecretString,
        application: &str,
    ) -> Result<PgAddress, StoreError> {
        let parameters = parameters(address.expose_secret()).map_err(|error| refused(&error))?;
        let secrets = parameters
            .0
            .iter()
            .filter(|(key, _)| SECRET.contains(&key.as_str()));
        let redaction = Redaction::of(secrets.map(|(_, value)| value.as_str()));
        let application: String = application
            .chars()
            .map(|one| {
                if one.is_ascii_alphanumeric() || "-_.".contains(one) {
                    one
                } else {
                    '_'
                }
            })
            .collect();
        let defaults = DEFAULTS
            .into_iter()
            .chain([("fallback_application_name", application.as_str())]);
        let own = parameters
            .0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        // libpq uses the last value of a repeated parameter.
        let pairs: Vec<_> = defaults
            .chain(own)
            .map(|(key, value)| format!("{key}={}", quoted(value)))
            .collect();
        let has = |wanted: &str| parameters.0.iter().any(|(key, _)| key == wanted);
        let hosts = parameters
            .0
            .iter()
            .filter(|(key, _)| key == "host" || key == "hostaddr");
        let is_ambiguous =
            hosts.into_iter().any(|(_, value)| value.contains(',')) && !has("target_session_attrs");
        Ok(PgAddress {
            text: pairs.join(" ").into(),
            has_options: has("options"),
            is_ambiguous,
            redaction,
        })
    }

    /// The address, restricted to a server that accepts writes if it lists several. By default
    /// libpq takes the first one that answers.
    pub(super) fn writable(self) -> PgAddress {
        if !self.is_ambiguous || std::env::var_os("PGTARGETSESSIONATTRS").is_some() {
            return self;
        }
        let text = format!(
            "{} target_session_attrs='read-write'",
            self.text.expose_secret()
        );
        PgAddress {
            text: text.into(),
            is_ambiguous: false,
            ..self
        }
    }

    /// The address with command-line options for the server. `None` if the address has options,
    /// which take precedence.
    pub(super) fn with_options(&self, options: &str) -> Option<PgAddress> {
        let text = format!("{} options={}", self.text.expose_secret(), quoted(options));
        (!self.has_options).then(|| PgAddress {
            text: text.into(),
            ..self.clone()
        })
    }

    /// Connects. The error is libpq's text without credentials.
    pub(super) fn connect(&self) -> Result<PgConnection, String> {
        PgConnection::establish(self.text.expose_secret()).map_err(|error| self.redacted(&error))
    }

    /// The text of an error without credentials.
    pub(super) fn redacted(&self, error: &dyn std::fmt::Display) -> String {
        self.redaction.apply(&error.to_string())
    }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Whether an address is meant for PostgreSQL, valid or not.
pub(super) fn is_postgres(address: &str) -> bool {
    let address = address.trim();
    let scheme = address
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme == "postgres" || scheme == "postgresql")
        || parameters(address).is_ok()
}

/// Validates an address. The error repeats no part of it.
pub(super) fn check(address: &str) -> Result<(), AddressError> {
    parameters(address).map(drop)
}

/// The address without its secrets; `None` if it cannot be parsed.
pub(super) fn shown(address: &str) -> Option<String> {
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
struct Parameters(Vec<(String, String)>);

fn parameters(address: &str) -> Result<Parameters, AddressError> {
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
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
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

fn refused(error: &AddressError) -> StoreError {
    StoreError::Unavailable(format!(
        "not a PostgreSQL address: {error}; expected postgres://user:password@host:5432/database, or \
         host=... port=... user=... password=... dbname=..."
    ))
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const OURS: &str = "connect_timeout='3' keepalives_idle='10' keepalives_interval='5' keepalives_count='3' \
                        tcp_user_timeout='15000' fallback_application_name='sports-bet' ";

    fn read(address: &str) -> Result<String, StoreError> {
        let address = PgAddress::parse(&address.to_owned().into(), "sports-bet")?;
        Ok(address.text.expose_secret().replace(OURS, ""))
    }

    #[rstest]
    #[case(
        "postgres://odds:secret@db:5432/odds",
        "user='odds' password='secret' host='db' dbname='odds' port='5432'"
    )]
    #[case(
        "postgresql://db/odds?connect_timeout=9",
        "host='db' dbname='odds' connect_timeout='9'"
    )]
    #[case(
        "postgres:///odds?host=/var/run/postgresql",
        "dbname='odds' host='/var/run/postgresql'"
    )]
    #[case("postgres://%2Fvar%2Frun/odds", "host='/var/run' dbname='odds'")]
    #[case(
        "postgres://u:p%40ss%2F@[::1]:5432,db:/odds",
        "user='u' password='p@ss/' host='::1,db' dbname='odds' port='5432,'"
    )]
    #[case(
        " postgres://u:a:b'c@db/odds?password=x%5C ",
        r"user='u' password='a:b\'c' host='db' dbname='odds' password='x\\'"
    )]
    #[case("postgres://db?ssl=true", "host='db' sslmode='require'")]
    #[case(
        "host=db port=5432 user=odds password=secret",
        "host='db' port='5432' user='odds' password='secret'"
    )]
    #[case(
        "host = db  password = 'it\\'s = here'",
        r"host='db' password='it\'s = here'"
    )]
    #[case("user=odds password=", "user='odds' password=''")]
    #[case("password=a\\ b@c", "password='a b@c'")]
    fn address_becomes_quoted_pairs(#[case] address: &str, #[case] pairs: &str) {
        if pairs.contains("require")
            && cfg!(not(any(feature = "tls-system", feature = "tls-vendored")))
        {
            return;
        }
        assert_eq!(read(address), Ok(pairs.to_owned()));
        assert!(is_postgres(address));
    }

    #[rstest]
    #[case("postgres://odds:hunter2 x@db/odds", "white space")]
    #[case("postgres://odds:hunter2@x@db/odds", "an `@`")]
    #[case("postgres://odds:1/hunter2@db/odds", "an `@`")]
    #[case("postgres://odds:hunter2/x@db/odds", "an `@`")]
    #[case("postgres://odds:hunter2/x", "port is not a number")]
    #[case("postgres://odds:hunter2", "port is not a number")]
    #[case("postgres://odds:hunter2?x@db", "an `@`")]
    #[case("postgres://odds:hunter2#x@db", "a `#`")]
    #[case("postgres://odds:hunter2%@db", "%25")]
    #[case("postgres://odds:hunter2%zz@db", "%25")]
    #[case("postgres://odds:x@db:hunter2/odds", "port is not a number")]
    #[case("postgres://odds:x@d(hunter2/odds", "invalid in host names")]
    #[case("postgres://db/odds?port=hunter2", "is not a number")]
    #[case("postgres://db/odds?sslmode=hunter2", "unknown to PostgreSQL")]
    #[case("postgres://db/odds?hunter2", "no `=`")]
    #[case("postgres://db/odds?pool_max_conns=3", "unknown to PostgreSQL")]
    #[case("Postgres://odds:hunter2@db/odds", "lower case")]
    #[case("mysql://odds:hunter2@db/odds", "scheme")]
    #[case("postgres:odds:hunter2@db/odds", "not all of it")]
    #[case("odds:hunter2@db/odds", "not all of it")]
    #[case("\"postgres://odds:hunter2@db/odds\"", "not all of it")]
    #[case(
        "jdbc:postgresql://db/odds?user=u&password=hunter2",
        "unknown to PostgreSQL"
    )]
    #[case("host=db password=a hunter2", "not all of it")]
    #[case("host=db password=a hunter2=x", "unknown to PostgreSQL")]
    #[case("host=db password='hunter2", "closing quote")]
    #[case("dbname='postgres://u:hunter2@db/odds'", "`://`")]
    #[case("data/sports-bet.db", "not all of it")]
    #[case("", "is empty")]
    fn invalid_address_is_rejected_without_password(#[case] address: &str, #[case] why: &str) {
        let error = read(address).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        assert!(!shown(address).unwrap_or_default().contains("hunter2"));
    }

    #[cfg(not(any(feature = "tls-system", feature = "tls-vendored")))]
    #[test]
    fn tls_address_is_rejected_without_tls() {
        for address in [
            "postgres://db/odds?sslmode=require",
            "host=db sslmode=verify-full",
            "postgres://db?ssl=true",
        ] {
            assert!(
                read(address)
                    .unwrap_err()
                    .to_string()
                    .contains("--features tls-vendored"),
                "{address}"
            );
        }
        assert!(read("postgres://db/odds?sslmode=prefer").is_ok());
    }

    #[test]
    fn shown_address_has_no_secrets() {
        for (address, wanted) in [
            (
                "postgres://u:hunter2@db:1,[::1]/odds?sslpassword=hunter2",
                "postgres://u:***@db:1,[::1]/odds?***",
            ),
            ("postgres://u@db", "postgres://u@db"),
            ("host=db password=hunter2", "***"),
        ] {
            assert_eq!(shown(address).as_deref(), Some(wanted));
        }
    }

    /// A password in every form of an address, each escaped correctly.
    fn forms(password: &str) -> Vec<String> {
        let encoded = utf8_percent_encode(password, NON_ALPHANUMERIC).to_string();
        let quoted = quoted(password);
        vec![
            format!("postgres://u:{encoded}@127.0.0.1:9/x?connect_timeout=2"),
            format!("postgresql://u:{encoded}@127.0.0.1:9,[::1]:9/x"),
            format!("postgres://127.0.0.1:9/x?user=u&password={encoded}"),
            format!("postgres://u@127.0.0.1:9/x?sslpassword={encoded}&password={encoded}"),
            format!("postgres://u:{encoded}@%2Fno%2Fsuch%2Fdirectory/x"),
            format!("postgres://u:{encoded}@127.0.0.1:9/x?options={encoded}"),
            format!("host=127.0.0.1 port=9 user=u password={quoted}"),
            format!("host=/no/such/directory user=u password = {quoted} sslpassword={quoted}"),
        ]
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(postgres://)?.{0,40}") {
            let _ = (read(&text), shown(&text), is_postgres(&text));
        }

        #[test]
        fn parse_errors_never_show_password(password in "[ -~]{0,6}hunter2[ -~]{0,6}") {
            for address in [
                format!("postgres://odds:{password}@db/odds"),
                format!("host=db password={password} user=u"),
                format!("host=db user=u password='{password}'"),
                format!("postgres://db/odds?password={password}"),
                format!("postgres://db/odds?sslpassword={password}&user=u"),
                format!("odds:{password}@db/odds"),
                format!("\"postgres://odds:{password}@db/odds\""),
            ] {
                if let Err(error) = read(&address) {
                    prop_assert!(!error.to_string().contains("hunter2"), "{}", error);
                }
                prop_assert!(!shown(&address).unwrap_or_default().contains("hunter2"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// libpq parses every address that this parser produces, fails to connect, and its error
        /// does not contain the password.
        #[test]
        fn libpq_errors_never_show_password(password in "[\\x20-\\x7eäß€\\n\\t]{1,16}", place in 0_usize..8) {
            let form = &forms(&password)[place];
            let address = PgAddress::parse(&form.clone().into(), "test").unwrap();
            let message = address.connect().err().unwrap_or_default();
            prop_assert!(!message.is_empty(), "{form} connects");
            // libpq got as far as the network or the socket, so it parsed the address as intended.
            let withheld = message.starts_with("(text withheld");
            prop_assert!(withheld || message.contains("connection to server"), "{}", message);
            if password.chars().count() >= 4 {
                prop_assert!(!message.contains(&password), "{}", message);
            }
        }

        /// An address with an unescaped password is rejected, or libpq's error shows nothing of it.
        #[test]
        fn unescaped_password_is_never_shown(before in "[ -~]{0,4}", after in "[ -~]{0,4}") {
            let password = format!("{before}Secret{after}");
            for form in [
                format!("postgres://u:{password}@127.0.0.1:9/x"),
                format!("postgres://127.0.0.1:9/x?password={password}"),
                format!("host=127.0.0.1 port=9 password={password}"),
                format!("host=127.0.0.1 port=9 password='{password}'"),
            ] {
                let message = match PgAddress::parse(&form.clone().into(), "test") {
                    Ok(address) => address.connect().err().unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                prop_assert!(!message.contains("Secret"), "{form}: {message}");
            }
        }
    }

    #[test]
    fn several_hosts_require_a_writable_one() {
        let is_chosen = |address: &str| {
            let address = PgAddress::parse(&address.to_owned().into(), "test")
                .unwrap()
                .writable();
            address
                .text
                .expose_secret()
                .ends_with(" target_session_attrs='read-write'")
        };
        for several in [
            "postgresql://u:p@a:1,b:2/odds",
            "postgresql:///odds?host=a,b",
            "user=u host=a,b",
        ] {
            assert!(is_chosen(several), "{several}");
        }
        for unchanged in [
            "postgresql://u:p,q@a:1/odds",
            "host=a password=p,q",
            "host=a,b target_session_attrs=any",
            "host=a",
        ] {
            assert!(!is_chosen(unchanged), "{unchanged}");
        }
    }

    #[test]
    fn existing_options_are_kept() {
        let with = |address: &str| {
            let address = PgAddress::parse(&address.to_owned().into(), "test").unwrap();
            address
                .with_options("-c a.b=on -c c=1")
                .map(|address| address.text.expose_secret().to_owned())
        };
        for address in [
            "postgresql://db/odds?connect_timeout=3",
            "connect_timeout=3 host=db",
        ] {
            assert!(
                with(address)
                    .unwrap()
                    .ends_with(" options='-c a.b=on -c c=1'"),
                "{address}"
            );
        }
        assert_eq!(
            with("postgresql://db/odds?options=-c%20search_path%3Da"),
            None
        );
        assert_eq!(with("host=db options='-c search_path=a'"), None);
    }
}
