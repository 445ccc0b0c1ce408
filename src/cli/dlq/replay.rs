//! Publishes dead letters again.

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use super::entry::{DeadLetterEntry, Id};
use super::source::Source;
use super::text;
use super::{DlqError, ReplayArgs};
use crate::bus::{BusError, NewRecord, Topic};
use crate::cli::operator::written;

/// Number of records per publish call.
const BATCH: usize = 200;
/// Timeout of a publish call: Kafka may be unavailable.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) async fn run(args: &ReplayArgs, out: &mut dyn Write) -> Result<(), DlqError> {
    if args.place.bus.kafka_brokers.is_none() {
        return Err(DlqError::Embedded);
    }
    let Source::Kafka(bus, dead_letters) = Source::open(&args.place)? else {
        return Err(DlqError::Embedded);
    };
    let places = places(&args.ids)?;
    let topic = bus.topic(args.place.target());
    let mut seen = HashSet::new();
    let mut found = HashSet::new();
    let mut batch = Vec::new();
    let mut count = 0_usize;
    let mut truncated = 0_usize;
    let only = (!args.all).then_some(&places[..]);
    for record in bus.scan(&dead_letters, only)? {
        let record = record?;
        let place = (record.partition, record.offset);
        if only.is_some_and(|only| !only.contains(&place)) {
            continue;
        }
        found.insert(place);
        let letter = DeadLetterEntry::of_record(record);
        let wanted = args
            .reason
            .as_ref()
            .is_none_or(|reason| letter.reason == *reason);
        if !wanted || !seen.insert(letter.identity()) {
            continue;
        }
        if letter.is_truncated() {
            truncated += 1;
            continue;
        }
        count += 1;
        if args.dry_run {
            writeln!(out, "{}", text::line(&letter))?;
            continue;
        }
        batch.push(letter.again(&dead_letters));
        if batch.len() == BATCH {
            publish(&*topic, std::mem::take(&mut batch)).await?;
        }
    }
    publish(&*topic, batch).await?;
    let summary = summary(count, truncated, args.dry_run, topic.name());
    // If the reader closed the pipe, the exit code still shows whether a requested letter is missing.
    written(out.write_all(summary.as_bytes()))?;
    match places.iter().find(|place| !found.contains(place)) {
        Some((partition, offset)) => Err(DlqError::Unknown(Id::Place(*partition, *offset))),
        None => Ok(()),
    }
}

fn summary(count: usize, truncated: usize, dry_run: bool, topic: &str) -> String {
    let verb = if dry_run {
        "would be published"
    } else {
        "published"
    };
    let mut summary = format!("{count} {verb} to {topic}\n");
    if truncated > 0 {
        summary += &format!(
            "{truncated} skipped: they were too large, and only the beginning was stored\n"
        );
    }
    summary
}

fn places(ids: &[Id]) -> Result<Vec<(u32, u64)>, DlqError> {
    let place = |id: &Id| match id {
        Id::Place(partition, offset) => Ok((*partition, *offset)),
        Id::Number(_) => Err(DlqError::Unknown(id.clone())),
    };
    ids.iter().map(place).collect()
}

async fn publish(topic: &dyn Topic, batch: Vec<NewRecord>) -> Result<(), DlqError> {
    match tokio::time::timeout(PUBLISH_TIMEOUT, topic.publish(batch)).await {
        Ok(published) => Ok(published?),
        Err(_) => {
            let reason = topic.ping().await.err();
            Err(reason
                .unwrap_or_else(|| {
                    BusError::Unavailable("no acknowledgement from Kafka within 20 s".to_owned())
                })
                .into())
        }
    }
}
