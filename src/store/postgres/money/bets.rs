//! Bets.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use super::{Wait, amount, given, parsed, size};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{MarketKey, UserId};
use crate::domain::odds::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{
    BetAnswer, BetPlacement, DecideBet, Decided, Page, RequestKey, read_refusal, refusal_text,
};
use crate::store::postgres::error::Failure;
use crate::store::postgres::statement::statement;
use crate::store::postgres::{line_text, stamp, time, unreadable};

/// A result row of placed bets: the position of the bet in the call, from 1, and the answer.
type PlaceRow = (
    i32,
    String,
    Option<Uuid>,
    Option<i32>,
    Option<i64>,
    Option<String>,
    Option<i64>,
);

statement! {
    /// Places bets.
    Place<'a> returns (Integer, Text, Nullable<SqlUuid>, Nullable<Integer>, Nullable<BigInt>, Nullable<Text>,
        Nullable<BigInt>):
    "SELECT place, outcome, bet, price, balance, refused, record FROM bets_place(" { waits: bool as Bool } ", "
        { ids: &'a [Uuid] as Array<SqlUuid> } ", " { users: &'a [&'a str] as Array<Text> } ", "
        { events: &'a [&'a str] as Array<Text> } ", " { markets: &'a [&'a str] as Array<Text> } ", "
        { lines: &'a [String] as Array<Text> } ", " { selections: &'a [&'a str] as Array<Text> } ", "
        { stakes: &'a [i64] as Array<BigInt> } ", " { prices: &'a [i32] as Array<Integer> } ", "
        { decide_by: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { reservations: &'a [Uuid] as Array<SqlUuid> } ", "
        { keys: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { fingerprints: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { payloads: &'a [&'a str] as Array<Text> } ", " { leased_until: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { now: &'a [PgTimestamp] as Array<Timestamptz> } ")"
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
    /// Decides bets.
    Decide<'a> returns (Integer, Text, Nullable<Text>, Nullable<BigInt>):
    "SELECT place, outcome, status, record FROM bets_decide(" { waits: bool as Bool } ", "
        { ids: &'a [Uuid] as Array<SqlUuid> } ", " { statuses: &'a [&'a str] as Array<Text> } ", "
        { reasons: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { provider_refs: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { cancels: &'a [bool] as Array<Bool> } ", " { payloads: &'a [&'a str] as Array<Text> } ", "
        { leased_until: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { now: &'a [PgTimestamp] as Array<Timestamptz> } ")"
}

/// The columns of a bet.
type BetRow = (
    Uuid,
    String,
    String,
    String,
    String,
    String,
    i64,
    i32,
    String,
    Option<String>,
    Option<String>,
    PgTimestamp,
    PgTimestamp,
    Option<PgTimestamp>,
);

statement! {
    /// Bets.
    ReadBets<'a> returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>, Nullable<Text>,
        Timestamptz, Timestamptz, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at
    FROM bets WHERE id = ANY (" { ids: &'a [Uuid] as Array<SqlUuid> } ")"
}

statement! {
    /// A page of a user's bets.
    BetsOfUser<'a> returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>,
        Nullable<Text>, Timestamptz, Timestamptz, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at
    FROM bets WHERE user_id = " { user: &'a str as Text } " AND id < " { before: Uuid as SqlUuid }
    " AND status = COALESCE(" { status: Option<&'a str> as Nullable<Text> } ", status)
    ORDER BY id DESC LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// Pending bets past their deadline.
    OverdueBets returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>, Nullable<Text>,
        Timestamptz, Timestamptz, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at
    FROM bets WHERE status = 'PENDING_CONFIRMATION' AND decide_by <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY decide_by LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// The steps of a bet.
    BetHistory returns (Nullable<Text>, Text, Nullable<Text>, Timestamptz):
    "SELECT old_status, new_status, reason, at FROM bet_history WHERE bet_id = " { id: Uuid as SqlUuid } " ORDER BY id"
}

/// Places bets, each with a reservation of the given id.
pub(super) fn place(
    connection: &mut PgConnection,
    slips: &[&BetPlacement],
    reservations: &[Uuid],
    wait: Wait,
) -> Result<Vec<Option<BetAnswer>>, Failure> {
    let bets = || slips.iter().map(|slip| &slip.bet);
    let keys = || slips.iter().map(|slip| slip.key.as_ref());
    let statement = Place {
        waits: wait == Wait::ForWallets,
        ids: &each(bets(), |bet| bet.id.0),
        users: &each(bets(), |bet| bet.user_id.as_str()),
        events: &each(bets(), |bet| bet.event_id.as_str()),
        markets: &each(bets(), |bet| bet.market.name.as_str()),
        lines: &each(bets(), |bet| line_text(bet.market.line)),
        selections: &each(bets(), |bet| bet.selection.as_str()),
        stakes: &each(bets(), |bet| bet.stake.cents()),
        prices: &each(bets(), |bet| {
            i32::try_from(bet.price.thousandths()).unwrap_or(i32::MAX)
        }),
        decide_by: &each(bets(), |bet| stamp(bet.decide_by)),
        reservations,
        keys: &each(keys(), |key| key.map(|key| key.key.as_str())),
        fingerprints: &each(keys(), |key| key.map(|key| key.fingerprint.as_str())),
        payloads: &each(slips, |slip| slip.notice.payload.as_str()),
        leased_until: &each(slips, |slip| stamp(slip.notice.leased_until)),
        now: &each(bets(), |bet| stamp(bet.placed_at)),
    };
    let read = |(place, outcome, bet, price, balance, refused, outbox): PlaceRow| {
        let is_busy = outcome == BUSY;
        let answer = (!is_busy).then(|| {
            answer(
                Answer {
                    outcome,
                    bet,
                    price,
                    balance,
                    refused,
                },
                outbox,
            )
        });
        Ok((place, answer.transpose()?))
    };
    in_places(
        slips.len(),
        statement
            .load::<PlaceRow>(connection)?
            .into_iter()
            .map(read),
    )
}

/// The outcome of a bet that must be placed or decided alone.
const BUSY: &str = "BUSY";

fn each<I: IntoIterator, T>(items: I, what: impl FnMut(I::Item) -> T) -> Vec<T> {
    items.into_iter().map(what).collect()
}

/// The answers in the order of their places, which count from 1.
fn in_places<T>(
    size: usize,
    answers: impl Iterator<Item = Result<(i32, Option<T>), Failure>>,
) -> Result<Vec<Option<T>>, Failure> {
    let mut placed: Vec<Option<T>> = std::iter::repeat_with(|| None).take(size).collect();
    for answer in answers {
        let (place, answer) = answer?;
        let index = usize::try_from(place)
            .ok()
            .and_then(|place| place.checked_sub(1));
        *index
            .and_then(|index| placed.get_mut(index))
            .ok_or_else(|| unreadable("place", place))? = answer;
    }
    Ok(placed)
}

pub(super) fn refuse(
    connection: &mut PgConnection,
    user_id: &UserId,
    key: &RequestKey,
    refusal: &BetRefusal,
    at: Timestamp,
) -> Result<BetAnswer, Failure> {
    let statement = Refuse {
        user: user_id.as_str(),
        key: &key.key,
        fingerprint: &key.fingerprint,
        refusal: &refusal_text(refusal)?,
        now: stamp(at),
    };
    let row = statement.get_result::<AnswerRow>(connection)?;
    Ok(given("outcome", first(row)?)?)
}

pub(super) fn first_answer(
    connection: &mut PgConnection,
    user_id: &UserId,
    key: &RequestKey,
) -> Result<Option<BetAnswer>, Failure> {
    let statement = FirstAnswer {
        user: user_id.as_str(),
        key: &key.key,
        fingerprint: &key.fingerprint,
    };
    first(statement.get_result::<AnswerRow>(connection)?)
}

type AnswerRow = (
    Option<String>,
    Option<Uuid>,
    Option<i32>,
    Option<i64>,
    Option<String>,
);

fn first((outcome, bet, price, balance, refused): AnswerRow) -> Result<Option<BetAnswer>, Failure> {
    let Some(outcome) = outcome else {
        return Ok(None);
    };
    answer(
        Answer {
            outcome,
            bet,
            price,
            balance,
            refused,
        },
        None,
    )
    .map(Some)
}

struct Answer {
    outcome: String,
    bet: Option<Uuid>,
    price: Option<i32>,
    balance: Option<i64>,
    refused: Option<String>,
}

fn answer(of: Answer, outbox: Option<i64>) -> Result<BetAnswer, Failure> {
    Ok(match of.outcome.as_str() {
        "PLACED" => BetAnswer::Placed {
            bet_id: BetId(given("bet", of.bet)?),
            price: price(given("price", of.price)?)?,
            new_balance: given("balance", of.balance)?,
            outbox,
        },
        "REFUSED" => BetAnswer::Refused(read_refusal(&given("refused", of.refused)?)?),
        "KEY_REUSED" => BetAnswer::KeyReused,
        other => return Err(unreadable("outcome", other).into()),
    })
}

/// Decides bets.
pub(super) fn decide(
    connection: &mut PgConnection,
    decisions: &[&DecideBet],
    wait: Wait,
) -> Result<Vec<Option<Decided>>, Failure> {
    let statement = Decide {
        waits: wait == Wait::ForWallets,
        ids: &each(decisions, |decision| decision.bet_id.0),
        statuses: &each(decisions, |decision| decision.verdict.status().as_str()),
        reasons: &each(decisions, |decision| decision.verdict.reason()),
        provider_refs: &each(decisions, |decision| decision.verdict.provider_ref()),
        cancels: &each(decisions, |decision| {
            decision.verdict == BetOutcome::TimedOut
        }),
        payloads: &each(decisions, |decision| decision.notice.payload.as_str()),
        leased_until: &each(decisions, |decision| stamp(decision.notice.leased_until)),
        now: &each(decisions, |decision| stamp(decision.at)),
    };
    type Row = (i32, String, Option<String>, Option<i64>);
    let read = |(place, outcome, status, record): Row| {
        let decided = match outcome.as_str() {
            "DECIDED" => Some(Decided::Now {
                outbox: given("record", record)?,
            }),
            "ALREADY" => Some(Decided::Before(parsed(
                "status",
                &given("status", status)?,
            )?)),
            "UNKNOWN" => Some(Decided::Unknown),
            BUSY => None,
            other => return Err(unreadable("outcome", other).into()),
        };
        Ok((place, decided))
    };
    in_places(
        decisions.len(),
        statement.load::<Row>(connection)?.into_iter().map(read),
    )
}

/// Bets, in the order of the given ids.
pub(super) fn read(
    connection: &mut PgConnection,
    bet_ids: &[BetId],
) -> Result<Vec<Option<Bet>>, Failure> {
    let ids = each(bet_ids, |bet_id| bet_id.0);
    let mut found = std::collections::HashMap::new();
    for row in (ReadBets { ids: &ids }).load::<BetRow>(connection)? {
        let bet = bet(row)?;
        found.insert(bet.id, bet);
    }
    Ok(each(bet_ids, |bet_id| found.get(bet_id).cloned()))
}

pub(super) fn of_user(
    connection: &mut PgConnection,
    user_id: &UserId,
    status: Option<BetStatus>,
    page: Page<BetId>,
) -> Result<Vec<Bet>, Failure> {
    let statement = BetsOfUser {
        user: user_id.as_str(),
        before: page.before.map_or(Uuid::max(), |bet| bet.0),
        status: status.map(BetStatus::as_str),
        limit: size(page.limit),
    };
    bets(statement.load::<BetRow>(connection)?)
}

pub(super) fn overdue(
    connection: &mut PgConnection,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<Bet>, Failure> {
    bets(
        OverdueBets {
            now: stamp(at),
            limit: size(limit),
        }
        .load::<BetRow>(connection)?,
    )
}

pub(super) fn history(
    connection: &mut PgConnection,
    bet_id: BetId,
) -> Result<Vec<BetStep>, Failure> {
    type Row = (Option<String>, String, Option<String>, PgTimestamp);
    let read = |(from, to, reason, at): Row| {
        Ok::<_, StoreError>(BetStep {
            from: from
                .map(|status| parsed("old_status", &status))
                .transpose()?,
            to: parsed("new_status", &to)?,
            reason,
            at: time(at)?,
        })
    };
    let rows = BetHistory { id: bet_id.0 }.load::<Row>(connection)?;
    Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
}

fn bets(rows: Vec<BetRow>) -> Result<Vec<Bet>, Failure> {
    Ok(rows.into_iter().map(bet).collect::<Result<_, _>>()?)
}

fn bet(row: BetRow) -> Result<Bet, StoreError> {
    let (
        id,
        user,
        event,
        market,
        line,
        selection,
        stake,
        thousandths,
        status,
        reason,
        provider,
        placed,
        by,
        decided,
    ) = row;
    let line = Some(line).filter(|line| !line.is_empty());
    Ok(Bet {
        id: BetId(id),
        user_id: parsed("user_id", &user)?,
        event_id: parsed("event_id", &event)?,
        market: MarketKey {
            name: parsed("market", &market)?,
            line: line.map(|line| parsed("line", &line)).transpose()?,
        },
        selection: parsed("selection", &selection)?,
        stake: amount(stake)?,
        price: price(thousandths)?,
        status: parsed("status", &status)?,
        reason,
        provider_ref: provider,
        placed_at: time(placed)?,
        decide_by: time(by)?,
        decided_at: decided.map(time).transpose()?,
    })
}

fn price(thousandths: i32) -> Result<Price, StoreError> {
    let price = u32::try_from(thousandths)
        .ok()
        .and_then(Price::from_thousandths);
    price.ok_or_else(|| unreadable("price_thousandths", thousandths))
}
