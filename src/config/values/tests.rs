use super::*;
use proptest::prelude::*;

#[test]
fn supplier_needs_scheme_host_and_port() {
    for good in [
        "ws://h",
        "wss://h/ws",
        "betfair://h:1",
        "betfairs://h:443",
        " ws://h ",
    ] {
        assert!(supplier_url(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "h:1",
        "http://h",
        "ws://",
        "betfair://h",
        "betfair://:1",
        "betfair:h:1",
        "betfair://h:0",
    ] {
        assert!(supplier_url(bad).is_err(), "{bad}");
    }
    let url = supplier_url("wss://user:hunter2@host:1/ws?token=hunter2").unwrap();
    assert_eq!(
        format!("{url:?} {url}"),
        "Endpoint(wss://host:1/ws) wss://host:1/ws"
    );
}

/// They would match nothing, or everything.
#[test]
fn origins_without_effect_are_refused() {
    for bad in [
        "https://*.example.com",
        "https://*",
        "https://a.*:8443",
        "null",
        "https://%2A.a.com",
    ] {
        let (loose, exact) = (origin(bad).unwrap_err(), exact_origin(bad).unwrap_err());
        assert!(loose.starts_with("* or an origin like"), "{bad}: {loose}");
        assert!(exact.starts_with("an origin like"), "{bad}: {exact}");
        assert!(!exact.contains("* or"), "{bad}: {exact}");
    }
    assert_eq!(origin("*").as_deref(), Ok("*"));
    let any = exact_origin(" * ").unwrap_err();
    assert!(any.ends_with("* would let any page move money"), "{any}");
}

#[test]
fn proxies_are_networks_of_clients_addresses() {
    for (text, read) in [
        ("10.0.0.1", "10.0.0.1/32"),
        (" 10.0.0.0/8 ", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::1", "::1/128"),
        ("128.0.0.0/1", "128.0.0.0/1"),
    ] {
        assert_eq!(
            network(text).map(|network| network.to_string()).as_deref(),
            Ok(read)
        );
    }
    for all in ["0.0.0.0/0", "::/0", "10.0.0.0/0", "::ffff:0.0.0.0/96"] {
        assert!(
            network(all).unwrap_err().contains("no client is limited"),
            "{all}"
        );
    }
    for bad in ["", "proxy.example", "10.0.0.0/33"] {
        assert!(
            network(bad)
                .unwrap_err()
                .starts_with("an address or a network"),
            "{bad}"
        );
    }
}

#[test]
fn origin_is_normalized_like_in_browsers() {
    for (text, read) in [
        ("*", "*"),
        ("https://Example.com:443/", "https://example.com"),
        (" http://localhost:3000", "http://localhost:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ] {
        assert_eq!(origin(text).as_deref(), Ok(read));
    }
    for bad in [
        "",
        "example.com",
        "https://",
        "https://a/b",
        "https://a?b",
        "https://a#b",
        "https://u@a",
        "**",
    ] {
        assert!(origin(bad).is_err(), "{bad}");
    }
}

#[test]
fn match_lasts_from_a_second_to_a_day() {
    for (text, seconds) in [("0s", 0), ("1s", 1), ("5m", 300), ("24h", 86_400)] {
        assert_eq!(match_duration(text), Ok(Duration::from_secs(seconds)));
    }
    for text in ["999ms", "1us", "24h1s", "5", "-1s", ""] {
        assert!(match_duration(text).is_err(), "{text}");
    }
}

#[test]
fn duration_needs_unit_and_has_maximum() {
    assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    assert!(duration("30").is_err());
    assert!(duration("101years").is_err());
    assert!(duration_above_zero("0s").is_err());
    assert!(duration_above_zero("0").is_err());
    assert!(duration_above_a_second("1s").is_err() && duration_above_a_second("1001ms").is_ok());
    assert!(
        duration_from_two_seconds("1999ms").is_err() && duration_from_two_seconds("2s").is_ok()
    );
}

#[test]
fn numbers_have_minimum_and_maximum() {
    assert_eq!(whole(1_usize, 10)("10"), Ok(10));
    assert_eq!(
        whole(1_usize, 10)("0"),
        Err("a whole number from 1 to 10".to_owned())
    );
    assert!(whole(1_usize, 10)("11").is_err());
    assert!(size(ByteSize::kib(1), ByteSize::mib(16))("16MiB").is_ok());
    assert_eq!(
        size(ByteSize::kib(1), ByteSize::mib(16))("17MiB").unwrap_err(),
        "a size from 1.0 KiB to 16.0 MiB, like 65536, 64KiB or 1MiB"
    );
    assert!(rate("0.5").is_ok());
    for bad in ["0", "-1", "NaN", "inf", "1e7"] {
        assert!(rate(bad).is_err(), "{bad}");
    }
    assert_eq!(
        (share("0"), share("0.25"), share("1")),
        (Ok(0.0), Ok(0.25), Ok(1.0))
    );
    for bad in ["-0.1", "1.1", "NaN", "20%", ""] {
        assert!(share(bad).is_err(), "{bad}");
    }
    assert!(topic("odds_updates").is_ok());
    assert!(topic("odds updates").is_err());
}

proptest! {
    #[test]
    fn random_text_never_panics(text in ".{0,40}") {
        let _ = (supplier_url(&text), origin(&text), duration(&text), rate(&text), topic(&text), http_url(&text), service_url(&text));
        let _ = (size(ByteSize::b(1), ByteSize::gib(1))(&text), log_filter(&text), ip_address(&text));
    }
}

#[test]
fn service_addresses_are_bare() {
    for good in ["http://odds:8080", "https://odds", "http://[::1]:80/"] {
        assert!(service_url(good).is_ok(), "{good}");
    }
    for bad in [
        "odds:8080",
        "ws://odds",
        "http://odds/v1",
        "http://odds?a=b",
        "http://u:hunter2@odds",
        "http://u@odds",
        "",
    ] {
        let error = service_url(bad).unwrap_err();
        assert!(
            error.starts_with("an address like http://host:port") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[test]
fn server_addresses_may_have_credentials() {
    assert_eq!(
        http_url("https://u:hunter2@h/x").unwrap().to_string(),
        "https://h/x"
    );
    for bad in [
        "ftp://h",
        "http://h?token=hunter2",
        "http://u:hunter2 x@h",
        "u:hunter2@h",
        "http://a%3Ab:hunter2@h",
    ] {
        assert!(!http_url(bad).unwrap_err().contains("hunter2"));
    }
    assert_eq!(
        websocket_url("ws://u:hunter2@h/ws?x=1")
            .unwrap()
            .to_string(),
        "ws://h/ws"
    );
    for bad in [
        "foo",
        "127.0.0.1:8080",
        "localhost:8080/ws/odds",
        "http://u:hunter2@h",
        "",
    ] {
        let error = websocket_url(bad).unwrap_err();
        assert!(
            error.starts_with("a ws:// or wss:// address") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[test]
fn collector_has_no_login() {
    for good in [
        "http://collector:4318",
        "https://host/otlp",
        "http://[::1]:4318/",
    ] {
        assert!(collector_url(good).is_ok(), "{good}");
    }
    for wrong in [
        "collector:4318",
        "grpc://host:4317",
        "http://u:p@host",
        "http://host/?a=1",
        "",
    ] {
        assert!(collector_url(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn resource_attributes_are_decoded() {
    let read = |text: &str| text.parse::<ResourceAttributes>().map(|it| it.0);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(read(""), Ok(vec![]));
    let several = read("a=1, b.c = x%2Cy%20z,d=");
    assert_eq!(
        several,
        Ok(vec![pair("a", "1"), pair("b.c", "x,y z"), pair("d", "")])
    );
    for wrong in ["a", "=1", "a=%ff", "a=%00", "a=1,b"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn service_name_is_short_and_visible() {
    assert!(service_name("sports-bet-odds").is_ok());
    for wrong in ["", "a\nb", &"x".repeat(129)] {
        assert!(service_name(wrong).is_err(), "{wrong}");
    }
}
