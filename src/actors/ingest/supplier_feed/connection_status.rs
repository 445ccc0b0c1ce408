//! The connection state of a supplier, shared with the readiness check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The connection state of a supplier, for the readiness check.
#[derive(Debug)]
pub(crate) struct SupplierConnection {
    /// The supplier's address, without credentials.
    pub supplier: String,
    connected: AtomicBool,
}

impl SupplierConnection {
    /// A supplier that is not connected yet.
    pub(super) fn new(supplier: String) -> Arc<SupplierConnection> {
        Arc::new(SupplierConnection {
            supplier,
            connected: AtomicBool::new(false),
        })
    }

    /// Whether the supplier is connected and alive.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Records whether the supplier is connected.
    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }
}
