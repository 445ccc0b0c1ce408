//! A certificate authority for the tests of TLS, and clients that trust it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use sports_bet_platform::runtime::tls::install_provider;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// An authority, with a folder for the files of a server.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// An authority that has issued a certificate of this machine, in its folder.
    pub fn new() -> Authority {
        install_provider();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        let authority = Authority {
            issuer: Issuer::new(parameters, key),
            certificate: certificate.der().clone(),
            folder: TempDir::new().unwrap(),
        };
        std::fs::write(authority.file("ca.pem"), certificate.pem()).unwrap();
        authority.replace();
        authority
    }

    /// Issues a certificate of this machine.
    pub fn issue(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let parameters = CertificateParams::new(names).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate, key }
    }

    /// Replaces the certificate in the folder, and returns it.
    pub fn replace(&self) -> CertificateDer<'static> {
        let issued = self.issue();
        std::fs::write(self.file("cert.pem"), issued.certificate.pem()).unwrap();
        std::fs::write(self.file("key.pem"), issued.key.serialize_pem()).unwrap();
        issued.certificate.der().clone()
    }

    /// A file of the folder: `cert.pem`, `key.pem`, `ca.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The settings of a server that uses the certificate, before these.
    pub fn settings<'a>(&self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut all = vec![
            ("TLS_CERT_FILE", path(&self.file("cert.pem"))),
            ("TLS_KEY_FILE", path(&self.file("key.pem"))),
        ];
        all.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        all
    }

    /// The TLS of a client, with a certificate of its own or without.
    pub fn client(&self, own: Option<&Issued>) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS, own)
    }

    /// The TLS of a client that speaks these versions.
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder =
            ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.serialize_pem().as_bytes());
                let chain = vec![own.certificate.der().clone()];
                builder.with_client_auth_cert(chain, key.unwrap()).unwrap()
            }
        }
    }

    /// A REST client.
    pub fn rest(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.client(None))
            .no_proxy()
            .build()
            .unwrap()
    }

    /// Completes a handshake on a connection.
    pub async fn handshake(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::new(self.client(None)));
        let name = ServerName::try_from("localhost").unwrap();
        within("a TLS handshake", connector.connect(name, stream))
            .await
            .unwrap()
    }

    /// A new connection.
    pub async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.handshake(TcpStream::connect(address).await.unwrap())
            .await
    }
}

/// Settings as the helpers that start servers take them.
pub fn borrowed<'a>(settings: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}
