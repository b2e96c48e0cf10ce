//! The cache on a device: pages of 64 positions of all layers, lent to sequences.
//!
//! All pages are one allocation made when the model is loaded, so that the memory
//! budget holds whatever the sequences do. A page goes back when its last holder
//! drops it.

use super::CudaError;
use super::backend::{Backend, Buffer};
use std::sync::{Arc, Mutex, PoisonError};

/// All pages of one model on one device.
pub(crate) struct Pages {
    /// f16 numbers; kernels write them, no Rust code does.
    pub data: Buffer<u16>,
    /// f16 numbers of one page.
    pub page_len: usize,
    free: Mutex<Vec<u32>>,
}

/// One page, held.
pub(crate) struct Page {
    id: u32,
    owner: Arc<Pages>,
}

/// The pages of one sequence.
#[derive(Clone, Default)]
pub(crate) struct DeviceCache(Vec<Arc<Page>>);

impl Pages {
    pub fn new(
        device: &Arc<dyn Backend>,
        page_len: usize,
        pages: usize,
    ) -> Result<Arc<Self>, CudaError> {
        Ok(Arc::new(Self {
            data: Buffer::new(device, page_len * pages)?,
            page_len,
            free: Mutex::new((0..pages as u32).rev().collect()),
        }))
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.data.len() / self.page_len
    }

    /// Number of pages that nobody holds.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.list().len()
    }

    /// Hold a page.
    pub fn take(self: &Arc<Self>) -> Result<Arc<Page>, CudaError> {
        let id = self.list().pop().ok_or(CudaError::Pages {
            pages: self.count(),
        })?;
        Ok(Arc::new(Page {
            id,
            owner: Arc::clone(self),
        }))
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.owner.list().push(self.id);
    }
}

impl DeviceCache {
    /// Hold pages for `positions` positions; those of other models are dropped.
    pub fn reserve(&mut self, pages: &Arc<Pages>, positions: usize) -> Result<(), CudaError> {
        self.0.retain(|page| Arc::ptr_eq(&page.owner, pages));
        while self.0.len() * crate::ops::attention::TILE < positions {
            self.0.push(pages.take()?);
        }
        Ok(())
    }

    /// Add pages that are held already, perhaps by other sequences too.
    pub fn extend(&mut self, pages: impl IntoIterator<Item = Arc<Page>>) {
        self.0.extend(pages);
    }

    /// Hold another copy of a page.
    pub fn replace(&mut self, index: usize, page: Arc<Page>) {
        self.0[index] = page;
    }

    /// Ids of the pages, in order of position.
    pub fn ids(&self) -> Vec<u32> {
        self.0.iter().map(|page| page.id).collect()
    }
}
