//! The engine's thread: takes jobs, executes plans, hands results on.

use super::super::pages::Arena;
use super::super::prefix::Prefix;
use super::super::schedule::{self, Limits, State};
use super::super::{CHUNK, EngineError};
use super::batch::{Batch, Made};
use super::job::{End, Job, Task};
use super::{EngineOptions, Hub, Inbox, lock};
use crate::model::Model;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Prompt rows of a step beside running streams: enough for a prompt to keep most of
/// its speed, few enough that a step stays a fraction of a second on two cores.
const BESIDE: usize = 32;

/// Between two looks at pages that others hold: sequences that run on the same
/// device beside the engine.
const STARVED: Duration = Duration::from_millis(20);

/// Steps in a row that may panic before the engine ends: what fails whatever the jobs
/// are does not get better.
const MOST_FAULTS: usize = 3;

/// What a turn came to.
enum Progress {
    Made,
    Nothing,
    /// No step can succeed any more.
    Broken(EngineError),
    /// Pages that should be there are not, or not yet.
    Starved,
}

/// Everything that only the thread touches.
pub(super) struct Worker {
    model: Model,
    limits: Limits,
    hub: Arc<Hub>,
    arena: Arc<Arena>,
    /// Shared with callers who ask what is kept; held for moments, never for a step.
    prefix: Arc<Mutex<Prefix>>,
    jobs: Vec<Job>,
    batch: Batch,
    arrivals: u64,
    steps: u64,
    rows: u64,
    /// Streams up to which tokens are guessed.
    lookup: usize,
    /// Most tokens guessed for one.
    beside: usize,
    /// Tokens guessed, and how many of them were right.
    guesses: (u64, u64),
    /// Steps in a row that panicked.
    faults: usize,
}

/// Tokens that a step computes beside one in little more time. None where rows choose
/// their own experts; a device is not asked.
fn beside(model: &Model) -> usize {
    match model.0.device.is_some() || model.0.graph.mixes() {
        true => 0,
        false => model.0.simd.beside_one(),
    }
}

/// Refuses everything from when the thread ends, however it ends.
struct Closing(Arc<Hub>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut inbox = lock(&self.0.inbox);
        inbox.stopped = true;
        if std::thread::panicking() {
            inbox.broken.get_or_insert(EngineError::Fault);
        }
        let unheard = std::mem::take(&mut inbox.jobs);
        drop(inbox);
        // Jobs end as stopped when they are dropped.
        drop(unheard);
    }
}

impl Worker {
    pub fn new(
        model: &Model,
        options: &EngineOptions,
        hub: Arc<Hub>,
        arena: Arc<Arena>,
        prefix: Arc<Mutex<Prefix>>,
    ) -> Self {
        Self {
            model: model.clone(),
            limits: Limits {
                streams: options.streams.max(1),
                alone: CHUNK,
                beside: BESIDE,
            },
            hub,
            arena,
            prefix,
            jobs: Vec::new(),
            batch: Batch::default(),
            arrivals: 0,
            steps: 0,
            rows: 0,
            lookup: options.lookup,
            beside: beside(model),
            guesses: (0, 0),
            faults: 0,
        }
    }

    /// Until the engine is dropped, or nothing can be computed any more.
    pub fn run(mut self) {
        let _closing = Closing(self.hub.clone());
        let mut progress = Progress::Made;
        while self.receive(&progress) {
            self.clear();
            self.admit();
            progress = self.step();
            if let Progress::Broken(error) = &progress {
                return self.give_up(error);
            }
        }
    }

    /// End everything, and say why to whoever asks from now on.
    fn give_up(&mut self, error: &EngineError) {
        tracing::error!(%error, model = self.model.info().name, "the engine has ended");
        {
            let mut inbox = lock(&self.hub.inbox);
            inbox.broken = Some(error.clone());
            inbox.stopped = true;
            self.jobs.extend(inbox.jobs.drain(..));
        }
        let failed = |index| (index, End::Failed(error.clone()));
        self.end((0..self.jobs.len()).map(failed).collect());
    }

