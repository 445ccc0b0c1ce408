//! How a platform stops: first its clients, if there is time, then its work, then its ports.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use log::{info, warn};

use super::Platform;
use crate::actors::ingest::messages::LeaveSupplier;
use crate::actors::streaming::messages::EndAllSessions;
use crate::domain::streaming::protocol::CloseReason;
use crate::grpc::server::RunningGrpc;
use crate::http::gateway::SocketsEnd;
use crate::http::server::RunningServer;
use crate::runtime::drain::Drain;

/// How often a draining process checks whether a client is left.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How much longer than the spread a client may take to read its close frame.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long the parts of a stop may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopLimits {
    /// How long new clients are still served after the process has become unready.
    pub drain_delay: Duration,
    /// Over how long sessions are closed.
    pub drain_spread: Duration,
    /// How long work in flight, and what is left of the clients, may take.
    pub shutdown_timeout: Duration,
}

fn end_all(spread: Duration) -> EndAllSessions {
    EndAllSessions {
        reason: CloseReason::GoingAway,
        spread,
    }
}

impl Platform {
    /// Lets the clients move to another process: `/readyz` fails, new clients are served for a while,
    /// and then the sessions are told to reconnect and closed one after another. All other work goes
    /// on. Returns early if no client is left; at once if no role has clients. Without a spread the
    /// sessions stay until the process stops.
    pub async fn drain(&self) {
        self.become_unready();
        if !self.has_clients {
            return;
        }
        tokio::time::sleep(self.limits.drain_delay).await;
        let spread = self.limits.drain_spread;
        if spread.is_zero() {
            return;
        }
        info!(sessions = self.open_sockets(), spread:? = spread; "closing sessions");
        if let Some(sockets) = &self.parts.gateway_sockets {
            sockets.send_replace(SocketsEnd::Within(spread));
        }
        // Clients whose streams end open others on another connection.
        self.parts
            .grpc_servers
            .iter()
            .for_each(RunningGrpc::go_away);
        let until = Instant::now() + spread + CLOSE_GRACE;
        if let Some(registry) = &self.parts.registry {
            let ending = registry.send(end_all(spread));
            let _ = tokio::time::timeout_at(until.into(), ending).await;
        }
        while self.open_sockets() > 0 && Instant::now() < until {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Lets load balancers and gRPC clients see that the process stops.
    fn become_unready(&self) {
        self.liveness.stop();
        for ready in self.parts.ready.values() {
            ready.send_replace(false);
        }
    }

    /// How many sessions and forwarded sockets are open.
    fn open_sockets(&self) -> i64 {
        self.parts
            .open_sockets
            .iter()
            .map(|gauge| gauge.get())
            .sum()
    }

    /// Shuts down: disconnects from the suppliers, drains the bus, closes all sessions, then the
    /// ports. Returns `false` if the shutdown timeout expires first; the remaining work is aborted.
    pub async fn stop(self) -> bool {
        self.become_unready();
        // Half of the timeout for work in flight, so that sessions are closed in any case.
        let finishing = async {
            join_all(self.parts.feeds.iter().map(|feed| feed.send(LeaveSupplier))).await;
            for drain in &self.parts.money_drains {
                let _ = drain.send(Drain).await;
            }
            if let Some(simulator) = &self.parts.simulator {
                simulator.stop().await;
            }
            if let Some(selector) = &self.parts.selector {
                let _ = selector.send(Drain).await;
            }
            join_all(
                self.parts
                    .consumers
                    .iter()
                    .map(|consumer| consumer.send(Drain)),
            )
            .await;
            // After the others, which may still produce dead letters.
            if let Some(dead_letters) = &self.parts.dead_letter_consumer {
                let _ = dead_letters.send(Drain).await;
            }
        };
        let half = self.limits.shutdown_timeout / 2;
        let finished = tokio::time::timeout(half, finishing).await.is_ok();
        if !finished {
            warn!(
                "work in flight was not finished within {half:?}, half of SHUTDOWN_TIMEOUT; it is aborted"
            );
        }
        let closing = async {
            if let Some(sockets) = &self.parts.gateway_sockets {
                sockets.send_replace(SocketsEnd::Now);
            }
            if let Some(registry) = &self.parts.registry {
                let _ = registry.send(end_all(Duration::ZERO)).await;
            }
            join(
                join_all(self.parts.servers.iter().map(RunningServer::stop)),
                join_all(self.parts.grpc_servers.iter().map(RunningGrpc::stop)),
            )
            .await;
        };
        let closed = tokio::time::timeout(half, closing).await.is_ok();
        if !closed {
            warn!(
                "connections of clients did not end within {half:?}, half of SHUTDOWN_TIMEOUT; they are cut off"
            );
        }
        finished && closed
    }
}
