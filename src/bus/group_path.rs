//! The groups that a record passes through, from a supplier to the readers of prices or to the
//! database.

use std::sync::Arc;
use std::time::Duration;

use super::{BusError, Topic};

/// How long a group may commit nothing of what its topic holds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Topics with the groups that read them, in the order in which a record passes through them.
#[derive(Clone, Default)]
pub(crate) struct GroupPath(Vec<(Arc<dyn Topic>, String)>);

impl GroupPath {
    /// Adds the group that reads `topic` next.
    pub(crate) fn then(mut self, topic: Arc<dyn Topic>, group: String) -> GroupPath {
        self.0.push((topic, group));
        self
    }

    /// Completes when everything that the topics hold has passed through the groups. Each topic
    /// counts as it is when the groups before it are done. A group that lags and advances is waited
    /// for; one that commits nothing for 30 s is an error.
    pub(crate) async fn passed(&self) -> Result<(), BusError> {
        for (topic, group) in &self.0 {
            topic.committed_by(group, PATIENCE).await?;
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

    /// The records that are published meanwhile are not waited for.
    #[tokio::test(start_paused = true)]
    async fn group_that_lags_and_advances_passes() {
        let topic = EmbeddedTopic::new("first", 1, 100);
        let mut group = topic.subscribe("g").unwrap();
        topic
            .publish((0..5).map(|number| record("a", number)).collect())
            .await
            .unwrap();
        let path = GroupPath::default().then(Arc::new(topic.clone()), "g".to_owned());
        let lagging = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PATIENCE * 2 / 3).await;
                topic.publish(vec![record("a", 9)]).await.unwrap();
                let batch = group.next_batch(1, Duration::ZERO).await.unwrap();
                let ConsumerEvent::Records(batch) = batch else {
                    panic!("{batch:?}");
                };
                group.commit(&Position::after(&batch));
            }
        });
        path.passed().await.unwrap();
        lagging.abort();
    }
}
