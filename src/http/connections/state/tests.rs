use proptest::prelude::*;

use super::*;

fn state(phase: Phase, is_blocked: bool) -> ConnectionState {
    ConnectionState {
        phase,
        is_blocked,
        ..ConnectionState::new()
    }
}

#[test]
fn each_phase_has_its_deadline() {
    let limits = ConnectionLimits::default();
    let ended = |phase, is_blocked, age| state(phase, is_blocked).end_reason(age, &limits);
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
    // The handshake has one deadline, whether the client reads or not.
    for is_blocked in [false, true] {
        assert_eq!(
            ended(Phase::Handshake, is_blocked, just_before(limits.head)),
            None
        );
        assert_eq!(
            ended(Phase::Handshake, is_blocked, limits.head),
            Some(Ended::Handshake)
        );
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

fn receive(state: &mut ConnectionState, bytes: &[u8]) {
    assert_eq!(state.receive(bytes), Ok(()));
}

#[test]
fn answered_requests_leave_an_idle_connection() {
    let mut state = ConnectionState::new();
    receive(&mut state, b"GET / HTTP/1.1\r\n\r\n");
    state.begin_request(false);
    receive(&mut state, b"GET / HTTP/1.1\r\n\r\n");
    state.end_request();
    assert_eq!(state.phase(), Phase::Head, "of the second request");
    state.begin_request(false);
    receive(&mut state, b"\r\n");
    state.end_request();
    assert_eq!(state.phase(), Phase::Idle);
    receive(&mut state, b"\r\n");
    assert_eq!(state.phase(), Phase::Idle);
    receive(&mut state, b"G");
    assert_eq!(state.phase(), Phase::Head);
}

#[test]
fn large_head_is_refused() {
    let mut state = ConnectionState::new();
    for _ in 0..2 {
        receive(&mut state, &[b'x'; MAX_HEAD]);
        assert_eq!(state.receive(b"x"), Err(Ended::HeadTooLarge));
        // Bytes after a head are not counted, and each head is counted separately.
        state.begin_request(true);
        receive(&mut state, &[b'x'; 2 * MAX_HEAD]);
        state.end_request();
        receive(&mut state, b"");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Receive(usize),
    BeginRequest(bool),
    EndBody,
    EndRequest,
    SetBlocked(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..4_000).prop_map(Step::Receive),
        any::<bool>().prop_map(Step::BeginRequest),
        Just(Step::EndBody),
        Just(Step::EndRequest),
        any::<bool>().prop_map(Step::SetBlocked),
    ]
}

proptest! {
    /// A reader that was held back is woken by whatever lets it continue, and no more than
    /// `READ_AHEAD` bytes are read while requests are handled.
    #[test]
    fn held_back_reader_is_always_woken(steps in proptest::collection::vec(any_step(), 0..100)) {
        let mut state = ConnectionState::new();
        let mut read_ahead = 0;
        for step in steps {
            let limit_before = state.read_limit();
            let wakes = match step {
                Step::Receive(size) => {
                    let size = size.min(limit_before);
                    if state.phase() == Phase::Serving {
                        read_ahead += size;
                    }
                    state.receive(&vec![b'x'; size]).ok();
                    false
                }
                // Only between requests.
                Step::BeginRequest(has_body) if state.phase() == Phase::Head => {
                    read_ahead = 0;
                    state.begin_request(has_body);
                    false
                }
                Step::BeginRequest(_) => false,
                Step::EndBody => {
                    state.end_body();
                    false
                }
                Step::EndRequest => state.end_request(),
                Step::SetBlocked(is_blocked) => state.set_blocked(is_blocked),
            };
            prop_assert!(read_ahead <= READ_AHEAD);
            prop_assert!(limit_before > 0 || state.read_limit() == 0 || wakes);
        }
    }
}
