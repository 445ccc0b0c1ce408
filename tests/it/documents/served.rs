//! Every public port serves the documents.

use pretty_assertions::assert_eq;
use sports_bet_platform::http::documents::{ASYNCAPI, OPENAPI};

use crate::support::{TestPlatform, send};

#[actix_web::test]
async fn every_public_port_serves_the_documents() {
    let platform = TestPlatform::start(&[]).await;
    let client = reqwest::Client::new();
    for address in [platform.odds(), platform.wallet(), platform.bets()] {
        for (path, text) in [("openapi.yaml", OPENAPI), ("asyncapi.yaml", ASYNCAPI)] {
            let url = format!("http://{address}/{path}");
            let answer = send(client.get(&url)).await;
            assert_eq!((answer.status, answer.text()), (200, text), "{url}");
            let tag = answer.headers["etag"].clone();
            let head = send(client.head(&url)).await;
            assert_eq!((head.status, head.text()), (200, ""), "{url}");
            assert_eq!(
                head.headers["content-length"],
                text.len().to_string().as_str()
            );
            let again = send(client.get(&url).header("If-None-Match", tag)).await;
            assert_eq!((again.status, again.text()), (304, ""), "{url}");
            let refused = send(client.post(&url)).await;
            assert_eq!(refused.status, 405, "{url}");
            let allowed = refused.headers["allow"].to_str().unwrap();
            assert!(allowed.starts_with("GET, HEAD"), "{url}: {allowed}");
        }
    }
    platform.stop().await;
}
