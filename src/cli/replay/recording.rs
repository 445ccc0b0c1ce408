//! Recordings loaded from files: Betfair `mcm` messages, one per line, merged into one timeline.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ReplayError;

/// Pause between the end of a round and the start of the next, in recording time.
const PAUSE_BETWEEN_ROUNDS_MS: u64 = 1_000;

/// Recordings merged into one timeline. Every file starts at offset 0 and keeps its own timestamps.
#[derive(Debug)]
pub(crate) struct Recording {
    /// The messages ordered by offset; the first message of each file comes first.
    pub steps: Vec<Step>,
    /// The number of steps that are the first of their file. Together they form the image of a new
    /// subscription.
    pub heads: usize,
    /// Time from the start of one round to the start of the next.
    pub period_ms: u64,
    /// Added to the definition versions in each further round, because versions must increase.
    versions: i64,
    /// Identifies the content: positions of one recording are invalid in another.
    pub fingerprint: u64,
    /// The ids of all markets.
    pub markets: HashSet<Arc<str>>,
}

/// A message of a recording.
#[derive(Debug)]
pub(crate) struct Step {
    /// Milliseconds since the start of its file.
    pub offset_ms: u64,
    /// Its `pt`.
    pub pt: i64,
    /// Its `status`, for example 503.
    pub status: Option<i64>,
    /// Its market changes.
    pub markets: Vec<MarketStep>,
}

/// The change of one market.
#[derive(Debug)]
pub(crate) struct MarketStep {
    /// The market id.
    pub id: Arc<str>,
    /// The change as JSON; the first change of a market contains `"img":true`.
    pub json: Box<str>,
    /// The version of its market definition, if it contains one.
    version: Option<DefinitionVersion>,
}

/// The position and value of a version number in the JSON text of a change.
#[derive(Debug)]
struct DefinitionVersion {
    place: std::ops::Range<usize>,
    version: i64,
}

#[derive(Deserialize)]
struct Line<'a> {
    op: Option<String>,
    pt: i64,
    ct: Option<String>,
    status: Option<i64>,
    #[serde(borrow)]
    mc: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct MarketId {
    id: String,
}

impl Recording {
    /// Loads and merges files. Errors name the file and line.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Recording, ReplayError> {
        let mut fingerprint = Fingerprint::new();
        let mut loaded = Vec::new();
        for file in files {
            let steps = load_file(file, &mut fingerprint)?;
            loaded.extend(
                steps
                    .into_iter()
                    .enumerate()
                    .map(|(index, step)| (index > 0, step)),
            );
        }
        loaded.sort_by_key(|(later, step)| (step.offset_ms, *later));
        let heads = loaded.iter().take_while(|(later, _)| !later).count();
        let mut recording = Recording {
            steps: loaded.into_iter().map(|(_, step)| step).collect(),
            heads,
            period_ms: 0,
            versions: 0,
            fingerprint: fingerprint.0,
            markets: HashSet::new(),
        };
        let last = recording.steps.last().map_or(0, |step| step.offset_ms);
        recording.period_ms = last.saturating_add(PAUSE_BETWEEN_ROUNDS_MS);
        recording.mark_images()?;
        Ok(recording)
    }

    /// Marks the first change of each market as an image, which replaces the client's state of the
    /// market.
    fn mark_images(&mut self) -> Result<(), ReplayError> {
        for market in self.steps.iter_mut().flat_map(|step| &mut step.markets) {
            if self.markets.insert(market.id.clone()) {
                market.json = as_image(&market.json).map_err(ReplayError::Rewrite)?;
            }
            market.version = version_in(&market.json);
        }
        let versions = || {
            self.steps
                .iter()
                .flat_map(|step| &step.markets)
                .filter_map(|market| market.version.as_ref())
        };
        let first = versions().map(|found| found.version).min();
        let last = versions().map(|found| found.version).max();
        self.versions = last.zip(first).map_or(0, |(last, first)| {
            last.saturating_sub(first).saturating_add(1)
        });
        Ok(())
    }

    /// Writes a market change with the version number for this round.
    pub(crate) fn write(&self, market: &MarketStep, round: u64, out: &mut String) {
        let version = market.version.as_ref().filter(|_| round > 0);
        let parts = version
            .and_then(|found| Some((found, market.json.split_at_checked(found.place.start)?)));
        let Some((found, (before, after))) = parts else {
            return out.push_str(&market.json);
        };
        let rounds = i64::try_from(round).unwrap_or(i64::MAX);
        let version = found
            .version
            .saturating_add(self.versions.saturating_mul(rounds));
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{before}{version}{}",
            after.get(found.place.len()..).unwrap_or_default()
        );
    }
}

