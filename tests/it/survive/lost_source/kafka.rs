//! A Kafka that some processes reach through a network that can be cut.

use crate::support::{CuttableTcpProxy, PrivateEngine, free_port};

/// A Kafka that has a second way to it, through a network that can be cut.
pub struct TwoWayKafka {
    pub engine: PrivateEngine,
    pub network: CuttableTcpProxy,
}

impl TwoWayKafka {
    /// Starts it.
    pub async fn start() -> TwoWayKafka {
        let (second, controller) = (free_port(), free_port());
        let network = CuttableTcpProxy::to(&format!("127.0.0.1:{second}")).await;
        let address = network.address();
        let lines = [
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{{port}},SECOND://127.0.0.1:{second},CONTROLLER://127.0.0.1:{controller}"
            ),
            format!(
                "advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECOND://{address}"
            ),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT,CONTROLLER:PLAINTEXT"
                .to_owned(),
        ];
        let engine = PrivateEngine::configured("kafka", &lines.join("\n")).await;
        TwoWayKafka { engine, network }
    }

    /// The address of the second way.
    pub fn second(&self) -> String {
        self.network.address().to_string()
    }
}
