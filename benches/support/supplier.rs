//! A native supplier, driven by the bench.

use std::net::{TcpListener, TcpStream};

use sports_bet_platform::domain::timestamp::Timestamp;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::Outcome;

/// Listens for the feed.
pub struct Supplier {
    listener: TcpListener,
}

impl Supplier {
    /// Binds a free port.
    pub fn listen() -> Outcome<Supplier> {
        Ok(Supplier {
            listener: TcpListener::bind("127.0.0.1:0")?,
        })
    }

    /// The value for `SUPPLIER_URLS`.
    pub fn url(&self) -> Outcome<String> {
        Ok(format!("ws://{}/ws", self.listener.local_addr()?))
    }

    /// Waits for the feed to connect.
    pub fn accept(&self) -> Outcome<Feed> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nodelay(true)?;
        Ok(Feed {
            socket: tungstenite::accept(stream).map_err(|error| error.to_string())?,
        })
    }
}

/// A connection of the platform's feed.
pub struct Feed {
    socket: WebSocket<TcpStream>,
}

impl Feed {
    /// Sends frames in as few writes as possible.
    pub fn send(&mut self, frames: impl IntoIterator<Item = String>) -> Outcome<()> {
        for frame in frames {
            self.socket.write(Message::text(frame))?;
        }
        Ok(self.socket.flush()?)
    }
}

/// An update of a market with three selections in the supplier's format, about 400 bytes long.
pub fn update(event: &str, market: &str, version: u64, updated_at: Timestamp) -> String {
    let price = |base: u64| format!("{base}.{:02}0", version % 100);
    let home = price(1);
    let draw = price(3);
    let away = price(4);
    format!(
        r#"{{"event_id":"{event}","home_team":"Flamengo","away_team":"Palmeiras","market":"{market}","selections":[{{"id":"home","name":"Flamengo","price":2{home},"status":"active"}},{{"id":"draw","name":"Draw","price":{draw},"status":"active"}},{{"id":"away","name":"Palmeiras","price":{away},"status":"active"}}],"status":"open","updated_at":"{updated_at}","source":"bench","version":{version}}}"#
    )
}
