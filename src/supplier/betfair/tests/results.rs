//! Results of markets: the recordings, the table of what settles by itself, and corrections.

use pretty_assertions::assert_eq;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::domain::settlement::effective::{LegState, SettlementRules};
use crate::domain::settlement::market_results::Inserted;
use crate::domain::settlement::payout::Entitlement;
use crate::domain::settlement::record::{RecordContent, ResultRecord, Settlement};
use crate::domain::settlement::reductions::Reductions;
use crate::domain::settlement::testing::{cents, price, results, rules, state};
use crate::domain::settlement::trust::TrustedSources;
use crate::domain::timestamp::Timestamp;
use crate::supplier::Refused;

fn records(recording: &str) -> Vec<ResultRecord> {
    let mut decoder = decoder();
    let lines = recording.lines();
    let decoded = lines.map(|line| frame(&mut decoder, line));
    let records = decoded.flat_map(|decoded| {
        assert_eq!(decoded.refused_results, []);
        decoded.results
    });
    records.collect()
}

fn settled(record: &ResultRecord) -> &Settlement {
    match &record.content {
        RecordContent::Settlement(settlement) => settlement,
        other => panic!("{other:?}"),
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn betfair(reductions: Reductions) -> SettlementRules {
    SettlementRules {
        sources: TrustedSources::new(crate::supplier::betfair::source()),
        reductions,
        ..rules()
    }
}

fn payout(
    records: &[ResultRecord],
    selection: &str,
    placed_at: &str,
    odds: &str,
    kind: Reductions,
) -> i64 {
    let leg = state(
        &results(records),
        "win",
        selection,
        time(placed_at),
        &betfair(kind),
    );
    match leg.entitlement(cents(1_000), price(odds)) {
        Entitlement::Settled { payout, .. } => payout,
        other => panic!("{other:?}"),
    }
}

#[test]
fn greyhound_race_is_settled_by_its_end() {
    let records = records(GREYHOUNDS);
    insta::assert_snapshot!(records.iter().map(ResultRecord::to_json).collect::<Vec<_>>().join("\n"), @r#"{"type":"settlement","event_id":"1.197931750","market":"win","selections":[{"id":"36276560","result":"lost"},{"id":"37947503","result":"won"},{"id":"39823721","result":"lost"},{"id":"40095374","result":"lost"},{"id":"42930960","result":"lost"},{"id":"44331354","result":"lost"}],"certainty":"confirmed","bets_until":"2022-04-19T18:29:41Z","updated_at":"2022-04-19T18:29:41Z","source":"betfair","version":4497303953}"#);
    let paid =
        |selection, placed_at| payout(&records, selection, placed_at, "2.5", Reductions::None);
    assert_eq!(paid("37947503", "2022-04-19T18:20:00Z"), 2_500);
    assert_eq!(paid("39823721", "2022-04-19T18:20:00Z"), 0);
    assert_eq!(paid("37947503", "2022-04-19T18:29:41Z"), 1_000);
    assert_eq!(paid("39823721", "2022-04-19T18:29:41Z"), 1_000);
}

#[rstest]
#[case("12115648", "2017-06-14T06:00:00Z", "3.850", [3850, 3376, 3488])]
#[case("12115648", "2017-06-14T07:00:50Z", "3.500", [3500, 3305, 3361])]
#[case("12115648", "2017-06-14T12:00:00Z", "4.000", [4000, 4000, 4000])]
#[case("11198538", "2017-06-14T06:00:00Z", "20.000", [1000, 1000, 1000])]
#[case("9606433", "2017-06-14T12:00:00Z", "20.000", [1000, 1000, 1000])]
#[case("10299545", "2017-06-14T06:00:00Z", "20.000", [0, 0, 0])]
fn horse_race_pays_as_computed(
    #[case] selection: &str,
    #[case] placed_at: &str,
    #[case] odds: &str,
    #[case] expected: [i64; 3],
) {
    let records = records(HORSES);
    let kinds = [Reductions::None, Reductions::Exchange, Reductions::Rule4];
    assert_eq!(
        kinds.map(|kind| payout(&records, selection, placed_at, odds, kind)),
        expected
    );
}

#[test]
fn removed_runners_are_void_at_removal() {
    let records = records(HORSES);
    let times: Vec<_> = records
        .iter()
        .map(|record| record.revision.updated_at.to_string())
        .collect();
    assert_eq!(
        times,
        [
            "2017-06-14T07:00:50Z",
            "2017-06-14T09:23:43Z",
            "2017-06-14T18:57:59Z"
        ]
    );
    let named: Vec<_> = records
        .iter()
        .map(|record| settled(record).selections.len())
        .collect();
    assert_eq!(named, [1, 2, 14]);
    assert_eq!(settled(&records[0]).bets_until, None);
    assert_eq!(
        settled(&records[2]).bets_until,
        Some(time("2017-06-14T18:57:59Z"))
    );
    let open = state(
        &results(&records[..2]),
        "win",
        "12115648",
        time("2017-06-14T06:00:00Z"),
        &betfair(Reductions::None),
    );
    assert_eq!(open, LegState::Open);
}

/// A market definition whose runners 1, 2, … have these statuses.
fn market(status: &str, version: i64, runners: &[&str], more: Value) -> String {
    let runners: Vec<_> = (1..)
        .zip(runners)
        .map(|(id, status)| json!({"id": id, "status": status}))
        .collect();
    let mut definition = json!({
        "status": status, "version": version, "marketType": "WIN", "bettingType": "ODDS",
        "numberOfWinners": 1, "inPlay": true, "runners": runners,
    });
    if status == "CLOSED" {
        definition["settledTime"] = json!("2026-01-01T12:00:00.000Z");
    }
    definition
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"id": "1.1", "marketDefinition": definition}).to_string()
}

/// Milliseconds after the settlement of [`market`].
fn at(millis: i64) -> i64 {
    time("2026-01-01T12:00:00Z").micros() / 1_000 + millis
}

fn image(pt: i64, changes: &[String]) -> String {
    format!(
        r#"{{"op":"mcm","id":2,"pt":{pt}{IMAGE},"mc":[{}]}}"#,
        changes.join(",")
    )
}

fn delta(pt: i64, change: &str) -> String {
    format!(r#"{{"op":"mcm","id":2,"pt":{pt},"mc":[{change}]}}"#)
}

/// Each record, as `kind version: selection=result …`.
fn said(records: &[ResultRecord]) -> Vec<String> {
    let said = records.iter().map(|record| {
        let json: Value = serde_json::from_str(&record.to_json()).unwrap();
        let selections = json["selections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| match one {
                Value::String(id) => id.clone(),
                one => {
                    let share = one["dead_heat"].as_str().map(|share| format!(" {share}"));
                    let [id, result] = ["id", "result"].map(|field| one[field].as_str().unwrap());
                    format!("{id}={result}{}", share.unwrap_or_default())
                }
            });
        let selections: Vec<_> = selections.collect();
        format!(
            "{} {}: {}",
            json["type"].as_str().unwrap(),
            record.revision.version,
            selections.join(", ")
        )
    });
    said.collect()
}

fn closed(runners: &[&str], more: Value) -> (Vec<String>, Vec<Refused>) {
    let mut decoder = decoder();
    frame(
        &mut decoder,
        &image(
            at(0),
            &[market(
                "SUSPENDED",
                1,
                &["ACTIVE"; 4][..runners.len()],
                json!({}),
            )],
        ),
    );
    let decoded = frame(
        &mut decoder,
        &delta(at(1), &market("CLOSED", 2, runners, more)),
    );
    assert_eq!(decoded.refused, []);
    (said(&decoded.results), decoded.refused_results)
}

#[rstest]
#[case::one_winner(1, &["WINNER", "LOSER", "REMOVED"], "1=won, 2=lost, 3=void")]
#[case::dead_heat(1, &["WINNER", "WINNER", "LOSER"], "1=won 1/2, 2=won 1/2, 3=lost")]
#[case::triple_heat(1, &["WINNER", "WINNER", "WINNER"], "1=won 1/3, 2=won 1/3, 3=won 1/3")]
#[case::places(2, &["WINNER", "WINNER", "LOSER"], "1=won, 2=won, 3=lost")]
#[case::fewer_than_places(3, &["WINNER", "LOSER", "REMOVED_VACANT"], "1=won, 2=lost, 3=void")]
#[case::hidden(1, &["WINNER", "LOSER", "HIDDEN"], "1=won, 2=lost, 3=void")]
#[case::all_removed(1, &["REMOVED", "REMOVED_VACANT"], "1=void, 2=void")]
fn clear_result_settles_itself(
    #[case] winners: u32,
    #[case] runners: &[&str],
    #[case] expected: &str,
) {
    let (said, refused) = closed(runners, json!({"numberOfWinners": winners}));
    assert_eq!(said, [format!("settlement 2: {expected}")]);
    assert_eq!(refused, []);
}

#[rstest]
#[case::shared_last_place(json!({"numberOfWinners": 2}), &["WINNER", "WINNER", "WINNER", "LOSER"], "3 runners share 2 places")]
#[case::unknown_number(json!({"numberOfWinners": 0}), &["WINNER", "LOSER"], "numberOfWinners")]
#[case::unreadable_number(json!({"numberOfWinners": "one"}), &["WINNER", "LOSER"], "numberOfWinners")]
#[case::no_number(json!({"numberOfWinners": null}), &["WINNER", "LOSER"], "numberOfWinners")]
#[case::placed(json!({}), &["WINNER", "PLACED", "LOSER"], "runner 2")]
#[case::still_active(json!({}), &["WINNER", "ACTIVE"], "runner 2")]
#[case::no_winner(json!({}), &["LOSER", "LOSER"], "no winner")]
#[case::each_way(json!({"eachWayDivisor": 4.0}), &["WINNER", "LOSER"], "each way")]
#[case::no_odds(json!({"bettingType": "ASIAN_HANDICAP_SINGLE_LINE"}), &["WINNER", "LOSER"], "bettingType")]
fn unclear_result_needs_operator(#[case] more: Value, #[case] runners: &[&str], #[case] why: &str) {
    let (said, refused) = closed(runners, more);
    assert_eq!(said, [""; 0]);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason, "ambiguous_result");
    assert!(refused[0].detail.contains(why), "{}", refused[0].detail);
}

