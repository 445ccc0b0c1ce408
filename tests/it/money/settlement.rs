//! Results of markets, and what bets are paid by them.

use std::process::Output;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;

use super::{BetsHarness, bet_body};
use crate::support::{Database, FakeSupplier, until};

/// The source of the harness's prices.
const TRUSTED: (&str, &str) = ("SETTLEMENT_SOURCES", "test-supplier");

/// A record of the market `1x2` of event `E`.
fn record(kind: &str, version: i64, fields: Value) -> String {
    let mut record = json!({
        "type": kind, "event_id": "E", "market": "1x2", "updated_at": format!("2025-11-09T23:00:{version:02}Z"),
        "source": "test-supplier", "version": version,
    });
    let fields = fields.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(fields);
    record.to_string()
}

/// The result of a winner; the other two selections have lost.
fn result(version: i64, winner: &str) -> String {
    let selections: Vec<_> = ["home", "draw", "away"]
        .iter()
        .map(|id| json!({"id": id, "result": if *id == winner { "won" } else { "lost" }}))
        .collect();
    record("settlement", version, json!({"selections": selections}))
}

impl BetsHarness {
    /// A confirmed bet of 100 cents on `home` at 1.5.
    async fn confirmed_bet(&mut self, user: &str) -> Value {
        let placed = self.bet(&bet_body(user, "E", 100), None).await;
        assert_eq!(placed.code(), "200", "{}", placed.text);
        let bet = self.decided(&placed.json()).await;
        assert_eq!(bet["status"], "CONFIRMED", "{bet}");
        bet
    }

    /// Waits until a bet stands like this: its status, outcome and payout.
    pub(super) async fn until_bet_is(&self, bet: &Value, expected: Value) {
        let id = bet["betId"].as_str().unwrap();
        until(&format!("the bet is {expected}"), || async {
            let bet = self
                .get(self.platform.bets(), &format!("/bets/{id}"))
                .await
                .json();
            let now = json!([bet["status"], bet["outcome"], bet["payout_cents"]]);
            (now == expected).then_some(())
        })
        .await;
    }

    /// Available, reserved and owed cents.
    async fn funds(&self, user: &str) -> Value {
        let path = format!("/wallet?userId={user}");
        let wallet = self.get(self.platform.wallet(), &path).await.json();
        json!([
            wallet["balance_cents"],
            wallet["reserved_cents"],
            wallet["owed_cents"]
        ])
    }

    /// Waits until this many records are stored, and no market is due. A market that gets a record while
    /// it is settled is finished once, so the number of finished markets does not tell.
    async fn until_examined(&self, records: i64) {
        let database = Database::of(&self.platform.folder);
        let stored = "SELECT count(*) AS number FROM market_results";
        let due = "SELECT count(*) AS number FROM market_settlements WHERE settled_generation < generation";
        until("the results are examined", || async {
            let is_done = database.number(stored) == records && database.number(due) == 0;
            is_done.then_some(())
        })
        .await;
    }

