//! Running seeds: one, twice for the trace hash, or many over threads.

use crate::check::Violation;
use crate::world::{Options, Tally, World};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one run of a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Hash of everything that happened.
    pub trace: String,
    /// What the checkers found, the first of each first.
    pub violations: Vec<Violation>,
    /// Violations per checker.
    pub verdicts: Vec<(&'static str, usize)>,
    /// Numbers.
    pub tally: Tally,
}

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// The run.
    pub outcome: Outcome,
    /// The second run had the same trace; `None`: not run twice.
    pub repeats: Option<bool>,
}

impl SeedReport {
    /// No checker tripped, and the trace repeats.
    pub fn passed(&self) -> bool {
        self.outcome.violations.is_empty() && self.repeats != Some(false)
    }
}

/// Runs one world to its end.
pub fn simulate(options: &Options, progress: impl FnMut(u64, u64)) -> Outcome {
    let mut world = World::new(options.clone());
    let violations = world.run(progress);
    Outcome {
        trace: world.trace.hash(),
        violations,
        verdicts: world.verdicts(),
        tally: world.tally.clone(),
    }
}

/// Runs a seed, twice where asked.
pub fn seed(options: &Options, twice: bool, mut progress: impl FnMut(u64, u64)) -> SeedReport {
    let outcome = simulate(options, &mut progress);
    let repeats = twice.then(|| simulate(options, &mut progress).trace == outcome.trace);
    SeedReport {
        seed: options.seed,
        outcome,
        repeats,
    }
}

/// Runs `count` seeds from that of `options` on, over at most `threads` threads. Reports come
/// back in the order of the seeds; `done` hears of each as it ends.
pub fn seeds(
    options: &Options,
    count: u64,
    twice: bool,
    threads: usize,
    done: impl Fn(&SeedReport) + Sync,
) -> Vec<SeedReport> {
    let next = AtomicU64::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let one = Options {
                        seed: options.seed.wrapping_add(at),
                        ..options.clone()
                    };
                    let report = seed(&one, twice, |_, _| {});
                    done(&report);
                    reports
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|report| report.seed);
    reports
}
