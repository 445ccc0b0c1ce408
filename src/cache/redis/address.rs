//! The Redis address and login, connecting, and connection errors without the password.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, RedisConnectionInfo, RedisError,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cache::CacheError;
use crate::config::address::redis as address;
use crate::runtime::tls;
use crate::telemetry::redact::Redaction;

/// Timeout of each connection step: TCP, TLS and login.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a response; the connection is dropped after it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of a Redis server.
#[derive(Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    redaction: Redaction,
}

/// A connection and the task that drives it. The task ends with the last clone.
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

/// Removes the echoed arguments from an error. An old server repeats the command and may truncate
/// it in the middle of the password.
fn without_arguments(text: &str) -> &str {
    text.split("with args")
        .next()
        .unwrap_or(text)
        .trim_end_matches([' ', ','])
}

impl Address {
    /// Parses an address and reads the CA file.
    pub(super) fn parse(url: &SecretString, ca_file: Option<&Path>) -> Result<Address, CacheError> {
        const WANTED: &str =
            "expected redis://user:password@host:6379/0, rediss:// for TLS, or host:port";
        let bad =
            |problem: &str| CacheError::Misconfigured(format!("REDIS_URL: {problem}; {WANTED}"));
        let info = address::parse(url).map_err(|problem| bad(&problem))?;
        let (host, port, has_tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
            _ => return Err(bad("it has neither a host nor a port")),
        };
        let tls = has_tls
            .then(|| tls::client_config("REDIS_CA_FILE", ca_file))
            .transpose();
        let tls = tls.map_err(|error| CacheError::Misconfigured(error.to_string()))?;
        let login = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        // A user without a password is likely a password without its colon.
        let redaction = Redaction::of(login.password().or(login.username()));
        Ok(Address {
            host,
            port,
            login,
            tls,
            redaction,
        })
    }

    /// The database number.
    pub(super) fn database(&self) -> i64 {
        self.login.db()
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, config: AsyncConnectionConfig) -> Result<Link, CacheError> {
        let config = config.set_response_timeout(Some(RESPONSE_TIMEOUT));
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream = self
            .within(stream, "no connection")
            .await?
            .map_err(|error| self.unavailable(&error.to_string()))?;
        // Failing to set this only makes the connection slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.log_in(stream, config, "no answer to the login").await;
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| self.unavailable(&error.to_string()))?;
        let handshake = TlsConnector::from(tls.clone()).connect(name, stream);
        let stream = self
            .within(handshake, "no TLS handshake (does the port speak TLS?)")
            .await?
            .map_err(|error| {
                let hint = if error.to_string().contains("corrupt message") {
                    " (does the port speak TLS?)"
                } else {
                    ""
                };
                self.unavailable(&format!("TLS: {error}{hint}"))
            })?;
        self.log_in(stream, config, "no answer to the login over TLS")
            .await
    }

    async fn log_in<S>(
        &self,
        stream: S,
        config: AsyncConnectionConfig,
        silence: &str,
    ) -> Result<Link, CacheError>
    where
        S: Unpin + tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let login = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let made = self.within(login, silence).await?;
        let (connection, driver) = made.map_err(|error| self.error(&error))?;
        let driver = Arc::new(Driver(tokio::spawn(driver).abort_handle()));
        Ok(Link {
            connection,
            _driver: driver,
        })
    }

    /// The result of `work`, or an error that names what did not happen in time.
    async fn within<T>(
        &self,
        work: impl Future<Output = T>,
        silence: &str,
    ) -> Result<T, CacheError> {
        let late = |_| self.unavailable(&format!("{silence} within a second"));
        timeout(STEP_TIMEOUT, work).await.map_err(late)
    }

    /// Converts a Redis error, with a hint for operators.
    pub(super) fn error(&self, error: &RedisError) -> CacheError {
        let text = error.to_string();
        let hint = match error.kind() {
            _ if text.contains("WRONGPASS") || text.contains("NOAUTH") => {
                " (is the password of REDIS_URL right?)"
            }
            redis::ErrorKind::AuthenticationFailed => " (is the password of REDIS_URL right?)",
            redis::ErrorKind::RESP3NotSupported => " (Redis 6 or later is required)",
            redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly) => " (it is a replica)",
            redis::ErrorKind::Parse => " (does the port speak Redis, without TLS?)",
            _ if text.contains("OOM") => " (its memory is full)",
            _ => "",
        };
        self.unavailable(&format!("{}{hint}", without_arguments(&text)))
    }

    pub(super) fn unavailable(&self, problem: &str) -> CacheError {
        let problem = self.redaction.apply(problem);
        CacheError::Unavailable(format!("Redis at {}:{}: {problem}", self.host, self.port))
    }
}

#[cfg(test)]
mod tests;
