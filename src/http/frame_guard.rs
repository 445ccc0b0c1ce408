//! Ends a WebSocket whose client announces a frame that is too large, before the frame comes.
//!
//! Needed because the frame parser looks at the size only when it has the whole frame, and buffers all of it until then.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

const MASK_BYTES: u64 = 4;

/// The bytes of a client, up to the first head that announces too much; there it ends with an overflow.
pub struct FrameGuard<S> {
    bytes: S,
    heads: FrameHeads,
}

impl<S> FrameGuard<S> {
    /// Lets frames of up to `largest` bytes pass.
    pub fn new(bytes: S, largest: usize) -> FrameGuard<S> {
        FrameGuard { bytes, heads: FrameHeads { largest: largest as u64, head: Vec::new(), to_pass: 0 } }
    }
}

impl<S> Stream for FrameGuard<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.bytes.poll_next_unpin(context).map(|next| {
            next.map(|bytes| {
                let bytes = bytes?;
                if self.heads.let_pass(&bytes) { Ok(bytes) } else { Err(PayloadError::Overflow) }
            })
        })
    }
}

/// Follows frames through bytes that are cut anywhere.
struct FrameHeads {
    largest: u64,
    /// What there is of the next head, without its mask.
    head: Vec<u8>,
    /// Bytes up to the next head.
    to_pass: u64,
}

impl FrameHeads {
    /// `false` where a head announces too much.
    fn let_pass(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.to_pass > 0 {
                let passed = self.to_pass.min(bytes.len() as u64);
                self.to_pass -= passed;
                bytes = &bytes[passed as usize..];
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some(length) = announced(&self.head) {
                if length > self.largest {
                    return false;
                }
                let is_masked = self.head[1] & 0x80 != 0;
                self.to_pass = length + if is_masked { MASK_BYTES } else { 0 };
                self.head.clear();
            }
        }
        true
    }
}

/// The length that a head announces; none while it is not whole.
fn announced(head: &[u8]) -> Option<u64> {
    match (head.get(1)? & 0x7f, head.get(2..)?) {
        (126, [a, b]) => Some(u64::from(u16::from_be_bytes([*a, *b]))),
        (127, length) => Some(u64::from_be_bytes(length.try_into().ok()?)),
        (126, _) => None,
        (length, _) => Some(u64::from(length)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads(largest: u64) -> FrameHeads {
        FrameHeads { largest, head: Vec::new(), to_pass: 0 }
    }

    fn frame(length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = match length {
            0..=125 => vec![0x81, mask | length as u8],
            126..=0xffff => [vec![0x81, mask | 126], (length as u16).to_be_bytes().to_vec()].concat(),
            _ => [vec![0x81, mask | 127], (length as u64).to_be_bytes().to_vec()].concat(),
        };
        // Content that would be a head of a large frame.
        frame.resize(frame.len() + length + if is_masked { 4 } else { 0 }, 0xff);
        frame
    }

    #[test]
    fn a_head_that_announces_too_much_ends_it_at_once() {
        assert!(heads(1_000).let_pass(&frame(1_000, true)));
        assert!(!heads(1_000).let_pass(&frame(1_001, true)[..4]));
        assert!(!heads(1_000).let_pass(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    }

    proptest! {
        /// However the bytes are cut, frames pass up to the first one that is too large.
        #[test]
        fn frames_are_found_however_the_bytes_are_cut(
            lengths in proptest::collection::vec((prop_oneof![0_usize..200, 65_500_usize..65_600], any::<bool>()), 1..6),
            cut in 1_usize..300,
        ) {
            let largest = 65_550;
            let bytes: Vec<u8> = lengths.iter().flat_map(|(length, is_masked)| frame(*length, *is_masked)).collect();
            let mut heads = heads(largest as u64);
            let passed = bytes.chunks(cut).all(|part| heads.let_pass(part));
            prop_assert_eq!(passed, lengths.iter().all(|(length, _)| *length <= largest));
        }
    }
}
