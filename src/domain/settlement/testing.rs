//! Records, and a house with one user, for tests.

pub(crate) mod examples;
pub(crate) mod random;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::effective::{Leg, LegState, SettlementRules};
use super::market_results::{Inserted, MarketResults};
use super::payout::Entitlement;
use super::postings::{BetPosition, UserFunds, postings};
use super::record::{Certainty, ResultRecord};
use super::reductions::Reductions;
use super::trust::TrustedSources;
use crate::domain::ids::{MarketName, SelectionId, Source};
use crate::domain::odds::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Account, TransferKind};

/// Second `second` of the tests' hour.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(1_764_621_000_000 + second * 1_000).unwrap()
}

/// A record of the market `1x2` of MATCH_002, with more fields.
pub(crate) fn record(kind: &str, second: i64, version: i64, fields: Value) -> ResultRecord {
    let mut record = json!({
        "type": kind, "event_id": "MATCH_002", "market": "1x2",
        "updated_at": at(second), "source": "native-1", "version": version,
    });
    let fields = fields.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(fields);
    ResultRecord::from_json(record.to_string().as_bytes()).unwrap()
}

/// A settlement with these results.
pub(crate) fn settlement(second: i64, version: i64, selections: Value) -> ResultRecord {
    record(
        "settlement",
        second,
        version,
        json!({"selections": selections}),
    )
}

/// A settlement of `home` alone.
pub(crate) fn home(second: i64, version: i64, result: &str) -> ResultRecord {
    settlement(second, version, json!([{"id": "home", "result": result}]))
}

/// Another source of the same record.
pub(crate) fn by(source: &str, record: ResultRecord) -> ResultRecord {
    ResultRecord {
        source: Source::new(source).unwrap(),
        ..record
    }
}

/// Rules that trust `native-1` and `native-2`.
pub(crate) fn rules() -> SettlementRules {
    let sources = ["native-1", "native-2"].map(|name| Source::new(name).unwrap());
    SettlementRules {
        sources: TrustedSources::new(sources),
        settle_on: Certainty::Confirmed,
        reductions: Reductions::None,
    }
}

/// The results of these records.
pub(crate) fn results<'a>(records: impl IntoIterator<Item = &'a ResultRecord>) -> MarketResults {
    let mut results = MarketResults::default();
    for record in records {
        results.insert(record.clone());
    }
    results
}

/// The state of a leg of the market `1x2`, or of another one.
pub(crate) fn state(
    results: &MarketResults,
    market: &str,
    selection: &str,
    placed_at: Timestamp,
    rules: &SettlementRules,
) -> LegState {
    let leg = Leg {
        market: &MarketName::new(market).unwrap(),
        selection: &SelectionId::new(selection).unwrap(),
        placed_at,
    };
    results.state_of(&leg, rules)
}

/// An amount.
pub(crate) fn cents(cents: i64) -> Amount {
    Amount::new(cents).unwrap()
}

/// A price.
pub(crate) fn price(text: &str) -> Price {
    text.parse().unwrap()
}

/// A bet of the house's user.
pub(crate) struct TestBet {
    pub market: String,
    pub selection: String,
    pub stake: Amount,
    pub price: Price,
    pub placed_at: Timestamp,
    pub is_confirmed: bool,
    pub position: BetPosition,
}

impl TestBet {
    /// What the bet has cost the user so far, less what it has paid.
    pub(crate) fn net(&self) -> i64 {
        let paid = match self.position {
            BetPosition::Open => 0,
            BetPosition::Settled { paid } => paid,
        };
        paid - self.stake.cents()
    }
}

/// A house with one user. It settles each bet after every record, and after each confirmation.
pub(crate) struct House {
    pub rules: SettlementRules,
    pub cash: i64,
    pub reserved: i64,
    pub funds: UserFunds,
    pub stakes: i64,
    pub payouts: i64,
    pub bets: Vec<TestBet>,
    pub results: BTreeMap<String, MarketResults>,
}

impl House {
    pub(crate) fn new(rules: SettlementRules) -> House {
        House {
            rules,
            cash: 0,
            reserved: 0,
            funds: UserFunds {
                reserved: 0,
                available: 0,
                owed: 0,
            },
            stakes: 0,
            payouts: 0,
            bets: Vec::new(),
            results: BTreeMap::new(),
        }
    }

    pub(crate) fn deposit(&mut self, cents: i64) {
        self.cash += cents;
        self.funds.available += cents;
        self.check();
    }

