//! Settings of TLS for clients.

use std::path::PathBuf;

use clap::Args;

use crate::runtime::tls::server::CertificateFiles;

/// Settings of TLS for clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "TLS for clients")]
pub struct TlsSettings {
    /// PEM file with the certificate of the odds, wallet, bets and gateway ports, followed by those
    /// of its issuers. If set, these ports accept only TLS. Read again when it changes
    #[arg(long, env)]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with the private key of the certificate
    #[arg(long, env)]
    pub tls_key_file: Option<PathBuf>,
    /// PEM file with certificate authorities. If set, every client must present a certificate of
    /// one of them
    #[arg(long, env)]
    pub tls_client_ca_file: Option<PathBuf>,
}

impl TlsSettings {
    /// The files of the certificate, if there is one.
    pub(crate) fn files(&self) -> Option<CertificateFiles> {
        Some(CertificateFiles {
            certificate: self.tls_cert_file.clone()?,
            key: self.tls_key_file.clone()?,
            client_ca: self.tls_client_ca_file.clone(),
        })
    }
}
