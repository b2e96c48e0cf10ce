//! Trains the pocket model: `cargo run --release -p kernels --bin pocket -- train`.
//!
//! The same command gives the same file, to the bit, on every machine and with any number of
//! threads. See `kernels/pocket/README.md`. Not part of a node.

use std::path::PathBuf;
use std::time::Instant;

use kernels::train::corpus::Corpus;
use kernels::train::rng::Rng;
use kernels::train::run::{Plan, Run};
use kernels::{CancelFlag, ChatMessage, Generation, Model, OpenOptions, Sampling};

const HELP: &str = "\
Trains the small model that ships with freehold.

  pocket train [--out FILE] [--steps N] [--seed S] [--threads N] [--state FILE]
      Trains and writes a GGUF file (default kernels/pocket/pocket.gguf).
      --state FILE keeps the run in FILE, and continues it when FILE exists.
      --threads changes the time, never the result.
  pocket corpus [--seed S] [--count N]
      Prints exchanges of the training text.
  pocket export --state FILE [--steps N] [--seed S] [--out FILE]
      Writes the model of a saved run as it is.
  pocket ask [--model FILE] QUESTION...
      Answers questions with a GGUF file, or with the model in this program.
";

/// Steps between two lines of progress.
const REPORT_EVERY: usize = 20;
/// Steps between two saves of the state.
const SAVE_EVERY: usize = 20;
/// Rows of the held-out text in the final measure.
const HELD_OUT_ROWS: usize = 64;
/// Longest answer that `ask` waits for, in tokens.
const LONGEST: u32 = 400;

type Failure = Box<dyn std::error::Error>;

struct Args {
    plan: Plan,
    out: PathBuf,
    state: Option<PathBuf>,
    model: Option<PathBuf>,
    count: u64,
    rest: Vec<String>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut a = Args {
        plan: Plan::default(),
        out: "kernels/pocket/pocket.gguf".into(),
        state: None,
        model: None,
        count: 20,
        rest: Vec::new(),
    };
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            a.rest.push(arg);
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{arg} needs a whole number, not {value}"))
        };
        match arg.as_str() {
            "--out" => a.out = value.into(),
            "--state" => a.state = Some(value.into()),
            "--model" => a.model = Some(value.into()),
            "--steps" => a.plan.steps = number()? as usize,
            "--seed" => a.plan.seed = number()?,
            "--threads" => a.plan.threads = number()? as usize,
            "--count" => a.count = number()?,
            _ => return Err(format!("unknown option {arg}\n\n{HELP}")),
        }
    }
    Ok(a)
}

fn train(a: &Args) -> Result<(), Failure> {
    let mut run = Run::new(a.plan);
    if let Some(bytes) = a
        .state
        .as_ref()
        .filter(|p| p.exists())
        .map(std::fs::read)
        .transpose()?
    {
        run.load(&bytes)?;
        eprintln!("continuing at step {}", run.done());
    }
    eprintln!("{} weights, {} steps", run.parameters(), a.plan.steps);
    let (start, mut tokens, mut loss, mut n) = (Instant::now(), 0, 0.0, 0);
    while run.done() < a.plan.steps {
        let report = run.advance();
        tokens += report.tokens;
        loss += report.loss;
        n += 1;
        let last = run.done() == a.plan.steps;
        if run.done().is_multiple_of(REPORT_EVERY) || last {
            let seconds = start.elapsed().as_secs_f32();
            eprintln!(
                "step {:5}  loss {:.4}  gradient {:.3}  rate {:.5}  {:.0} tokens/s  {:.0} s",
                run.done(),
                loss / n as f32,
                report.length,
                report.rate,
                tokens as f32 / seconds,
                seconds
            );
            (loss, n) = (0.0, 0);
        }
        let save = run.done().is_multiple_of(SAVE_EVERY) || last;
        if let Some(path) = a.state.as_ref().filter(|_| save) {
            let part = path.with_extension("part");
            std::fs::write(&part, run.save())?;
            std::fs::rename(&part, path)?;
        }
    }
    finish(a, &mut run)
}

fn export(a: &Args) -> Result<(), Failure> {
    let path = a.state.as_ref().ok_or("export needs --state FILE")?;
    let mut run = Run::new(a.plan);
    run.load(&std::fs::read(path)?)?;
    finish(a, &mut run)
}

fn finish(a: &Args, run: &mut Run) -> Result<(), Failure> {
    let bytes = run.export();
    std::fs::write(&a.out, &bytes)?;
    println!(
        "{} steps, held-out loss {:.4} nats per token",
        run.done(),
        run.held_out(HELD_OUT_ROWS)
    );
    println!(
        "{}: {} bytes, blake3 {}",
        a.out.display(),
        bytes.len(),
        blake3::hash(&bytes).to_hex()
    );
    Ok(())
}

fn ask(a: &Args) -> Result<(), Failure> {
    let options = OpenOptions {
        threads: 1,
        ..OpenOptions::default()
    };
    let model = match &a.model {
        Some(path) => Model::open(path, &options)?,
        None => Model::from_bytes(kernels::pocket::pocket(), &options)?,
    };
    for question in &a.rest {
        let messages = [ChatMessage {
            role: "user".into(),
            content: question.clone(),
        }];
        // Our template prints no date; the engine wants one all the same.
        let prompt = model.encode_chat(&messages, "2026-01-01")?;
        let mut answer = Generation::new(&model, &prompt, Sampling::default(), 0, LONGEST, &[])?;
        answer.prefill(&CancelFlag::new())?;
        let mut text = String::new();
        loop {
            let step = answer.step()?;
            text.push_str(&step.text);
            if step.finish.is_some() {
                break;
            }
        }
        println!("> {question}\n{text}\n({} tokens)\n", answer.answer().len());
    }
    Ok(())
}

fn corpus(a: &Args) {
    let corpus = Corpus::new();
    for n in 0..a.count {
        let e = corpus.exchange(&mut Rng::new(a.plan.seed, n));
        println!("> {}\n{}\n", e.question, e.answer);
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let result = parse(args)
        .map_err(Failure::from)
        .and_then(|a| match command.as_str() {
            "train" => train(&a),
            "export" => export(&a),
            "ask" => ask(&a),
            "corpus" => {
                corpus(&a);
                Ok(())
            }
            _ => Err(HELP.into()),
        });
    if let Err(e) = result {
        eprintln!("{e}");
        std::process::exit(2);
    }
}
