//! Bet placement on SQLite, with probe actors for the books and the relay.

use std::sync::Mutex;

use actix::prelude::*;
use pretty_assertions::assert_eq;
use prometheus::{IntGauge, Opts};

use super::*;
use crate::actors::odds::messages::{ApplyError, GetSnapshot};
use crate::domain::bets::bet::OddsChange;
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::restrictions::{CurrentRestrictions, Restrictions};
use crate::domain::odds::update::testing::market_update;
use crate::domain::odds::version_stamp::VersionStamp;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::runtime::feed_health::FeedState;
use crate::store::Store;
use crate::store::money::{BetReader, TransferRequest, WalletStore};
use crate::store::request_batcher::ConcurrencyLimit;
use crate::store::sqlite::SqliteStore;
use crate::store::user_turns::{UserTurn, UserTurns};

const SECOND: Duration = Duration::from_secs(1);

/// What the books answer.
#[derive(Clone)]
enum BookAnswer {
    /// home 1.201, draw 3.2, away 4.5
    Open,
    Stale,
    Fails,
}

struct ProbeBooks(Arc<Mutex<BookAnswer>>);

impl Actor for ProbeBooks {
    type Context = Context<Self>;
}

impl Handler<GetSnapshot> for ProbeBooks {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, event: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        let answer = self.0.lock().unwrap().clone();
        if matches!(answer, BookAnswer::Fails) {
            return Err(ApplyError::NotLoaded(event.0));
        }
        let update = market_update("E", "1x2", None, 1, 1);
        Ok(Snapshot {
            event_id: event.0,
            seq: 1,
            markets: vec![Arc::new(MarketState { update, seq: 1 })],
            is_stale: matches!(answer, BookAnswer::Stale),
            validity: VersionStamp::default(),
            continuity: Default::default(),
        })
    }
}

struct ProbeRelay(Arc<Mutex<Vec<OutboxRow>>>);

impl Actor for ProbeRelay {
    type Context = Context<Self>;
}

impl Handler<PublishOutbox> for ProbeRelay {
    type Result = ();

    fn handle(&mut self, rows: PublishOutbox, _: &mut Context<Self>) {
        self.0.lock().unwrap().extend(rows.0);
    }
}

type Batch =
    Box<dyn Fn(&[BetPlacement]) -> Result<Vec<Option<BetAnswer>>, StoreError> + Send + Sync>;

struct Fixture {
    service: PlacementService,
    store: Arc<SqliteStore>,
    users: Arc<UserTurns>,
    books: Arc<Mutex<BookAnswer>>,
    feed: Arc<FeedState>,
    restrictions: Arc<CurrentRestrictions>,
    rows: Arc<Mutex<Vec<OutboxRow>>>,
    outcomes: IntCounterVec,
    _folder: tempfile::TempDir,
}

fn cents(cents: i64) -> Amount {
    Amount::new(cents).unwrap()
}

fn user() -> UserId {
    UserId::new("USER_001").unwrap()
}

/// Places in batches of the store.
fn start() -> Fixture {
    start_with(|store| Box::new(move |placements| store.place_bets(placements)))
}

fn start_with(batch: impl FnOnce(Arc<SqliteStore>) -> Batch) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("money.db");
    let store = Arc::new(SqliteStore::open(&path.to_string_lossy()).unwrap());
    store.migrate().unwrap();
    let deposit = TransferRequest {
        user_id: user(),
        amount: cents(10_000),
        reference: "deposit".parse().unwrap(),
        at: Timestamp::now(),
    };
    store.deposit(&deposit).unwrap();
    let users = UserTurns::new(4);
    let books = Arc::new(Mutex::new(BookAnswer::Open));
    let feed = Arc::new(FeedState::in_process(
        IntGauge::new("feed", "feed").unwrap(),
    ));
    let rows: Arc<Mutex<Vec<OutboxRow>>> = Arc::default();
    let outcomes = IntCounterVec::new(Opts::new("outcomes", "outcomes"), &["outcome"]).unwrap();
    let restrictions: Arc<CurrentRestrictions> = Arc::default();
    let prices = Prices {
        snapshots: ProbeBooks(books.clone()).start().recipient(),
        timeout: SECOND,
        feed: feed.clone(),
        restrictions: restrictions.clone(),
    };
    let money: Arc<dyn BetStore> = store.clone();
    let settings = PlacementSettings {
        limits: BetLimits {
            min_stake: cents(100),
            max_stake: cents(100_000),
            max_payout: cents(1_000_000),
        },
        deadline: 10 * SECOND,
        lease: 3 * SECOND,
    };
    let service = PlacementService::new(
        Arc::new(WalletExecutor::new(money, users.clone())),
        RequestBatcher::new(&ConcurrencyLimit::new(2), 16, batch(store.clone())),
        prices,
        settings,
        ProbeRelay(rows.clone()).start().recipient(),
        Clock::system(),
        outcomes.clone(),
    );
    Fixture {
        service,
        store,
        users,
        books,
        feed,
        restrictions,
        rows,
        outcomes,
        _folder: folder,
    }
}

