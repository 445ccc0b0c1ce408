//! Metrics of the role `gateway`.

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::registry::role_metrics;

/// The services behind the gateway.
const SERVICES: [&str; 3] = ["odds", "wallet", "bets"];

/// Each service with each of these values.
fn by_service<const VALUES: usize>(
    values: [&'static str; VALUES],
) -> impl Iterator<Item = [&'static str; 2]> {
    SERVICES
        .into_iter()
        .flat_map(move |service| values.map(|value| [service, value]))
}

role_metrics! {
    /// Metrics of the role `gateway`.
    GatewayMetrics {
        /// Requests, by service and status; the service of the gateway's own pages is gateway
        requests: IntCounterVec = "gateway_http_requests_total" ["service", "status"] known by_service(["200", "400", "404", "409", "502", "503", "504"]).chain([["gateway", "200"], ["gateway", "404"]]),
        /// Requests refused before routing, by code: a foreign Host, a page of a foreign origin
        refused: IntCounterVec = "gateway_http_refused_total" ["code"],
        /// Time from the head of a request to the head of its response, by prefix, method and status class
        request_seconds: HistogramVec = "gateway_http_request_duration_seconds" ["route", "method", "status"],
        /// Requests that a service did not answer, by service and error: connect, timeout, broken (the connection or the answer broke off)
        upstream_errors: IntCounterVec = "gateway_upstream_errors_total" ["service", "error"],
        /// Requests sent again because the first connection failed, by service
        upstream_retries: IntCounterVec = "gateway_upstream_retries_total" ["service"] known SERVICES,
        /// WebSockets that are forwarded now
        sockets: IntGauge = "gateway_sockets",
        /// Forwarded WebSockets that ended, by reason: closed (by a close frame), client, service (one side broke off), slow_client, slow_service (one side took nothing), stopping
        sockets_ended: IntCounterVec = "gateway_sockets_ended_total" ["reason"],
    }
}
