//! Addresses that may contain credentials. They are parsed strictly, so that two parsers cannot
//! disagree about where the password ends, and displayed without secrets.

pub(crate) mod postgres;
pub(crate) mod redis;

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::telemetry::redact::{MASK, Redaction};

/// Why an address is rejected. Contains no part of the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(pub &'static str);

const BAD_PERCENT: AddressError =
    AddressError("a `%` is not followed by two hexadecimal digits (a literal one is %25)");

/// A URL whose credentials, query and fragment are never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// Parses an address with one of these schemes. Rejects anything that two parsers may read
    /// differently.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<SecretUrl, AddressError> {
        let url = parse(text)?;
        if !schemes.contains(&url.scheme()) {
            return Err(AddressError("its scheme is not one of these"));
        }
        Ok(SecretUrl(url))
    }

    /// The whole URL, for the client that sends the credentials.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// The URL without credentials, for a request line.
    pub fn without_login(&self) -> Url {
        without_login(&self.0)
    }

    /// The credentials, if any.
    pub fn login(&self) -> Option<Login> {
        Login::of(&self.0)
    }

    /// Removes this address's secrets from a text.
    pub fn redaction(&self) -> Redaction {
        redaction(&self.0)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_public(&self.0, out)
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SecretUrl({self})")
    }
}

/// Scheme, host, port and path.
pub(crate) fn write_public(url: &Url, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        out,
        "{}://{}",
        url.scheme(),
        url.host_str().unwrap_or_default()
    )?;
    if let Some(port) = url.port() {
        write!(out, ":{port}")?;
    }
    out.write_str(url.path())
}

