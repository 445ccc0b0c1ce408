//! The certificate is replaced while the server runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pretty_assertions::assert_eq;
use rustls::pki_types::CertificateDer;

use super::*;

/// The certificate that a new connection gets.
async fn shown(authority: &Authority, address: SocketAddr) -> CertificateDer<'static> {
    let stream = authority.connect(address).await;
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].clone().into_owned()
}

async fn until_shown(authority: &Authority, address: SocketAddr, wanted: &CertificateDer<'_>) {
    until("the new certificate", || async {
        (shown(authority, address).await == *wanted).then_some(())
    })
    .await;
}

/// Requests without a pause until `stop`, on one connection and on a new one for each request;
/// returns how many. Panics if one fails.
async fn load(authority: &Authority, address: SocketAddr, stop: &AtomicBool) -> usize {
    let url = format!("https://{address}/v1/events");
    let kept = authority.rest();
    let answers = AtomicUsize::new(0);
    let get = async |client: &reqwest::Client| {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
        answers.fetch_add(1, Ordering::Relaxed);
    };
    while !stop.load(Ordering::Relaxed) {
        get(&kept).await;
        get(&authority.rest()).await;
    }
    answers.into_inner()
}

#[tokio::test]
async fn certificate_is_replaced_under_load() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    let mut session = OddsClient::connect_tls(server.odds(), authority.client(None)).await;
    session.subscribe("MATCH_001").await;
    let stop = AtomicBool::new(false);
    let replacing = async {
        for _ in 0..3 {
            let next = authority.replace();
            for address in ports_for_clients(&server) {
                until_shown(&authority, address, &next).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    let loads = (0..4).map(|_| load(&authority, server.odds(), &stop));
    let (answers, ()) = tokio::join!(futures_util::future::join_all(loads), replacing);
    assert!(answers.iter().sum::<usize>() > 20, "{answers:?}");
    assert!(server.log().contains("TLS certificate replaced"));
    // A session of the first certificate goes on.
    session.next_of("update").await;
    let newest = shown(&authority, server.odds()).await;
    broken_files_keep_the_certificate(&server, &authority, &newest).await;
}

/// Half a file, as a copy that was interrupted leaves it.
async fn broken_files_keep_the_certificate(
    server: &ServerProcess,
    authority: &Authority,
    newest: &CertificateDer<'_>,
) {
    let failures = "process_tls_reload_failures_total";
    let before = value(server, failures).await;
    let key = std::fs::read(authority.file("key.pem")).unwrap();
    std::fs::write(authority.file("key.pem"), &key[..key.len() / 2]).unwrap();
    until("failed reloads", || async {
        (value(server, failures).await >= before + 2.0).then_some(())
    })
    .await;
    assert_eq!(shown(authority, server.odds()).await, *newest);
    let log = server.log();
    let warning = format!(
        "the previous one stays in use: TLS_KEY_FILE {}: ",
        authority.file("key.pem").display()
    );
    assert_eq!(log.matches(&warning).count(), 1, "{log}");
    let next = authority.replace();
    until_shown(authority, server.odds(), &next).await;
    until("the end is logged", || async {
        server
            .log()
            .contains("the TLS files can be used again")
            .then_some(())
    })
    .await;
}

/// The directory that cert-manager and Kubernetes replace by renaming a symbolic link.
#[tokio::test]
async fn files_behind_symbolic_links_are_reloaded() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let mounted = TempDir::new().unwrap();
    let link = |name: &str| mounted.path().join(name);
    let mount = |version: &str| {
        std::fs::create_dir(link(version)).unwrap();
        for file in ["cert.pem", "key.pem"] {
            std::fs::copy(authority.file(file), link(version).join(file)).unwrap();
        }
        std::os::unix::fs::symlink(version, link("next")).unwrap();
        std::fs::rename(link("next"), link("data")).unwrap();
    };
    mount("first");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| link("data").join(file));
    let more = [
        ("TLS_CERT_FILE", certificate.to_str().unwrap()),
        ("TLS_KEY_FILE", key.to_str().unwrap()),
    ];
    let server = start(&folder, &authority, &more).await;
    let next = authority.replace();
    mount("second");
    until_shown(&authority, server.odds(), &next).await;
}
