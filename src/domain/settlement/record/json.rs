//! The JSON form of a record, used for the frames of a native supplier and the records on the bus.

use std::collections::HashSet;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    CancelReason, Certainty, DeadHeat, MAX_DEAD_HEAT, MAX_RECORD_BYTES, MAX_SELECTIONS, Note,
    Outcome, RecordContent, RecordError, RecordKind, Reduction, Removal, ResultRecord, Revision,
    SelectionResult, Settlement, VoidFactor, Window, Won,
};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, Source};
use crate::domain::json;
use crate::domain::odds::price::{Line, parse_exact, serialize_thousandths};
use crate::domain::timestamp::Timestamp;

/// The fields of every record.
#[derive(Deserialize)]
struct WireRecord {
    #[serde(rename = "type")]
    kind: RecordKind,
    event_id: EventId,
    market: MarketName,
    #[serde(default)]
    line: Option<Line>,
    updated_at: Timestamp,
    source: Source,
    version: i64,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Deserialize)]
struct WireSettlement<'a> {
    #[serde(borrow, deserialize_with = "json::objects")]
    selections: Vec<WireResult<'a>>,
    #[serde(default)]
    certainty: Certainty,
    #[serde(default)]
    bets_from: Option<Timestamp>,
    #[serde(default)]
    bets_until: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WireResult<'a> {
    id: SelectionId,
    result: WireOutcome,
    #[serde(default, borrow)]
    void_factor: Option<&'a RawValue>,
    #[serde(default, borrow)]
    dead_heat: Option<&'a RawValue>,
    #[serde(default, borrow)]
    reduction: Option<&'a RawValue>,
    #[serde(default)]
    removed_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WireOutcome {
    Won,
    Lost,
    Void,
    Undecided,
}

#[derive(Deserialize)]
struct WireRollback {
    #[serde(default)]
    selections: Option<Vec<SelectionId>>,
    #[serde(default)]
    bets_from: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WireCancel {
    #[serde(default)]
    from: Option<Timestamp>,
    #[serde(default)]
    until: Option<Timestamp>,
    #[serde(default)]
    reason: Option<String>,
}

impl ResultRecord {
    /// Reads a record from its JSON form. Unknown fields are ignored.
    pub fn from_json(json: &[u8]) -> Result<ResultRecord, RecordError> {
        if json.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge(json.len()));
        }
        let wire: WireRecord = read(json)?;
        let content = match wire.kind {
            RecordKind::Settlement => {
                RecordContent::Settlement(read::<WireSettlement<'_>>(json)?.read()?)
            }
            RecordKind::RollbackSettlement => {
                let WireRollback {
                    mut selections,
                    bets_from,
                } = read(json)?;
                if let Some(selections) = &mut selections {
                    check_selections(selections.iter())?;
                    selections.sort();
                }
                RecordContent::RollbackSettlement {
                    selections,
                    bets_from,
                }
            }
            RecordKind::Cancel => {
                let wire: WireCancel = read(json)?;
                let reason = wire.reason.as_deref().map(CancelReason::new).transpose()?;
                RecordContent::Cancel {
                    window: Window::new(wire.from, wire.until)?,
                    reason: reason.unwrap_or_default(),
                }
            }
            RecordKind::RollbackCancel => {
                let wire: WireCancel = read(json)?;
                RecordContent::RollbackCancel {
                    window: Window::new(wire.from, wire.until)?,
                }
            }
        };
        Ok(ResultRecord {
            event_id: wire.event_id,
            market: MarketKey {
                name: wire.market,
                line: wire.line,
            },
            revision: Revision {
                updated_at: wire.updated_at,
                version: wire.version,
            },
            source: wire.source,
            content,
            note: wire.note.as_deref().map(Note::new).transpose()?,
        })
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        // Serializing strings, numbers and lists to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, RecordError> {
    json::from_slice(json).map_err(|error| RecordError::Malformed(error.to_string()))
}

fn check_selections<'a>(
    ids: impl ExactSizeIterator<Item = &'a SelectionId>,
) -> Result<(), RecordError> {
    match ids.len() {
        0 => return Err(RecordError::NoSelections),
        count if count > MAX_SELECTIONS => return Err(RecordError::TooManySelections(count)),
        _ => {}
    }
    let mut seen = HashSet::with_capacity(ids.len());
    for id in ids {
        if !seen.insert(id) {
            return Err(RecordError::DuplicateSelection(id.clone()));
        }
    }
    Ok(())
}

