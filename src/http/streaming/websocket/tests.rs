mod authentication;

use actix_web::test::TestRequest;

use super::*;

fn check(origin: &str, allowed: &[&str]) -> bool {
    let request = TestRequest::default().insert_header(("Host", "odds.example:8080"));
    let request = request.insert_header(("Origin", origin)).to_http_request();
    let allowed: Vec<_> = allowed.iter().map(|origin| (*origin).to_owned()).collect();
    check_page(request.headers(), &allowed).is_ok()
}

#[test]
fn foreign_origin_must_be_allowed() {
    assert!(check("http://odds.example:8080", &[]));
    assert!(!check("http://evil.example", &[]));
    assert!(!check("http://odds.example", &[]));
    assert!(!check("null", &[]));
    assert!(check("https://shop.example", &["https://shop.example"]));
    assert!(check("null", &["*"]));
    assert!(check_page(TestRequest::default().to_http_request().headers(), &[]).is_ok());
}

#[test]
fn dropped_permit_is_returned() {
    let permits = Arc::new(Semaphore::new(1));
    let first = session_permit(&permits, 1);
    assert!(first.is_ok());
    assert!(matches!(
        session_permit(&permits, 1),
        Err(ApiError::TooManySessions(1))
    ));
    drop(first);
    assert!(session_permit(&permits, 1).is_ok());
}
