//! The Redis address and login, connecting, and connection errors without the password.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError,
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

/// Reads `redis://user:password@host:port/database`, `rediss://...` or `host:port`. Errors repeat
/// no part of it.
fn read(url: &SecretString) -> Result<ConnectionInfo, String> {
    let text = url.expose_secret().trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("redis://{text}")
    };
    let parsed = crate::config::address::parse(&full).map_err(|error| error.to_string())?;
    if !["redis", "rediss"].contains(&parsed.scheme()) {
        return Err("it is neither redis:// nor rediss://".to_owned());
    }
    if parsed.query_pairs().any(|(name, _)| name != "protocol") {
        return Err("its query is not supported: put user and password before the host".to_owned());
    }
    let database = parsed.path().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err("its database is not a number".to_owned());
    }
    // The library's errors for an invalid address contain no part of it.
    parsed.into_connection_info().map_err(|error| {
        format!(
            "it is invalid: {}",
            error
                .detail()
                .unwrap_or("the host or the database is wrong")
        )
    })
}

/// Returns what is wrong with an address, if anything, without repeating any part of it.
pub(super) fn check(url: &SecretString) -> Result<(), String> {
    read(url).map(drop)
}

impl Address {
    /// Parses an address and reads the CA file.
    pub fn parse(url: &SecretString, ca_file: Option<&Path>) -> Result<Address, CacheError> {
        const WANTED: &str =
            "expected redis://user:password@host:6379/0, rediss:// for TLS, or host:port";
        let bad =
            |problem: &str| CacheError::Misconfigured(format!("REDIS_URL: {problem}; {WANTED}"));
        let info = read(url).map_err(|problem| bad(&problem))?;
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
    pub fn database(&self) -> i64 {
        self.login.db()
    }

    /// Connects and logs in.
    pub async fn connect(&self, config: AsyncConnectionConfig) -> Result<Link, CacheError> {
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
    pub fn error(&self, error: &RedisError) -> CacheError {
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

    pub fn unavailable(&self, problem: &str) -> CacheError {
        let problem = self.redaction.apply(problem);
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
    fn urls_and_plain_addresses_are_parsed() {
        let address = parse("redis://me:s%40fe@redis.example:6380/3").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.login.db()),
            ("redis.example", 6380, 3)
        );
        assert_eq!(
            (address.login.username(), address.login.password()),
            (Some("me"), Some("s@fe"))
        );
        let address = parse("localhost:6379").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.tls.is_none()),
            ("localhost", 6379, true)
        );
        assert_eq!(parse("redis://[::1]").unwrap().host, "::1");
    }

    #[test]
    fn bad_address_error_hides_password() {
        for bad in [
            "http://u:topsecret@host:1",
            "redis://u:topsecret@host:99999",
            "redis://u:topsecret@host/notanumber",
            "rediss://u:topsecret@host#insecure",
            "redis://",
            "u:topsecret@ho st",
            "redis://u:topsecret@0.0.0.0:6379",
            "redis://u:topsecret x@host",
            "redis://u:topsecret@x@host",
            "redis://u:1/topsecret@host",
            "redis://u:topsecret%@host",
            "redis://host?password=topsecret",
            "redis+unix:///run/redis.sock?pass=topsecret",
            "unix:///run/redis.sock?pass=topsecret",
            "u:topsecret@x@host:6379",
        ] {
            let error = parse(bad)
                .err()
                .unwrap_or_else(|| panic!("{bad} was accepted"));
            assert!(
                error.starts_with("REDIS_URL: ") && !error.contains("topsecret"),
                "{error}"
            );
        }
        let missing = Address::parse(
            &SecretString::from("rediss://host"),
            Some(Path::new("/no/such.pem")),
        );
        let missing = missing
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            missing.starts_with("REDIS_CA_FILE /no/such.pem: "),
            "{missing}"
        );
    }

    #[test]
    fn echoed_password_is_redacted() {
        let address = parse("redis://:topsecret@host").unwrap();
        let error = address
            .unavailable("unknown command `HELLO`, with args `3` `AUTH` `default` `topsecret`");
        assert!(!error.to_string().contains("topsecret"), "{error}");
    }

    #[test]
    fn truncated_error_hides_password() {
        let text = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'tops";
        assert_eq!(without_arguments(text), "ERR unknown command 'HELLO'");
    }

    /// A server that echoes its input in the error, as old versions do.
    async fn echo() -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut sent = vec![0; 4096];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut sent)
                    .await
                    .unwrap_or(0);
                let words = String::from_utf8_lossy(&sent[..read]).replace(['\r', '\n'], " ");
                let answer = format!("-ERR unknown command {words}\r\n").repeat(4);
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
            }
        });
        address
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        /// redis-rs errors about a server that echoes the login, and about one that is unreachable,
        /// contain no password.
        #[test]
        fn library_errors_contain_no_password(password in "[ -~é]{1,20}", with_user in proptest::bool::ANY) {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let user = if with_user { "me" } else { "" };
            let messages = runtime.block_on(async {
                let mut messages = Vec::new();
                for place in [echo().await.to_string(), "127.0.0.1:9".to_owned()] {
                    let address = parse(&format!("redis://{user}:{encoded}@{place}/1")).unwrap();
                    assert_eq!(address.login.password(), Some(password.as_str()));
                    messages.push(address.connect(AsyncConnectionConfig::new()).await.err().unwrap().to_string());
                }
                messages
            });
            if password.chars().count() >= 4 {
                let shows = messages.iter().any(|message| message.contains(&password));
                proptest::prop_assert!(!shows, "{messages:?}");
            }
        }

        #[test]
        fn parse_errors_contain_no_password(before in "[ -~]{0,4}", after in "[ -~]{0,4}") {
            let password = format!("{before}Secret{after}");
            for url in [format!("redis://u:{password}@h"), format!("u:{password}@h:1"), format!("redis://h/{password}"),
                format!("redis://h?password={password}"), format!("redis://:{password}")] {
                if let Err(error) = parse(&url) {
                    proptest::prop_assert!(!error.contains("Secret"), "{error}");
                }
            }
        }
    }
}
