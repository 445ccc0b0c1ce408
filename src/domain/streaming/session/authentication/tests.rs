use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::domain::access::{Revocations, Scopes};
use crate::domain::ids::UserId;
use crate::domain::streaming::credential_watch::{CredentialLimits, CredentialWatch, Overdue};
use crate::domain::streaming::fanout::SessionId;
use crate::domain::streaming::session::SessionLimits;
use crate::domain::timestamp::Timestamp;

const LIMITS: SessionLimits = SessionLimits {
    max_subscriptions: 10,
    max_messages_per_second: 1_000,
    max_snapshot_bytes_per_second: 1_000_000,
    silence_limit: Duration::from_secs(30),
};
const AUTH: &str = r#"{"type":"auth","token":"eyJhbGciOi"}"#;
const SUBSCRIBE: &str = r#"{"type":"subscribe","eventId":"E"}"#;

fn at(seconds: u64) -> Timestamp {
    let start = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    start.later_by(Duration::from_secs(seconds))
}

fn user(name: &str, scopes: &[Scope], expires_at: u64) -> Caller {
    Caller::User {
        id: UserId::new(name).unwrap(),
        scopes: scopes.iter().copied().collect(),
        issued_at: at(0),
        expires_at: at(expires_at),
    }
}

fn reader(name: &str, expires_at: u64) -> Caller {
    user(name, &[Scope::OddsRead], expires_at)
}

fn session(caller: Caller, is_odds_public: bool) -> SessionState {
    SessionState::new(LIMITS, Instant::now()).of(caller, is_odds_public)
}

/// What the client gets: texts, codes of refusals, and close codes.
fn seen(effects: &[Effect]) -> Vec<String> {
    let seen = effects.iter().filter_map(|effect| match effect {
        Effect::Send(text) => Some(text.to_string()),
        Effect::Refuse(refusal) => Some(refusal.code().to_owned()),
        Effect::Close(reason) => Some(format!("{} {}", reason.code(), reason.text())),
        Effect::Subscribe(event, ..) => Some(format!("subscribed to {event}")),
        _ => None,
    });
    seen.collect()
}

fn answer(session: &mut SessionState, text: &str) -> Vec<String> {
    seen(&session.on_text(text, Instant::now()))
}

/// The answer to an `auth` whose credential is that of `checked`.
fn auth(
    session: &mut SessionState,
    checked: Result<Caller, BadCredential>,
) -> (&'static str, Vec<String>) {
    let effects = session.on_text(AUTH, Instant::now());
    let [Effect::Authenticate(credential)] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(credential.expose(), "eyJhbGciOi");
    assert!(!format!("{effects:?}").contains("eyJ"));
    let (result, effects) = session.on_credential(checked);
    (result.as_str(), seen(&effects))
}

fn refused(is_temporary: bool) -> Result<Caller, BadCredential> {
    let why = "the token has expired".to_owned();
    Err(if is_temporary {
        BadCredential::Unavailable(why)
    } else {
        BadCredential::Invalid(why)
    })
}

fn invalid() -> Result<Caller, BadCredential> {
    refused(false)
}

