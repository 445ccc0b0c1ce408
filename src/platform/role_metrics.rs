//! Creates the metrics of each role, with the series of the label values that other rooms define.

use strum::{VariantArray, VariantNames};

use crate::actors::bets::confirmation as bet_confirmation;
use crate::http::errors::ApiError;
use crate::http::latency;
use crate::runtime::circuit_breaker::BreakerState;
use crate::simulator::faults::Fault;
use crate::store::money::OutboxTopic;
use crate::supplier::confirm::SupplierError;
use crate::supplier::transport::TransportError;
use crate::telemetry::metrics::{
    BetsMetrics, ConfirmationMetrics, IngestMetrics, OddsMetrics, SimulatorMetrics, WalletMetrics,
    create_series,
};

/// Metrics of the role `simulator`.
pub(super) fn simulator() -> prometheus::Result<SimulatorMetrics> {
    let metrics = SimulatorMetrics::new()?;
    create_series(&metrics.refused, ApiError::DOOR_CODES);
    create_series(&metrics.faults, Fault::VARIANTS);
    let routes = latency::known(crate::simulator::ROUTES);
    create_series(&metrics.request_seconds, routes);
    Ok(metrics)
}

/// Metrics of the role `ingest`.
pub(super) fn ingest() -> prometheus::Result<IngestMetrics> {
    let metrics = IngestMetrics::new()?;
    create_series(&metrics.disconnects, TransportError::VARIANTS);
    Ok(metrics)
}

/// Metrics of the role `odds`.
pub(super) fn odds() -> prometheus::Result<OddsMetrics> {
    let metrics = OddsMetrics::new()?;
    create_series(&metrics.refused, ApiError::DOOR_CODES);
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
    create_series(&metrics.refused, ApiError::DOOR_CODES);
    create_series(
        &metrics.request_seconds,
        latency::known(crate::http::wallet::ROUTES),
    );
    Ok(metrics)
}

/// Metrics of the role `bets`.
pub(super) fn bets() -> prometheus::Result<BetsMetrics> {
    let metrics = BetsMetrics::new()?;
    create_series(&metrics.refused, ApiError::DOOR_CODES);
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
