//! Lines over TCP or TLS, for Betfair.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, FramedRead};

use super::io::Io;
use super::writer::{Writer, until_failed};
use super::{
    Connection, Inbound, OUTBOUND_QUEUE, Outbound, READ_BUFFER, TransportError, max_frame,
};
use crate::config::settings::SupplierSettings;

/// Reads and writes lines over a connection.
pub(super) fn open(io: Box<dyn Io>, settings: &SupplierSettings) -> Connection {
    let max = max_frame(settings);
    let (read, write) = tokio::io::split(io);
    let (outbound, queue) = mpsc::channel(OUTBOUND_QUEUE);
    let writer = Writer::start(write_lines(write, queue, settings.supplier_read_timeout).boxed());
    let inbound =
        FramedRead::with_capacity(read, Lines::new(max), READ_BUFFER.min(max)).map(move |line| {
            match line {
                Ok(line) => Ok(Inbound::Frame(line)),
                Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => {
                    Err(TransportError::FrameTooLarge(max))
                }
                Err(AnyDelimiterCodecError::Io(error)) => {
                    Err(TransportError::Read(error.to_string()))
                }
            }
        });
    Connection {
        inbound: until_failed(inbound.boxed(), writer),
        outbound,
    }
}

async fn write_lines(
    mut write: WriteHalf<Box<dyn Io>>,
    mut queue: mpsc::Receiver<Outbound>,
    limit: Duration,
) -> Result<(), TransportError> {
    while let Some(outbound) = queue.recv().await {
        let Outbound::Text(mut line) = outbound else {
            continue;
        };
        line.push_str("\r\n");
        let write_line = async {
            write.write_all(line.as_bytes()).await?;
            write.flush().await
        };
        let written = timeout(limit, write_line)
            .await
            .map_err(|_| TransportError::WriteTimeout(limit))?;
        written.map_err(|error| TransportError::Write(error.to_string()))?;
    }
    Ok(())
}

/// Lines of arbitrary bytes: `LinesCodec` would end the connection at the first line that is not
/// UTF-8.
struct Lines(AnyDelimiterCodec);

impl Lines {
    fn new(max: usize) -> Lines {
        // One more byte for the CR.
        Lines(AnyDelimiterCodec::new_with_max_length(
            b"\n".to_vec(),
            Vec::new(),
            max.saturating_add(1),
        ))
    }
}

impl Decoder for Lines {
    type Item = Bytes;
    type Error = AnyDelimiterCodecError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, AnyDelimiterCodecError> {
        let mut line = self.0.decode(buffer)?;
        if let Some(line) = line.as_mut().filter(|line| line.ends_with(b"\r")) {
            line.truncate(line.len() - 1);
        }
        Ok(line)
    }

    /// A line cut off by a lost connection is not a frame.
    fn decode_eof(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Bytes>, AnyDelimiterCodecError> {
        let line = self.decode(buffer)?;
        if line.is_none() {
            buffer.clear();
        }
        Ok(line)
    }
}
