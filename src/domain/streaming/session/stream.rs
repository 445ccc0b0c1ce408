//! What only a stream needs, which sends one request and has a format of its own.

use std::sync::Arc;
use std::time::Instant;

use super::{Effect, SessionState, Subscription};
use crate::domain::access::Caller;
use crate::domain::streaming::credential_watch::SessionCaller;
use crate::domain::streaming::fanout::{Delivery, SourceNotice};
use crate::domain::streaming::protocol::SubscribeRequest;

impl SessionState {
    /// The stream of this caller, which was admitted and cannot present a later credential.
    pub fn of_stream(mut self, caller: Caller, is_odds_public: bool) -> SessionState {
        let is_known = matches!(caller, Caller::User { .. } | Caller::Service { .. });
        self.is_odds_public = is_odds_public;
        self.caller = is_known.then(|| Arc::new(SessionCaller::fixed(caller)));
        self
    }

    /// Handles the one request of a stream that subscribes to events with the extended protocol.
    pub fn on_request(&mut self, request: SubscribeRequest, now: Instant) -> Vec<Effect> {
        self.subscribe_extended(request, now)
    }

    /// The notices of a delivery that this session sends: those after the snapshot, which shows the
    /// status of each market.
    pub fn notices<'a>(
        &'a self,
        delivery: &'a Delivery,
    ) -> impl Iterator<Item = &'a SourceNotice> + 'a {
        delivery.notices().iter().filter(|notice| {
            let subscription = self.subscriptions.get(&notice.event_id);
            matches!(subscription, Some(Subscription::Live { snapshot, .. }) if *snapshot < notice.at)
        })
    }
}
