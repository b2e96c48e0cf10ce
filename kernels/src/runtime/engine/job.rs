//! One accepted piece of work and everything the engine holds for it.

use super::super::answer::Answer;
use super::super::digest::logit_digest;
use super::super::lookup::Lookup;
use super::super::prefix::{self, Key, Prefix};
use super::super::schedule::{PAGE, View};
use super::super::steering::Steer;
use super::super::stream::Outlet;
use super::super::{Cache, CancelFlag, EngineError, Replayed, Sampling, Step};
use crate::cuda::{Found, Rule};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Longest pause for which a sequence keeps the pages that another one waits for,
/// whatever it would cost to compute them again: a payment that takes longer has failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where the result of a job that has one goes.
pub(super) type Done<T> = SyncSender<Result<T, EngineError>>;

/// An answer to be computed again.
pub(super) struct Recheck {
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub sampling: Sampling,
    pub steer: Option<Steer>,
    pub seed: u64,
    pub replayed: Vec<Replayed>,
}

impl Recheck {
    /// Whether every token of the answer has been made again.
    pub fn is_done(&self) -> bool {
        self.replayed.len() == self.tokens.len() - self.prompt_len
    }

    /// The position whose logits are the next that are wanted; those before stay, even
    /// where they are computed again.
    pub fn next(&self) -> usize {
        self.prompt_len - 1 + self.replayed.len()
    }

    /// What an honest engine would have made of the logits after `position`.
    pub fn choose(
        &self,
        logits: &mut [f32],
        position: usize,
        steer: Option<&mut Steer>,
    ) -> Replayed {
        let before = &self.tokens[..=position];
        Replayed {
            logit_digest: logit_digest(logits),
            expected_token: self.sampling.sample(logits, before, self.seed, steer),
        }
    }
}

impl Recheck {
    /// What to ask of a device about the logits after `position`.
    pub fn rule(&self, position: usize) -> Option<Rule> {
        match &self.steer {
            None => self.sampling.rule(position + 1, self.seed),
            Some(_) => None,
        }
    }

    /// [`Self::choose`] from what the device found by the rule, where that suffices.
    pub fn pick(&self, found: &Found, rule: &Rule, vocab: usize) -> Option<Replayed> {
        let (expected_token, logit_digest) = self.sampling.pick(found, rule, vocab)?;
        Some(Replayed {
            expected_token,
            logit_digest,
        })
    }
}

/// How a job ends. What it made last goes along, so that whoever reads it finds the
/// place free already.
pub(super) enum End {
    /// With the last token of an answer.
    Step(Step),
    /// With the vector of a text.
    Vector(Vec<f32>),
    /// With what it has.
    Complete,
    /// Early.
    Failed(EngineError),
}

/// What is to be done.
pub(super) enum Task {
    Answer(Box<Answer>, Outlet),
    Recheck(Box<Recheck>, CancelFlag, Done<Vec<Replayed>>),
    Embed(Vec<u32>, CancelFlag, Done<Vec<f32>>),
}

/// A task with its place in the queue and its cache.
pub(super) struct Job {
    pub task: Task,
    pub owner: u64,
    /// Set by the thread: order of arrival, and the step of the last rows.
    pub arrival: u64,
    pub turn: u64,
    pub since: Instant,
    /// Scope, then the key of each full page known so far; empty: never shared.
    keys: Vec<Key>,
    pub cache: Cache,
    pub computed: usize,
    pub admitted: bool,
    /// Guessed tokens of the step that is computed now, behind all tokens.
    pub guess: Vec<u32>,
    lookup: Option<Lookup>,
    /// Gave its pages up: until it has credit it does not compute them again.
    preempted: bool,
    /// Has ever given its pages up.
    evicted: bool,
    /// What its rows have cost since it has its pages.
    cost: Duration,
    /// Of the last row that it computed.
    last: Instant,
    /// Had a place before: tokens found later are its own.
    counted: bool,
}

