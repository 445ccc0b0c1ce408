//! Which feed of this process has sent which market. Two feeds may hear the same source, and each of
//! them suspends only its own markets.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::supplier::native::by_market::ByMarket;

/// The feeds of this process, and the markets that each has sent as open and not as ended.
#[derive(Debug, Default)]
pub(crate) struct LocalFeeds(Mutex<BTreeMap<Arc<str>, ByMarket<()>>>);

impl LocalFeeds {
    /// Adds a feed, which has sent no market yet. `id` is its own.
    pub(crate) fn join(self: &Arc<Self>, id: Arc<str>) -> LocalFeed {
        LocalFeed {
            all: self.clone(),
            id,
        }
    }
}

/// One feed among those of this process. Its markets are forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct LocalFeed {
    all: Arc<LocalFeeds>,
    id: Arc<str>,
}

impl LocalFeed {
    /// Records what the feed has sent. A market beyond the maximum number is left out; another feed
    /// may suspend it after a start.
    pub(crate) fn sent(&self, updates: &[OddsUpdate]) {
        if updates.is_empty() {
            return;
        }
        let mut all = self.all.0.lock();
        let markets = all.entry(self.id.clone()).or_default();
        for update in updates {
            if update.status.has_ended() {
                markets.remove(update);
            } else if update.status == MarketStatus::Open {
                markets.insert(update, ());
            }
        }
    }

    /// Whether another feed has sent the market: that one suspends it when it must.
    pub(crate) fn is_held_by_another(&self, market: &OddsUpdate) -> bool {
        let all = self.all.0.lock();
        all.iter()
            .any(|(id, markets)| *id != self.id && markets.get(market).is_some())
    }
}

impl Drop for LocalFeed {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::update::testing::update;

    #[test]
    fn market_is_held_from_open_to_end_by_the_feed_that_sent_it() {
        let all = Arc::new(LocalFeeds::default());
        let (one, two) = (all.join("1".into()), all.join("2".into()));
        let open = update(1, 1, 1);
        let with_status = |status| OddsUpdate {
            status,
            ..open.clone()
        };
        let suspended = with_status(MarketStatus::Suspended);
        two.sent(std::slice::from_ref(&suspended));
        assert!(!one.is_held_by_another(&open), "it was never open");
        two.sent(&[open.clone(), suspended]);
        assert!(one.is_held_by_another(&open) && !two.is_held_by_another(&open));
        assert!(!one.is_held_by_another(&update(2, 1, 1)));
        two.sent(&[with_status(MarketStatus::Settled)]);
        assert!(!one.is_held_by_another(&open));
        two.sent(std::slice::from_ref(&open));
        drop(two);
        assert!(!one.is_held_by_another(&open));
        drop(one);
        assert!(all.0.lock().is_empty());
    }
}
