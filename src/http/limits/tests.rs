use actix_web::http::header::HeaderValue;
use actix_web::test::TestRequest;
use pretty_assertions::assert_eq;

use super::*;
use crate::domain::access::Scopes;
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;

/// Far fewer than the number of requests that each test sends, and no refill while it runs.
const THREE: RequestRate = RequestRate {
    per_second: 1,
    burst: 3,
};
const NONE: RequestRate = RequestRate {
    per_second: 0,
    burst: 0,
};

fn limits(rule: RateRule) -> RequestLimits {
    let rules = RequestRules {
        address: rule,
        read: rule,
        write: rule,
        sockets: rule,
        open_sockets: AddressLimit::Set(2),
    };
    let proxies = ["10.0.0.0/8".parse().unwrap()];
    let addresses = Addresses::new(&proxies, AddressLimit::Set(0), AddressLimit::Set(0));
    let refused = RequestLimits::registered(&Registry::new(), "odds").unwrap();
    RequestLimits::new(&rules, addresses, refused)
}

fn address(text: &str) -> Option<Client> {
    Some(Client::Known(text.parse().unwrap()))
}

fn user(id: &str) -> Caller {
    Caller::User {
        id: UserId::new(id).unwrap(),
        scopes: Scopes::default(),
        issued_at: Timestamp::now(),
        expires_at: Timestamp::now(),
    }
}

fn service(key: &str) -> Caller {
    Caller::Service {
        key: key.to_owned(),
        scopes: Scopes::default(),
        expires_at: None,
    }
}

/// What became of ten attempts with a bucket of three. Up to six are accepted if the test is slow.
#[derive(Debug, PartialEq)]
enum Bucket {
    Full,
    Used,
    Unlimited,
}

fn bucket(attempt: impl Fn() -> Result<(), ApiError>) -> Bucket {
    match (0..10).filter(|_| attempt().is_ok()).count() {
        0..3 => Bucket::Used,
        3..10 => Bucket::Full,
        _ => Bucket::Unlimited,
    }
}

#[test]
fn addresses_are_limited_separately() {
    let limits = limits(RateRule::Set(THREE));
    let of = |text| bucket(|| limits.admit_address(address(text)));
    for (client, expected) in [
        ("192.0.2.1", Bucket::Full),
        ("192.0.2.2", Bucket::Full),
        ("127.0.0.1", Bucket::Full),
        ("192.0.2.1", Bucket::Used),
        ("2001:db8::1", Bucket::Full),
        ("2001:db8::2", Bucket::Used),
        ("2001:db8:0:1::1", Bucket::Full),
    ] {
        assert_eq!(of(client), expected, "{client}");
    }
    let of_proxy = Some(Client::Proxy("10.1.2.3".parse().unwrap()));
    let of_proxy = || limits.admit_address(of_proxy);
    assert_eq!(bucket(of_proxy), Bucket::Unlimited);
    let inner = limits.0.unwrap();
    assert!(inner.refused.with_label_values(&["address"]).get() > 30);
    assert_eq!(inner.refused.with_label_values(&["read"]).get(), 0);
}

#[test]
fn loopback_is_exempt_from_default_rates() {
    let by_default = limits(RateRule::or(None, THREE));
    for loopback in ["127.0.0.1", "::1"] {
        let client = address(loopback);
        assert_eq!(
            bucket(|| by_default.admit_address(client)),
            Bucket::Unlimited
        );
        let read = || by_default.admit_request(&Method::GET, &user("u"), client);
        assert_eq!(bucket(read), Bucket::Unlimited);
    }
    let far = address("192.0.2.1");
    assert_eq!(bucket(|| by_default.admit_address(far)), Bucket::Full);
    for off in [
        limits(RateRule::or(Some(NONE), THREE)),
        RequestLimits::off(),
    ] {
        assert_eq!(bucket(|| off.admit_address(far)), Bucket::Unlimited);
    }
}

