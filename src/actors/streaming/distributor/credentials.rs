//! Ends the sessions whose credential has expired or is revoked, and those whose client has not
//! authenticated in time.

use std::sync::Arc;

use actix::prelude::*;
use log::info;

use super::Distributor;
use crate::actors::access::messages::RevocationsChanged;
use crate::actors::streaming::messages::WatchCaller;
use crate::domain::streaming::credential_watch::{Overdue, SessionCaller};
use crate::domain::streaming::fanout::SessionId;
use crate::domain::streaming::protocol::CloseReason;
use crate::domain::timestamp::Timestamp;

impl Distributor {
    /// Watches the caller of a session.
    pub(super) fn watch_caller(&mut self, id: SessionId, caller: Arc<SessionCaller>) {
        if let Some(reason) = self.credentials.watch(id, caller, Timestamp::now()) {
            self.end_session(id, reason);
        }
    }

    /// Ends the sessions whose time is up.
    pub(super) fn end_overdue(&mut self, now: Timestamp) {
        for overdue in self.credentials.take_overdue(now) {
            match overdue {
                Overdue::Close(id, reason) => self.end_session(id, reason),
                Overdue::Disconnect(id) => {
                    if let Some(handle) = self.disconnect(id) {
                        self.evict(id, &handle, "client did not read that the session ends");
                    }
                }
            }
        }
    }

    fn end_session(&self, id: SessionId, reason: CloseReason) {
        if let Some(handle) = self.fanout.sink(id) {
            handle.end(reason);
        }
    }
}

impl Handler<WatchCaller> for Distributor {
    type Result = ();

    fn handle(&mut self, watch: WatchCaller, _: &mut Context<Self>) {
        if self.fanout.sink(watch.id).is_some() {
            self.watch_caller(watch.id, watch.caller);
        }
    }
}

impl Handler<RevocationsChanged> for Distributor {
    type Result = ();

    fn handle(&mut self, changed: RevocationsChanged, _: &mut Context<Self>) {
        let revoked = self.credentials.revoke(changed.0, Timestamp::now());
        if !revoked.is_empty() {
            info!(sessions = revoked.len(); "sessions of revoked credentials end");
        }
        for id in revoked {
            self.end_session(id, CloseReason::CredentialRevoked);
        }
    }
}
