//! `GET /` of a public port: what is there, as one line of JSON, or as a page for browsers.

use std::future::ready;

use actix_web::http::header::{self, Accept, CacheControl, CacheDirective};
use actix_web::{HttpResponse, Resource, web};
use serde::Serialize;

use super::documents;
use super::latency::{Route, RouteLabels};
use super::routes::open_resource;

/// The labels of the latency of `GET /`.
pub(super) const ROUTE: RouteLabels = ("/", "GET");

/// The page loads nothing.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Something that a port serves.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Link {
    /// What it is.
    pub rel: &'static str,
    /// Where it is, relative to `/`, so that it is also right behind a prefix.
    pub href: &'static str,
}

impl Link {
    pub(super) const fn new(rel: &'static str, href: &'static str) -> Link {
        Link { rel, href }
    }
}

#[derive(Serialize)]
struct Index<'a> {
    service: &'a str,
    version: &'a str,
    links: &'a [Link],
}

/// The resource `/` of the public port of a role. Every public port has the documents.
pub(super) fn index(service: &'static str, links: Vec<Link>) -> Resource {
    let documents = documents::LINKS.iter().copied();
    let links: Vec<Link> = links.into_iter().chain(documents).collect();
    let answer = move |accept: Option<web::Header<Accept>>| {
        let index = Index {
            service,
            version: env!("CARGO_PKG_VERSION"),
            links: &links,
        };
        let is_page = accept.is_some_and(|accept| prefers_html(&accept));
        ready(index.answer(is_page))
    };
    let (path, method) = ROUTE;
    open_resource(path, answer).app_data(Route::new(path, method))
}

impl Index<'_> {
    fn answer(&self, is_page: bool) -> HttpResponse {
        let mut answer = HttpResponse::Ok();
        answer
            .insert_header((header::VARY, "accept"))
            .insert_header(CacheControl(vec![CacheDirective::NoCache]));
        if is_page {
            answer
                .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
                .content_type(header::ContentType::html())
                .body(self.page())
        } else {
            answer.json(self)
        }
    }

    /// All texts are constants of the program, so nothing needs escaping.
    fn page(&self) -> String {
        let links: Vec<String> = self
            .links
            .iter()
            .map(|Link { rel, href }| format!("<li>{rel}: <a href=\"{href}\">{href}</a></li>"))
            .collect();
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>sports-bet {service}</title>\
             <h1>sports-bet {service} {version}</h1><ul>{links}</ul></html>\n",
            service = self.service,
            version = self.version,
            links = links.concat(),
        )
    }
}

/// Whether the client names HTML before JSON and before anything. Programs name neither, or `*/*`.
fn prefers_html(accept: &Accept) -> bool {
    let first = accept.ranked().into_iter().next();
    first.is_some_and(|first| first.essence_str() == "text/html")
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use pretty_assertions::assert_eq;

    use super::*;

    async fn get(accept: Option<&str>) -> (String, String) {
        let links = vec![Link::new("events", "v1/events")];
        let app = init_service(App::new().service(index("odds", links))).await;
        let mut request = TestRequest::get().uri("/");
        if let Some(accept) = accept {
            request = request.insert_header((header::ACCEPT, accept));
        }
        let answer = call_service(&app, request.to_request()).await;
        let kind = answer.headers().get(header::CONTENT_TYPE).unwrap();
        let kind = kind.to_str().unwrap().to_owned();
        let body = read_body(answer).await;
        (kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[actix_web::test]
    async fn index_is_json_unless_html_is_preferred() {
        let json = format!(
            r#"{{"service":"odds","version":"{}","links":[{{"rel":"events","href":"v1/events"}},{{"rel":"openapi","href":"openapi.yaml"}},{{"rel":"asyncapi","href":"asyncapi.yaml"}},{{"rel":"swagger","href":"swagger/"}}]}}"#,
            env!("CARGO_PKG_VERSION")
        );
        for accept in [
            None,
            Some("*/*"),
            Some("application/json"),
            Some("text/html;q=0.5, application/json"),
            Some("rubbish"),
            Some(""),
        ] {
            assert_eq!(
                get(accept).await,
                ("application/json".to_owned(), json.clone()),
                "{accept:?}"
            );
        }
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let (kind, page) = get(Some(browser)).await;
        assert_eq!(kind, "text/html; charset=utf-8");
        assert!(page.contains(r#"<a href="v1/events">"#), "{page}");
    }
}
