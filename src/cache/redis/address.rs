//! Where Redis is and how to log in; a connection to it; and what is wrong where there is none, without the password.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cache::CacheError;
use crate::supplier::tls;

/// Each step of connecting, the connection, TLS and the login, is done within this.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer comes within this, else the connection is given up.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where Redis is.
#[derive(Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection, and what moves its bytes; that ends with the last clone.
#[derive(Clone)]
pub(super) struct Link {
    pub connection: MultiplexedConnection,
    _driver: Arc<Driver>,
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Address {
    /// Reads `redis://user:password@host:port/database`, `rediss://…` or `host:port`. Reads the file of authorities.
    pub fn parse(url: &SecretString, ca_file: Option<&Path>) -> Result<Address, CacheError> {
        const WANTED: &str = "wanted is redis://user:password@host:6379/0, rediss:// for TLS, or host:port";
        let bad = |problem: &str| CacheError::Misconfigured(format!("REDIS_URL: {problem}; {WANTED}"));
        let text = url.expose_secret();
        let full = if text.contains("://") { text.to_owned() } else { format!("redis://{text}") };
        // The parser's own words may hold a part of the address, and so of the password.
        let parsed = url::Url::parse(&full).map_err(|_| bad("not an address"))?;
        if !["redis", "rediss"].contains(&parsed.scheme()) {
            return Err(bad("neither redis:// nor rediss://"));
        }
        if parsed.fragment().is_some() {
            return Err(bad(
                "nothing may stand behind a #; a certificate is always checked (REDIS_CA_FILE adds an authority)",
            ));
        }
        let info = parsed
            .into_connection_info()
            .map_err(|error| bad(error.detail().unwrap_or("host or database is wrong")))?;
        let (host, port, has_tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
            _ => return Err(bad("neither a host nor a port")),
        };
        let tls = has_tls.then(|| tls::client_config("REDIS_CA_FILE", ca_file)).transpose();
        let tls = tls.map_err(|error| CacheError::Misconfigured(error.to_string()))?;
        let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Address { host, port, login, tls })
    }

    /// The number of the database.
    pub fn database(&self) -> i64 {
        self.login.db()
    }

    /// Connects and logs in.
    pub async fn connect(&self, config: AsyncConnectionConfig) -> Result<Link, CacheError> {
        let config = config.set_response_timeout(Some(RESPONSE_TIMEOUT));
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream =
            self.within(stream, "no connection").await?.map_err(|error| self.unavailable(&error.to_string()))?;
        // One that cannot is only slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.log_in(stream, config, "no answer to the login").await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| self.unavailable(&error.to_string()))?;
        let shaking = TlsConnector::from(tls.clone()).connect(name, stream);
        let stream = self.within(shaking, "no TLS handshake (does the port speak TLS?)").await?.map_err(|error| {
            let hint = if error.to_string().contains("corrupt message") { " (does the port speak TLS?)" } else { "" };
            self.unavailable(&format!("TLS: {error}{hint}"))
        })?;
        self.log_in(stream, config, "no answer to the login behind TLS").await
    }

    async fn log_in<S>(&self, stream: S, config: AsyncConnectionConfig, silence: &str) -> Result<Link, CacheError>
    where
        S: Unpin + tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let logging_in = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let made = self.within(logging_in, silence).await?;
        let (connection, driver) = made.map_err(|error| self.error(&error))?;
        let driver = Arc::new(Driver(tokio::spawn(driver).abort_handle()));
        Ok(Link { connection, _driver: driver })
    }

    /// What comes in time, else what did not.
    async fn within<T>(&self, work: impl Future<Output = T>, silence: &str) -> Result<T, CacheError> {
        let late = |_| self.unavailable(&format!("{silence} within a second"));
        timeout(STEP_TIMEOUT, work).await.map_err(late)
    }

    /// What is wrong, for people.
    pub fn error(&self, error: &RedisError) -> CacheError {
        let text = error.to_string();
        let hint = match error.kind() {
            _ if text.contains("WRONGPASS") || text.contains("NOAUTH") => " (is the password of REDIS_URL right?)",
            redis::ErrorKind::AuthenticationFailed => " (is the password of REDIS_URL right?)",
            redis::ErrorKind::RESP3NotSupported => " (Redis 6 or later is wanted)",
            redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly) => " (it is a replica)",
            redis::ErrorKind::Parse => " (does the port speak Redis, without TLS?)",
            _ if text.contains("OOM") => " (its memory is full)",
            _ => "",
        };
        self.unavailable(&format!("{text}{hint}"))
    }

    pub fn unavailable(&self, problem: &str) -> CacheError {
        // An old server repeats in its error what it was sent.
        let problem = match self.login.password() {
            Some(password) if !password.is_empty() => problem.replace(password, "***"),
            _ => problem.to_owned(),
        };
        CacheError::Unavailable(format!("Redis at {}:{}: {problem}", self.host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(&SecretString::from(url), None).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_urls_and_the_originals_host_and_port() {
        let address = parse("redis://me:s%40fe@redis.example:6380/3").unwrap();
        assert_eq!((address.host.as_str(), address.port, address.login.db()), ("redis.example", 6380, 3));
        assert_eq!((address.login.username(), address.login.password()), (Some("me"), Some("s@fe")));
        let address = parse("localhost:6379").unwrap();
        assert_eq!((address.host.as_str(), address.port, address.tls.is_none()), ("localhost", 6379, true));
        assert_eq!(parse("redis://[::1]").unwrap().host, "::1");
    }

    #[test]
    fn a_bad_address_is_told_without_its_password() {
        for bad in [
            "http://u:topsecret@host:1",
            "redis://u:topsecret@host:99999",
            "redis://u:topsecret@host/notanumber",
            "rediss://u:topsecret@host#insecure",
            "redis://",
            "u:topsecret@ho st",
            "redis://u:topsecret@0.0.0.0:6379",
        ] {
            let error = parse(bad).err().unwrap_or_else(|| panic!("{bad} was taken"));
            assert!(error.starts_with("REDIS_URL: ") && !error.contains("topsecret"), "{error}");
        }
        let missing = Address::parse(&SecretString::from("rediss://host"), Some(Path::new("/no/such.pem")));
        let missing = missing.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(missing.starts_with("REDIS_CA_FILE /no/such.pem: "), "{missing}");
    }

    #[test]
    fn an_error_that_repeats_the_password_is_told_without_it() {
        let address = parse("redis://:topsecret@host").unwrap();
        let error = address.unavailable("unknown command `HELLO`, with args `3` `AUTH` `default` `topsecret`");
        assert!(!error.to_string().contains("topsecret"), "{error}");
    }
}
