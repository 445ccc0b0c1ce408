use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::ids::Source;

fn change(source: &str, is_lost: bool) -> RestrictionChange {
    RestrictionChange {
        sources: [(Source::new(source).unwrap(), is_lost)].into(),
        ..RestrictionChange::default()
    }
}

fn events(numbers: &[u32]) -> BTreeSet<EventId> {
    numbers
        .iter()
        .map(|number| EventId::new(&number.to_string()).unwrap())
        .collect()
}

#[test]
fn changes_during_run_follow_together() {
    let mut restatements = Restatements::default();
    assert_eq!(restatements.changed(RestrictionChange::default()), None);
    let first = restatements.changed(change("a", true)).unwrap();
    assert_eq!((first.only, &*first.change), (None, &change("a", true)));
    assert_eq!(restatements.changed(change("b", true)), None);
    assert_eq!(restatements.changed(change("a", false)), None);
    let Next::Run(second) = restatements.finished(events(&[])) else {
        panic!("the changes are not published");
    };
    let mut both = change("b", true);
    both.extend(change("a", false));
    assert_eq!((second.only, &*second.change), (None, &both));
    assert_eq!(restatements.finished(events(&[])), Next::Nothing);
}

#[test]
fn failed_books_are_retried() {
    let mut restatements = Restatements::default();
    restatements.changed(change("a", true));
    assert_eq!(restatements.finished(events(&[1, 2])), Next::RetryLater);
    let retry = restatements.retry_due().unwrap();
    assert_eq!(retry.only, Some(events(&[1, 2])));
    assert_eq!(*retry.change, change("a", true));
    assert_eq!(restatements.finished(events(&[2])), Next::RetryLater);
    // A new change is published to all, and covers what failed.
    let all = restatements.changed(change("b", true)).unwrap();
    let mut both = change("a", true);
    both.extend(change("b", true));
    assert_eq!((all.only, &*all.change), (None, &both));
    assert_eq!(restatements.retry_due(), None);
    assert_eq!(restatements.finished(events(&[])), Next::Nothing);
    assert_eq!(restatements.retry_due(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Change {
        source: u8,
        is_lost: bool,
    },
    /// The run in flight reaches this event.
    Publish(u32),
    /// The run in flight ends. Books that it has not reached have failed.
    Finish,
    RetryDue,
}

const EVENTS: u32 = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2_u8, any::<bool>()).prop_map(|(source, is_lost)| Step::Change { source, is_lost }),
        (0..EVENTS).prop_map(Step::Publish),
        Just(Step::Finish),
        Just(Step::RetryDue),
    ]
}

/// The restrictions, the run in flight with the events that it has reached, and what the clients of
/// each event were shown.
#[derive(Default)]
struct World {
    restatements: Restatements,
    lost: BTreeMap<Source, bool>,
    run: Option<(Run, BTreeSet<EventId>)>,
    shown: BTreeMap<EventId, BTreeMap<Source, bool>>,
}

impl World {
    fn begin(&mut self, run: Option<Run>) {
        if let Some(run) = run {
            assert!(self.run.is_none(), "two runs at once");
            self.run = Some((run, BTreeSet::new()));
        }
    }

    /// A book shows what is in force when it publishes.
    fn publish(&mut self, event: u32) {
        let event = EventId::new(&event.to_string()).unwrap();
        let Some((run, reached)) = &mut self.run else {
            return;
        };
        if run.only.as_ref().is_none_or(|only| only.contains(&event)) {
            let shown = self.shown.entry(event.clone()).or_default();
            for source in run.change.sources.keys() {
                shown.insert(source.clone(), self.lost[source]);
            }
            reached.insert(event);
        }
    }

    fn finish(&mut self) -> Option<Next> {
        let (run, reached) = self.run.take()?;
        let failed = run.only.unwrap_or_else(|| events(&[0, 1, 2]));
        let next = self.restatements.finished(&failed - &reached);
        if let Next::Run(run) = &next {
            self.begin(Some(run.clone()));
        }
        Some(next)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Change { source, is_lost } => {
                let source = Source::new(&format!("s{source}")).unwrap();
                if self.lost.insert(source.clone(), is_lost) != Some(is_lost) {
                    let run = self.restatements.changed(change(source.as_str(), is_lost));
                    self.begin(run);
                }
            }
            Step::Publish(event) => self.publish(event),
            Step::Finish => drop(self.finish()),
            Step::RetryDue => {
                let run = self.restatements.retry_due();
                self.begin(run);
            }
        }
    }

    /// Everything works from now on.
    fn settle(&mut self) {
        loop {
            let run = self.restatements.retry_due();
            self.begin(run);
            (0..EVENTS).for_each(|event| self.publish(event));
            if matches!(self.finish(), None | Some(Next::Nothing)) {
                return;
            }
        }
    }
}

proptest! {
    #[test]
    fn clients_see_latest_restrictions(steps in proptest::collection::vec(step(), 0..60)) {
        let mut world = World::default();
        steps.into_iter().for_each(|step| world.apply(step));
        world.settle();
        for event in events(&[0, 1, 2]) {
            let shown = world.shown.remove(&event).unwrap_or_default();
            prop_assert_eq!(&shown, &world.lost);
        }
    }
}