    /// Returns whether the balance allowed it.
    pub(crate) fn withdraw(&mut self, cents: i64) -> bool {
        let is_allowed = self.funds.available >= cents;
        if is_allowed {
            self.cash -= cents;
            self.funds.available -= cents;
        }
        self.check();
        is_allowed
    }

    /// Returns whether the balance allowed it.
    pub(crate) fn place(
        &mut self,
        market: &str,
        stake: i64,
        price: &str,
        placed_at: Timestamp,
    ) -> bool {
        if self.funds.available < stake {
            return false;
        }
        self.funds.available -= stake;
        self.reserved += stake;
        self.bets.push(TestBet {
            market: market.to_owned(),
            selection: "home".to_owned(),
            stake: cents(stake),
            price: self::price(price),
            placed_at,
            is_confirmed: false,
            position: BetPosition::Open,
        });
        self.check();
        true
    }

    /// Decides the latest bet.
    pub(crate) fn decide(&mut self, is_confirmed: bool) {
        let stake = self.bets.last().unwrap().stake.cents();
        self.reserved -= stake;
        if is_confirmed {
            self.stakes += stake;
            self.bets.last_mut().unwrap().is_confirmed = true;
        } else {
            self.funds.available += stake;
            self.bets.pop();
        }
        self.settle();
    }

    pub(crate) fn receive(&mut self, record: ResultRecord) -> Inserted {
        let market = record.market.name.as_str().to_owned();
        let inserted = self.results.entry(market).or_default().insert(record);
        self.settle();
        inserted
    }

    /// What the results of its market say about a bet.
    pub(crate) fn entitlement(&self, bet: &TestBet) -> Entitlement {
        let none = MarketResults::default();
        let results = self.results.get(&bet.market).unwrap_or(&none);
        state(
            results,
            &bet.market,
            &bet.selection,
            bet.placed_at,
            &self.rules,
        )
        .entitlement(bet.stake, bet.price)
    }

    fn settle(&mut self) {
        for index in 0..self.bets.len() {
            let bet = &self.bets[index];
            if !bet.is_confirmed {
                continue;
            }
            let entitlement = self.entitlement(bet);
            let (stake, position) = (bet.stake, bet.position);
            for posting in postings(entitlement, stake, position, self.funds).unwrap() {
                self.post(index, posting.kind, posting.amount.cents());
                self.check();
            }
            let bet = &mut self.bets[index];
            match entitlement {
                Entitlement::Open => bet.position = BetPosition::Open,
                Entitlement::Settled { payout, .. } => {
                    bet.position = BetPosition::Settled { paid: payout };
                }
                Entitlement::Held(_) => {}
            }
            let settled = postings(entitlement, stake, bet.position, self.funds).unwrap();
            assert_eq!(settled, [], "a second settlement moves nothing");
        }
        self.check();
    }

    fn post(&mut self, bet: usize, kind: TransferKind, cents: i64) {
        if matches!(kind, TransferKind::Settle | TransferKind::Unsettle) {
            assert_eq!(cents, self.bets[bet].stake.cents());
        }
        let (debit, credit) = kind.accounts();
        *self.balance(debit) += if debit == Account::Owed {
            cents
        } else {
            -cents
        };
        *self.balance(credit) += if credit == Account::Owed {
            -cents
        } else {
            cents
        };
    }

    fn balance(&mut self, account: Account) -> &mut i64 {
        match account {
            Account::Available => &mut self.funds.available,
            Account::Reserved => &mut self.reserved,
            Account::Owed => &mut self.funds.owed,
            Account::Cash => &mut self.cash,
            Account::Stakes => &mut self.stakes,
            Account::Payouts => &mut self.payouts,
        }
    }

    /// No balance is below zero, and no cent is lost.
    fn check(&self) {
        let UserFunds {
            available, owed, ..
        } = self.funds;
        assert!(available >= 0 && owed >= 0 && self.stakes >= 0 && self.reserved >= 0);
        assert_eq!(
            self.cash,
            available + self.reserved + self.stakes + self.payouts - owed
        );
    }

    /// available, reserved, owed, stakes, payouts.
    pub(crate) fn balances(&self) -> [i64; 5] {
        let UserFunds {
            available, owed, ..
        } = self.funds;
        [available, self.reserved, owed, self.stakes, self.payouts]
    }

    /// What does not depend on the order of records.
    pub(crate) fn net(&self) -> [i64; 3] {
        let UserFunds {
            available, owed, ..
        } = self.funds;
        [available - owed, self.stakes, self.payouts]
    }
}
