//! Pages of other origins: which of them may read responses, and ask to send requests.

use pretty_assertions::assert_eq;
use reqwest::Method;
use rstest::rstest;

use super::*;

const SHOP: &str = "https://shop.example";

fn preflight(url: &str, origin: &str) -> reqwest::RequestBuilder {
    reqwest::Client::new()
        .request(Method::OPTIONS, url)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type",
        )
}

async fn every_role(variables: &[(&str, &str)]) -> TestPlatform {
    TestPlatform::start(&[&[("SIMULATOR_EVENTS", "1")], variables].concat()).await
}

#[actix_web::test]
async fn preflights_of_listed_origins_are_answered() {
    let platform = every_role(&[("ALLOWED_ORIGINS", SHOP)]).await;
    for (address, path) in [
        (platform.odds(), "/v1/events"),
        (platform.odds(), "/v1/events/E/odds"),
        (platform.wallet(), "/wallet/deposit"),
        (platform.bets(), "/bets"),
        (platform.simulator(), "/supplier/confirm"),
    ] {
        let url = format!("http://{address}{path}");
        let answer = Answer::of(preflight(&url, SHOP)).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        for (name, value) in [
            ("access-control-allow-origin", Some(SHOP)),
            ("access-control-allow-methods", Some("GET, HEAD, POST")),
            ("access-control-max-age", Some("600")),
            ("access-control-allow-credentials", None),
            ("vary", Some("Origin")),
        ] {
            assert_eq!(answer.header(name), value, "{path}: {name}");
        }
        let headers = answer.header("access-control-allow-headers").unwrap();
        for name in [
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "X-Api-Key",
        ] {
            assert!(headers.contains(name), "{headers}");
        }
    }
    platform.stop().await;
}

#[rstest]
#[case::foreign("https://evil.example")]
#[case::null("null")]
#[case::other_scheme("http://shop.example")]
#[case::other_port("https://shop.example:8443")]
#[case::longer("https://shop.example.evil.example")]
#[case::other_ipv6("http://[2001:db8::2]:8080")]
#[case::ipv6_without_port("http://[2001:db8::1]")]
#[actix_web::test]
async fn preflights_of_other_origins_are_refused(#[case] origin: &str) {
    let allowed = format!("{SHOP},http://[2001:db8::1]:8080");
    let fed = Fed::start(&[("ALLOWED_ORIGINS", &allowed)]).await;
    let answer = Answer::of(preflight(&fed.url("/v1/events"), origin)).await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (403, Some("ORIGIN_NOT_ALLOWED"))
    );
    assert_eq!(answer.header("access-control-allow-origin"), None);
    fed.platform
        .until_metric(
            Role::Odds,
            "odds_http_refused_total{code=\"ORIGIN_NOT_ALLOWED\"}",
            |count| count == 1.0,
        )
        .await;
    // Its reads are answered, but no page can see the answer.
    let request = reqwest::Client::new().get(fed.url("/v1/events"));
    let answer = Answer::of(request.header("Origin", origin)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), Some("Origin"));
}

#[rstest]
#[case::exact(SHOP)]
#[case::upper_case("HTTPS://Shop.Example")]
#[case::default_port("https://shop.example:443")]
#[case::ipv6("http://[2001:db8::1]:8080")]
#[case::ipv6_written_out("http://[2001:DB8:0::1]:8080")]
#[actix_web::test]
async fn listed_origins_read_every_response(#[case] origin: &str) {
    let allowed = format!("{SHOP},http://[2001:db8::1]:8080");
    let fed = Fed::start(&[("ALLOWED_ORIGINS", &allowed)]).await;
    for (path, status) in [
        ("/v1/events", 200),
        ("/v1/events/E/odds", 404),
        ("/none", 404),
    ] {
        let request = reqwest::Client::new().get(fed.url(path));
        let answer = Answer::of(request.header("Origin", origin)).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("Retry-After"), "{exposed}");
    }
}

#[actix_web::test]
async fn no_origin_is_allowed_by_default() {
    let fed = Fed::start(&[]).await;
    let refused = Answer::of(preflight(&fed.url("/v1/events"), SHOP)).await;
    assert_eq!(refused.status, 403);
    let request = reqwest::Client::new().get(fed.url("/v1/events"));
    let answer = Answer::of(request.header("Origin", SHOP)).await;
    assert_eq!(answer.status, 200);
    for name in [
        "access-control-allow-origin",
        "access-control-expose-headers",
        "vary",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

/// The cache of a browser must not show one origin what another one may see.
#[actix_web::test]
async fn compressed_responses_also_vary_by_origin() {
    let fed = Fed::start(&[("ALLOWED_ORIGINS", SHOP)]).await;
    let request = reqwest::Client::new().get(fed.url("/v1/events"));
    let request = request.header("Accept-Encoding", "gzip");
    let answer = Answer::of(request.header("Origin", SHOP)).await;
    let varies: Vec<_> = answer
        .headers
        .get_all("vary")
        .iter()
        .map(|value| value.to_str().unwrap().to_ascii_lowercase())
        .collect();
    assert!(varies.contains(&"origin".to_owned()), "{varies:?}");
}
