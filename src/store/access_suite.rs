//! The contract of every store of API keys: checks written against the trait, run for each database
//! by [`access_suite`].

use pretty_assertions::assert_eq;

use std::collections::BTreeMap;

use super::access::*;
use super::money_suite::{Raw, at, user};
use crate::domain::access::{Scope, Scopes};

/// Generates one test per check. `$open` returns a migrated store and a guard that lives as long as
/// the store and implements [`Raw`]. The attributes after it are added to the tests.
macro_rules! access_suite {
    ($open:expr $(, #[$attribute:meta])*) => {
        #[rstest::rstest]
        #[case::nothing($crate::store::access_suite::empty_store_has_no_records)]
        #[case::create($crate::store::access_suite::created_key_reads_back)]
        #[case::revoke($crate::store::access_suite::key_is_revoked_once)]
        #[case::uses($crate::store::access_suite::latest_use_is_kept)]
        #[case::users($crate::store::access_suite::latest_revocation_of_user_counts)]
        $(#[$attribute])*
        fn every_access_store(#[case] check: fn(&dyn $crate::store::access::AccessStore)) {
            let (store, _kept) = $open;
            check(&store);
        }

        #[test]
        $(#[$attribute])*
        fn keys_and_their_audit_are_immutable() {
            let (store, raw) = $open;
            $crate::store::access_suite::records_stay(&store, &raw);
        }
    };
}
pub(crate) use access_suite;

fn step(seconds: i64, by: &str) -> KeyStep {
    KeyStep {
        at: at(seconds),
        by: by.to_owned(),
    }
}

fn order(number: u8) -> ApiKeyOrder {
    ApiKeyOrder {
        hash: [number; 32],
        prefix: format!("sbk_{number}"),
        scopes: Scopes::from_iter([Scope::WalletRead, Scope::WalletMove]),
        note: "the bookmaker's backend, São Paulo".to_owned(),
        expires_at: None,
        created: step(0, "ann"),
    }
}

fn stored(id: i64, order: ApiKeyOrder) -> StoredApiKey {
    StoredApiKey {
        id,
        hash: order.hash,
        prefix: order.prefix,
        scopes: order.scopes,
        note: order.note,
        expires_at: order.expires_at,
        created: order.created,
        last_used_at: None,
        revoked: None,
    }
}

pub(crate) fn empty_store_has_no_records(store: &dyn AccessStore) {
    assert_eq!(store.access_records(0), Ok(AccessRecords::default()));
    assert_eq!(
        store.revoke_key(7, &step(1, "bob")),
        Ok(RevokedKey::Unknown)
    );
    assert_eq!(store.record_key_uses(&[]), Ok(()));
    assert_eq!(store.record_key_uses(&[(7, at(1))]), Ok(()));
}

pub(crate) fn created_key_reads_back(store: &dyn AccessStore) {
    let first = order(1);
    let second = ApiKeyOrder {
        scopes: Scopes::default(),
        expires_at: Some(at(60)),
        ..order(2)
    };
    let id = store.create_key(&first).unwrap();
    let other = store.create_key(&second).unwrap();
    assert!(id < other);
    assert_eq!(store.create_key(&first), Ok(id), "a repeated request");
    let keys = store.access_records(0).unwrap().keys;
    assert!(keys[1].is_valid(at(59)) && !keys[1].is_valid(at(60)));
    assert_eq!(keys, [stored(id, first), stored(other, second)]);
}

pub(crate) fn key_is_revoked_once(store: &dyn AccessStore) {
    let id = store.create_key(&order(1)).unwrap();
    let other = store.create_key(&order(2)).unwrap();
    let expected = StoredApiKey {
        revoked: Some(step(5, "bob")),
        ..stored(id, order(1))
    };
    let first = store.revoke_key(id, &step(5, "bob"));
    assert_eq!(first, Ok(RevokedKey::Now(expected.clone())));
    assert_eq!(
        store.revoke_key(id, &step(5, "bob")),
        first,
        "a repeated request"
    );
    let again = store.revoke_key(id, &step(6, "eve"));
    assert_eq!(again, Ok(RevokedKey::Before(expected.clone())));
    assert!(!expected.is_valid(at(0)));
    let keys = store.access_records(0).unwrap().keys;
    assert_eq!(keys, [expected, stored(other, order(2))]);
}

pub(crate) fn latest_use_is_kept(store: &dyn AccessStore) {
    let id = store.create_key(&order(1)).unwrap();
    let other = store.create_key(&order(2)).unwrap();
    let uses = || {
        let keys = store.access_records(0).unwrap().keys;
        keys.iter().map(|key| key.last_used_at).collect::<Vec<_>>()
    };
    store.record_key_uses(&[(id, at(60))]).unwrap();
    assert_eq!(uses(), [Some(at(60)), None]);
    // From another process, later.
    store
        .record_key_uses(&[(id, at(50)), (other, at(55))])
        .unwrap();
    assert_eq!(uses(), [Some(at(60)), Some(at(55))]);
    store.revoke_key(id, &step(61, "bob")).unwrap();
    store.record_key_uses(&[(id, at(62))]).unwrap();
    assert_eq!(uses(), [Some(at(62)), Some(at(55))]);
}

pub(crate) fn latest_revocation_of_user_counts(store: &dyn AccessStore) {
    for (name, seconds) in [("a", 5), ("b", 7), ("a", 9), ("a", 9), ("a", 8)] {
        store
            .revoke_user(&user(name), &step(seconds, "ann"))
            .unwrap();
    }
    let revoked = |after| {
        let records = store.access_records(after).unwrap();
        (records.users, records.last_revocation)
    };
    let (a, b) = ((user("a"), at(9)), (user("b"), at(7)));
    assert_eq!(revoked(0), ([a.clone(), b].into(), 5));
    assert_eq!(revoked(2), ([a].into(), 5), "what came since");
    assert_eq!(revoked(4), ([(user("a"), at(8))].into(), 5));
    assert_eq!(revoked(5), (BTreeMap::new(), 0));
}

pub(super) fn records_stay<R: Raw>(store: &dyn AccessStore, raw: &R) {
    let revoked = store.create_key(&order(1)).unwrap();
    store.create_key(&order(2)).unwrap();
    store.revoke_key(revoked, &step(1, "bob")).unwrap();
    store.revoke_user(&user("a"), &step(2, "bob")).unwrap();
    let before = store.access_records(0).unwrap();
    for (change, expected) in [
        ("UPDATE api_keys SET scopes = 'operator:*'", "never changed"),
        ("UPDATE api_keys SET expires_at = NULL", "never changed"),
        (
            "UPDATE api_keys SET revoked_at = NULL, revoked_by = NULL",
            "never changed",
        ),
        (
            "UPDATE api_keys SET revoked_by = 'x' WHERE revoked_at IS NOT NULL",
            "never changed",
        ),
        ("DELETE FROM api_keys", "never changed"),
        (
            "UPDATE api_key_audit SET done_by = 'x'",
            "audit of API keys",
        ),
        ("DELETE FROM api_key_audit", "audit of API keys"),
        (
            "UPDATE revoked_users SET user_id = 'x'",
            "revocation of a user",
        ),
        ("DELETE FROM revoked_users", "revocation of a user"),
    ] {
        let refused = raw.run(change).unwrap_err();
        assert!(refused.contains(expected), "{change}: {refused}");
    }
    assert_eq!(store.access_records(0).unwrap(), before);
    // One row for each step: two keys created, one revoked.
    for (action, rows) in [("create", 2), ("revoke", 1)] {
        let divides = format!(
            "INSERT INTO revoked_users (user_id, issued_before, revoked_by)
             SELECT NULL, NULL, NULL FROM api_key_audit WHERE action = '{action}'
             GROUP BY action HAVING count(*) = {rows}"
        );
        assert!(raw.run(&divides).is_err(), "{rows} of {action}");
    }
}
