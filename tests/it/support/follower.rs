//! A client of the extended WebSocket protocol that follows one event.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::OddsClient;

/// What a client shows of one event, kept by the rules of the protocol.
#[derive(Clone, Default)]
pub struct Follower {
    /// The payload of each market.
    pub markets: BTreeMap<String, Value>,
    /// The client has every change up to this number.
    pub since: u64,
    /// The epoch of the number.
    pub epoch: Option<String>,
    seqs: BTreeMap<String, u64>,
}

impl Follower {
    /// Connects and subscribes, from what is known. Returns the connection and the snapshot.
    pub async fn resume(&mut self, address: SocketAddr, event: &str) -> (OddsClient, Value) {
        let mut client = OddsClient::connect(address).await;
        let mut subscribe = json!({"type": "subscribe", "eventId": event, "conflateMs": 0});
        if let Some(epoch) = &self.epoch {
            subscribe["since"] = self.since.into();
            subscribe["epoch"] = epoch.as_str().into();
        }
        client.send(subscribe.to_string()).await;
        let snapshot = client.next_of("snapshot").await;
        self.receive(&snapshot);
        (client, snapshot)
    }

    /// Applies a message.
    pub fn receive(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("snapshot") => {
                if message["recovered"] != true {
                    self.markets.clear();
                    self.seqs.clear();
                }
                for market in message["markets"].as_array().unwrap() {
                    self.apply(market);
                }
                self.since = message["seq"].as_u64().unwrap();
                self.epoch = message["epoch"].as_str().map(str::to_owned);
            }
            Some("update") => {
                self.apply(message);
                self.since = self.since.max(message["seq"].as_u64().unwrap());
                if message["resumable"] == false {
                    self.epoch = None;
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, change: &Value) {
        let payload = change["payload"].clone();
        let name = payload["market"].as_str().unwrap();
        let market = match payload.get("line") {
            Some(line) => format!("{name}@{line}"),
            None => name.to_owned(),
        };
        let seq = change["seq"].as_u64().unwrap();
        let known = self.seqs.insert(market.clone(), seq).unwrap_or(0);
        let is_restated = change.get("stale").is_some() && seq == known;
        assert!(
            seq > known || is_restated,
            "{known} is followed by {change}"
        );
        self.markets.insert(market, payload);
    }
}
