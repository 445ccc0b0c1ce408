//! Checks the credentials that a client presents.

use actix_web_actors::ws::WebsocketContext;

use super::Session;
use crate::domain::streaming::protocol::Credential;
use crate::domain::streaming::session::BadCredential;

impl Session {
    /// Checks the credential of an `auth` message.
    pub(super) fn authenticate(
        &mut self,
        credential: &Credential,
        context: &mut WebsocketContext<Self>,
    ) {
        let checked = self.edges.access.authenticate(Some(credential.expose()));
        let checked = checked.map_err(|invalid| BadCredential {
            why: invalid.to_string(),
            is_temporary: invalid.is_temporary(),
        });
        let (result, effects) = self.state.on_credential(checked);
        let counted = &self.edges.metrics.auth_messages;
        counted.with_label_values(&[result.as_str()]).inc();
        self.act(effects, context);
    }
}