#[test]
fn private_odds_need_authentication_first() {
    let mut session = session(Caller::Anonymous, false);
    for text in [
        SUBSCRIBE,
        r#"{"type":"ping"}"#,
        r#"{"type":"unsubscribe","eventId":"E"}"#,
    ] {
        assert_eq!(answer(&mut session, text), ["UNAUTHENTICATED"]);
    }
    assert_eq!(answer(&mut session, r#"{"type":"auth"}"#), ["BAD_TOKEN"]);
    assert_eq!(session.subscriptions(), 0);
    let accepted = r#"{"type":"authenticated","expiresAt":"2023-11-14T22:15:00Z"}"#;
    assert_eq!(
        auth(&mut session, Ok(reader("u", 100))),
        ("accepted", vec![accepted.to_owned()])
    );
    assert_eq!(answer(&mut session, SUBSCRIBE), ["subscribed to E"]);
}

#[test]
fn bad_first_credential_ends_session() {
    let no_scope = Ok(user("u", &[Scope::BetsRead], 100));
    let ended = ["INVALID_CREDENTIAL", "3500 invalid credential"].map(str::to_owned);
    for is_public in [true, false] {
        let mut session = session(Caller::Anonymous, is_public);
        let expected = ("invalid", ended.to_vec());
        assert_eq!(auth(&mut session, invalid()), expected);
    }
    let ended = ["SCOPE_REQUIRED", "3502 scope odds:read required"].map(str::to_owned);
    let mut private = session(Caller::Anonymous, false);
    let expected = ("scope_required", ended.to_vec());
    assert_eq!(auth(&mut private, no_scope.clone()), expected);
    let mut public = session(Caller::Anonymous, true);
    assert_eq!(auth(&mut public, no_scope).0, "accepted");
}

#[test]
fn bad_refresh_changes_nothing() {
    let code = |code: &str| vec![code.to_owned()];
    let mut session = session(reader("u", 100), false);
    let expected = ("invalid", code("INVALID_CREDENTIAL"));
    assert_eq!(auth(&mut session, invalid()), expected);
    let expected = ("other_caller", code("OTHER_CALLER"));
    assert_eq!(auth(&mut session, Ok(reader("v", 200))), expected);
    let expected = ("scope_required", code("SCOPE_REQUIRED"));
    assert_eq!(auth(&mut session, Ok(user("u", &[], 200))), expected);
    assert_eq!(session.caller().unwrap().expires_at(), Some(at(100)));
    assert_eq!(answer(&mut session, SUBSCRIBE), ["subscribed to E"]);
    assert_eq!(auth(&mut session, Ok(reader("u", 200))).0, "refreshed");
    assert_eq!(session.caller().unwrap().expires_at(), Some(at(200)));
}

/// The client may connect again when it has fewer sessions.
#[test]
fn too_many_sessions_end_this_one() {
    let ended = ["TOO_MANY_SESSIONS_OF_CALLER", "1013 too many sessions"].map(str::to_owned);
    let mut session = session(Caller::Anonymous, true);
    let expected = ("too_many_sessions", ended.to_vec());
    let checked = Err(BadCredential::TooManySessions(5));
    assert_eq!(auth(&mut session, checked), expected);
}

/// The client may send the same credential again.
#[test]
fn unavailable_check_ends_nothing() {
    let code = vec!["AUTHENTICATION_UNAVAILABLE".to_owned()];
    let mut session = session(Caller::Anonymous, false);
    for _ in 0..2 {
        let expected = ("unavailable", code.clone());
        assert_eq!(auth(&mut session, refused(true)), expected);
    }
    assert_eq!(answer(&mut session, SUBSCRIBE), ["UNAUTHENTICATED"]);
    assert_eq!(auth(&mut session, Ok(reader("u", 100))).0, "accepted");
}

/// Without rules for callers, and for a key that does not expire.
#[test]
fn answer_without_expiry_is_documented() {
    let plain = vec![r#"{"type":"authenticated"}"#.to_owned()];
    let mut unchecked = session(Caller::Unchecked, true);
    let expected = ("unchecked", plain.clone());
    assert_eq!(auth(&mut unchecked, Ok(Caller::Unchecked)), expected);
    assert!(unchecked.caller().is_none());
    let key = Caller::Service {
        key: "k".to_owned(),
        scopes: Scopes::from_iter([Scope::OddsRead]),
        expires_at: None,
    };
    let mut session = session(Caller::Anonymous, false);
    assert_eq!(auth(&mut session, Ok(key)), ("accepted", plain));
}

/// Most sessions: nothing is kept for them.
#[test]
fn anonymous_readers_are_not_watched() {
    let mut public = session(Caller::Anonymous, true);
    assert!(public.caller().is_none());
    assert_eq!(answer(&mut public, SUBSCRIBE), ["subscribed to E"]);
    assert!(session(Caller::Anonymous, false).caller().is_some());
    assert!(session(reader("u", 1), true).caller().is_some());
}

#[test]
fn auth_counts_as_many_messages() {
    let mut session = session(reader("u", 100), false);
    let now = Instant::now();
    let accepted = (0..100)
        .map(|_| session.on_text(AUTH, now))
        .take_while(|effects| matches!(effects[..], [Effect::Authenticate(_)]));
    assert_eq!(accepted.count(), 10);
    assert_eq!(seen(&session.on_text(AUTH, now)), ["RATE_LIMITED"]);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// An `auth` with a token of this user for so many seconds; `false`: it is not accepted.
    Auth(u8, u64, bool),
    Revoke(u8),
    /// The distributor learns of a credential: it may be late.
    Watch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u64..30).prop_map(Step::Wait),
        3 => (0_u8..2, 1_u64..60, prop::bool::weighted(0.8))
            .prop_map(|(user, seconds, is_valid)| Step::Auth(user, seconds, is_valid)),
        1 => (0_u8..2).prop_map(Step::Revoke),
        2 => Just(Step::Watch),
    ]
}

/// A session, its distributor, and what they should know.
struct Model {
    is_public: bool,
    session: SessionState,
    start: Instant,
    watch: CredentialWatch,
    unwatched: Option<Arc<SessionCaller>>,
    revoked: BTreeMap<UserId, Timestamp>,
    seconds: u64,
    /// The user, when the token was issued, and when it expires.
    token: Option<(u8, u64, u64)>,
    ended: Option<CloseReason>,
}

const AUTH_TIMEOUT: u64 = 10;
const GRACE: u64 = 25;
const LIMITS_OF_CREDENTIALS: CredentialLimits = CredentialLimits {
    auth_timeout: Duration::from_secs(AUTH_TIMEOUT),
    expiry_grace: Duration::from_secs(GRACE),
};
const ID: SessionId = SessionId(7);

impl Model {
    fn new(is_public: bool) -> Model {
        let session = session(Caller::Anonymous, is_public);
        let mut watch = CredentialWatch::new(LIMITS_OF_CREDENTIALS);
        if let Some(caller) = session.caller() {
            assert_eq!(watch.watch(ID, caller.clone(), at(0)), None);
        }
        Model {
            is_public,
            session,
            start: Instant::now(),
            watch,
            unwatched: None,
            revoked: BTreeMap::new(),
            seconds: 0,
            token: None,
            ended: None,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Wait(seconds) => {
                self.seconds += seconds;
                self.sweep();
            }
            Step::Auth(user, seconds, is_valid) => self.auth(user, seconds, is_valid),
            Step::Revoke(user) => self.revoke(user),
            Step::Watch => {
                if let Some(caller) = self.unwatched.take() {
                    let reason = self.watch.watch(ID, caller, at(self.seconds));
                    self.end(reason);
                }
                self.sweep();
            }
        }
    }

    fn auth(&mut self, user: u8, seconds: u64, is_valid: bool) {
        let now = self.start + Duration::from_secs(self.seconds);
        let expires = self.seconds + seconds;
        let checked = is_valid.then(|| Caller::User {
            id: name_of(user),
            scopes: Scopes::from_iter([Scope::OddsRead]),
            issued_at: at(self.seconds),
            expires_at: at(expires),
        });
        // The limit on messages may refuse it.
        let presented = self.session.on_text(AUTH, now);
        if !matches!(presented[..], [Effect::Authenticate(_)]) {
            return;
        }
        let checked = checked.map_or_else(invalid, Ok);
        let (result, effects) = self.session.on_credential(checked);
        let expected = match self.token {
            _ if !is_valid => AuthResult::Invalid,
            None => AuthResult::Accepted,
            Some((current, ..)) if current == user => AuthResult::Refreshed,
            Some(_) => AuthResult::OtherCaller,
        };
        assert_eq!(result, expected);
        let was_anonymous = self.token.is_none();
        if matches!(result, AuthResult::Accepted | AuthResult::Refreshed) {
            self.token = Some((user, self.seconds, expires));
        }
        for effect in effects {
            match effect {
                Effect::Close(reason) => {
                    assert!(was_anonymous && !is_valid);
                    self.end(Some(reason));
                }
                Effect::WatchCaller(caller) => self.unwatched = Some(caller),
                _ => {}
            }
        }
    }

    fn revoke(&mut self, user: u8) {
        self.revoked.insert(name_of(user), at(self.seconds));
        let revocations = Revocations {
            users: self.revoked.clone(),
            ..Revocations::default()
        };
        let ended = self.watch.revoke(Arc::new(revocations), at(self.seconds));
        self.end((!ended.is_empty()).then_some(CloseReason::CredentialRevoked));
    }

    fn sweep(&mut self) {
        for overdue in self.watch.take_overdue(at(self.seconds)) {
            match overdue {
                Overdue::Close(_, reason) => self.end(Some(reason)),
                Overdue::Disconnect(_) => assert!(self.ended.is_some()),
            }
        }
    }

    /// The session ends; only for a reason that holds.
    fn end(&mut self, reason: Option<CloseReason>) {
        let Some(reason) = reason.filter(|_| self.ended.is_none()) else {
            return;
        };
        let holds = match reason {
            CloseReason::CredentialExpired => self.is_expired(),
            CloseReason::CredentialRevoked => self.is_revoked(),
            CloseReason::NotAuthenticated => self.is_late(),
            CloseReason::InvalidCredential => self.token.is_none(),
            _ => false,
        };
        assert!(holds, "{reason:?} after {} s", self.seconds);
        self.ended = Some(reason);
    }

    fn is_expired(&self) -> bool {
        self.token
            .is_some_and(|(_, _, expires)| self.seconds >= expires + GRACE)
    }

    fn is_revoked(&self) -> bool {
        self.token.is_some_and(|(user, issued, _)| {
            let until = self.revoked.get(&name_of(user));
            until.is_some_and(|until| at(issued) < *until)
        })
    }

    fn is_late(&self) -> bool {
        !self.is_public && self.token.is_none() && self.seconds >= AUTH_TIMEOUT
    }

    /// A session that goes on has no reason to end, and is served if it may read.
    fn check(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // What the distributor does not know yet does not end the session.
        if self.unwatched.is_none() {
            self.sweep();
            let is_over = self.is_expired() || self.is_revoked() || self.is_late();
            assert!(!is_over || self.ended.is_some());
        }
        let now = self.start + Duration::from_secs(self.seconds);
        let answer = seen(&self.session.on_text(r#"{"type":"ping"}"#, now)).concat();
        let served = self.is_public || self.token.is_some();
        let expected = if served {
            r#"{"type":"pong"}"#
        } else {
            "UNAUTHENTICATED"
        };
        assert!(answer == expected || answer == "RATE_LIMITED", "{answer}");
    }
}

fn name_of(user: u8) -> UserId {
    UserId::new(&format!("u{user}")).unwrap()
}

proptest! {
    /// However `auth`, refreshes, time, revocations and late messages interleave, a session ends if
    /// and only if there is a reason.
    #[test]
    fn session_ends_only_for_its_credential(
        is_public: bool,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new(is_public);
        for step in steps {
            if model.ended.is_some() {
                break;
            }
            model.take(step);
            model.check();
        }
    }
}
