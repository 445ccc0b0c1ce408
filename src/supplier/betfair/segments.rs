//! Messages that come in several segments: held until the last one, then given out as one.

use super::wire::SegmentType;
use crate::supplier::FrameFault;

/// The segments of a message that is not whole yet.
#[derive(Default)]
pub struct Segments {
    held: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

/// What a frame makes of the segments.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// More are to come.
    NotYet,
    /// A message of its own.
    Alone,
    /// The last segment: these frames, in their order, are one message.
    RequestBatcher(Vec<Vec<u8>>),
}

impl Segments {
    /// Holds at most `limit` bytes.
    pub fn new(limit: usize) -> Segments {
        Segments {
            limit,
            ..Segments::default()
        }
    }

    /// Forgets what is held.
    pub fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes a frame that changes something. Segments out of order mean that changes are lost, so
    /// the connection is made anew: the position of the last whole message is still known, and the
    /// stream goes on from there.
    pub fn take(
        &mut self,
        segment: Option<SegmentType>,
        frame: &[u8],
    ) -> Result<Whole, FrameFault> {
        let expected = match segment {
            None | Some(SegmentType::SegStart) => self.held.is_empty(),
            Some(SegmentType::Seg | SegmentType::SegEnd) => !self.held.is_empty(),
        };
        if !expected {
            let detail = format!("{segment:?} with {} segments held", self.held.len());
            self.clear();
            return Err(FrameFault::Refused {
                reason: "broken_segments",
                detail,
            });
        }
        if segment.is_none() {
            return Ok(Whole::Alone);
        }
        self.bytes = self.bytes.saturating_add(frame.len());
        if self.bytes > self.limit {
            self.clear();
            let detail = format!(
                "the segments of one message are larger than {} bytes (64 times SUPPLIER_MAX_FRAME)",
                self.limit
            );
            return Err(FrameFault::Refused {
                reason: "segments_too_large",
                detail,
            });
        }
        self.held.push(frame.to_vec());
        if segment == Some(SegmentType::SegEnd) {
            self.bytes = 0;
            return Ok(Whole::RequestBatcher(std::mem::take(&mut self.held)));
        }
        Ok(Whole::NotYet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_out_together_and_in_order() {
        let mut segments = Segments::new(100);
        assert_eq!(segments.take(None, b"a").unwrap(), Whole::Alone);
        assert_eq!(
            segments.take(Some(SegmentType::SegStart), b"b").unwrap(),
            Whole::NotYet
        );
        assert_eq!(
            segments.take(Some(SegmentType::Seg), b"c").unwrap(),
            Whole::NotYet
        );
        let whole = segments.take(Some(SegmentType::SegEnd), b"d").unwrap();
        assert_eq!(
            whole,
            Whole::RequestBatcher(vec![b"b".to_vec(), b"c".to_vec(), b"d".to_vec()])
        );
        assert_eq!(segments.take(None, b"e").unwrap(), Whole::Alone);
    }

    #[test]
    fn a_gap_or_too_much_ends_the_connection() {
        let refused = |fault: FrameFault| match fault {
            FrameFault::Refused { reason, .. } | FrameFault::Unreadable { reason, .. } => reason,
        };
        let mut segments = Segments::new(3);
        assert_eq!(
            refused(segments.take(Some(SegmentType::Seg), b"a").unwrap_err()),
            "broken_segments"
        );
        segments.take(Some(SegmentType::SegStart), b"a").unwrap();
        assert_eq!(
            refused(segments.take(None, b"b").unwrap_err()),
            "broken_segments"
        );
        segments.take(Some(SegmentType::SegStart), b"ab").unwrap();
        assert_eq!(
            refused(segments.take(Some(SegmentType::Seg), b"cd").unwrap_err()),
            "segments_too_large"
        );
        segments.take(Some(SegmentType::SegStart), b"abc").unwrap();
    }
}
