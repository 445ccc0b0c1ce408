use std::collections::{BTreeMap, BTreeSet};

use actix_web::body::MessageBody;
use actix_web::http::header::{self, HeaderValue};
use actix_web::introspection::IntrospectionTree;
use actix_web::test::{TestRequest, call_service, init_service, read_body, try_call_service};
use actix_web::{App, web};
use pretty_assertions::assert_eq;
use serde_json::Value;

use super::*;
use crate::access::{Access, AccessRules, testing};
use crate::http::latency::RouteLabels;
use crate::http::{bets, odds, wallet};

/// Registers routes.
type Configure = fn(&mut web::ServiceConfig);

/// The path and the method of a route.
type Route = (String, String);

/// The methods of OpenAPI.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Everything that public ports serve.
const SERVED: [Configure; 4] = [
    odds::routes::odds_routes,
    wallet::routes,
    bets::routes,
    routes,
];

fn openapi() -> Value {
    serde_norway::from_str(OPENAPI).unwrap()
}

/// The operations of the document, with the scopes that each requires.
fn documented() -> BTreeMap<Route, BTreeSet<String>> {
    let document = openapi();
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if METHODS.contains(&method.as_str()) {
                let route = (path.clone(), method.to_uppercase());
                operations.insert(route, scopes_of(operation));
            }
        }
    }
    operations
}

fn scopes_of(operation: &Value) -> BTreeSet<String> {
    let alternatives = operation["security"].as_array().unwrap();
    let schemes = alternatives.iter().flat_map(|all| all.as_object().unwrap());
    let scopes = schemes.flat_map(|(_, scopes)| scopes.as_array().unwrap());
    scopes
        .map(|scope| scope.as_str().unwrap().to_owned())
        .collect()
}

/// The routes that the router has.
async fn routes_of(configure: Configure) -> BTreeSet<Route> {
    const OWN: &str = "/introspection";
    let report = |tree: web::Data<IntrospectionTree>| ready(tree.report_as_json());
    let app = App::new()
        .route(OWN, web::get().to(report))
        .configure(configure);
    let app = init_service(app).await;
    let answer = call_service(&app, TestRequest::get().uri(OWN).to_request()).await;
    let report: Value = serde_json::from_slice(&read_body(answer).await).unwrap();
    let mut routes = BTreeSet::new();
    for item in report.as_array().unwrap() {
        let path = item["full_path"].as_str().unwrap();
        for method in item["methods"].as_array().unwrap() {
            if path != OWN {
                routes.insert((path.to_owned(), method.as_str().unwrap().to_owned()));
            }
        }
    }
    routes
}

async fn all_routes() -> BTreeSet<Route> {
    let mut all = BTreeSet::new();
    for configure in SERVED {
        all.append(&mut routes_of(configure).await);
    }
    all
}

/// Every route is an operation of the document, and every operation a route. The document says in one
/// sentence that `GET` also answers `HEAD`.
#[actix_web::test]
async fn routes_are_those_of_the_document() {
    let (heads, routes): (BTreeSet<Route>, BTreeSet<Route>) = all_routes()
        .await
        .into_iter()
        .partition(|(_, method)| method == "HEAD");
    assert_eq!(routes, documented().into_keys().collect());
    let readable = routes
        .into_iter()
        .filter(|(path, method)| method == "GET" && path != "/ws/odds")
        .map(|(path, _)| (path, "HEAD".to_owned()));
    assert_eq!(heads, readable.collect());
}

/// A caller without rights is told by each route which scope it lacks.
#[actix_web::test]
async fn scopes_are_those_of_the_document() {
    let access = Access::required(AccessRules {
        odds_public: false,
        ..testing::rules(Default::default())
    });
    let credential = format!("Bearer {}", testing::token("u", &[]));
    let mut scopes = BTreeMap::new();
    for configure in SERVED {
        let app = App::new().app_data(web::Data::new(access.clone()));
        let app = init_service(app.configure(configure)).await;
        for (path, method) in routes_of(configure).await {
            let request = TestRequest::with_uri(&path.replace(['{', '}'], "x"))
                .method(method.parse().unwrap())
                .insert_header((header::AUTHORIZATION, credential.as_str()));
            let answer = match try_call_service(&app, request.to_request()).await {
                Ok(answer) => read_body(answer).await,
                Err(error) => error.error_response().into_body().try_into_bytes().unwrap(),
            };
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let message = answer["message"].as_str().unwrap_or_default();
            // the scope `odds:read` is required
            let scope = message
                .split('`')
                .nth(1)
                .filter(|_| answer["code"] == "SCOPE_REQUIRED");
            let scope = scope
                .map(str::to_owned)
                .into_iter()
                .collect::<BTreeSet<_>>();
            if method != "HEAD" {
                scopes.insert((path, method), scope);
            }
        }
    }
    assert_eq!(scopes, documented());
}

/// The labels of latencies are the routes.
#[actix_web::test]
async fn measured_routes_are_routes() {
    let roles: [(Configure, &[RouteLabels]); 3] = [
        (odds::routes::odds_routes, odds::routes::ROUTES),
        (wallet::routes, wallet::ROUTES),
        (bets::routes, bets::ROUTES),
    ];
    for (configure, measured) in roles {
        let mut routes = routes_of(configure).await;
        routes.retain(|(_, method)| method != "HEAD");
        let measured = measured
            .iter()
            .map(|(path, method)| ((*path).to_owned(), (*method).to_owned()));
        assert_eq!(routes, measured.collect());
    }
}

#[actix_web::test]
async fn document_is_served_until_it_changes() {
    let app = init_service(App::new().configure(routes)).await;
    for (path, text) in [("/openapi.yaml", OPENAPI), ("/asyncapi.yaml", ASYNCAPI)] {
        let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
        let yaml = HeaderValue::from_static("application/yaml");
        let no_cache = HeaderValue::from_static("no-cache");
        let headers = answer.headers();
        assert_eq!(headers.get(header::CONTENT_TYPE), Some(&yaml));
        assert_eq!(headers.get(header::CACHE_CONTROL), Some(&no_cache));
        let tag = headers.get(header::ETAG).unwrap().clone();
        assert_eq!(read_body(answer).await, text);
        let again = TestRequest::get().uri(path);
        let again = again.insert_header((header::IF_NONE_MATCH, tag.clone()));
        let answer = call_service(&app, again.to_request()).await;
        let known = answer.headers().get(header::ETAG);
        assert_eq!((answer.status().as_u16(), known), (304, Some(&tag)));
        assert!(read_body(answer).await.is_empty());
        let other = TestRequest::get().uri(path);
        let other = other.insert_header((header::IF_NONE_MATCH, "\"other\""));
        assert_eq!(call_service(&app, other.to_request()).await.status(), 200);
    }
}