impl WireSettlement<'_> {
    fn read(self) -> Result<Settlement, RecordError> {
        check_selections(self.selections.iter().map(|one| &one.id))?;
        let selections = self.selections.into_iter().map(WireResult::read);
        let mut selections = selections.collect::<Result<Vec<_>, _>>()?;
        selections.sort();
        if let (Some(from), Some(until)) = (self.bets_from, self.bets_until)
            && from >= until
        {
            return Err(RecordError::EmptyRound { from, until });
        }
        Ok(Settlement {
            selections,
            certainty: self.certainty,
            bets_from: self.bets_from,
            bets_until: self.bets_until,
        })
    }
}

impl WireResult<'_> {
    fn read(self) -> Result<SelectionResult, RecordError> {
        let void = self.read_void_factor()?;
        let dead_heat = self.read_dead_heat()?;
        let removal = self.read_removal()?;
        let void_or_none = void.unwrap_or(VoidFactor::NONE);
        let unfit_void = |result| RecordError::UnfitVoidFactor {
            selection: self.id.clone(),
            result,
        };
        let outcome = match (self.result, dead_heat) {
            (WireOutcome::Won, None) => Outcome::Won(Won::Part { void: void_or_none }),
            (WireOutcome::Won, Some(share)) if void_or_none == VoidFactor::NONE => {
                Outcome::Won(Won::DeadHeat(share))
            }
            (_, Some(_)) => return Err(RecordError::UnfitDeadHeat(self.id)),
            (WireOutcome::Lost, None) => Outcome::Lost { void: void_or_none },
            (WireOutcome::Void, None) => match void.map(VoidFactor::thousandths) {
                None | Some(1_000) => Outcome::Void { removal },
                Some(_) => return Err(unfit_void("void")),
            },
            (WireOutcome::Undecided, None) => match void_or_none {
                VoidFactor::NONE => Outcome::Undecided,
                _ => return Err(unfit_void("undecided")),
            },
        };
        if removal.is_some() && !matches!(outcome, Outcome::Void { .. }) {
            return Err(RecordError::UnfitRemoval(self.id));
        }
        Ok(SelectionResult {
            id: self.id,
            outcome,
        })
    }

    fn read_void_factor(&self) -> Result<Option<VoidFactor>, RecordError> {
        let Some(text) = self.void_factor else {
            return Ok(None);
        };
        let read = parse_exact(text.get(), (0, "0"), (1_000, "1"));
        let thousandths = read.map_err(|cause| RecordError::BadVoidFactor {
            selection: self.id.clone(),
            cause,
        })?;
        Ok(u16::try_from(thousandths)
            .ok()
            .and_then(VoidFactor::from_thousandths))
    }

    /// `None` if the place is not shared.
    fn read_dead_heat(&self) -> Result<Option<DeadHeat>, RecordError> {
        let Some(text) = self.dead_heat.map(RawValue::get) else {
            return Ok(None);
        };
        let (places, tied) = read_share(text).ok_or_else(|| RecordError::BadDeadHeat {
            selection: self.id.clone(),
            got: text.chars().take(40).collect(),
        })?;
        Ok(DeadHeat::new(places, tied))
    }

    fn read_removal(&self) -> Result<Option<Removal>, RecordError> {
        let (text, removed_at) = match (self.reduction, self.removed_at) {
            (None, None) => return Ok(None),
            (Some(text), Some(removed_at)) => (text, removed_at),
            _ => return Err(RecordError::UnfitRemoval(self.id.clone())),
        };
        let max = i64::from(Reduction::MAX.thousandths());
        let read = parse_exact(text.get(), (0, "0"), (max, "100"));
        let thousandths = read.map_err(|cause| RecordError::BadReduction {
            selection: self.id.clone(),
            cause,
        })?;
        let reduction = u32::try_from(thousandths)
            .ok()
            .and_then(Reduction::from_thousandths);
        Ok(reduction.map(|reduction| Removal {
            reduction,
            removed_at,
        }))
    }
}

