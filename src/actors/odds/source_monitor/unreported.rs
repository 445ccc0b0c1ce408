//! What else is known about sources that nobody reports: which of them have markets in the database,
//! and which publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::info;

use super::{RETRY, SourceMonitor, TICK};
use crate::actors::odds::published_sources::PublishedSources;
use crate::store::Store;
use crate::store::blocking::blocking;
use crate::telemetry::log_limit::LogLimit;

/// Limits the log lines about a database that does not answer.
static UNREAD: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Where the sources that nobody reports are found.
pub(super) struct Unreported {
    store: Arc<dyn Store>,
    published: Arc<PublishedSources>,
}

impl SourceMonitor {
    /// Also takes the sources of the markets in `store` for lost until they are reported, or
    /// are in `published`.
    pub(crate) fn with_unreported(
        mut self,
        store: Arc<dyn Store>,
        published: Arc<PublishedSources>,
    ) -> SourceMonitor {
        self.watch.await_stored();
        self.unreported = Some(Unreported { store, published });
        self
    }

    pub(super) fn follow_unreported(&mut self, context: &mut Context<Self>) {
        self.read_stored(context);
        context.run_interval(TICK, |monitor, _| {
            if let Some(unreported) = &monitor.unreported {
                let sources = unreported.published.get();
                monitor.watch.published(sources, Instant::now());
            }
        });
    }

    /// Reads the sources of the stored markets once, as soon as the database answers.
    fn read_stored(&mut self, context: &mut Context<Self>) {
        let Some(unreported) = &self.unreported else {
            return;
        };
        let store = unreported.store.clone();
        let reading = blocking(move || store.sources_of_unfinished_markets());
        context.spawn(reading.into_actor(self).map(|read, monitor, context| {
            match read {
                Ok(sources) => monitor.watch.stored(sources),
                Err(error) => {
                    if let Some(repeated) = UNREAD.check("") {
                        info!(repeated; "waiting for the sources of the stored markets: {error}");
                    }
                    context.run_later(RETRY, Self::read_stored);
                }
            }
        }));
    }
}
