//! Completes each response before it is sent: headers, CORS, and the form of errors.

use actix_http::{ConnectionType, Request, Response};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::{Error, HttpResponse};

use super::cors::Sharing;
use super::error_response::{problem_response, wants_problem};
use super::errors::ApiError;
use super::headers;

/// What the response to a request depends on. Read before the request is handled, since a refused
/// one leaves only an error behind.
pub(super) struct Completion {
    sharing: Sharing,
    /// Whether browsers have to use TLS for this host name from now on.
    requires_tls: bool,
    wants_problem: bool,
    /// Whether the client has to send its next request on another connection, perhaps to another
    /// process.
    ends_connection: bool,
}

impl Completion {
    /// For the response to this request on a port with TLS or without; pages of the `allowed` origins
    /// may read it.
    pub(super) fn of(request: &Request, allowed: &[String], is_tls: bool) -> Completion {
        Completion {
            ends_connection: false,
            requires_tls: is_tls && !headers::is_localhost(&request.head().headers),
            sharing: Sharing::of(&request.head().headers, allowed),
            wants_problem: wants_problem(&request.head().headers),
        }
    }

    /// Ends the connection after the response if the process is stopping.
    pub(super) fn ending_connection(mut self, is_stopping: bool) -> Completion {
        self.ends_connection = is_stopping;
        self
    }

    /// The response that is sent.
    pub(super) fn complete<B: MessageBody + 'static>(
        self,
        answer: Result<ServiceResponse<B>, Error>,
    ) -> Response<BoxBody> {
        let (request, response) = match answer {
            Ok(answer) => {
                let (request, response) = answer.into_parts();
                (Some(request), response.map_into_boxed_body())
            }
            Err(error) => (None, HttpResponse::from_error(error)),
        };
        let error = response
            .error()
            .and_then(|error| error.as_error::<ApiError>());
        let mut response = match error.filter(|_| self.wants_problem) {
            Some(error) => problem_response(error),
            None => response,
        };
        let request_headers = request.as_ref().map(|request| request.headers());
        headers::complete(response.headers_mut(), request_headers);
        if self.requires_tls {
            headers::require_tls(response.headers_mut());
        }
        self.sharing.add_to(response.headers_mut());
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if self.ends_connection && !is_upgrade {
            let head = response.head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        response.into()
    }
}
