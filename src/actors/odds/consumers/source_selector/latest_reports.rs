//! What was reported last about the sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use parking_lot::RwLock;

use crate::actors::odds::messages::ReportsRead;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::CurrentReports;

/// The latest reports. The selector reads them between batches, and several times a second while
/// there are none.
#[derive(Debug, Default)]
pub(crate) struct LatestReports {
    reports: RwLock<Arc<BTreeMap<Source, CurrentReports>>>,
}

impl LatestReports {
    /// The latest reports about each source.
    pub(super) fn get(&self) -> Arc<BTreeMap<Source, CurrentReports>> {
        self.reports.read().clone()
    }

    /// The actor that receives the reports.
    pub(crate) fn receiver(self: &Arc<Self>) -> ReportsReceiver {
        ReportsReceiver(self.clone())
    }
}

/// Stores the reports that are sent to it.
pub(crate) struct ReportsReceiver(Arc<LatestReports>);

impl Actor for ReportsReceiver {
    type Context = Context<Self>;
}

impl Handler<ReportsRead> for ReportsReceiver {
    type Result = ();

    fn handle(&mut self, ReportsRead(reports): ReportsRead, _: &mut Context<Self>) {
        *self.0.reports.write() = Arc::new(reports);
    }
}
