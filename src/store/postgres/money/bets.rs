//! Bets.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::super::error::Failure;
use super::super::statement::statement;
use super::super::{line_text, stamp, time, unreadable};
use super::{amount, given, parsed, size};
use crate::domain::bet::{Bet, BetId, BetRefusal, BetStatus, BetStep, Verdict};
use crate::domain::ids::{MarketKey, UserId};
use crate::domain::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::money::{BetAnswer, Decided, Notice, Page, RequestKey, read_refusal, refusal_text};

statement! {
    /// Places a bet.
    Place<'a> returns (Text, Nullable<SqlUuid>, Nullable<Integer>, Nullable<BigInt>, Nullable<Text>, Nullable<BigInt>):
    "SELECT outcome, bet, price, balance, refused, record FROM bet_place(" { id: Uuid as SqlUuid } ", "
        { user: &'a str as Text } ", " { event: &'a str as Text } ", " { market: &'a str as Text } ", "
        { line: &'a str as Text } ", " { selection: &'a str as Text } ", " { stake: i64 as BigInt } ", "
        { price: i32 as Integer } ", " { decide_by: PgTimestamp as Timestamptz } ", "
        { reservation: Uuid as SqlUuid } ", " { key: Option<&'a str> as Nullable<Text> } ", "
        { fingerprint: Option<&'a str> as Nullable<Text> } ", " { payload: &'a str as Text } ", "
        { leased_until: PgTimestamp as Timestamptz } ", " { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// Keeps a refusal.
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
    /// Decides a bet.
    Decide<'a> returns (Text, Nullable<Text>, Nullable<BigInt>):
    "SELECT outcome, status, record FROM bet_decide(" { id: Uuid as SqlUuid } ", " { status: &'a str as Text } ", "
        { reason: Option<&'a str> as Nullable<Text> } ", " { provider_ref: Option<&'a str> as Nullable<Text> } ", "
        { cancel: bool as Bool } ", " { payload: &'a str as Text } ", "
        { leased_until: PgTimestamp as Timestamptz } ", " { now: PgTimestamp as Timestamptz } ")"
}

/// A bet as it is read.
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
    /// A bet.
    ReadBet returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>, Nullable<Text>,
        Timestamptz, Timestamptz, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at
    FROM bets WHERE id = " { id: Uuid as SqlUuid } ""
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
    /// Pending bets whose time is over.
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

pub(super) fn place(
    connection: &mut PgConnection,
    bet: &Bet,
    reservation: Uuid,
    key: Option<&RequestKey>,
    notice: &Notice,
) -> Result<BetAnswer, Failure> {
    type Row = (String, Option<Uuid>, Option<i32>, Option<i64>, Option<String>, Option<i64>);
    let statement = Place {
        id: bet.id.0,
        user: bet.user_id.as_str(),
        event: bet.event_id.as_str(),
        market: bet.market.name.as_str(),
        line: &line_text(bet.market.line),
        selection: bet.selection.as_str(),
        stake: bet.stake.cents(),
        price: i32::try_from(bet.price.thousandths()).unwrap_or(i32::MAX),
        decide_by: stamp(bet.decide_by),
        reservation,
        key: key.map(|key| key.key.as_str()),
        fingerprint: key.map(|key| key.fingerprint.as_str()),
        payload: &notice.payload,
        leased_until: stamp(notice.leased_until),
        now: stamp(bet.placed_at),
    };
    let (outcome, bet, price, balance, refused, outbox) = statement.get_result::<Row>(connection)?;
    answer(Answer { outcome, bet, price, balance, refused }, outbox)
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
    let statement = FirstAnswer { user: user_id.as_str(), key: &key.key, fingerprint: &key.fingerprint };
    first(statement.get_result::<AnswerRow>(connection)?)
}

type AnswerRow = (Option<String>, Option<Uuid>, Option<i32>, Option<i64>, Option<String>);

fn first((outcome, bet, price, balance, refused): AnswerRow) -> Result<Option<BetAnswer>, Failure> {
    let Some(outcome) = outcome else { return Ok(None) };
    answer(Answer { outcome, bet, price, balance, refused }, None).map(Some)
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

pub(super) fn decide(
    connection: &mut PgConnection,
    bet_id: BetId,
    verdict: &Verdict,
    notice: &Notice,
    at: Timestamp,
) -> Result<Decided, Failure> {
    let statement = Decide {
        id: bet_id.0,
        status: verdict.status().as_str(),
        reason: verdict.reason(),
        provider_ref: verdict.provider_ref(),
        cancel: *verdict == Verdict::TimedOut,
        payload: &notice.payload,
        leased_until: stamp(notice.leased_until),
        now: stamp(at),
    };
    let (outcome, status, record) = statement.get_result::<(String, Option<String>, Option<i64>)>(connection)?;
    Ok(match outcome.as_str() {
        "DECIDED" => Decided::Now { outbox: given("record", record)? },
        "ALREADY" => Decided::Before(parsed("status", &given("status", status)?)?),
        "UNKNOWN" => Decided::Unknown,
        other => return Err(unreadable("outcome", other).into()),
    })
}

pub(super) fn read(connection: &mut PgConnection, bet_id: BetId) -> Result<Option<Bet>, Failure> {
    let row = ReadBet { id: bet_id.0 }.get_result::<BetRow>(connection).optional()?;
    Ok(row.map(bet).transpose()?)
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

pub(super) fn overdue(connection: &mut PgConnection, at: Timestamp, limit: usize) -> Result<Vec<Bet>, Failure> {
    bets(OverdueBets { now: stamp(at), limit: size(limit) }.load::<BetRow>(connection)?)
}

pub(super) fn history(connection: &mut PgConnection, bet_id: BetId) -> Result<Vec<BetStep>, Failure> {
    type Row = (Option<String>, String, Option<String>, PgTimestamp);
    let read = |(from, to, reason, at): Row| {
        Ok::<_, StoreError>(BetStep {
            from: from.map(|status| parsed("old_status", &status)).transpose()?,
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
    let (id, user, event, market, line, selection, stake, thousandths, status, reason, provider, placed, by, decided) =
        row;
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
    let price = u32::try_from(thousandths).ok().and_then(Price::from_thousandths);
    price.ok_or_else(|| unreadable("price_thousandths", thousandths))
}