/// The removed runner of an unclear market is void all the same.
#[test]
fn unclear_result_keeps_removals() {
    let (said, refused) = closed(&["LOSER", "REMOVED"], json!({}));
    assert_eq!(said, ["settlement 2: 2=void"]);
    assert_eq!(refused.len(), 1);
}

#[test]
fn removal_with_unreadable_factor_needs_operator() {
    for (factor, date) in [
        (json!(7.1234), json!("2026-01-01T10:00:00Z")),
        (json!("a"), json!("2026-01-01T10:00:00Z")),
        (json!(7.1), json!("never")),
        (json!(7.1), Value::Null),
    ] {
        let mut decoder = decoder();
        let mut json: Value =
            serde_json::from_str(&market("OPEN", 1, &["REMOVED", "ACTIVE"], json!({}))).unwrap();
        let runner = &mut json["marketDefinition"]["runners"][0];
        runner["adjustmentFactor"] = factor;
        runner["removalDate"] = date;
        let decoded = frame(&mut decoder, &image(at(0), &[json.to_string()]));
        assert_eq!(decoded.updates.len(), 1, "the prices are readable");
        assert_eq!(decoded.results, []);
        assert_eq!(decoded.refused_results.len(), 1, "{json}");
        // It is reported once.
        let again = frame(&mut decoder, &delta(at(1), &json.to_string()));
        assert_eq!(again.refused_results, []);
    }
}

