//! Finds all busy ports before anything starts, so that one failed startup reports them all.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::config::check::{grpc_ports, ports_of};
use crate::config::input::Source;

/// The ports that cannot be bound; at least one.
#[derive(Debug)]
pub struct BusyPorts(Vec<(&'static str, SocketAddr, io::Error)>);

impl fmt::Display for BusyPorts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (variable, address, cause)) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(
                out,
                "{separator}{variable}: cannot listen on {address}: {cause}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for BusyPorts {}

/// Tries to bind every port of these roles, except the default ports of gRPC, which may be busy. A
/// port that is taken after this check is reported by its server.
pub(super) fn check(config: &Config) -> Result<(), BusyPorts> {
    let (roles, settings) = (&config.roles, &config.settings);
    let ip = settings.process.bind_address;
    let optional = optional_ports(config);
    let wanted = ports_of(roles, settings)
        .into_iter()
        .filter(|(variable, port)| *port != 0 && !optional.contains(variable));
    let busy: Vec<_> = wanted
        .filter_map(|(variable, port)| {
            let address = SocketAddr::new(ip, port);
            TcpListener::bind(address)
                .err()
                .map(|cause| (variable, address, cause))
        })
        .collect();
    if busy.is_empty() {
        Ok(())
    } else {
        Err(BusyPorts(busy))
    }
}

/// The ports of gRPC that are not set. Another program often has one of these numbers, and a process
/// that nobody told to use gRPC starts without it.
pub(super) fn optional_ports(config: &Config) -> BTreeSet<&'static str> {
    let is_default = |variable: &str| {
        let mut shown = config.shown.iter();
        shown.any(|it| it.variable == variable && it.source == Source::Default)
    };
    grpc_ports(&config.settings.grpc)
        .into_iter()
        .map(|(_, variable, _)| variable)
        .filter(|variable| is_default(variable))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_busy_port_is_named() {
        let taken = [
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        ];
        let [odds, wallet] = taken
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().port().to_string());
        let mut variables: Vec<(String, String)> = crate::config::show::variables()
            .filter(|name| name.contains("_PORT_"))
            .map(|name| (name, "0".to_owned()))
            .collect();
        variables.push(("HTTP_PORT_ODDS".to_owned(), odds.clone()));
        variables.push(("METRICS_PORT_WALLET".to_owned(), wallet.clone()));
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let config = Config::from_variables(&variables).unwrap();
        let busy = check(&config).unwrap_err().to_string();
        assert!(
            busy.starts_with(&format!(
                "HTTP_PORT_ODDS: cannot listen on 127.0.0.1:{odds}: "
            )),
            "{busy}"
        );
        assert!(
            busy.contains(&format!(
                "; METRICS_PORT_WALLET: cannot listen on 127.0.0.1:{wallet}: "
            )),
            "{busy}"
        );
        drop(taken);
        assert!(check(&config).is_ok());
    }
}
