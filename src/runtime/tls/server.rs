//! TLS for clients: the certificate of our ports, which is replaced when its files change.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError as InvalidCertificate, Error, InconsistentKeys};
use rustls::{RootCertStore, ServerConfig};

use super::{add_authorities, certificates, provider};

const CERTIFICATE: &str = "TLS_CERT_FILE";
const KEY: &str = "TLS_KEY_FILE";
const CLIENT_CA: &str = "TLS_CLIENT_CA_FILE";

/// The one protocol that the HTTP servers speak.
const PROTOCOL: &[u8] = b"http/1.1";
/// The one protocol that the gRPC servers speak.
const GRPC_PROTOCOL: &[u8] = b"h2";
/// The first second after every date that a certificate can name.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

/// A file that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {file}: {cause}; expected {want}", file = file.display())]
pub struct CertificateError {
    /// The setting that names the file.
    pub variable: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The expected contents.
    pub want: &'static str,
    /// The fault. Contains nothing of the file.
    pub cause: String,
}

/// The PEM files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The certificate, followed by those of its issuers.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of which every client must have a certificate.
    pub client_ca: Option<PathBuf>,
}

impl CertificateFiles {
    fn read(&self) -> Result<Contents, CertificateError> {
        let read = |variable, file: &Path| {
            std::fs::read(file).map_err(|error| self.error(variable, error))
        };
        let client_ca = self.client_ca.as_deref();
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca: client_ca.map(|file| read(CLIENT_CA, file)).transpose()?,
        })
    }

    fn error(&self, variable: &'static str, cause: impl Display) -> CertificateError {
        let (file, want) = match variable {
            KEY => (
                Some(&self.key),
                "a PEM file with the private key of the certificate in TLS_CERT_FILE",
            ),
            CLIENT_CA => (
                self.client_ca.as_ref(),
                "a PEM file with certificates of authorities",
            ),
            _ => (Some(&self.certificate), "a PEM file with a certificate"),
        };
        CertificateError {
            variable,
            file: file.cloned().unwrap_or_default(),
            want,
            cause: cause.to_string(),
        }
    }

    /// Creates the configuration of a server from the contents of the files.
    fn configure(&self, contents: &Contents) -> Result<InUse, CertificateError> {
        let certified = self.certified_key(contents)?;
        let not_after = certified.cert.iter().filter_map(not_after).min();
        let failed = |error| self.error(CERTIFICATE, error);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_client_cert_verifier(self.client_verifier(contents)?);
        let certified = SingleCertAndKey::from(certified);
        let mut config = builder.with_cert_resolver(Arc::new(certified));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Sessions that are resumed need no signature and no memory of the server.
        config.ticketer = Ticketer::new().map_err(failed)?;
        let mut grpc = config.clone();
        grpc.alpn_protocols = vec![GRPC_PROTOCOL.to_vec()];
        Ok(InUse {
            config: Arc::new(config),
            grpc: Arc::new(grpc),
            not_after: not_after.map(|end| end.as_secs()),
            fingerprint: contents.fingerprint(),
        })
    }

    fn certified_key(&self, contents: &Contents) -> Result<CertifiedKey, CertificateError> {
        let chain =
            certificates(&contents.certificate).map_err(|cause| self.error(CERTIFICATE, cause))?;
        let key =
            PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| self.error(KEY, error))?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| self.error(KEY, error))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(Error::InconsistentKeys(_)) => {
                let cause = "the key is not that of the certificate";
                Err(self.error(KEY, cause))
            }
            Err(error) => Err(self.error(CERTIFICATE, error)),
        }
    }

    fn client_verifier(
        &self,
        contents: &Contents,
    ) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
        let Some(pem) = &contents.client_ca else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        add_authorities(&mut roots, pem).map_err(|cause| self.error(CLIENT_CA, cause))?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| self.error(CLIENT_CA, error))
    }
}

/// The contents of the files.
#[derive(Hash)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    /// Identifies the contents without a copy of the key.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What new connections use.
struct InUse {
    config: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    not_after: Option<u64>,
    fingerprint: u64,
}

/// The certificate of our ports.
pub(crate) struct ServerCertificate {
    files: CertificateFiles,
    in_use: RwLock<InUse>,
}

impl ServerCertificate {
    /// Reads the files. Blocks.
    pub(crate) fn load(files: CertificateFiles) -> Result<ServerCertificate, CertificateError> {
        let in_use = files.configure(&files.read()?)?;
        Ok(ServerCertificate {
            files,
            in_use: RwLock::new(in_use),
        })
    }

    /// Reads the files again, and returns whether their contents are new. The certificate in use
    /// stays if they cannot be used. Compares contents, since files are also replaced by symbolic
    /// links and within one tick of the clock of the file system. Blocks.
    pub(crate) fn reload(&self) -> Result<bool, CertificateError> {
        let contents = self.files.read()?;
        if contents.fingerprint() == self.in_use.read().fingerprint {
            return Ok(false);
        }
        let in_use = self.files.configure(&contents)?;
        *self.in_use.write() = in_use;
        Ok(true)
    }

    /// The configuration of new connections of gRPC.
    pub(crate) fn grpc_config(&self) -> Arc<ServerConfig> {
        self.in_use.read().grpc.clone()
    }

    /// The configuration of new connections of HTTP.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.in_use.read().config.clone()
    }

    /// When the certificate, or the first of its issuers' in the file, expires, in seconds of Unix
    /// time.
    pub(crate) fn not_after(&self) -> Option<u64> {
        self.in_use.read().not_after
    }
}

/// When a certificate expires. rustls reads this date but shows it only in the error about an
/// expired certificate, so this verifies the certificate at the end of time.
fn not_after(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let verified = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        UnixTime::since_unix_epoch(END_OF_TIME),
        provider().signature_verification_algorithms.all,
    );
    match verified {
        Err(Error::InvalidCertificate(InvalidCertificate::ExpiredContext {
            not_after, ..
        })) => Some(Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
