//! Where a supplier is, and which wire form it speaks.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use super::address::{self, AddressError, Login};

/// Where a supplier is, and which wire form it speaks. Shown without credentials and without its
/// query.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The native form over WebSocket: `ws://` or `wss://`.
    Native(Url),
    /// The Exchange Stream: `betfair://` over TCP, `betfairs://` over TLS.
    Betfair {
        /// Name or address, an IPv6 address without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
    },
}

/// Why a URL is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is no URL, or one that parsers read differently.
    #[error(
        "not a URL ({0}); ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port is wanted"
    )]
    Address(AddressError),
    /// The scheme names no wire form.
    #[error(
        "`{0}://` names no supplier; ws:// or wss:// (native), betfair:// or betfairs:// (Exchange Stream) is wanted"
    )]
    UnknownScheme(String),
    /// There is no host.
    #[error("`{0}://` without a host; {0}://host:port is wanted")]
    NoHost(String),
    /// `betfair://` without a port: there is no usual one.
    #[error("`betfair://{0}` without a port; betfair://host:port is wanted")]
    NoPort(String),
    /// A `betfair` URL with a user, path, query or fragment, which would mean nothing.
    #[error(
        "`{0}://` takes only host and port; {0}://host:port is wanted, and the key in BETFAIR_APP_KEY"
    )]
    TooMuch(String),
}

/// The port of Betfair's stream over TLS.
const BETFAIR_TLS_PORT: u16 = 443;

impl TryFrom<&Url> for Endpoint {
    type Error = EndpointError;

    fn try_from(url: &Url) -> Result<Endpoint, EndpointError> {
        let scheme = url.scheme();
        match scheme {
            "ws" | "wss" => {
                // Found here, and not at each connect.
                Login::of(url)
                    .map(|login| login.authorization())
                    .transpose()
                    .map_err(EndpointError::Address)?;
                Ok(Endpoint::Native(url.clone()))
            }
            "betfair" | "betfairs" => betfair_endpoint(url, scheme == "betfairs"),
            _ => Err(EndpointError::UnknownScheme(scheme.to_owned())),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::try_from(&address::parse(text).map_err(EndpointError::Address)?)
    }
}

fn betfair_endpoint(url: &Url, tls: bool) -> Result<Endpoint, EndpointError> {
    let scheme = url.scheme().to_owned();
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) if !host.to_string().is_empty() => host.to_string(),
        _ => return Err(EndpointError::NoHost(scheme)),
    };
    let bare =
        url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
    if !bare || url.query().is_some() || url.fragment().is_some() {
        return Err(EndpointError::TooMuch(scheme));
    }
    match url.port().or(tls.then_some(BETFAIR_TLS_PORT)) {
        Some(port) => Ok(Endpoint::Betfair { host, port, tls }),
        None => Err(EndpointError::NoPort(host)),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Native(url) => address::write_public(url, out),
            Endpoint::Betfair { host, port, tls } => {
                let scheme = if *tls { "betfairs" } else { "betfair" };
                if host.contains(':') {
                    write!(out, "{scheme}://[{host}]:{port}")
                } else {
                    write!(out, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    /// As shown: the Debug form of a URL would show its password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        url.parse::<Endpoint>().map_or_else(
            |error| format!("error: {error}"),
            |endpoint| endpoint.to_string(),
        )
    }

    #[test]
    fn the_scheme_names_the_wire_form() {
        assert_eq!(shown("ws://127.0.0.1:8081/ws"), "ws://127.0.0.1:8081/ws");
        assert_eq!(
            shown("betfair://localhost:8085"),
            "betfair://localhost:8085"
        );
        assert_eq!(
            shown("betfairs://stream-api.betfair.com"),
            "betfairs://stream-api.betfair.com:443"
        );
        assert_eq!(shown("betfair://[::1]:8085"), "betfair://[::1]:8085");
        let endpoint: Endpoint = "betfair://[::1]:8085".parse().unwrap();
        assert_eq!(
            endpoint,
            Endpoint::Betfair {
                host: "::1".to_owned(),
                port: 8085,
                tls: false
            }
        );
    }

    #[test]
    fn a_wrong_url_is_told_what_is_wanted() {
        let wrong = [
            "localhost",
            "http://a/",
            "betfair://a",
            "betfair://:1",
            "betfairs://a:1/x",
            "betfair://k:s@a:1",
            "ws://",
        ];
        insta::assert_snapshot!(wrong.map(shown).join("\n"), @"
        error: not a URL (it has no scheme, as the `ws` of ws://host); ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port is wanted
        error: `http://` names no supplier; ws:// or wss:// (native), betfair:// or betfairs:// (Exchange Stream) is wanted
        error: `betfair://a` without a port; betfair://host:port is wanted
        error: not a URL (its host or port cannot be read); ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port is wanted
        error: `betfairs://` takes only host and port; betfairs://host:port is wanted, and the key in BETFAIR_APP_KEY
        error: `betfair://` takes only host and port; betfair://host:port is wanted, and the key in BETFAIR_APP_KEY
        error: not a URL (its host or port cannot be read); ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port is wanted
        ");
    }

    #[test]
    fn credentials_are_never_shown() {
        let endpoint: Endpoint = "wss://user:secret@feed.example/ws?token=secret"
            .parse()
            .unwrap();
        assert_eq!(endpoint.to_string(), "wss://feed.example/ws");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(wss://feed.example/ws)");
    }
}
