//! The way from the engine to whoever reads an answer, and back: bounded steps one
//! way, allowance and cancellation the other.
//!
//! The engine asks for room before it computes, so it never waits for a reader; a
//! reader that makes room wakes the engine.

use super::EngineError;
use super::answer::Step;
use super::engine::{Hub, lock};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Steps that wait for a reader: a network frame of tokens.
const CAPACITY: usize = 32;

/// What a [`Stream`] has at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A token.
    Step(Step),
    /// Nothing more will come.
    Ended,
    /// Nothing yet.
    Pending,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    cached: usize,
    end: Option<Result<(), EngineError>>,
}

struct Link {
    hub: Arc<Hub>,
    state: Mutex<State>,
    ready: Condvar,
    allowance: AtomicU64,
    cancelled: AtomicBool,
}

/// Both ends of a new stream.
pub(super) fn stream(hub: &Arc<Hub>, allowance: u64) -> (Outlet, Stream) {
    let link = Arc::new(Link {
        hub: hub.clone(),
        state: Mutex::default(),
        ready: Condvar::new(),
        allowance: AtomicU64::new(allowance),
        cancelled: AtomicBool::new(false),
    });
    (Outlet(link.clone()), Stream(Control(link)))
}

/// Steers one answer from any thread.
#[derive(Clone)]
pub struct Control(Arc<Link>);

impl Control {
    /// Allow `total` tokens of answer; never takes back what was allowed.
    pub fn allow(&self, total: u64) {
        self.0.allowance.fetch_max(total, Ordering::Relaxed);
        self.0.hub.wake();
    }

    /// End the answer within one step of the engine, with [`EngineError::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
        self.0.hub.wake();
    }
}

/// An answer as it is made. Dropping it cancels the answer.
///
/// As an iterator it blocks until the next token; the end is `None`, after an error
/// where there was one.
pub struct Stream(Control);

impl Stream {
    /// What steers this answer.
    pub fn control(&self) -> Control {
        self.0.clone()
    }

    /// Prompt tokens that were found computed: known when the first token comes.
    pub fn cached(&self) -> usize {
        lock(&self.0.0.state).cached
    }

    /// The next token, waiting for it at most that long.
    pub fn next_within(&mut self, wait: Duration) -> Result<Next, EngineError> {
        // A wait beyond what the clock can name is for ever.
        self.take(Instant::now().checked_add(wait))
    }

    fn take(&mut self, until: Option<Instant>) -> Result<Next, EngineError> {
        let link = &*self.0.0;
        let mut state = lock(&link.state);
        loop {
            if let Some(step) = state.steps.pop_front() {
                let was_full = state.steps.len() + 1 == CAPACITY;
                drop(state);
                if was_full {
                    link.hub.wake();
                }
                return Ok(Next::Step(step));
            }
            if let Some(end) = &mut state.end {
                return std::mem::replace(end, Ok(())).map(|()| Next::Ended);
            }
            state = match until {
                None => link
                    .ready
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Next::Pending);
                    }
                    let woken = link.ready.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Iterator for Stream {
    type Item = Result<Step, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.take(None) {
            Ok(Next::Step(step)) => Some(Ok(step)),
            Ok(Next::Ended | Next::Pending) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The engine's end. Dropped without an end, it ends the stream as stopped.
pub(super) struct Outlet(Arc<Link>);

impl Outlet {
    /// Steps that there is room for.
    pub fn room(&self) -> usize {
        CAPACITY.saturating_sub(lock(&self.0.state).steps.len())
    }

    /// Tokens allowed so far.
    pub fn allowance(&self) -> u64 {
        self.0.allowance.load(Ordering::Relaxed)
    }

    /// Whether nobody wants the rest.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Say how many prompt tokens were found computed.
    pub fn cached(&self, tokens: usize) {
        lock(&self.0.state).cached = tokens;
    }

    /// Hand a step on; there is room.
    pub fn push(&self, step: Step) {
        lock(&self.0.state).steps.push_back(step);
        self.0.ready.notify_one();
    }

    /// The end, once.
    pub fn end(self, end: Result<(), EngineError>) {
        self.finish(end);
    }

    fn finish(&self, end: Result<(), EngineError>) {
        lock(&self.0.state).end.get_or_insert(end);
        self.0.ready.notify_one();
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.finish(Err(EngineError::Stopped));
    }
}
