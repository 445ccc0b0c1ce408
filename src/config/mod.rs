//! Configuration: the command line over the environment over the defaults. It is checked as a whole
//! before anything starts.

pub(crate) mod address;
pub(crate) mod check;
pub(crate) mod endpoint;
pub mod engines;
pub mod input;
pub(crate) mod kafka;
pub(crate) mod limits;
pub(crate) mod load;
pub mod names;
pub mod settings;
pub(crate) mod show;
pub(crate) mod values;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use crate::config::endpoint::Endpoint;
use crate::runtime::tls::{self, TlsSetupError};
use crate::telemetry::trace::TraceOptions;
use engines::{BusEngine, CacheEngine, Engines};
use input::{ConfigError, ConfigExit, ConfigInput, EffectiveSetting};
use load::Environment;
use settings::{Role, Settings};

/// The original's supplier address, which is also the default of a simulator in its own process.
pub(crate) const DEFAULT_SUPPLIER: &str = "ws://127.0.0.1:8081/ws";
/// Where that supplier confirms bets.
pub(crate) const DEFAULT_CONFIRM_URL: &str = "http://127.0.0.1:8081";

/// Where the role `ingest` connects to suppliers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suppliers {
    /// The simulator of this process, on its actual port.
    OwnSimulator,
    /// These addresses; at least one.
    At(Vec<Endpoint>),
}

/// The checked configuration of `serve`. A value of this type is always valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// The roles that this process runs; at least one.
    pub roles: BTreeSet<Role>,
    /// The suppliers to connect to.
    pub suppliers: Suppliers,
    /// The engines to use.
    pub engines: Engines,
    /// The individual settings.
    pub settings: Settings,
    /// Every setting in displayable form.
    pub shown: Vec<EffectiveSetting>,
}

/// A command line that consists of settings only.
#[derive(Parser)]
#[command(name = "sports-bet", about = None, long_about = None)]
struct Alone {
    #[command(flatten)]
    settings: Settings,
}

impl Config {
    /// Checks the settings as a whole. Reports errors found while parsing together with its own.
    pub fn new(settings: Settings, input: ConfigInput) -> Result<Config, ConfigExit> {
        check::check(settings, input)
    }

    /// Warnings about settings that have no effect in combination with the others.
    pub fn warnings(&self) -> Vec<String> {
        let is_set = |variable: &&&str| {
            let setting = self
                .shown
                .iter()
                .find(|setting| setting.variable == **variable);
            setting.is_some_and(|setting| setting.source != input::Source::Default)
        };
        let mut warnings = Vec::new();
        let mut idle = |variables: &[&str], why: &str| {
            let set: Vec<_> = variables.iter().filter(is_set).copied().collect();
            if !set.is_empty() {
                warnings.push(format!("{} has no effect: {why}", set.join(", ")));
            }
        };
        self.check_idle_engines(&mut idle);
        self.check_idle_ports(&mut idle);
        warnings
    }

    /// Calls `idle` with the settings of engines that this process does not use, and the reason.
    fn check_idle_engines(&self, idle: &mut dyn FnMut(&[&str], &str)) {
        if self.engines.bus == BusEngine::Embedded {
            let kafka = [
                "KAFKA_SECURITY_PROTOCOL",
                "KAFKA_SASL_MECHANISM",
                "KAFKA_SASL_USERNAME",
                "KAFKA_SASL_PASSWORD",
                "KAFKA_CA_FILE",
                "KAFKA_TOPIC_PARTITIONS",
                "KAFKA_TOPIC_REPLICATION",
            ];
            idle(
                &kafka,
                "KAFKA_BROKERS is not set, so the embedded bus is used",
            );
        }
        if matches!(self.engines.cache, CacheEngine::Embedded) {
            idle(
                &["REDIS_CA_FILE", "REDIS_PUBSUB_CHANNEL"],
                "REDIS_URL is not set, so the embedded cache is used",
            );
        }
    }

    /// The same for the settings of ports for clients.
    fn check_idle_ports(&self, idle: &mut dyn FnMut(&[&str], &str)) {
        if !self.runs_any(&Role::WITH_CLIENTS) {
            idle(
                &["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"],
                "no role of this process has a port for clients",
            );
        }
        if let Some((variables, why)) = check::access::idle(&self.settings) {
            idle(variables, why);
        }
        if self.runs(Role::Gateway) {
            let local: Vec<&str> = self
                .settings
                .gateway
                .services()
                .into_iter()
                .filter(|(role, ..)| self.runs(*role))
                .map(|(_, variable, _)| variable)
                .collect();
            idle(
                &local,
                "the gateway itself serves the roles that run in its process",
            );
        }
    }