#[test]
fn callers_are_limited_by_class() {
    let limits = limits(RateRule::Set(THREE));
    let client = address("192.0.2.1");
    let requests =
        |method: Method, caller: &Caller| bucket(|| limits.admit_request(&method, caller, client));
    for caller in [user("u"), user("v"), service("u"), Caller::Anonymous] {
        assert_eq!(requests(Method::GET, &caller), Bucket::Full, "{caller:?}");
        assert_eq!(requests(Method::HEAD, &caller), Bucket::Used, "{caller:?}");
        assert_eq!(requests(Method::POST, &caller), Bucket::Full, "{caller:?}");
        let socket = || limits.admit_socket(&caller, client);
        assert_eq!(bucket(socket), Bucket::Full, "{caller:?}");
    }
    // Callers without an identity are their address; a user is the same everywhere.
    assert_eq!(requests(Method::GET, &Caller::Unchecked), Bucket::Used);
    let elsewhere = address("192.0.2.2");
    let read = |caller| bucket(|| limits.admit_request(&Method::GET, caller, elsewhere));
    assert_eq!(read(&Caller::Unchecked), Bucket::Full);
    assert_eq!(read(&user("u")), Bucket::Used);
}

#[test]
fn failed_authentication_counts_as_ten() {
    let limits = limits(RateRule::Set(RequestRate {
        per_second: 1,
        burst: 500,
    }));
    let client = address("192.0.2.1");
    for _ in 0..60 {
        limits.charge_failed_authentication(client);
        let _ = limits.admit_address(client);
    }
    let Err(ApiError::TooManyRequests(exceeded)) = limits.admit_address(client) else {
        panic!("more than 500 are taken");
    };
    assert!(exceeded.retry_after <= 60, "{exceeded}");
    assert!(limits.admit_address(address("192.0.2.2")).is_ok());
}

#[test]
fn open_sockets_are_limited_per_caller() {
    let limits = limits(RateRule::Set(NONE));
    let client = address("192.0.2.1");
    let caller = user("u");
    let held = [(); 2].map(|()| limits.take_socket(&caller, client).unwrap().unwrap());
    let TooMany(max) = limits.take_socket(&caller, client).unwrap_err();
    assert_eq!(max, 2);
    let other = user("v");
    assert!(limits.take_socket(&other, client).unwrap().is_some());
    let anonymous = limits.take_socket(&Caller::Anonymous, client);
    assert!(anonymous.unwrap().is_none());
    drop(held);
    assert!(limits.take_socket(&caller, client).unwrap().is_some());
}

#[test]
fn forwarded_clients_are_limited_themselves() {
    let limits = limits(RateRule::Set(THREE));
    let of = |peer: &str, client: &[u8]| {
        let request = TestRequest::default()
            .peer_addr(peer.parse().unwrap())
            .insert_header(("X-Forwarded-For", HeaderValue::from_bytes(client).unwrap()))
            .to_srv_request();
        bucket(|| limits.admit_address(limits.client(request.head())))
    };
    for (peer, client, expected) in [
        ("10.0.0.1:1", &b"192.0.2.1"[..], Bucket::Full),
        ("10.0.0.2:1", b"203.0.113.7, 192.0.2.1", Bucket::Used),
        ("10.0.0.2:1", b"\xff, 192.0.2.1", Bucket::Used),
        // Clients that a proxy does not identify count together.
        ("10.0.0.1:1", b"\xff", Bucket::Full),
        ("10.0.0.1:1", b"unknown", Bucket::Used),
        ("10.0.0.2:1", b"192.0.2.3, \xff", Bucket::Full),
        // Not a proxy: what it forwards does not count.
        ("192.0.2.9:1", b"192.0.2.7", Bucket::Full),
        ("192.0.2.9:1", b"192.0.2.8", Bucket::Used),
    ] {
        let shown = client.escape_ascii();
        assert_eq!(of(peer, client), expected, "{peer} {shown}");
    }
}
