//! Checks the credentials that a client presents.

use actix_web_actors::ws::WebsocketContext;

use super::Session;
use crate::domain::access::Caller;
use crate::domain::streaming::protocol::Credential;
use crate::domain::streaming::session::BadCredential;
use crate::runtime::permits::Permit;

/// The limits of the client of a session.
pub trait ClientLimits {
    /// Counts a credential, before it is checked. An error is in how many seconds the next one is
    /// accepted.
    fn admit_authentication(&self) -> Result<(), u64>;

    /// Counts a credential that is not accepted.
    fn charge_failed_authentication(&self);

    /// Takes one of the sessions that this caller may have. An error is their maximum.
    fn take_session(&self, caller: &Caller) -> Result<Option<Permit<u64>>, usize>;
}

impl Session {
    /// Checks the credential of an `auth` message.
    pub(super) fn authenticate(
        &mut self,
        credential: &Credential,
        context: &mut WebsocketContext<Self>,
    ) {
        let checked = self.check(credential);
        if matches!(checked, Err(BadCredential::Invalid(_))) {
            self.permits.client.charge_failed_authentication();
        }
        let (result, effects) = self.state.on_credential(checked);
        let counted = &self.edges.metrics.auth_messages;
        counted.with_label_values(&[result.as_str()]).inc();
        self.act(effects, context);
    }

    /// The caller of a credential, if its address may present one. The first caller of a session
    /// needs a permit for it.
    fn check(&mut self, credential: &Credential) -> Result<Caller, BadCredential> {
        let admitted = self.permits.client.admit_authentication();
        admitted.map_err(BadCredential::RateLimited)?;
        let checked = self.edges.access.authenticate(Some(credential.expose()));
        let caller = checked.map_err(|invalid| match invalid.is_temporary() {
            true => BadCredential::Unavailable(invalid.to_string()),
            false => BadCredential::Invalid(invalid.to_string()),
        })?;
        if !self.state.is_authenticated() {
            let permit = self.permits.client.take_session(&caller);
            self.permits.caller = permit.map_err(BadCredential::TooManySessions)?;
        }
        Ok(caller)
    }
}
