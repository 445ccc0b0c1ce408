//! The settings as they were given, and what is wrong with them.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use strum::IntoStaticStr;

/// The exit code for a wrong command line or setting.
const WRONG_USAGE: u8 = 2;

/// A setting whose value is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{}: got {got}, want {want}", name_of(.variable, .flag.as_deref()))]
pub struct ConfigError {
    /// Its environment variable, or its flag if it has none.
    pub variable: String,
    /// The flag, if the value came from one.
    pub flag: Option<String>,
    /// The value in quotes, with secrets masked.
    pub got: String,
    /// The expected form; completes the sentence "want …".
    pub want: String,
}

fn name_of(variable: &str, flag: Option<&str>) -> String {
    match flag {
        Some(flag) if flag != variable => format!("{variable} ({flag})"),
        _ => variable.to_owned(),
    }
}

/// Why the program exits instead of running a command. Requested help is one of the reasons.
#[derive(Debug)]
pub enum ConfigExit {
    /// clap answers: help, version, or an unknown flag or subcommand.
    Usage(Box<clap::Error>),
    /// Some settings have wrong values.
    Wrong(Vec<ConfigError>),
}

impl ConfigExit {
    /// Prints the message and returns the exit code: 0 for requested help, 2 for an error.
    pub fn report(&self) -> ExitCode {
        if let ConfigExit::Usage(usage) = self {
            // If even this cannot be written, nothing more can be done.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(WRONG_USAGE));
        }
        let _ = writeln!(std::io::stderr(), "{self}");
        ExitCode::from(WRONG_USAGE)
    }
}

impl fmt::Display for ConfigExit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigExit::Usage(usage) => fmt::Display::fmt(usage, formatter),
            ConfigExit::Wrong(wrong) => {
                let lines: Vec<String> = wrong.iter().map(ConfigError::to_string).collect();
                formatter.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for ConfigExit {}

/// The origin of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Source {
    /// The value is the default.
    Default,
    /// The value comes from an environment variable or `.env`.
    Environment,
    /// The value comes from the command line.
    Flag,
}

impl Source {
    /// The source's name in the output of `check-config`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A setting in displayable form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The help heading that it belongs to.
    pub heading: String,
    /// Its environment variable.
    pub variable: String,
    /// Its flag.
    pub flag: String,
    /// Its value with secrets masked; empty if it has none.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
}

/// The settings as displayed and the errors found while parsing; complements the typed values.
#[derive(Clone, Debug, Default)]
pub struct ConfigInput {
    /// Every setting of the command, in the order of its help.
    pub settings: Vec<EffectiveSetting>,
    /// Errors for wrong values; the typed values hold the defaults instead.
    pub wrong: Vec<ConfigError>,
}

impl ConfigInput {
    /// A setting by its variable.
    pub fn setting(&self, variable: &str) -> Option<&EffectiveSetting> {
        self.settings
            .iter()
            .find(|setting| setting.variable == variable)
    }

    /// Whether the setting was set by a flag or a variable.
    pub fn is_set(&self, variable: &str) -> bool {
        self.setting(variable)
            .is_some_and(|setting| setting.source != Source::Default)
    }

    /// An error about a setting, with its value masked.
    pub fn error(&self, variable: &str, want: impl Into<String>) -> ConfigError {
        let setting = self.setting(variable);
        ConfigError {
            variable: variable.to_owned(),
            flag: setting
                .filter(|setting| setting.source == Source::Flag)
                .map(|setting| setting.flag.clone()),
            got: setting.map_or_else(|| "nothing".to_owned(), |setting| quoted(&setting.value)),
            want: want.into(),
        }
    }

    /// Fails if any value was wrong.
    pub fn complete(&self) -> Result<(), ConfigExit> {
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigExit::Wrong(self.wrong.clone()))
        }
    }
}

/// A value in quotes, as errors show it.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}
