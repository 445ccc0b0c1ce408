//! Where the server is, and as whom to log in: read far enough to refuse at once what can never connect, and to know
//! that no text of libpq's will show a part of the password.

use secrecy::{ExposeSecret, SecretString};

use super::StoreError;

/// Every parameter of libpq, which is compiled in. It refuses others, and so does this, at start and not at each connect.
const KEYWORDS: &str =
    " application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval
    krbsrvname load_balance_hosts max_protocol_version min_protocol_version options passfile password port replication
    require_auth requirepeer requiressl scram_client_key scram_server_key service sslcert sslcertmode sslcompression
    sslcrl sslcrldir sslkey sslkeylogfile ssl sslmode sslnegotiation sslpassword sslrootcert sslsni
    ssl_max_protocol_version ssl_min_protocol_version target_session_attrs tcp_user_timeout user
    oauth_issuer oauth_client_id oauth_client_secret oauth_scope ";

/// Used where the address does not say otherwise: libpq takes the last value of a parameter, and these stand first.
/// Without them a server that vanished is noticed after two hours.
const DEFAULTS: [(&str, &str); 5] = [
    ("connect_timeout", "3"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

/// Reads an address, a URL or libpq's `host=… user=…`, and gives it back as libpq reads it, with defaults for what it
/// does not say. No error repeats any part of it.
pub(super) fn connection_string(address: &SecretString, application: &str) -> Result<SecretString, StoreError> {
    let text = address.expose_secret().trim();
    let application: String = application
        .chars()
        .map(|one| if one.is_ascii_alphanumeric() || "-_.".contains(one) { one } else { '_' })
        .collect();
    let defaults = DEFAULTS.into_iter().chain([("fallback_application_name", application.as_str())]);
    let defaults: Vec<_> = defaults.map(|(key, value)| format!("{key}={value}")).collect();
    let whole = match text.split_once("://") {
        Some(("postgres" | "postgresql", rest)) => {
            let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
            check_place(place)?;
            check_query(query)?;
            format!("postgresql://{place}?{}&{query}", defaults.join("&")).trim_end_matches('&').to_owned()
        }
        _ => {
            check_pairs(text)?;
            format!("{} {text}", defaults.join(" "))
        }
    };
    Ok(whole.into())
}

/// Whether an address is meant for PostgreSQL.
pub(super) fn is_postgres(address: &str) -> bool {
    let address = address.trim();
    address.starts_with("postgres://") || address.starts_with("postgresql://") || check_pairs(address).is_ok()
}

/// Checks `user:password@host:port,host:port/database`. A password with a bare `@`, `/`, `?` or `#` would have libpq
/// take its end for a host or a port, and repeat that in its errors.
fn check_place(place: &str) -> Result<(), StoreError> {
    check_encoding(place)?;
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let hosts = authority.split_once('@').map_or(authority, |(_, hosts)| hosts);
    if hosts.contains('@') || database.contains('@') {
        return Err(bad("it holds more than one `@`; within user, password and database it is written %40"));
    }
    for host in hosts.split(',') {
        let behind_brackets = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
        if behind_brackets.split_once(':').is_some_and(|(_, port)| !port.is_empty() && port.parse::<u16>().is_err()) {
            return Err(bad(
                "what stands as port is no number of a port; within user and password `/` is written %2F, \
                 `?` %3F, `#` %23 and `:` %3A",
            ));
        }
    }
    Ok(())
}

fn check_query(query: &str) -> Result<(), StoreError> {
    check_encoding(query)?;
    for (index, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        check_parameter(index, key, value)?;
    }
    Ok(())
}

/// libpq repeats text around a `%` that is not followed by two digits.
fn check_encoding(text: &str) -> Result<(), StoreError> {
    let is_encoded = |behind: &str| behind.len() >= 2 && behind.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    let fine = text.split('%').skip(1).all(|behind| is_encoded(behind) && !behind.starts_with("00"));
    if fine { Ok(()) } else { Err(bad("a `%` is not followed by two digits of a character; itself it is written %25")) }
}

/// Checks `key = value` pairs by libpq's rules: white space around `=`, values in single quotes, `\` before a quote.
fn check_pairs(text: &str) -> Result<(), StoreError> {
    let mut characters = text.chars().peekable();
    for index in 0.. {
        while characters.next_if(|one| one.is_ascii_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return if index == 0 { Err(bad("it is empty")) } else { Ok(()) };
        }
        let mut key = String::new();
        while let Some(one) = characters.next_if(|one| *one != '=' && !one.is_ascii_whitespace()) {
            key.push(one);
        }
        while characters.next_if(|one| one.is_ascii_whitespace()).is_some() {}
        if characters.next() != Some('=') {
            return Err(bad(
                "it is no URL, and not all of it is `keyword=value`; a value with white space stands in '…'",
            ));
        }
        while characters.next_if(|one| one.is_ascii_whitespace()).is_some() {}
        let quoted = characters.next_if_eq(&'\'').is_some();
        let (mut value, mut closed) = (String::new(), !quoted);
        while let Some(one) = characters.next_if(|one| quoted || !one.is_ascii_whitespace()) {
            match one {
                '\\' => value.extend(characters.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                other => value.push(other),
            }
        }
        if !closed {
            return Err(bad("a value's closing quote is missing"));
        }
        check_parameter(index, &key, &value)?;
    }
    Ok(())
}

/// Names the parameter by its place: what stands there may be the end of a password.
fn check_parameter(index: usize, key: &str, value: &str) -> Result<(), StoreError> {
    let is_word = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !is_word || !KEYWORDS.split_ascii_whitespace().any(|known| known == key) {
        return Err(bad(&format!("its parameter {} is none that PostgreSQL's client library knows", index + 1)));
    }
    let has_tls = cfg!(any(feature = "tls-system", feature = "tls-vendored"));
    if key == "sslmode" && !has_tls && matches!(value, "require" | "verify-ca" | "verify-full") {
        return Err(bad(
            "`sslmode` wants TLS, and this program was built without; build it with `--features tls-vendored`",
        ));
    }
    let is_bad_number = ["port", "connect_timeout", "tcp_user_timeout"].contains(&key)
        && value.split(',').any(|one| !one.is_empty() && one.trim().parse::<i32>().is_err());
    if is_bad_number { Err(bad(&format!("the value of `{key}` is no number"))) } else { Ok(()) }
}

fn bad(why: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "the address is not one of PostgreSQL: {why}; wanted is postgres://user:password@host:5432/database, or \
         host=… port=… user=… password=… dbname=…"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const OURS: &str = "connect_timeout=3 keepalives_idle=10 keepalives_interval=5 keepalives_count=3 \
                        tcp_user_timeout=15000 fallback_application_name=sports-bet";

    fn read(address: &str) -> Result<String, StoreError> {
        let whole = connection_string(&address.to_owned().into(), "sports-bet")?;
        Ok(whole.expose_secret().to_owned())
    }

    #[rstest]
    #[case("postgres://odds:secret@db:5432/odds", "postgresql://odds:secret@db:5432/odds?{}")]
    #[case("postgresql://db/odds?connect_timeout=9", "postgresql://db/odds?{}&connect_timeout=9")]
    #[case("postgres://", "postgresql://?{}")]
    #[case("postgres:///odds?host=/var/run/postgresql", "postgresql:///odds?{}&host=/var/run/postgresql")]
    #[case("postgres://u:p%40ss%2F@[::1]:5432,db:/odds", "postgresql://u:p%40ss%2F@[::1]:5432,db:/odds?{}")]
    #[case(" postgres://u:a:b@db/odds ", "postgresql://u:a:b@db/odds?{}")]
    fn a_url_gets_the_defaults_in_front_of_its_own(#[case] address: &str, #[case] whole: &str) {
        assert_eq!(read(address), Ok(whole.replace("{}", &OURS.replace(' ', "&"))));
        assert!(is_postgres(address));
    }

    #[rstest]
    #[case("host=db port=5432 user=odds password=secret dbname=odds sslmode=disable")]
    #[case("host = db  password = 'it\\'s = here'")]
    #[case("user=odds password=")]
    fn so_do_keywords(#[case] address: &str) {
        assert_eq!(read(address), Ok(format!("{OURS} {address}")));
        assert!(is_postgres(address));
    }

    #[rstest]
    #[case("postgres://odds:hunter2@x@db/odds", "more than one `@`")]
    #[case("postgres://odds:1/hunter2@db/odds", "more than one `@`")]
    #[case("postgres://odds:hunter2/x@db/odds", "more than one `@`")]
    #[case("postgres://odds:hunter2/x", "number of a port")]
    #[case("postgres://odds:hunter2?x@db", "number of a port")]
    #[case("postgres://odds:1?hunter2@db", "parameter 1")]
    #[case("postgres://odds:hunter2%@db", "%25")]
    #[case("postgres://odds:x@db:hunter2/odds", "number of a port")]
    #[case("postgres://db/odds?port=hunter2", "`port` is no number")]
    #[case("postgres://db/odds?pool_max_conns=3", "parameter 1")]
    #[case("mysql://odds:hunter2@db/odds", "not all of it")]
    #[case("host=db password=a hunter2", "not all of it")]
    #[case("host=db password=a hunter2=x", "parameter 3")]
    #[case("host=db password='hunter2", "closing quote")]
    #[case("data/sports-bet.db", "not all of it")]
    #[case("", "is empty")]
    fn what_cannot_connect_is_refused_without_its_password(#[case] address: &str, #[case] why: &str) {
        let error = read(address).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
    }

    #[cfg(not(any(feature = "tls-system", feature = "tls-vendored")))]
    #[test]
    fn without_tls_an_address_that_wants_it_is_refused() {
        for address in ["postgres://db/odds?sslmode=require", "host=db sslmode=verify-full"] {
            assert!(read(address).unwrap_err().to_string().contains("--features tls-vendored"), "{address}");
        }
        assert!(read("postgres://db/odds?sslmode=prefer").is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_but_never_panics(text in "(postgres://)?.{0,40}") {
            let _ = read(&text);
        }

        #[test]
        fn no_error_shows_the_password(password in "[a-z0-9@/?#:%=& ']{0,6}hunter2[a-z0-9@/?#:%=& ']{0,6}") {
            for address in [format!("postgres://odds:{password}@db/odds"), format!("host=db password={password} user=u")] {
                if let Err(error) = read(&address) {
                    prop_assert!(!error.to_string().contains("hunter2"), "{}", error);
                }
            }
        }
    }
}
