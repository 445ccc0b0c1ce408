use pretty_assertions::assert_eq;

use super::*;

mod interleavings;

const LEASE: Duration = Duration::from_secs(30);

fn settings() -> RelaySettings {
    RelaySettings {
        batch: 3,
        waiting: 6,
        lease: LEASE,
        drain_limit: Duration::from_secs(5),
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(1_000_000).unwrap()
}

fn row(id: i64) -> OutboxRow {
    OutboxRow {
        trace: None,
        id,
        topic: OutboxTopic::Placed,
        key: format!("key {id}"),
        payload: format!("payload {id}"),
    }
}

fn rows(ids: impl IntoIterator<Item = i64>) -> Vec<OutboxRow> {
    ids.into_iter().map(row).collect()
}

/// Effects as text: `publish 1 2`, `retry 1 2`, `dead letter 1`, `mark 1 2`, `take 3`.
fn texts(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(text).collect()
}

fn text(effect: &Effect) -> String {
    let list = |ids: Vec<i64>| {
        let ids: Vec<_> = ids.iter().map(i64::to_string).collect();
        ids.join(" ")
    };
    match effect {
        Effect::Publish {
            rows, retry_after, ..
        } => {
            let verb = if retry_after.is_some() {
                "retry"
            } else {
                "publish"
            };
            format!("{verb} {}", list(rows.iter().map(|row| row.id).collect()))
        }
        Effect::DeadLetter {
            row, retry_after, ..
        } => {
            let again = if retry_after.is_some() { " again" } else { "" };
            format!("dead letter {}{again}", row.id)
        }
        Effect::Mark(rows) => format!("mark {}", list(rows.clone())),
        Effect::Take { limit, .. } => format!("take {limit}"),
    }
}

fn unavailable() -> Result<(), BusError> {
    Err(BusError::Unavailable("away".to_owned()))
}

fn too_large() -> Result<(), BusError> {
    Err(BusError::TooLarge("too large".to_owned()))
}

const TOPIC: OutboxTopic = OutboxTopic::Placed;

#[test]
fn submitted_rows_go_in_batches() {
    let mut state = RelayState::new(settings());
    assert_eq!(texts(&state.submit(rows(1..=5))), ["publish 1 2 3"]);
    assert_eq!(texts(&state.submit(rows([6]))), [] as [&str; 0]);
    assert_eq!(
        texts(&state.answered(TOPIC, Ok(()))),
        ["mark 1 2 3", "publish 4 5 6"]
    );
    // One mark at a time.
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), [] as [&str; 0]);
    assert_eq!(texts(&state.marked(true)), ["mark 4 5 6"]);
    assert!(!state.is_idle());
    assert!(state.marked(true).is_empty() && state.is_idle());
}

#[test]
fn topics_do_not_wait_for_each_other() {
    let mut state = RelayState::new(settings());
    let mut confirmed = row(2);
    confirmed.topic = OutboxTopic::Confirmed;
    let effects = state.submit(vec![row(1), confirmed]);
    assert_eq!(texts(&effects), ["publish 1", "publish 2"]);
}

#[test]
fn unavailable_topic_is_retried_with_backoff() {
    let mut state = RelayState::new(settings());
    state.submit(rows(1..=2));
    let mut last = Duration::ZERO;
    for _ in 0..3 {
        let effects = state.answered(TOPIC, unavailable());
        assert_eq!(texts(&effects), ["retry 1 2"]);
        let Effect::Publish { retry_after, .. } = &effects[0] else {
            panic!("not published");
        };
        assert!(retry_after.unwrap() > last);
        last = retry_after.unwrap();
    }
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["mark 1 2"]);
}