#[test]
fn bets_until_needs_stopped_market() {
    let until = |before: Option<&str>, in_play: bool| {
        let mut decoder = decoder();
        let more = json!({"inPlay": in_play});
        let before = before.map(|status| market(status, 1, &["ACTIVE"; 2], more.clone()));
        if let Some(before) = before {
            frame(&mut decoder, &image(at(0), &[before]));
        }
        let closed = market("CLOSED", 2, &["WINNER", "LOSER"], more);
        let decoded = frame(&mut decoder, &delta(at(1), &closed));
        settled(&decoded.results[0]).bets_until
    };
    let settled_time = Some(time("2026-01-01T12:00:00Z"));
    assert_eq!(until(Some("OPEN"), false), None);
    assert_eq!(until(Some("OPEN"), true), settled_time);
    assert_eq!(until(Some("SUSPENDED"), false), settled_time);
    assert_eq!(
        until(None, false),
        settled_time,
        "closed before it was seen"
    );
}

/// A second result has the time of its message; the same one again is no news.
#[test]
fn second_result_replaces_first() {
    let mut decoder = decoder();
    frame(
        &mut decoder,
        &image(at(0), &[market("SUSPENDED", 1, &["ACTIVE"; 2], json!({}))]),
    );
    let mut decode = |pt, version, runners: &[&str], more| {
        let closed = market("CLOSED", version, runners, more);
        let decoded = frame(&mut decoder, &delta(at(pt), &closed));
        let times: Vec<_> = decoded
            .results
            .iter()
            .map(|one| one.revision.updated_at)
            .collect();
        (said(&decoded.results), times, decoded.refused_results.len())
    };
    let millis = |pt| Timestamp::from_millis(at(pt)).unwrap();
    let (said, times, _) = decode(10, 2, &["WINNER", "LOSER"], json!({}));
    assert_eq!(
        (said, times),
        (
            vec!["settlement 2: 1=won, 2=lost".to_owned()],
            vec![millis(0)]
        )
    );
    assert_eq!(
        decode(20, 3, &["WINNER", "LOSER"], json!({})),
        (vec![], vec![], 0)
    );
    let (said, times, _) = decode(30, 4, &["LOSER", "WINNER"], json!({}));
    assert_eq!(
        (said, times),
        (
            vec!["settlement 4: 1=lost, 2=won".to_owned()],
            vec![millis(30)]
        )
    );
    // An unclear one takes nothing back.
    assert_eq!(
        decode(40, 5, &["LOSER", "LOSER"], json!({})),
        (vec![], vec![], 1)
    );
    assert_eq!(
        decode(50, 6, &["LOSER", "WINNER"], json!({})),
        (vec![], vec![], 0)
    );
}

