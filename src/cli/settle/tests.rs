use std::ffi::OsString;
use std::io::ErrorKind;

use pretty_assertions::assert_eq;

use super::*;
use crate::actors::settlement::testing::{House, home_won, other};
use crate::cli::testing::Failing;
use crate::cli::{Command, parse};
use crate::config::input::ConfigExit;
use crate::domain::settlement::testing::{at, by};
use crate::store::money::ResultStore;

fn parsed(args: &str) -> Result<SettleArgs, ConfigExit> {
    let args = ["sports-bet", "settle", "MATCH_002", "1x2", "--reason", "r"]
        .into_iter()
        .chain(args.split_whitespace());
    let (command, _) = parse(args.map(OsString::from), &|_| None)?;
    match command {
        Command::Settle(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn engine(house: &House) -> StoreEngine {
    StoreEngine::Sqlite(house.path.clone())
}

fn run_on(house: &House, args: &str) -> Result<String, SettleError> {
    let mut out = Vec::new();
    run(&parsed(args).unwrap(), &engine(house), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Settles what is due now; the command uses the system's clock.
fn settle(house: &House) {
    *house.now.lock() = Timestamp::now().later_by(std::time::Duration::from_secs(1));
    house.settle();
}

fn records(house: &House) -> Vec<ResultRecord> {
    let event = EventId::new("MATCH_002").unwrap();
    let stored = house.store.event_results(&event, 100).unwrap();
    stored.into_iter().map(|stored| stored.record).collect()
}

#[test]
fn dry_run_prints_every_bet_and_stores_nothing() {
    let house = House::open();
    let winner = house.confirmed("U1", "home");
    let loser = house.confirmed("U2", "away");
    let printed = run_on(&house, "--winner home --by Ann --dry-run").unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines[..3],
        [
            format!("{winner}  U1  home  1000 at 2.345  open  becomes won 2345  +2345"),
            format!("{loser}  U2  away  1000 at 2.345  open  becomes lost 0  +0"),
            "bets: 2 change, 0 stay, 0 held; paid 2345, taken back 0 cents".to_owned(),
        ]
    );
    assert!(
        lines[3].starts_with("dry run, nothing is stored: {\"type\":\"settlement\""),
        "{printed}"
    );
    assert_eq!(records(&house), []);
}

#[test]
fn decision_is_paid_whatever_the_sources_said() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    let other = house.confirmed("V", "away");
    house.receive(home_won(1));
    settle(&house);
    let printed = run_on(&house, "--winner away --by Ann").unwrap();
    assert!(
        printed.starts_with(
            "bets: 2 change, 0 stay, 0 held; paid 2345, taken back 2345 cents\nstored: "
        ),
        "{printed}"
    );
    settle(&house);
    assert_eq!(
        (house.state(bet), house.state(other)),
        ("lost 0".to_owned(), "won 2345".to_owned())
    );
    let stored = records(&house);
    let written = stored.last().unwrap();
    assert_eq!(written.source.as_str(), "operator:Ann");
    assert_eq!(written.note.as_ref().unwrap().as_str(), "r");
}

#[test]
fn each_decision_does_what_it_says() {
    let house = House::open();
    let bet = house.confirmed("U", "home");
    let state_after = |args: &str| {
        run_on(&house, args).unwrap();
        settle(&house);
        house.state(bet)
    };
    assert_eq!(state_after("--void"), "void 1000");
    assert_eq!(state_after("--rollback"), "CONFIRMED");
    assert_eq!(state_after("--dead-heat home 1/2"), "dead_heat 1172");
    assert_eq!(state_after("--cancel"), "void 1000");
    assert_eq!(state_after("--rollback-cancel"), "dead_heat 1172");
    assert_eq!(state_after("--void-selection home"), "void 1000");
    assert_eq!(state_after("--winner home"), "won 2345");
    assert_eq!(
        state_after("--cancel --from 2030-01-01T00:00:00Z"),
        "won 2345",
        "the bet was placed before"
    );
    assert_eq!(
        state_after("--winner home --bets-until 2020-01-01T00:00:00Z"),
        "void 1000",
        "the bet was placed later"
    );
}

/// A result concerns one round: that of the open bets, unless another one is named.
#[test]
fn result_concerns_one_round() {
    let house = House::open();
    let opens = |start: i64, version| {
        let selections = serde_json::json!([{"id": "home", "result": "undecided"}]);
        let fields = serde_json::json!({"selections": selections, "bets_from": at(start)});
        by("operator:Zoe", other("settlement", version, fields))
    };
    house.receive(opens(1, 1));
    let bet = house.confirmed("U", "home");
    run_on(&house, "--winner home").unwrap();
    settle(&house);
    assert_eq!(house.state(bet), "won 2345");
    // Another round begins at the time of the bet.
    house.receive(opens(5, 2));
    settle(&house);
    assert_eq!(house.state(bet), "CONFIRMED");
    let first = at(1);
    run_on(&house, &format!("--winner home --bets-from {first}")).unwrap();
    settle(&house);
    assert_eq!(house.state(bet), "CONFIRMED", "the result of another round");
    run_on(&house, "--winner home").unwrap();
    settle(&house);
    assert_eq!(house.state(bet), "won 2345");
}

#[test]
fn decision_must_fit_the_market() {
    let house = House::open();
    let failure = |args: &str| {
        let failure = run_on(&house, args).unwrap_err();
        (failure.to_string(), failure.exit_code())
    };
    assert_eq!(
        failure("--winner home"),
        (
            "the market is not known: it has no prices, no results and no bets".to_owned(),
            exit::FAILED
        )
    );
    house.confirmed("U", "home");
    assert_eq!(
        failure("--winner hom"),
        (
            "the market has no selection `hom`; it has `home`".to_owned(),
            exit::FAILED
        )
    );
    assert_eq!(
        failure("--dead-heat home half").0,
        "--dead-heat: got \"half\", want the places left, divided by the selections that share them, like 1/2"
    );
    assert_eq!(
        failure("--cancel --from 2030-01-01T00:00:00Z --until 2029-01-01T00:00:00Z").0,
        "the window from 2030-01-01T00:00:00Z until 2029-01-01T00:00:00Z is empty"
    );
    assert_eq!(records(&house), []);
}

#[test]
fn contradictory_options_are_refused() {
    for args in [
        "",
        "--void --winner home",
        "--void --rollback",
        "--cancel --rollback-cancel",
        "--winner home --from 2030-01-01T00:00:00Z",
        "--winner home --cancel",
    ] {
        assert!(parsed(args).is_err(), "{args}");
    }
}

/// The rules of the server decide what the bets would get.
#[test]
fn preview_follows_the_rules() {
    let house = House::open();
    house.confirmed("U", "home");
    house.receive(home_won(1));
    let dry_run = |args: &str| run_on(&house, &format!("--rollback --dry-run {args}")).unwrap();
    assert!(
        dry_run("").contains("0 change, 1 stay"),
        "nobody trusts native-1"
    );
    settle(&house);
    assert!(
        dry_run("--settlement-sources native-1").contains("1 change, 0 stay"),
        "the operator ends what native-1 said"
    );
}

#[test]
fn output_failures_are_told() {
    let house = House::open();
    house.confirmed("U", "home");
    let write = |kind| {
        let args = parsed("--winner home --dry-run").unwrap();
        run(&args, &engine(&house), &mut Failing(kind))
    };
    assert!(write(ErrorKind::BrokenPipe).is_ok());
    let failure = write(ErrorKind::StorageFull).unwrap_err();
    assert_eq!(failure.exit_code(), exit::OUTPUT);
}
