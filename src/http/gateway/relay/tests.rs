use actix_web::rt;
use futures_util::stream;
use pretty_assertions::assert_eq;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;

const LIMIT: Duration = Duration::from_millis(100);
/// Bytes that the connection to the service buffers.
const CONNECTION: usize = 1_024;

/// A relay, and what is at its ends.
struct Ends {
    client: mpsc::UnboundedSender<Bytes>,
    at_client: mpsc::Receiver<Bytes>,
    service: DuplexStream,
    stop: watch::Sender<SocketsEnd>,
    relay: JoinHandle<End>,
}

fn start() -> Ends {
    start_in(SocketsEnd::Open)
}

fn start_in(gateway: SocketsEnd) -> Ends {
    let (client, mut from_client) = mpsc::unbounded_channel();
    let (to_client, at_client) = mpsc::channel(4);
    let (service, own) = tokio::io::duplex(CONNECTION);
    let (stop, stopping) = watch::channel(gateway);
    let relay = Relay {
        client: stream::poll_fn(move |context| from_client.poll_recv(context)).map(Ok),
        to_client,
        service: own,
        slow_client: LIMIT,
        slow_service: LIMIT,
        stopping,
    };
    Ends {
        client,
        at_client,
        service,
        stop,
        relay: rt::spawn(relay.run()),
    }
}

/// A frame of the service with this content.
fn text(content: &[u8]) -> Vec<u8> {
    [&[0x81, content.len() as u8], content].concat()
}

impl Ends {
    async fn received(&mut self, length: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < length {
            received.extend(self.at_client.recv().await.unwrap());
        }
        received
    }

    /// The rest of what the client receives, and the end.
    async fn end(mut self) -> (Vec<u8>, End) {
        let mut rest = Vec::new();
        while let Some(bytes) = self.at_client.recv().await {
            rest.extend(bytes);
        }
        (rest, self.relay.await.unwrap())
    }
}

fn end(reason: Ended, is_clean: bool) -> End {
    End { reason, is_clean }
}

#[actix_web::test]
async fn bytes_pass_in_both_directions() {
    let mut ends = start();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let sent: Vec<u8> = (0..random.usize(1..CONNECTION))
            .map(|_| random.u8(..))
            .collect();
        ends.client.send(Bytes::from(sent.clone())).unwrap();
        let mut arrived = vec![0; sent.len()];
        ends.service.read_exact(&mut arrived).await.unwrap();
        assert_eq!(arrived, sent);
        let answer = text(&sent[..sent.len().min(125)]);
        ends.service.write_all(&answer).await.unwrap();
        assert_eq!(ends.received(answer.len()).await, answer);
    }
    let close = close_frame(4_000, "bye");
    ends.service.write_all(&close).await.unwrap();
    ends.service.shutdown().await.unwrap();
    assert_eq!(ends.end().await, (close, end(Ended::Closed, true)));
}

#[actix_web::test]
async fn lost_service_is_told_to_the_client() {
    let mut ends = start();
    ends.service.write_all(&text(b"a")).await.unwrap();
    ends.received(3).await;
    let Ends { service, .. } = &mut ends;
    *service = tokio::io::duplex(1).0;
    let close = close_frame(1_001, "the service is unavailable");
    assert_eq!(ends.end().await, (close, end(Ended::Service, true)));
}

#[actix_web::test]
async fn service_lost_within_a_frame_cuts_off() {
    let mut ends = start();
    ends.service.write_all(&text(b"abc")[..3]).await.unwrap();
    ends.received(3).await;
    ends.service = tokio::io::duplex(1).0;
    assert_eq!(ends.end().await, (vec![], end(Ended::Service, false)));
}

#[actix_web::test]
async fn client_that_takes_nothing_is_cut_off() {
    let mut ends = start();
    let mut service = std::mem::replace(&mut ends.service, tokio::io::duplex(1).0);
    let flood = rt::spawn(async move { while service.write_all(&text(b"abc")).await.is_ok() {} });
    assert_eq!(ends.relay.await.unwrap(), end(Ended::SlowClient, false));
    flood.await.unwrap();
}

#[actix_web::test]
async fn service_that_takes_nothing_is_left() {
    let mut ends = start();
    for _ in 0..3 {
        ends.client
            .send(Bytes::from(vec![b'x'; CONNECTION]))
            .unwrap();
    }
    let close = close_frame(1_001, "the service is unavailable");
    assert_eq!(ends.received(close.len()).await, close);
    assert_eq!(ends.end().await, (vec![], end(Ended::SlowService, true)));
}

#[actix_web::test]
async fn service_learns_that_its_client_is_gone() {
    let mut ends = start();
    let (client, _) = mpsc::unbounded_channel();
    drop(std::mem::replace(&mut ends.client, client));
    let mut rest = Vec::new();
    ends.service.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    ends.service.shutdown().await.unwrap();
    assert_eq!(ends.end().await, (vec![], end(Ended::Client, true)));
}

#[actix_web::test]
async fn dropped_answer_ends_the_service() {
    let mut ends = start();
    ends.at_client.close();
    let mut rest = Vec::new();
    ends.service.read_to_end(&mut rest).await.unwrap();
    assert_eq!(ends.relay.await.unwrap(), end(Ended::Client, true));
}

#[actix_web::test]
async fn stopping_closes_with_going_away() {
    let ends = start();
    ends.stop.send_replace(SocketsEnd::Now);
    let close = close_frame(1_001, "the gateway stops");
    assert_eq!(ends.end().await, (close, end(Ended::Stopping, true)));
}

#[actix_web::test]
async fn socket_opened_while_draining_ends_at_once() {
    let ends = start_in(SocketsEnd::Within(Duration::from_secs(3_600)));
    let close = close_frame(1_001, "the gateway stops");
    assert_eq!(ends.end().await, (close, end(Ended::Stopping, true)));
}

#[actix_web::test]
async fn draining_tells_the_client_to_reconnect() {
    let mut ends = start();
    ends.service.write_all(&text(b"a")).await.unwrap();
    ends.received(3).await;
    ends.stop
        .send_replace(SocketsEnd::Within(Duration::from_millis(100)));
    let told = text_frame(r#"{"type":"reconnect","withinMs":10}"#);
    let close = close_frame(1_001, "the gateway stops");
    let rest = [&told[..], &close].concat();
    assert_eq!(ends.end().await, (rest, end(Ended::Stopping, true)));
}

/// Nothing may stand between the fragments of a message but control frames.
#[actix_web::test]
async fn draining_does_not_split_a_message() {
    let mut ends = start();
    let first_fragment = [0x01, 2, b'a', b'b'];
    ends.service.write_all(&first_fragment).await.unwrap();
    ends.received(first_fragment.len()).await;
    ends.stop
        .send_replace(SocketsEnd::Within(Duration::from_millis(100)));
    let close = close_frame(1_001, "the gateway stops");
    assert_eq!(ends.end().await, (close, end(Ended::Stopping, true)));
}

#[actix_web::test]
async fn stop_ends_draining_sockets_at_once() {
    let mut ends = start();
    ends.service.write_all(&text(b"a")).await.unwrap();
    ends.received(3).await;
    ends.stop
        .send_replace(SocketsEnd::Within(Duration::from_secs(3_600)));
    ends.stop.send_replace(SocketsEnd::Now);
    let close = close_frame(1_001, "the gateway stops");
    assert_eq!(ends.end().await, (close, end(Ended::Stopping, true)));
}
