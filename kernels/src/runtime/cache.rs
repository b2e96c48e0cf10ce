//! Keys and values of one sequence, in pages of 64 positions.

use crate::cuda::DeviceCache;
use crate::model::Graph;
use crate::ops::attention::TILE;

/// Pages grow with the sequence. A page holds all layers and KV heads of its 64
/// positions, one tile each, in f16.
#[derive(Default)]
pub(crate) struct Cache {
    pages: Vec<Box<[u16]>>,
    /// Pages on the device, where the model runs on one; `forward` reserves them.
    pub device: DeviceCache,
}

impl Cache {
    /// Make room for `positions` positions.
    pub fn reserve(&mut self, graph: &Graph, positions: usize) {
        while self.pages.len() * TILE < positions {
            self.pages
                .push(vec![0; graph.page_len()].into_boxed_slice());
        }
    }

    /// One head's tile.
    pub fn tile(&self, graph: &Graph, layer: usize, head: usize, page: usize) -> &[u16] {
        &self.pages[page][graph.tile(layer, head)]
    }

    /// One head's tile, to be written.
    pub fn tile_mut(
        &mut self,
        graph: &Graph,
        layer: usize,
        head: usize,
        page: usize,
    ) -> &mut [u16] {
        &mut self.pages[page][graph.tile(layer, head)]
    }
}
