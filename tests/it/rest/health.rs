//! `/healthz` and `/livez`: the checks they report, and that they have no side effects.

use pretty_assertions::assert_eq;

use super::*;

const FED_ROLES: [Role; 3] = [Role::Ingest, Role::Processor, Role::Odds];

/// The names of the failing checks; empty if the status is 200.
async fn down(platform: &TestPlatform, role: Role) -> Vec<String> {
    names(&healthz(platform.health(role)).await)
}

fn names(answer: &Answer) -> Vec<String> {
    if answer.status == 200 {
        assert_eq!(
            (answer.text(), answer.header("content-type")),
            ("ok", Some("text/plain; charset=utf-8"))
        );
        return Vec::new();
    }
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["status"]),
        (503, &json!("unavailable")),
        "{body}"
    );
    let down = body["down"].as_array().unwrap();
    assert!(
        down.iter().all(|one| one["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())),
        "{body}"
    );
    down.iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

#[actix_web::test]
async fn every_role_is_healthy_on_own_port() {
    let platform = TestPlatform::start(&[]).await;
    for role in Role::ALL {
        until(role.name(), || async {
            (down(&platform, role).await.is_empty()).then_some(())
        })
        .await;
        let alive = Answer::get(&format!("http://{}/livez", platform.health(role))).await;
        assert_eq!((alive.status, alive.text()), (200, "ok"));
        let ready = Answer::get(&format!("http://{}/readyz", platform.health(role))).await;
        assert_eq!((ready.status, ready.text()), (200, "ok"), "{}", role.name());
    }
    let ports: std::collections::BTreeSet<_> = Role::ALL
        .iter()
        .map(|role| platform.health(*role).port())
        .collect();
    assert_eq!(ports.len(), Role::ALL.len());
    platform.stop().await;
}

#[actix_web::test]
async fn one_supplier_makes_ingest_ready() {
    let first = FakeSupplier::start().await;
    let second = FakeSupplier::start().await;
    let first_url = first.url();
    let second_url = second.url();
    drop((first, second));
    let platform = TestPlatform::fed_by(&[first_url.clone(), second_url.clone()], &[]).await;
    let answer = healthz(platform.health(Role::Ingest)).await;
    assert_eq!(names(&answer), ["suppliers"]);
    let reason = answer.json()["down"][0]["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        reason.contains(&first_url) && reason.contains(&second_url),
        "{reason}"
    );
    assert_eq!(
        down(&platform, Role::Odds).await,
        [""; 0],
        "odds do not depend on a supplier to be served"
    );
    let listener = tokio::net::TcpListener::bind(
        second_url
            .strip_prefix("ws://")
            .unwrap()
            .strip_suffix("/ws")
            .unwrap(),
    );
    let listener = listener.await.unwrap();
    let (stream, _) = within("the feed", listener.accept()).await.unwrap();
    let link = tokio_tungstenite::accept_async(stream).await.unwrap();
    until("ready", || async {
        down(&platform, Role::Ingest).await.is_empty().then_some(())
    })
    .await;
    drop((link, listener));
    until("not ready again", || async {
        (!down(&platform, Role::Ingest).await.is_empty()).then_some(())
    })
    .await;
    let alive = Answer::get(&format!("http://{}/livez", platform.health(Role::Ingest))).await;
    assert_eq!(
        alive.status, 200,
        "our restart would not bring the supplier back"
    );
}

/// A database file that is deleted or replaced is reported until it is back.
#[actix_web::test]
async fn embedded_missing_database_file_is_reported() {
    let fed = Fed::start(&[]).await;
    let path = fed.platform.folder.path().join("test.db");
    let aside = fed.platform.folder.path().join("aside.db");
    let all_ok = || async {
        for role in FED_ROLES {
            assert_eq!(down(&fed.platform, role).await, [""; 0], "{}", role.name());
        }
    };
    until("ready", || async {
        down(&fed.platform, Role::Ingest)
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    all_ok().await;
    std::fs::rename(&path, &aside).unwrap();
    for role in [Role::Processor, Role::Odds] {
        assert_eq!(down(&fed.platform, role).await, ["database"]);
    }
    assert_eq!(down(&fed.platform, Role::Ingest).await, [""; 0]);
    std::fs::write(&path, "not what was opened").unwrap();
    let answer = healthz(fed.platform.health(Role::Processor)).await;
    let reason = answer.json()["down"][0]["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(reason.contains("file replaced"), "{reason}");
    std::fs::rename(&aside, &path).unwrap();
    all_ok().await;
}

#[actix_web::test]
async fn stopping_process_is_not_ready() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    // Another writer holds the database, so the stop has something to wait for.
    let database = fed.database();
    let lock = database.lock();
    fed.send("E", [2]).await;
    fed.platform
        .until_metric(Role::Processor, &fed.platform.store_lag(), |lag| lag >= 1.0)
        .await;
    let addresses = FED_ROLES.map(|role| fed.platform.health(role));
    let stopping = actix_web::rt::spawn(fed.platform.stop());
    for address in addresses {
        until("stopping", || async {
            names(&healthz(address).await)
                .contains(&"process".to_owned())
                .then_some(())
        })
        .await;
    }
    drop(lock);
    let _folder = within("it stops", stopping).await.unwrap();
    let rows = database.number("SELECT count(*) AS number FROM odds_history");
    assert_eq!(rows, 2, "the records on the bus are processed");
}

#[actix_web::test]
async fn health_checks_have_no_side_effects() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    let mut client = fed.platform.subscriber("E").await;
    until("ready", || async {
        down(&fed.platform, Role::Ingest)
            .await
            .is_empty()
            .then_some(())
    })
    .await;
    let odds = fed.get("/v1/events/E/odds").await;
    let counts = async || {
        let mut counts = Vec::new();
        for role in FED_ROLES {
            let page = fed.platform.metrics(role).await;
            let names = [
                "published_total",
                "frames_total",
                "consumed_total",
                "writes_total",
                "applied_total",
                "deliveries",
            ];
            let counted = page.lines().filter(|line| {
                names.iter().any(|name| line.contains(name)) && !line.starts_with('#')
            });
            counts.extend(counted.map(str::to_owned));
        }
        counts
    };
    let before = counts().await;
    assert!(before.len() >= 6, "{before:?}");
    for _ in 0..40 {
        for role in FED_ROLES {
            assert_eq!(down(&fed.platform, role).await, [""; 0]);
        }
    }
    assert_eq!(counts().await, before);
    assert_eq!(fed.get("/v1/events").await.as_array().unwrap().len(), 1);
    assert_eq!(fed.get("/v1/events/E/odds").await, odds);
    // Anything the health checks had published would come before this update.
    fed.send("E", [2]).await;
    assert_eq!(client.next().await["payload"]["version"], 2);
}
