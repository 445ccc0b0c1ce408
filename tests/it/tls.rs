//! TLS on the ports for clients.

mod limits;
mod reload;
mod watch;

use std::net::SocketAddr;
use std::path::Path;

use pretty_assertions::assert_eq;
use rustls::{ProtocolVersion, version};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::support::{
    Authority, OddsClient, ServerProcess, borrowed, command, get_text, metric, raw, raw_request,
    until, within,
};

/// A server with a certificate of the authority.
async fn start(folder: &TempDir, authority: &Authority, more: &[(&str, &str)]) -> ServerProcess {
    ServerProcess::start(folder.path(), &borrowed(&authority.settings(more))).await
}

fn ports_for_clients(server: &ServerProcess) -> [SocketAddr; 3] {
    [server.odds(), server.wallet(), server.bets()]
}

/// A metric of the role `odds`.
async fn value(server: &ServerProcess, name: &str) -> f64 {
    let url = format!("http://{}/metrics", server.health["odds"]);
    metric(&get_text(&url).await.1, name).unwrap_or_default()
}

/// How many connections of the port for clients ended for this reason.
async fn ended(server: &ServerProcess, reason: &str) -> f64 {
    let name = format!(r#"odds_http_connections_ended_total{{port="rest",reason="{reason}"}}"#);
    value(server, &name).await
}

async fn until_ended(server: &ServerProcess, reason: &str) {
    until(reason, || async {
        (ended(server, reason).await > 0.0).then_some(())
    })
    .await;
}

/// Reads until the server ends the connection.
async fn rest_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let _ = within("the server ends it", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn every_port_for_clients_speaks_tls() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    let rest = authority.rest();
    let url = format!("https://{}/v1/events/MATCH_001/odds", server.odds());
    until("the first odds", || async {
        let answer = rest.get(&url).send().await.unwrap();
        answer.status().is_success().then_some(())
    })
    .await;
    let deposit = json!({"userId": "u", "amount_cents": 500, "external_ref": "d"});
    let url = format!("https://{}/wallet/deposit", server.wallet());
    let answer = rest.post(url).json(&deposit).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // Browsers are told so, but not for a name that all servers of a machine share.
    assert_eq!(
        answer.headers()["strict-transport-security"],
        "max-age=31536000"
    );
    let url = format!("https://localhost:{}/wallet", server.wallet().port());
    let answer = rest.get(url).send().await.unwrap();
    assert!(!answer.headers().contains_key("strict-transport-security"));
    let url = format!("https://{}/bets/none", server.bets());
    assert_eq!(rest.get(url).send().await.unwrap().status(), 404);
    let mut client = OddsClient::connect_tls(server.odds(), authority.client(None)).await;
    client.subscribe("MATCH_001").await;
    client.next_of("snapshot").await;
    client.next_of("update").await;
    // Health, metrics and the simulator stay as they are.
    for address in server.health.values() {
        assert_eq!(get_text(&format!("http://{address}/livez")).await.0, 200);
    }
    assert!(value(&server, "process_tls_certificate_not_after_seconds").await > 1.7e9);
    let log = server.log();
    let line = format!(
        "REST at https://{0}/v1/events, WebSocket at wss://{0}/ws/odds",
        server.odds()
    );
    assert!(log.contains(&line), "{log}");
    assert!(
        log.contains(&format!("simulator at ws://{}", server.simulator())),
        "{log}"
    );
}

#[tokio::test]
async fn both_versions_and_one_protocol_are_spoken() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    for (offered, negotiated) in [
        (&version::TLS12, ProtocolVersion::TLSv1_2),
        (&version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut client = authority.client_of(&[offered], None);
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(server.odds()).await.unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(client));
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(negotiated));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[tokio::test]
async fn plain_http_is_refused() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    for address in ports_for_clients(&server) {
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = raw_request(address, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains(r#""code":"TLS_REQUIRED""#),
            "{answer}"
        );
    }
    until_ended(&server, "plain_http").await;
}

#[tokio::test]
async fn failed_handshakes_are_counted() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    // A handshake record with rubbish.
    let answer = raw(server.odds(), b"\x16\x03\x01\x00\x05hello").await;
    assert!(!answer.contains("HTTP"), "{answer}");
    until_ended(&server, "handshake_failed").await;
    // A client that trusts another authority says so in an alert.
    let stranger = Authority::new();
    let url = format!("https://{}/v1/events", server.odds());
    assert!(stranger.rest().get(url).send().await.is_err());
    until("it is counted", || async {
        (ended(&server, "handshake_failed").await == 2.0).then_some(())
    })
    .await;
    // A probe that only connects is no failure.
    drop(TcpStream::connect(server.odds()).await.unwrap());
    drop(authority.connect(server.odds()).await);
    assert_eq!(ended(&server, "handshake_failed").await, 2.0);
}

#[tokio::test]
async fn client_authority_requires_certificates() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let ca = authority.file("ca.pem");
    let more = [("TLS_CLIENT_CA_FILE", ca.to_str().unwrap())];
    let server = start(&folder, &authority, &more).await;
    let url = format!("https://{}/v1/events", server.odds());
    assert!(authority.rest().get(&url).send().await.is_err());
    until_ended(&server, "handshake_failed").await;
    let own = authority.issue();
    let trusted = reqwest::Client::builder()
        .tls_backend_preconfigured(authority.client(Some(&own)))
        .no_proxy()
        .build()
        .unwrap();
    assert_eq!(trusted.get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn unusable_files_end_the_start() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let other = Authority::new();
    let other_key = other.file("key.pem");
    let cases = [
        (
            "TLS_KEY_FILE",
            other_key.to_str().unwrap(),
            "not that of the certificate",
        ),
        ("TLS_KEY_FILE", "/no/key.pem", "No such file"),
        ("TLS_CERT_FILE", "/no/cert.pem", "No such file"),
    ];
    for (variable, path, cause) in cases {
        for arguments in [&["serve"][..], &["check-config"]] {
            let settings = authority.settings(&[(variable, path)]);
            let output = command(folder.path(), &borrowed(&settings))
                .args(arguments)
                .output()
                .await
                .unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{text}");
            let line = format!("{variable}: got \"{path}\"");
            assert!(text.starts_with(&line) && text.contains(cause), "{text}");
        }
    }
}