    /// Waits until a metric of the role has a value.
    async fn until_settlement_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        self.platform
            .until_metric(Role::Settlement, name, wanted)
            .await;
    }

    pub(super) async fn verify(&self) {
        let output = self.command(&["ledger", "verify", "--grace", "1m"]).await;
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{report}");
    }
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A bet is paid by the result, again by each correction, and is open again when it is withdrawn.
#[actix_web::test]
async fn bet_follows_the_results_of_its_market() {
    let mut harness = BetsHarness::open(&[], &[TRUSTED]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = harness.confirmed_bet("u").await;
    assert_eq!(harness.funds("u").await, json!([900, 0, 0]));

    harness.link.send(result(1, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    assert_eq!(harness.funds("u").await, json!([1_050, 0, 0]));

    // The same again changes nothing; a correction is the difference.
    harness.link.send(result(1, "home")).await;
    harness.link.send(result(2, "away")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "lost", 0]))
        .await;
    assert_eq!(harness.funds("u").await, json!([900, 0, 0]));

    harness
        .link
        .send(record("rollback_settlement", 3, json!({})))
        .await;
    harness
        .until_bet_is(&bet, json!(["CONFIRMED", null, null]))
        .await;
    harness.link.send(record("cancel", 4, json!({}))).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "void", 100]))
        .await;
    assert_eq!(harness.funds("u").await, json!([1_000, 0, 0]));

    let id = bet["betId"].as_str().unwrap();
    let shown = harness
        .get(harness.platform.bets(), &format!("/bets/{id}"))
        .await
        .json();
    let steps: Vec<_> = shown["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| json!([step["to"], step["reason"]]))
        .collect();
    assert_eq!(
        steps,
        [
            json!(["PENDING_CONFIRMATION", null]),
            json!(["CONFIRMED", null]),
            json!(["SETTLED", "won"]),
            json!(["SETTLED", "lost"]),
            json!(["CONFIRMED", "withdrawn"]),
            json!(["SETTLED", "cancelled"]),
        ]
    );
    harness.verify().await;
    harness.close().await;
}

