//! Mapped files that shrink under their readers.
//!
//! Reading a mapping beyond the end of its file is a SIGBUS, which ends the process.
//! Here every mapping is known to the signal's handler, which puts zeros where the file
//! was and notes that it is lost; whoever read asks [`Guard::is_lost`] before it believes
//! what it read. A SIGBUS anywhere else goes to whoever handled it before; the handler stays.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Files that may be mapped at once: four of the largest split models.
const MOST: usize = 4096;

struct Slot {
    /// First address, 0 where the slot is free; `end` and `lost` belong to it.
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

static SLOTS: [Slot; MOST] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];
/// Slots ever used: the handler looks at no others.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Held by who takes or frees a slot; the handler only reads.
static TURN: Mutex<()> = Mutex::new(());

/// Watches a mapping until it is dropped, which must be before it is unmapped.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Watches these bytes, a mapping of a file; `None` where too many are watched, or
    /// the system does not let us.
    pub fn new(map: &[u8]) -> Option<Self> {
        if !install() {
            return None;
        }
        let range = map.as_ptr_range();
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let index = SLOTS.iter().position(|s| s.start.load(Relaxed) == 0)?;
        let slot = &SLOTS[index];
        slot.end.store(range.end.addr(), Relaxed);
        slot.lost.store(false, Relaxed);
        slot.start.store(range.start.addr(), Release);
        USED.fetch_max(index + 1, Release);
        Some(Self(index))
    }

    /// Whether some of the bytes were read when the file no longer had them.
    pub fn is_lost(&self) -> bool {
        SLOTS[self.0].lost.load(Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        SLOTS[self.0].start.store(0, Release);
    }
}

/// Who handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once; whether it is there.
fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: lifetime and bounds: the structures are ours and live for the calls;
        // all zeros are a value of them. The handler does only what a handler may: it
        // reads atomics and calls mmap and sigaction.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 {
                return false;
            }
            // Before the handler can run.
            let _ = BEFORE.set(before);
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_bus_error as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut ours.sa_mask);
            libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut()) == 0
        }
    })
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the system gives a handler of this kind valid information.
    let address = unsafe { (*info).si_addr() }.addr();
    let used = USED.load(Acquire);
    for slot in &SLOTS[..used] {
        let (start, end) = (slot.start.load(Acquire), slot.end.load(Relaxed));
        if start == 0 || address < start || address >= end {
            continue;
        }
        // SAFETY: lifetime: the guard is dropped before the mapping, and somebody reads
        // it now, so all of it is mapped. Bounds and alignment: mappings begin at a page
        // and the system takes the rest of the last page to the end. What is replaced is
        // read-only and ours.
        let zeros = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                end - start,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if zeros != libc::MAP_FAILED {
            slot.lost.store(true, Release);
            return;
        }
    }
    // Not ours.
    // SAFETY: all zeros are a value of it: the default action.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let before = BEFORE.get().unwrap_or(&default);
    match before.sa_sigaction {
        // The same instruction meets the same error, under the action before.
        // SAFETY: what the system gave us at `install`, or the default action.
        libc::SIG_DFL | libc::SIG_IGN => unsafe {
            libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
        },
        // SAFETY: whoever installed it said that it takes three arguments, and these are the
        // system's.
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            std::mem::transmute::<
                usize,
                extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
            >(handler)(signal, info, context);
        },
        // SAFETY: otherwise it takes one.
        handler => unsafe {
            std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler)(signal);
        },
    }
}
