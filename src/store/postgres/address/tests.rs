use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::address::postgres::{is_postgres, shown};

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
    if pairs.contains("require") && cfg!(not(any(feature = "tls-system", feature = "tls-vendored")))
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
