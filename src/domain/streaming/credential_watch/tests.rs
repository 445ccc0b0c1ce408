use super::*;
use crate::domain::ids::UserId;

const LIMITS: CredentialLimits = CredentialLimits {
    auth_timeout: Duration::from_secs(10),
    expiry_grace: EXPIRY_GRACE,
};
const ID: SessionId = SessionId(1);

fn at(seconds: u64) -> Timestamp {
    let start = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    start.later_by(Duration::from_secs(seconds))
}

fn user(name: &str, issued_at: u64, expires_at: u64) -> Caller {
    Caller::User {
        id: UserId::new(name).unwrap(),
        scopes: Default::default(),
        issued_at: at(issued_at),
        expires_at: at(expires_at),
    }
}

fn key(name: &str, expires_at: Option<u64>) -> Caller {
    Caller::Service {
        key: name.to_owned(),
        scopes: Default::default(),
        expires_at: expires_at.map(at),
    }
}

fn watching(caller: Caller) -> (CredentialWatch, Arc<SessionCaller>) {
    let mut watch = CredentialWatch::new(LIMITS);
    let caller = Arc::new(SessionCaller::new(caller));
    assert_eq!(watch.watch(ID, caller.clone(), at(0)), None);
    (watch, caller)
}

fn revoked(users: &[(&str, u64)], keys: &[&str]) -> Arc<Revocations> {
    let users = users
        .iter()
        .map(|(name, until)| (UserId::new(name).unwrap(), at(*until)));
    Arc::new(Revocations {
        users: users.collect(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    })
}

#[test]
fn expired_session_closes_after_grace() {
    let (mut watch, _) = watching(user("u", 0, 100));
    assert!(watch.take_overdue(at(124)).is_empty());
    let expired = Overdue::Close(ID, CloseReason::CredentialExpired);
    assert_eq!(watch.take_overdue(at(125)), [expired]);
    assert!(watch.take_overdue(at(126)).is_empty(), "it is closing");
    assert_eq!(watch.take_overdue(at(127)), [Overdue::Disconnect(ID)]);
    assert!(watch.sessions.is_empty() && watch.due.is_empty());
}

/// The distributor need not have been told.
#[test]
fn refreshed_session_goes_on() {
    let (mut watch, caller) = watching(user("u", 0, 100));
    assert_eq!(caller.replace(user("u", 100, 200)), Replaced::Same);
    assert!(watch.take_overdue(at(224)).is_empty());
    assert_eq!(watch.take_overdue(at(225)).len(), 1);
}

#[test]
fn earlier_expiry_counts_from_its_announcement() {
    let (mut watch, caller) = watching(user("u", 0, 1_000));
    assert_eq!(caller.replace(user("u", 0, 50)), Replaced::Same);
    assert_eq!(watch.watch(ID, caller, at(1)), None);
    assert!(watch.take_overdue(at(74)).is_empty());
    assert_eq!(watch.take_overdue(at(75)).len(), 1);
}

#[test]
fn anonymous_session_authenticates_in_time() {
    let (mut watch, caller) = watching(Caller::Anonymous);
    assert!(watch.take_overdue(at(9)).is_empty());
    let late = Overdue::Close(ID, CloseReason::NotAuthenticated);
    assert_eq!(watch.take_overdue(at(10)), [late]);
    watch.remove(ID);
    assert_eq!(watch.watch(ID, caller.clone(), at(20)), None);
    assert_eq!(caller.replace(user("u", 20, 100)), Replaced::Anonymous);
    assert!(watch.take_overdue(at(124)).is_empty());
    assert_eq!(watch.take_overdue(at(125)).len(), 1);
}

#[test]
fn key_without_expiry_is_only_revoked() {
    let (mut watch, _) = watching(key("k", None));
    assert!(watch.due.is_empty());
    assert!(watch.revoke(revoked(&[], &["other"]), at(1)).is_empty());
    assert_eq!(watch.revoke(revoked(&[], &["k"]), at(2)), [ID]);
    assert!(watch.revoke(revoked(&[], &["k"]), at(3)).is_empty(), "once");
    assert_eq!(watch.take_overdue(at(4)), [Overdue::Disconnect(ID)]);
    let (mut watch, _) = watching(key("k", Some(100)));
    assert_eq!(watch.take_overdue(at(125)).len(), 1);
}

#[test]
fn only_earlier_tokens_are_revoked() {
    let (mut watch, caller) = watching(user("u", 10, 1_000));
    assert!(watch.revoke(revoked(&[("u", 10)], &[]), at(20)).is_empty());
    assert_eq!(caller.replace(user("u", 20, 1_000)), Replaced::Same);
    let later = revoked(&[("u", 20), ("v", 99)], &["u"]);
    assert!(watch.revoke(later, at(21)).is_empty());
    assert_eq!(watch.revoke(revoked(&[("u", 21)], &[]), at(22)), [ID]);
}

/// A session may authenticate just before, and be watched just after.
#[test]
fn credential_revoked_before_is_noticed() {
    let mut watch = CredentialWatch::new(LIMITS);
    assert!(watch.revoke(revoked(&[("u", 5)], &[]), at(5)).is_empty());
    let caller = Arc::new(SessionCaller::new(user("u", 4, 100)));
    let reason = watch.watch(ID, caller, at(6));
    assert_eq!(reason, Some(CloseReason::CredentialRevoked));
    watch.remove(ID);
    assert!(watch.due.is_empty());
}

#[test]
fn caller_is_never_exchanged() {
    let caller = SessionCaller::new(Caller::Anonymous);
    assert!(!caller.is_authenticated());
    assert_eq!(caller.replace(user("u", 0, 100)), Replaced::Anonymous);
    for other in [user("v", 0, 200), key("u", None), Caller::Anonymous] {
        assert_eq!(caller.replace(other), Replaced::Nothing);
        assert_eq!(caller.expires_at(), Some(at(100)));
    }
    let caller = SessionCaller::new(key("u", None));
    assert_eq!(caller.replace(user("u", 0, 100)), Replaced::Nothing);
    assert_eq!(caller.replace(key("v", None)), Replaced::Nothing);
    assert_eq!(caller.replace(key("u", Some(7))), Replaced::Same);
    assert_eq!(caller.expires_at(), Some(at(7)));
}

/// A stream cannot refresh its token, so it gets no grace period.
#[test]
fn fixed_caller_has_no_grace() {
    let mut watch = CredentialWatch::new(LIMITS);
    let caller = Arc::new(SessionCaller::fixed(user("u", 0, 60)));
    assert_eq!(watch.watch(ID, caller, at(0)), None);
    assert_eq!(watch.take_overdue(at(59)), []);
    let expired = Overdue::Close(ID, CloseReason::CredentialExpired);
    assert_eq!(watch.take_overdue(at(60)), [expired]);
}
