//! Bets on two recorded Betfair races, placed over REST while the races are replayed, and paid by
//! their results.

mod timeline;

use std::path::Path;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::cli::replay::{self, ReplayConfig, ReplayHandle};
use tempfile::TempDir;

use self::timeline::Race;
use super::BetsHarness;
use crate::support::{ReservedPort, until};

const GREYHOUNDS: &str = "1.197931750";
const HORSES: &str = "1.132153978";
/// The messages before the first and the second removal, and before the race starts.
const HORSE_STAGES: [usize; 3] = [71, 74, 476];
/// The messages before the race is suspended.
const GREYHOUND_MESSAGES: usize = 164;
/// Both removals, in hundredths of a percent.
const REMOVALS: [i128; 2] = [714, 555];
const WINNER: &str = "12115648";
const LOSER: &str = "10299545";

/// A bet, and what the house's rules say about it.
struct RaceBet {
    placed: Value,
    outcome: &'static str,
    payout: i128,
}

/// What a bet on the winner is paid, if these reductions came after it.
fn payout(rule: &str, stake: i128, price: i128, reductions: &[i128]) -> i128 {
    match rule {
        "none" => stake * price / 1_000,
        "rule4" => {
            let sum = reductions.iter().sum::<i128>().min(9_000);
            stake * (10_000_000 + (price - 1_000) * (10_000 - sum)) / 10_000_000
        }
        "exchange" => {
            let whole = 10_000_i128.pow(reductions.len() as u32);
            let rest: i128 = reductions.iter().map(|one| 10_000 - one).product();
            stake * (price * rest).max(1_010 * whole) / (1_000 * whole)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn payouts_are_those_of_the_rules() {
    let of_rules = |price, removals| {
        ["none", "exchange", "rule4"].map(|rule| payout(rule, 1_000, price, removals))
    };
    assert_eq!(of_rules(3_850, &REMOVALS), [3_850, 3_376, 3_488]);
    assert_eq!(of_rules(3_500, &REMOVALS[1..]), [3_500, 3_305, 3_361]);
    assert_eq!(of_rules(4_000, &[]), [4_000, 4_000, 4_000]);
}

impl BetsHarness {
    /// Waits until a race shows these prices, and bets can be placed.
    async fn until_prices_are(&self, event: &str, expected: &[(&str, f64)]) {
        let path = format!("/v1/events/{event}/odds");
        until(&format!("{event} shows {expected:?}"), || async {
            let odds = self.get(self.platform.odds(), &path).await;
            let odds: Value = serde_json::from_str(&odds.text).ok()?;
            let shown = odds[0]["selections"].as_array()?;
            let shows = |(id, price): &(&str, f64)| {
                shown
                    .iter()
                    .any(|one| one["id"] == *id && one["price"] == *price)
            };
            (odds[0]["status"] == "open" && expected.iter().all(shows)).then_some(())
        })
        .await;
    }

    /// Places a bet as soon as the source is live again, and waits until it is confirmed. The horses'
    /// prices do not change meanwhile.
    async fn race_bet(&self, event: &str, selection: &str, stake: i128, price: f64) -> Value {
        let body = json!({
            "userId": "u", "eventId": event, "market": "win", "selection": selection, "stake_cents": stake,
            "odd_value": price, "oddsChange": if event == HORSES { "none" } else { "any" },
        });
        let placed = until("the market accepts bets", || async {
            let placed = self.bet(&body, None).await;
            let is_refused =
                ["409 MARKET_STALE", "503 ODDS_UNAVAILABLE"].contains(&&placed.code()[..]);
            (!is_refused).then_some(placed)
        })
        .await;
        assert_eq!(placed.code(), "200", "{}", placed.text);
        let bet = self.decided(&placed.json()).await;
        let was_confirmed = ["CONFIRMED", "SETTLED"].contains(&bet["status"].as_str().unwrap());
        assert!(was_confirmed, "{bet}");
        bet
    }

    /// Bets on the winner, after the removals before `phase`, and on a loser.
    async fn bet_on_horses(
        &self,
        rule: &str,
        phase: usize,
        (price, losing): (f64, f64),
    ) -> Vec<RaceBet> {
        let mut bets = Vec::new();
        for stake in [1_000, 777] {
            let thousandths = (price * 1_000.0).round() as i128;
            bets.push(RaceBet {
                placed: self.race_bet(HORSES, WINNER, stake, price).await,
                outcome: "won",
                payout: payout(rule, stake, thousandths, &REMOVALS[phase..]),
            });
        }
        bets.push(RaceBet {
            placed: self.race_bet(HORSES, LOSER, 500, losing).await,
            outcome: "lost",
            payout: 0,
        });
        bets
    }

    async fn until_paid(&self, bets: &[RaceBet]) {
        for bet in bets {
            let expected = json!(["SETTLED", bet.outcome, bet.payout as i64]);
            self.until_bet_is(&bet.placed, expected).await;
        }
    }
}

#[actix_web::test]
async fn races_are_paid_without_reductions() {
    races_are_paid("none").await;
}

#[actix_web::test]
async fn races_are_paid_by_rule_4() {
    races_are_paid("rule4").await;
}

#[actix_web::test]
async fn races_are_paid_as_on_an_exchange() {
    races_are_paid("exchange").await;
}

/// Replays the races, stage by stage.
struct Races {
    horses: Race,
    greyhounds: Race,
    port: ReservedPort,
    folder: TempDir,
    replay: Option<ReplayHandle>,
}

impl Races {
    fn new() -> Races {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/betfair");
        Races {
            horses: Race::recorded(&data.join("BASIC-1.132153978.jsonl")),
            greyhounds: Race::recorded(&data.join("1.197931750.jsonl")),
            port: ReservedPort::take(),
            folder: TempDir::new().unwrap(),
            replay: None,
        }
    }

    /// Goes on with the races, and replays them from their start.
    async fn go_on(&mut self, horses: usize, greyhounds: usize) {
        self.horses.go_on(horses).await;
        self.greyhounds.go_on(greyhounds).await;
        let file = |name: &str, race: &Race| {
            let file = self.folder.path().join(name);
            std::fs::write(&file, race.so_far()).unwrap();
            file
        };
        let files = vec![
            file("horses", &self.horses),
            file("greyhounds", &self.greyhounds),
        ];
        if let Some(replay) = self.replay.take() {
            replay.stop().await;
        }
        let config = ReplayConfig {
            listen: self.port.address,
            ..ReplayConfig::at_once(files)
        };
        self.replay = Some(replay::start(config).await.unwrap());
    }
}

async fn races_are_paid(rule: &str) {
    let mut races = Races::new();
    let exchange = format!("betfair://{}", races.port.address);
    let variables = [("SETTLEMENT_SOURCES", "betfair"), ("REDUCTIONS", rule)];
    let harness = BetsHarness::open_with(&[&exchange], &[], &variables).await;
    harness.deposit("u", 20_000).await;

    // Before the first removal, and on the runner that will be removed.
    let removed = ("11198538", 16.0);
    races.go_on(HORSE_STAGES[0], GREYHOUND_MESSAGES).await;
    harness
        .until_prices_are(HORSES, &[(WINNER, 3.85), (LOSER, 13.0), removed])
        .await;
    let refunded = RaceBet {
        placed: harness.race_bet(HORSES, removed.0, 500, removed.1).await,
        outcome: "void",
        payout: 500,
    };
    let mut bets = harness.bet_on_horses(rule, 0, (3.85, 13.0)).await;
    bets.extend(harness.bet_on_greyhounds().await);

    races.go_on(HORSE_STAGES[1], GREYHOUND_MESSAGES).await;
    harness
        .until_prices_are(HORSES, &[(WINNER, 3.5), (LOSER, 11.5)])
        .await;
    // Its stake is returned before the race.
    harness.until_paid(&[refunded]).await;
    bets.extend(harness.bet_on_horses(rule, 1, (3.5, 11.5)).await);

    races.go_on(HORSE_STAGES[2], GREYHOUND_MESSAGES).await;
    harness
        .until_prices_are(HORSES, &[(WINNER, 4.0), (LOSER, 11.0)])
        .await;
    bets.extend(harness.bet_on_horses(rule, 2, (4.0, 11.0)).await);

    races.go_on(usize::MAX, usize::MAX).await;
    harness.until_paid(&bets).await;
    harness.verify().await;
    drop(races);
    harness.close().await;
}

impl BetsHarness {
    /// Bets on the winner and on a loser of a race without removals, at any price.
    async fn bet_on_greyhounds(&self) -> Vec<RaceBet> {
        let won = self.race_bet(GREYHOUNDS, "37947503", 777, 2.0).await;
        let lost = self.race_bet(GREYHOUNDS, "44331354", 500, 2.0).await;
        let price = won["odd_value"].as_f64().unwrap();
        let payout = payout("none", 777, (price * 1_000.0).round() as i128, &[]);
        vec![
            RaceBet {
                placed: won,
                outcome: "won",
                payout,
            },
            RaceBet {
                placed: lost,
                outcome: "lost",
                payout: 0,
            },
        ]
    }
}
