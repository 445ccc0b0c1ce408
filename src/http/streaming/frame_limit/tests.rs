use proptest::prelude::*;

use super::*;

fn frame(first: u8, length: usize) -> Vec<u8> {
    let mut frame = match length {
        0..=125 => vec![first, 0x80 | length as u8],
        126..=0xffff => [
            vec![first, 0x80 | 126],
            (length as u16).to_be_bytes().to_vec(),
        ]
        .concat(),
        _ => [
            vec![first, 0x80 | 127],
            (length as u64).to_be_bytes().to_vec(),
        ]
        .concat(),
    };
    // Content that looks like the head of a large frame.
    frame.resize(frame.len() + length + 4, 0xff);
    frame
}

fn feed(bytes: &[u8]) -> Result<u32, CloseReason> {
    FrameHeads::new(1_000).feed(bytes)
}

#[test]
fn oversized_frame_is_refused_at_once() {
    assert_eq!(feed(&frame(0x81, 1_000)), Ok(1));
    assert_eq!(
        feed(&frame(0x81, 1_001)[..4]),
        Err(CloseReason::MessageTooBig)
    );
    assert_eq!(
        feed(&[0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255]),
        Err(CloseReason::MessageTooBig)
    );
}

#[test]
fn lengths_are_minimally_encoded() {
    for length in [0_u16, 1, 125] {
        let [a, b] = length.to_be_bytes();
        assert_eq!(
            feed(&[0x81, 0xfe, a, b]),
            Err(CloseReason::ProtocolError),
            "{length}"
        );
    }
    assert_eq!(feed(&[0x81, 0xfe, 0, 126]), Ok(1));
    for length in [0_u64, 125, 126, 65_535] {
        let head = [&[0x81, 0xff][..], &length.to_be_bytes()].concat();
        assert_eq!(feed(&head), Err(CloseReason::ProtocolError), "{length}");
    }
    let head = [&[0x81, 0xff][..], &65_536_u64.to_be_bytes()].concat();
    assert_eq!(FrameHeads::new(1 << 20).feed(&head), Ok(1));
}

#[test]
fn malformed_heads_are_refused() {
    let heads = [
        [0x81, 0x01],
        [0xc1, 0x81],
        [0x83, 0x80],
        [0x8b, 0x80],
        [0x09, 0x80],
        [0x89, 0xfe],
        [0x08, 0x80],
    ];
    for head in heads {
        assert_eq!(feed(&head), Err(CloseReason::ProtocolError), "{head:?}");
    }
}

#[test]
fn unfinished_messages_are_counted_whole() {
    let mut heads = FrameHeads::new(1_000);
    let fed = [
        frame(0x01, 100),
        frame(0x89, 5),
        frame(0x00, 50),
        frame(0x80, 30)[..20].to_vec(),
    ];
    let pending = fed.map(|bytes| {
        heads.feed(&bytes).unwrap();
        (heads.is_unfinished(), heads.pending())
    });
    assert_eq!(
        pending,
        [(true, 100), (true, 105), (true, 155), (true, 185)]
    );
    heads.feed(&frame(0x80, 30)[20..]).unwrap();
    assert_eq!(
        (heads.is_unfinished(), heads.pending(), heads.messages),
        (false, 0, 1)
    );
}

#[test]
fn floods_of_every_kind_are_counted() {
    let limits = FrameLimits {
        largest: 1_000,
        frames_per_second: 10,
        bytes_per_second: 5_000,
        unfinished: UnfinishedBytes::new(1_000),
    };
    let start = Instant::now();
    let mut rate = Rate::default();
    assert_eq!(rate.count(10, 100, &limits, start), Ok(()));
    assert_eq!(
        rate.count(1, 1, &limits, start),
        Err(CloseReason::TooManyMessages)
    );
    let later = start + WINDOW;
    assert_eq!(rate.count(10, 5_000, &limits, later), Ok(()));
    assert_eq!(
        rate.count(0, 1, &limits, later),
        Err(CloseReason::TooManyMessages)
    );
}

#[test]
fn unfinished_bytes_are_limited_in_total() {
    let total = UnfinishedBytes::new(100);
    assert!(total.replace(0, 60) && total.replace(0, 40));
    assert!(!total.replace(0, 1));
    assert!(total.replace(61, 0) && total.replace(0, 60));
}

proptest! {
    /// However the bytes are split, frames pass up to the first one that is too large.
    #[test]
    fn frames_are_found_in_any_split(
        lengths in proptest::collection::vec(prop_oneof![0_usize..200, 65_500_usize..65_600], 1..6),
        cut in 1_usize..300,
    ) {
        let largest = 65_550;
        let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(0x81, *length)).collect();
        let mut heads = FrameHeads::new(largest);
        let passed = bytes.chunks(cut).try_fold(0, |frames, part| Ok(frames + heads.feed(part)?));
        let expected = if lengths.iter().all(|length| *length <= largest) {
            Ok(lengths.len() as u32)
        } else {
            Err(CloseReason::MessageTooBig)
        };
        prop_assert_eq!(passed, expected);
    }
}