    /// Take what arrived; wait for something where there was nothing to do. False
    /// where the engine stops.
    fn receive(&mut self, progress: &Progress) -> bool {
        let hub = self.hub.clone();
        let mut inbox = lock(&hub.inbox);
        inbox.load.running = self.jobs.iter().filter(|job| job.admitted).count();
        inbox.load.pages = self.arena.capacity() - self.arena.free();
        (inbox.load.steps, inbox.load.rows) = (self.steps, self.rows);
        (inbox.load.guessed, inbox.load.guessed_right) = self.guesses;
        let quiet = |inbox: &mut Inbox| !inbox.woken && !inbox.stopped && inbox.jobs.is_empty();
        inbox = match progress {
            Progress::Made | Progress::Broken(_) => inbox,
            Progress::Nothing => {
                let woken = hub.arrived.wait_while(inbox, quiet);
                woken.unwrap_or_else(PoisonError::into_inner)
            }
            Progress::Starved => {
                let woken = hub.arrived.wait_timeout_while(inbox, STARVED, quiet);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        inbox.woken = false;
        for mut job in inbox.jobs.drain(..) {
            (job.arrival, job.turn) = (self.arrivals, self.steps);
            self.arrivals += 1;
            self.jobs.push(job);
        }
        !inbox.stopped
    }

    /// End what was cancelled, and what asks for nothing.
    fn clear(&mut self) {
        let mut ended = Vec::new();
        for (index, job) in self.jobs.iter().enumerate() {
            if job.is_cancelled() {
                ended.push((index, End::Failed(EngineError::Cancelled)));
            } else if job.is_empty() {
                ended.push((index, End::Complete));
            }
        }
        self.end(ended);
    }

    fn admit(&mut self) {
        #[cfg(test)]
        self.planted_outside();
        while self.jobs.iter().any(|job| !job.admitted) {
            let Some(admission) = schedule::admit(&self.state()) else {
                return;
            };
            for index in admission.preempt {
                self.jobs[index].preempt(&mut lock(&self.prefix));
            }
            if let Some(index) = admission.admit {
                self.jobs[index].admit(&mut lock(&self.prefix));
            }
        }
    }

    /// What the schedule sees. Who holds which page is counted only where memory may
    /// not do for everybody.
    fn state(&self) -> State {
        let lacking =
            |job: &Job| schedule::pages(job.most()).saturating_sub(job.cache.pages().len());
        let free = self.arena.free();
        let tight = free < self.jobs.iter().map(lacking).sum();
        State {
            views: self.jobs.iter().map(|job| job.view(tight)).collect(),
            free: if tight {
                free + lock(&self.prefix).idle()
            } else {
                free
            },
            limits: self.limits.clone(),
        }
    }

    /// Compute one step.
    fn step(&mut self) -> Progress {
        let plan = schedule::plan(&self.state());
        for index in &plan.preempt {
            self.jobs[*index].preempt(&mut lock(&self.prefix));
        }
        let mut rows = plan.rows;
        let planned = rows.len();
        rows.retain(|(index, count)| self.provide(*index, *count));
        if rows.is_empty() {
            return match (planned, plan.preempt.len()) {
                // A pause may become long enough for one that waits for its pages.
                (0, 0) if self.jobs.iter().any(Job::waits) => Progress::Starved,
                (0, 0) => Progress::Nothing,
                (0, _) => Progress::Made,
                _ => Progress::Starved,
            };
        }
        self.steps += 1;
        for (index, count) in &rows {
            self.jobs[*index].turn = self.steps;
            self.rows += *count as u64;
        }
        self.guess(&mut rows);
        let begun = Instant::now();
        let Some(made) = self.compute(&rows) else {
            return self.fault(&rows);
        };
        self.faults = 0;
        let all: usize = rows.iter().map(|(_, count)| count).sum();
        let each = begun.elapsed() / all as u32;
        for (index, count) in &rows {
            self.jobs[*index].spent(each * *count as u32);
        }
        let lost = made.iter().find_map(|(_, made)| match made {
            Made::Failed(error) if error.is_final() => Some(error.clone()),
            _ => None,
        });
        let jobs = &mut self.jobs;
        for job in jobs.iter_mut().filter(|job| !job.guess.is_empty()) {
            let (guessed, right) = job.judge_guess(&mut lock(&self.prefix));
            self.guesses.0 += guessed as u64;
            self.guesses.1 += right as u64;
        }
        let ended = made
            .into_iter()
            .filter_map(|(index, made)| self.deliver(index, made))
            .collect();
        self.end(ended);
        lost.map_or(Progress::Made, Progress::Broken)
    }

    /// What the rows come to; none where computing them panicked.
    fn compute(&mut self, rows: &[(usize, usize)]) -> Option<Vec<(usize, Made)>> {
        let compute = || {
            #[cfg(test)]
            {
                self.batch.planted = self.planted();
            }
            self.batch
                .compute(&self.model, &mut self.jobs, rows, &self.prefix)
        };
        // Whatever this leaves half done belongs to the jobs of the step, which end, or to
        // the batch, which is made anew.
        catch_unwind(AssertUnwindSafe(compute)).ok()
    }

    /// Fail the jobs of a step that panicked.
    fn fault(&mut self, rows: &[(usize, usize)]) -> Progress {
        tracing::error!(
            jobs = rows.len(),
            "a step of the engine panicked; its answers fail"
        );
        self.batch = Batch::default();
        let failed = |(index, _): &(usize, usize)| (*index, End::Failed(EngineError::Fault));
        self.end(rows.iter().map(failed).collect());
        self.faults += 1;
        match self.faults < MOST_FAULTS {
            true => Progress::Made,
            false => Progress::Broken(EngineError::Fault),
        }
    }

    /// Whether a test wants this step to panic.
    #[cfg(test)]
    fn planted(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let fewer = |n: usize| n.checked_sub(1);
        let planted = self.hub.faults.fetch_update(Relaxed, Relaxed, fewer);
        planted.is_ok()
    }

    /// Panic where nothing catches it, if a test wants it.
    #[cfg(test)]
    fn planted_outside(&self) {
        let planted = self
            .hub
            .falls
            .swap(false, std::sync::atomic::Ordering::Relaxed);
        assert!(!planted, "planted");
    }

    /// Add guesses to the rows of a step that has little to do.
    fn guess(&mut self, rows: &mut [(usize, usize)]) {
        let idle = rows.len() <= self.lookup && rows.iter().all(|(_, count)| *count == 1);
        if !idle || self.beside == 0 || !self.model.is_packed() {
            return;
        }
        for (index, count) in rows {
            let job = &mut self.jobs[*index];
            job.guess(self.beside);
            *count += job.guess.len();
        }
    }

    /// Pages for the next rows of a job, at the cost of kept ones.
    fn provide(&mut self, index: usize, count: usize) -> bool {
        let job = &mut self.jobs[index];
        let needed = schedule::pages(job.computed + count);
        while job.cache.pages().len() < needed {
            if !job.cache.grow(&self.arena) && !lock(&self.prefix).evict() {
                return false;
            }
        }
        true
    }

    /// Hand on what was made; the job and how it ends, where that is its end.
    fn deliver(&mut self, index: usize, made: Made) -> Option<(usize, End)> {
        let job = &mut self.jobs[index];
        let end = match (made, &mut job.task) {
            (Made::Failed(error), _) => End::Failed(error),
            (Made::Step(step), Task::Answer(..)) if step.finish.is_some() => End::Step(step),
            (Made::Step(step), Task::Answer(_, outlet)) => {
                outlet.push(step);
                return None;
            }
            (Made::Replayed(token), Task::Recheck(recheck, ..)) => {
                recheck.replayed.push(token);
                recheck.is_done().then_some(End::Complete)?
            }
            (Made::Vector(vector), Task::Embed(..)) => End::Vector(vector),
            _ => return None,
        };
        Some((index, end))
    }

    /// Take ended jobs out, each once.
    fn end(&mut self, mut ended: Vec<(usize, End)>) {
        if ended.is_empty() {
            return;
        }
        // From the back: what `swap_remove` moves has been looked at.
        ended.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        ended.dedup_by_key(|(index, _)| *index);
        for (index, end) in ended {
            let job = self.jobs.swap_remove(index);
            job.touch(&mut lock(&self.prefix));
            let took = job.since.elapsed().as_millis() as u64;
            {
                // Before the reader learns of the end: it may ask again at once.
                let mut inbox = lock(&self.hub.inbox);
                *inbox.count(&job) -= 1;
                let running = inbox.load.running;
                inbox.load.running = running.saturating_sub(usize::from(job.admitted));
                if !job.is_background() {
                    inbox.job_ms = (7 * inbox.job_ms + took) / 8;
                }
            }
            job.end(end);
        }
    }
}
