//! Opening handshakes as required by RFC 6455.

use pretty_assertions::assert_eq;
use rstest::rstest;

use super::start;
use crate::support::raw_request;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket";

#[rstest]
#[case::as_it_should_be(101, "1.1", &[UPGRADE, VERSION, KEY])]
#[case::version_8(426, "1.1", &[UPGRADE, "Sec-WebSocket-Version: 8", KEY])]
#[case::version_empty(426, "1.1", &[UPGRADE, "Sec-WebSocket-Version: ", KEY])]
#[case::no_version(400, "1.1", &[UPGRADE, KEY])]
#[case::two_versions(400, "1.1", &[UPGRADE, VERSION, "Sec-WebSocket-Version: 8", KEY])]
#[case::no_key(400, "1.1", &[UPGRADE, VERSION])]
#[case::short_key(400, "1.1", &[UPGRADE, VERSION, "Sec-WebSocket-Key: c2hvcnQ="])]
#[case::long_key(400, "1.1", &[UPGRADE, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBpcyBsb25n"])]
#[case::no_base64(400, "1.1", &[UPGRADE, VERSION, "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="])]
#[case::two_keys(400, "1.1", &[UPGRADE, VERSION, KEY, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="])]
#[case::old_http(400, "1.0", &[UPGRADE, VERSION, KEY])]
#[case::other_upgrade(400, "1.1", &["Connection: Upgrade\r\nUpgrade: notwebsocket", VERSION, KEY])]
#[case::other_connection(400, "1.1", &["Connection: notupgrade\r\nUpgrade: websocket", VERSION, KEY])]
#[case::two_hosts(400, "1.1", &["Host: other.example", UPGRADE, VERSION, KEY])]
#[actix_web::test]
async fn handshakes_are_strict(
    #[case] status: u16,
    #[case] version: &str,
    #[case] headers: &[&str],
) {
    let (platform, _supplier) = start(&[]).await;
    let address = platform.odds();
    let request = format!(
        "GET /ws/odds HTTP/{version}\r\nHost: {address}\r\n{}\r\n\r\n",
        headers.join("\r\n")
    );
    let answer = raw_request(address, &request).await;
    assert!(
        answer.starts_with(&format!("HTTP/{version} {status} ")),
        "{answer}"
    );
    let offers = answer.to_lowercase().contains("sec-websocket-version: 13");
    assert_eq!(offers, status == 426, "{answer}");
}

/// The second origin is foreign: a browser never sends two.
#[actix_web::test]
async fn two_origin_headers_are_rejected() {
    let (platform, _supplier) = start(&[]).await;
    let address = platform.odds();
    let request = format!(
        "GET /ws/odds HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nOrigin: https://evil.example\r\n\
         {UPGRADE}\r\n{VERSION}\r\n{KEY}\r\n\r\n"
    );
    let answer = raw_request(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[actix_web::test]
async fn simulator_handshakes_are_strict_too() {
    let platform = crate::support::TestPlatform::start(&[("ROLE", "simulator")]).await;
    let address = platform.simulator();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\nSec-WebSocket-Version: 8\r\n{KEY}\r\n\r\n"
    );
    let answer = raw_request(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}
