//! Why the server ends connections, and its final response.

/// Why the server ended a connection. The label `reason` of `http_connections_ended_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The head of a request did not arrive in time.
    Head,
    /// The head of a request is too large.
    HeadTooLarge,
    /// The body of a request did not arrive in time.
    Body,
    /// No further request arrived.
    Idle,
    /// The client accepts none of the written bytes.
    Write,
    /// It was closed to make room for others.
    Crowded,
    /// Its address has too many connections.
    Address,
}

impl Ended {
    /// Every reason.
    pub const ALL: [Ended; 7] = [
        Ended::Head,
        Ended::HeadTooLarge,
        Ended::Body,
        Ended::Idle,
        Ended::Write,
        Ended::Crowded,
        Ended::Address,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Ended::Head => "head_timeout",
            Ended::HeadTooLarge => "head_too_large",
            Ended::Body => "body_timeout",
            Ended::Idle => "idle",
            Ended::Write => "write_timeout",
            Ended::Crowded => "crowded",
            Ended::Address => "address_limit",
        }
    }

    /// The response to the client, if it waits for one.
    pub(super) fn response(self) -> Option<String> {
        let (status, code, message) = match self {
            Ended::Head => (
                "408 Request Timeout",
                "REQUEST_TIMEOUT",
                "the request's head did not arrive in time",
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
            Ended::Idle | Ended::Write | Ended::Crowded => return None,
        };
        let body = format!("{{\"code\":\"{code}\",\"message\":\"{message}\"}}");
        Some(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n\
             retry-after: 1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}
