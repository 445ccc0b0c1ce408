use super::*;

fn parse(url: &str) -> Result<Address, String> {
    Address::parse(&SecretString::from(url), None).map_err(|error| error.to_string())
}

#[test]
fn urls_and_plain_addresses_are_parsed() {
    let address = parse("redis://me:s%40fe@redis.example:6380/3").unwrap();
    assert_eq!(
        (address.host.as_str(), address.port, address.login.db()),
        ("redis.example", 6380, 3)
    );
    assert_eq!(
        (address.login.username(), address.login.password()),
        (Some("me"), Some("s@fe"))
    );
    let address = parse("localhost:6379").unwrap();
    assert_eq!(
        (address.host.as_str(), address.port, address.tls.is_none()),
        ("localhost", 6379, true)
    );
    assert_eq!(parse("redis://[::1]").unwrap().host, "::1");
}

#[test]
fn bad_address_error_hides_password() {
    for bad in [
        "http://u:topsecret@host:1",
        "redis://u:topsecret@host:99999",
        "redis://u:topsecret@host/notanumber",
        "rediss://u:topsecret@host#insecure",
        "redis://",
        "u:topsecret@ho st",
        "redis://u:topsecret@0.0.0.0:6379",
        "redis://u:topsecret x@host",
        "redis://u:topsecret@x@host",
        "redis://u:1/topsecret@host",
        "redis://u:topsecret%@host",
        "redis://host?password=topsecret",
        "redis+unix:///run/redis.sock?pass=topsecret",
        "unix:///run/redis.sock?pass=topsecret",
        "u:topsecret@x@host:6379",
    ] {
        let error = parse(bad)
            .err()
            .unwrap_or_else(|| panic!("{bad} was accepted"));
        assert!(
            error.starts_with("REDIS_URL: ") && !error.contains("topsecret"),
            "{error}"
        );
    }
    let missing = Address::parse(
        &SecretString::from("rediss://host"),
        Some(Path::new("/no/such.pem")),
    );
    let missing = missing
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        missing.starts_with("REDIS_CA_FILE /no/such.pem: "),
        "{missing}"
    );
}

#[test]
fn echoed_password_is_redacted() {
    let address = parse("redis://:topsecret@host").unwrap();
    let error =
        address.unavailable("unknown command `HELLO`, with args `3` `AUTH` `default` `topsecret`");
    assert!(!error.to_string().contains("topsecret"), "{error}");
}

#[test]
fn truncated_error_hides_password() {
    let text = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'tops";
    assert_eq!(without_arguments(text), "ERR unknown command 'HELLO'");
}

/// A server that echoes its input in the error, as old versions do.
async fn echo() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut sent = vec![0; 4096];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut sent)
                .await
                .unwrap_or(0);
            let words = String::from_utf8_lossy(&sent[..read]).replace(['\r', '\n'], " ");
            let answer = format!("-ERR unknown command {words}\r\n").repeat(4);
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
        }
    });
    address
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    /// redis-rs errors about a server that echoes the login, and about one that is unreachable,
    /// contain no password.
    #[test]
    fn library_errors_contain_no_password(password in "[ -~é]{1,20}", with_user in proptest::bool::ANY) {
        let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let user = if with_user { "me" } else { "" };
        let messages = runtime.block_on(async {
            let mut messages = Vec::new();
            for place in [echo().await.to_string(), "127.0.0.1:9".to_owned()] {
                let address = parse(&format!("redis://{user}:{encoded}@{place}/1")).unwrap();
                assert_eq!(address.login.password(), Some(password.as_str()));
                messages.push(address.connect(AsyncConnectionConfig::new()).await.err().unwrap().to_string());
            }
            messages
        });
        if password.chars().count() >= 4 {
            let shows = messages.iter().any(|message| message.contains(&password));
            proptest::prop_assert!(!shows, "{messages:?}");
        }
    }

    #[test]
    fn parse_errors_contain_no_password(before in "[ -~]{0,4}", after in "[ -~]{0,4}") {
        let password = format!("{before}Secret{after}");
        for url in [format!("redis://u:{password}@h"), format!("u:{password}@h:1"), format!("redis://h/{password}"),
            format!("redis://h?password={password}"), format!("redis://:{password}")] {
            if let Err(error) = parse(&url) {
                proptest::prop_assert!(!error.contains("Secret"), "{error}");
            }
        }
    }
}
