//! Reads the keys for tokens again: of a file when it changes, of a URL at intervals. A document that
//! cannot be used changes nothing; the keys read last stay in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::ACCEPT;

use super::key_set::{BadKeySet, KeySet};
use super::key_source::KeySource;
use crate::config::address::SecretUrl;
use crate::domain::timestamp::Timestamp;
use crate::runtime::error_text::with_sources;
use crate::runtime::health::HealthCell;
use crate::runtime::tls::{self, TlsSetupError};
use crate::telemetry::metrics::AccessMetrics;
use crate::telemetry::redact::Redaction;

/// How often a file is compared with what was read. Its content counts and not its time: files are
/// also replaced through links.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// The longest document, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Timeout of a request for the document.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed request, unless the interval is shorter.
const RETRY: Duration = Duration::from_secs(10);
/// The same before the first success: no token is accepted until then.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Why keys are not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyRefreshError {
    /// The file cannot be read.
    #[error("{0}")]
    File(std::io::Error),
    /// The server does not send the document.
    #[error("{0}")]
    Http(String),
    /// The document is too long.
    #[error("it is longer than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// The document cannot be used.
    #[error("{0}")]
    Document(String),
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

impl From<BadKeySet> for KeyRefreshError {
    fn from(bad: BadKeySet) -> KeyRefreshError {
        KeyRefreshError::Document(bad.to_string())
    }
}

/// Reports the results of reading one source.
struct Reports {
    source: Arc<KeySource>,
    health: HealthCell,
    metrics: AccessMetrics,
}

impl Reports {
    fn new(source: Arc<KeySource>, metrics: AccessMetrics) -> Reports {
        let health =
            HealthCell::new("the keys for tokens cannot be read; those last read stay in force");
        Reports {
            source,
            health,
            metrics,
        }
    }

    /// The source was read, and its keys can be used.
    fn record_success(&self) {
        let name = self.source.name();
        let read_at = self.metrics.token_keys_read_at.with_label_values(&[name]);
        read_at.set(Timestamp::now().micros() / 1_000_000);
    }

    fn record(&self, read: Result<KeySet, KeyRefreshError>) {
        self.health.record(&read);
        let name = self.source.name();
        match read {
            Ok(keys) => {
                self.record_success();
                if !self.source.keys().has_same_names(&keys) {
                    log::info!(source = name, keys = keys.len(); "keys for tokens read");
                }
                self.source.replace(keys);
            }
            Err(_) => self
                .metrics
                .token_key_errors
                .with_label_values(&[name])
                .inc(),
        }
    }
}

/// A file of keys.
pub(crate) struct KeyFile {
    path: PathBuf,
    source: Arc<KeySource>,
    /// What was read last, whether it could be used or not.
    content: Vec<u8>,
}

impl KeyFile {
    /// Reads a file for the first time. Fails if it cannot be used.
    pub(crate) fn open(path: &Path) -> Result<KeyFile, KeyRefreshError> {
        let content = read(path)?;
        let source = KeySource::new(KeySource::FILE, KeySet::of_jwks(&content)?);
        Ok(KeyFile {
            path: path.to_owned(),
            source,
            content,
        })
    }

    /// The keys of the file.
    pub(crate) fn source(&self) -> &Arc<KeySource> {
        &self.source
    }

    /// Reads the file again whenever it changes. Never ends.
    pub(crate) async fn watch(self, metrics: AccessMetrics) {
        let reports = Reports::new(self.source, metrics);
        let mut content = self.content;
        let mut is_usable = true;
        reports.record_success();
        loop {
            tokio::time::sleep(FILE_INTERVAL).await;
            let path = self.path.clone();
            let reading = tokio::task::spawn_blocking(move || read(&path)).await;
            let failed = |error| KeyRefreshError::File(std::io::Error::other(error));
            match reading.map_err(failed).flatten() {
                Ok(new) if new == content && is_usable => reports.record_success(),
                Ok(new) if new == content => {}
                Ok(new) => {
                    let keys = KeySet::of_jwks(&new).map_err(KeyRefreshError::from);
                    is_usable = keys.is_ok();
                    reports.record(keys);
                    content = new;
                }
                Err(error) => {
                    reports.record(Err(error));
                    // A file that is back unchanged is reported as well.
                    content.clear();
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyRefreshError> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(KeyRefreshError::File)?;
    let mut content = Vec::new();
    file.take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut content)
        .map_err(KeyRefreshError::File)?;
    if content.len() > MAX_DOCUMENT {
        return Err(KeyRefreshError::TooLong);
    }
    Ok(content)
}

/// A URL of keys.
pub(crate) struct KeyUrl {
    http: reqwest::Client,
    url: SecretUrl,
    /// Removes the credentials in the address from the client's messages.
    redaction: Redaction,
    source: Arc<KeySource>,
}

impl KeyUrl {
    /// A URL whose keys are not read yet. Reads the system's certificate authorities if it is https,
    /// so do not call it on an async thread.
    pub(crate) fn new(url: &SecretUrl) -> Result<KeyUrl, KeyRefreshError> {
        let is_encrypted = url.expose().scheme() == "https";
        let tls = if is_encrypted {
            tls::client_config("SSL_CERT_FILE", None)?
        } else {
            tls::trusting_nobody()?
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(Arc::unwrap_or_clone(tls))
            .timeout(TIMEOUT)
            // Only the configured server is asked.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| KeyRefreshError::Http(error.without_url().to_string()))?;
        Ok(KeyUrl {
            http,
            url: url.clone(),
            redaction: url.redaction(),
            source: KeySource::new(KeySource::URL, KeySet::default()),
        })
    }

    /// The keys of the URL.
    pub(crate) fn source(&self) -> &Arc<KeySource> {
        &self.source
    }

    /// Reads the keys now and at intervals. Tokens with an unknown key do not cause a read, so nobody
    /// can use this process against the server. Never ends.
    pub(crate) async fn watch(self, interval: Duration, metrics: AccessMetrics) {
        let reports = Reports::new(self.source.clone(), metrics);
        loop {
            let read = self.read().await;
            let pause = match &read {
                Ok(_) => interval,
                Err(_) if self.source.keys().is_empty() => FIRST_RETRY.min(interval),
                Err(_) => RETRY.min(interval),
            };
            reports.record(read);
            tokio::time::sleep(pause).await;
        }
    }

    async fn read(&self) -> Result<KeySet, KeyRefreshError> {
        let document = self.fetch().await?;
        Ok(KeySet::of_jwks(&document)?)
    }

    async fn fetch(&self) -> Result<Bytes, KeyRefreshError> {
        let failed = |error: reqwest::Error| {
            // Without the URL, which may contain a password.
            KeyRefreshError::Http(self.redaction.apply(&with_sources(&error.without_url())))
        };
        let mut request = self
            .http
            .get(self.url.without_login())
            .header(ACCEPT, "application/json");
        if let Some(login) = self.url.login() {
            let value = login.authorization();
            let value = value.map_err(|error| KeyRefreshError::Http(error.to_string()))?;
            request = request.header(http::header::AUTHORIZATION, value);
        }
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            let status = response.status().as_u16();
            return Err(KeyRefreshError::Http(format!(
                "the server answered with status {status}"
            )));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(KeyRefreshError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

#[cfg(test)]
mod tests;