/// A bet on a draw at 3.2.
fn draw(key: Option<&str>) -> PlaceBet {
    PlaceBet {
        request: BetRequest {
            user_id: user(),
            event_id: EventId::new("E").unwrap(),
            market: MarketKey {
                name: MarketName::new("1x2").unwrap(),
                line: None,
            },
            selection: SelectionId::new("X").unwrap(),
            stake: cents(1_000),
            price: "3.2".parse().unwrap(),
            odds_change: OddsChange::None,
        },
        key: key.map(str::to_owned),
    }
}

/// A bet on a draw at a price that is not offered.
fn draw_at_old_price(key: Option<&str>) -> PlaceBet {
    let mut command = draw(key);
    command.request.price = "3.3".parse().unwrap();
    command
}

fn odds_changed() -> PlacementError {
    PlacementError::Refused(BetRefusal::OddsChanged {
        odd_value: "3.2".parse().unwrap(),
    })
}

impl Fixture {
    async fn place(&self, command: PlaceBet) -> Result<PlacedBet, PlacementError> {
        self.service.place(command).await
    }

    fn answer(&self, answer: BookAnswer) {
        *self.books.lock().unwrap() = answer;
    }

    fn balance(&self) -> i64 {
        let wallet = self.store.wallet(&user()).unwrap().unwrap();
        wallet.balance.available
    }

    fn outcome(&self, outcome: &str) -> u64 {
        self.outcomes.with_label_values(&[outcome]).get()
    }

