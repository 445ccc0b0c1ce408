//! TLS with rustls on ring. For connections to suppliers and Redis, with the system's certificate
//! authorities and those of a configured file; for clients of our ports in `server`.

pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

pub use self::server::CertificateError;

/// Why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The file with additional authorities cannot be read.
    #[error("{variable} {file}: {cause}; expected a PEM file of certificates", file = file.display())]
    CaFile {
        /// The setting that names the file.
        variable: &'static str,
        /// The file.
        file: PathBuf,
        /// The fault.
        cause: String,
    },
    /// No authority is trusted, so no connection could succeed.
    #[error(
        "no trusted certificate authority: the system has none (is ca-certificates installed?) and {0} is not set"
    )]
    NoAuthorities(&'static str),
    /// rustls rejects the configuration.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Installs the process-wide TLS provider, for code that does not name one. Idempotent.
pub fn install_provider() {
    // An error means that a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The client configuration; `variable` is the setting that names `ca_file`. Reads files, so do not
/// call it on an async thread.
pub fn client_config(
    variable: &'static str,
    ca_file: Option<&Path>,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        log::debug!("cannot read a system certificate authority: {error}");
    }
    config_with_roots(roots(variable, system.certs, ca_file)?)
}

/// A configuration that trusts no authority, for an unencrypted client that requires one anyway.
pub fn trusting_nobody() -> Result<Arc<ClientConfig>, TlsSetupError> {
    config_with_roots(RootCertStore::empty())
}

/// Names the provider, so that no process-wide default is needed.
fn config_with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn roots(
    variable: &'static str,
    system: Vec<CertificateDer<'static>>,
    ca_file: Option<&Path>,
) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system);
    if let Some(file) = ca_file {
        let fault = |cause: String| TlsSetupError::CaFile {
            variable,
            file: file.to_owned(),
            cause,
        };
        let pem = std::fs::read(file).map_err(|error| fault(error.to_string()))?;
        add_authorities(&mut roots, &pem).map_err(fault)?;
    }
    if roots.is_empty() {
        Err(TlsSetupError::NoAuthorities(variable))
    } else {
        Ok(roots)
    }
}

/// Adds the certificates of a PEM text, at least one.
fn add_authorities(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The certificates of a PEM text, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("it contains no certificate".to_owned());
    }
    Ok(certificates)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A certificate authority for tests.

    use std::io::Write;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tempfile::NamedTempFile;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server for `localhost`, and a file with its certificate.
    pub(crate) fn localhost() -> (TlsAcceptor, NamedTempFile) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(made.cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (TlsAcceptor::from(Arc::new(config)), file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn missing_authorities_are_an_error() {
        assert!(matches!(
            roots("CA", Vec::new(), None),
            Err(TlsSetupError::NoAuthorities("CA"))
        ));
    }

    #[test]
    fn ca_file_adds_to_system_authorities() {
        let (_, file) = testing::localhost();
        assert_eq!(roots("CA", Vec::new(), Some(file.path())).unwrap().len(), 1);
    }

    #[test]
    fn bad_ca_file_is_named() {
        let missing = roots(
            "SUPPLIER_CA_FILE",
            Vec::new(),
            Some(Path::new("/no/such/file.pem")),
        )
        .unwrap_err()
        .to_string();
        assert!(
            missing.starts_with("SUPPLIER_CA_FILE /no/such/file.pem: "),
            "{missing}"
        );
        let mut empty = tempfile::NamedTempFile::new().unwrap();
        empty.write_all(b"hello").unwrap();
        let empty = roots("CA", Vec::new(), Some(empty.path()))
            .unwrap_err()
            .to_string();
        assert!(empty.contains("contains no certificate"), "{empty}");
    }
}
