//! Which feeds of this process hear which source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::ids::Source;

/// The feeds of this process, by the sources that they hear now.
#[derive(Debug, Default)]
pub(crate) struct LocalFeeds(Mutex<BTreeMap<Source, BTreeSet<Arc<str>>>>);

impl LocalFeeds {
    /// Adds a feed, which hears no source yet. `id` is its own.
    pub(crate) fn join(self: &Arc<Self>, id: Arc<str>) -> LocalFeed {
        LocalFeed {
            all: self.clone(),
            id,
            heard: Vec::new(),
        }
    }
}

/// One feed among those of this process. It hears nothing any more when it is dropped.
#[derive(Debug)]
pub(crate) struct LocalFeed {
    all: Arc<LocalFeeds>,
    id: Arc<str>,
    heard: Vec<Source>,
}

impl LocalFeed {
    /// Replaces the sources that the feed hears.
    pub(crate) fn hears<'a>(&mut self, sources: impl Iterator<Item = &'a Source> + Clone) {
        if self.heard.iter().eq(sources.clone()) {
            return;
        }
        let heard: Vec<_> = sources.cloned().collect();
        let mut all = self.all.0.lock();
        for source in &heard {
            all.entry(source.clone())
                .or_default()
                .insert(self.id.clone());
        }
        for source in self.heard.iter().filter(|source| !heard.contains(source)) {
            if let Some(feeds) = all.get_mut(source) {
                feeds.remove(&self.id);
                if feeds.is_empty() {
                    all.remove(source);
                }
            }
        }
        drop(all);
        self.heard = heard;
    }

    /// Whether another feed hears the source. Which of the two hears a market that an earlier
    /// process left open is not known.
    pub(crate) fn is_shared(&self, source: &Source) -> bool {
        let all = self.all.0.lock();
        let feeds = all.get(source);
        feeds.is_some_and(|feeds| feeds.iter().any(|id| *id != self.id))
    }
}

impl Drop for LocalFeed {
    fn drop(&mut self) {
        self.hears(std::iter::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_shared_while_another_feed_hears_it() {
        let all = Arc::new(LocalFeeds::default());
        let (a, b) = (Source::new("a").unwrap(), Source::new("b").unwrap());
        let mut one = all.join("1".into());
        let mut two = all.join("2".into());
        one.hears([&a, &b].into_iter());
        assert!(!one.is_shared(&a) && two.is_shared(&a));
        two.hears([&a].into_iter());
        two.hears([&a].into_iter());
        assert!(one.is_shared(&a) && !one.is_shared(&b));
        two.hears([&b].into_iter());
        assert!(!one.is_shared(&a) && one.is_shared(&b));
        drop(two);
        assert!(!one.is_shared(&b));
        drop(one);
        assert!(all.0.lock().is_empty());
    }
}