fn load_file(file: &Path, fingerprint: &mut Fingerprint) -> Result<Vec<Step>, ReplayError> {
    let fault = |cause: std::io::Error| ReplayError::File {
        file: file.to_owned(),
        cause,
    };
    let mut steps: Vec<Step> = Vec::new();
    let mut start = None;
    for (index, line) in BufReader::new(File::open(file).map_err(fault)?)
        .lines()
        .enumerate()
    {
        let fault = |cause: String| ReplayError::Line {
            file: file.to_owned(),
            line: index + 1,
            cause,
        };
        let line = line.map_err(|error| fault(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        fingerprint.add(line.as_bytes());
        let Some(mut step) = read_line(&line).map_err(fault)? else {
            continue;
        };
        let start = *start.get_or_insert(step.pt);
        let offset = u64::try_from(step.pt.saturating_sub(start)).unwrap_or(0);
        // Time within a file never goes back: the order of the lines wins.
        step.offset_ms = offset.max(steps.last().map_or(0, |last| last.offset_ms));
        steps.push(step);
    }
    if steps.is_empty() {
        Err(ReplayError::Empty {
            file: file.to_owned(),
        })
    } else {
        Ok(steps)
    }
}

/// Parses a line. Recorded heartbeats are skipped, because the server sends its own.
fn read_line(line: &str) -> Result<Option<Step>, String> {
    let message: Line<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if let Some(op) = message.op.filter(|op| op != "mcm") {
        return Err(format!("op `{op}` is not `mcm`"));
    }
    if message.ct.as_deref() == Some("HEARTBEAT") {
        return Ok(None);
    }
    let is_image = message.ct.as_deref() == Some("SUB_IMAGE");
    let markets = message
        .mc
        .unwrap_or_default()
        .into_iter()
        .map(|text| read_market(text.get(), is_image));
    let markets = markets
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| format!("mc: {error}"))?;
    Ok(Some(Step {
        offset_ms: 0,
        pt: message.pt,
        status: message.status,
        markets,
    }))
}

fn read_market(json: &str, is_image: bool) -> Result<MarketStep, serde_json::Error> {
    let MarketId { id } = serde_json::from_str(json)?;
    let json = if is_image {
        as_image(json)?
    } else {
        json.into()
    };
    Ok(MarketStep {
        id: id.into(),
        json,
        version: None,
    })
}

/// The version number of the market definition in a change.
fn version_in(json: &str) -> Option<DefinitionVersion> {
    let change: BTreeMap<&str, &RawValue> = serde_json::from_str(json).ok()?;
    let definition = change.get("marketDefinition")?.get();
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(definition).ok()?;
    let text = fields.get("version")?.get();
    // `text` is a slice of `json`.
    let start = (text.as_ptr() as usize).checked_sub(json.as_ptr() as usize)?;
    Some(DefinitionVersion {
        place: start..start + text.len(),
        version: text.parse().ok()?,
    })
}

/// The change with `"img":true` added. All other fields keep their text.
fn as_image(json: &str) -> Result<Box<str>, serde_json::Error> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json)?;
    fields.insert("img".to_owned(), RawValue::from_string("true".to_owned())?);
    Ok(serde_json::to_string(&fields)?.into())
}

/// FNV-1a. Unlike the standard library's hasher, its result is guaranteed to be the same on every
/// machine and in every version.
struct Fingerprint(u64);

impl Fingerprint {
    fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests;