/// Parses an absolute URL. Stricter than the WHATWG URL standard, which guesses what a browser's
/// user meant.
pub(crate) fn parse(text: &str) -> Result<Url, AddressError> {
    let text = text.trim();
    check_characters(text)?;
    let (scheme, rest) = text
        .split_once("://")
        .ok_or(AddressError("it has no scheme, such as `ws` in ws://host"))?;
    if !scheme
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        return Err(AddressError("it has no scheme, such as `ws` in ws://host"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    check_ats(authority, path)?;
    if rest.contains('#') {
        return Err(AddressError("it has a `#` (a literal one is %23)"));
    }
    // The parser's error message may contain a part of the address.
    let url = Url::parse(text).map_err(|_| AddressError("its host or port is invalid"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(AddressError("it has no host"));
    }
    Ok(url)
}

/// Rejects white space, which parsers remove, encode or stop at.
fn check_characters(text: &str) -> Result<(), AddressError> {
    if text.is_empty() {
        return Err(AddressError("it is empty"));
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(AddressError(
            "it contains white space or a control character (a literal space is %20)",
        ));
    }
    if text.contains('\\') {
        return Err(AddressError(
            "it contains a backslash (a literal one is %5C)",
        ));
    }
    decode(text).map(drop)
}

/// Rejects an `@` that does not end the credentials: the password then contains an unescaped `@`,
/// `/` or `?`.
fn check_ats(authority: &str, rest: &str) -> Result<(), AddressError> {
    if authority.matches('@').count() > 1 || rest.contains('@') {
        return Err(AddressError(
            "it has an `@` that does not end the credentials; write %40 in user, password, path and query, and in user and \
             password also %2F for `/`, %3F for `?` and %23 for `#`",
        ));
    }
    Ok(())
}

/// Decodes percent-encoding. The result never contains NUL.
fn decode(text: &str) -> Result<String, AddressError> {
    let is_encoded =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_encoded) {
        return Err(BAD_PERCENT);
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| AddressError("its percent-encoding is not UTF-8"))?;
    if decoded.contains('\0') {
        return Err(AddressError("it contains %00"));
    }
    Ok(decoded.into_owned())
}

/// The URL without its credentials.
pub(crate) fn without_login(url: &Url) -> Url {
    let mut bare = url.clone();
    // Both fail only for a URL that cannot have credentials.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare
}

/// Removes a URL's secrets: the password, the user if there is no password (it may be a token), and
/// the query values.
pub(crate) fn redaction(url: &Url) -> Redaction {
    let mut secrets: Vec<String> = url
        .query_pairs()
        .map(|(_, value)| value.into_owned())
        .collect();
    if let Some(login) = Login::of(url) {
        secrets.push(
            login
                .password
                .as_ref()
                .unwrap_or(&login.user)
                .expose_secret()
                .to_owned(),
        );
        secrets.push(login.encoded());
    }
    Redaction::of(secrets.iter().map(String::as_str))
}

/// User and password of an address, percent-decoded.
#[derive(Clone, Debug)]
pub struct Login {
    user: SecretString,
    password: Option<SecretString>,
}

impl Login {
    /// The credentials of a URL, if any.
    pub fn of(url: &Url) -> Option<Login> {
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let decoded = |text: &str| {
            SecretString::from(percent_decode_str(text).decode_utf8_lossy().into_owned())
        };
        Some(Login {
            user: decoded(url.username()),
            password: url.password().map(decoded),
        })
    }

    /// The value of the `Authorization` header for these credentials (RFC 7617). Marked as
    /// sensitive: its Debug output shows nothing.
    pub fn authorization(&self) -> Result<HeaderValue, AddressError> {
        if self.user.expose_secret().contains(':') {
            return Err(AddressError(
                "the user name in HTTP credentials cannot contain a `:`",
            ));
        }
        let mut value = HeaderValue::from_str(&format!("Basic {}", self.encoded()))
            .map_err(|_| AddressError("its credentials cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn encoded(&self) -> String {
        let password = self
            .password
            .as_ref()
            .map(ExposeSecret::expose_secret)
            .unwrap_or_default();
        BASE64_STANDARD.encode(format!("{}:{password}", self.user.expose_secret()))
    }
}

/// Schemes that may be displayed if the rest of the address cannot be parsed.
const SCHEMES: [&str; 14] = [
    "postgres",
    "postgresql",
    "mysql",
    "sqlite",
    "redis",
    "rediss",
    "kafka",
    "http",
    "https",
    "ws",
    "wss",
    "betfair",
    "betfairs",
    "file",
];

/// An address for display: without its password, a user without a password, and the query values.
/// If it cannot be parsed, only the scheme is displayed, because it is not known where the password
/// begins and ends.
pub(crate) fn shown(text: &str) -> String {
    let text = text.trim();
    match text.split_once("://") {
        Some((scheme, _)) => match parse(text) {
            Ok(url) => shown_url(&url, text),
            Err(_) if SCHEMES.contains(&scheme) && text.len() > scheme.len() + 3 => {
                format!("{scheme}://{MASK}")
            }
            Err(_) if SCHEMES.contains(&scheme) => text.to_owned(),
            Err(_) => MASK.to_owned(),
        },
        None if is_plain(text) => text.to_owned(),
        None => MASK.to_owned(),
    }
}

fn shown_url(url: &Url, text: &str) -> String {
    let login = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (_, None) => format!("{MASK}@"),
        (user, Some(_)) => format!("{user}:{MASK}@"),
    };
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    // Parameter names are hidden too: an unescaped `&` can make part of a secret look like a name.
    let query = url.query().map(|_| format!("?{MASK}")).unwrap_or_default();
    // The parser adds a `/` for an empty path of some schemes.
    let path = if url.path() == "/" && text.matches('/').count() < 3 {
        ""
    } else {
        url.path()
    };
    format!("{}://{login}{host}{port}{path}{query}", url.scheme())
}

/// Whether a text without a scheme contains no credentials: a path, a host, or hosts with ports.
fn is_plain(text: &str) -> bool {
    let no_login = !text.contains(['@', '=', '&', '\'', '"']);
    let is_port = |rest: &str| {
        rest.split(['/', ','])
            .next()
            .is_some_and(|port| port.trim().parse::<u16>().is_ok())
    };
    no_login
        && text
            .rsplit(']')
            .next()
            .unwrap_or(text)
            .split(':')
            .skip(1)
            .all(is_port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("ws://u:Secret x@h/x", "white space")]
    #[case("ws://u:Secret\tx@h/x", "white space")]
    #[case("u:Secret@h/x", "no scheme")]
    #[case("\"ws://u:Secret@h/x\"", "no scheme")]
    #[case("ws://u:Secret@x@h/x", "an `@`")]
    #[case("ws://u:1/Secret@h/x", "an `@`")]
    #[case("ws://u:1?Secret@h/x", "an `@`")]
    #[case("ws://u:Secret%@h/x", "a `%`")]
    #[case("ws://u:Secret%zz@h/x", "a `%`")]
    #[case("ws://u:Secret%00@h/x", "%00")]
    #[case("ws://u:Secret%ff@h/x", "UTF-8")]
    #[case("ws://u:Secret#x@h/x", "an `@`")]
    #[case("ws://h/x#Secret", "a `#`")]
    #[case("ws://u:Secret\\x@h/x", "backslash")]
    #[case("ws://u:Secret/x", "host or port")]
    #[case("", "is empty")]
    #[case("ws://", "host or port")]
    fn ambiguous_addresses_are_rejected(#[case] text: &str, #[case] why: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("Secret"), "{error}");
        assert!(!shown(text).contains("Secret"), "{}", shown(text));
    }

    #[rstest]
    #[case("redis://user:hunter2@host:6379/0", "redis://user:***@host:6379/0")]
    #[case("redis://:hunter2@host", "redis://:***@host")]
    #[case("wss://hunter2@host/ws", "wss://***@host/ws")]
    #[case("wss://host/ws?token=hunter2&hunter2", "wss://host/ws?***")]
    #[case("ws://127.0.0.1:8081/ws", "ws://127.0.0.1:8081/ws")]
    #[case("postgres://u:hun/te?r2@host/db", "postgres://***")]
    #[case("u:hunter2@host:6379", "***")]
    #[case("u:hunter2", "***")]
    #[case("host=h password=hunter2", "***")]
    #[case("hunter2://", "***")]
    #[case("ws://", "ws://")]
    #[case("data/what?.db", "data/what?.db")]
    #[case("a:9092, b:9092,[::1]:9092", "a:9092, b:9092,[::1]:9092")]
    #[case("kafka", "kafka")]
    fn shown_address_hides_secrets(#[case] text: &str, #[case] wanted: &str) {
        assert_eq!(shown(text), wanted);
    }

    #[test]
    fn credentials_become_basic_header() {
        let url = SecretUrl::parse("ws://a%40b:p%3Aq%C3%A9@h/ws?t=1", &["ws"]).unwrap();
        let header = url.login().unwrap().authorization().unwrap();
        assert_eq!(
            header.to_str().unwrap(),
            format!("Basic {}", BASE64_STANDARD.encode("a@b:p:qé"))
        );
        assert!(!format!("{header:?} {url:?} {url} {:?}", url.login()).contains("QGI6"));
        assert_eq!(url.without_login().as_str(), "ws://h/ws?t=1");
        assert!(
            SecretUrl::parse("ws://h", &["ws"])
                .unwrap()
                .login()
                .is_none()
        );
        let colon = SecretUrl::parse("ws://a%3Ab:c@h", &["ws"]).unwrap();
        assert!(colon.login().unwrap().authorization().is_err());
    }

    proptest! {
        #[test]
        fn random_text_never_shows_password(text in "(ws://)?.{0,40}", password in "[ -~]{0,6}Hunter2[ -~]{0,6}") {
            let _ = (parse(&text), shown(&text));
            for address in [
                format!("ws://u:{password}@h/x"), format!("u:{password}@h/x"), format!("ws://h/x?password={password}"),
                format!("ws://:{password}@h"), format!("ws://{}@h", password.replace(':', "")),
                format!("host=h password={password}"), format!("'ws://u:{password}@h/x'"),
            ] {
                prop_assert!(!shown(&address).contains("Hunter2"), "{}", shown(&address));
                if let Err(error) = parse(&address) {
                    prop_assert!(!error.to_string().contains("Hunter2"), "{}", error);
                }
            }
        }
    }
}
