//! Publishes the dead letters of a consumer.

use super::batch_retry::BatchError;
use crate::bus::{NewRecord, Topic, dead_letter};

/// Publishes dead letters; a failure is one of the stage `dead_letter`.
pub(in crate::actors) async fn publish_dead_letters(
    topic: &dyn Topic,
    letters: Vec<NewRecord>,
) -> Result<(), BatchError> {
    dead_letter::publish(topic, letters)
        .await
        .map_err(|error| BatchError::new("dead_letter", format!("{}: {error}", topic.name())))
}
