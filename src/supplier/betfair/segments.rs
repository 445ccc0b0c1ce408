//! Messages split into segments: held until the last segment, then returned as one.

use super::wire::SegmentType;
use crate::supplier::FrameFault;

/// The segments of an incomplete message.
#[derive(Default)]
pub(super) struct Segments {
    held: Vec<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

/// The result of adding a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// More segments will follow.
    NotYet,
    /// A complete message without segments.
    Alone,
    /// The last segment: these frames, in order, form one message.
    Complete(Vec<Vec<u8>>),
}

impl Segments {
    /// Creates a buffer of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Segments {
        Segments {
            limit,
            ..Segments::default()
        }
    }

    /// Discards the held segments.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Adds a frame that contains changes. Segments out of order mean that changes are lost, so the
    /// connection must be recreated: the position of the last complete message is known, and the
    /// stream resumes there.
    pub(super) fn take(
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
            return Ok(Whole::Complete(std::mem::take(&mut self.held)));
        }
        Ok(Whole::NotYet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_joined_in_order() {
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
            Whole::Complete(vec![b"b".to_vec(), b"c".to_vec(), b"d".to_vec()])
        );
        assert_eq!(segments.take(None, b"e").unwrap(), Whole::Alone);
    }

    #[test]
    fn gap_or_overflow_ends_connection() {
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
