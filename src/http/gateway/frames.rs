//! The frames of a WebSocket server (RFC 6455), followed through a byte stream that may be split
//! anywhere. Shows where a frame can be added to the stream.

/// The length of the longest head: two bytes, and eight of an extended length.
const MAX_HEAD: usize = 10;
const CLOSE: u8 = 0x8;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const MASK_BYTES: u64 = 4;
/// Maximum content of a control frame.
const MAX_CONTROL: usize = 125;

/// What has passed of a server's frames.
#[derive(Debug, Default)]
pub(super) struct ServerFrames {
    head: [u8; MAX_HEAD],
    head_length: usize,
    /// Bytes before the next head.
    to_pass: u64,
    /// Whether the last data frame was not the last of its message.
    is_fragmented: bool,
    has_close: bool,
}

impl ServerFrames {
    /// Follows further bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.to_pass > 0 {
                let passed = self.to_pass.min(bytes.len() as u64);
                self.to_pass -= passed;
                bytes = &bytes[passed as usize..];
                continue;
            }
            self.head[self.head_length] = *first;
            self.head_length += 1;
            bytes = rest;
            if let Some(length) = announced(&self.head[..self.head_length]) {
                let opcode = self.head[0] & 0x0f;
                self.has_close |= opcode == CLOSE;
                if opcode < CLOSE {
                    self.is_fragmented = self.head[0] & FIN == 0;
                }
                self.head_length = 0;
                self.to_pass = length;
            }
        }
    }

    /// Whether the server has sent a close frame, perhaps not all of it.
    pub(super) fn has_close(&self) -> bool {
        self.has_close
    }

    /// Whether a control frame can follow.
    pub(super) fn is_between_frames(&self) -> bool {
        self.head_length == 0 && self.to_pass == 0
    }

    /// Whether a message can follow.
    pub(super) fn is_between_messages(&self) -> bool {
        self.is_between_frames() && !self.is_fragmented && !self.has_close
    }
}

/// The number of bytes after a head; `None` while the head is incomplete.
fn announced(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let length = match second & !MASKED {
        126 => u64::from(u16::from_be_bytes(*head.get(2..4)?.first_chunk()?)),
        127 => u64::from_be_bytes(*head.get(2..10)?.first_chunk()?),
        length => u64::from(length),
    };
    // A server does not mask; if it did, the boundaries would still be right.
    let mask = if second & MASKED == 0 { 0 } else { MASK_BYTES };
    Some(length.saturating_add(mask))
}

/// A close frame of a server.
pub(super) fn close_frame(code: u16, reason: &'static str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(MAX_CONTROL - 2)];
    let mut frame = vec![FIN | CLOSE, (reason.len() + 2) as u8];
    frame.extend(code.to_be_bytes());
    frame.extend(reason);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(length as u8),
            126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    proptest! {
        /// Exactly the ends of frames are boundaries, however the bytes are split, and only a close
        /// frame counts as one.
        #[test]
        fn boundaries_are_the_ends_of_frames(
            sizes in proptest::collection::vec((prop_oneof![0_usize..130, 65_530_usize..65_540], any::<bool>()), 1..6),
            split in 1_usize..5_000,
            closes in any::<bool>(),
        ) {
            let mut stream = Vec::new();
            let (mut ends, mut ends_of_messages) = (vec![], vec![]);
            for (size, is_last_fragment) in sizes {
                stream.extend(frame(if is_last_fragment { 0x81 } else { 0x01 }, size));
                ends.push(stream.len());
                if is_last_fragment {
                    ends_of_messages.push(stream.len());
                }
            }
            let before_close = stream.len();
            if closes {
                stream.extend(close_frame(1_001, "going away"));
                ends.push(stream.len());
            }
            let mut frames = ServerFrames::default();
            prop_assert!(frames.is_between_frames());
            let mut fed = 0;
            for part in stream.chunks(split) {
                frames.feed(part);
                fed += part.len();
                prop_assert_eq!(frames.is_between_frames(), ends.contains(&fed), "{}", fed);
                prop_assert_eq!(frames.is_between_messages(), ends_of_messages.contains(&fed), "{}", fed);
                if fed <= before_close {
                    prop_assert!(!frames.has_close());
                }
            }
            prop_assert_eq!(frames.has_close(), closes);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), split in 1_usize..20) {
            let mut frames = ServerFrames::default();
            bytes.chunks(split).for_each(|part| frames.feed(part));
        }
    }

    #[test]
    fn close_frame_has_code_and_reason() {
        assert_eq!(close_frame(1_001, "bye"), b"\x88\x05\x03\xe9bye");
    }
}
