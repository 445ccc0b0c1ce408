//! Which web pages may open a socket.

use std::net::SocketAddr;

use pretty_assertions::assert_eq;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{start, until_total};
use crate::support::within;

/// The status of the handshake response and the error code in its body.
async fn handshake(address: SocketAddr, headers: &[&str]) -> String {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    let request = format!(
        "GET /ws/odds HTTP/1.1\r\n{headers}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        text.split_once("\r\n\r\n")
            .is_some_and(|(head, body)| head.contains(" 101 ") || body.ends_with('}'))
    };
    within("the answer to a handshake", async {
        while !is_whole(&answer) {
            assert!(
                stream.read_buf(&mut answer).await.unwrap() > 0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    })
    .await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text
        .split_once("\"code\":\"")
        .map_or("", |(_, rest)| rest.split('"').next().unwrap_or(""));
    format!("{} {code}", text.split(' ').nth(1).unwrap())
        .trim()
        .to_owned()
}

#[rstest]
#[case("odds.example:443", "https://odds.example", "101")]
#[case("odds.example", "https://odds.example", "101")]
#[case("odds.example", "https://odds.example:443", "101")]
#[case("odds.example:80", "http://odds.example", "101")]
#[case("odds.example", "http://odds.example:80", "101")]
#[case("ODDS.example:443", "https://odds.EXAMPLE", "101")]
#[case("odds.example.:443", "https://odds.example", "101")]
#[case("odds.example:8443", "https://odds.example:8443", "101")]
#[case("[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080", "101")]
#[case("odds.example:8443", "https://odds.example", "403 ORIGIN_NOT_ALLOWED")]
#[case("odds.example", "https://odds.example:8443", "403 ORIGIN_NOT_ALLOWED")]
#[case("odds.example:80", "https://odds.example", "403 ORIGIN_NOT_ALLOWED")]
#[case("odds.example:443", "http://odds.example", "403 ORIGIN_NOT_ALLOWED")]
#[case(
    "odds.example",
    "https://odds.example.evil.example",
    "403 ORIGIN_NOT_ALLOWED"
)]
#[case("odds.example", "https://evil.example", "403 ORIGIN_NOT_ALLOWED")]
#[case("odds.example", "null", "403 ORIGIN_NOT_ALLOWED")]
#[case("a@odds.example", "https://odds.example", "400 BAD_REQUEST")]
#[actix_web::test]
async fn origin_may_name_default_port(
    #[case] host: &str,
    #[case] origin: &str,
    #[case] expected: &str,
) {
    let (platform, _supplier) = start(&[]).await;
    let answer = handshake(
        platform.odds(),
        &[&format!("Host: {host}"), &format!("Origin: {origin}")],
    )
    .await;
    assert_eq!(answer, expected);
}

#[actix_web::test]
async fn foreign_page_opens_no_socket() {
    let (platform, _supplier) = start(&[("ALLOWED_ORIGINS", "https://shop.example")]).await;
    let host = format!("Host: {}", platform.odds());
    let own = format!("Origin: http://{}", platform.odds());
    let refused: &[&[&str]] = &[
        &[
            "Origin: https://evil.example",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Mode: websocket",
        ],
        &["Sec-Fetch-Site: cross-site"],
        &[&own, "Sec-Fetch-Site: cross-site"],
        &["Origin: http://shop.example"],
    ];
    for headers in refused {
        let headers: Vec<_> = [host.as_str()]
            .into_iter()
            .chain(headers.iter().copied())
            .collect();
        assert_eq!(
            handshake(platform.odds(), &headers).await,
            "403 ORIGIN_NOT_ALLOWED",
            "{headers:?}"
        );
    }
    until_total(&platform, "odds_ws_refused_upgrades_total", 4.0).await;
    assert_eq!(
        handshake(
            platform.odds(),
            &[&host, &own, "Origin: https://evil.example"]
        )
        .await,
        "400 BAD_REQUEST"
    );
    let allowed: &[&[&str]] = &[
        &[],
        &[&own, "Sec-Fetch-Site: same-origin"],
        &["Origin: https://shop.example", "Sec-Fetch-Site: cross-site"],
        &["Origin: https://Shop.Example:443"],
    ];
    for headers in allowed {
        let headers: Vec<_> = [host.as_str()]
            .into_iter()
            .chain(headers.iter().copied())
            .collect();
        assert_eq!(
            handshake(platform.odds(), &headers).await,
            "101",
            "{headers:?}"
        );
    }
}

/// Odds that are not public are protected from DNS rebinding like money.
#[actix_web::test]
async fn private_odds_accept_no_foreign_host() {
    let private = [
        ("AUTH", "required"),
        ("AUTH_JWT_SECRET", "a secret of 32 bytes or more, for tests"),
        ("ODDS_PUBLIC", "false"),
    ];
    let (platform, _supplier) = start(&private).await;
    let answer = handshake(platform.odds(), &["Host: evil.example"]).await;
    assert_eq!(answer, "421 HOST_NOT_ALLOWED");
    let answer = handshake(platform.odds(), &["Host: localhost"]).await;
    assert_eq!(answer, "101");
}

/// The odds port checks the Host header as soon as allowed hosts are configured.
#[actix_web::test]
async fn only_allowed_hosts_connect() {
    let (platform, _supplier) = start(&[("ALLOWED_HOSTS", "odds.example, other.example")]).await;
    for host in [
        "odds.example:443",
        "Other.Example",
        "127.0.0.1",
        "odds:8080",
    ] {
        assert_eq!(
            handshake(platform.odds(), &[&format!("Host: {host}")]).await,
            "101",
            "{host}"
        );
    }
    for host in [
        "evil.example",
        "sub.odds.example",
        "odds.example.evil.example:443",
    ] {
        let answer = handshake(platform.odds(), &[&format!("Host: {host}")]).await;
        assert_eq!(answer, "421 HOST_NOT_ALLOWED", "{host}");
    }
}
