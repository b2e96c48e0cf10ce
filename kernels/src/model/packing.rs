//! Packs in the background what a large model computes with as its file has it.
//!
//! The thread has a low priority and works on one matrix at a time, so that answers
//! come first: they are right before and after, only somewhat faster after. It holds
//! no model alive.

use super::backing::Backing;
use crate::cpu::memory;
use crate::gguf::Span;
use crate::ops::buffer::Arena;
use crate::ops::q8::rows::{Keep, Rows};
use crate::pool::Pool;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

/// What the thread takes from others where all cores are wanted: about a tenth of one.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Memory that packing leaves to others. A mapped file can go when they want it, packed
/// rows cannot.
const SPARE: u64 = 256 << 20;

/// Packing that has been begun.
pub(crate) struct Packing(Arc<End>);

#[derive(Default)]
struct End {
    /// Every matrix that is still there is packed.
    complete: AtomicBool,
    reached: Mutex<bool>,
    told: Condvar,
}

/// Tells of the end, however it comes.
struct Telling(Arc<End>);

impl Drop for Telling {
    fn drop(&mut self) {
        *self
            .0
            .reached
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.0.told.notify_all();
    }
}

impl Packing {
    /// Pack these in order, those of them that still exist when their turn comes; then
    /// nothing is read from the file any more, and it is let go.
    pub fn start(rows: Vec<Weak<Rows>>, backing: Arc<Backing>) -> Self {
        let end = Arc::new(End::default());
        let telling = Telling(end.clone());
        let work = move || {
            // Told at the end of this, also where it panics.
            let telling = telling;
            yield_to_others();
            let arena = Arena::patient();
            let mut complete = true;
            for rows in rows.iter().filter_map(Weak::upgrade) {
                if memory("MemAvailable").is_some_and(|left| left < rows.bytes() + SPARE) {
                    tracing::info!("little memory: the other weights stay as the file has them");
                    complete = false;
                    break;
                }
                if let Err(error) = rows.pack(&arena) {
                    tracing::warn!(?error, "a matrix stays as the file has it");
                    complete = false;
                }
            }
            arena.finish();
            telling.0.complete.store(complete, Release);
            if complete {
                backing.digest(&Pool::new(1));
                backing.let_go();
            }
        };
        let thread = std::thread::Builder::new().name("packing".to_owned());
        if let Err(error) = thread.spawn(work) {
            tracing::warn!(%error, "no thread to pack the weights: they stay as the file has them");
        }
        Self(end)
    }

    /// Whether everything is packed.
    pub fn is_complete(&self) -> bool {
        self.0.complete.load(Acquire)
    }

    /// Wait for the end.
    pub fn wait(&self) {
        let reached = self.0.reached.lock();
        let reached = reached.unwrap_or_else(PoisonError::into_inner);
        let end = self.0.told.wait_while(reached, |reached| !*reached);
        drop(end);
    }
}

/// Lower this thread's priority.
fn yield_to_others() {
    // On Linux the call is about the calling thread, not the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::getpriority_process(None)
        .and_then(|own| rustix::process::setpriority_process(None, own.max(NICENESS)))
    {
        tracing::debug!(%error, "packing keeps its priority");
    }
}

impl Keep for Span {
    fn bytes(&self) -> &[u8] {
        Self::bytes(self)
    }

    fn release(&self, part: &[u8]) {
        Self::release(self, part);
    }
}
