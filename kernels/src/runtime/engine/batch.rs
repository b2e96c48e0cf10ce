//! One step: rows of several jobs through the model, logits to tokens.

use super::super::answer::{Answer, Step};
use super::super::embed::pooled;
use super::super::prefix::Prefix;
use super::super::{Cache, EngineError, Replayed};
use super::job::{Job, Recheck, Task};
use super::lock;
use crate::cuda::Rule;
use crate::model::{Model, Row, Scratch};
use std::mem::take;
use std::sync::Mutex;

/// Rows of logits held at once: 20 MB with the largest vocabularies, and enough that
/// the output matrix is read once for all streams.
const LOGIT_ROWS: usize = 32;

/// What a row came to.
pub(super) enum Made {
    Step(Step),
    Replayed(Replayed),
    Vector(Vec<f32>),
    Failed(EngineError),
}

/// Rows `row .. row + to - from` of the batch: tokens `from .. to` of a job.
struct Slice {
    job: usize,
    row: usize,
    from: usize,
    to: usize,
}

/// A row whose logits are wanted.
struct Want {
    job: usize,
    row: usize,
    position: usize,
}

/// Buffers reused from step to step.
#[derive(Default)]
pub(super) struct Batch {
    rows: Vec<Row>,
    scratch: Scratch,
    /// The next step panics in its middle.
    #[cfg(test)]
    pub planted: bool,
}

impl Batch {
    /// Compute the next rows of some jobs, given as (index, number of rows). Jobs have
    /// pages for them. The result names jobs by index; it has several entries, in order,
    /// for a job that is rechecked or guesses.
    pub fn compute(
        &mut self,
        model: &Model,
        jobs: &mut [Job],
        rows: &[(usize, usize)],
        prefix: &Mutex<Prefix>,
    ) -> Vec<(usize, Made)> {
        let changed = || {
            let failed = |(job, _): &(usize, usize)| (*job, Made::Failed(EngineError::FileChanged));
            rows.iter().map(failed).collect()
        };
        if model.0.backing.is_changed() {
            return changed();
        }
        let slices = self.forward(model, jobs, rows);
        let failure = self.scratch.failure.take();
        let mut made = Vec::new();
        let mut wants = Vec::new();
        for slice in &slices {
            let job = &mut jobs[slice.job];
            let failure = failure.clone().map(EngineError::from);
            if let Some(error) = failure.or_else(|| self.bad_row(model, slice, job.guess.len())) {
                made.push((slice.job, Made::Failed(error)));
                continue;
            }
            job.advance(slice.to - job.guess.len(), &mut lock(prefix));
            let wanted = match &job.task {
                Task::Embed(..) => {
                    let width = model.0.graph.width;
                    let x = slice.row * width..(slice.row + slice.to - slice.from) * width;
                    made.push((slice.job, Made::Vector(pooled(model, &self.scratch.x[x]))));
                    continue;
                }
                Task::Answer(answer, _) => answer.tokens.len() - 1..slice.to,
                Task::Recheck(recheck, ..) => slice.from.max(recheck.next())..slice.to,
            };
            wants.extend(wanted.map(|position| Want {
                job: slice.job,
                row: slice.row + position - slice.from,
                position,
            }));
        }
        for group in wants.chunks(LOGIT_ROWS) {
            self.choose(model, jobs, group, &mut made);
        }
        // Nothing of a step counts whose weights may not have been the model's.
        match model.0.backing.is_changed() {
            true => changed(),
            false => made,
        }
    }

