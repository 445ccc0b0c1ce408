//! A recorded race that goes on now: the test says how far. Every time in the recording moves with the
//! messages, so that bets placed now are placed before or after the removal of a runner as they would
//! have been then.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sports_bet_platform::domain::timestamp::Timestamp;

/// Between two messages.
const GAP: Duration = Duration::from_millis(1);
/// A time between two messages is so much closer to the later one than it was.
const COMPRESSION: i64 = 1_000_000;

/// A race, and how far it is.
pub struct Race {
    messages: Vec<Value>,
    /// When the messages so far happened, in milliseconds since 1970.
    times: Vec<i64>,
}

impl Race {
    /// A race that has not begun.
    pub fn recorded(recording: &Path) -> Race {
        let text = std::fs::read_to_string(recording).unwrap();
        let messages = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        Race {
            messages,
            times: Vec::new(),
        }
    }

    /// Goes on from now until it has this many messages, or to its end, and waits until that is over.
    pub async fn go_on(&mut self, count: usize) {
        let mut time = Timestamp::now();
        while self.times.len() < count.min(self.messages.len()) {
            time = time.later_by(GAP);
            self.times.push(time.micros() / 1_000);
        }
        let left = time.seconds_since(Timestamp::now()).max(0.0);
        tokio::time::sleep(Duration::from_secs_f64(left)).await;
    }

    /// The recording so far.
    pub fn so_far(&self) -> String {
        let mut recording = String::new();
        for (message, time) in self.messages.iter().zip(&self.times) {
            let mut message = message.clone();
            message["pt"] = json!(time);
            for change in message["mc"].as_array_mut().into_iter().flatten() {
                if let Some(definition) = change.get_mut("marketDefinition") {
                    self.move_times(definition);
                }
            }
            writeln!(recording, "{message}").unwrap();
        }
        recording
    }

    fn move_times(&self, definition: &mut Value) {
        for name in ["marketTime", "suspendTime", "openDate", "settledTime"] {
            self.move_time(definition, name);
        }
        for runner in definition["runners"].as_array_mut().unwrap() {
            self.move_time(runner, "removalDate");
        }
    }

    fn move_time(&self, object: &mut Value, name: &str) {
        let Some(text) = object.get(name).and_then(Value::as_str) else {
            return;
        };
        let recorded = text.parse::<Timestamp>().unwrap().micros();
        let recorded_at = |message: &Value| message["pt"].as_i64().unwrap() * 1_000;
        let mut so_far = self.messages.iter().zip(&self.times);
        // What is still to come follows the last message.
        let (next, time) = so_far
            .find(|(message, _)| recorded_at(message) >= recorded)
            .unwrap_or((
                &self.messages[self.times.len() - 1],
                &self.times[self.times.len() - 1],
            ));
        let moved = time * 1_000 - (recorded_at(next) - recorded) / COMPRESSION;
        object[name] = json!(Timestamp::from_micros(moved).unwrap().to_string());
    }
}
