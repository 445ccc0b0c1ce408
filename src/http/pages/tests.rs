use std::collections::BTreeSet;
use std::path::Path;

use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, dev::ServiceResponse};

use super::*;

async fn answer_to(request: TestRequest) -> ServiceResponse {
    let app = init_service(App::new().configure(pages)).await;
    call_service(&app, request.to_request())
        .await
        .map_into_boxed_body()
}

async fn get(path: &str) -> ServiceResponse {
    answer_to(
        TestRequest::get()
            .uri(path)
            .insert_header((header::HOST, "odds.example:8000")),
    )
    .await
}

fn header_of(response: &ServiceResponse, name: header::HeaderName) -> &str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[test]
fn table_has_every_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/board");
    let files: BTreeSet<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| format!("/{}", file.unwrap().file_name().to_str().unwrap()))
        .collect();
    let listed = ASSETS.iter().chain([&INDEX]);
    let listed: BTreeSet<_> = listed.map(|asset| asset.path.to_owned()).collect();
    assert_eq!(files, listed);
}

/// Texts of suppliers and users are shown, so nothing may turn text into markup or code.
#[test]
fn page_makes_no_markup_of_text() {
    let forbidden = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "setHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "eval(",
        "new Function",
        "parseFloat",
        "style=",
        "javascript:",
        "<script>",
        "<style",
        "onclick=",
        "localStorage",
    ];
    for asset in ASSETS.iter().chain([&INDEX]) {
        let text = std::str::from_utf8(asset.body).unwrap();
        for word in forbidden {
            assert!(!text.contains(word), "{} has `{word}`", asset.path);
        }
    }
}

#[actix_web::test]
async fn every_file_is_served_with_its_type() {
    for asset in ASSETS {
        let response = get(&format!("/board{}", asset.path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
        assert_eq!(
            header_of(&response, header::CONTENT_TYPE),
            asset.content_type
        );
        assert_eq!(read_body(response).await, asset.body);
    }
}

#[actix_web::test]
async fn page_is_served() {
    let response = get("/board").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header_of(&response, header::CACHE_CONTROL), "no-cache");
    assert_eq!(read_body(response).await, INDEX.body);
}

#[actix_web::test]
async fn known_file_is_not_sent_again() {
    let response = get("/board/main.js").await;
    let tag = header_of(&response, header::ETAG).to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    for (known, status) in [
        (tag.as_str(), StatusCode::NOT_MODIFIED),
        ("*", StatusCode::NOT_MODIFIED),
        ("W/\"other\"", StatusCode::OK),
    ] {
        let request = TestRequest::get()
            .uri("/board/main.js")
            .insert_header((header::IF_NONE_MATCH, known));
        let response = answer_to(request).await;
        assert_eq!(response.status(), status, "{known}");
        assert_eq!(header_of(&response, header::ETAG), tag);
    }
}

#[actix_web::test]
async fn other_paths_and_methods_are_refused() {
    let response = get("/board/").await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(header_of(&response, header::LOCATION), "../board");
    for path in [
        "/board/other.js",
        "/board/../Cargo.toml",
        "/board/index.html",
    ] {
        assert_eq!(get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let post = TestRequest::default().method(Method::POST).uri("/board");
    let response = answer_to(post).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header_of(&response, header::ALLOW), "GET, HEAD, OPTIONS");
    let head = TestRequest::default().method(Method::HEAD).uri("/board");
    assert_eq!(answer_to(head).await.status(), StatusCode::OK);
}