    /// Waits until the relay has received rows.
    async fn rows(&self) -> Vec<OutboxRow> {
        loop {
            let rows = self.rows.lock().unwrap().clone();
            if !rows.is_empty() {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Fills the queue of the user's wallet.
    fn fill_queue(&self) -> Vec<UserTurn> {
        let place = |_| self.users.queue_unbounded(&user());
        (0..1_000).map(place).collect()
    }
}

#[actix_web::test]
async fn bet_is_stored_and_handed_to_relay() {
    let fixture = start();
    let placed = fixture.place(draw(None)).await.unwrap();
    assert_eq!(placed.price, "3.2".parse().unwrap());
    assert_eq!(placed.new_balance, 9_000);
    let bet = fixture.store.bet(placed.bet_id).unwrap().unwrap();
    assert_eq!(bet.selection, SelectionId::new("draw").unwrap());
    assert_eq!(bet.decide_by, bet.placed_at.later_by(10 * SECOND));
    let rows = fixture.rows().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].topic, OutboxTopic::Placed);
    assert_eq!(rows[0].key, placed.bet_id.to_string());
    assert_eq!(rows[0].payload, bet_events::bet_placed(&bet));
    assert_eq!(fixture.outcome("placed"), 1);
}

/// A bet that the batch leaves out is placed alone.
#[actix_web::test]
async fn bet_left_out_of_batch_is_placed_alone() {
    let fixture = start_with(|_| Box::new(|placements| Ok(vec![None; placements.len()])));
    let placed = fixture.place(draw(None)).await.unwrap();
    assert_eq!((placed.new_balance, fixture.balance()), (9_000, 9_000));
    assert_eq!(fixture.rows().await[0].key, placed.bet_id.to_string());
}

#[actix_web::test]
async fn repeated_command_gets_first_answer() {
    let fixture = start();
    let first = fixture.place(draw(Some("k"))).await;
    assert!(first.is_ok());
    assert_eq!(fixture.place(draw(Some("k"))).await, first);
    // No new bet is accepted now, but the first answer is still available.
    fixture.feed.set_lost("gone");
    assert_eq!(fixture.place(draw(Some("k"))).await, first);
    let other = fixture.place(draw(Some("other"))).await;
    assert_eq!(other, Err(PricesError::Stale.into()));
    assert_eq!(fixture.balance(), 9_000);
    assert_eq!(fixture.rows().await.len(), 1);
    assert_eq!(
        (fixture.outcome("placed"), fixture.outcome("repeated")),
        (1, 2)
    );
}

#[actix_web::test]
async fn refusal_is_stored_with_its_key() {
    let fixture = start();
    let refused = fixture.place(draw_at_old_price(Some("k"))).await;
    assert_eq!(refused, Err(odds_changed()));
    // The answer is the same when the books cannot be read.
    fixture.answer(BookAnswer::Fails);
    let repeated = fixture.place(draw_at_old_price(Some("k"))).await;
    assert_eq!(repeated, Err(odds_changed()));
    assert_eq!(
        (fixture.outcome("ODDS_CHANGED"), fixture.balance()),
        (2, 10_000)
    );
}

#[actix_web::test]
async fn refusal_without_key_is_not_stored() {
    let fixture = start();
    let refused = fixture.place(draw_at_old_price(None)).await;
    assert_eq!(refused, Err(odds_changed()));
    assert!(fixture.place(draw(None)).await.is_ok());
}

#[actix_web::test]
async fn key_of_other_request_is_refused() {
    let fixture = start();
    fixture.place(draw(Some("k"))).await.unwrap();
    let mut other = draw(Some("k"));
    other.request.stake = cents(2_000);
    assert_eq!(fixture.place(other).await, Err(PlacementError::KeyReused));
    assert_eq!(fixture.outcome("IDEMPOTENCY_KEY_REUSED"), 1);
}

#[actix_web::test]
async fn stake_above_balance_is_refused() {
    let fixture = start();
    let mut command = draw(None);
    command.request.stake = cents(20_000);
    let refused = fixture.place(command).await;
    assert_eq!(
        refused,
        Err(PlacementError::Refused(BetRefusal::InsufficientFunds))
    );
}

#[actix_web::test]
async fn no_bet_without_current_prices() {
    let fixture = start();
    fixture.answer(BookAnswer::Stale);
    let stale = fixture.place(draw(None)).await;
    assert_eq!(stale, Err(PricesError::Stale.into()));
    assert_eq!(
        stale.unwrap_err().to_string(),
        "no changes are arriving, prices may be stale"
    );
    fixture.answer(BookAnswer::Fails);
    let unavailable = PricesError::Unavailable("could not load the book of `E`".to_owned());
    assert_eq!(fixture.place(draw(None)).await, Err(unavailable.into()));
    assert_eq!(fixture.balance(), 10_000);
}

#[actix_web::test]
async fn full_wallet_queue_is_busy() {
    let fixture = start_with(|_| Box::new(|placements| Ok(vec![None; placements.len()])));
    let queue = fixture.fill_queue();
    let busy = fixture.place(draw(None)).await;
    assert_eq!(busy, Err(PlacementError::WalletBusy));
    let refused = fixture.place(draw_at_old_price(Some("k"))).await;
    assert_eq!(refused, Err(PlacementError::WalletBusy));
    drop(queue);
    assert!(fixture.place(draw(None)).await.is_ok());
}

/// With a key, the request that locks the wallet may be the same one.
#[actix_web::test]
async fn locked_wallet_may_be_same_request() {
    let locked = || StoreError::Unavailable("canceling statement due to lock timeout".to_owned());
    let fixture = start_with(move |_| Box::new(move |_| Err(locked())));
    let without_key = fixture.place(draw(None)).await;
    assert_eq!(without_key, Err(PlacementError::WalletLocked));
    let with_key = fixture.place(draw(Some("k"))).await;
    assert_eq!(with_key, Err(PlacementError::RequestInFlight));
}

#[actix_web::test]
async fn failed_store_is_reported() {
    let away = || StoreError::Unavailable("away".to_owned());
    let fixture = start_with(move |_| Box::new(move |_| Err(away())));
    let failed = fixture.place(draw(Some("k"))).await;
    assert_eq!(failed, Err(PlacementError::Store(away())));
}

/// Like every other refusal, it is the answer to its key. Another key gets a new answer.
#[actix_web::test]
async fn bet_on_lost_source_is_refused() {
    let fixture = start();
    let stale = || Err(PlacementError::Refused(BetRefusal::MarketStale));
    fixture.restrictions.set(Restrictions {
        unreported_from: u64::MAX,
        ..Restrictions::default()
    });
    assert_eq!(fixture.place(draw(Some("k"))).await, stale());
    fixture.restrictions.set(Restrictions::default());
    assert_eq!(fixture.place(draw(Some("k"))).await, stale());
    assert!(fixture.place(draw(Some("other"))).await.is_ok());
    assert_eq!(
        (fixture.outcome("MARKET_STALE"), fixture.outcome("placed")),
        (2, 1)
    );
}
