//! Creates the metrics of each role, with the series of the label values that other modules define.

use strum::{VariantArray, VariantNames};

use crate::actors::bets::confirmation as bet_confirmation;
use crate::actors::settlement::result_consumer::RESERVED_SOURCE;
use crate::http::errors::ApiError;
use crate::http::gateway::{self, Ended, Failure, Service};
use crate::http::latency;
use crate::runtime::circuit_breaker::BreakerState;
use crate::simulator::faults::Fault;
use crate::store::money::OutboxTopic;
use crate::supplier::betfair;
use crate::supplier::confirm::SupplierError;
use crate::supplier::transport::TransportError;
use crate::telemetry::metrics::{
    BetsMetrics, ConfirmationMetrics, GatewayMetrics, IngestMetrics, OddsMetrics,
    SettlementMetrics, SimulatorMetrics, WalletMetrics, create_series,
};

/// Metrics of the role `simulator`.
pub(super) fn simulator() -> prometheus::Result<SimulatorMetrics> {
    let metrics = SimulatorMetrics::new()?;
    create_series(&metrics.refused, ApiError::GUARD_CODES);
    create_series(&metrics.faults, Fault::VARIANTS);
    let routes = latency::known(crate::simulator::ROUTES);
    create_series(&metrics.request_seconds, routes);
    Ok(metrics)
}

/// Metrics of the role `ingest`.
pub(super) fn ingest() -> prometheus::Result<IngestMetrics> {
    let metrics = IngestMetrics::new()?;
    create_series(&metrics.disconnects, TransportError::VARIANTS);
    create_series(&metrics.refused, [betfair::AMBIGUOUS]);
    Ok(metrics)
}

/// Metrics of the role `odds`.
pub(super) fn odds() -> prometheus::Result<OddsMetrics> {
    let metrics = OddsMetrics::new()?;
    create_series(&metrics.refused, ApiError::GUARD_CODES);
    create_series(&metrics.refused_upgrades, ApiError::UPGRADE_CODES);
    create_series(
        &metrics.request_seconds,
        latency::known(crate::http::odds::routes::ROUTES),
    );
    Ok(metrics)
}

/// Metrics of the role `wallet`.
pub(super) fn wallet() -> prometheus::Result<WalletMetrics> {
    let metrics = WalletMetrics::new()?;
    create_series(&metrics.refused, ApiError::GUARD_CODES);
    create_series(
        &metrics.request_seconds,
        latency::known(crate::http::wallet::ROUTES),
    );
    Ok(metrics)
}

/// Metrics of the role `bets`.
pub(super) fn bets() -> prometheus::Result<BetsMetrics> {
    let metrics = BetsMetrics::new()?;
    create_series(&metrics.refused, ApiError::GUARD_CODES);
    create_series(
        &metrics.request_seconds,
        latency::known(crate::http::bets::ROUTES),
    );
    create_series(&metrics.outbox_published, OutboxTopic::VARIANTS);
    Ok(metrics)
}

/// Metrics of the role `confirmation`.
pub(super) fn confirmation() -> prometheus::Result<ConfirmationMetrics> {
    let metrics = ConfirmationMetrics::new()?;
    create_series(&metrics.dead_letters, bet_confirmation::REASONS);
    create_series(&metrics.supplier_calls, SupplierError::VARIANTS);
    create_series(&metrics.cancel_calls, SupplierError::VARIANTS);
    let states = BreakerState::VARIANTS.iter().map(|state| state.as_str());
    create_series(&metrics.breaker, states);
    create_series(&metrics.outbox_published, OutboxTopic::VARIANTS);
    Ok(metrics)
}

/// Metrics of the role `settlement`.
pub(super) fn settlement() -> prometheus::Result<SettlementMetrics> {
    let metrics = SettlementMetrics::new()?;
    create_series(&metrics.dead_letters, [RESERVED_SOURCE]);
    create_series(&metrics.bets, ["open"]);
    create_series(&metrics.outbox_published, OutboxTopic::VARIANTS);
    Ok(metrics)
}

/// Metrics of the role `gateway`.
pub(super) fn gateway() -> prometheus::Result<GatewayMetrics> {
    let metrics = GatewayMetrics::new()?;
    create_series(&metrics.refused, ApiError::GUARD_CODES);
    create_series(&metrics.request_seconds, latency::known(gateway::ROUTES));
    create_series(&metrics.sockets_ended, Ended::VARIANTS);
    let errors = |service: Service| {
        Failure::VARIANTS
            .iter()
            .map(move |error| [service.name(), *error])
    };
    let services = Service::VARIANTS.iter().copied();
    create_series(&metrics.upstream_errors, services.flat_map(errors));
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::domain::bets::bet::{BetOutcome, BetRefusal};
    use crate::domain::bets::bet_events::BadBetPlaced;
    use crate::domain::odds::book::Rejection;
    use crate::domain::odds::plausible::Implausible;
    use crate::domain::odds::update::DecodeError;
    use crate::domain::streaming::protocol::Refusal;
    use crate::http::connections;
    use crate::telemetry::metrics::OutboxStage;

    /// The texts are derived from the names of variants, and dashboards and alerts use them.
    #[test]
    fn label_values_are_stable() {
        let lists = [
            DecodeError::VARIANTS,
            Implausible::VARIANTS,
            Rejection::VARIANTS,
            BetRefusal::VARIANTS,
            BetOutcome::VARIANTS,
            BadBetPlaced::VARIANTS,
            Refusal::VARIANTS,
            OutboxStage::VARIANTS,
            OutboxTopic::VARIANTS,
            TransportError::VARIANTS,
            SupplierError::VARIANTS,
            Fault::VARIANTS,
            connections::Ended::VARIANTS,
            Ended::VARIANTS,
            Failure::VARIANTS,
        ];
        let expected = [
            "unknown_type too_large malformed bad_price no_selections duplicate_selection too_many_selections bad_name",
            "future seq",
            "older duplicate wrong_event too_many_markets",
            "EVENT_NOT_FOUND MARKET_NOT_FOUND SELECTION_NOT_FOUND MARKET_SUSPENDED MARKET_STALE SELECTION_SUSPENDED ODDS_CHANGED \
             STAKE_TOO_LOW STAKE_TOO_HIGH PAYOUT_TOO_HIGH WALLET_NOT_FOUND INSUFFICIENT_FUNDS",
            "confirmed rejected supplier_timeout",
            "malformed missing_field invalid_field conflict",
            "BAD_JSON UNKNOWN_TYPE BAD_EVENT_ID BAD_SINCE BAD_CONFLATE_MS BAD_HEARTBEAT_MS TOO_MANY_SUBSCRIPTIONS RATE_LIMITED RATE_LIMITED RATE_LIMITED SNAPSHOT_UNAVAILABLE \
             BAD_TOKEN UNAUTHENTICATED INVALID_CREDENTIAL AUTHENTICATION_UNAVAILABLE SCOPE_REQUIRED OTHER_CALLER TOO_MANY_SESSIONS_OF_CALLER",
            "take publish mark refused",
            "bet_placed bet_confirmed bet_settled",
            "connect_timeout connect tls tls handshake frame_too_large read write write_timeout",
            "timeout unreachable status too_large unreadable unknown_word",
            "silent garbage error",
            "handshake_timeout handshake_failed plain_http preface_timeout head_timeout head_too_large body_timeout idle write_timeout crowded address_limit",
            "closed client service slow_client slow_service stopping",
            "connect timeout broken",
        ];
        assert_eq!(lists.map(|list| list.join(" ")), expected);
    }
}
