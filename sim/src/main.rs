//! `sim`: runs seeds of the simulated world and prints the verdict of every checker.
//!
//! Exit 0: no checker tripped. Exit 1: one did, or a trace did not repeat.

use anyhow::{Context, bail};
use clap::Parser;
use sim::adversary::{self, Choice, State, Strategy};
use sim::plant::{self, Plant};
use sim::run::{self, SeedReport};
use sim::world::{Options, Tally};
use std::collections::BTreeMap;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  sim --seed 1                              one world of 50 nodes, one hour
  sim --seed 1 --seeds 200                  many worlds, each twice, traces compared; CI runs the
                                            first 100
  sim --adversary list                      the well-formed attacks, and which checker stops each
  sim --seed 1 --seeds 10 --adversary same-id
                                            one attack alone, by about a sixth of the nodes
  sim --seed 1 --seeds 10 --adversary none  faults and malformed frames alone
  sim --seed 1 --storm                      ten times the people, two hosts
  sim --plant list                          bugs that can be planted to test the checkers

A failure at seed N is the same failure at every run of seed N with the same options.";

/// Simulates many freehold nodes with made-up time, faults and liars, and checks what must hold.
#[derive(Debug, Parser)]
#[command(name = "sim", version, after_help = EXAMPLES)]
struct Args {
    /// First seed. Drawn from the clock when left out, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, counting up.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Nodes of each world.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Hours of the faulty phase, such as 1 or 0.25; a healed phase of 25 minutes follows.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Purchases that a node begins in an hour, on average.
    #[arg(long, default_value_t = 4)]
    purchases: u64,
    /// Plants a bug that a checker must catch; `list` names them.
    #[arg(long)]
    plant: Option<String>,
    /// Who attacks: a strategy (then about a sixth of the nodes follow it), `none`, or `lot`: up to
    /// three strategies in half of the seeds. `list` names them.
    #[arg(long, default_value = "lot")]
    adversary: String,
    /// Ten times the people and two hosts; a few seeds are so anyway.
    #[arg(long)]
    storm: bool,
    /// Relays, at least 3: with 3 everybody hears of everybody. Left out: one for 64 nodes, and 3
    /// at least.
    #[arg(long)]
    relays: Option<usize>,
    /// Sign and verify with BIP340 instead of the cheap scheme.
    #[arg(long)]
    real_crypto: bool,
    /// Run each seed twice and compare the traces; the default for more than one seed.
    #[arg(long, overrides_with = "once")]
    twice: bool,
    /// Run each seed once.
    #[arg(long)]
    once: bool,
    /// Threads; each runs one seed at a time.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> anyhow::Result<bool> {
    if args.plant.as_deref() == Some("list") {
        for label in plant::ALL {
            println!("{:20} {:18} {}", label.name, label.checker, label.what);
        }
        return Ok(true);
    }
    if args.adversary == "list" {
        for label in adversary::ALL {
            let state = match label.state {
                State::Held => "held",
                State::Open => "open",
            };
            let (name, checker, what) = (label.name, label.checker, label.what);
            println!("{name:18} {checker:18} {state:5} {what}");
        }
        return Ok(true);
    }
    let adversaries = match args.adversary.as_str() {
        "lot" => Choice::ByLot,
        "none" => Choice::Nobody,
        name => Choice::Only(Strategy::named(name).with_context(|| {
            format!("no adversary is called {name}: `sim --adversary list` names them")
        })?),
    };
    let plant =
        match &args.plant {
            Some(name) => Some(Plant::named(name).with_context(|| {
                format!("no bug is called {name}: `sim --plant list` names them")
            })?),
            None => None,
        };
    let hours_fit = args.hours > 0.0 && args.hours <= 10_000.0;
    let fits = hours_fit && (9..=20_000).contains(&args.nodes);
    if args
        .relays
        .is_some_and(|relays| !(3..=1_000).contains(&relays))
    {
        bail!("--relays must be from 3 to 1000");
    }
    if !fits || args.purchases == 0 || args.seeds == 0 {
        bail!(
            "--hours must be above 0, --nodes from 9 to 20000, --purchases and --seeds at least 1"
        );
    }
    let drawn = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |since| since.subsec_nanos().into())
    };
    let seed = args.seed.unwrap_or_else(drawn);
    let mut options = Options::new(seed);
    options.nodes = args.nodes;
    options.safety_ms = (args.hours * 3_600_000.0) as u64;
    options.purchases_per_hour = args.purchases;
    options.plant = plant;
    options.real_crypto = args.real_crypto;
    options.adversaries = adversaries;
    options.storm = args.storm;
    options.relays = args.relays;
    if !args.json {
        println!(
            "seed {seed}, {} seed(s), {} nodes, {} h, {} purchases per node and hour",
            args.seeds, args.nodes, args.hours, args.purchases
        );
    }
    let twice = args.twice || (args.seeds > 1 && !args.once);
    let began = std::time::Instant::now();
    let reports = if args.seeds == 1 {
        let report = run::seed(&options, twice, |at, end| {
            eprintln!(
                "  {} of {} virtual minutes, {:.1} s",
                at / 60_000,
                end / 60_000,
                began.elapsed().as_secs_f64()
            );
        });
        vec![report]
    } else {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.unwrap_or(cores).min(cores.max(1));
        run::seeds(&options, args.seeds, twice, threads, |report| {
            let word = if report.passed() { "passed" } else { "FAILED" };
            eprintln!(
                "  seed {} {word}, {:.1} s",
                report.seed,
                began.elapsed().as_secs_f64()
            );
        })
    };
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        print_json(&args, seed, seconds, &reports)?;
    } else {
        print_text(&reports, seconds);
    }
    Ok(reports.iter().all(SeedReport::passed))
}