    fn forward(&mut self, model: &Model, jobs: &mut [Job], rows: &[(usize, usize)]) -> Vec<Slice> {
        self.rows.clear();
        let mut slices = Vec::with_capacity(rows.len());
        for (sequence, (index, count)) in rows.iter().enumerate() {
            let job = &jobs[*index];
            let (from, to) = (job.computed, job.computed + count);
            slices.push(Slice {
                job: *index,
                row: self.rows.len(),
                from,
                to,
            });
            let known = to - job.guess.len();
            let tokens = job.tokens()[from..known].iter().chain(&job.guess);
            let tokens = tokens.zip(from as u32..);
            self.rows.extend(tokens.map(|(token, position)| Row {
                sequence,
                position,
                token: *token,
            }));
        }
        let mut caches: Vec<Cache> = slices
            .iter()
            .map(|s| take(&mut jobs[s.job].cache))
            .collect();
        // Where it does most harm: the caches are with nobody.
        #[cfg(test)]
        assert!(!self.planted, "planted");
        let mut borrowed: Vec<&mut Cache> = caches.iter_mut().collect();
        model
            .0
            .forward(&self.rows, &mut borrowed, &mut self.scratch);
        for (slice, cache) in slices.iter().zip(caches) {
            jobs[slice.job].cache = cache;
        }
        slices
    }

    /// The first row of a slice with a value that is not finite; of guesses, nobody asks
    /// before they are right.
    fn bad_row(&self, model: &Model, slice: &Slice, guessed: usize) -> Option<EngineError> {
        let mut rows = slice.row..slice.row + slice.to - slice.from - guessed;
        let bad = rows.find(|row| !model.0.is_finite(*row, &self.scratch))?;
        Some(EngineError::NotFinite {
            position: self.rows[bad].position,
        })
    }

    /// Logits of at most [`LOGIT_ROWS`] rows, and what they are for, on all threads.
    fn choose(
        &mut self,
        model: &Model,
        jobs: &mut [Job],
        wants: &[Want],
        made: &mut Vec<(usize, Made)>,
    ) {
        let mut found = picked(model, jobs, wants, &mut self.scratch);
        let s = &mut self.scratch;
        let left: Vec<usize> = (0..wants.len()).filter(|i| found[*i].is_none()).collect();
        if model.0.device.is_some() {
            model.0.read_logits(&left, s);
        } else {
            let width = model.0.graph.width;
            for (i, want) in wants.iter().enumerate() {
                // Rows ascend, so no wanted row is overwritten before it has moved.
                let from = want.row * width;
                s.x.copy_within(from..from + width, i * width);
            }
            model.0.logits(0, wants.len(), s);
        }
        if let Some(failure) = s.failure.take() {
            let failed = |want: &Want| (want.job, Made::Failed(failure.clone().into()));
            made.extend(wants.iter().map(failed));
            return;
        }
        let logits = s.logits.chunks_exact_mut(model.0.graph.vocab);
        for (index, logits) in left.iter().zip(logits) {
            let want = &wants[*index];
            let job = &mut jobs[want.job];
            // A constraint knows the next row only when it has seen this one's token.
            if let Task::Recheck(recheck, ..) = &mut job.task
                && recheck.is_steered()
            {
                found[*index] = Some(recheck.make_steered(logits, want.position));
            }
            // And a guess is right or wrong only then.
            if !job.guess.is_empty() {
                found[*index] = job.make_guessed(logits, want.position);
            }
        }
        let mut choosers: Vec<Option<Chooser<'_>>> = jobs.iter_mut().map(Chooser::of).collect();
        let logits = s.logits.chunks_exact_mut(model.0.graph.vocab);
        let mut choices: Vec<Choice<'_>> = left
            .iter()
            .zip(logits)
            .filter_map(|(index, logits)| {
                let want = &wants[*index];
                Some(Choice {
                    index: *index,
                    position: want.position,
                    logits,
                    chooser: Chooser::for_row(&mut choosers[want.job])?,
                    made: None,
                })
            })
            .collect();
        model.0.pool.pieces(&mut choices, 1, |_, choice| {
            choice.iter_mut().for_each(Choice::make);
        });
        for choice in choices {
            found[choice.index] = choice.made;
        }
        let all = wants.iter().zip(found);
        made.extend(all.filter_map(|(want, made)| Some((want.job, made?))));
    }
}

