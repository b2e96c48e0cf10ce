//! The file behind a model, for as long as anything is read from it.
//!
//! A model that has everything in memory lets its file go: whoever then overwrites or
//! truncates it changes nothing here. Until then every batch asks, before and after,
//! whether the file is still what was loaded ([`Backing::check`]); where it is not,
//! batches fail from then on, and nothing else.

use crate::gguf::{Gguf, Hashes, Head};
use crate::pool::Pool;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The file, or what is left to say about it.
pub(crate) struct Backing {
    file: Mutex<Option<Arc<Gguf>>>,
    changed: AtomicBool,
    hashes: OnceLock<Hashes>,
    /// Of a file that was let go; of another one once it was asked for.
    head: OnceLock<Arc<Head>>,
}

impl Backing {
    /// Of a file whose hashes may be known already.
    pub fn new(file: Arc<Gguf>, hashes: Option<Hashes>) -> Self {
        Self {
            file: Mutex::new(Some(file)),
            changed: AtomicBool::new(false),
            hashes: hashes.map_or_else(OnceLock::new, OnceLock::from),
            head: OnceLock::new(),
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
            let none = || Hashes {
                digest: [0; 32],
                files: Vec::new(),
            };
            file.map_or_else(none, |file| file.digester().finish(pool))
        };
        self.hashes.get_or_init(read).digest
    }

    /// The file's head, once its digest is known; `None` where it has changed.
    pub fn head(&self) -> Option<Arc<Head>> {
        if let Some(head) = self.head.get() {
            return Some(head.clone());
        }
        let (file, hashes) = (self.file()?, self.hashes.get()?);
        let head = Arc::new(file.head(hashes));
        // What was read until now is the file that was hashed.
        (!self.is_changed()).then(|| self.head.get_or_init(|| head).clone())
    }

    /// Lets a mapped file go, for nothing is read from it any more: not where its digest
    /// is not known.
    pub fn let_go(&self) {
        // A last look: what was read until now is what stays.
        if self.is_changed() || self.hashes.get().is_none() {
            return;
        }
        let mapped = self.file().is_some_and(|file| file.is_mapped());
        if mapped && self.head().is_none() {
            return;
        }
        let mut held = self.held();
        if held.as_ref().is_some_and(|file| file.is_mapped()) {
            *held = None;
        }
    }
}
