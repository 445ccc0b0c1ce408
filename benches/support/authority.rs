//! TLS of benches: a certificate for the server, and clients that trust it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sports_bet_platform::runtime::tls::install_provider;
use tempfile::TempDir;

use super::Outcome;
use super::client::Client;

/// A connection, with TLS or without.
pub trait Socket: Read + Write {
    /// The socket itself.
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// A client's connection with TLS.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Socket for TlsStream {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

/// A certificate, its files, and the clients that trust it.
pub struct Authority {
    folder: TempDir,
    client: Arc<ClientConfig>,
}

impl Authority {
    /// Creates the certificate and its files.
    pub fn create() -> Outcome<Authority> {
        install_provider();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        std::fs::write(
            folder.path().join("key.pem"),
            made.signing_key.serialize_pem(),
        )?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let mut client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake is a full one.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Authority {
            folder,
            client: Arc::new(client),
        })
    }

    /// The settings of a server that uses the certificate.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        let file = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        [
            ("TLS_CERT_FILE", file("cert.pem")),
            ("TLS_KEY_FILE", file("key.pem")),
        ]
    }

    /// Connects with TLS and upgrades to WebSocket.
    pub fn connect(&self, address: SocketAddr) -> Outcome<Client<TlsStream>> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let session = ClientConnection::new(self.client.clone(), "localhost".try_into()?)?;
        Client::upgrade_on(StreamOwned::new(session, socket), address, "/ws/odds")
    }
}
