//! Finds the record of each update of a batch.

use std::borrow::Borrow;

use crate::bus::Record;
use crate::domain::odds::update::PositionedUpdate;

/// Each update with its record. Both are in bus order; records without an update are left out.
pub(super) fn with_records<U: Borrow<PositionedUpdate>>(
    batch: &[Record],
    updates: impl IntoIterator<Item = U>,
) -> impl Iterator<Item = (&Record, U)> {
    let mut records = batch.iter();
    updates.into_iter().filter_map(move |positioned| {
        let update: &PositionedUpdate = positioned.borrow();
        let place = (update.partition, update.position);
        let record = records.find(|record| (record.partition, record.offset) == place)?;
        Some((record, positioned))
    })
}
