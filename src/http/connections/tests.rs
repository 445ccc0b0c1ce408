use super::*;

#[test]
fn each_phase_has_its_deadline() {
    let limits = ConnectionLimits::default();
    let ended = |phase, is_blocked, age: Duration| end_reason(phase, is_blocked, age, &limits);
    let just_before = |limit: Duration| limit - Duration::from_millis(1);
    for (phase, limit, reason) in [
        (Phase::Idle, limits.keep_alive, Ended::Idle),
        (Phase::Head, limits.head, Ended::Head),
        (Phase::Body, limits.body, Ended::Body),
    ] {
        assert_eq!(ended(phase, false, just_before(limit)), None);
        assert_eq!(ended(phase, false, limit), Some(reason));
        assert_eq!(ended(phase, true, just_before(limits.write)), None);
        assert_eq!(ended(phase, true, limits.write), Some(Ended::Write));
    }
    let day = Duration::from_secs(86_400);
    assert_eq!(ended(Phase::Serving, false, day), None);
    assert_eq!(ended(Phase::Serving, true, day), Some(Ended::Write));
    assert_eq!(ended(Phase::Upgraded, true, day), None);
    for is_blocked in [false, true] {
        assert_eq!(
            ended(Phase::Closing, is_blocked, just_before(limits.write)),
            None
        );
        assert_eq!(
            ended(Phase::Closing, is_blocked, limits.write),
            Some(Ended::Write)
        );
    }
}

fn table() -> Rc<Connections> {
    let ended = IntCounterVec::new(prometheus::Opts::new("ended", "ended"), &["reason"]).unwrap();
    let any = crate::http::addresses::AddressLimit::Set(0);
    Connections::start(
        ConnectionLimits::default(),
        Addresses::new(&[], any, any),
        ended,
    )
}

/// The server's side of a connection, and the client's.
async fn connect(table: &Rc<Connections>) -> (Rc<Connection>, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (
        table.admit(&listener.accept().await.unwrap().0).unwrap(),
        client,
    )
}

fn receive(connection: &Connection, bytes: &[u8]) {
    assert_eq!(connection.received(bytes), Ok(()));
}

async fn last_answer(
    table: &Connections,
    connection: Rc<Connection>,
    mut client: TcpStream,
) -> String {
    table.end(&connection, Ended::Head);
    drop(connection);
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answer)
        .await
        .unwrap();
    answer
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
async fn answered_requests_leave_an_idle_connection() {
    let (connection, _client) = connect(&table()).await;
    receive(&connection, b"GET / HTTP/1.1\r\n\r\n");
    connection.begin(false);
    receive(&connection, b"GET / HTTP/1.1\r\n\r\n");
    connection.end();
    assert_eq!(connection.phase(), Phase::Head, "of the second request");
    connection.begin(false);
    receive(&connection, b"\r\n");
    connection.end();
    assert_eq!(connection.phase(), Phase::Idle);
    receive(&connection, b"\r\n");
    assert_eq!(connection.phase(), Phase::Idle);
    receive(&connection, b"G");
    assert_eq!(connection.phase(), Phase::Head);
}

#[actix_web::test]
async fn only_begun_heads_are_answered() {
    let table = table();
    let (connection, client) = connect(&table).await;
    receive(&connection, b"\r\n");
    assert_eq!(last_answer(&table, connection, client).await, "");
    let (connection, client) = connect(&table).await;
    receive(&connection, b"GET");
    assert!(
        last_answer(&table, connection, client)
            .await
            .starts_with("HTTP/1.1 408 ")
    );
}

#[actix_web::test]
async fn large_head_is_refused() {
    let (connection, _client) = connect(&table()).await;
    for _ in 0..2 {
        receive(&connection, &[b'x'; MAX_HEAD]);
        assert_eq!(connection.received(b"x"), Err(Ended::HeadTooLarge));
        // Bytes after a head are not counted, and each head is counted separately.
        connection.begin(true);
        receive(&connection, &[b'x'; 2 * MAX_HEAD]);
        connection.end();
        receive(&connection, b"");
    }
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
