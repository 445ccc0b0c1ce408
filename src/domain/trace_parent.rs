//! The position in a trace at which work continues, in the form of the W3C header `traceparent`.

use std::fmt;
use std::str::FromStr;

/// The name of the header of HTTP requests and of records, and of the fields in messages.
pub const TRACEPARENT: &str = "traceparent";
/// The length of the form of version 00.
const LENGTH: usize = 55;

/// Identifies a span: the parent of what follows from it. Work without one is not traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never zero.
    pub trace_id: [u8; 16],
    /// The span; never zero.
    pub span_id: [u8; 8],
    /// Whether the spans of the trace are recorded.
    pub is_sampled: bool,
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: expected 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")]
pub struct BadTraceParent;

impl TraceParent {
    /// Reads the parent that another part of the platform has sent. `None` if it is not sampled, or
    /// cannot be read: a damaged header must not stop the work that it came with.
    pub fn sampled(text: &[u8]) -> Option<TraceParent> {
        let parent: TraceParent = std::str::from_utf8(text).ok()?.parse().ok()?;
        parent.is_sampled.then_some(parent)
    }

    /// The trace id in hexadecimal.
    pub fn trace_id_text(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.span_id),
            u8::from(self.is_sampled)
        )
    }
}

impl FromStr for TraceParent {
    type Err = BadTraceParent;

    /// Later versions may add fields at the end; of the flags only the lowest bit has a meaning here.
    fn from_str(text: &str) -> Result<TraceParent, BadTraceParent> {
        let bytes = text.as_bytes();
        let is_dash = |place: usize| bytes.get(place) == Some(&b'-');
        if !(is_dash(2) && is_dash(35) && is_dash(52)) {
            return Err(BadTraceParent);
        }
        let version = number::<1>(bytes, 0)?[0];
        let has_right_length = match version {
            0 => bytes.len() == LENGTH,
            0xff => false,
            _ => bytes.len() == LENGTH || is_dash(LENGTH),
        };
        let parent = TraceParent {
            trace_id: number(bytes, 3)?,
            span_id: number(bytes, 36)?,
            is_sampled: number::<1>(bytes, 53)?[0] & 1 == 1,
        };
        let is_valid = has_right_length && parent.trace_id != [0; 16] && parent.span_id != [0; 8];
        is_valid.then_some(parent).ok_or(BadTraceParent)
    }
}

/// Reads bytes in lower-case hexadecimal, from this place on.
fn number<const N: usize>(text: &[u8], place: usize) -> Result<[u8; N], BadTraceParent> {
    let digits = text.get(place..place + 2 * N).ok_or(BadTraceParent)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn digit(letter: u8) -> Result<u8, BadTraceParent> {
    match letter {
        b'0'..=b'9' => Ok(letter - b'0'),
        b'a'..=b'f' => Ok(letter - b'a' + 10),
        _ => Err(BadTraceParent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn example_is_read_and_written() {
        let parent: TraceParent = EXAMPLE.parse().unwrap();
        assert!(parent.is_sampled);
        assert_eq!(parent.trace_id_text(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            parent.span_id,
            [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]
        );
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(TraceParent::sampled(EXAMPLE.as_bytes()), Some(parent));
    }

    #[test]
    fn unsampled_parent_counts_as_none() {
        let text = EXAMPLE.replace("-01", "-00");
        assert!(!text.parse::<TraceParent>().unwrap().is_sampled);
        assert_eq!(TraceParent::sampled(text.as_bytes()), None);
    }

    #[test]
    fn later_versions_may_be_longer() {
        let later = EXAMPLE.replacen("00", "01", 1);
        assert!(later.parse::<TraceParent>().is_ok());
        assert!(format!("{later}-more").parse::<TraceParent>().is_ok());
        assert!(format!("{later}more").parse::<TraceParent>().is_err());
        assert!(format!("{EXAMPLE}-more").parse::<TraceParent>().is_err());
    }

    #[test]
    fn wrong_texts_are_refused() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(BadTraceParent), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = text.parse::<TraceParent>();
            let _ = TraceParent::sampled(&bytes);
        }

        #[test]
        fn written_form_reads_back(trace_id in 1_u128.., span_id in 1_u64.., is_sampled: bool) {
            let parent = TraceParent {
                trace_id: trace_id.to_be_bytes(),
                span_id: span_id.to_be_bytes(),
                is_sampled,
            };
            prop_assert_eq!(parent.to_string().len(), LENGTH);
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }
}
