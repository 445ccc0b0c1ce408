//! Keeps the restrictions of this process: which sources are lost, and what operators hold. When
//! they change, the books that clients follow publish the states concerned again.
//!
//! [`Restatements`] decides which books publish; the actor carries it out.

mod restatements;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::{StreamExt, stream};
use log::warn;

use self::restatements::{Next, Restatements, Run};
use super::messages::{ApplyError, HoldsLoaded, RestateBook, SourcesReported};
use crate::actors::streaming::messages::GetFollowedEvents;
use crate::domain::ids::EventId;
use crate::domain::odds::restriction_change::RestrictionChange;
use crate::domain::odds::restrictions::{CurrentRestrictions, Restrictions};
use crate::telemetry::log_limit::LogLimit;

/// How many books publish their states again concurrently.
const BOOKS_AT_ONCE: usize = 64;
/// Delay before books that could not publish their states are requested to do so again.
const RETRY: Duration = Duration::from_secs(1);
/// Limits the log lines about books that could not publish their states.
static NOT_RESTATED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// The actors that the keeper sends to.
pub(crate) struct KeeperEdges {
    /// The registry: which events clients follow.
    pub followed: Recipient<GetFollowedEvents>,
    /// The router of the books that clients see.
    pub books: Recipient<RestateBook>,
}

/// Keeps the restrictions.
pub(crate) struct RestrictionKeeper {
    current: Arc<CurrentRestrictions>,
    edges: Arc<KeeperEdges>,
    restatements: Restatements,
}

impl RestrictionKeeper {
    /// Keeps `current`. `unreported_from`: see [`Restrictions::unreported_from`].
    pub(crate) fn new(
        current: Arc<CurrentRestrictions>,
        unreported_from: u64,
        edges: KeeperEdges,
    ) -> RestrictionKeeper {
        current.set(Restrictions {
            unreported_from,
            ..Restrictions::default()
        });
        RestrictionKeeper {
            current,
            edges: Arc::new(edges),
            restatements: Restatements::default(),
        }
    }

    /// Replaces the restrictions and has the books concerned publish their states.
    fn replace(&mut self, later: Restrictions, context: &mut Context<Self>) {
        let earlier = self.current.set(later);
        let change = RestrictionChange::between(&earlier, &self.current.get());
        let run = self.restatements.changed(change);
        self.start(run, context);
    }

    fn start(&mut self, run: Option<Run>, context: &mut Context<Self>) {
        let Some(run) = run else {
            return;
        };
        let restating = restate(self.edges.clone(), run).into_actor(self);
        context.spawn(restating.map(|failed, keeper, context| {
            match keeper.restatements.finished(failed) {
                Next::Nothing => {}
                Next::Run(run) => keeper.start(Some(run), context),
                Next::RetryLater => {
                    context.run_later(RETRY, |keeper, context| {
                        let run = keeper.restatements.retry_due();
                        keeper.start(run, context);
                    });
                }
            }
        }));
    }
}

/// Has the books of the run publish their states. Returns the events whose books have not.
async fn restate(edges: Arc<KeeperEdges>, run: Run) -> BTreeSet<EventId> {
    // Without the registry nobody follows an event; the platform monitors its actors and stops the
    // process.
    let mut events = edges
        .followed
        .send(GetFollowedEvents)
        .await
        .unwrap_or_default();
    if let Some(only) = &run.only {
        events.retain(|event_id| only.contains(event_id));
    }
    let restating = events.into_iter().map(|event_id| {
        let request = RestateBook {
            event_id: event_id.clone(),
            change: run.change.clone(),
        };
        let edges = edges.clone();
        async move {
            let reply = edges.books.send(request).await;
            let reply =
                reply.unwrap_or_else(|error| Err(ApplyError::RouterEnded(error.to_string())));
            log_failure(&reply);
            reply.err().map(|_| event_id)
        }
    });
    let restating = stream::iter(restating).buffer_unordered(BOOKS_AT_ONCE);
    restating.filter_map(std::future::ready).collect().await
}

fn log_failure(reply: &Result<(), ApplyError>) {
    if let Err(error) = reply
        && let Some(repeated) = NOT_RESTATED.check(error.cause())
    {
        warn!(repeated; "clients do not see changed restrictions of an event yet, retrying: {error}");
    }
}

impl Actor for RestrictionKeeper {
    type Context = Context<Self>;
}

impl Handler<SourcesReported> for RestrictionKeeper {
    type Result = ();

    fn handle(&mut self, reported: SourcesReported, context: &mut Context<Self>) {
        let later = Restrictions {
            sources: reported.0,
            ..Restrictions::clone(&self.current.get())
        };
        self.replace(later, context);
    }
}

impl Handler<HoldsLoaded> for RestrictionKeeper {
    type Result = ();

    fn handle(&mut self, loaded: HoldsLoaded, context: &mut Context<Self>) {
        let later = Restrictions {
            holds: loaded.0,
            ..Restrictions::clone(&self.current.get())
        };
        self.replace(later, context);
    }
}

#[cfg(test)]
mod tests;
