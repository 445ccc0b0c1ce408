//! Placing and reading bets.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use super::batch::{BUSY, Wait, alone, each, in_places};
use super::required;
use crate::domain::bets::bet::{Bet, BetId, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{
    BetAnswer, BetFilter, BetPlacement, BetReader, BetStore, Page, RequestKey, read_refusal,
    refusal_text,
};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::{BetRow, BetStepRow};
use crate::store::rows::{line_text, pg_time, price, read_all, row_limit, unreadable};

statement! {
    /// Places bets.
    Place<'a> returns (Integer, Text, Nullable<SqlUuid>, Nullable<Integer>, Nullable<BigInt>, Nullable<Text>,
        Nullable<BigInt>):
    "SELECT place, outcome, bet, price, balance, refused, record FROM bets_place(" { waits: bool as Bool } ", "
        { ids: &'a [Uuid] as Array<SqlUuid> } ", " { users: &'a [&'a str] as Array<Text> } ", "
        { events: &'a [&'a str] as Array<Text> } ", " { markets: &'a [&'a str] as Array<Text> } ", "
        { lines: &'a [String] as Array<Text> } ", " { selections: &'a [&'a str] as Array<Text> } ", "
        { sources: &'a [&'a str] as Array<Text> } ", "
        { stakes: &'a [i64] as Array<BigInt> } ", " { prices: &'a [i32] as Array<Integer> } ", "
        { decide_by: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { reservations: &'a [Uuid] as Array<SqlUuid> } ", "
        { keys: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { fingerprints: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { payloads: &'a [&'a str] as Array<Text> } ", " { leased_until: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { now: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { traceparents: &'a [Option<String>] as Array<Nullable<Text>> } ")"
}

statement! {
    /// Stores a rejection.
    Refuse<'a> returns (Nullable<Text>, Nullable<SqlUuid>, Nullable<Integer>, Nullable<BigInt>, Nullable<Text>):
    "SELECT outcome, bet, price, balance, refused FROM bet_refuse(" { user: &'a str as Text } ", "
        { key: &'a str as Text } ", " { fingerprint: &'a str as Text } ", " { refusal: &'a str as Text } ", "
        { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// The first answer to a key.
    FirstAnswer<'a> returns (Nullable<Text>, Nullable<SqlUuid>, Nullable<Integer>, Nullable<BigInt>, Nullable<Text>):
    "SELECT outcome, bet, price, balance, refused FROM bet_first_answer(" { user: &'a str as Text } ", "
        { key: &'a str as Text } ", " { fingerprint: &'a str as Text } ")"
}

statement! {
    /// Bets.
    ReadBets<'a> returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>, Nullable<Text>,
        Timestamptz, Timestamptz, Nullable<Timestamptz>, Nullable<Text>, Nullable<BigInt>, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at, outcome, payout_cents, settled_at
    FROM bets WHERE id = ANY (" { ids: &'a [Uuid] as Array<SqlUuid> } ")"
}

statement! {
    /// A page of a user's bets.
    BetsOfUser<'a> returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>,
        Nullable<Text>, Timestamptz, Timestamptz, Nullable<Timestamptz>, Nullable<Text>, Nullable<BigInt>, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at, outcome, payout_cents, settled_at
    FROM bets WHERE user_id = " { user: &'a str as Text } " AND id < " { before: Uuid as SqlUuid }
    " AND status = COALESCE(" { status: Option<&'a str> as Nullable<Text> } ", status)
        AND outcome IS NOT DISTINCT FROM COALESCE(" { outcome: Option<&'a str> as Nullable<Text> } ", outcome)
    ORDER BY id DESC LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// The steps of a bet.
    BetHistory returns (Nullable<Text>, Text, Nullable<Text>, Timestamptz):
    "SELECT old_status, new_status, reason, at FROM bet_history WHERE bet_id = " { id: Uuid as SqlUuid } " ORDER BY id"
}

impl BetReader for PgStore {
    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError> {
        Ok(self.bets_by_id(&[bet_id])?.into_iter().next().flatten())
    }

    /// Not read from a pool that may lead to a replica, because a bet is looked up right after it
    /// was placed.
    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError> {
        let ids = each(bet_ids, |bet_id| bet_id.0);
        self.money()?.run(|connection| {
            let rows = (ReadBets { ids: &ids }).load(connection)?;
            let bets: Vec<Bet> = read_all::<_, _, Failure>(rows, BetRow::read)?;
            let by_id: HashMap<_, _> = bets.into_iter().map(|bet| (bet.id, bet)).collect();
            Ok(each(bet_ids, |bet_id| by_id.get(bet_id).cloned()))
        })
    }
}

impl BetStore for PgStore {
    fn place_bet(&self, placement: &BetPlacement) -> Result<BetAnswer, StoreError> {
        let reservations = [Uuid::now_v7()];
        self.money()?.run(|connection| {
            alone(place(
                connection,
                std::slice::from_ref(placement),
                &reservations,
                Wait::ForWallets,
            )?)
        })
    }

    fn place_bets(
        &self,
        placements: &[BetPlacement],
    ) -> Result<Vec<Option<BetAnswer>>, StoreError> {
        let reservations = each(placements, |_| Uuid::now_v7());
        self.money()?
            .run(|connection| place(connection, placements, &reservations, Wait::ForNobody))
    }

    fn refuse_bet(
        &self,
        user_id: &UserId,
        key: &RequestKey,
        refusal: &BetRefusal,
        at: Timestamp,
    ) -> Result<BetAnswer, StoreError> {
        let refusal = refusal_text(refusal)?;
        let statement = Refuse {
            user: user_id.as_str(),
            key: &key.key,
            fingerprint: &key.fingerprint,
            refusal: &refusal,
            now: pg_time(at),
        };
        self.money()?.run(|connection| {
            let row = statement.get_result::<FirstAnswerRow>(connection)?;
            Ok(required("outcome", row.read()?)?)
        })
    }

    fn first_answer(
        &self,
        user_id: &UserId,
        key: &RequestKey,
    ) -> Result<Option<BetAnswer>, StoreError> {
        let statement = FirstAnswer {
            user: user_id.as_str(),
            key: &key.key,
            fingerprint: &key.fingerprint,
        };
        self.money()?
            .run(|connection| Ok(statement.get_result::<FirstAnswerRow>(connection)?.read()?))
    }

    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError> {
        let statement = BetHistory { id: bet_id.0 };
        self.money()?
            .run(|connection| read_all(statement.load(connection)?, BetStepRow::read))
    }

    fn bets(
        &self,
        user_id: &UserId,
        filter: BetFilter,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError> {
        let statement = BetsOfUser {
            user: user_id.as_str(),
            before: page.before.map_or(Uuid::max(), |bet| bet.0),
            status: filter.status.map(BetStatus::as_str),
            outcome: filter.outcome.map(<&str>::from),
            limit: row_limit(page.limit),
        };
        self.readers()?
            .run(|connection| read_all(statement.load(connection)?, BetRow::read))
    }
}

/// Places bets, each with a reservation of the given id.
fn place(
    connection: &mut PgConnection,
    placements: &[BetPlacement],
    reservations: &[Uuid],
    wait: Wait,
) -> Result<Vec<Option<BetAnswer>>, Failure> {
    let bets = || placements.iter().map(|placement| &placement.bet);
    let keys = || placements.iter().map(|placement| placement.key.as_ref());
    let notices = || placements.iter().map(|placement| &placement.notice);
    let statement = Place {
        waits: wait == Wait::ForWallets,
        ids: &each(bets(), |bet| bet.id.0),
        users: &each(bets(), |bet| bet.user_id.as_str()),
        events: &each(bets(), |bet| bet.event_id.as_str()),
        markets: &each(bets(), |bet| bet.market.name.as_str()),
        lines: &each(bets(), |bet| line_text(bet.market.line)),
        selections: &each(bets(), |bet| bet.selection.as_str()),
        sources: &each(placements, |placement| placement.source.as_str()),
        stakes: &each(bets(), |bet| bet.stake.cents()),
        prices: &each(bets(), |bet| {
            i32::try_from(bet.price.thousandths()).unwrap_or(i32::MAX)
        }),
        decide_by: &each(bets(), |bet| pg_time(bet.decide_by)),
        reservations,
        keys: &each(keys(), |key| key.map(|key| key.key.as_str())),
        fingerprints: &each(keys(), |key| key.map(|key| key.fingerprint.as_str())),
        payloads: &each(notices(), |notice| notice.payload.as_str()),
        leased_until: &each(notices(), |notice| pg_time(notice.leased_until)),
        now: &each(bets(), |bet| pg_time(bet.placed_at)),
        traceparents: &each(notices(), |notice| notice.trace.map(|it| it.to_string())),
    };
    let answers = statement.load::<PlacedRow>(connection)?;
    in_places(placements.len(), answers.into_iter().map(PlacedRow::read))
}

/// The result of placing a bet.
#[derive(Queryable)]
struct PlacedRow {
    /// The position of the bet in the call, from 1.
    place: i32,
    outcome: String,
    bet: Option<Uuid>,
    price: Option<i32>,
    balance: Option<i64>,
    refused: Option<String>,
    record: Option<i64>,
}

impl PlacedRow {
    fn read(self) -> Result<(i32, Option<BetAnswer>), StoreError> {
        if self.outcome == BUSY {
            return Ok((self.place, None));
        }
        let row = FirstAnswerRow {
            outcome: Some(self.outcome),
            bet: self.bet,
            price: self.price,
            balance: self.balance,
            refused: self.refused,
        };
        let mut answer = row.read()?;
        if let Some(BetAnswer::Placed { outbox, .. }) = &mut answer {
            *outbox = self.record;
        }
        Ok((self.place, answer))
    }
}

/// The stored answer to a key. Without an outcome there is none.
#[derive(Queryable)]
struct FirstAnswerRow {
    outcome: Option<String>,
    bet: Option<Uuid>,
    price: Option<i32>,
    balance: Option<i64>,
    refused: Option<String>,
}

impl FirstAnswerRow {
    fn read(self) -> Result<Option<BetAnswer>, StoreError> {
        let Some(outcome) = self.outcome else {
            return Ok(None);
        };
        Ok(Some(match outcome.as_str() {
            "PLACED" => BetAnswer::Placed {
                bet_id: BetId(required("bet", self.bet)?),
                price: price(required("price", self.price)?)?,
                new_balance: required("balance", self.balance)?,
                outbox: None,
            },
            "REFUSED" => BetAnswer::Refused(read_refusal(&required("refused", self.refused)?)?),
            "KEY_REUSED" => BetAnswer::KeyReused,
            other => return Err(unreadable("outcome", other)),
        }))
    }
}
