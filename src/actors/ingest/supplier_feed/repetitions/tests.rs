mod selected;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    repetitions: Repetitions,
    now: Instant,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            repetitions: Repetitions::new(4 * SECOND),
            now: Instant::now(),
        }
    }

    /// Reports the states of the sources a and b after a while; what is repeated.
    fn after(&mut self, wait: Duration, a: SourceState, b: SourceState) -> Vec<String> {
        self.now += wait;
        let source = |name| Source::new(name).unwrap();
        let states = [(source("a"), a), (source("b"), b)];
        let due = self.repetitions.due(&states, self.now);
        due.iter()
            .map(|source| source.as_str().to_owned())
            .collect()
    }
}

#[test]
fn source_is_repeated_twice_when_it_becomes_live() {
    use SourceState::{Live, Recovering, Stale};
    let mut rig = Rig::new();
    assert_eq!(rig.after(SECOND, Recovering, Live), ["b"]);
    assert_eq!(rig.after(SECOND, Live, Live), ["a"]);
    assert_eq!(rig.after(SECOND, Live, Live), [""; 0]);
    assert_eq!(rig.after(SECOND, Live, Live), ["b"], "again");
    assert_eq!(rig.after(SECOND, Live, Stale), ["a"], "again");
    for _ in 0..10 {
        assert_eq!(rig.after(SECOND, Live, Stale), [""; 0]);
    }
    assert_eq!(rig.after(SECOND, Live, Live), ["b"]);
}

/// The reporter has reported the sources as stale in the meantime.
#[test]
fn unreported_source_is_repeated() {
    use SourceState::Live;
    let mut rig = Rig::new();
    rig.after(SECOND, Live, Live);
    rig.after(3 * SECOND, Live, Live);
    assert_eq!(rig.after(3 * SECOND, Live, Live), [""; 0]);
    assert_eq!(rig.after(4 * SECOND, Live, Live), ["a", "b"]);
}