#[test]
fn reopened_market_and_reinstated_runner_are_rolled_back() {
    let mut decoder = decoder();
    let mut decode = |pt, status, version, runners: &[&str]| {
        let change = market(status, version, runners, json!({}));
        let decoded = frame(&mut decoder, &delta(at(pt), &change));
        let ordered = decoded.results.iter().map(|one| one.revision);
        (said(&decoded.results), ordered.max())
    };
    let (removed, first) = decode(-5, "OPEN", 1, &["REMOVED", "ACTIVE", "ACTIVE"]);
    assert_eq!(removed, ["settlement 1: 1=void"]);
    let (back, second) = decode(-4, "OPEN", 2, &["ACTIVE", "ACTIVE", "ACTIVE"]);
    assert_eq!(back, ["rollback_settlement 2: 1"]);
    let (closed, third) = decode(5, "CLOSED", 3, &["LOSER", "WINNER", "REMOVED"]);
    assert_eq!(closed, ["settlement 3: 1=lost, 2=won, 3=void"]);
    let (reopened, fourth) = decode(6, "SUSPENDED", 4, &["ACTIVE", "ACTIVE", "REMOVED"]);
    assert_eq!(reopened, ["rollback_settlement 4: 1, 2"]);
    let (again, fifth) = decode(7, "CLOSED", 5, &["WINNER", "LOSER", "REMOVED"]);
    assert_eq!(again, ["settlement 5: 1=won, 2=lost, 3=void"]);
    let order = [first, second, third, fourth, fifth];
    assert!(
        order.is_sorted_by(|earlier, later| earlier < later),
        "{order:?}"
    );
}

