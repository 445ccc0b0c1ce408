//! Why the server ends connections, and its final response.

use strum::{IntoStaticStr, VariantNames};

use crate::http::headers::DEFAULT_LINES;

/// Why the server ended a connection. The label `reason` of `http_connections_ended_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Ended {
    /// The TLS handshake was not completed in time.
    #[strum(to_string = "handshake_timeout")]
    Handshake,
    /// The TLS handshake failed.
    HandshakeFailed,
    /// The client does not speak TLS.
    PlainHttp,
    /// The client of a gRPC port has not begun HTTP/2 in time.
    #[strum(to_string = "preface_timeout")]
    Preface,
    /// The head of a request did not arrive in time.
    #[strum(to_string = "head_timeout")]
    Head,
    /// The head of a request is too large.
    HeadTooLarge,
    /// The body of a request did not arrive in time.
    #[strum(to_string = "body_timeout")]
    Body,
    /// No further request arrived.
    Idle,
    /// The client accepts none of the written bytes.
    #[strum(to_string = "write_timeout")]
    Write,
    /// It was closed to make room for others.
    Crowded,
    /// Its address has too many connections.
    #[strum(to_string = "address_limit")]
    Address,
}

impl Ended {
    /// The metric label.
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// The response to the client, if it waits for one.
    pub(super) fn response(self) -> Option<String> {
        let (status, code, message) = match self {
            Ended::Head => (
                "408 Request Timeout",
                "REQUEST_TIMEOUT",
                "the request's head did not arrive in time",
            ),
            Ended::PlainHttp => (
                "400 Bad Request",
                "TLS_REQUIRED",
                "this port accepts only TLS: use https:// or wss://",
            ),
            Ended::HeadTooLarge => (
                "431 Request Header Fields Too Large",
                "REQUEST_HEAD_TOO_LARGE",
                "the request's head is larger than 32 KiB",
            ),
            Ended::Body => (
                "408 Request Timeout",
                "REQUEST_TIMEOUT",
                "the request's body did not arrive in time",
            ),
            Ended::Address => (
                "429 Too Many Requests",
                "TOO_MANY_CONNECTIONS",
                "too many connections from this address",
            ),
            Ended::Handshake
            | Ended::HandshakeFailed
            | Ended::Preface
            | Ended::Idle
            | Ended::Write
            | Ended::Crowded => return None,
        };
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
        Some(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n\
             retry-after: 1\r\n{DEFAULT_LINES}content-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}
