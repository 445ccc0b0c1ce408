//! ETag, HEAD, compression, and cache headers.

use actix_http::encoding::Decoder;
use actix_http::error::PayloadError;
use actix_web::http::header::ContentEncoding;
use bytes::Bytes;
use futures_util::TryStreamExt;
use pretty_assertions::assert_eq;

use super::*;
use crate::support::metric;

async fn ask(url: &str, if_none_match: &str) -> Answer {
    Answer::of(
        reqwest::Client::new()
            .get(url)
            .header("If-None-Match", if_none_match),
    )
    .await
}

#[actix_web::test]
async fn unchanged_odds_are_answered_304() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    let url = fed.url("/v1/events/E/odds");
    let first = Answer::get(&url).await;
    let tag = first.header("etag").unwrap().to_owned();
    let strong = tag.strip_prefix("W/").unwrap_or(&tag).to_owned();
    for known in [
        tag.clone(),
        strong,
        format!("\"other\", {tag}"),
        "*".to_owned(),
    ] {
        let answer = ask(&url, &known).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{known}");
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
    }
    for unknown in ["\"other\"", "W/\"other\", \"more\"", "garbage"] {
        assert_eq!(ask(&url, unknown).await.status, 200, "{unknown}");
    }
    // Each of the two threads queries the book once, and once more if the book receives its change
    // both from the store and from the bus. Nothing changes after that, and every response comes
    // from the response cache.
    until("responses from the cache", || async {
        assert_eq!(ask(&url, &tag).await.status, 304);
        let page = fed.platform.metrics(Role::Odds).await;
        metric(&page, "odds_http_ready_answers_total").filter(|ready| *ready >= 6.0)
    })
    .await;
    fed.send("E", [2]).await;
    let changed = until("the change", || async {
        let answer = ask(&url, &tag).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(changed.json()[0]["version"], 2);
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
}

#[actix_web::test]
async fn unknown_event_is_never_304() {
    let fed = Fed::start(&[]).await;
    assert_eq!(ask(&fed.url("/v1/events/E/odds"), "*").await.status, 404);
}

#[actix_web::test]
async fn head_equals_get_without_body() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    for path in [
        "/v1/events",
        "/v1/events/E/markets",
        "/v1/events/E/odds",
        "/v1/events/E/markets/1x2/history",
        "/v1/events/none/odds",
    ] {
        let get = Answer::get(&fed.url(path)).await;
        let head = Answer::of(reqwest::Client::new().head(fed.url(path))).await;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        for header in ["content-type", "content-length", "cache-control", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{path}: {header}");
        }
    }
}

#[actix_web::test]
async fn gzip_on_request_has_same_content() {
    let mut fed = Fed::start(&[]).await;
    for place in 0..50 {
        fed.send(&format!("EVENT_{place:03}"), [1]).await;
    }
    fed.stored(50).await;
    let url = fed.url("/v1/events");
    let plain = Answer::get(&url).await;
    assert_eq!(plain.header("content-encoding"), None);
    let packed = Answer::of(
        reqwest::Client::new()
            .get(&url)
            .header("Accept-Encoding", "br;q=0.1, gzip"),
    )
    .await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(
        packed.header("vary").unwrap().to_ascii_lowercase(),
        "accept-encoding"
    );
    assert!(packed.body.len() < plain.body.len() / 2);
    let stream = futures_util::stream::iter([Ok::<_, PayloadError>(Bytes::from(packed.0.body))]);
    let unpacked: Vec<Bytes> = Decoder::new(stream, ContentEncoding::Gzip)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(unpacked.concat(), plain.body);
}

#[actix_web::test]
async fn every_response_has_cache_headers() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    for (path, cache) in [
        ("/v1/events", "no-cache"),
        ("/v1/events/E/markets", "no-cache"),
        ("/v1/events/E/odds", "no-cache"),
        ("/v1/events/E/markets/1x2/history", "no-cache"),
        ("/v1/events/none/odds", "no-store"),
        ("/v1/events?limit=0", "no-store"),
        ("/v1/nothing", "no-store"),
        ("/nothing", "no-store"),
        ("/ws/odds", "no-store"),
        ("/v1/events/%zz/odds", "no-store"),
    ] {
        assert_eq!(
            Answer::get(&fed.url(path)).await.header("cache-control"),
            Some(cache),
            "{path}"
        );
    }
    for role in [Role::Ingest, Role::Processor, Role::Odds] {
        for path in ["healthz", "livez", "metrics", "nothing"] {
            let answer = Answer::get(&format!("http://{}/{path}", fed.platform.health(role))).await;
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        }
    }
}
