//! The states of the sources, as they were reported last.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use parking_lot::RwLock;

use crate::actors::odds::messages::SourcesReported;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;

/// The latest states. The selector reads them between batches, and several times a second while
/// there are none.
#[derive(Debug, Default)]
pub(crate) struct ReportedSources {
    states: RwLock<Arc<BTreeMap<Source, SourceStatus>>>,
}

impl ReportedSources {
    /// The latest states.
    pub(super) fn get(&self) -> Arc<BTreeMap<Source, SourceStatus>> {
        self.states.read().clone()
    }

    /// The actor that receives the states.
    pub(crate) fn receiver(self: &Arc<Self>) -> SourcesReceiver {
        SourcesReceiver(self.clone())
    }
}

/// Stores the states that are sent to it.
pub(crate) struct SourcesReceiver(Arc<ReportedSources>);

impl Actor for SourcesReceiver {
    type Context = Context<Self>;
}

impl Handler<SourcesReported> for SourcesReceiver {
    type Result = ();

    fn handle(&mut self, SourcesReported(states): SourcesReported, _: &mut Context<Self>) {
        *self.0.states.write() = Arc::new(states);
    }
}