#[actix_web::test]
async fn bets_are_listed_by_outcome() {
    let mut harness = BetsHarness::open(&[], &[TRUSTED]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = harness.confirmed_bet("u").await;
    harness.link.send(result(1, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    let count = async |filter: &str| {
        let path = format!("/bets?userId=u&{filter}");
        let page = harness.get(harness.platform.bets(), &path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        page.json()["entries"].as_array().unwrap().len()
    };
    assert_eq!(count("status=SETTLED&outcome=won").await, 1);
    assert_eq!(count("outcome=lost").await, 0);
    assert_eq!(count("status=CONFIRMED").await, 0);
    let wrong = harness
        .get(harness.platform.bets(), "/bets?userId=u&outcome=win")
        .await;
    assert_eq!(wrong.code(), "400 BAD_QUERY");
    harness.close().await;
}

/// What was taken back and already spent is owed, and later payouts pay it off.
#[actix_web::test]
async fn spent_payout_is_owed() {
    let mut harness = BetsHarness::open(&[], &[TRUSTED]).await;
    harness.offer("E").await;
    harness.deposit("u", 100).await;
    let bet = harness.confirmed_bet("u").await;
    harness.link.send(result(1, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    let body = json!({"userId": "u", "amount_cents": 120, "external_ref": "out"});
    assert_eq!(harness.wallet("withdraw", body).await.code(), "200");
    harness.link.send(result(2, "away")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "lost", 0]))
        .await;
    assert_eq!(harness.funds("u").await, json!([0, 0, 120]));
    harness.link.send(result(3, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    assert_eq!(harness.funds("u").await, json!([30, 0, 0]));
    harness.verify().await;
    harness.close().await;
}

/// The results of a source that is not trusted are stored; an operator's are paid.
#[actix_web::test]
async fn operator_decides_what_nobody_else_may() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = harness.confirmed_bet("u").await;
    harness.link.send(result(1, "away")).await;
    harness.until_examined(1).await;
    harness
        .until_bet_is(&bet, json!(["CONFIRMED", null, null]))
        .await;

    let open = text(
        &harness
            .command(&["report", "liability", "--event", "E"])
            .await,
    );
    assert!(
        open.contains("home wins: 1 bets with stakes 100 pay 150, result -50"),
        "{open}"
    );
    let settle = ["settle", "E", "1x2", "--winner", "home", "--reason", "seen"];
    let dry_run = harness
        .command(&[&settle[..], &["--dry-run"]].concat())
        .await;
    assert!(
        text(&dry_run).contains("becomes won 150  +150"),
        "{dry_run:?}"
    );
    let settled = harness.command(&settle).await;
    assert!(text(&settled).contains("bets: 1 change"), "{settled:?}");
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    let open = text(&harness.command(&["report", "liability"]).await);
    assert_eq!(open, "no open bets\n");
    harness.verify().await;
    harness.close().await;
}

/// A bet that is confirmed after its market was settled is settled in the same way.
#[actix_web::test]
async fn pending_bet_is_settled_when_it_is_confirmed() {
    let simulated = [("SIMULATOR_CONFIRM_DELAY", "2s")];
    let patient = [TRUSTED, ("BET_CONFIRM_TIMEOUT", "5s")];
    let mut harness = BetsHarness::open(&simulated, &patient).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let placed = harness.bet(&bet_body("u", "E", 100), None).await.json();
    harness.link.send(result(1, "home")).await;
    harness
        .until_bet_is(&placed, json!(["SETTLED", "won", 150]))
        .await;
    harness.verify().await;
    harness.close().await;
}

/// The result of a winner, as seen live.
fn scouted(version: i64, winner: &str) -> String {
    let mut record: Value = serde_json::from_str(&result(version, winner)).unwrap();
    record["certainty"] = json!("scouted");
    record.to_string()
}

#[actix_web::test]
async fn scouted_result_is_paid_and_corrected() {
    let mut harness = BetsHarness::open(&[], &[TRUSTED, ("SETTLE_ON", "scouted")]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = harness.confirmed_bet("u").await;
    harness.link.send(scouted(1, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    harness.link.send(result(2, "away")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "lost", 0]))
        .await;
    assert_eq!(harness.funds("u").await, json!([900, 0, 0]));
    harness.verify().await;
    harness.close().await;
}

/// A scouted result is not paid, and does not take back what a confirmed one has paid.
#[actix_web::test]
async fn scouted_result_waits_for_confirmed_one() {
    let mut harness = BetsHarness::open(&[], &[TRUSTED]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let bet = harness.confirmed_bet("u").await;
    harness.link.send(scouted(1, "away")).await;
    harness.until_examined(1).await;
    harness
        .until_bet_is(&bet, json!(["CONFIRMED", null, null]))
        .await;
    harness.link.send(result(2, "home")).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    harness.link.send(scouted(3, "away")).await;
    harness.until_examined(3).await;
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    harness.verify().await;
    harness.close().await;
}

/// When two trusted sources disagree, no money moves until an operator decides.
#[actix_web::test]
async fn operator_decides_between_disagreeing_sources() {
    let sources = "test-supplier,second-supplier";
    let second = FakeSupplier::start().await;
    let trusted = [("SETTLEMENT_SOURCES", sources)];
    let mut harness = BetsHarness::open_with(&[&second.url()], &[], &trusted).await;
    let mut link = second.accept().await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let paid = harness.confirmed_bet("u").await;
    harness.link.send(result(1, "home")).await;
    harness
        .until_bet_is(&paid, json!(["SETTLED", "won", 150]))
        .await;

    let mut other: Value = serde_json::from_str(&result(2, "away")).unwrap();
    other["source"] = json!("second-supplier");
    link.send(other.to_string()).await;
    let held = "settlement_held_bets";
    harness
        .until_settlement_metric(held, |count| count == 1.0)
        .await;
    // It was paid before, and the other is open.
    let open = harness.confirmed_bet("u").await;
    harness
        .until_settlement_metric(held, |count| count == 2.0)
        .await;
    harness
        .until_bet_is(&paid, json!(["SETTLED", "won", 150]))
        .await;
    harness
        .until_bet_is(&open, json!(["CONFIRMED", null, null]))
        .await;
    assert_eq!(harness.funds("u").await, json!([950, 0, 0]));

    let settle = ["settle", "E", "1x2", "--winner", "away", "--reason", "seen"];
    let settled = harness
        .command(&[&settle[..], &["--settlement-sources", sources]].concat())
        .await;
    assert!(text(&settled).contains("bets: 2 change"), "{settled:?}");
    for bet in [&paid, &open] {
        harness
            .until_bet_is(bet, json!(["SETTLED", "lost", 0]))
            .await;
    }
    assert_eq!(harness.funds("u").await, json!([800, 0, 0]));
    harness
        .until_settlement_metric(held, |count| count == 0.0)
        .await;
    harness.verify().await;
    harness.close().await;
}
