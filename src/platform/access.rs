//! Authentication: what the roles with callers check credentials against.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::StartError;
use super::builder::PlatformBuilder;
use super::checks::check;
use crate::access::credentials::KnownCredentials;
use crate::access::key_refresh::{KeyFile, KeyRefreshError, KeyUrl};
use crate::access::key_set::KeySet;
use crate::access::key_source::KeySource;
use crate::access::token::TokenVerifier;
use crate::access::{Access, AccessRules};
use crate::actors::access::credential_poller::CredentialPoller;
use crate::config::settings::AccessSettings;
use crate::http::health::Check;
use crate::runtime::clock::Clock;
use crate::store::access::AccessStore;
use crate::telemetry::metrics::AccessMetrics;
use crate::telemetry::role;

/// Mailbox capacity of the credential poller, which receives no messages.
const POLLER_MAILBOX: usize = 1;

/// The keys for tokens, and what keeps them up to date.
struct TokenKeys {
    secret: Option<Arc<KeySource>>,
    file: Option<KeyFile>,
    url: Option<KeyUrl>,
}

impl TokenKeys {
    /// Reads files, so do not call it on an async thread.
    fn open(settings: &AccessSettings) -> Result<TokenKeys, StartError> {
        let failed = |variable| {
            move |cause: KeyRefreshError| StartError::TokenKeys {
                variable,
                cause: cause.to_string(),
            }
        };
        let secret = settings.auth_jwt_secret.as_ref().map(|secret| {
            let keys = KeySet::of_secret(secret).map_err(KeyRefreshError::from)?;
            Ok(KeySource::new(KeySource::SECRET, keys))
        });
        let file = settings.auth_jwt_keys.as_deref().map(KeyFile::open);
        let url = settings.auth_jwks_url.as_ref().map(KeyUrl::new);
        Ok(TokenKeys {
            secret: secret.transpose().map_err(failed("AUTH_JWT_SECRET"))?,
            file: file.transpose().map_err(failed("AUTH_JWT_KEYS"))?,
            url: url.transpose().map_err(failed("AUTH_JWKS_URL"))?,
        })
    }

    fn sources(&self) -> Vec<Arc<KeySource>> {
        let file = self.file.as_ref().map(KeyFile::source);
        let url = self.url.as_ref().map(KeyUrl::source);
        let read = file.into_iter().chain(url);
        self.secret.iter().chain(read).cloned().collect()
    }

    fn watch(self, settings: &AccessSettings, metrics: &AccessMetrics, tasks: &mut JoinSet<()>) {
        if let Some(file) = self.file {
            tasks.spawn(role::inherit(file.watch(metrics.clone())));
        }
        if let Some(url) = self.url {
            let watching = url.watch(settings.auth_jwks_refresh, metrics.clone());
            tasks.spawn(role::inherit(watching));
        }
    }
}

impl PlatformBuilder<'_> {
    /// Sets the rules for callers, if the settings require authentication. The poller of API keys
    /// starts later, when those who have sessions are known.
    pub(super) async fn set_access(&mut self) -> Result<(), StartError> {
        let settings = &self.settings.access;
        if !settings.is_required() {
            return Ok(());
        }
        let opened = settings.clone();
        let opening = tokio::task::spawn_blocking(move || TokenKeys::open(&opened)).await;
        let keys = opening.map_err(|panic| StartError::TokenKeys {
            variable: "AUTH",
            cause: panic.to_string(),
        })??;
        let tokens = TokenVerifier::new(
            keys.sources(),
            settings.auth_jwt_issuer.as_deref(),
            settings.auth_jwt_audience.as_deref(),
        );
        self.access = Access::required(AccessRules {
            odds_public: settings.odds_public,
            tokens,
            credentials: Arc::<KnownCredentials>::default(),
        });
        keys.watch(settings, &self.access_metrics, &mut self.parts.token_keys);
        Ok(())
    }

    /// The access of a role's public port, whose authentications are counted in its registry.
    pub(super) fn access_of_role(
        &self,
        registry: &prometheus::Registry,
    ) -> prometheus::Result<Access> {
        let results = self.access_metrics.register(registry, Access::results())?;
        Ok(self.access.counting(results))
    }

    /// Not ready while credentials cannot be checked. `None` if they are not.
    pub(super) fn access_check(&self) -> Option<Check> {
        let rules = self.access.rules()?.clone();
        Some(check("access", move || rules.problem()).needed_at_start())
    }

    /// Starts the poller of API keys and revocations, if callers are checked.
    pub(super) fn start_credential_poller(&mut self, store: Arc<dyn AccessStore>) {
        let Some(rules) = self.access.rules() else {
            return;
        };
        let credentials = rules.credentials.clone();
        let subscribers = std::mem::take(&mut self.revocation_subscribers);
        let metrics = self.access_metrics.clone();
        let clock = Clock::system();
        let poller = CredentialPoller::new(store, credentials, subscribers, clock, metrics);
        let arbiter = self.arbiter();
        self.start("credential poller", &arbiter, POLLER_MAILBOX, poller);
    }
}
