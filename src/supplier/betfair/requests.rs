//! The requests to the stream: authentication and subscription.

use std::ops::RangeInclusive;

use secrecy::{ExposeSecret, SecretString};

use super::wire::{
    Authentication, ChangeMessage, MarketDataFilter, MarketFilter, MarketSubscription,
};
use crate::config::settings::SupplierSettings;
use crate::supplier::FrameFault;

/// The id of an authentication.
pub(super) const AUTHENTICATION: i64 = 1;
/// The id of a subscription.
pub(super) const SUBSCRIPTION: i64 = 2;
/// Best offers one level deep, the last traded price, and the definitions: everything a price is
/// made of.
const FIELDS: &[&str] = &["EX_BEST_OFFERS", "EX_LTP", "EX_MARKET_DEF"];
/// The stream's limits for `heartbeatMs`.
const HEARTBEAT_MS: RangeInclusive<u64> = 500..=5_000;

/// The requests of one configured supplier.
pub(super) struct Requests {
    app_key: SecretString,
    session: SecretString,
    market_ids: Vec<String>,
    heartbeat_ms: u64,
}

/// The position of the last complete message. A subscription with it is answered with the changes
/// since; one without it, with an image.
#[derive(Default)]
pub(super) struct Clocks {
    initial: Option<String>,
    last: Option<String>,
}

impl Clocks {
    /// Advances to the position after `message`.
    pub(super) fn remember(&mut self, message: &ChangeMessage<'_>) {
        if message.initial_clk.is_some() {
            self.initial.clone_from(&message.initial_clk);
        }
        if message.clk.is_some() {
            self.last.clone_from(&message.clk);
        }
    }
}

impl Requests {
    /// Sends an empty key and session if none are configured.
    pub(super) fn new(settings: &SupplierSettings) -> Requests {
        let secret = |secret: &Option<SecretString>| {
            secret.clone().unwrap_or_else(|| SecretString::from(""))
        };
        let ids = settings
            .betfair_market_ids
            .iter()
            .map(|id| id.trim().to_owned());
        let silence = settings
            .supplier_read_timeout
            .min(settings.supplier_stale_after);
        let third_of_silence = u64::try_from(silence.as_millis() / 3).unwrap_or(u64::MAX);
        Requests {
            app_key: secret(&settings.betfair_app_key),
            session: secret(&settings.betfair_session_token),
            market_ids: ids.filter(|id| !id.is_empty()).collect(),
            heartbeat_ms: third_of_silence.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end()),
        }
    }

    /// The first request on a connection.
    pub(super) fn authentication(&self) -> Result<String, FrameFault> {
        to_json(&Authentication {
            op: "authentication",
            id: AUTHENTICATION,
            app_key: self.app_key.expose_secret(),
            session: self.session.expose_secret(),
        })
    }

    /// The subscription to all configured markets, from this position on.
    pub(super) fn subscription(&self, clocks: &Clocks) -> Result<String, FrameFault> {
        let position = clocks.initial.as_deref().zip(clocks.last.as_deref());
        to_json(&MarketSubscription {
            op: "marketSubscription",
            id: SUBSCRIPTION,
            market_filter: MarketFilter {
                market_ids: &self.market_ids,
            },
            market_data_filter: MarketDataFilter {
                fields: FIELDS,
                ladder_levels: 1,
            },
            heartbeat_ms: self.heartbeat_ms,
            conflate_ms: 0,
            segmentation_enabled: true,
            initial_clk: position.map(|(initial, _)| initial),
            clk: position.map(|(_, last)| last),
        })
    }

    /// The supplier's text, truncated and without our credentials.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in [&self.app_key, &self.session]
            .map(ExposeSecret::expose_secret)
            .into_iter()
            .filter(|s| !s.is_empty())
        {
            text = text.replace(secret, "***");
        }
        text.trim().chars().take(300).collect()
    }
}

/// Serializing strings, numbers and lists to memory cannot fail; if it did, the connection would be
/// useless.
fn to_json(request: &impl serde::Serialize) -> Result<String, FrameFault> {
    serde_json::to_string(request).map_err(|_| FrameFault::Refused {
        reason: "unwritable",
        detail: "cannot serialize a request".to_owned(),
    })
}
