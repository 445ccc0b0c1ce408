use bytes::Bytes;

use super::*;
use crate::bus::NewRecord;

fn record(partition: u32, offset: u64) -> Record {
    let record = NewRecord {
        key: Bytes::new(),
        payload: Bytes::from_static(b"0123456789"),
        headers: Vec::new(),
    };
    Record {
        partition,
        offset,
        published_at: None,
        record,
    }
}

fn revoked(partitions: Vec<u32>, are_records_lost: bool) -> ConsumerEvent {
    ConsumerEvent::Revoked {
        partitions,
        are_records_lost,
    }
}

fn inbox() -> Inbox {
    let mut inbox = Inbox::new(Limits {
        records: 4,
        bytes: 1_000,
    });
    inbox.assign(&[0, 1]);
    inbox
}

fn position_at(partition: u32, next: u64) -> Position {
    let mut position = Position::default();
    position.advance(partition, next);
    position
}

#[test]
fn inbox_is_bounded_by_records_and_bytes() {
    let mut inbox = inbox();
    (0..4).for_each(|offset| inbox.push(record(0, offset)));
    assert!(inbox.is_full());
    inbox.take(1);
    assert!(!inbox.is_full() && !inbox.has_room());
    inbox.take(1);
    assert!(inbox.has_room());
    let mut heavy = Inbox::new(Limits {
        records: 100,
        bytes: 20,
    });
    heavy.assign(&[0]);
    (0..2).for_each(|offset| heavy.push(record(0, offset)));
    assert!(heavy.is_full());
}

#[test]
fn replayed_records_come_first_and_are_not_committed() {
    let mut inbox = inbox();
    inbox.replay_until(0, 7);
    (5..9).for_each(|offset| inbox.push(record(0, offset)));
    assert_eq!(inbox.ready(9), 2);
    let replayed = ConsumerEvent::Replayed(vec![record(0, 5), record(0, 6)]);
    assert_eq!(inbox.take(9), Some(replayed));
    assert!(inbox.is_done(&[0]), "nothing is waited for");
    assert_eq!(inbox.to_commit(|_| true), []);
    assert_eq!(inbox.lag(), 2);
    let records = ConsumerEvent::Records(vec![record(0, 7), record(0, 8)]);
    assert_eq!(inbox.take(9), Some(records));
    assert!(!inbox.is_done(&[0]));
    inbox.commit(&position_at(0, 9));
    assert_eq!(inbox.to_commit(|_| true), [(0, 9)]);
    // A topic that was recreated has nothing to replay.
    inbox.push(record(0, 0));
    assert_eq!(inbox.take(9), Some(revoked(vec![0], true)));
    assert_eq!(
        inbox.take(9),
        Some(ConsumerEvent::Records(vec![record(0, 0)]))
    );
}

#[test]
fn revocation_replaces_undelivered_records() {
    let mut inbox = inbox();
    inbox.push(record(0, 5));
    inbox.push(record(1, 8));
    assert_eq!(
        inbox.take(1),
        Some(ConsumerEvent::Records(vec![record(0, 5)]))
    );
    inbox.push(record(0, 6));
    assert!(!inbox.is_done(&[0]) && inbox.is_done(&[1]));
    inbox.revoke(vec![0], false);
    assert_eq!(
        inbox.take(9),
        Some(ConsumerEvent::Records(vec![record(1, 8)]))
    );
    assert_eq!(inbox.take(9), Some(revoked(vec![0], false)));
    assert_eq!((inbox.take(9), inbox.records, inbox.bytes), (None, 0, 0));
    inbox.commit(&position_at(0, 6));
    assert_eq!(inbox.to_commit(|_| true), []);
    inbox.push(record(0, 7));
    assert!(inbox.is_empty(), "the partition is not assigned");
}

/// Nobody can read them again.
#[test]
fn unread_records_of_lost_topic_are_delivered_before_revocation() {
    let mut inbox = inbox();
    inbox.push(record(0, 98));
    inbox.take(1);
    inbox.push(record(0, 99));
    inbox.restart();
    inbox.push(record(0, 0));
    let records = |offset| Some(ConsumerEvent::Records(vec![record(0, offset)]));
    assert_eq!(inbox.take(9), records(99));
    inbox.commit(&position_at(0, 100));
    assert_eq!(inbox.take(9), Some(revoked(vec![0, 1], true)));
    assert_eq!(inbox.take(9), records(0));
    assert_eq!(inbox.to_commit(|_| true), [], "99 is of the old topic");
    inbox.commit(&position_at(0, 1));
    assert_eq!(inbox.to_commit(|_| true), [(0, 1)]);
    inbox.push(record(1, 8));
    inbox.revoke(vec![1], true);
    assert_eq!(
        inbox.take(9),
        Some(ConsumerEvent::Records(vec![record(1, 8)]))
    );
    inbox.commit(&position_at(1, 9));
    assert_eq!(inbox.take(9), Some(revoked(vec![1], true)));
    assert_eq!((inbox.take(9), inbox.records, inbox.bytes), (None, 0, 0));
}

/// Another member takes a partition over before its lost records are delivered.
#[test]
fn later_revocation_keeps_lost_records() {
    let mut inbox = inbox();
    inbox.push(record(0, 99));
    inbox.restart();
    inbox.push(record(0, 0));
    inbox.drop_unread(&[0]);
    inbox.revoke(vec![0], false);
    let lost = ConsumerEvent::Records(vec![record(0, 99)]);
    assert_eq!(inbox.take(9), Some(lost));
    assert_eq!(inbox.take(9), Some(revoked(vec![0, 1], true)));
    assert_eq!(inbox.take(9), Some(revoked(vec![0], false)));
    assert_eq!((inbox.take(9), inbox.records, inbox.bytes), (None, 0, 0));
}