impl Job {
    pub fn new(owner: u64, keys: Vec<Key>, task: Task) -> Self {
        Self {
            task,
            owner,
            arrival: 0,
            turn: 0,
            since: Instant::now(),
            keys,
            cache: Cache::default(),
            computed: 0,
            admitted: false,
            guess: Vec::new(),
            lookup: None,
            preempted: false,
            evicted: false,
            cost: Duration::ZERO,
            last: Instant::now(),
            counted: false,
        }
    }

    /// All tokens, computed or not.
    pub fn tokens(&self) -> &[u32] {
        match &self.task {
            Task::Answer(answer, _) => &answer.tokens,
            // The last token's own logits were never sampled from.
            Task::Recheck(recheck, ..) => &recheck.tokens[..recheck.tokens.len() - 1],
            Task::Embed(tokens, ..) => tokens,
        }
    }

    /// Work that nobody waits for.
    pub fn is_background(&self) -> bool {
        self.owner == super::BACKGROUND
    }

    pub fn is_cancelled(&self) -> bool {
        match &self.task {
            Task::Answer(_, outlet) => outlet.is_cancelled(),
            Task::Recheck(_, cancel, _) | Task::Embed(_, cancel, _) => cancel.is_cancelled(),
        }
    }

    /// Whether there is nothing to compute at all.
    pub fn is_empty(&self) -> bool {
        match &self.task {
            Task::Answer(answer, _) => answer.finish.is_some(),
            Task::Recheck(recheck, ..) => recheck.is_done(),
            Task::Embed(..) => false,
        }
    }

    /// Positions that it may ever need.
    pub fn most(&self) -> usize {
        let left = match &self.task {
            Task::Answer(answer, _) => answer.left(),
            Task::Recheck(..) | Task::Embed(..) => 0,
        };
        self.tokens().len() + left + 1
    }

    /// Whether it could go on, had it a place.
    pub fn waits(&self) -> bool {
        let view = self.view(false);
        !view.admitted && !view.paused
    }

    /// Whether one more token may be made and would find room.
    fn may_speak(&self) -> bool {
        match &self.task {
            Task::Answer(answer, outlet) => {
                (answer.made().len() as u64) < outlet.allowance() && outlet.room() > 0
            }
            Task::Recheck(..) | Task::Embed(..) => true,
        }
    }

    /// What the schedule knows of it; pages of its own are counted only where asked,
    /// because that takes a look at every page.
    pub fn view(&self, count_private: bool) -> View {
        let tokens = self.tokens().len();
        let speaks = self.may_speak();
        // The last token is computed when its successor may be made.
        let known = if speaks { tokens } else { tokens - 1 };
        View {
            arrival: self.arrival,
            owner: self.owner,
            background: self.is_background(),
            whole: matches!(self.task, Task::Embed(..)),
            known,
            computed: self.computed,
            pages: self.cache.pages().len(),
            private: if count_private { self.private() } else { 0 },
            admitted: self.admitted,
            paused: !speaks && (self.computed >= known || self.preempted),
            yields: self.last.elapsed() >= self.cost.min(LONGEST_PAUSE),
            evicted: self.evicted,
            most: self.most(),
            turn: self.turn,
        }
    }

    /// Count its part of the time that a step took.
    pub fn spent(&mut self, time: Duration) {
        self.cost += time;
        self.last = Instant::now();
    }

    /// Guess what follows the token that is computed next, at most `most` tokens, as far as
    /// they would be allowed, read and have room in the pages that are there.
    pub fn guess(&mut self, most: usize) {
        let Task::Answer(answer, outlet) = &self.task else {
            return;
        };
        let made = answer.made().len() as u64;
        let allowed = outlet.allowance().saturating_sub(made);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let pages = self.cache.pages().len() * PAGE;
        // The token after the last one comes first.
        let free = allowed.min(outlet.room()).min(answer.left());
        let free = free.saturating_sub(1);
        let free = free.min(pages.saturating_sub(answer.tokens.len()));
        // Only where the last token is the next to be computed.
        if free > 0 && self.computed + 1 == answer.tokens.len() {
            let lookup = self.lookup.get_or_insert_with(|| Lookup::new(most));
            self.guess = lookup.guess(&answer.tokens, free);
        }
    }

