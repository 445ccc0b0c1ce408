//! Batches frames that have already arrived, so that the caller waits once for all of them.

use std::task::Poll;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::transport::{Inbound, TransportError};

/// The maximum number of frames in a batch, and of bytes before its last frame.
pub(crate) const MAX_FRAMES: usize = 256;
const MAX_BYTES: usize = 1024 * 1024;

/// Received items in order; at least one.
pub(crate) type FrameBatch = Vec<Result<Inbound, TransportError>>;

/// Yields everything that is ready without waiting for more. A single frame is yielded at once.
pub(crate) fn batches(
    inbound: BoxStream<'static, Result<Inbound, TransportError>>,
) -> impl Stream<Item = FrameBatch> {
    let mut inbound = inbound.fuse();
    stream::poll_fn(move |context| {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < MAX_FRAMES && bytes < MAX_BYTES {
            match inbound.poll_next_unpin(context) {
                Poll::Ready(Some(item)) => {
                    if let Ok(Inbound::Frame(frame)) = &item {
                        bytes += frame.len();
                    }
                    items.push(item);
                }
                Poll::Ready(None) if items.is_empty() => return Poll::Ready(None),
                Poll::Pending if items.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(items))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;

    fn frame(size: usize) -> Result<Inbound, TransportError> {
        Ok(Inbound::Frame(Bytes::from(vec![b'x'; size])))
    }

    fn pipe() -> (
        mpsc::UnboundedSender<Result<Inbound, TransportError>>,
        impl Stream<Item = FrameBatch> + Unpin,
    ) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        (
            sender,
            batches(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()),
        )
    }

    #[tokio::test]
    async fn ready_frames_are_batched_in_order() {
        let (sender, mut frames) = pipe();
        sender.send(frame(1)).unwrap();
        assert_eq!(
            frames.next().await.unwrap().len(),
            1,
            "no wait for more frames"
        );
        sender.send(frame(2)).unwrap();
        sender.send(Ok(Inbound::Alive)).unwrap();
        sender
            .send(Err(TransportError::Read("gone".to_owned())))
            .unwrap();
        drop(sender);
        let items = frames.next().await.unwrap();
        assert!(
            matches!(&items[..], [Ok(Inbound::Frame(frame)), Ok(Inbound::Alive), Err(_)] if frame.len() == 2)
        );
        assert!(frames.next().await.is_none());
    }

    #[tokio::test]
    async fn batch_is_bounded_by_frames_and_bytes() {
        let mut many = batches(stream::iter((0..MAX_FRAMES + 1).map(|_| frame(1))).boxed());
        assert_eq!(many.next().await.unwrap().len(), MAX_FRAMES);
        assert_eq!(many.next().await.unwrap().len(), 1);
        let mut large = batches(stream::iter((0..5).map(|_| frame(MAX_BYTES / 2))).boxed());
        assert_eq!(large.next().await.unwrap().len(), 2);
    }
}
