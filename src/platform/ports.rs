//! Finds all busy ports before anything starts, so that one failed startup reports them all.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::check::ports_of;
use crate::config::settings::{Role, Settings};

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

/// Tries to bind every port of these roles. A port that is taken after this check is reported by
/// its server.
pub(super) fn check(roles: &BTreeSet<Role>, settings: &Settings) -> Result<(), BusyPorts> {
    let ip = settings.process.bind_address;
    let wanted = ports_of(roles, &settings.ports)
        .into_iter()
        .filter(|(_, port)| *port != 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

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
        let busy = check(&config.roles, &config.settings)
            .unwrap_err()
            .to_string();
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
        assert!(check(&config.roles, &config.settings).is_ok());
    }
}