/// What an older image says is not news; what the market says after it is.
#[test]
fn older_image_takes_nothing_back() {
    let mut decoder = decoder();
    let closed = market("CLOSED", 9, &["WINNER", "LOSER"], json!({}));
    frame(&mut decoder, &image(at(1), std::slice::from_ref(&closed)));
    decoder.on_connected();
    let older = market("SUSPENDED", 8, &["ACTIVE", "ACTIVE"], json!({}));
    let decoded = frame(&mut decoder, &image(at(2), &[older]));
    assert_eq!(decoded.results, []);
    let decoded = frame(&mut decoder, &delta(at(3), &closed));
    assert_eq!(decoded.results, [], "known");
}

/// Another process, and the same one after a restart, publish the same records.
#[test]
fn other_process_publishes_same_records() {
    let removed = |status, runner: &str| {
        let mut json: Value = serde_json::from_str(&market(
            status,
            7,
            &[runner, "ACTIVE", "REMOVED"],
            json!({}),
        ))
        .unwrap();
        for (index, second) in [(0, 10), (2, 20)] {
            let runner = &mut json["marketDefinition"]["runners"][index];
            if runner["status"] == "REMOVED" {
                runner["adjustmentFactor"] = json!(12.345);
                runner["removalDate"] = json!(format!("2026-01-01T10:00:{second}.000Z"));
            }
        }
        json.to_string()
    };
    let closed = market("CLOSED", 9, &["REMOVED", "WINNER", "REMOVED"], json!({}));
    let mut running = decoder();
    let mut kept = crate::domain::settlement::market_results::MarketResults::default();
    for (pt, change) in [
        (-9, removed("OPEN", "ACTIVE")),
        (
            -8,
            removed("OPEN", "REMOVED").replace(r#""version":7"#, r#""version":8"#),
        ),
        (1, closed.clone()),
    ] {
        for record in frame(&mut running, &delta(at(pt), &change)).results {
            assert_eq!(kept.insert(record), Inserted::New);
        }
    }
    for (pt, change) in [
        (
            -1,
            removed("OPEN", "REMOVED").replace(r#""version":7"#, r#""version":8"#),
        ),
        (500, closed),
    ] {
        let restarted = frame(&mut decoder(), &image(at(pt), &[change])).results;
        assert_eq!(restarted.len(), 1);
        for record in restarted {
            assert_eq!(kept.insert(record.clone()), Inserted::Known, "{record:?}");
        }
    }
    assert_eq!(kept.conflicts().count(), 0);
}

/// The thousand retired markets: a result of a market that was forgotten is still a result.
#[test]
fn forgotten_market_can_be_settled_again() {
    let mut decoder = decoder();
    frame(
        &mut decoder,
        &image(
            at(0),
            &[market("CLOSED", 2, &["WINNER", "LOSER"], json!({}))],
        ),
    );
    for other in 0..1_500 {
        let closed = market("CLOSED", 2, &["WINNER", "LOSER"], json!({}))
            .replace("\"1.1\"", &format!("\"2.{other}\""));
        frame(&mut decoder, &delta(at(1), &closed));
    }
    assert!(decoder.held_markets() < 1_100);
    let again = market("CLOSED", 3, &["LOSER", "WINNER"], json!({}));
    let decoded = frame(&mut decoder, &delta(at(2), &again));
    assert_eq!(said(&decoded.results), ["settlement 3: 1=lost, 2=won"]);
}