/// Reads `"n/d"`, or a number as thousandths, with 0 < n ≤ d ≤ [`MAX_DEAD_HEAT`].
fn read_share(text: &str) -> Option<(u16, u16)> {
    let is_valid =
        |share: &(u16, u16)| 0 < share.0 && share.0 <= share.1 && share.1 <= MAX_DEAD_HEAT;
    let share = match serde_json::from_str::<String>(text) {
        Ok(fraction) => {
            let (places, tied) = fraction.split_once('/')?;
            (whole(places)?, whole(tied)?)
        }
        Err(_) => {
            let thousandths = parse_exact(text, (0, "0"), (1_000, "1")).ok()?;
            (u16::try_from(thousandths).ok()?, 1_000)
        }
    };
    Some(share).filter(is_valid)
}

/// Digits only: no sign.
fn whole(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

impl Serialize for ResultRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ResultRecord", 12)?;
        out.serialize_field("type", &self.content.kind())?;
        out.serialize_field("event_id", &self.event_id)?;
        out.serialize_field("market", &self.market.name)?;
        if let Some(line) = &self.market.line {
            out.serialize_field("line", line)?;
        }
        match &self.content {
            RecordContent::Settlement(settlement) => {
                out.serialize_field("selections", &settlement.selections)?;
                out.serialize_field("certainty", &settlement.certainty)?;
                write_bets_from(&mut out, &settlement.bets_from)?;
                if let Some(until) = &settlement.bets_until {
                    out.serialize_field("bets_until", until)?;
                }
            }
            RecordContent::RollbackSettlement {
                selections,
                bets_from,
            } => {
                if let Some(selections) = selections {
                    out.serialize_field("selections", selections)?;
                }
                write_bets_from(&mut out, bets_from)?;
            }
            RecordContent::Cancel { window, reason } => {
                write_window(&mut out, window)?;
                out.serialize_field("reason", reason.as_str())?;
            }
            RecordContent::RollbackCancel { window } => write_window(&mut out, window)?,
        }
        out.serialize_field("updated_at", &self.revision.updated_at)?;
        out.serialize_field("source", &self.source)?;
        out.serialize_field("version", &self.revision.version)?;
        if let Some(note) = &self.note {
            out.serialize_field("note", note)?;
        }
        out.end()
    }
}

fn write_bets_from<S: SerializeStruct>(
    out: &mut S,
    bets_from: &Option<Timestamp>,
) -> Result<(), S::Error> {
    match bets_from {
        Some(from) => out.serialize_field("bets_from", from),
        None => Ok(()),
    }
}

fn write_window<S: SerializeStruct>(out: &mut S, window: &Window) -> Result<(), S::Error> {
    if let Some(from) = &window.from {
        out.serialize_field("from", from)?;
    }
    if let Some(until) = &window.until {
        out.serialize_field("until", until)?;
    }
    Ok(())
}

impl Serialize for SelectionResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("SelectionResult", 5)?;
        out.serialize_field("id", &self.id)?;
        match self.outcome {
            Outcome::Won(won) => {
                out.serialize_field("result", &WireOutcome::Won)?;
                match won {
                    Won::Part { void } => write_void_factor(&mut out, void)?,
                    Won::DeadHeat(share) => {
                        out.serialize_field("dead_heat", &share.to_string())?;
                    }
                }
            }
            Outcome::Lost { void } => {
                out.serialize_field("result", &WireOutcome::Lost)?;
                write_void_factor(&mut out, void)?;
            }
            Outcome::Void { removal } => {
                out.serialize_field("result", &WireOutcome::Void)?;
                if let Some(removal) = removal {
                    out.serialize_field("reduction", &removal.reduction)?;
                    out.serialize_field("removed_at", &removal.removed_at)?;
                }
            }
            Outcome::Undecided => out.serialize_field("result", &WireOutcome::Undecided)?,
        }
        out.end()
    }
}

fn write_void_factor<S: SerializeStruct>(out: &mut S, void: VoidFactor) -> Result<(), S::Error> {
    if void == VoidFactor::NONE {
        return Ok(());
    }
    out.serialize_field("void_factor", &void)
}

impl Serialize for VoidFactor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_thousandths(i64::from(self.0), serializer)
    }
}

impl Serialize for Reduction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_thousandths(i64::from(self.0), serializer)
    }
}
