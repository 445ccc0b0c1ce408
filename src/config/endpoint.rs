//! The address and wire format of a supplier.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use super::address::{self, AddressError, Login};

/// The address and wire format of a supplier. Displayed without credentials and query.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The native format over WebSocket: `ws://` or `wss://`.
    Native(Url),
    /// The Exchange Stream: `betfair://` over TCP, `betfairs://` over TLS.
    Betfair {
        /// Host name or IP address; an IPv6 address without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// Whether the connection uses TLS.
        tls: bool,
    },
}

/// Why a URL is not an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is not a URL, or is one that parsers read differently.
    #[error(
        "not a URL ({0}); expected ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port"
    )]
    Address(AddressError),
    /// The scheme does not name a wire format.
    #[error(
        "`{0}://` is not a supplier scheme; expected ws:// or wss:// (native), betfair:// or betfairs:// (Exchange Stream)"
    )]
    UnknownScheme(String),
    /// The host is missing.
    #[error("`{0}://` has no host; expected {0}://host:port")]
    NoHost(String),
    /// `betfair://` without a port: it has no default port.
    #[error("`betfair://{0}` has no port; expected betfair://host:port")]
    NoPort(String),
    /// A `betfair` URL with a user, path, query or fragment, which would have no meaning.
    #[error(
        "`{0}://` takes only host and port; expected {0}://host:port, with the key in BETFAIR_APP_KEY"
    )]
    TooMuch(String),
}

/// The default port of Betfair's stream over TLS.
const BETFAIR_TLS_PORT: u16 = 443;

impl TryFrom<&Url> for Endpoint {
    type Error = EndpointError;

    fn try_from(url: &Url) -> Result<Endpoint, EndpointError> {
        let scheme = url.scheme();
        match scheme {
            "ws" | "wss" => {
                // Reject unusable credentials here instead of at every connect.
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
    /// Same as Display: the Debug form of a URL would show its password.
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
    fn scheme_selects_wire_format() {
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
    fn invalid_url_error_names_expected_form() {
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
        error: not a URL (it has no scheme, such as `ws` in ws://host); expected ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port
        error: `http://` is not a supplier scheme; expected ws:// or wss:// (native), betfair:// or betfairs:// (Exchange Stream)
        error: `betfair://a` has no port; expected betfair://host:port
        error: not a URL (its host or port is invalid); expected ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port
        error: `betfairs://` takes only host and port; expected betfairs://host:port, with the key in BETFAIR_APP_KEY
        error: `betfair://` takes only host and port; expected betfair://host:port, with the key in BETFAIR_APP_KEY
        error: not a URL (its host or port is invalid); expected ws://host:port/path, wss://..., betfair://host:port or betfairs://host:port
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
