//! RFC 6455 at the level of frames.

use pretty_assertions::assert_eq;
use rstest::rstest;

use super::raw::{
    BINARY, CLOSE, CONTINUATION, End, FIN, PING, PONG, RawClient, TEXT, frame, text, unmasked_frame,
};
use super::{start, until_nobody_is_left};

const RESERVED_BIT: u8 = 0x40;
const PING_MESSAGE: &str = r#"{"type":"ping"}"#;

/// Fragments of a message are joined, and pings between them are answered.
#[actix_web::test]
async fn fragments_are_joined_around_pings() {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    let (start, rest) = PING_MESSAGE.as_bytes().split_at(5);
    let (middle, end) = rest.split_at(4);
    for round in 0..2 {
        let before = format!("before {round}");
        let after = format!("after {round}");
        client.send(&frame(TEXT, start)).await;
        client.send(&frame(FIN | PING, before.as_bytes())).await;
        client.send(&frame(CONTINUATION, middle)).await;
        client.send(&frame(CONTINUATION, b"")).await;
        client.send(&frame(FIN | PING, after.as_bytes())).await;
        client.send(&frame(FIN | CONTINUATION, end)).await;
        for (opcode, content) in [
            (PONG, before.as_str()),
            (PONG, after.as_str()),
            (TEXT, r#"{"type":"pong"}"#),
        ] {
            let frame = client.next().await.unwrap();
            assert_eq!((frame.opcode, frame.text()), (opcode, content));
        }
    }
}

#[actix_web::test]
async fn fragments_may_split_a_character() {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    let message = r#"{"type":"ping","of":"São Paulo"}"#.as_bytes();
    let within_the_character = message.iter().position(|byte| !byte.is_ascii()).unwrap() + 1;
    let (start, end) = message.split_at(within_the_character);
    client.send(&frame(TEXT, start)).await;
    client.send(&frame(FIN | CONTINUATION, end)).await;
    assert_eq!(client.next_text().await.text(), r#"{"type":"pong"}"#);
}

#[actix_web::test]
async fn largest_ping_is_answered_in_full() {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.send(&frame(FIN | PING, &[7; 125])).await;
    let pong = client.next().await.unwrap();
    assert_eq!((pong.opcode, pong.payload), (PONG, vec![7; 125]));
}

#[rstest]
#[case::binary(1003, frame(FIN | BINARY, b"x"))]
#[case::fragmented_binary(1003, frame(BINARY, b"x"))]
#[case::broken_utf8(1007, frame(FIN | TEXT, b"\xc3\x28"))]
#[case::utf8_that_ends_in_the_middle(1007, frame(FIN | TEXT, "é".as_bytes().split_at(1).0))]
#[case::broken_utf8_over_fragments(1007, [frame(TEXT, b"a\xc3"), frame(FIN | CONTINUATION, b"\x28")].concat())]
#[case::a_text_within_a_fragmented_text(1002, [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat())]
#[case::a_first_fragment_within_a_fragmented_text(1002, [frame(TEXT, b"a"), frame(TEXT, b"b")].concat())]
#[case::a_binary_within_a_fragmented_text(1002, [frame(TEXT, b"a"), frame(FIN | BINARY, b"b")].concat())]
#[case::a_continuation_of_nothing(1002, frame(CONTINUATION, b"a"))]
#[case::a_last_continuation_of_nothing(1002, frame(FIN | CONTINUATION, b"a"))]
#[case::a_continuation_after_the_last_one(1002, [frame(TEXT, b"{}"), frame(FIN | CONTINUATION, b""), frame(FIN | CONTINUATION, b"")].concat())]
#[case::not_masked(1002, unmasked_frame(FIN | TEXT, b"{}"))]
#[case::a_reserved_bit(1002, frame(FIN | RESERVED_BIT | TEXT, b"{}"))]
#[case::a_reserved_opcode(1002, frame(FIN | 0x3, b"{}"))]
#[case::a_reserved_control_opcode(1002, frame(FIN | 0xb, b""))]
#[case::a_control_frame_that_is_too_long(1002, frame(FIN | PING, &[0; 126]))]
#[case::a_close_that_is_too_long(1002, frame(FIN | CLOSE, &[3; 126]))]
#[case::a_fragmented_control_frame(1002, frame(PING, b""))]
#[case::a_close_with_half_a_code(1002, frame(FIN | CLOSE, &[3]))]
#[case::a_close_with_a_code_that_must_not_be_sent(1002, frame(FIN | CLOSE, &1005_u16.to_be_bytes()))]
#[actix_web::test]
async fn protocol_errors_close_with_their_code(#[case] code: u16, #[case] bytes: Vec<u8>) {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client
        .send(&text(r#"{"type":"subscribe","eventId":"E"}"#))
        .await;
    client.next_text().await;
    // More bytes follow: the close frame must reach a client that keeps sending.
    client.send(&[bytes, text(PING_MESSAGE)].concat()).await;
    assert_eq!(client.end().await, End::Closed(code));
    until_nobody_is_left(&platform).await;
}

#[rstest]
#[case::normal(&1000_u16.to_be_bytes(), End::Closed(1000))]
#[case::with_a_reason(b"\x03\xe9bye", End::Closed(1001))]
#[case::of_the_application(&4000_u16.to_be_bytes(), End::Closed(4000))]
#[case::without_code(b"", End::ClosedWithoutCode)]
#[actix_web::test]
async fn close_is_answered_with_its_code(#[case] content: &[u8], #[case] answer: End) {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe("E").await;
    client.send(&frame(FIN | CLOSE, content)).await;
    assert_eq!(client.end().await, answer);
    until_nobody_is_left(&platform).await;
}
