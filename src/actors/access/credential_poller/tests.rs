use std::collections::BTreeMap;

use parking_lot::Mutex;
use pretty_assertions::assert_eq;

use super::*;
use crate::access::testing::{api_key, rules};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::access::{ApiKeyOrder, KeyStep, RevokedKey, StoredApiKey};
use crate::testing::until;

type Answer = Result<AccessRecords, StoreError>;

/// Answers every read alike, and records what is written.
struct FixedStore {
    answer: Mutex<Answer>,
    read_after: Mutex<Vec<i64>>,
    uses: Mutex<Vec<Vec<(i64, Timestamp)>>>,
}

impl AccessStore for FixedStore {
    fn create_key(&self, _: &ApiKeyOrder) -> Result<i64, StoreError> {
        unreachable!()
    }

    fn revoke_key(&self, _: i64, _: &KeyStep) -> Result<RevokedKey, StoreError> {
        unreachable!()
    }

    fn revoke_user(&self, _: &UserId, _: &KeyStep) -> Result<(), StoreError> {
        unreachable!()
    }

    fn access_records(&self, after: i64) -> Answer {
        self.read_after.lock().push(after);
        self.answer.lock().clone()
    }

    fn record_key_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        self.uses.lock().push(uses.to_vec());
        Ok(())
    }
}

/// Records what is revoked.
struct ProbeSubscriber(Arc<Mutex<Vec<Revocations>>>);

impl Actor for ProbeSubscriber {
    type Context = Context<Self>;
}

impl Handler<RevocationsChanged> for ProbeSubscriber {
    type Result = ();

    fn handle(&mut self, changed: RevocationsChanged, _: &mut Context<Self>) {
        self.0.lock().push(Revocations::clone(&changed.0));
    }
}

struct Fixture {
    store: Arc<FixedStore>,
    credentials: Arc<KnownCredentials>,
    received: Arc<Mutex<Vec<Revocations>>>,
    metrics: AccessMetrics,
    poller: Addr<CredentialPoller>,
}

impl Fixture {
    fn start(answer: Answer) -> Fixture {
        let store = Arc::new(FixedStore {
            answer: Mutex::new(answer),
            read_after: Mutex::default(),
            uses: Mutex::default(),
        });
        let received: Arc<Mutex<Vec<Revocations>>> = Arc::default();
        let credentials = Arc::<KnownCredentials>::default();
        let metrics = AccessMetrics::new(&[]).unwrap();
        let poller = CredentialPoller::new(
            store.clone(),
            credentials.clone(),
            vec![ProbeSubscriber(received.clone()).start().recipient()],
            Clock::of(|| at(0)),
            metrics.clone(),
        );
        Fixture {
            store,
            credentials,
            received,
            metrics,
            poller: poller.start(),
        }
    }

    async fn until_received(&self, expected: &[Revocations]) {
        until(&format!("{expected:?}"), || {
            *self.received.lock() == expected
        })
        .await;
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_760_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn revoked(users: &[(&str, i64)], keys: &[&str]) -> Revocations {
    let users = users
        .iter()
        .map(|(user, until)| (UserId::new(user).unwrap(), at(*until)));
    Revocations {
        users: users.collect(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn records(keys: Vec<StoredApiKey>, users: &[(&str, i64)]) -> AccessRecords {
    let users: BTreeMap<_, _> = revoked(users, &[]).users;
    AccessRecords {
        keys,
        users,
        last_revocation: 0,
    }
}

fn revoked_key(id: i64) -> StoredApiKey {
    let step = KeyStep {
        at: at(0),
        by: "bob".to_owned(),
    };
    StoredApiKey {
        revoked: Some(step),
        ..api_key(id, &[]).1
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("gone".to_owned())
}

#[actix_web::test]
async fn last_read_stays_in_force_while_unreadable() {
    let fixture = Fixture::start(Err(away()));
    until("the read fails", || {
        fixture.metrics.credential_read_errors.get() > 0
    })
    .await;
    assert!(fixture.received.lock().is_empty());
    assert!(
        fixture
            .credentials
            .problem()
            .unwrap()
            .contains("cannot be read")
    );
    *fixture.store.answer.lock() = Ok(records(vec![revoked_key(1)], &[("u", 5)]));
    let first = revoked(&[("u", 5)], &["1"]);
    fixture.until_received(std::slice::from_ref(&first)).await;
    assert_eq!(fixture.credentials.problem(), None);
    assert_eq!(fixture.metrics.credentials_read_at.get(), 1_760_000_000);
    *fixture.store.answer.lock() = Err(away());
    let failed = fixture.metrics.credential_read_errors.get();
    until("the read fails again", || {
        fixture.metrics.credential_read_errors.get() > failed
    })
    .await;
    assert!(fixture.credentials.problem().is_some());
    assert_eq!(*fixture.credentials.revocations(), first);
    *fixture.store.answer.lock() = Ok(records(vec![revoked_key(2)], &[("u", 3), ("v", 7)]));
    // A revocation of a user is never withdrawn.
    let second = revoked(&[("u", 5), ("v", 7)], &["2"]);
    fixture.until_received(&[first, second]).await;
}

/// Only what came since is read, but for late ones; all again from time to time.
#[actix_web::test]
async fn known_revocations_are_not_read_again() {
    let fixture = Fixture::start(Ok(AccessRecords {
        last_revocation: 5_000,
        ..AccessRecords::default()
    }));
    until("some reads", || fixture.store.read_after.lock().len() > 2).await;
    assert_eq!(fixture.store.read_after.lock()[..3], [0, 4_000, 4_000]);
    fixture.poller.do_send(SkipReads);
    until("all are read again", || {
        let reads = fixture.store.read_after.lock();
        reads.iter().filter(|after| **after == 0).count() == 2
    })
    .await;
}

/// Makes the next read of the poller one of all revocations.
#[derive(Message)]
#[rtype(result = "()")]
struct SkipReads;

impl Handler<SkipReads> for CredentialPoller {
    type Result = ();

    fn handle(&mut self, _: SkipReads, _: &mut Context<Self>) {
        self.reads = FULL_READ;
    }
}

#[actix_web::test]
async fn times_of_use_are_written_together() {
    let (key, stored) = api_key(7, &[]);
    let fixture = Fixture::start(Ok(records(vec![stored], &[])));
    until("the first read", || fixture.credentials.problem().is_none()).await;
    let mut rules = rules(AccessRecords::default());
    rules.credentials = fixture.credentials.clone();
    let access = crate::access::Access::required(rules);
    for _ in 0..3 {
        access.authenticate(Some(&key)).unwrap();
    }
    assert!(
        fixture.store.uses.lock().is_empty(),
        "nothing is written for each use"
    );
    fixture.poller.do_send(WriteUses);
    until("the times are written", || {
        fixture.store.uses.lock().len() == 1
    })
    .await;
    let written = fixture.store.uses.lock()[0].clone();
    assert_eq!(written.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [7]);
    fixture.poller.send(WriteUses).await.unwrap();
    assert_eq!(
        fixture.store.uses.lock().len(),
        1,
        "there is nothing to write"
    );
}

/// Makes the poller write at once.
#[derive(Message)]
#[rtype(result = "()")]
struct WriteUses;

impl Handler<WriteUses> for CredentialPoller {
    type Result = ();

    fn handle(&mut self, _: WriteUses, context: &mut Context<Self>) {
        self.write_uses(context);
    }
}