    /// Whether the logits behind `position` of a step with guesses are those of the
    /// answer's next token: not where a guess before was wrong, or the answer has ended.
    pub fn is_next(&self, position: usize) -> bool {
        let Task::Answer(answer, _) = &self.task else {
            return false;
        };
        let right = match position.checked_sub(self.computed) {
            Some(i) => answer.tokens.last() == self.guess.get(i),
            None => true,
        };
        right && position + 1 == answer.tokens.len() && answer.finish.is_none()
    }

    /// Keep what was guessed right. How many tokens were guessed, and how many of them
    /// were right.
    pub fn judge_guess(&mut self, prefix: &mut Prefix) -> (usize, usize) {
        let guessed = std::mem::take(&mut self.guess).len();
        let computed = self.tokens().len() - 1;
        let right = computed.saturating_sub(self.computed);
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(guessed, right);
        }
        if right > 0 {
            self.advance(computed, prefix);
        }
        (guessed, right)
    }

    /// Pages that nobody but this job and the prefix cache holds.
    fn private(&self) -> usize {
        let own = |page: &&Arc<_>| Arc::strong_count(page) <= 2;
        self.cache.pages().iter().filter(own).count()
    }

    /// Take a place, and the pages that are there already. At least the last token is
    /// left to compute: its logits are wanted.
    pub fn admit(&mut self, prefix: &mut Prefix) {
        self.admitted = true;
        self.preempted = false;
        if let [_, chain @ ..] = self.keys.as_slice() {
            let most = (self.tokens().len() - 1) / PAGE;
            let pages = prefix.find(chain, most);
            self.computed = pages.len() * PAGE;
            self.cache = Cache::shared(pages);
        }
        if let Task::Answer(_, outlet) = &self.task
            && !self.counted
        {
            outlet.cached(self.computed);
        }
        self.counted = true;
    }

    /// Give up place and pages; full ones stay in the prefix cache while there is room.
    pub fn preempt(&mut self, prefix: &mut Prefix) {
        self.touch(prefix);
        self.cache = Cache::default();
        self.computed = 0;
        self.admitted = false;
        self.preempted = true;
        self.evicted = true;
        self.cost = Duration::ZERO;
    }

    /// Count its pages as used now, as one chain.
    pub fn touch(&self, prefix: &mut Prefix) {
        if let [_, chain @ ..] = self.keys.as_slice() {
            prefix.find(chain, chain.len());
        }
    }

    /// Tokens up to `to` are computed: keep the pages that this filled.
    pub fn advance(&mut self, to: usize, prefix: &mut Prefix) {
        let filled = self.computed / PAGE..to / PAGE;
        self.computed = to;
        if self.keys.is_empty() {
            return;
        }
        for page in filled {
            if self.keys.len() == page + 1 {
                let tokens = &self.tokens()[page * PAGE..(page + 1) * PAGE];
                let key = prefix::key(&self.keys[page], tokens);
                self.keys.push(key);
            }
            let (key, own) = (self.keys[page + 1], &self.cache.pages()[page]);
            if let Some(twin) = prefix.keep(key, page, own) {
                self.cache.replace(page, twin);
            }
        }
    }

    /// The end, once. Whoever asked may have gone.
    pub fn end(self, end: End) {
        match (self.task, end) {
            (Task::Answer(_, outlet), End::Step(step)) => {
                outlet.push(step);
                outlet.end(Ok(()));
            }
            (Task::Answer(_, outlet), End::Failed(error)) => outlet.end(Err(error)),
            (Task::Answer(_, outlet), _) => outlet.end(Ok(())),
            (Task::Recheck(_, _, done), End::Failed(error)) => {
                let _ = done.send(Err(error));
            }
            (Task::Recheck(recheck, _, done), _) => {
                let _ = done.send(Ok(recheck.replayed));
            }
            (Task::Embed(_, _, done), End::Failed(error)) => {
                let _ = done.send(Err(error));
            }
            (Task::Embed(_, _, done), End::Vector(vector)) => {
                let _ = done.send(Ok(vector));
            }
            // Without a vector it is heard of as stopped.
            (Task::Embed(..), End::Step(_) | End::Complete) => {}
        }
    }
}
