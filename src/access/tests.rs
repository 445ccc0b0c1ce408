use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::key_set::{BadKeySet, KeySet, TokenAlgorithm};
use super::key_source::KeySource;
use super::signing::SigningKey;
use super::testing::{SECRET, api_key, rules};
use super::*;
use crate::domain::access::{Scope, Scopes};
use crate::domain::ids::UserId;
use crate::store::access::{AccessRecords, KeyStep, StoredApiKey};

const NOW: i64 = 1_760_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000).unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Claims that are accepted.
fn claims() -> Value {
    json!({"sub": "u1", "scope": "bets:read bets:write", "iat": NOW, "exp": NOW + 60})
}

/// The same with some changed; null removes one.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

fn secret_key() -> SigningKey {
    SigningKey::of_secret(&SECRET.into()).unwrap()
}

fn signed(claims: &Value) -> String {
    secret_key().sign_json(claims).unwrap()
}

/// A token with any header, signed with the shared secret.
fn with_header(header: &Value, claims: &Value) -> String {
    let message = format!(
        "{}.{}",
        base64(header.to_string()),
        base64(claims.to_string())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", base64(signature))
}

fn check(rules: &AccessRules, credential: &str) -> Result<Caller, InvalidCredential> {
    rules.authenticate(Some(credential), at(NOW))
}

fn shared() -> AccessRules {
    rules(AccessRecords::default())
}

fn verifying(keys: KeySet, issuer: Option<&str>, audience: Option<&str>) -> AccessRules {
    let source = KeySource::new(KeySource::FILE, keys);
    AccessRules {
        tokens: TokenVerifier::new(vec![source], issuer, audience),
        ..shared()
    }
}

/// Private keys of the tests, and the document with their public keys.
struct Issuer {
    ec: Vec<u8>,
    ed: Vec<u8>,
    rsa: RsaKeyPair,
    jwks: Value,
}

impl Issuer {
    fn new() -> Issuer {
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let pem = include_bytes!("../../tests/data/access/rsa.pem");
        let der = PrivateKeyDer::from_pem_slice(pem).unwrap();
        let PrivateKeyDer::Pkcs8(der) = &der else {
            panic!()
        };
        let rsa = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        let point = ec.public_key_raw();
        let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
        let jwks = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "x": base64(&point[1..33]), "y": base64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": base64(ed.public_key_raw())},
            {"kty": "RSA", "kid": "rs", "n": base64(&public.n), "e": base64(&public.e)},
            {"kty": "RSA", "kid": "ps", "alg": "PS256", "n": base64(&public.n), "e": base64(&public.e)},
            {"kty": "RSA", "kid": "encryption", "use": "enc", "n": base64(&public.n), "e": base64(&public.e)},
            {"kty": "EC", "crv": "P-521", "kid": "other", "x": "AA", "y": "AA"},
            {"kty": "unheard", "kid": "of"},
        ]});
        Issuer {
            ec: ec.serialize_der(),
            ed: ed.serialize_der(),
            rsa,
            jwks,
        }
    }

    fn keys(&self) -> KeySet {
        KeySet::of_jwks(self.jwks.to_string().as_bytes()).unwrap()
    }

    /// A token that is signed with the RSA key.
    fn rsa(&self, algorithm: &str, kid: &str) -> String {
        let header = json!({"alg": algorithm, "kid": kid});
        let message = format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims().to_string())
        );
        let mut signature = vec![0; self.rsa.public().modulus_len()];
        let padding: &dyn signature::RsaEncoding = match algorithm {
            "PS256" => &signature::RSA_PSS_SHA256,
            _ => &signature::RSA_PKCS1_SHA256,
        };
        self.rsa
            .sign(
                padding,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{message}.{}", base64(signature))
    }
}

/// jsonwebtoken panics if nobody has installed its provider. Nothing before this test has: each test
/// has its own process.
#[test]
fn first_use_of_token_does_not_panic() {
    assert!(check(&shared(), &signed(&claims())).is_ok());
}

