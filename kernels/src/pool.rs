//! A small pool of threads for data-parallel loops.
//!
//! One job at a time: `n` chunks, claimed one by one from an atomic cursor by the
//! calling thread and by whichever workers are awake. Workers spin a bounded while
//! between jobs (the gap between two layers' operations is a few microseconds) and
//! then sleep. Not a task scheduler: no futures, no stealing, no nesting.
//!
//! Others want the cores, too. A worker that the system has taken off its core holds
//! up nobody unless it is inside a chunk; so each gives its core up of itself, between
//! chunks, before its time slice is over. Where one was caught inside a chunk all the
//! same, the caller sleeps after a while instead of spinning: its core, then idle, is
//! where the system puts the worker.

use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Turns of `spin_loop` before a worker sleeps: about 50 microseconds, longer than
/// the serial work between two jobs and short against a scheduler's time slice.
const SPINS: u32 = 1500;
/// How long a worker computes before it offers its core to others: less than the
/// slices that systems give (Linux: 3 to 4 ms), so that it is not stopped inside a
/// chunk, and much more than the microsecond that the offer costs where nobody wants
/// the core.
const TURN: Duration = Duration::from_millis(2);
/// More threads than any machine we know has.
const MAX_THREADS: usize = 1024;

/// `gate` = epoch (high 32 bits), open flag, number of workers inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

type Chunk<'a> = &'a (dyn Fn(usize) + Sync);

struct Job {
    /// Lifetime erased; see the safety notes at its two uses.
    run: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

struct Shared {
    gate: AtomicU64,
    cursor: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleeping: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    /// Whether the caller sleeps until the workers inside have left.
    waiting: AtomicBool,
    left: Condvar,
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: `job` is written only by the thread that holds `Pool::turn`, while the
// gate is closed and nobody is inside; it is read only by workers inside an open
// gate. Everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure and is dead between jobs.
unsafe impl Send for Shared {}

thread_local! {
    /// The pool whose chunk this thread runs.
    static RUNS: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// This thread runs chunks of a pool until this is dropped.
struct Running(*const Shared);

impl Running {
    fn new(shared: &Shared) -> Self {
        Self(RUNS.replace(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNS.set(self.0);
    }
}

/// The pool. Dropping it stops and joins the workers.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool that computes on `threads` threads, the caller among them.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            cursor: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            waiting: AtomicBool::new(false),
            left: Condvar::new(),
            job: UnsafeCell::new(None),
        });
        let workers = (1..threads.clamp(1, MAX_THREADS))
            .filter_map(|i| {
                let shared = shared.clone();
                // A system that refuses a thread leaves the pool smaller, not broken.
                std::thread::Builder::new()
                    .name(format!("kernels-{i}"))
                    .spawn(move || worker(&shared))
                    .ok()
            })
            .collect();
        Self {
            shared,
            turn: Mutex::new(()),
            workers,
        }
    }

    /// Threads that compute, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Call `run(i)` once for every `i < chunks`, on all threads, and return when
    /// all have returned.
    ///
    /// # Panics
    /// When called from inside `run`, which would wait for itself for ever.
    pub fn run(&self, chunks: usize, run: Chunk<'_>) {
        if self.workers.is_empty() || chunks <= 1 {
            return (0..chunks).for_each(run);
        }
        let nested = std::ptr::eq(RUNS.get(), &*self.shared);
        assert!(!nested, "a job of a pool starts another of the same pool");
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: lifetime: the erased borrow is used only until `close` returns,
        // which waits for every worker inside; `run` outlives this call. The gate is
        // closed and empty here, so nobody reads `job` while it is written.
        unsafe {
            let run: *const (dyn Fn(usize) + Sync + '_) = run;
            let run: *const (dyn Fn(usize) + Sync + 'static) = std::mem::transmute(run);
            *shared.job.get() = Some(Job { run, chunks });
        }
        shared.cursor.store(0, SeqCst);
        let epoch = (shared.gate.load(SeqCst) >> 32).wrapping_add(1);
        shared.gate.store((epoch << 32) | OPEN, SeqCst);
        if shared.sleeping.load(SeqCst) > 0 {
            let _guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| claim(shared, chunks, run, || true)));
        if mine.is_err() {
            // Let nobody start another chunk of a job that is being abandoned.
            shared.cursor.store(chunks, SeqCst);
        }
        shared.close();
        let theirs = shared.panicked.swap(false, SeqCst);
        drop(turn);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!theirs, "a kernel thread panicked");
    }

    /// Split `data` into pieces of `len` elements and call `run(i, piece)` on each.
    pub fn pieces<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        run: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (total, base) = (data.len(), SendPtr(data.as_mut_ptr()));
        let len = len.max(1);
        self.run(total.div_ceil(len), &|i| {
            let start = i * len;
            let n = len.min(total - start);
            // SAFETY: lifetime: `data` is borrowed for this whole call. Bounds:
            // `start + n <= total`. Every `i` comes once, and pieces are disjoint.
            run(i, unsafe {
                std::slice::from_raw_parts_mut(base.get().add(start), n)
            });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _guard = self
                .shared
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker's panic was reported to the caller of `run`.
            let _ = worker.join();
        }
    }
}

/// A pointer that may cross threads: users promise disjoint access.
pub(crate) struct SendPtr<T>(pub *mut T);

// SAFETY: every user accesses disjoint elements from different threads.
unsafe impl<T: Send> Sync for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The pointer (a method, so that closures capture the whole wrapper).
    pub fn get(&self) -> *mut T {
        self.0
    }
}

