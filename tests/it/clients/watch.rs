//! `sports-bet watch` against the server.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::resume::resumable;
use super::{change_of, start};
use crate::support::{LoggedChild, OddsClient, command, within};

/// How many markets of an event were printed.
fn lines_of(out: &str, event: &str) -> usize {
    let is_of = |line: &&str| line.split_whitespace().nth(1) == Some(event);
    out.lines().filter(is_of).count()
}

/// Accepts a connection and passes its bytes on, until the task is aborted.
async fn pass_on(listener: &TcpListener, to: SocketAddr) -> JoinHandle<()> {
    let (mut inside, _) = within("a connection", listener.accept()).await.unwrap();
    let mut outside = TcpStream::connect(to).await.unwrap();
    tokio::spawn(async move { _ = copy_bidirectional(&mut inside, &mut outside).await })
}

/// Two events in one `subscribe`; after a loss of the connection each is resumed.
#[actix_web::test]
async fn watch_resumes_many_events() {
    let (platform, mut supplier) = start(&[]).await;
    resumable(&platform).await;
    let mut plain = OddsClient::connect(platform.odds()).await;
    for event in ["A", "B"] {
        plain.subscribe(event).await;
        plain.next_of("snapshot").await;
        for (version, market) in [(1, "1x2"), (2, "btts")] {
            supplier.send(change_of(event, market, version, 1)).await;
            plain.next_of("update").await;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws/odds", listener.local_addr().unwrap());
    let watch = LoggedChild::start(
        command(platform.folder.path(), &[]).args(["watch", "A", "B", "--url", &url]),
    );
    let connection = pass_on(&listener, platform.odds()).await;
    let printed = |out: &str| [lines_of(out, "A"), lines_of(out, "B")];
    watch.until_printed(|out| printed(out) == [2, 2]).await;
    connection.abort();
    for event in ["A", "B"] {
        supplier.send(change_of(event, "1x2", 3, 1)).await;
        plain.next_of("update").await;
    }
    let _connection = pass_on(&listener, platform.odds()).await;
    watch.until_printed(|out| printed(out) == [3, 3]).await;
    for event in ["A", "B"] {
        let resumed = format!("{event}: resumed: 1 markets changed");
        watch.until_logged(&resumed).await;
    }
}

/// A hundred events fit into a message, and use up what a client may send within a second.
#[actix_web::test]
async fn rate_limited_watch_gets_every_event() {
    let (platform, mut supplier) = start(&[("WS_MAX_MESSAGES_PER_SECOND", "20")]).await;
    let events: Vec<String> = (0..101).map(|number| format!("E{number}")).collect();
    let url = format!("ws://{}/ws/odds", platform.odds());
    let watch = LoggedChild::start(
        command(platform.folder.path(), &[])
            .args(["watch", "--url", &url])
            .args(&events),
    );
    watch.until_logged("RATE_LIMITED").await;
    for event in &events {
        let known = format!("{event}: unknown so far");
        watch.until_logged(&known).await;
    }
    supplier.send(change_of("E100", "1x2", 1, 1)).await;
    watch.until_printed(|out| lines_of(out, "E100") == 1).await;
}
