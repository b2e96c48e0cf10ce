//! The file behind a model, for as long as anything is read from it.
//!
//! A model that has everything in memory lets its file go: whoever then overwrites or
//! truncates it changes nothing here. Until then every batch asks, before and after,
//! whether the file is still what was loaded ([`Backing::check`]); where it is not,
//! batches fail from then on, and nothing else.

use crate::gguf::Gguf;
use crate::pool::Pool;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The file, or what is left to say about it.
pub(crate) struct Backing {
    file: Mutex<Option<Arc<Gguf>>>,
    changed: AtomicBool,
    digest: OnceLock<[u8; 32]>,
}

impl Backing {
    /// Of a file whose digest may be known already.
    pub fn new(file: Arc<Gguf>, digest: Option<[u8; 32]>) -> Self {
        Self {
            file: Mutex::new(Some(file)),
            changed: AtomicBool::new(false),
            digest: digest.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Gguf>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, where it has not been let go.
    pub fn file(&self) -> Option<Arc<Gguf>> {
        self.held().clone()
    }

    /// Whether the file has changed under its readers: once is for ever.
    pub fn is_changed(&self) -> bool {
        if !self.changed.load(Relaxed) && self.file().is_some_and(|file| file.is_changed()) {
            self.changed.store(true, Relaxed);
        }
        self.changed.load(Relaxed)
    }

    /// The file's digest; read on this pool where nobody knows it yet.
    pub fn digest(&self, pool: &Pool) -> [u8; 32] {
        let read = || {
            let file = self.file();
            // Only a file with a digest is let go.
            file.map_or([0; 32], |file| file.digester().finish(pool))
        };
        *self.digest.get_or_init(read)
    }

    /// Lets a mapped file go, for nothing is read from it any more: not where its digest
    /// is not known.
    pub fn let_go(&self) {
        // A last look: what was read until now is what stays.
        if self.is_changed() || self.digest.get().is_none() {
            return;
        }
        let mut held = self.held();
        if held.as_ref().is_some_and(|file| file.is_mapped()) {
            *held = None;
        }
    }
}
