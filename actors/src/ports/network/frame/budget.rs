//! Memory for frames that are not complete yet, bounded for each kind of stream.
//!
//! The first chunk of every frame is free, since the streams themselves are bounded; room for the rest
//! is taken here when that chunk has arrived, and given back with the frame. A peer that announces
//! much and sends nothing takes nothing. When all is taken, readers wait in turn; whoever waits until
//! its frame is overdue is cut off, and that is no fault of its peer.

use super::super::Protocol;
use super::super::bounds::{AUDIT_ASSEMBLY_BYTES, ORDER_ASSEMBLY_BYTES, OTHER_ASSEMBLY_BYTES};
use super::reader::CHUNK;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The room of one swarm; clones share it. One permit is one chunk.
#[derive(Clone)]
pub(in super::super) struct Budgets {
    order: Arc<Semaphore>,
    audit: Arc<Semaphore>,
    other: Arc<Semaphore>,
}

impl Default for Budgets {
    fn default() -> Self {
        let chunks = |bytes: usize| Arc::new(Semaphore::new(bytes / CHUNK));
        Self {
            order: chunks(ORDER_ASSEMBLY_BYTES),
            audit: chunks(AUDIT_ASSEMBLY_BYTES),
            other: chunks(OTHER_ASSEMBLY_BYTES),
        }
    }
}

impl Budgets {
    pub(super) fn of(&self, protocol: Protocol) -> Arc<Semaphore> {
        match protocol {
            Protocol::Order => self.order.clone(),
            Protocol::Audit => self.audit.clone(),
            _ => self.other.clone(),
        }
    }
}
