//! Keys and values of one sequence, in pages of 64 positions.

use super::pages::{Arena, Page};
use crate::cuda::DeviceCache;
use crate::model::Graph;
use crate::ops::attention::TILE;
use std::sync::Arc;

/// Pages grow with the sequence. A page holds all layers and KV heads of its 64
/// positions, one tile each, in f16. Full pages may be shared between sequences
/// that begin with the same tokens; only the last page of a sequence is written, and
/// that one is its own.
#[derive(Default)]
pub(crate) struct Cache {
    pages: Vec<Arc<Page>>,
    /// Pages on the device, where the model runs on one: those of `pages`; `forward`
    /// reserves what a sequence outside any arena lacks.
    pub device: DeviceCache,
}

impl Cache {
    /// Make room for `positions` positions, outside any arena.
    pub fn reserve(&mut self, graph: &Graph, positions: usize) {
        while self.pages.len() * TILE < positions {
            self.pages.push(Arc::new(Page::alone(graph.page_len())));
        }
    }

    /// Add a page from an arena; false where its budget is used up.
    pub fn grow(&mut self, arena: &Arc<Arena>) -> bool {
        let Some(page) = arena.page() else {
            return false;
        };
        self.device.extend(page.device.clone());
        self.pages.push(Arc::new(page));
        true
    }

    /// The pages of the sequence, in order.
    pub fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// A cache that begins with pages computed earlier.
    pub fn shared(pages: Vec<Arc<Page>>) -> Self {
        let mut device = DeviceCache::default();
        device.extend(pages.iter().filter_map(|page| page.device.clone()));
        Self { pages, device }
    }

    /// Hold another copy of a full page instead of one's own.
    pub fn replace(&mut self, index: usize, page: Arc<Page>) {
        if let Some(page) = &page.device {
            self.device.replace(index, page.clone());
        }
        self.pages[index] = page;
    }

    /// One head's tile.
    pub fn tile(&self, graph: &Graph, layer: usize, head: usize, page: usize) -> &[u16] {
        &self.pages[page].data[graph.tile(layer, head)]
    }

    /// One head's tile, to be written.
    pub fn tile_mut(
        &mut self,
        graph: &Graph,
        layer: usize,
        head: usize,
        page: usize,
    ) -> &mut [u16] {
        let Some(page) = Arc::get_mut(&mut self.pages[page]) else {
            unreachable!("only full pages are shared, and a full page is not written again")
        };
        &mut page.data[graph.tile(layer, head)]
    }
}
