//! `sports-bet watch` over TLS.

use pretty_assertions::assert_eq;

use super::*;
use crate::support::LoggedChild;

/// `watch` of an event, which trusts the authorities in this file.
fn watch(folder: &TempDir, server: &ServerProcess, authorities: &Path) -> LoggedChild {
    let url = format!("wss://{}/ws/odds", server.odds());
    let nothing = folder.path().join("data");
    let variables = [
        ("SSL_CERT_FILE", authorities.to_str().unwrap()),
        ("SSL_CERT_DIR", nothing.to_str().unwrap()),
    ];
    LoggedChild::start(command(folder.path(), &variables).args([
        "watch",
        "MATCH_001",
        "--url",
        &url,
    ]))
}

#[tokio::test]
async fn watch_trusts_authorities_of_file() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    let watch = watch(&folder, &server, &authority.file("ca.pem"));
    let lines = |out: &str| {
        out.lines()
            .filter(|line| line.contains("MATCH_001"))
            .count()
    };
    watch.until_printed(|out| lines(out) > 2).await;
    let log = watch.log();
    assert!(!log.contains("certificate"), "{log}");
}

#[tokio::test]
async fn watch_of_untrusted_server_ends() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    let stranger = Authority::new();
    for (authorities, cause) in [
        (
            stranger.file("ca.pem"),
            "not trusted: invalid peer certificate: ",
        ),
        (
            folder.path().join("none.pem"),
            "no native root CA certificates found",
        ),
    ] {
        let watch = watch(&folder, &server, &authorities);
        assert_eq!(watch.ended().await.code(), Some(1));
        let log = watch.log();
        let error = format!(
            "wss://{}/ws/odds: the server's certificate is not trusted: ",
            server.odds()
        );
        assert!(
            log.contains(&error) && log.contains(cause) && log.contains("SSL_CERT_FILE"),
            "{log}"
        );
    }
}
