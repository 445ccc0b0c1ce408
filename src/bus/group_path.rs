//! The groups that a record passes through, from a supplier to the readers of prices or to the
//! database.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{BusError, Topic};

/// How long a group may take to commit what its topic holds.
const LIMIT: Duration = Duration::from_secs(30);

/// Topics with the groups that read them, in the order in which a record passes through them.
#[derive(Clone, Default)]
pub(crate) struct GroupPath(Vec<(Arc<dyn Topic>, String)>);

impl GroupPath {
    /// Adds the group that reads `topic` next.
    pub(crate) fn then(mut self, topic: Arc<dyn Topic>, group: String) -> GroupPath {
        self.0.push((topic, group));
        self
    }

    /// Completes when everything that the topics hold now has passed through the groups. Fails if a
    /// group does not commit within 30 s.
    pub(crate) async fn passed(&self) -> Result<(), BusError> {
        for (topic, group) in &self.0 {
            let late = |_| {
                let topic = topic.name();
                BusError::Unavailable(format!(
                    "the group {group} has not committed within {LIMIT:?} what the topic {topic} held"
                ))
            };
            timeout(LIMIT, topic.committed_by(group))
                .await
                .map_err(late)??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::EmbeddedTopic;
    use crate::bus::suite::record;
    use crate::bus::{ConsumerEvent, Position};

    #[tokio::test(start_paused = true)]
    async fn record_passes_through_each_group() {
        let [first, second] = ["first", "second"].map(|name| EmbeddedTopic::new(name, 1, 10));
        let mut groups = [
            first.subscribe("g").unwrap(),
            second.subscribe("h").unwrap(),
        ];
        let path = GroupPath::default()
            .then(Arc::new(first.clone()), "g".to_owned())
            .then(Arc::new(second.clone()), "h".to_owned());
        path.passed().await.unwrap();
        for (topic, group) in [&first, &second].into_iter().zip(&mut groups) {
            topic.publish(vec![record("a", 1)]).await.unwrap();
            let error = path.passed().await.unwrap_err().to_string();
            assert!(error.contains(topic.name()), "{error}");
            let batch = group.next_batch(10, Duration::ZERO).await.unwrap();
            let ConsumerEvent::Records(batch) = batch else {
                panic!("{batch:?}");
            };
            group.commit(&Position::after(&batch));
            path.passed().await.unwrap();
        }
    }
}
