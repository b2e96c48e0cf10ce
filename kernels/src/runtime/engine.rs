//! Many answers from one model at once.
//!
//! An [`Engine`] owns one thread, and that thread owns every sequence, page and
//! batch. Each turn it takes what arrived, drops what was cancelled, gives places
//! (`schedule::admit`), computes one step (`schedule::plan`) and hands the tokens
//! on; with nothing to do it sleeps. Callers only send jobs and wake it. An answer
//! has the bits of a lone [`super::Generation`], whatever shares its batch, however
//! often it is paused, and whether its prompt was found in the prefix cache.
//!
//! Invariants: pages never exceed the budget; jobs never exceed streams plus queue, and
//! background work, counted apart, takes no place from them; every accepted job ends
//! exactly once, even where the thread dies. A panic in a step fails the jobs of that
//! step; a device that is lost, or a file that has changed, ends the engine.

mod batch;
mod job;
mod worker;

use super::answer::Answer;
use super::generation::{check, check_tokens};
use super::pages::Arena;
use super::prefix::{self, Key, Prefix};
use super::schedule::{self, PAGE};
use super::stream::{Stream, stream};
use super::{CancelFlag, EngineError, Replayed, Sampling, Steering};
use crate::cpu::memory;
use crate::model::Model;
use job::{Job, Recheck, Task};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Memory of the cache where the system does not say how much there is.
const DEFAULT_CACHE: u64 = 1 << 30;
/// Shortest and longest wait that a full engine asks for.
const RETRY_MS: (u64, u64) = (200, 60_000);
/// How often a blocked caller looks at its cancel flag.
const LOOK: Duration = Duration::from_millis(50);

/// Bounds of an [`Engine`].
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory for keys and values, running and kept, in bytes; 0 means a quarter of
    /// the machine's, or all that a device has for pages.
    pub cache_bytes: u64,
    /// Answers that may run at once.
    pub streams: usize,
    /// Further ones that may wait, for a place or for credit.
    pub queue: usize,
    /// Answers up to which the next tokens are guessed from earlier ones, which makes
    /// texts that repeat something come faster: more keep the processor busy without.
    /// 0 never guesses. It changes no token. Neither a device guesses, nor a mixture of
    /// experts, nor a file whose weights are not packed yet.
    pub lookup: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 0,
            streams: 16,
            queue: 64,
            lookup: 2,
        }
    }
}

impl EngineOptions {
    /// Bytes for the keys and values of this model.
    fn memory(&self, model: &Model) -> u64 {
        match (self.cache_bytes, &model.0.device) {
            (0, Some(_)) => u64::MAX,
            (0, None) => memory("MemTotal").map_or(DEFAULT_CACHE, |bytes| bytes / 4),
            (bytes, _) => bytes,
        }
    }
}

/// An answer to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens to continue.
    pub prompt: Vec<u32>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Seed of the choices.
    pub seed: u64,
    /// Most tokens to make.
    pub max_output: u32,
    /// Text that ends the answer.
    pub stop: Vec<String>,
    /// Who pays: owners take turns, however many requests each has.
    pub owner: u64,
    /// Requests of one scope find each other's prompts computed. Whoever shares a
    /// scope can learn from the time of an answer what others asked.
    pub scope: [u8; 32],
    /// Tokens that may be made so far; [`super::Control::allow`] raises it.
    pub allowance: u64,
}

/// Owner of background work: it waits for that of everybody else, and replays are always its.
pub const BACKGROUND: u64 = u64::MAX;

/// What an engine has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs accepted and not ended, without background work.
    pub jobs: usize,
    /// Background work accepted and not ended.
    pub background: usize,
    /// Of these, the ones that hold a place and could go on.
    pub running: usize,
    /// Pages in use or kept.
    pub pages: usize,
    /// Pages that fit into the budget.
    pub capacity: usize,
    /// Steps computed since the start.
    pub steps: u64,
    /// Rows computed since the start, right and wrong guesses not counted.
    pub rows: u64,
    /// Tokens guessed since the start.
    pub guessed: u64,
    /// Of these, the ones that were right and so came in the same step.
    pub guessed_right: u64,
}

