//! Request latency by route template, method and status class.

use std::cell::OnceCell;
use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use prometheus::{Histogram, HistogramVec};

/// The label of a request that matches no route, or is refused before routing.
pub(crate) const OTHER: &str = "other";
/// Status classes by the first digit of a status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The status classes whose series exist from the start.
const EXPECTED: [&str; 3] = ["2xx", "4xx", "5xx"];

/// The template and the method of a route, as label values.
pub(crate) type RouteLabels = (&'static str, &'static str);

/// The label values that exist from the start, for the routes and for unmatched requests.
pub(crate) fn known(routes: &'static [RouteLabels]) -> impl Iterator<Item = [&'static str; 3]> {
    let all = routes.iter().copied().chain([(OTHER, "GET")]);
    all.flat_map(|(route, method)| EXPECTED.map(|status| [route, method, status]))
}

/// The histograms of one route on one server thread. Attached to the resource as its data, so that
/// the hot path neither matches the path again nor looks up labels.
pub(crate) struct Route {
    template: &'static str,
    method: &'static str,
    classes: [OnceCell<Histogram>; CLASSES.len()],
}

impl Route {
    /// The data of the resource with this template. Requests with `method` are the frequent ones.
    pub(crate) fn new(template: &'static str, method: &'static str) -> Route {
        Route {
            template,
            method,
            classes: Default::default(),
        }
    }
}

/// Shared state that holds the latency histogram of its server.
pub(crate) trait Timed: 'static {
    /// The histogram, with the labels route, method and status.
    fn request_seconds(&self) -> &HistogramVec;
}

/// A request in progress.
pub(crate) struct Timer {
    started: Instant,
    method: &'static str,
}

impl Timer {
    /// Starts when the head of a request has been read.
    pub(crate) fn start(request: &ServiceRequest) -> Timer {
        Timer {
            started: Instant::now(),
            method: label_of(request.method()),
        }
    }

    /// Records the time to the head of the response.
    pub(crate) fn stop<B>(
        self,
        histograms: &HistogramVec,
        answer: &Result<ServiceResponse<B>, Error>,
    ) {
        let seconds = self.started.elapsed().as_secs_f64();
        let class = class_of(status_of(answer));
        let route = answer
            .as_ref()
            .ok()
            .and_then(|response| response.request().app_data::<Route>());
        let other =
            |template| histograms.with_label_values(&[template, self.method, CLASSES[class]]);
        match route {
            Some(route) if route.method == self.method => route.classes[class]
                .get_or_init(|| other(route.template))
                .observe(seconds),
            Some(route) => other(route.template).observe(seconds),
            None => other(OTHER).observe(seconds),
        }
    }
}

impl Timer {
    /// Records the time to the head of the response under a template of the caller's.
    pub(crate) fn stop_as<B>(
        self,
        histograms: &HistogramVec,
        template: &str,
        answer: &Result<ServiceResponse<B>, Error>,
    ) {
        let status = CLASSES[class_of(status_of(answer))];
        histograms
            .with_label_values(&[template, self.method, status])
            .observe(self.started.elapsed().as_secs_f64());
    }
}

/// The status of an answer or of an error.
pub(crate) fn status_of<B>(answer: &Result<ServiceResponse<B>, Error>) -> StatusCode {
    match answer {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    }
}

/// Measures requests that no other middleware counts.
pub(crate) async fn time_requests<S: Timed>(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let state = request.app_data::<web::Data<S>>().cloned();
    let timer = Timer::start(&request);
    let answer = next.call(request).await;
    if let Some(state) = state {
        timer.stop(state.request_seconds(), &answer);
    }
    answer
}

/// Clients choose the method, so all others share a label.
fn label_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => OTHER,
    }
}

fn class_of(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_statuses_are_bounded() {
        let method = |text: &str| label_of(&text.parse().unwrap());
        assert_eq!(
            ["GET", "HEAD", "POST", "PUT", "INVENTED"].map(method),
            ["GET", "HEAD", "POST", OTHER, OTHER]
        );
        let class = |status| CLASSES[class_of(StatusCode::from_u16(status).unwrap())];
        assert_eq!(
            [101, 200, 304, 404, 503, 599, 999].map(class),
            ["1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx"]
        );
    }
}
