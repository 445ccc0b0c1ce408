//! Decides when sessions end because of their credential: it has expired, it is revoked, or the
//! client has not presented one in time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fanout::SessionId;
use super::protocol::CloseReason;
use crate::domain::access::{Caller, Revocations};
use crate::domain::timestamp::Timestamp;

/// How long a session goes on after its credential has expired: time for a late refresh.
const EXPIRY_GRACE: Duration = Duration::from_secs(25);
/// How long a session that has to close may take, before its connection is cut.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How long sessions go on without a valid credential.
#[derive(Clone, Copy, Debug)]
pub struct CredentialLimits {
    /// How long a client that has to authenticate may take.
    pub auth_timeout: Duration,
    /// How long a session goes on after its credential has expired.
    pub expiry_grace: Duration,
}

impl CredentialLimits {
    /// The usual limits, with this timeout.
    pub fn with_timeout(auth_timeout: Duration) -> CredentialLimits {
        CredentialLimits {
            auth_timeout,
            expiry_grace: EXPIRY_GRACE,
        }
    }
}

/// The caller of a session: anonymous until the client authenticates. Written by the session, read
/// by its distributor, so that a refresh counts at once.
#[derive(Debug)]
pub struct SessionCaller {
    caller: Mutex<Caller>,
    /// Whether the client can present a later credential.
    can_refresh: bool,
}

/// Whom a caller has replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Nobody has authenticated before.
    Anonymous,
    /// The same user or key, with an earlier credential.
    Same,
    /// Nobody: the session belongs to another caller.
    Nothing,
}

impl SessionCaller {
    /// The caller of a new session.
    pub fn new(caller: Caller) -> SessionCaller {
        SessionCaller {
            caller: Mutex::new(caller),
            can_refresh: true,
        }
    }

    /// The caller of a session whose client cannot present a later credential.
    pub fn fixed(caller: Caller) -> SessionCaller {
        SessionCaller {
            can_refresh: false,
            ..SessionCaller::new(caller)
        }
    }

    /// Whether the client has presented a credential.
    pub fn is_authenticated(&self) -> bool {
        *self.caller.lock() != Caller::Anonymous
    }

    /// When the credential expires, if it does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match &*self.caller.lock() {
            Caller::Unchecked | Caller::Anonymous => None,
            Caller::User { expires_at, .. } => Some(*expires_at),
            Caller::Service { expires_at, .. } => *expires_at,
        }
    }

    /// Replaces the credential by a later one of the same caller.
    pub fn replace(&self, caller: Caller) -> Replaced {
        let mut current = self.caller.lock();
        let replaced = match (&*current, &caller) {
            (Caller::Anonymous, _) => Replaced::Anonymous,
            (Caller::User { id, .. }, Caller::User { id: new, .. }) if id == new => Replaced::Same,
            (Caller::Service { key, .. }, Caller::Service { key: new, .. }) if key == new => {
                Replaced::Same
            }
            _ => return Replaced::Nothing,
        };
        *current = caller;
        replaced
    }

    fn is_revoked(&self, revocations: &Revocations) -> bool {
        revocations.concern(&self.caller.lock())
    }
}

/// What happens to a session whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It closes for this reason.
    Close(SessionId, CloseReason),
    /// It did not close in time, because its client reads nothing. Its connection is closed from
    /// outside.
    Disconnect(SessionId),
}

struct Watched {
    caller: Arc<SessionCaller>,
    /// When an anonymous client has to have authenticated.
    authenticate_by: Timestamp,
    /// When the session is looked at next. Never for a key that does not expire.
    due: Option<Timestamp>,
    is_closing: bool,
}

impl Watched {
    fn ends_at(&self, expiry_grace: Duration) -> Option<Timestamp> {
        if self.caller.is_authenticated() {
            let grace = if self.caller.can_refresh {
                expiry_grace
            } else {
                Duration::ZERO
            };
            let expiry = self.caller.expires_at();
            expiry.map(|expiry| expiry.later_by(grace))
        } else {
            Some(self.authenticate_by)
        }
    }
}