#[test]
fn accepted_token_is_its_user() {
    let caller = check(&shared(), &signed(&claims())).unwrap();
    let expected = Caller::User {
        id: user("u1"),
        scopes: [Scope::BetsRead, Scope::BetsWrite].into_iter().collect(),
        issued_at: at(NOW),
        expires_at: at(NOW + 60),
    };
    assert_eq!(caller, expected);
    let bare = with(json!({"scope": null, "iat": null, "exp": NOW as f64 + 60.5}));
    let Caller::User {
        scopes,
        issued_at,
        expires_at,
        ..
    } = check(&shared(), &signed(&bare)).unwrap()
    else {
        panic!()
    };
    assert_eq!(scopes, Scopes::default(), "no claim is no right");
    assert!(issued_at < at(0), "before everything");
    assert_eq!(
        expires_at,
        Timestamp::from_micros((NOW + 60) * 1_000_000 + 500_000).unwrap()
    );
    let other = with(json!({"scope": "openid bets:read  profile"}));
    let Caller::User { scopes, .. } = check(&shared(), &signed(&other)).unwrap() else {
        panic!()
    };
    assert_eq!(scopes, [Scope::BetsRead].into_iter().collect());
}

#[test]
fn no_credential_is_anonymous() {
    let rules = shared();
    assert_eq!(rules.authenticate(None, at(NOW)), Ok(Caller::Anonymous));
    assert_eq!(
        Access::off().authenticate(Some("anything")),
        Ok(Caller::Unchecked)
    );
}

#[test]
fn every_algorithm_is_verified_with_its_key() {
    let issuer = Issuer::new();
    let rules = verifying(issuer.keys(), None, None);
    let sign = |key: &[u8], kid| {
        let key = SigningKey::of_pkcs8(key, Some(kid)).unwrap();
        key.sign_json(&claims()).unwrap()
    };
    for token in [
        sign(&issuer.ec, "ec"),
        sign(&issuer.ed, "ed"),
        issuer.rsa("RS256", "rs"),
        issuer.rsa("PS256", "ps"),
        signed(&claims()),
    ] {
        let is_hmac = token == signed(&claims());
        let checked = check(&rules, &token);
        assert_eq!(checked.is_ok(), !is_hmac, "{checked:?}");
    }
    // The right key of another kind, or the algorithm of another key.
    for (token, expected) in [
        (sign(&issuer.ec, "ed"), InvalidCredential::Algorithm),
        (issuer.rsa("RS256", "ps"), InvalidCredential::Algorithm),
        (issuer.rsa("PS256", "rs"), InvalidCredential::Algorithm),
        (
            sign(&issuer.ec, "encryption"),
            InvalidCredential::UnknownKey,
        ),
        (sign(&issuer.ec, "other"), InvalidCredential::UnknownKey),
    ] {
        assert_eq!(check(&rules, &token), Err(expected));
    }
}

#[test]
fn token_without_kid_is_tried_with_every_key() {
    let issuer = Issuer::new();
    let sign = |key: &[u8]| {
        SigningKey::of_pkcs8(key, None)
            .unwrap()
            .sign_json(&claims())
            .unwrap()
    };
    let other = Issuer::new();
    let mut keys = issuer.jwks.clone();
    let mut second = other.jwks["keys"][0].clone();
    second["kid"] = json!("ec2");
    keys["keys"].as_array_mut().unwrap().push(second);
    let keys = KeySet::of_jwks(keys.to_string().as_bytes()).unwrap();
    let rules = verifying(keys, None, None);
    for key in [&issuer.ec, &other.ec, &issuer.ed] {
        assert!(check(&rules, &sign(key)).is_ok());
    }
    let unknown = check(&rules, &sign(&other.ed));
    assert_eq!(unknown, Err(InvalidCredential::Signature));
}

fn secret_jwk(kid: Option<&str>, secret: &str) -> Value {
    let mut key = json!({"kty": "oct", "k": base64(secret)});
    if let Some(kid) = kid {
        key["kid"] = json!(kid);
    }
    key
}

