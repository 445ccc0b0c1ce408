use std::ffi::OsString;

use pretty_assertions::assert_eq;

use super::*;
use crate::actors::settlement::testing::{House, home_won, other};
use crate::cli::{Command, parse};

fn run_on(house: &House, args: &str) -> Result<String, ReportError> {
    let args = ["sports-bet", "report"]
        .into_iter()
        .chain(args.split_whitespace());
    let (command, _) = parse(args.map(OsString::from), &|_| None).unwrap();
    let Command::Report(args) = command else {
        panic!("{command:?}");
    };
    let mut out = Vec::new();
    run(&args, &StoreEngine::Sqlite(house.path.clone()), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn liability_names_what_each_outcome_costs() {
    let house = House::open();
    assert_eq!(run_on(&house, "liability").unwrap(), "no open bets\n");
    house.confirmed("U", "home");
    house.confirmed("V", "home");
    house.confirmed("V", "away");
    house.place("V", "away");
    let text = "MATCH_002/1x2  3 open bets, stakes 3000\n    \
                away wins: 1 bets with stakes 1000 pay 2345, result +655\n    \
                home wins: 2 bets with stakes 2000 pay 4690, result -1690\n";
    assert_eq!(run_on(&house, "liability").unwrap(), text);
    assert_eq!(run_on(&house, "liability --event MATCH_002").unwrap(), text);
    assert_eq!(
        run_on(&house, "liability --event MATCH_003").unwrap(),
        "no open bets\n"
    );
    let json = run_on(&house, "liability --json").unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["stake_cents"], 3_000);
    assert_eq!(json[0]["selections"][1]["result_cents"], -1_690);
    house.receive(home_won(1));
    house.settle();
    assert_eq!(
        run_on(&house, "liability").unwrap(),
        "no open bets\n",
        "a pending bet does not count"
    );
}

#[test]
fn settled_totals_add_up() {
    let house = House::open();
    house.confirmed("U", "home");
    house.confirmed("V", "away");
    house.receive(home_won(1));
    house.settle();
    house.wait(10);
    house.receive(other("rollback_settlement", 2, serde_json::json!({})));
    house.settle();
    let at = |seconds| crate::domain::settlement::testing::at(seconds);
    let first = format!("settled --from {} --to {}", at(100), at(105));
    assert_eq!(
        run_on(&house, &first).unwrap(),
        "lost: 1 settlements, +0 cents to users\n\
         won: 1 settlements, +2345 cents to users\n\
         payout: 1 transfers, 2345 cents\n\
         settle: 2 transfers, 2000 cents\n\
         result of the house: -345 cents\n"
    );
    let second = format!("settled --from {} --to {} --json", at(105), at(200));
    let json: serde_json::Value = serde_json::from_str(&run_on(&house, &second).unwrap()).unwrap();
    assert_eq!(json["result_cents"], 345);
    assert_eq!(json["outcomes"][0]["outcome"], serde_json::Value::Null);
    let empty = format!("settled --from {} --to {}", at(5), at(5));
    assert_eq!(run_on(&house, &empty).unwrap_err().exit_code(), exit::USAGE);
}