fn verdicts(reports: &[SeedReport]) -> BTreeMap<&'static str, usize> {
    let mut sums = BTreeMap::new();
    for (name, count) in reports.iter().flat_map(|report| &report.outcome.verdicts) {
        *sums.entry(*name).or_default() += *count;
    }
    sums
}

fn sum(reports: &[SeedReport]) -> Tally {
    let mut sum = Tally::default();
    for tally in reports.iter().map(|report| &report.outcome.tally) {
        sum.events += tally.events;
        sum.purchases += tally.purchases;
        sum.finished += tally.finished;
        for (mode, count) in &tally.modes {
            *sum.modes.entry(*mode).or_default() += count;
        }
        sum.failed += tally.failed;
        sum.payments += tally.payments;
        sum.crashes += tally.crashes;
        sum.replays += tally.replays;
        sum.convictions += tally.convictions;
        for (code, count) in &tally.refusals {
            *sum.refusals.entry(code.clone()).or_default() += count;
        }
    }
    sum
}

/// One hash over the traces of all seeds, in their order.
fn trace(reports: &[SeedReport]) -> String {
    match reports {
        [one] => one.outcome.trace.clone(),
        many => {
            let mut hasher = blake3::Hasher::new();
            for report in many {
                hasher.update(report.outcome.trace.as_bytes());
            }
            hasher.finalize().to_hex().to_string()
        }
    }
}

fn print_json(args: &Args, seed: u64, seconds: f64, reports: &[SeedReport]) -> anyhow::Result<()> {
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed()).collect();
    let object = serde_json::json!({
        "seed": seed,
        "seeds": args.seeds,
        "nodes": args.nodes,
        "hours": args.hours,
        "purchases_per_hour": args.purchases,
        "plant": args.plant,
        "adversary": args.adversary,
        "storm": args.storm,
        "relays": args.relays,
        "seconds": seconds,
        "tally": sum(reports),
        "failed": failed,
        "trace": trace(reports),
        "checkers": verdicts(reports),
    });
    println!("{}", serde_json::to_string_pretty(&object)?);
    Ok(())
}

fn print_text(reports: &[SeedReport], seconds: f64) {
    for report in reports.iter().filter(|report| !report.passed()) {
        for violation in report.outcome.violations.iter().take(5) {
            println!(
                "seed {}: {} at {} s: {}",
                report.seed,
                violation.checker,
                violation.at_ms / 1_000,
                violation.what
            );
        }
        if report.repeats == Some(false) {
            println!("seed {}: two runs had different traces", report.seed);
        }
    }
    let tally = sum(reports);
    println!(
        "{} events, {} purchases ({} finished, {} refused), {} payments, {} crashes, {} replays, {} convictions, {seconds:.1} s",
        tally.events,
        tally.purchases,
        tally.finished,
        tally.failed,
        tally.payments,
        tally.crashes,
        tally.replays,
        tally.convictions
    );
    let refusals: Vec<String> = tally
        .refusals
        .iter()
        .map(|(code, count)| format!("{code} {count}"))
        .collect();
    println!("refusals: {}", refusals.join(", "));
    let modes = tally.modes.iter();
    let modes: Vec<String> = modes
        .map(|(mode, count)| format!("{mode:?} {count}").to_lowercase())
        .collect();
    println!("finished: {}", modes.join(", "));
    println!("trace {}", trace(reports));
    for (name, count) in verdicts(reports) {
        println!(
            "{name:18} {}",
            if count == 0 {
                "holds".to_owned()
            } else {
                format!("BROKEN ({count})")
            }
        );
    }
}
