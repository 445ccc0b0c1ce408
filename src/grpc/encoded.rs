//! `WatchOddsResponse`, encoded before it is handed to tonic: a change is encoded once for all
//! streams that get it in the same form.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, message};
use prost::{DecodeError, Message};

/// The fields of the message, of which one is set.
pub(crate) mod field {
    /// A snapshot.
    pub(crate) const SNAPSHOT: u32 = 1;
    /// An update.
    pub(crate) const UPDATE: u32 = 2;
    /// A status of the feed.
    pub(crate) const FEED: u32 = 3;
    /// A heartbeat.
    pub(crate) const HEARTBEAT: u32 = 4;
    pub(crate) const RECONNECT: u32 = 6;
    /// An error of an event.
    pub(crate) const ERROR: u32 = 5;
}

/// An encoded `WatchOddsResponse`. The generated code uses it in place of the message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EncodedResponse(Bytes);

impl EncodedResponse {
    /// The response with this message in one of its fields.
    pub(crate) fn of(field: u32, content: &impl Message) -> EncodedResponse {
        let mut bytes = BytesMut::with_capacity(message::encoded_len(field, content));
        message::encode(field, content, &mut bytes);
        EncodedResponse(bytes.freeze())
    }

    /// The response with these bytes, which were encoded before.
    pub(crate) fn from_bytes(bytes: Bytes) -> EncodedResponse {
        EncodedResponse(bytes)
    }

    /// The bytes.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Message for EncodedResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// The server never reads a response.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }
}
