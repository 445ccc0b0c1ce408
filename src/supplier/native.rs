//! The native form: one JSON update a frame, text or binary.

use super::{Decoded, Decoder, FrameFault};
use crate::domain::update::OddsUpdate;

/// Reads the native form. It keeps nothing between frames.
#[derive(Debug)]
pub struct NativeDecoder;

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let update = OddsUpdate::from_json(frame)
            .map_err(|error| FrameFault::Unreadable { reason: error.reason(), detail: error.to_string() })?;
        Ok(Decoded { updates: vec![update], ..Decoded::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::update::testing::update;

    #[test]
    fn a_frame_is_an_update() {
        let sent = update(1, 10, 5);
        assert!(NativeDecoder.on_connected().is_empty());
        assert_eq!(NativeDecoder.on_frame(sent.to_json().as_bytes()).unwrap().updates, [sent]);
    }

    #[test]
    fn a_bad_frame_says_why() {
        let fault = NativeDecoder.on_frame(b"hello").unwrap_err();
        assert!(matches!(&fault, FrameFault::Unreadable { reason: "malformed", .. }), "{fault}");
        assert!(matches!(
            NativeDecoder.on_frame(b"\xff").unwrap_err(),
            FrameFault::Unreadable { reason: "malformed", .. }
        ));
    }
}
