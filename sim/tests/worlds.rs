//! Worlds of the simulator as tests: clean seeds, kept seeds, planted bugs.

use sim::adversary::{self, Choice, State};
use sim::plant::{ALL, Plant};
use sim::run;
use sim::world::Options;

/// Seeds within which a planted bug must be caught.
const BOUND: u64 = 60;

fn small(seed: u64, plant: Option<Plant>) -> Options {
    Options {
        nodes: 16,
        safety_ms: 1_800_000,
        plant,
        ..Options::new(seed)
    }
}

#[test]
fn no_checker_trips_and_every_trace_repeats() {
    let reports = run::seeds(&small(1, None), 10, true, 2, |_| {});
    for report in &reports {
        assert!(
            report.passed(),
            "seed {}: {:#?}",
            report.seed,
            report.outcome.violations
        );
        assert!(
            report.outcome.tally.finished > 0,
            "seed {} sold nothing",
            report.seed
        );
    }
}

#[test]
fn no_adversary_that_is_held_trips_a_checker() {
    let held = |label: &&adversary::Label| label.state == State::Held;
    for label in adversary::ALL.iter().filter(held) {
        for seed in 1..=3 {
            let options = Options {
                adversaries: Choice::Only(label.strategy),
                ..small(seed, None)
            };
            let report = run::seed(&options, false, |_, _| {});
            assert!(
                report.passed(),
                "{} at seed {seed}: {:#?}",
                label.name,
                report.outcome.violations
            );
        }
    }
}

#[test]
fn a_storm_leaves_two_hosts_standing() {
    let options = Options {
        storm: true,
        safety_ms: 600_000,
        adversaries: Choice::Nobody,
        ..small(1, None)
    };
    let reports = run::seeds(&options, 4, true, 2, |_| {});
    for report in &reports {
        assert!(
            report.passed(),
            "seed {}: {:#?}",
            report.seed,
            report.outcome.violations
        );
    }
    let finished: u64 = reports.iter().map(|one| one.outcome.tally.finished).sum();
    assert!(finished > 120, "{finished}");
}

#[test]
fn the_real_signatures_make_a_market_too() {
    let mut options = small(3, None);
    options.real_crypto = true;
    options.nodes = 10;
    options.safety_ms = 600_000;
    let report = run::seed(&options, false, |_, _| {});
    assert!(report.passed(), "{:#?}", report.outcome.violations);
    assert!(report.outcome.tally.payments > 0);
}

#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("../seeds.txt").lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split(',').map(str::trim);
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse::<u64>().ok())
                .expect("a number")
        };
        let (seed, nodes, minutes) = (number(), number(), number());
        let options = Options {
            nodes: usize::try_from(nodes).expect("nodes"),
            safety_ms: minutes * 60_000,
            ..Options::new(seed)
        };
        let report = run::seed(&options, false, |_, _| {});
        assert!(report.passed(), "{line}: {:#?}", report.outcome.violations);
    }
}

#[test]
fn every_planted_bug_is_caught_by_its_checker() {
    for label in ALL {
        let caught = (1..=BOUND).find(|seed| {
            let report = run::seed(&small(*seed, Some(label.plant)), false, |_, _| {});
            report
                .outcome
                .violations
                .iter()
                .any(|one| one.checker == label.checker)
        });
        assert!(
            caught.is_some(),
            "{} was not caught in {BOUND} seeds",
            label.name
        );
    }
}
