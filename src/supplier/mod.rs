//! The suppliers: where they are, what they send, and how that becomes updates.
//!
//! A [`Decoder`] is the wire form of one supplier, free of sockets and clocks; [`transport`] carries its frames.

pub mod betfair;
pub mod native;
pub mod tls;
pub mod transport;

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

use crate::config::settings::SupplierSettings;
use crate::domain::update::OddsUpdate;

/// The wire form of one supplier: frames in, updates out. Pure: no socket, no clock.
///
/// A decoder lives as long as its supplier is configured and sees every connection to it.
pub trait Decoder: Send {
    /// What to send as soon as a connection stands; empty where the supplier speaks first. Called at every connect;
    /// forgets what belongs to a connection only.
    fn on_connected(&mut self) -> Vec<String>;

    /// Reads one frame.
    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault>;

    /// Nothing has come for so long that the prices are not to be taken for live: the suspension of every market that is
    /// open. What the supplier says next about a market, or of all of them, opens it again.
    fn on_stale(&mut self) -> Vec<OddsUpdate>;
}

/// What a frame held.
#[derive(Default)]
pub struct Decoded {
    /// Changes, in their order.
    pub updates: Vec<OddsUpdate>,
    /// What to answer the supplier. May hold credentials, so it is never shown.
    pub send: Vec<String>,
    /// Parts that could not be taken. The frame goes to the dead letters, its good parts are kept.
    pub refused: Vec<Refused>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoded")
            .field("updates", &self.updates)
            .field("send", &format_args!("[{} not shown]", self.send.len()))
            .field("refused", &self.refused)
            .finish()
    }
}

/// A part of a frame that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A small fixed word, for metrics.
    pub reason: &'static str,
    /// What was wrong, for people.
    pub detail: String,
}

/// Why a frame gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The frame cannot be read. It goes to the dead letters, the connection stays.
    #[error("unreadable frame: {detail}")]
    Unreadable {
        /// A small fixed word, for metrics.
        reason: &'static str,
        /// What was wrong, for people.
        detail: String,
    },
    /// The supplier ends or refuses the connection: connect anew.
    #[error("the supplier refuses: {detail}")]
    Refused {
        /// A small fixed word, for metrics.
        reason: &'static str,
        /// What the supplier said, for people.
        detail: String,
    },
}

/// Where a supplier is, and which wire form it speaks. Shown without credentials and without its query.
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
    /// The text is no URL at all.
    #[error("not a URL ({0}); ws://host:port/path, wss://…, betfair://host:port or betfairs://host:port is wanted")]
    NotAUrl(url::ParseError),
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
    #[error("`{0}://` takes only host and port; {0}://host:port is wanted, and the key in BETFAIR_APP_KEY")]
    TooMuch(String),
}

/// The port of Betfair's stream over TLS.
const BETFAIR_TLS_PORT: u16 = 443;

impl Endpoint {
    /// A new decoder of the endpoint's wire form.
    pub fn decoder(&self, settings: &SupplierSettings) -> Box<dyn Decoder> {
        match self {
            Endpoint::Native(_) => Box::new(native::NativeDecoder::default()),
            Endpoint::Betfair { .. } => Box::new(betfair::BetfairDecoder::new(settings)),
        }
    }
}

impl TryFrom<&Url> for Endpoint {
    type Error = EndpointError;

    fn try_from(url: &Url) -> Result<Endpoint, EndpointError> {
        let scheme = url.scheme();
        match scheme {
            "ws" | "wss" => Ok(Endpoint::Native(url.clone())),
            "betfair" | "betfairs" => betfair_endpoint(url, scheme == "betfairs"),
            _ => Err(EndpointError::UnknownScheme(scheme.to_owned())),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::try_from(&text.parse::<Url>().map_err(EndpointError::NotAUrl)?)
    }
}

fn betfair_endpoint(url: &Url, tls: bool) -> Result<Endpoint, EndpointError> {
    let scheme = url.scheme().to_owned();
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) if !host.to_string().is_empty() => host.to_string(),
        _ => return Err(EndpointError::NoHost(scheme)),
    };
    let bare = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
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
            Endpoint::Native(url) => {
                write!(out, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                if let Some(port) = url.port() {
                    write!(out, ":{port}")?;
                }
                out.write_str(url.path())
            }
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

/// In one place, for the tests of the decoder and of the replay server.
#[cfg(test)]
#[path = "../../tests/support/betfair_fold.rs"]
pub(crate) mod betfair_fold;

#[cfg(test)]
pub(crate) mod testing {
    //! Settings for tests.

    use clap::{Args, FromArgMatches};

    use super::*;

    /// The default settings, but for `arguments`, as `["--supplier-max-frame", "1KiB"]`.
    pub fn settings(arguments: &[&str]) -> SupplierSettings {
        let command = SupplierSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        SupplierSettings::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        url.parse::<Endpoint>().map_or_else(|error| format!("error: {error}"), |endpoint| endpoint.to_string())
    }

    #[test]
    fn the_scheme_names_the_wire_form() {
        assert_eq!(shown("ws://127.0.0.1:8081/ws"), "ws://127.0.0.1:8081/ws");
        assert_eq!(shown("betfair://localhost:8085"), "betfair://localhost:8085");
        assert_eq!(shown("betfairs://stream-api.betfair.com"), "betfairs://stream-api.betfair.com:443");
        assert_eq!(shown("betfair://[::1]:8085"), "betfair://[::1]:8085");
        let endpoint: Endpoint = "betfair://[::1]:8085".parse().unwrap();
        assert_eq!(endpoint, Endpoint::Betfair { host: "::1".to_owned(), port: 8085, tls: false });
    }

    #[test]
    fn a_wrong_url_is_told_what_is_wanted() {
        let wrong =
            ["localhost", "http://a/", "betfair://a", "betfair://:1", "betfairs://a:1/x", "betfair://k:s@a:1", "ws://"];
        insta::assert_snapshot!(wrong.map(shown).join("\n"), @"
        error: not a URL (relative URL without a base); ws://host:port/path, wss://…, betfair://host:port or betfairs://host:port is wanted
        error: `http://` names no supplier; ws:// or wss:// (native), betfair:// or betfairs:// (Exchange Stream) is wanted
        error: `betfair://a` without a port; betfair://host:port is wanted
        error: not a URL (empty host); ws://host:port/path, wss://…, betfair://host:port or betfairs://host:port is wanted
        error: `betfairs://` takes only host and port; betfairs://host:port is wanted, and the key in BETFAIR_APP_KEY
        error: `betfair://` takes only host and port; betfair://host:port is wanted, and the key in BETFAIR_APP_KEY
        error: not a URL (empty host); ws://host:port/path, wss://…, betfair://host:port or betfairs://host:port is wanted
        ");
    }

    #[test]
    fn credentials_are_never_shown() {
        let endpoint: Endpoint = "wss://user:secret@feed.example/ws?token=secret".parse().unwrap();
        assert_eq!(endpoint.to_string(), "wss://feed.example/ws");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(wss://feed.example/ws)");
        let decoded = Decoded { send: vec!["secret".to_owned()], ..Decoded::default() };
        assert!(!format!("{decoded:?}").contains("secret"), "{decoded:?}");
    }
}