/// What can be made of rows without their logits, where a device computes; nothing, where
/// the processor does.
fn picked(model: &Model, jobs: &mut [Job], wants: &[Want], s: &mut Scratch) -> Vec<Option<Made>> {
    let mut made: Vec<Option<Made>> = wants.iter().map(|_| None).collect();
    if model.0.device.is_none() {
        return made;
    }
    let rule = |want: &Want| match &jobs[want.job].task {
        Task::Answer(answer, _) => answer.rule(),
        Task::Recheck(recheck, ..) => recheck.rule(want.position),
        Task::Embed(..) => None,
    };
    let asked: Vec<Option<Rule>> = wants.iter().map(rule).collect();
    let rows: Vec<usize> = wants.iter().map(|want| want.row).collect();
    let rules: Vec<Rule> = asked
        .iter()
        .map(|rule| rule.unwrap_or(Rule::NONE))
        .collect();
    let found = model.0.found(&rows, &rules, s).unwrap_or_default();
    for (i, (found, rule)) in found.iter().zip(asked).enumerate() {
        let (want, Some(rule)) = (&wants[i], rule) else {
            continue;
        };
        let vocab = model.0.graph.vocab;
        made[i] = match &mut jobs[want.job].task {
            // The row, which is read then, says the same.
            _ if !found.finite => None,
            Task::Answer(answer, _) => answer.pick(found, &rule).map(Made::Step),
            Task::Recheck(recheck, ..) => recheck.pick(found, &rule, vocab).map(Made::Replayed),
            Task::Embed(..) => None,
        };
    }
    made
}

/// Who turns logits into a token.
enum Chooser<'a> {
    Answer(&'a mut Answer),
    Recheck(&'a Recheck),
}

impl<'a> Chooser<'a> {
    fn of(job: &'a mut Job) -> Option<Self> {
        match &mut job.task {
            // Have been made.
            Task::Recheck(recheck, ..) if recheck.is_steered() => None,
            Task::Answer(..) if !job.guess.is_empty() => None,
            Task::Answer(answer, _) => Some(Self::Answer(answer)),
            Task::Recheck(recheck, ..) => Some(Self::Recheck(recheck)),
            Task::Embed(..) => None,
        }
    }

    /// An answer without guesses has one row in a step, a recheck many.
    fn for_row(slot: &mut Option<Self>) -> Option<Self> {
        match slot {
            Some(Self::Recheck(recheck)) => Some(Self::Recheck(recheck)),
            _ => slot.take(),
        }
    }
}

struct Choice<'a> {
    /// Of the wanted rows.
    index: usize,
    position: usize,
    logits: &'a mut [f32],
    chooser: Chooser<'a>,
    made: Option<Made>,
}

impl Choice<'_> {
    fn make(&mut self) {
        let failed = not_finite(self.logits, self.position);
        self.made = Some(match &mut self.chooser {
            Chooser::Answer(answer) => {
                failed.unwrap_or_else(|| Made::Step(answer.choose(self.logits)))
            }
            Chooser::Recheck(recheck) => failed.unwrap_or_else(|| {
                Made::Replayed(recheck.choose(self.logits, self.position, None))
            }),
        });
    }
}

fn not_finite(logits: &[f32], position: usize) -> Option<Made> {
    let position = position as u32;
    let finite = logits.iter().all(|l| l.is_finite());
    (!finite).then_some(Made::Failed(EngineError::NotFinite { position }))
}

impl Job {
    /// The next token of an answer with guesses, where these logits are for it.
    fn make_guessed(&mut self, logits: &mut [f32], position: usize) -> Option<Made> {
        let next = self.is_next(position);
        let Task::Answer(answer, _) = &mut self.task else {
            return None;
        };
        next.then(|| {
            let failed = not_finite(logits, position);
            failed.unwrap_or_else(|| Made::Step(answer.choose(logits)))
        })
    }
}

impl Recheck {
    fn is_steered(&self) -> bool {
        self.steer.is_some()
    }

    /// The next position of an answer that was steered.
    fn make_steered(&mut self, logits: &mut [f32], position: usize) -> Made {
        if let Some(failed) = not_finite(logits, position) {
            return failed;
        }
        let mut steer = self.steer.take();
        let replayed = self.choose(logits, position, steer.as_mut());
        if let (Some(steer), Some(token)) = (&mut steer, self.tokens.get(position + 1)) {
            steer.accept(*token);
        }
        self.steer = steer;
        Made::Replayed(replayed)
    }
}
