//! Random interleavings of records, losses and restarts.

use proptest::prelude::*;

use super::steps::{SENDERS, Sender, SourceStep, any_sender, any_source_step, last_sent};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Source(SourceStep),
    /// Another reporter reports a source as live.
    OtherReporter(Sender),
    Wait(u32),
    /// Another process continues from the published state and the updates of the last seconds.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        11 => any_source_step(-2..10).prop_map(Step::Source),
        1 => any_sender().prop_map(Step::OtherReporter),
        2 => (1u32..40).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// The process, and what is outside of it: the records on the bus and the clocks of the sources.
struct World {
    rig: Rig,
    log: Vec<SourceUpdate>,
    clocks: [i64; SENDERS.len()],
}

impl World {
    /// The clocks of the sources differ.
    fn new() -> World {
        World {
            rig: Rig::new(),
            log: Vec::new(),
            clocks: [500, 0, 1_000],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Source(step) => self.source_step(&step),
            Step::OtherReporter(source) => self.rig.replace_reporter(source.name()),
            Step::Wait(seconds) => self.rig.wait(seconds),
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn source_step(&mut self, step: &SourceStep) {
        self.rig.report_step(step);
        let clocks = &mut self.clocks;
        let time = |from: Sender, ahead: i64| {
            let clock = &mut clocks[from as usize];
            let time = *clock + ahead;
            *clock = time.max(*clock);
            time
        };
        if let Some((update, standing)) = step.record(&self.log, time) {
            self.log.push(self.rig.heard(update.clone(), standing));
            self.rig.read_as(update, standing);
        }
    }

    fn restart(&mut self) {
        let last = self.rig.published.last().cloned();
        let mut rig = Rig::starting_at(self.rig.now, self.rig.clock(), last.as_slice());
        for heard in &self.log {
            if rig.now - heard.heard_at < 35 * SECOND {
                rig.replay(heard.clone());
            }
        }
        rig.reported = std::mem::take(&mut self.rig.reported);
        rig.periods = self.rig.periods;
        rig.observe();
        self.rig = rig;
    }

    /// An open state is one that a source has sent. Its source is not lost, unless this process has
    /// started a moment ago.
    fn check(&self) {
        let Some(shown) = self.rig.published.last() else {
            return;
        };
        let sent = |heard: &&SourceUpdate| {
            heard.update.source == shown.source && price(&heard.update) == price(shown)
        };
        let sent: Vec<_> = self.log.iter().filter(sent).collect();
        assert!(!sent.is_empty());
        if shown.status != MarketStatus::Open {
            return;
        }
        let is_open = |heard: &&SourceUpdate| heard.update.status == MarketStatus::Open;
        assert!(sent.into_iter().any(|heard| is_open(&heard)));
        let reports = self.rig.reported.get(&shown.source);
        let reported = reports.and_then(|reports| reports.state);
        let is_new = self.rig.now - self.rig.started < 8 * SECOND;
        assert!(is_new || reported.is_none_or(|state| state == SourceState::Live));
    }

    /// Every source is live and sends an update with its standing.
    fn settle(&mut self, standings: &[Standing; SENDERS.len()]) {
        for sender in SENDERS {
            self.rig.report(sender.name(), SourceState::Live);
        }
        // A process that has just started sets aside what an earlier one may have handled.
        self.rig.wait(3);
        for (from, standing) in SENDERS.into_iter().zip(standings) {
            let to_even = 2 - self.clocks[from as usize].rem_euclid(2);
            self.source_step(&SourceStep::Update {
                from,
                ahead: to_even,
                standing: *standing,
            });
        }
        self.rig.wait(31);
    }
}

proptest! {
    /// After any history the first source that offers the market is shown, with its last update.
    #[test]
    fn same_state_after_any_history(
        steps in proptest::collection::vec(any_step(), 0..60),
        handed_over in (any::<bool>(), any::<bool>()),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        let standing = |is_handed_over| match is_handed_over {
            true => Standing::HandedOver,
            false => Standing::Current,
        };
        let standings = [standing(handed_over.0), standing(handed_over.1), Standing::Current];
        world.settle(&standings);
        let owner = standings.iter().position(|one| *one == Standing::Current).unwrap();
        let last = update_of(SENDERS[owner].name(), world.clocks[owner]);
        prop_assert_eq!(world.rig.shown(), open(&last));
    }

    /// A repetition is an update: after it the last state of the first source is shown, without any
    /// new one.
    #[test]
    fn repetition_shows_last_state(steps in proptest::collection::vec(any_step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        for sender in SENDERS {
            world.rig.report(sender.name(), SourceState::Live);
        }
        world.rig.wait(3);
        for sender in SENDERS {
            world.source_step(&SourceStep::Repeat(sender));
        }
        world.rig.wait(31);
        let first = SENDERS.into_iter().find_map(|sender| last_sent(&world.log, sender));
        if let Some(last) = first {
            prop_assert_eq!(world.rig.shown(), (last.source.as_str(), last.status, price(&last)));
        }
    }

    /// F7: the order in which the records of live sources arrive does not matter.
    #[test]
    fn same_state_in_any_order(
        times in proptest::collection::vec((any_sender(), 1i64..50), 1..20)
            .prop_flat_map(|times| (Just(times.clone()), Just(times).prop_shuffle())),
    ) {
        let shown = |times: &[(Sender, i64)]| {
            let mut rig = Rig::new();
            for (from, time) in times {
                rig.read(update_of(from.name(), *time));
            }
            let (source, status, price) = rig.shown();
            (source.to_owned(), status, price)
        };
        prop_assert_eq!(shown(&times.0), shown(&times.1));
    }
}
