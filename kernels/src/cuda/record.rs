//! Launches written down instead of made, and started again for batches alike.
//!
//! Every pass over the layers is recorded first and started then, on a GPU and under
//! emulation. A list that is worth keeping becomes one thing of the backend's (on a GPU a
//! graph of kernels in a row), which costs one start for hundreds of launches. It is built
//! from the list and not captured from the stream: nothing that another thread does on
//! the stream meanwhile can get into it or spoil it. A backend that cannot prepare a list
//! is told of once; the launches are then made one by one.

use super::CudaError;
use super::backend::{Arg, Backend, Launch, Memory, Prepared, Recorded};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Lists kept for one set of buffers: a few lengths of tables for every number of
/// streams. Beyond, all are dropped and made anew.
const MOST_KEPT: usize = 256;

/// Lists that have been prepared, by what their batches have in common.
pub(crate) struct Kept<K> {
    lists: HashMap<K, Box<dyn Prepared>>,
    /// Set when the backend could not prepare one.
    refused: bool,
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self {
            lists: HashMap::new(),
            refused: false,
        }
    }
}

impl<K: std::hash::Hash + Eq> Kept<K> {
    /// Run what `record` launches; where there is a key, start what was kept under it, or
    /// keep it.
    ///
    /// # Safety
    /// `record` makes the same launches whenever it gets the same key, until
    /// [`Self::forget`]; the buffers named live until then, and `device` longer.
    pub unsafe fn run(
        &mut self,
        device: &Arc<dyn Backend>,
        key: Option<K>,
        record: impl FnOnce(&Arc<dyn Backend>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if let Some(kept) = key.as_ref().and_then(|k| self.lists.get(k)) {
            // SAFETY: the caller's promise.
            return unsafe { kept.start() };
        }
        let recorder = Arc::new(Recorder {
            device: Arc::clone(device),
            list: Mutex::default(),
        });
        let there: Arc<dyn Backend> = recorder.clone();
        record(&there)?;
        let list = std::mem::take(&mut *recorder.lock());
        if let Some(key) = key.filter(|_| !self.refused) {
            // SAFETY: the caller's promise; the holder drops this before the device.
            match unsafe { device.prepare(&list) } {
                Ok(prepared) => {
                    if self.lists.len() == MOST_KEPT {
                        self.lists.clear();
                    }
                    let kept = self.lists.entry(key).or_insert(prepared);
                    // SAFETY: the caller's promise.
                    return unsafe { kept.start() };
                }
                Err(error) => {
                    self.refused = true;
                    tracing::warn!("every kernel is launched by itself, which is slower: {error}");
                }
            }
        }
        list.iter().try_for_each(|r| {
            // SAFETY: the launches that `record` vouches for.
            unsafe { device.launch(&r.launch, &r.args) }
        })
    }

    /// Drop what was kept: buffers have moved.
    pub fn forget(&mut self) {
        self.lists.clear();
    }
}

/// Takes launches down; everything else is the device's.
struct Recorder {
    device: Arc<dyn Backend>,
    list: Mutex<Vec<Recorded>>,
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Recorded>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Recorder {
    fn name(&self) -> String {
        self.device.name()
    }

    fn memory(&self) -> Result<Memory, CudaError> {
        self.device.memory()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.device.allocate(bytes)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.device.free(address, bytes) }
    }

    unsafe fn write(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.device.write(address, from) }
    }

    unsafe fn read(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.device.read(address, to) }
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), CudaError> {
        self.lock().push(Recorded {
            launch: *launch,
            args: args.to_vec(),
        });
        Ok(())
    }

    unsafe fn prepare(&self, list: &[Recorded]) -> Result<Box<dyn Prepared>, CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.device.prepare(list) }
    }
}