/// The sessions of a thread that have presented a credential, or have to. Others cost nothing.
pub struct CredentialWatch {
    limits: CredentialLimits,
    sessions: HashMap<SessionId, Watched, foldhash::fast::RandomState>,
    due: BTreeSet<(Timestamp, SessionId)>,
    revocations: Arc<Revocations>,
}

impl CredentialWatch {
    /// Watches nobody yet.
    pub fn new(limits: CredentialLimits) -> CredentialWatch {
        CredentialWatch {
            limits,
            sessions: HashMap::default(),
            due: BTreeSet::new(),
            revocations: Arc::default(),
        }
    }

    /// Watches a session, or looks at its caller's new credential. Returns why the session has to
    /// close at once: its credential was revoked before it was known here.
    pub fn watch(
        &mut self,
        id: SessionId,
        caller: Arc<SessionCaller>,
        now: Timestamp,
    ) -> Option<CloseReason> {
        let authenticate_by = now.later_by(self.limits.auth_timeout);
        let watched = self.sessions.entry(id).or_insert_with(|| Watched {
            caller,
            authenticate_by,
            due: None,
            is_closing: false,
        });
        if watched.is_closing {
            return None;
        }
        if watched.caller.is_revoked(&self.revocations) {
            self.start_closing(id, now);
            return Some(CloseReason::CredentialRevoked);
        }
        let ends_at = watched.ends_at(self.limits.expiry_grace);
        self.plan(id, ends_at);
        None
    }

    /// Removes a session.
    pub fn remove(&mut self, id: SessionId) {
        self.plan(id, None);
        self.sessions.remove(&id);
    }

    /// Remembers what is revoked from now on. Returns the sessions that have to close for it.
    pub fn revoke(&mut self, revocations: Arc<Revocations>, now: Timestamp) -> Vec<SessionId> {
        self.revocations = revocations;
        let is_revoked =
            |watched: &Watched| !watched.is_closing && watched.caller.is_revoked(&self.revocations);
        let watched = self.sessions.iter();
        let revoked = watched.filter(|(_, watched)| is_revoked(watched));
        let revoked: Vec<SessionId> = revoked.map(|(id, _)| *id).collect();
        for id in &revoked {
            self.start_closing(*id, now);
        }
        revoked
    }

    /// The sessions whose time is up.
    pub fn take_overdue(&mut self, now: Timestamp) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        while let Some((due, id)) = self.due.first().copied()
            && due <= now
        {
            overdue.extend(self.look_at(id, now));
        }
        overdue
    }

    /// Decides about a session that is due. It may have refreshed its credential since.
    fn look_at(&mut self, id: SessionId, now: Timestamp) -> Option<Overdue> {
        let watched = self.sessions.get(&id)?;
        if watched.is_closing {
            self.remove(id);
            return Some(Overdue::Disconnect(id));
        }
        let ends_at = watched.ends_at(self.limits.expiry_grace);
        if ends_at.is_none_or(|ends_at| ends_at > now) {
            self.plan(id, ends_at);
            return None;
        }
        let reason = if watched.caller.is_authenticated() {
            CloseReason::CredentialExpired
        } else {
            CloseReason::NotAuthenticated
        };
        self.start_closing(id, now);
        Some(Overdue::Close(id, reason))
    }

    fn start_closing(&mut self, id: SessionId, now: Timestamp) {
        self.plan(id, Some(now.later_by(CLOSE_LIMIT)));
        if let Some(watched) = self.sessions.get_mut(&id) {
            watched.is_closing = true;
        }
    }

    /// Plans when a session is looked at next.
    fn plan(&mut self, id: SessionId, due: Option<Timestamp>) {
        let Some(watched) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut watched.due, due) {
            self.due.remove(&(before, id));
        }
        self.due.extend(due.map(|due| (due, id)));
    }
}

#[cfg(test)]
mod tests;
