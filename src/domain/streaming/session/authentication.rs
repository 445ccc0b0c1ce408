//! Authentication of a session: by its upgrade, or by `auth` messages.

use std::sync::Arc;

use strum::{IntoStaticStr, VariantNames};

use super::{Effect, SessionState};
use crate::domain::access::{Caller, Scope};
use crate::domain::streaming::credential_watch::{Replaced, SessionCaller};
use crate::domain::streaming::protocol::{CloseReason, Credential, Refusal, authenticated_message};

/// An `auth` counts as this share of the messages of a second: checking a signature costs far more
/// than any other message.
const MESSAGE_SHARE: u32 = 10;

/// Why a credential is not accepted. The client is sent the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCredential {
    /// It will not be accepted later either.
    Invalid(String),
    /// It cannot be checked yet.
    Unavailable(String),
    /// It is not checked: its address exceeds its rate limit. In how many seconds it may be sent
    /// again.
    RateLimited(u64),
    /// It is valid, but its caller has this maximum of sessions.
    TooManySessions(usize),
}

/// The result of an `auth` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum AuthResult {
    /// The first credential of the session is accepted.
    Accepted,
    /// A later credential replaces the first one.
    Refreshed,
    /// Callers are not checked.
    Unchecked,
    /// The credential is not accepted.
    Invalid,
    /// The credential cannot be checked yet.
    Unavailable,
    /// The credential is not checked, because of the rate limit of its address.
    RateLimited,
    /// The credential does not allow to read odds.
    ScopeRequired,
    /// The credential belongs to another caller than the session.
    OtherCaller,
    /// The caller has its maximum of sessions.
    TooManySessions,
}

impl AuthResult {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl SessionState {
    /// The session of the caller of its upgrade. An anonymous caller has to authenticate unless
    /// odds are public.
    pub fn of(mut self, caller: Caller, is_odds_public: bool) -> SessionState {
        let is_known = matches!(caller, Caller::User { .. } | Caller::Service { .. });
        self.is_odds_public = is_odds_public;
        self.caller = (is_known || !is_odds_public).then(|| Arc::new(SessionCaller::new(caller)));
        self
    }

    /// The caller, if it has to be watched: it has presented a credential, or has to.
    pub fn caller(&self) -> Option<&Arc<SessionCaller>> {
        self.caller.as_ref()
    }

    /// Handles the result of checking the credential of an `auth` message. The first credential of
    /// a session must be accepted, or the session ends; a later one that is not accepted changes
    /// nothing.
    pub fn on_credential(
        &mut self,
        checked: Result<Caller, BadCredential>,
    ) -> (AuthResult, Vec<Effect>) {
        match checked {
            Ok(caller) => self.accept(caller),
            Err(BadCredential::Unavailable(why)) => {
                let refusal = Refusal::AuthenticationUnavailable(why);
                (AuthResult::Unavailable, vec![Effect::Refuse(refusal)])
            }
            Err(BadCredential::RateLimited(seconds)) => {
                let refusal = Refusal::AuthenticationLimited(seconds);
                (AuthResult::RateLimited, vec![Effect::Refuse(refusal)])
            }
            Err(BadCredential::Invalid(why)) => {
                let refusal = Refusal::InvalidCredential(why);
                let effects = self.refuse(refusal, CloseReason::InvalidCredential);
                (AuthResult::Invalid, effects)
            }
            Err(BadCredential::TooManySessions(max)) => {
                let refusal = Refusal::TooManySessionsOfCaller(max);
                let effects = self.refuse(refusal, CloseReason::TooManySessions);
                (AuthResult::TooManySessions, effects)
            }
        }
    }

    /// Has a credential checked.
    pub(super) fn present(&mut self, credential: Credential) -> Vec<Effect> {
        self.count_events((self.limits.max_messages_per_second / MESSAGE_SHARE) as usize);
        vec![Effect::Authenticate(credential)]
    }

    /// Whether the client may send more than `auth`.
    pub(super) fn may_read(&self) -> bool {
        self.is_odds_public || self.is_authenticated()
    }

    /// Whether the client has presented a credential that was accepted.
    pub fn is_authenticated(&self) -> bool {
        let caller = self.caller.as_ref();
        caller.is_some_and(|caller| caller.is_authenticated())
    }

    fn accept(&mut self, caller: Caller) -> (AuthResult, Vec<Effect>) {
        if matches!(caller, Caller::Unchecked | Caller::Anonymous) {
            let message = authenticated_message(None);
            return (AuthResult::Unchecked, vec![Effect::Send(message)]);
        }
        if caller
            .require(Scope::OddsRead, self.is_odds_public)
            .is_err()
        {
            let effects = self.refuse(Refusal::ScopeRequired, CloseReason::ScopeRequired);
            return (AuthResult::ScopeRequired, effects);
        }
        let anonymous = || Arc::new(SessionCaller::new(Caller::Anonymous));
        let current = self.caller.get_or_insert_with(anonymous).clone();
        let result = match current.replace(caller) {
            Replaced::Anonymous => AuthResult::Accepted,
            Replaced::Same => AuthResult::Refreshed,
            Replaced::Nothing => {
                let effects = vec![Effect::Refuse(Refusal::OtherCaller)];
                return (AuthResult::OtherCaller, effects);
            }
        };
        let message = authenticated_message(current.expires_at());
        let effects = vec![Effect::WatchCaller(current), Effect::Send(message)];
        (result, effects)
    }

    /// Refuses a credential. The session ends if it is the first one.
    fn refuse(&self, refusal: Refusal, reason: CloseReason) -> Vec<Effect> {
        let close = (!self.is_authenticated()).then_some(Effect::Close(reason));
        std::iter::once(Effect::Refuse(refusal))
            .chain(close)
            .collect()
    }
}

#[cfg(test)]
mod tests;