#[test]
fn rejected_batch_is_published_one_by_one() {
    let mut state = RelayState::new(settings());
    state.submit(rows(1..=4));
    assert_eq!(texts(&state.answered(TOPIC, too_large())), ["publish 1"]);
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["publish 2"]);
    assert_eq!(
        texts(&state.answered(TOPIC, too_large())),
        ["dead letter 2"]
    );
    assert_eq!(
        texts(&state.answered(TOPIC, unavailable())),
        ["dead letter 2 again"]
    );
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["publish 3"]);
    assert_eq!(
        texts(&state.answered(TOPIC, Ok(()))),
        ["mark 1 2 3", "publish 4"]
    );
}

/// A row that neither its topic nor the dead letters accept stays in the outbox, and may be
/// taken again.
#[test]
fn undeliverable_row_is_forgotten() {
    let mut state = RelayState::new(settings());
    state.submit(rows([1]));
    assert_eq!(
        texts(&state.answered(TOPIC, too_large())),
        ["dead letter 1"]
    );
    assert!(state.answered(TOPIC, too_large()).is_empty());
    assert!(state.is_idle());
    assert_eq!(texts(&state.submit(rows([1]))), ["publish 1"]);
}

#[test]
fn closed_bus_leaves_rows_in_outbox() {
    let mut state = RelayState::new(settings());
    state.submit(rows(1..=2));
    assert!(state.answered(TOPIC, Err(BusError::Closed)).is_empty());
    assert!(state.is_idle());
}

#[test]
fn full_queue_leaves_rows_in_outbox() {
    let mut state = RelayState::new(settings());
    state.submit(rows([1]));
    state.submit(rows(2..=9));
    assert!(
        state.tick(now()).is_empty(),
        "there is no room to take rows"
    );
    assert_eq!(
        texts(&state.answered(TOPIC, Ok(()))),
        ["mark 1", "publish 2 3 4"]
    );
    // Row 8 found no room, so it is not known.
    assert_eq!(texts(&state.tick(now())), ["take 3"]);
    state.taken(now(), Some(rows([8])));
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["publish 5 6 7"]);
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["publish 8"]);
}

#[test]
fn rows_are_taken_while_some_are_left() {
    let mut state = RelayState::new(settings());
    let effects = state.tick(now());
    let Effect::Take {
        at,
        leased_until,
        limit,
    } = effects[0]
    else {
        panic!("nothing is taken");
    };
    assert_eq!((at, leased_until, limit), (now(), now().later_by(LEASE), 3));
    assert!(
        state.tick(now()).is_empty(),
        "rows are taken once at a time"
    );
    assert_eq!(
        texts(&state.taken(now(), Some(rows(1..=3)))),
        ["publish 1 2 3", "take 3"]
    );
    assert!(state.taken(now(), Some(rows(4..=5))).is_empty());
    assert_eq!(texts(&state.tick(now())), ["take 3"]);
    assert!(state.taken(now(), None).is_empty());
    state.drain();
    assert!(state.tick(now()).is_empty());
}

#[test]
fn failed_mark_is_retried_by_timer() {
    let mut state = RelayState::new(settings());
    state.drain();
    state.submit(rows([1]));
    assert_eq!(texts(&state.answered(TOPIC, Ok(()))), ["mark 1"]);
    assert!(state.marked(false).is_empty());
    assert!(!state.is_idle());
    // The row is still known, so it is not published again.
    assert!(state.submit(rows([1])).is_empty());
    assert_eq!(texts(&state.tick(now())), ["mark 1"]);
    assert!(state.marked(true).is_empty() && state.is_idle());
}

/// The call that takes rows may have read one that was marked before its answer arrived.
#[test]
fn row_marked_during_take_is_not_republished() {
    let mut state = RelayState::new(settings());
    state.submit(rows([1]));
    assert_eq!(texts(&state.tick(now())), ["take 3"]);
    state.answered(TOPIC, Ok(()));
    state.marked(true);
    assert!(state.taken(now(), Some(rows([1]))).is_empty());
    // A later submission of the same row is published again; readers deduplicate.
    assert_eq!(texts(&state.submit(rows([1]))), ["publish 1"]);
}
