//! Something fails between the supplier and the clients. From the moment the clients know, no bet is
//! accepted.

mod bet_supplier;
mod bettor;
mod faults;
mod kafka;
mod pair;
mod repeated;
mod scene;
mod source;
mod viewer;

use std::time::{Duration, Instant};

use self::scene::Scene;
use self::source::{MOVING, Source};
use crate::support::{Database, until};

/// An event whose market never changes.
const QUIET: &str = "QUIET";
/// How long a cut lasts that suspends nothing: longer than a source may be silent or unreported.
const CUT: Duration = Duration::from_secs(7);

/// The address of a supplier, for `SUPPLIER_URLS`.
fn url(address: impl std::fmt::Display) -> String {
    format!("ws://{address}/ws")
}

/// A market that the supplier does not send again after a restart of all processes.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn restarted_platform_suspends_unsent_market() {
    const GONE: &str = "GONE";
    let source = Source::start(&[QUIET, GONE]).await;
    let supplier = url(source.address());
    let events = [MOVING, QUIET, GONE];
    let scene = Scene::start(&[("SUPPLIER_URLS", &supplier)], &events).await;
    let mut ingest = scene.start_ingest().await;
    let database = Database::of_cluster(&scene.cluster);
    until("every market is stored", || async {
        (database.number("SELECT count(*) AS number FROM odds_current") == 3).then_some(())
    })
    .await;
    ingest.kill().await;
    source.forget(GONE);
    let killed = Instant::now();
    let scene = scene.restart().await;
    scene.until_tried(killed, 1).await;
    let restarted = Instant::now();
    let _ingest = scene.cluster.start("ingest").await;
    let sent = [MOVING.to_owned(), QUIET.to_owned()];
    scene
        .until_open_of("everything restarted", restarted, &sent)
        .await;
    scene
        .until_shown("the market is suspended", |viewer| {
            viewer.status(GONE) == "suspended"
        })
        .await;
    scene.until_tried(Instant::now(), 10).await;
    scene.bettor.check_refused(killed, &[GONE.to_owned()]);
    let history = scene.viewers[0].history(GONE, killed);
    eprintln!("the market that is not sent again: {history:?}");
    scene.check();
}
