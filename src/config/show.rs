//! The configuration as text: what is in force, and an example of everything that can be set.

use clap::{Arg, Args, Command};

use super::names::Doubtful;
use super::settings::Settings;
use super::{Config, Suppliers};

/// Lines of the example are no longer than this.
const WIDTH: usize = 118;

/// Every setting with its value and where that comes from, secrets masked.
pub fn effective(config: &Config) -> String {
    let mut text = String::new();
    let mut heading = "";
    for setting in &config.shown {
        if setting.heading != heading {
            heading = &setting.heading;
            text += &format!("{}# {heading}\n", if text.is_empty() { "" } else { "\n" });
        }
        let line = format!("{}={}", setting.variable, in_quotes(&setting.value));
        text += &format!("{line:<48} # {}\n", setting.source.name());
    }
    text + &summary(config)
}

/// What the settings come to.
fn summary(config: &Config) -> String {
    let roles: Vec<&str> = config.roles.iter().map(|role| role.name()).collect();
    let suppliers = match &config.suppliers {
        Suppliers::OwnSimulator => "the simulator of this process".to_owned(),
        Suppliers::At(urls) => urls
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    };
    let (roles, engines) = (roles.join(" "), config.engines.summary());
    format!("\n# In all\n# roles: {roles}\n# suppliers: {suppliers}\n{engines}")
}

/// What may not be as it was meant, a comment each; empty where nothing is.
pub fn warnings(doubtful: &[Doubtful], config: &Config) -> String {
    let names = doubtful.iter().map(ToString::to_string);
    let lines: Vec<String> = names
        .chain(config.warnings())
        .map(|line| format!("# {line}\n"))
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("\n# Warnings\n{}", lines.concat())
    }
}

/// Every setting with its default and its help, as a `.env` file in which nothing is set.
pub fn example() -> String {
    let mut text = "# Every setting, with its default. Copy this file to .env and uncomment what should differ.\n\
                    # A variable that is set in the environment wins over .env, a flag over both; an empty one counts as not set.\n\
                    # `sports-bet check-config` shows what is in force. This file is written by `sports-bet check-config --example`.\n"
        .to_owned();
    let mut heading = "";
    let command = settings_command();
    for arg in settings(&command) {
        let stands_under = arg.get_help_heading().unwrap_or("Other");
        if stands_under != heading {
            heading = stands_under;
            text += &format!("\n# ---- {heading} ----\n");
        }
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        for line in wrapped(&format!("{help}.{}", choices(arg))) {
            text += &format!("# {line}\n");
        }
        let default: Vec<String> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        text += &format!("#{}={}\n", variable(arg), in_quotes(&default.join(",")));
    }
    text
}

/// The variable of every setting.
pub fn variables() -> impl Iterator<Item = String> {
    let command = settings_command();
    settings(&command)
        .map(variable)
        .collect::<Vec<_>>()
        .into_iter()
}

fn settings_command() -> Command {
    let mut command = Settings::augment_args(Command::new("settings"));
    command.build();
    command
}

fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| arg.get_env().is_some())
}

fn variable(arg: &Arg) -> String {
    arg.get_env()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn choices(arg: &Arg) -> String {
    let names: Vec<String> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" One of: {}", names.join(", "))
    }
}

/// A value that `.env` reads back as it is.
fn in_quotes(value: &str) -> String {
    if value.contains('\'') {
        format!(
            "\"{}\"",
            value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('$', "\\$")
        )
    } else if value.contains(|letter: char| letter.is_whitespace() || "#\"$\\".contains(letter)) {
        format!("'{value}'")
    } else {
        value.to_owned()
    }
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn the_example_in_the_repository_is_the_one_of_the_code() {
        let file = include_str!("../../.env.example");
        assert_eq!(
            file,
            example(),
            "write it anew: cargo run -- check-config --example > .env.example"
        );
    }

    #[test]
    fn the_example_uncommented_is_the_default_configuration() {
        let uncommented: String = example()
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|line| line.starts_with(char::is_uppercase))
                    .unwrap_or(line)
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let read: Vec<(String, String)> = dotenvy::from_read_iter(uncommented.as_bytes())
            .map(Result::unwrap)
            .collect();
        let pairs: Vec<(&str, &str)> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(pairs.len(), variables().count());
        let values = |config: &Config| {
            config
                .shown
                .iter()
                .map(|shown| shown.value.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            values(&Config::from_variables(&pairs).unwrap()),
            values(&Config::from_variables(&[]).unwrap())
        );
    }

    #[test]
    fn what_is_shown_says_where_it_comes_from() {
        let config = Config::from_variables(&[
            ("BETFAIR_APP_KEY", "hunter2"),
            ("SUPPLIER_URLS", "wss://user:hunter2@host/ws,betfair://b:1"),
            ("ROLE", "ingest,processor"),
            ("DATABASE_URL", "/srv/a b.db"),
        ])
        .unwrap();
        let text = effective(&config);
        let told: Vec<&str> = text
            .lines()
            .filter(|line| !line.ends_with("# default"))
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
# Process
ROLE=ingest,processor                            # environment

# Ports (0 takes a free one)

# Bus

# Cache and books

# Database
DATABASE_URL='/srv/a b.db'                       # environment

# Suppliers
SUPPLIER_URLS=wss://user:***@host/ws,betfair://b:1 # environment
BETFAIR_APP_KEY=***                              # environment

# Simulator

# Clients

# Limits of clients

# Wallets and bets

# Confirmation

# In all
# roles: ingest processor
# suppliers: wss://host/ws betfair://b:1
# bus: embedded
# cache: embedded
# database: SQLite, /srv/a b.db
"#);
        assert!(
            text.contains("WS_MAX_MESSAGE=64KiB                             # default\n"),
            "{text}"
        );
    }
}
