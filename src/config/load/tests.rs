use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, show};

/// A command with kinds of arguments that the settings of `serve` do not have.
#[derive(Parser, Debug)]
struct Player {
    #[arg(long, env = "PLAYER_LOOP")]
    r#loop: bool,
    #[arg(long, env = "PLAYER_SPEED")]
    speed: u32,
    #[arg(long)]
    limit: Option<u32>,
    numbers: Vec<u32>,
}

fn player(args: &[&str], variables: &[(&str, &str)]) -> Result<(Player, ConfigInput), ConfigExit> {
    let args = ["player"].iter().chain(args).map(OsString::from);
    load(args, &|name| {
        variables
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value.into())
    })
}

#[test]
fn variable_replaces_required_or_valueless_flag() {
    for (value, plays) in [("true", true), ("false", false), ("", false)] {
        let (player, _) = player(
            &["1", "2"],
            &[("PLAYER_SPEED", "3"), ("PLAYER_LOOP", value)],
        )
        .unwrap();
        assert_eq!(
            (player.r#loop, player.speed, player.numbers),
            (plays, 3, vec![1, 2]),
            "{value}"
        );
    }
    assert!(
        matches!(player(&[], &[]), Err(ConfigExit::Usage(error)) if error.kind() == ErrorKind::MissingRequiredArgument)
    );
}

#[test]
fn wrong_value_is_reported_by_flag() {
    let (_, given) = player(&["--speed", "1", "--limit=x"], &[]).unwrap();
    assert_eq!(
        given.wrong[0].to_string(),
        "--limit: got \"x\", want invalid digit found in string"
    );
    assert!(given.complete().is_err());
    // A value without a flag cannot be left out, so parsing fails, but the errors found before
    // are reported too.
    let stop = player(&["--limit", "x", "y"], &[("PLAYER_SPEED", "1")])
        .unwrap_err()
        .to_string();
    assert!(
        stop.contains("--limit: got \"x\"") && stop.contains("[NUMBERS]...: got \"y\""),
        "{stop}"
    );
}

#[test]
fn process_environment_is_ignored() {
    // Every process has a PATH.
    #[derive(Parser)]
    struct Walker {
        #[arg(long, env = "PATH")]
        path: Option<String>,
    }
    assert!(std::env::var_os("PATH").is_some());
    let (walker, _) = load::<Walker>([OsString::from("walker")], &|_| None).unwrap();
    assert_eq!(walker.path, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_values_never_panic(place in 0_usize..52, text in "\\PC{0,20}|[a-z0-9,:/@.]{0,20}|-.*") {
        let variables: Vec<String> = show::variables().collect();
        let variable = &variables[place % variables.len()];
        let _ = Config::from_variables(&[(variable, &text)]);
        let flag = format!("--{}={text}", variable.to_lowercase().replace('_', "-"));
        let _ = Config::from_args_and_env([OsString::from(flag), OsString::from(&text)].into_iter(), &|_| None);
    }
}
