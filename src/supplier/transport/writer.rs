//! The task that writes to a supplier.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Inbound, TransportError};
use crate::telemetry::role;

/// The writing task. It is aborted with the connection, and reports the error if it ends the
/// connection itself.
pub(super) struct Writer {
    task: JoinHandle<()>,
    failed: mpsc::Receiver<TransportError>,
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(writing: BoxFuture<'static, Result<(), TransportError>>) -> Writer {
        let (errors, failed) = mpsc::channel(1);
        let task = tokio::spawn(role::inherit(async move {
            if let Err(error) = writing.await {
                // The receiver is gone only if the connection has ended anyway.
                let _ = errors.send(error).await;
            }
        }));
        Writer { task, failed }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The stream until it ends, fails, or the writer fails.
pub(super) fn until_failed(
    stream: BoxStream<'static, Result<Inbound, TransportError>>,
    writer: Writer,
) -> BoxStream<'static, Result<Inbound, TransportError>> {
    let open = Some((stream, writer));
    futures_util::stream::unfold(open, |open| async move {
        let (mut stream, mut writer) = open?;
        tokio::select! {
            biased;
            Some(error) = writer.failed.recv() => Some((Err(error), None)),
            next = stream.next() => match next? {
                Ok(inbound) => Some((Ok(inbound), Some((stream, writer)))),
                Err(error) => Some((Err(error), None)),
            },
        }
    })
    .boxed()
}
