//! TCP and TLS connections to suppliers.

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::TransportError;
use crate::config::settings::SupplierSettings;
use crate::runtime::tls;
use crate::telemetry::role;

/// A TCP or TLS stream.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens a TCP connection, and performs the TLS handshake if `is_tls`.
pub(super) async fn open(
    host: &str,
    port: u16,
    is_tls: bool,
    settings: &SupplierSettings,
) -> Result<Box<dyn Io>, TransportError> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(TransportError::Connect)?;
    stream.set_nodelay(true).map_err(TransportError::Connect)?;
    if !is_tls {
        return Ok(Box::new(stream));
    }
    let ca_file = settings.supplier_ca_file.clone();
    let config = tokio::task::spawn_blocking(role::carry(move || {
        tls::client_config("SUPPLIER_CA_FILE", ca_file.as_deref())
    }))
    .await
    .map_err(|error| TransportError::Tls(error.to_string()))??;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        TransportError::Tls(format!("`{host}` is neither a host name nor an IP address"))
    })?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| explain_tls(&error))?;
    Ok(Box::new(stream))
}

/// Adds the most likely cause to a failed TLS handshake.
fn explain_tls(error: &io::Error) -> TransportError {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    TransportError::Tls(match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!(
                "the server's certificate is not trusted ({error}); add its authority with SUPPLIER_CA_FILE"
            )
        }
        _ => error.to_string(),
    })
}