fn jwks(keys: &[Value]) -> KeySet {
    KeySet::of_jwks(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

fn verifying_all(sources: Vec<(&'static str, KeySet)>) -> AccessRules {
    let sources = sources
        .into_iter()
        .map(|(name, keys)| KeySource::new(name, keys));
    AccessRules {
        tokens: TokenVerifier::new(sources.collect(), None, None),
        ..shared()
    }
}

/// How many keys a token without `kid` costs is bounded. Keys without `kid` come first.
#[test]
fn number_of_tried_keys_is_bounded() {
    let other = |place: usize| format!("another secret of the tests, {place:04}");
    let named: Vec<Value> = (0..8)
        .map(|place| secret_jwk(Some(&place.to_string()), &other(place)))
        .collect();
    let last = [named.clone(), vec![secret_jwk(Some("last"), SECRET)]].concat();
    let token = signed(&claims());
    let refused = check(&verifying(jwks(&last), None, None), &token);
    assert_eq!(refused, Err(InvalidCredential::Signature));
    let unnamed = [named, vec![secret_jwk(None, SECRET)]].concat();
    assert!(check(&verifying(jwks(&unnamed), None, None), &token).is_ok());
}

/// The rotation of `AUTH_JWT_SECRET` in docs/access.md: the new secret is in a file, with a `kid` or
/// without, and tokens are signed with either secret.
#[test]
fn secret_is_rotated_beside_a_file() {
    const NEW: &str = "the next secret of the tests, of 32 bytes or more";
    let new = SigningKey::of_secret(&NEW.into()).unwrap();
    for kid in [None, Some("2026")] {
        let rules = verifying_all(vec![
            (
                KeySource::SECRET,
                KeySet::of_secret(&SECRET.into()).unwrap(),
            ),
            (KeySource::FILE, jwks(&[secret_jwk(kid, NEW)])),
        ]);
        assert!(check(&rules, &signed(&claims())).is_ok(), "{kid:?}");
        assert!(check(&rules, &new.sign_json(&claims()).unwrap()).is_ok());
        let neither = SigningKey::of_secret(&"x".repeat(32).into()).unwrap();
        let refused = check(&rules, &neither.sign_json(&claims()).unwrap());
        assert_eq!(refused, Err(InvalidCredential::Signature));
    }
}

#[test]
fn same_key_in_two_sources_is_one() {
    let issuer = Issuer::new();
    let rules = verifying_all(vec![
        (KeySource::FILE, issuer.keys()),
        (KeySource::URL, issuer.keys()),
    ]);
    let key = |kid| SigningKey::of_pkcs8(&issuer.ec, kid).unwrap();
    for kid in [Some("ec"), None] {
        let token = key(kid).sign_json(&claims()).unwrap();
        assert!(check(&rules, &token).is_ok(), "{kid:?}");
    }
    assert!(check(&rules, &issuer.rsa("RS256", "rs")).is_ok());
}

/// RFC 7517, 4.5.
#[test]
fn keys_of_different_kinds_share_a_kid() {
    let issuer = Issuer::new();
    let mut shared = issuer.jwks.clone();
    for key in shared["keys"].as_array_mut().unwrap() {
        key["kid"] = json!("k");
    }
    let keys = KeySet::of_jwks(shared.to_string().as_bytes()).unwrap();
    let rules = verifying(keys, None, None);
    let sign = |key: &[u8]| {
        let key = SigningKey::of_pkcs8(key, Some("k")).unwrap();
        key.sign_json(&claims()).unwrap()
    };
    for token in [
        sign(&issuer.ec),
        sign(&issuer.ed),
        issuer.rsa("RS256", "k"),
        issuer.rsa("PS256", "k"),
    ] {
        assert!(check(&rules, &token).is_ok());
    }
}

/// Each bad token, with the reason that its caller gets.
#[test]
fn bad_token_is_refused_with_its_reason() {
    use InvalidCredential as Invalid;
    let rules = shared();
    let good = signed(&claims());
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    let payload = base64(claims().to_string());
    let header = |header: Value| with_header(&header, &claims());
    let cases = [
        ("".to_owned(), Invalid::Unrecognised),
        ("opaque".to_owned(), Invalid::Unrecognised),
        ("a.b".to_owned(), Invalid::Unrecognised),
        (format!("{good}.{payload}"), Invalid::Unrecognised),
        ("x".repeat(100 * 1024), Invalid::TooLong),
        (
            signed(&with(json!({"pad": "x".repeat(8 * 1024)}))),
            Invalid::TooLong,
        ),
        (format!("!{good}"), Invalid::Malformed),
        (
            format!("{}.{payload}.{signature}", base64("not json")),
            Invalid::Malformed,
        ),
        (
            format!("{}=.{payload}.{signature}", base64("{}")),
            Invalid::Malformed,
        ),
        (format!("{unsigned}.a!"), Invalid::Malformed),
        (header(json!({"typ": "JWT"})), Invalid::Malformed),
        (header(json!({"alg": "none"})), Invalid::Algorithm),
        (
            format!("{}.{payload}.", base64(r#"{"alg":"none"}"#)),
            Invalid::Algorithm,
        ),
        (header(json!({"alg": "HS512"})), Invalid::Algorithm),
        (header(json!({"alg": "hs256"})), Invalid::Algorithm),
        (header(json!({"alg": "RS256"})), Invalid::Algorithm),
        (
            header(json!({"alg": "HS256", "kid": "unknown"})),
            Invalid::UnknownKey,
        ),
        (
            header(json!({"alg": "HS256", "crit": ["b64"], "b64": false})),
            Invalid::CriticalHeader,
        ),
        (
            header(json!({"alg": "HS256", "crit": []})),
            Invalid::CriticalHeader,
        ),
        (format!("{unsigned}."), Invalid::Signature),
        (
            format!("{unsigned}.{}", base64([0; 32])),
            Invalid::Signature,
        ),
        (signed(&with(json!({"exp": NOW - 5}))), Invalid::Expired),
        (signed(&with(json!({"exp": -1}))), Invalid::Expired),
        (signed(&with(json!({"exp": null}))), Invalid::Claim("exp")),
        (
            signed(&with(json!({"exp": "tomorrow"}))),
            Invalid::Claim("exp"),
        ),
        (signed(&with(json!({"exp": 1e300}))), Invalid::Claim("exp")),
        (signed(&with(json!({"nbf": NOW + 6}))), Invalid::NotYetValid),
        (signed(&with(json!({"nbf": "now"}))), Invalid::Claim("nbf")),
        (signed(&with(json!({"iat": true}))), Invalid::Claim("iat")),
        (signed(&with(json!({"iat": NOW + 6}))), Invalid::NotYetValid),
        (signed(&with(json!({"sub": null}))), Invalid::Claim("sub")),
        (signed(&with(json!({"sub": 7}))), Invalid::Claim("sub")),
        (signed(&with(json!({"sub": " u1"}))), Invalid::Claim("sub")),
        (signed(&with(json!({"sub": ""}))), Invalid::Claim("sub")),
        (
            signed(&with(json!({"scope": ["bets:read"]}))),
            Invalid::Claim("scope"),
        ),
        (
            signed(&with(json!({"aud": "another service"}))),
            Invalid::Audience,
        ),
        (signed(&json!([1])), Invalid::Malformed),
    ];
    for (token, expected) in cases {
        let refused = check(&rules, &token).unwrap_err();
        assert_eq!(refused, expected, "{token}");
        let text = format!("{refused} {refused:?}");
        assert!(token.is_empty() || !text.contains(&token), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    let refused = with(json!({"exp": NOW - 4, "nbf": NOW + 5, "iat": NOW + 5}));
    assert!(
        check(&rules, &signed(&refused)).is_ok(),
        "within the leeway"
    );
}

#[test]
fn issuer_and_audience_are_required_where_set() {
    let keys = KeySet::of_secret(&SECRET.into()).unwrap();
    let rules = verifying(keys, Some("https://issuer"), Some("bets"));
    let check = |changes| check(&rules, &signed(&with(changes))).map(|_| ());
    let (iss, aud) = ("https://issuer", "bets");
    assert_eq!(check(json!({"iss": iss, "aud": aud})), Ok(()));
    assert_eq!(check(json!({"iss": iss, "aud": ["other", aud]})), Ok(()));
    for (claims, expected) in [
        (json!({"aud": aud}), InvalidCredential::Issuer),
        (
            json!({"iss": "https://issuer/", "aud": aud}),
            InvalidCredential::Issuer,
        ),
        (json!({"iss": 7, "aud": aud}), InvalidCredential::Issuer),
        (json!({"iss": iss}), InvalidCredential::Audience),
        (
            json!({"iss": iss, "aud": "other"}),
            InvalidCredential::Audience,
        ),
        (json!({"iss": iss, "aud": []}), InvalidCredential::Audience),
        (
            json!({"iss": iss, "aud": {"a": 1}}),
            InvalidCredential::Audience,
        ),
    ] {
        assert_eq!(check(claims.clone()), Err(expected), "{claims}");
    }
}

/// Whoever knows a public key must not be able to sign with it as a secret.
#[test]
fn public_key_is_no_secret() {
    let issuer = Issuer::new();
    let rules = verifying(issuer.keys(), None, None);
    for member in ["x", "n"] {
        for key in issuer.jwks["keys"].as_array().unwrap() {
            let Some(public) = key[member].as_str().filter(|public| public.len() > 40) else {
                continue;
            };
            let public = BASE64_URL_SAFE_NO_PAD.decode(public).unwrap();
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
            let message = format!(
                "{}.{}",
                base64(r#"{"alg":"HS256"}"#),
                base64(claims().to_string())
            );
            let signature = ring::hmac::sign(&key, message.as_bytes());
            let token = format!("{message}.{}", base64(signature));
            assert_eq!(check(&rules, &token), Err(InvalidCredential::Algorithm));
        }
    }
    // The provider does not mix families either.
    let key = jsonwebtoken::DecodingKey::from_ed_der(&[1; 32]);
    let mixed = jsonwebtoken::crypto::verify("AA", b"m", &key, jsonwebtoken::Algorithm::HS256);
    assert!(mixed.is_err());
}

#[test]
fn unusable_key_documents_are_named() {
    let bad = |document: &str| KeySet::of_jwks(document.as_bytes()).unwrap_err();
    for document in [
        "",
        "[]",
        "{}",
        r#"{"keys": 7}"#,
        "-----BEGIN PUBLIC KEY-----",
    ] {
        assert_eq!(bad(document), BadKeySet::Malformed, "{document}");
    }
    let short = json!({"keys": [{"kty": "oct", "k": base64([1; 31])}]}).to_string();
    let text = bad(&short).to_string();
    assert!(
        text.ends_with("its secret is shorter than 32 bytes"),
        "{text}"
    );
    for (key, problem) in [
        (
            json!({"kty": "oct", "k": "a+b"}),
            "a member is not base64url",
        ),
        (json!({"kty": "oct"}), "a member is missing"),
        (
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            "a coordinate does not have 32 bytes",
        ),
        (
            json!({"kty": "RSA", "n": base64([255; 128]), "e": "AQAB"}),
            "its modulus does not have 2048 to 8192 bits",
        ),
        (
            json!({"kty": "RSA", "alg": "RS512", "n": base64([255; 256]), "e": "AQAB"}),
            "its algorithm is not supported",
        ),
        (
            json!({"kty": "oct", "alg": "RS256", "k": base64([1; 32])}),
            "its algorithm is not supported",
        ),
        (
            json!({"kty": "oct", "key_ops": ["encrypt"], "k": base64([1; 32])}),
            "it is not for signatures",
        ),
        (json!("oct"), "it is not a JWK"),
    ] {
        let text = bad(&json!({"keys": [key]}).to_string()).to_string();
        assert!(text.ends_with(problem), "{text}, and not {problem}");
    }
    let twice = json!({"kty": "oct", "kid": "a", "k": base64([1; 32])});
    let twice = bad(&json!({"keys": [twice, twice]}).to_string());
    assert_eq!(
        twice,
        BadKeySet::Ambiguous("a".to_owned(), TokenAlgorithm::HS256)
    );
}

#[test]
fn keys_of_all_sources_are_used() {
    let issuer = Issuer::new();
    let sources = vec![
        KeySource::new(
            KeySource::SECRET,
            KeySet::of_secret(&SECRET.into()).unwrap(),
        ),
        KeySource::new(KeySource::URL, KeySet::default()),
    ];
    let url = sources[1].clone();
    let rules = AccessRules {
        tokens: TokenVerifier::new(sources, None, None),
        ..shared()
    };
    let ec = SigningKey::of_pkcs8(&issuer.ec, Some("ec")).unwrap();
    let token = ec.sign_json(&claims()).unwrap();
    assert!(check(&rules, &signed(&claims())).is_ok());
    assert_eq!(check(&rules, &token), Err(InvalidCredential::UnknownKey));
    assert!(rules.problem().unwrap().contains("keys for tokens"));
    url.replace(issuer.keys());
    assert!(check(&rules, &token).is_ok());
    assert_eq!(rules.problem(), None);
}

#[test]
fn api_key_is_its_service() {
    let scopes = [Scope::WalletRead, Scope::WalletMove];
    let (key, stored) = api_key(7, &scopes);
    let (revoked_key, revoked) = api_key(8, &scopes);
    let (expiring_key, expiring) = api_key(9, &scopes);
    let records = AccessRecords {
        keys: vec![
            stored,
            StoredApiKey {
                revoked: Some(KeyStep {
                    at: at(NOW),
                    by: "bob".to_owned(),
                }),
                ..revoked
            },
            StoredApiKey {
                expires_at: Some(at(NOW + 60)),
                ..expiring
            },
        ],
        ..AccessRecords::default()
    };
    let rules = rules(records);
    let service = |key: &str, expires_at| Caller::Service {
        key: key.to_owned(),
        scopes: scopes.into_iter().collect(),
        expires_at,
    };
    assert_eq!(check(&rules, &key), Ok(service("7", None)));
    assert_eq!(
        check(&rules, &expiring_key),
        Ok(service("9", Some(at(NOW + 60))))
    );
    let later = rules.authenticate(Some(&expiring_key), at(NOW + 60));
    assert_eq!(later, Err(InvalidCredential::ExpiredKey));
    let (unknown, _) = api_key(10, &scopes);
    let mut mistyped = key.clone();
    mistyped.replace_range(10..11, if &key[10..11] == "a" { "b" } else { "a" });
    for (key, expected) in [
        (revoked_key.as_str(), InvalidCredential::RevokedKey),
        (&unknown, InvalidCredential::UnknownApiKey),
        (&mistyped, InvalidCredential::MistypedKey),
        (&key[..52], InvalidCredential::MistypedKey),
        ("sbk_", InvalidCredential::MistypedKey),
    ] {
        let refused = check(&rules, key).unwrap_err();
        assert_eq!(refused, expected);
        assert!(!format!("{refused} {refused:?}").contains(key) || key == "sbk_");
    }
    let uses = rules.credentials.take_uses();
    assert_eq!(
        uses,
        [(7, at(NOW)), (9, at(NOW))],
        "refused uses are not recorded"
    );
    assert_eq!(rules.credentials.take_uses(), []);
}

#[test]
fn revoked_user_needs_a_new_token() {
    let records = |until| AccessRecords {
        users: [(user("u1"), at(until))].into(),
        ..AccessRecords::default()
    };
    let rules = rules(records(NOW));
    assert!(
        check(&rules, &signed(&claims())).is_ok(),
        "issued at that time"
    );
    rules.credentials.update(records(NOW + 1));
    for claims in [claims(), with(json!({"iat": null}))] {
        assert_eq!(
            check(&rules, &signed(&claims)),
            Err(InvalidCredential::RevokedToken)
        );
    }
    let other = signed(&with(json!({"sub": "u2"})));
    assert!(check(&rules, &other).is_ok());
    let renewed = signed(&with(json!({"iat": NOW + 1})));
    assert!(check(&rules, &renewed).is_ok());
}

/// Revocations are not known, so nothing can be accepted.
#[test]
fn nothing_is_accepted_before_the_first_read() {
    let rules = AccessRules {
        credentials: Arc::default(),
        ..shared()
    };
    let (key, _) = api_key(1, &[]);
    for credential in [key, signed(&claims())] {
        let refused = check(&rules, &credential).unwrap_err();
        assert_eq!(refused, InvalidCredential::NotLoaded);
        assert!(refused.is_temporary());
    }
    assert_eq!(rules.authenticate(None, at(NOW)), Ok(Caller::Anonymous));
    assert!(rules.problem().unwrap().contains("have not been read yet"));
}

/// An expired key is not revoked: its sessions end as those of an expired token.
#[test]
fn only_revoked_keys_are_revocations() {
    let (_, key) = api_key(7, &[]);
    let expired = StoredApiKey {
        expires_at: Some(at(NOW - 60)),
        ..key.clone()
    };
    let step = KeyStep {
        at: at(NOW),
        by: "bob".to_owned(),
    };
    let revoked = StoredApiKey {
        id: 8,
        hash: [8; 32],
        revoked: Some(step),
        ..key
    };
    let credentials = KnownCredentials::default();
    credentials.update(AccessRecords {
        keys: vec![expired, revoked],
        ..AccessRecords::default()
    });
    assert_eq!(credentials.revocations().keys, ["8".to_owned()].into());
}

#[test]
fn revocations_of_users_add_up() {
    let read = |users: &[(&str, i64)], last_revocation| AccessRecords {
        keys: Vec::new(),
        users: users
            .iter()
            .map(|(name, until)| (user(name), at(*until)))
            .collect(),
        last_revocation,
    };
    let credentials = KnownCredentials::default();
    assert_eq!(credentials.known_revocations(), None);
    assert_eq!(*credentials.revocations(), Revocations::default());
    assert_eq!(credentials.known_revocation(), 0);
    credentials.update(read(&[("u1", NOW), ("u2", NOW)], 2));
    assert_eq!(
        credentials.known_revocation(),
        0,
        "late ones are read again"
    );
    let first = credentials.known_revocations().unwrap();
    credentials.update(read(&[("u1", NOW - 1), ("u2", NOW)], 2_000));
    let same = credentials.known_revocations().unwrap();
    assert!(Arc::ptr_eq(&first, &same), "nothing has changed");
    assert_eq!(credentials.known_revocation(), 1_000);
    credentials.update(read(&[("u3", NOW), ("u1", NOW + 1)], 2_002));
    credentials.update(read(&[], 0));
    assert_eq!(credentials.known_revocation(), 1_002);
    let expected = [("u1", NOW + 1), ("u2", NOW), ("u3", NOW)];
    let expected = expected.map(|(name, until)| (user(name), at(until)));
    assert_eq!(credentials.revocations().users, expected.into());
    assert_eq!(first.users.len(), 2);
}

#[test]
fn authentications_are_counted_by_result() {
    let opts = prometheus::Opts::new("results", "help");
    let results = IntCounterVec::new(opts, &["result"]).unwrap();
    let access = Access::required(shared()).counting(results.clone());
    let token = super::testing::token("u1", &[]);
    let _ = access.authenticate(None);
    let _ = access.authenticate(Some(&token));
    let _ = access.authenticate(Some("sbk_x"));
    let _ = Access::off().counting(results.clone()).authenticate(None);
    for (result, count) in [
        ("anonymous", 1),
        ("user", 1),
        ("mistyped_key", 1),
        ("service", 0),
    ] {
        assert_eq!(
            results.with_label_values(&[result]).get(),
            count,
            "{result}"
        );
    }
    let known: Vec<_> = Access::results().collect();
    assert_eq!(
        known.join(" "),
        "user service anonymous unrecognised too_long malformed algorithm unknown_key critical_header signature expired \
         not_yet_valid issuer audience claim revoked_token mistyped_key unknown_api_key expired_key revoked_key not_loaded"
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let rules = shared();
    assert!(check(&rules, &signed(&claims())).is_ok());
    let key = SigningKey::of_secret(&SecretString::from(SECRET)).unwrap();
    let text = format!("{rules:?} {key:?}");
    let bytes = format!("{:?}", SECRET.as_bytes());
    assert!(
        !text.contains(SECRET) && !text.contains(bytes.trim_matches(['[', ']'])),
        "{text}"
    );
}

proptest! {
    /// A change of any character of a token is noticed, unless it stands for the same bytes.
    #[test]
    fn mutated_token_is_never_accepted(place in 0_usize..300, letter in "[ -~]") {
        let rules = shared();
        let token = signed(&claims());
        let place = place % token.len();
        let mut mutated = token.clone();
        mutated.replace_range(place..=place, &letter);
        prop_assume!(mutated != token);
        prop_assert!(check(&rules, &mutated).is_err(), "{}", mutated);
    }

    #[test]
    fn cut_and_spliced_tokens_are_never_accepted(from in 0_usize..300, to in 0_usize..300, insert in "[A-Za-z0-9_.-]{0,8}") {
        let rules = shared();
        let token = signed(&claims());
        let (from, to) = (from % token.len(), to % token.len());
        let mut mutated = token.clone();
        mutated.replace_range(from.min(to)..from.max(to), &insert);
        prop_assume!(mutated != token);
        prop_assert!(check(&rules, &mutated).is_err(), "{}", mutated);
    }

    #[test]
    fn any_text_is_refused_without_panic(text in "\\PC{0,80}", header in "\\PC{0,40}") {
        let rules = shared();
        prop_assert!(check(&rules, &text).is_err());
        let shaped = format!("{}.{}.{}", base64(&header), base64(&text), base64(&text));
        prop_assert!(check(&rules, &shaped).is_err());
        let json = format!("{}.{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&text), base64(&text));
        prop_assert!(check(&rules, &json).is_err());
        let _ = KeySet::of_jwks(text.as_bytes());
    }
}
