//! Memory for keys and values: pages of 64 positions from one bounded arena.
//!
//! A page is counted against its arena from when it is handed out until its last
//! holder drops it. There is no list of free pages in memory: a page is a mapping of
//! its own and is given back at once. Where the model runs on a
//! device, a page is one of the device's. Called by [`super::Cache`].

use crate::cuda::DevicePage;
use crate::model::Model;
use crate::ops::buffer::Buffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many pages may exist at once.
pub(crate) struct Arena {
    page_len: usize,
    capacity: usize,
    used: AtomicUsize,
    /// A model that runs on a device, which lends the pages.
    device: Option<Model>,
}

impl Arena {
    /// An arena for a model's pages in at most `bytes` (at least one page), and in
    /// what its device has for pages.
    pub fn of(model: &Model, bytes: u64) -> Arc<Self> {
        let mut arena = Self::new(model.0.graph.page_len(), bytes);
        if let Some(device) = &model.0.device {
            arena.capacity = arena.capacity.min(device.pages().count());
            arena.device = Some(model.clone());
        }
        Arc::new(arena)
    }

    /// An arena for pages of `page_len` f16 numbers in memory.
    pub fn new(page_len: usize, bytes: u64) -> Self {
        let page_bytes = (2 * page_len.max(1)) as u64;
        let capacity = usize::try_from(bytes / page_bytes).unwrap_or(usize::MAX);
        Self {
            page_len,
            capacity: capacity.max(1),
            used: AtomicUsize::new(0),
            device: None,
        }
    }

    /// A page; `None` where the budget is used up.
    pub fn page(self: &Arc<Self>) -> Option<Page> {
        let device = self
            .device
            .as_ref()
            .and_then(|model| model.0.device.as_ref());
        let lent = match device {
            Some(device) => Some(device.pages().take().ok()?),
            None => None,
        };
        let more = |used| (used < self.capacity).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let len = if lent.is_some() { 0 } else { self.page_len };
        Some(Page {
            data: Buffer::alone(len),
            device: lent,
            arena: Some(self.clone()),
        })
    }

    /// Pages that may exist.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that may still be handed out.
    pub fn free(&self) -> usize {
        self.capacity - self.used.load(Ordering::Relaxed)
    }

    /// Bytes of `pages` pages.
    pub fn bytes(&self, pages: usize) -> u64 {
        2 * self.page_len as u64 * pages as u64
    }
}

/// Keys and values of 64 positions, all layers.
pub(crate) struct Page {
    /// Empty for a page of a device.
    pub data: Buffer<u16>,
    pub device: Option<Arc<DevicePage>>,
    arena: Option<Arc<Arena>>,
}

impl Page {
    /// A page outside any arena, for a sequence that is computed alone.
    pub fn alone(page_len: usize) -> Self {
        Self {
            data: Buffer::alone(page_len),
            device: None,
            arena: None,
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(arena) = &self.arena {
            arena.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_hands_out_what_its_budget_allows_and_takes_it_back() {
        let arena = Arc::new(Arena::new(100, 999));
        assert_eq!((arena.capacity(), arena.bytes(4)), (4, 800));
        let mut pages: Vec<Page> = (0..4).filter_map(|_| arena.page()).collect();
        assert_eq!((pages.len(), arena.free()), (4, 0));
        assert!(arena.page().is_none());
        pages.pop();
        assert_eq!(arena.free(), 1);
        assert!(arena.page().is_some());
        assert_eq!(Arena::new(100, 1).capacity(), 1);
    }
}
