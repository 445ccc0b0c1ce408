//! A database with users and bets, for tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::market_settler::{Attempt, MarketSettler};
use super::settings::SettlerSettings;
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::ids::{EventId, MarketKey, MarketName, Reference, SelectionId, Source, UserId};
use crate::domain::settlement::record::ResultRecord;
use crate::domain::settlement::testing::{at, cents, price, record, rules};
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::store::Store;
use crate::store::money::{
    BetAnswer, BetPlacement, BetReader, BetStore, DecisionStore, LedgerAudit, OutboxMessage,
    OutboxRow, ResultStore, TransferRequest, WalletStore,
};
use crate::store::sqlite::SqliteStore;
use crate::telemetry::metrics::SettlementMetrics;

/// When the tests' bets are placed.
const PLACED_AT: i64 = 5;

/// A house: users with 5000 cents each, and their bets on MATCH_002.
pub(crate) struct House {
    pub store: Arc<SqliteStore>,
    pub settings: SettlerSettings,
    pub metrics: SettlementMetrics,
    pub now: Arc<Mutex<Timestamp>>,
    /// The outbox rows that were passed on.
    pub published: Mutex<Vec<OutboxRow>>,
    /// The file of the database.
    pub path: PathBuf,
    _folder: TempDir,
}

impl House {
    pub(crate) fn open() -> House {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("money.db");
        let store = SqliteStore::open(&path.to_string_lossy()).unwrap();
        store.migrate().unwrap();
        House {
            store: Arc::new(store),
            settings: SettlerSettings {
                rules: rules(),
                max_market: cents(1_000_000),
                page: 3,
                batch: 2,
                pause_percent: 1,
                lease: Duration::from_secs(30),
                retry: Duration::from_secs(1),
                outbox_lease: Duration::from_secs(10),
            },
            metrics: SettlementMetrics::new().unwrap(),
            now: Arc::new(Mutex::new(at(100))),
            published: Mutex::default(),
            path,
            _folder: folder,
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = self.now.clone();
        Clock::of(move || *now.lock())
    }

    pub(crate) fn settler(&self) -> MarketSettler {
        MarketSettler::new(
            self.store.clone(),
            self.settings.clone(),
            self.clock(),
            self.metrics.clone(),
        )
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, seconds: u64) {
        let mut now = self.now.lock();
        *now = now.later_by(Duration::from_secs(seconds));
    }

    pub(crate) fn deposit(&self, user: &str) {
        let order = TransferRequest {
            user_id: UserId::new(user).unwrap(),
            amount: cents(5_000),
            reference: Reference::new(&Uuid::now_v7().to_string()).unwrap(),
            at: at(0),
        };
        self.store.deposit(&order).unwrap();
    }

    /// Places a bet of 1000 cents at 2.345.
    pub(crate) fn place(&self, user: &str, selection: &str) -> BetId {
        let bet = Bet {
            id: BetId::new(),
            user_id: UserId::new(user).unwrap(),
            event_id: EventId::new("MATCH_002").unwrap(),
            market: MarketKey {
                name: MarketName::new("1x2").unwrap(),
                line: None,
            },
            selection: SelectionId::new(selection).unwrap(),
            stake: cents(1_000),
            price: price("2.345"),
            status: BetStatus::Pending,
            reason: None,
            provider_ref: None,
            placed_at: at(PLACED_AT),
            decide_by: at(20),
            decided_at: None,
            settlement: None,
        };
        let placement = BetPlacement {
            bet: bet.clone(),
            source: Source::new("native-1").unwrap(),
            key: None,
            notice: self.notice(),
        };
        let answer = self.store.place_bet(&placement).unwrap();
        assert!(matches!(answer, BetAnswer::Placed { .. }), "{answer:?}");
        bet.id
    }

    pub(crate) fn confirm(&self, bet: BetId) {
        let outcome = BetOutcome::Confirmed {
            provider_ref: "P".to_owned(),
        };
        self.store
            .decide_bet(bet, &outcome, &self.notice(), at(6))
            .unwrap();
    }

    /// A confirmed bet of a user with a wallet of their own.
    pub(crate) fn confirmed(&self, user: &str, selection: &str) -> BetId {
        if self
            .store
            .wallet(&UserId::new(user).unwrap())
            .unwrap()
            .is_none()
        {
            self.deposit(user);
        }
        let bet = self.place(user, selection);
        self.confirm(bet);
        bet
    }

    fn notice(&self) -> OutboxMessage {
        OutboxMessage {
            payload: String::new(),
            leased_until: at(1),
            trace: None,
        }
    }

    pub(crate) fn receive(&self, record: ResultRecord) {
        let now = *self.now.lock();
        self.store.store_results(&[record], now).unwrap();
    }

    /// Settles one market; `None` if none is due.
    pub(crate) fn settle(&self) -> Option<Attempt> {
        self.settle_until(&|| false)
    }

    pub(crate) fn settle_until(&self, is_stopping: &dyn Fn() -> bool) -> Option<Attempt> {
        let settler = self.settler();
        let lease = settler.lease().unwrap()?;
        let publish = |rows: Vec<OutboxRow>| self.published.lock().extend(rows);
        Some(settler.settle(&lease, &publish, is_stopping).unwrap())
    }

    /// The status of a bet, and what it has paid if it is settled.
    pub(crate) fn state(&self, bet: BetId) -> String {
        let bet = self.store.bet(bet).unwrap().unwrap();
        match bet.settlement {
            Some(settlement) => format!("{} {}", settlement.outcome, settlement.payout_cents),
            None => bet.status.to_string(),
        }
    }

    pub(crate) fn available(&self, user: &str) -> i64 {
        let wallet = self.store.wallet(&UserId::new(user).unwrap()).unwrap();
        wallet.unwrap().balance.available
    }

    pub(crate) fn assert_clean(&self) {
        let verification = self.store.verify(at(100), Duration::ZERO).unwrap();
        let broken: Vec<_> = verification
            .checks
            .iter()
            .filter(|check| check.violations > 0)
            .collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }
}

/// A settlement of all three selections: `home` has won.
pub(crate) fn home_won(version: i64) -> ResultRecord {
    record(
        "settlement",
        60,
        version,
        json!({"selections": [
            {"id": "home", "result": "won"},
            {"id": "draw", "result": "lost"},
            {"id": "away", "result": "lost"},
        ]}),
    )
}

/// Another record of the market.
pub(crate) fn other(kind: &str, version: i64, fields: Value) -> ResultRecord {
    record(kind, 60, version, fields)
}