/// Run chunks until none is left or, after a chunk, `more` says no; whether none is left.
fn claim(shared: &Shared, chunks: usize, run: Chunk<'_>, more: impl Fn() -> bool) -> bool {
    let _running = Running::new(shared);
    loop {
        let i = shared.cursor.fetch_add(1, SeqCst);
        if i >= chunks {
            return true;
        }
        run(i);
        if !more() {
            return false;
        }
    }
}

impl Shared {
    /// Close the gate and wait until nobody is inside.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, SeqCst);
        let inside = || self.gate.load(SeqCst) & INSIDE != 0;
        for _ in 0..SPINS {
            if !inside() {
                return;
            }
            std::hint::spin_loop();
        }
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the gate is looked at again: who leaves later sees it.
        self.waiting.store(true, SeqCst);
        let _guard = self
            .left
            .wait_while(guard, |_| inside())
            .unwrap_or_else(PoisonError::into_inner);
        self.waiting.store(false, SeqCst);
    }

    /// Leave the gate.
    fn leave(&self) {
        self.gate.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.left.notify_one();
        }
    }

    /// Enter an open gate of an epoch not yet seen.
    fn enter(&self, seen: u64) -> Option<u64> {
        let gate = self.gate.load(SeqCst);
        if gate & OPEN == 0 || gate >> 32 == seen {
            return None;
        }
        let entered = self.gate.compare_exchange(gate, gate + 1, SeqCst, SeqCst);
        entered.ok().map(|gate| gate >> 32)
    }

    /// Work on the open job until it has no chunk left or the turn is over; whether it
    /// has none left.
    fn work(&self, turn: Instant) -> bool {
        // SAFETY: we are inside the gate, so the caller of `run` neither changes
        // `job` nor returns before we have left: the closure is alive.
        let (run, chunks) = unsafe {
            match &*self.job.get() {
                Some(job) => (&*job.run, job.chunks),
                None => return true,
            }
        };
        let more = || turn.elapsed() < TURN;
        let done = catch_unwind(AssertUnwindSafe(|| claim(self, chunks, run, more)));
        done.unwrap_or_else(|_| {
            self.cursor.store(chunks, SeqCst);
            self.panicked.store(true, SeqCst);
            true
        })
    }

    /// Sleep until a new epoch opens or the pool stops.
    fn sleep(&self, seen: u64) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        let idle = |_: &mut ()| {
            let gate = self.gate.load(SeqCst);
            !self.stop.load(SeqCst) && (gate & OPEN == 0 || gate >> 32 == seen)
        };
        let _guard = self
            .wake
            .wait_while(guard, idle)
            .unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_sub(1, SeqCst);
    }
}

fn worker(shared: &Shared) {
    let mut seen = 0;
    let mut spins = 0;
    let mut turn = Instant::now();
    while !shared.stop.load(SeqCst) {
        if let Some(epoch) = shared.enter(seen) {
            let done = shared.work(turn);
            shared.leave();
            if done {
                seen = epoch;
            }
            if turn.elapsed() >= TURN {
                std::thread::yield_now();
                turn = Instant::now();
            }
            spins = 0;
        } else if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            shared.sleep(seen);
            turn = Instant::now();
            spins = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_exactly_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for chunks in [0, 1, 2, 7, 1000] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> =
                        (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(chunks, &|i| {
                        counts[i].fetch_add(1, SeqCst);
                    });
                    assert!(counts.iter().all(|c| c.load(SeqCst) == 1));
                }
            }
        }
    }

    #[test]
    fn jobs_longer_than_a_turn_run_every_chunk_once_and_are_waited_for() {
        for threads in [2, 3] {
            let pool = Pool::new(threads);
            let counts: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
            for turn in 1..=3 {
                pool.run(counts.len(), &|i| {
                    // The last ones outlast the caller's patience.
                    let work = if i + threads < 40 { TURN / 4 } else { TURN };
                    let start = Instant::now();
                    while start.elapsed() < work {
                        std::hint::spin_loop();
                    }
                    counts[i].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|c| c.load(SeqCst) == turn));
            }
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(16, &|_| {
                            total.fetch_add(1, SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(SeqCst), 4 * 200 * 16);
    }

    #[test]
    fn a_job_inside_a_job_of_the_same_pool_is_a_panic_and_not_a_deadlock() {
        let (pool, other) = (Pool::new(2), Pool::new(2));
        let nested = |inner: &Pool| {
            catch_unwind(AssertUnwindSafe(|| pool.run(4, &|_| inner.run(4, &|_| {}))))
        };
        assert!(nested(&pool).is_err());
        assert!(nested(&other).is_ok());
        pool.run(4, &|_| {});
    }

    #[test]
    fn a_panic_in_a_chunk_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|i| assert!(i != 57, "planted"));
        }));
        assert!(result.is_err());
        let mut data = vec![0; 1001];
        pool.pieces(&mut data, 10, |i, piece| piece.fill(i));
        assert!(data.iter().enumerate().all(|(at, x)| *x == at / 10));
    }
}
