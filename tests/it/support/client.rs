//! Clients of the odds port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use reqwest::header::HeaderMap;
use rustls::ClientConfig;
use serde_json::{Value, json};
use sports_bet_platform::runtime::tls::install_provider;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

use super::documents::{Received, check_close, check_frame};
use super::within;

/// A client of `/ws/odds`.
pub struct OddsClient {
    /// The socket, for tests of the protocol itself.
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The number of each market that it has received.
    shown: HashMap<String, u64>,
    /// Whether the last message repeats a market because its source became stale or live.
    is_repeated: bool,
}

impl OddsClient {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> OddsClient {
        OddsClient::connect_to(&format!("ws://{address}/ws/odds")).await
    }

    /// Connects to a URL.
    pub async fn connect_to(url: &str) -> OddsClient {
        let connecting = tokio_tungstenite::connect_async(url);
        let connected = within("a WebSocket connection", connecting).await;
        OddsClient::on(connected.unwrap().0)
    }

    /// Connects with a token or an API key. An error is the status of the refusal.
    pub async fn connect_as(address: SocketAddr, credential: &str) -> Result<OddsClient, u16> {
        let mut request = format!("ws://{address}/ws/odds")
            .into_client_request()
            .unwrap();
        let bearer = format!("Bearer {credential}").parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        let connecting = tokio_tungstenite::connect_async(request);
        match within("a WebSocket connection", connecting).await {
            Ok((socket, _)) => Ok(OddsClient::on(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects with TLS.
    pub async fn connect_tls(address: SocketAddr, tls: ClientConfig) -> OddsClient {
        let url = format!("wss://{address}/ws/odds");
        let connector = Connector::Rustls(Arc::new(tls));
        let connecting = connect_async_tls_with_config(url, None, true, Some(connector));
        let connected = within("a WebSocket connection", connecting).await;
        OddsClient::on(connected.unwrap().0)
    }

    fn on(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> OddsClient {
        OddsClient {
            socket,
            shown: HashMap::new(),
            is_repeated: false,
        }
    }

    /// Sends a text.
    pub async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    /// Sends `subscribe`.
    pub async fn subscribe(&mut self, event: &str) {
        self.send(json!({"type": "subscribe", "eventId": event}).to_string())
            .await;
    }

    /// The next message of the server that is not a control frame.
    pub async fn next(&mut self) -> Value {
        match self.next_or_close().await {
            Ok(message) => message,
            Err(close) => panic!("closed instead of a message: {close:?}"),
        }
    }

    /// The next message of this type; others are skipped.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The next `update` that is not a repeated market.
    pub async fn next_change(&mut self) -> Value {
        loop {
            let update = self.next_of("update").await;
            if !self.is_repeated {
                return update;
            }
        }
    }

    /// Whether the last message repeats a market because its source became stale or live.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    fn record(&mut self, message: &Value) {
        let key = |market: &Value| {
            let [event, name, line] = [&message["eventId"], &market["market"], &market["line"]];
            format!("{event} {name} {line}")
        };
        let nothing = Vec::new();
        for market in message["markets"].as_array().unwrap_or(&nothing) {
            let seq = market["seq"].as_u64().unwrap_or(0);
            self.shown.insert(key(&market["payload"]), seq);
        }
        self.is_repeated = false;
        if message["type"] == "update" {
            let seq = message["seq"].as_u64().unwrap_or(0);
            let earlier = self.shown.insert(key(&message["payload"]), seq);
            self.is_repeated = !message["stale"].is_null() && earlier == Some(seq);
        }
    }

    /// The next message, or the close frame (`None` if the connection broke off).
    pub async fn next_or_close(&mut self) -> Result<Value, Option<CloseFrame>> {
        // One deadline for all of it: the server's pings must not extend it.
        let received = within("a message of the server", async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(&text).unwrap();
                        check_frame(&message);
                        return Ok(message);
                    }
                    Some(Ok(Message::Close(frame))) => {
                        frame.iter().for_each(check_close);
                        return Err(frame);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(None),
                }
            }
        })
        .await;
        if let Ok(message) = &received {
            self.record(message);
        }
        received
    }

    /// Reads until the socket is closed; returns the close code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.next_or_close().await {
                Ok(_) => {}
                Err(Some(frame)) => return frame.code.into(),
                Err(None) => panic!("the socket broke off without a close frame"),
            }
        }
    }
}

/// A response, which `openapi.yaml` documents.
pub struct HttpAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The body, which must be UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// Sends a request, and holds the response against `openapi.yaml`.
pub async fn send(request: reqwest::RequestBuilder) -> HttpAnswer {
    within("an answer", try_send(request)).await.unwrap()
}

/// Like [`send`], for servers that may be away.
pub async fn try_send(request: reqwest::RequestBuilder) -> reqwest::Result<HttpAnswer> {
    install_provider();
    let (client, request) = request.build_split();
    let request = request?;
    let (method, url) = (request.method().clone(), request.url().clone());
    let answer = client.execute(request).await?;
    let answer = HttpAnswer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        // A WebSocket has no body.
        body: match answer.status().as_u16() {
            101 => Vec::new(),
            _ => answer.bytes().await?.to_vec(),
        },
    };
    let received = Received {
        method: method.as_str(),
        path: url.path(),
        status: answer.status,
        headers: &answer.headers,
        body: &answer.body,
    };
    received.check();
    Ok(answer)
}

/// Status and body of a GET.
pub async fn get_text(url: &str) -> (u16, String) {
    install_provider();
    let answer = send(reqwest::Client::new().get(url)).await;
    (answer.status, answer.text().to_owned())
}

/// Status and JSON body of a GET.
pub async fn get_json(url: &str) -> (u16, Value) {
    let (status, text) = get_text(url).await;
    (
        status,
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{url} returned no JSON ({error}): {text}")),
    )
}