#[test]
fn revocation_is_handled_when_next_event_is_requested() {
    let mut inbox = inbox();
    assert!(inbox.has_handled_revocations());
    inbox.revoke(vec![0], true);
    assert!(!inbox.has_handled_revocations(), "it is queued");
    inbox.mark_handled();
    assert!(!inbox.has_handled_revocations());
    inbox.take(9);
    assert!(!inbox.has_handled_revocations(), "it is delivered");
    inbox.mark_handled();
    assert!(inbox.has_handled_revocations());
}

#[test]
fn commits_from_before_restart_are_ignored() {
    let mut inbox = inbox();
    inbox.push(record(0, 100));
    inbox.take(1);
    inbox.restart();
    assert_eq!(inbox.take(9), Some(revoked(vec![0, 1], true)));
    inbox.commit(&position_at(0, 101));
    inbox.push(record(0, 0));
    inbox.take(9);
    inbox.commit(&position_at(0, 101));
    assert_eq!(inbox.to_commit(|_| true), []);
    inbox.commit(&position_at(0, 1));
    assert_eq!(inbox.to_commit(|_| true), [(0, 1)]);
    inbox.committed(0, 101);
    assert_eq!(
        inbox.to_commit(|_| true),
        [(0, 1)],
        "the commit is from before the restart"
    );
    inbox.committed(0, 1);
    assert_eq!(inbox.to_commit(|_| true), []);
}

#[test]
fn rewound_partition_is_revoked_and_redelivered() {
    let mut inbox = inbox();
    [7, 8, 9]
        .into_iter()
        .for_each(|offset| inbox.push(record(0, offset)));
    inbox.take(1);
    [8, 9]
        .into_iter()
        .for_each(|offset| inbox.push(record(0, offset)));
    let records = Some(ConsumerEvent::Records(vec![record(0, 8), record(0, 9)]));
    assert_eq!(inbox.take(9), records, "of the lost end");
    inbox.commit(&position_at(0, 10));
    assert_eq!(inbox.take(9), Some(revoked(vec![0], true)));
    assert_eq!(inbox.take(9), records);
    assert_eq!(inbox.to_commit(|_| true), []);
    inbox.push(record(0, 0));
    inbox.commit(&position_at(0, 10));
    assert_eq!(
        inbox.to_commit(|_| true),
        [],
        "the commit is from before the reset"
    );
    assert_eq!(inbox.take(9), Some(revoked(vec![0], true)));
    assert_eq!(
        inbox.take(9),
        Some(ConsumerEvent::Records(vec![record(0, 0)]))
    );
}

/// A transaction marker takes an offset and is not a record.
#[test]
fn trailing_markers_cause_no_lag() {
    let mut inbox = inbox();
    inbox.push(record(0, 0));
    inbox.observe(0, Some(0), Some(2), None);
    inbox.passed(0, 2);
    assert_eq!(
        (inbox.lag(), inbox.to_commit(|_| true)),
        (2, vec![]),
        "the record is not done yet"
    );
    inbox.take(1);
    assert_eq!(inbox.lag(), 2);
    inbox.commit(&position_at(0, 1));
    assert_eq!((inbox.lag(), inbox.to_commit(|_| true)), (0, vec![(0, 2)]));
    inbox.committed(0, 2);
    assert_eq!(inbox.to_commit(|_| true), []);
    // The next record comes after the marker.
    inbox.push(record(0, 2));
    inbox.passed(0, 3);
    assert_eq!(inbox.lag(), 1);
    // Only markers since the partition was assigned.
    inbox.observe(1, Some(0), Some(9), Some(8));
    assert_eq!(inbox.lag(), 2);
    inbox.passed(1, 9);
    assert_eq!(
        (inbox.lag(), inbox.to_commit(|partition| partition == 1)),
        (1, vec![]),
        "no record was read yet"
    );
}

#[test]
fn position_from_before_reset_is_ignored() {
    let mut inbox = inbox();
    inbox.push(record(0, 100));
    inbox.restart();
    inbox.passed(0, 101);
    assert_eq!(inbox.to_commit(|_| true), []);
    inbox.push(record(0, 0));
    while inbox.take(9).is_some() {}
    inbox.commit(&position_at(0, 1));
    assert_eq!(inbox.to_commit(|_| true), [(0, 1)]);
    inbox.passed(0, 2);
    assert_eq!(inbox.to_commit(|_| true), [(0, 2)]);
}

#[test]
fn lag_is_end_minus_completed() {
    let mut inbox = inbox();
    assert_eq!(inbox.lag(), 0);
    inbox.observe(0, Some(30), Some(50), None);
    assert_eq!(
        inbox.lag(),
        20,
        "a new group starts at the first available offset"
    );
    inbox.observe(0, Some(30), Some(50), Some(40));
    assert_eq!(inbox.lag(), 10);
    inbox.push(record(0, 40));
    inbox.push(record(1, 7));
    assert_eq!(inbox.lag(), 11);
    inbox.take(2);
    inbox.commit(&position_at(0, 41));
    assert_eq!(inbox.lag(), 10);
    inbox.observe(0, Some(30), Some(60), Some(41));
    assert_eq!(inbox.lag(), 20);
}