/// What callers and the thread share.
#[derive(Default)]
pub(super) struct Hub {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    /// Steps from now on that panic.
    #[cfg(test)]
    faults: std::sync::atomic::AtomicUsize,
    /// The thread panics outside of a step.
    #[cfg(test)]
    falls: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Inbox {
    jobs: VecDeque<Job>,
    woken: bool,
    stopped: bool,
    /// Why the thread ended by itself.
    broken: Option<EngineError>,
    load: Load,
    /// Mean time that a job took, milliseconds.
    job_ms: u64,
}

impl Inbox {
    /// Where this job is counted.
    fn count(&mut self, job: &Job) -> &mut usize {
        match job.is_background() {
            true => &mut self.load.background,
            false => &mut self.load.jobs,
        }
    }
}

impl Hub {
    /// Let the thread look again at everything.
    pub fn wake(&self) {
        lock(&self.inbox).woken = true;
        self.arrived.notify_one();
    }
}

/// Lock, whoever panicked before: what is guarded here is whole after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batching engine of one model. Dropping it ends all answers with
/// [`EngineError::Stopped`] and joins the thread.
pub struct Engine {
    model: Model,
    options: EngineOptions,
    hub: Arc<Hub>,
    arena: Arc<Arena>,
    prefix: Arc<Mutex<Prefix>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model)
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Start the thread.
    pub fn new(model: &Model, options: EngineOptions) -> std::io::Result<Self> {
        let arena = Arena::of(model, options.memory(model));
        let hub = Arc::new(Hub::default());
        lock(&hub.inbox).load.capacity = arena.capacity();
        let prefix = Arc::new(Mutex::new(Prefix::default()));
        let worker =
            worker::Worker::new(model, &options, hub.clone(), arena.clone(), prefix.clone());
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            model: model.clone(),
            options,
            hub,
            arena,
            prefix,
            thread: Some(thread),
        })
    }

    /// The model it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What it has to do now.
    pub fn load(&self) -> Load {
        lock(&self.hub.inbox).load
    }

    /// Why this engine takes nothing any more, where it ended by itself or would with its
    /// next step: its device is lost, its model's file has changed, several steps failed
    /// one after the other, or its thread panicked.
    pub fn broken(&self) -> Option<EngineError> {
        let broken = lock(&self.hub.inbox).broken.clone();
        let changed = || self.model.is_changed().then_some(EngineError::FileChanged);
        broken.or_else(changed)
    }

    /// Let the next `steps` steps panic.
    #[cfg(test)]
    fn plant_faults(&self, steps: usize) {
        use std::sync::atomic::Ordering::Relaxed;
        self.hub.faults.store(steps, Relaxed);
    }

    /// Ask for an answer. Refuses at once what can never run, and with a time to try
    /// again what cannot run now.
    pub fn submit(&self, request: Request) -> Result<Stream, EngineError> {
        self.submit_steered(request, &Steering::default())
    }

    /// [`Self::submit`] with bias, constraint or probabilities.
    pub fn submit_steered(
        &self,
        request: Request,
        steering: &Steering,
    ) -> Result<Stream, EngineError> {
        let Request {
            prompt,
            sampling,
            seed,
            max_output,
            stop,
            owner,
            scope,
            allowance,
        } = request;
        let mut answer = Answer::new(&self.model, &prompt, sampling, seed, max_output, &stop)?;
        answer.steer(steering)?;
        self.fits(prompt.len() + max_output as usize)?;
        let keys = chain(&scope, &prompt);
        let (outlet, stream) = stream(&self.hub, allowance);
        let task = Task::Answer(Box::new(answer), outlet);
        self.send(Job::new(owner, keys, task))?;
        Ok(stream)
    }

    /// [`super::replay`] among the answers of others, as work that waits for them. It
    /// computes everything itself and uses no kept pages. Blocks.
    pub fn replay(
        &self,
        prompt: &[u32],
        answer: &[u32],
        sampling: Sampling,
        seed: u64,
        cancel: &CancelFlag,
    ) -> Result<Vec<Replayed>, EngineError> {
        let steering = Steering::default();
        self.replay_steered(prompt, answer, sampling, &steering, seed, cancel)
    }

    /// [`Self::replay`] of an answer that was steered.
    pub fn replay_steered(
        &self,
        prompt: &[u32],
        answer: &[u32],
        sampling: Sampling,
        steering: &Steering,
        seed: u64,
        cancel: &CancelFlag,
    ) -> Result<Vec<Replayed>, EngineError> {
        sampling.check()?;
        steering.check(self.model.tokenizer())?;
        check(&self.model, prompt, answer.len() as u64)?;
        let tokens = [prompt, answer].concat();
        check(&self.model, &tokens, 0)?;
        self.fits(tokens.len())?;
        let (done, result) = sync_channel(1);
        let recheck = Recheck {
            tokens,
            prompt_len: prompt.len(),
            sampling,
            steer: steering.start(self.model.tokenizer())?,
            seed,
            replayed: Vec::with_capacity(answer.len()),
        };
        let task = Task::Recheck(Box::new(recheck), cancel.clone(), done);
        self.send(Job::new(BACKGROUND, Vec::new(), task))?;
        self.wait(&result, cancel)
    }

    /// Prompt tokens that a request of this scope would find computed, were it admitted
    /// now. A later one may find fewer: what is not used makes room.
    pub fn cached(&self, scope: &[u8; 32], prompt: &[u32]) -> usize {
        let keys = chain(scope, prompt);
        let most = prompt.len().saturating_sub(1) / PAGE;
        lock(&self.prefix).count(&keys[1..], most) * PAGE
    }

    /// [`Model::embed`] in turn with the texts of other owners, after them as
    /// [`BACKGROUND`]. Blocks.
    pub fn embed(
        &self,
        owner: u64,
        tokens: &[u32],
        cancel: &CancelFlag,
    ) -> Result<Vec<f32>, EngineError> {
        if !self.model.is_encoder() {
            return Err(EngineError::NoEmbeddings);
        }
        check_tokens(&self.model, tokens, 0)?;
        self.fits(tokens.len())?;
        let (done, result) = sync_channel(1);
        let task = Task::Embed(tokens.to_vec(), cancel.clone(), done);
        self.send(Job::new(owner, Vec::new(), task))?;
        self.wait(&result, cancel)
    }

    fn wait<T>(
        &self,
        result: &Receiver<Result<T, EngineError>>,
        cancel: &CancelFlag,
    ) -> Result<T, EngineError> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(Disconnected) => return Err(EngineError::Stopped),
                Err(Timeout) if cancel.is_cancelled() => self.hub.wake(),
                Err(Timeout) => {}
            }
        }
    }

    /// Most tokens of one sequence, prompt and answer, that the memory for keys and values
    /// holds: a longer one is refused ([`EngineError::Memory`]), so nothing should promise it.
    pub fn most_tokens(&self) -> usize {
        (self.arena.capacity() * PAGE).saturating_sub(1)
    }

    /// [`Self::most_tokens`] of an engine of a model that has not been started.
    pub fn most_tokens_of(model: &Model, options: &EngineOptions) -> usize {
        (Arena::of(model, options.memory(model)).capacity() * PAGE).saturating_sub(1)
    }

    /// Whether that many tokens fit into the whole budget: prompt and most output.
    ///
    /// # Errors
    /// [`EngineError::Memory`] where they do not.
    pub fn check_fits(&self, tokens: usize) -> Result<(), EngineError> {
        self.fits(tokens)
    }

    fn fits(&self, tokens: usize) -> Result<(), EngineError> {
        let needed = schedule::pages(tokens + 1);
        match needed <= self.arena.capacity() {
            true => Ok(()),
            false => Err(EngineError::Memory {
                tokens: tokens as u64,
                needed_mib: self.arena.bytes(needed).div_ceil(1 << 20),
                budget_mib: self.arena.bytes(self.arena.capacity()) >> 20,
            }),
        }
    }

    fn send(&self, job: Job) -> Result<(), EngineError> {
        let mut inbox = lock(&self.hub.inbox);
        if inbox.stopped {
            return Err(inbox.broken.clone().unwrap_or(EngineError::Stopped));
        }
        let places = self.options.streams + self.options.queue;
        let taken = inbox.count(&job);
        if *taken >= places {
            let waiting = (inbox.load.jobs / self.options.streams.max(1)) as u64;
            let (least, most) = RETRY_MS;
            let retry_ms = (inbox.job_ms * waiting / 2).clamp(least, most);
            return Err(EngineError::Busy { retry_ms });
        }
        *taken += 1;
        inbox.jobs.push_back(job);
        drop(inbox);
        self.hub.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        lock(&self.hub.inbox).stopped = true;
        self.hub.arrived.notify_one();
        if let Some(thread) = self.thread.take() {
            // Where the thread panicked, its jobs have ended as stopped.
            let _ = thread.join();
        }
    }
}

/// The keys of the full pages of a prompt.
fn chain(scope: &[u8; 32], prompt: &[u32]) -> Vec<Key> {
    let mut last = prefix::root(scope);
    let mut keys = vec![last];
    for page in prompt.chunks_exact(PAGE) {
        last = prefix::key(&last, page);
        keys.push(last);
    }
    keys
}

#[cfg(test)]
mod tests;