    /// The roles of this process as one name: `all`, or as in the setting.
    pub fn role_names(&self) -> String {
        if self.roles.len() == Role::ALL.len() {
            return "all".to_owned();
        }
        let names: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        names.join(",")
    }

    /// Where traces are sent; `None` if they are not. Reads the system's certificate authorities for
    /// an https:// address.
    pub fn trace_options(&self) -> Result<Option<TraceOptions>, TlsSetupError> {
        let settings = &self.settings.tracing;
        let Some(endpoint) = &settings.otel_exporter_otlp_endpoint else {
            return Ok(None);
        };
        let is_encrypted = endpoint.expose().scheme() == "https";
        let only_role = self.roles.first().filter(|_| self.roles.len() == 1);
        let default_name = || match only_role {
            Some(role) => format!("sports-bet-{}", role.name()),
            None => "sports-bet".to_owned(),
        };
        Ok(Some(TraceOptions {
            endpoint: endpoint.expose().clone(),
            tls: is_encrypted
                .then(|| tls::client_config("OTEL_EXPORTER_OTLP_ENDPOINT", None))
                .transpose()?,
            service: settings
                .otel_service_name
                .clone()
                .unwrap_or_else(default_name),
            attributes: settings.otel_resource_attributes.0.clone(),
            bets: settings.otel_traces_sampler_arg,
            odds_per_second: settings.trace_odds_per_second,
        }))
    }

    /// Whether this process runs a role.
    pub fn runs(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the ports for clients accept only TLS.
    pub fn has_tls(&self) -> bool {
        self.settings.tls.files().is_some()
    }

    /// Whether this process runs any of these roles.
    pub fn runs_any(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.runs(*role))
    }

    /// Parses the flags of `serve`, without the program name, over this environment. The process
    /// environment is ignored.
    pub fn from_args_and_env(
        args: impl Iterator<Item = OsString>,
        environment: Environment<'_>,
    ) -> Result<Config, ConfigExit> {
        let args = std::iter::once(OsString::from("sports-bet")).chain(args);
        let (alone, input) = load::load::<Alone>(args, environment)?;
        Config::new(alone.settings, input)
    }

    /// Creates a configuration from a few variables and the defaults of all others, for tests and
    /// for programs that embed the platform. An unknown name is an error.
    pub fn from_variables(variables: &[(&str, &str)]) -> Result<Config, ConfigExit> {
        let known: BTreeSet<String> = show::variables().collect();
        let unknown: Vec<ConfigError> = variables
            .iter()
            .filter(|(variable, _)| !known.contains(*variable))
            .map(|(variable, _)| ConfigError {
                variable: (*variable).to_owned(),
                flag: None,
                got: "a value".to_owned(),
                want: "the name of a setting".to_owned(),
            })
            .collect();
        if !unknown.is_empty() {
            return Err(ConfigExit::Wrong(unknown));
        }
        let value = |name: &str| {
            // The last value wins, as in an environment.
            variables
                .iter()
                .rev()
                .find(|(variable, _)| *variable == name)
                .map(|(_, value)| OsString::from(value))
        };
        Config::from_args_and_env(std::iter::empty(), &value)
    }
}

/// Loads `.env` from the working directory into the environment; variables that are already set
/// win. Call it first in `main`, before any thread starts. A missing file is not an error.
pub fn read_dotenv() -> Result<(), ConfigExit> {
    let path = Path::new(".env");
    match dotenvy::from_path(path) {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        Err(error) => Err(ConfigExit::Wrong(vec![dotenv_error(path, &error)])),
    }
}

/// Names the position of the error without displaying the line, which may contain a secret.
fn dotenv_error(path: &Path, error: &dotenvy::Error) -> ConfigError {
    let (got, want) = match error {
        dotenvy::Error::LineParse(..) => {
            let good = dotenvy::from_path_iter(path)
                .into_iter()
                .flatten()
                .map_while(Result::ok);
            let place = good
                .last()
                .map_or("the first line".to_owned(), |(name, _)| {
                    format!("the line after {name}")
                });
            (
                place,
                "NAME=value on a line, with the value in quotes if it contains spaces or #",
            )
        }
        other => (other.to_string(), "a file that can be read"),
    };
    ConfigError {
        variable: ".env".to_owned(),
        flag: None,
        got,
        want: want.to_owned(),
    }
}

#[cfg(test)]
mod tests;
