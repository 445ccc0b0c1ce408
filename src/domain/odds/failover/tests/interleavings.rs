//! Random interleavings of records, losses and restarts.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A source sends a new update, a repetition or a late one.
    Update {
        from: Sender,
        ahead: i64,
        standing: Standing,
    },
    /// `ingest` suspends the last state of a source.
    Suspend(Sender),
    /// A source repeats its last state, or `ingest` confirms it.
    Repeat(Sender),
    State(Sender, SourceState),
    /// The reports about a source do not arrive.
    Silence(Sender),
    /// Another reporter reports a source as live.
    OtherReporter(Sender),
    Wait(u32),
    /// Another process continues from the published state and the updates of the last seconds.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let from = any_sender();
    let standing = prop_oneof![
        6 => Just(Standing::Current),
        1 => Just(Standing::HandedOver),
    ];
    let state = prop_oneof![
        Just(SourceState::Stale),
        Just(SourceState::Recovering),
        Just(SourceState::Live),
    ];
    prop_oneof![
        6 => (from.clone(), -2i64..10, standing)
            .prop_map(|(from, ahead, standing)| Step::Update { from, ahead, standing }),
        2 => (from.clone(), state).prop_map(|(from, state)| Step::State(from, state)),
        1 => from.clone().prop_map(Step::Suspend),
        1 => from.clone().prop_map(Step::Repeat),
        1 => from.clone().prop_map(Step::Silence),
        1 => from.prop_map(Step::OtherReporter),
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
            Step::Update {
                from,
                ahead,
                standing,
            } => self.send(from, ahead, standing),
            Step::Suspend(source) => self.suspend(source),
            Step::Repeat(source) => self.repeat(source),
            Step::State(from, state) => self.rig.report(from.name(), state),
            Step::Silence(source) => self.rig.silence(&[source.name()]),
            Step::OtherReporter(source) => self.rig.replace_reporter(source.name()),
            Step::Wait(seconds) => self.rig.wait(seconds),
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn send(&mut self, from: Sender, ahead: i64, standing: Standing) {
        let clock = &mut self.clocks[from as usize];
        let time = *clock + ahead;
        *clock = time.max(*clock);
        let update = update_of(from.name(), time);
        // The same revision always has the same status.
        let update = if time % 2 == 0 {
            update
        } else {
            suspended(update)
        };
        self.read(update, standing);
    }

    fn suspend(&mut self, from: Sender) {
        let last = last_sent(&self.log, from);
        if let Some(last) = last.filter(|last| last.status == MarketStatus::Open) {
            self.read(suspended(last), Standing::Unconfirmed);
        }
    }

    fn repeat(&mut self, from: Sender) {
        if let Some(last) = last_sent(&self.log, from) {
            self.read(last, Standing::Current);
        }
    }

    fn read(&mut self, update: OddsUpdate, standing: Standing) {
        self.log.push(self.rig.heard(update.clone(), standing));
        self.rig.read_as(update, standing);
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
            self.send(from, to_even, *standing);
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
            world.repeat(sender);
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
