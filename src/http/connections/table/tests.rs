use super::*;
use crate::http::addresses::AddressLimit;
use crate::http::connections::Phase;

fn table() -> Rc<Connections> {
    let ended = IntCounterVec::new(prometheus::Opts::new("ended", "ended"), &["reason"]).unwrap();
    let any = AddressLimit::Set(0);
    Connections::start(
        ConnectionLimits::default(),
        Addresses::new(&[], any, any),
        ended,
    )
}

/// The server's side of a connection, and the client's.
async fn connect(table: &Rc<Connections>) -> (Rc<Connection>, TcpStream) {
    connect_with(table, false).await
}

async fn connect_with(table: &Rc<Connections>, is_encrypted: bool) -> (Rc<Connection>, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (
        table
            .admit(&listener.accept().await.unwrap().0, is_encrypted)
            .unwrap(),
        client,
    )
}

fn receive(connection: &Connection, bytes: &[u8]) {
    assert_eq!(connection.received(bytes), Ok(()));
}

async fn final_response(
    table: &Connections,
    connection: Rc<Connection>,
    mut client: TcpStream,
) -> String {
    table.end(&connection, Ended::Head);
    drop(connection);
    let mut response = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut client, &mut response)
        .await
        .unwrap();
    response
}

#[actix_web::test]
async fn ended_session_is_swept_again() {
    let table = table();
    let (connection, _client) = connect(&table).await;
    connection.begin(true);
    connection.upgrade();
    assert!(table.entries.borrow().is_empty());
    connection.session_ended();
    assert_eq!(
        (connection.phase(), table.entries.borrow().len()),
        (Phase::Closing, 1)
    );
    connection.end();
    assert_eq!(connection.phase(), Phase::Closing);
    table.sweep(Instant::now() + table.limits.write);
    assert!(table.entries.borrow().is_empty());
    assert_eq!(table.ended.with_label_values(&["write_timeout"]).get(), 1);
}

#[actix_web::test]
async fn dropped_stream_is_not_listed_again() {
    let table = table();
    let (connection, _client) = connect(&table).await;
    connection.upgrade();
    connection.stream_dropped();
    connection.session_ended();
    assert!(table.entries.borrow().is_empty());
}

#[actix_web::test]
async fn only_begun_heads_are_answered() {
    let table = table();
    let (connection, client) = connect(&table).await;
    receive(&connection, b"\r\n");
    assert_eq!(final_response(&table, connection, client).await, "");
    let (connection, client) = connect(&table).await;
    receive(&connection, b"GET");
    assert!(
        final_response(&table, connection, client)
            .await
            .starts_with("HTTP/1.1 408 ")
    );
}

#[actix_web::test]
async fn handshake_ends_without_plain_text() {
    let table = table();
    let (connection, client) = connect_with(&table, true).await;
    assert!(connection.may_continue_handshake(32 * 1024));
    assert!(!connection.may_continue_handshake(1));
    assert_eq!(final_response(&table, connection, client).await, "");
}

#[actix_web::test]
async fn handshake_has_deadline_of_head() {
    let table = table();
    let (connection, client) = connect_with(&table, true).await;
    table.sweep(Instant::now() + table.limits.head);
    let count = table.ended.with_label_values(&["handshake_timeout"]).get();
    assert_eq!((count, table.entries.borrow().len()), (1, 0));
    drop((connection, client));
}

/// The stream of an encrypted connection sends the response; if it does not, the connection is cut
/// off like one that takes nothing.
#[actix_web::test]
async fn encrypted_response_is_left_to_stream() {
    let table = table();
    let (connection, _client) = connect_with(&table, true).await;
    connection.handshake_done();
    receive(&connection, b"GET");
    assert_eq!(connection.take_final_response(), None);
    table.sweep(Instant::now());
    table.sweep(Instant::now() + table.limits.head);
    assert_eq!(connection.phase(), Phase::Closing);
    assert_eq!(table.entries.borrow().len(), 1);
    table.sweep(Instant::now() + table.limits.write);
    assert!(table.entries.borrow().is_empty());
    assert_eq!(connection.take_final_response(), None, "it was cut off");
    for (reason, count) in [("head_timeout", 1), ("write_timeout", 1)] {
        assert_eq!(table.ended.with_label_values(&[reason]).get(), count);
    }
    let (connection, _client) = connect_with(&table, true).await;
    connection.handshake_done();
    receive(&connection, b"GET");
    table.sweep(Instant::now());
    table.sweep(Instant::now() + table.limits.head);
    let response = connection.take_final_response().unwrap();
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    connection.stream_dropped();
    assert!(table.entries.borrow().is_empty());
}

#[actix_web::test]
async fn room_is_made_for_many_at_once() {
    let table = table();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(connect(&table).await);
    }
    table.make_room(3, Instant::now() + MIN_AGE);
    assert_eq!(
        table.entries.borrow().keys().copied().collect::<Vec<_>>(),
        [3, 4]
    );
}
