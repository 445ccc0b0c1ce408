//! Results of markets, and what bets are paid by them.

use std::process::Output;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;

use super::{BetsHarness, bet_body};
use crate::support::{command, metric, until, within};

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
    async fn until_bet_is(&self, bet: &Value, expected: Value) {
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

    /// Runs a command on the platform's database.
    async fn run(&self, arguments: &[&str]) -> Output {
        let folder = &self.platform.folder;
        let variables = folder.variables();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut command = command(folder.path(), &variables);
        command.args(arguments);
        within("the command ends", command.output()).await.unwrap()
    }

    async fn verify(&self) {
        let output = self.run(&["ledger", "verify", "--grace", "1m"]).await;
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
            json!(["SETTLED", "void"]),
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
    until("the result is examined", || async {
        let page = harness.platform.metrics(Role::Settlement).await;
        let examined = metric(&page, "settlement_market_seconds_count");
        (examined >= Some(1.0)).then_some(())
    })
    .await;
    harness
        .until_bet_is(&bet, json!(["CONFIRMED", null, null]))
        .await;

    let open = text(&harness.run(&["report", "liability", "--event", "E"]).await);
    assert!(
        open.contains("home wins: 1 bets with stakes 100 pay 150, result -50"),
        "{open}"
    );
    let settle = ["settle", "E", "1x2", "--winner", "home", "--reason", "seen"];
    let dry_run = harness.run(&[&settle[..], &["--dry-run"]].concat()).await;
    assert!(
        text(&dry_run).contains("becomes won 150  +150"),
        "{dry_run:?}"
    );
    let settled = harness.run(&settle).await;
    assert!(text(&settled).contains("bets: 1 change"), "{settled:?}");
    harness
        .until_bet_is(&bet, json!(["SETTLED", "won", 150]))
        .await;
    let open = text(&harness.run(&["report", "liability"]).await);
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
