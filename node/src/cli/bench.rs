//! `freehold bench`: how fast this engine runs a file on this machine.
//!
//! Like `llama-bench`: a timed prompt, and timed tokens at a depth. Figures depend
//! on what else the machine does; nothing decides by them.

mod traffic;

use super::{Globals, file, print_json};
use kernels::bench::{self, Plan};
use kernels::{DeviceChoice, Model, OpenOptions, Placement};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use traffic::Traffic;

/// Arguments of `freehold bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold bench pocket --prompt 64 --generate 64
  freehold bench model.gguf --prompt 512 --generate 128 --threads 2 --json
  freehold bench model.gguf --prompt 0 --depth 2048         decode with 2,048 tokens held
  freehold bench model.gguf --prompt 0 --streams 8          eight answers at once
  freehold bench model.gguf --device cuda:0

Prints tokens per second of prompt and of decoding (the median of --repeat runs),
the bytes of weights and cache read for a token, which share of the measured
memory bandwidth that is, the time to load, and the most memory used.")]
pub struct Args {
    #[arg(help = file::FILE)]
    file: PathBuf,
    /// Tokens of the timed prompt; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens decoded in each stream; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 128)]
    generate: usize,
    /// Tokens that each stream holds before it decodes
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Threads to compute on [default: all]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Answers decoded at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: u16,
    /// Times that everything is measured
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeat: u16,
    /// `cpu`, or `cuda:0` for the first GPU
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// Runs it.
///
/// # Errors
/// Where the file cannot be run on the device.
pub fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let options = OpenOptions {
        threads: args.threads,
        ..OpenOptions::default()
    };
    let start = Instant::now();
    let placement = Placement {
        device: args.device,
        memory: None,
    };
    let model = file::model_on(&args.file, &options, &placement)?;
    let load_s = start.elapsed().as_secs_f64();
    model.each_logits(&[0], false, |_, _| {})?;
    let first_token_s = start.elapsed().as_secs_f64();
    model.settle();
    let settled_s = start.elapsed().as_secs_f64();
    let plan = Plan {
        prompt: args.prompt,
        generate: args.generate,
        depth: args.depth,
        streams: usize::from(args.streams),
    };
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for turn in 1..=args.repeat {
        if !globals.json {
            eprintln!("measuring, {turn} of {}", args.repeat);
        }
        let speed = bench::streams(&model, &plan)?;
        prefill.extend(speed.prefill);
        decode.extend(speed.decode);
    }
    let memory = memory();
    let traffic = Traffic::of(&file::gguf(&args.file)?, &plan);
    let bandwidth = bench::bandwidth(model.threads());
    let steps = median(&decode).map(|tokens| tokens / plan.streams as f64);
    let about = json!({
        "model": model.info().name,
        "architecture": model.info().architecture,
        "quantisation": model.info().quantisation,
        "device": model.device(),
        "simd": model.simd().name(),
        "threads": model.threads(),
        "prompt": plan.prompt,
        "generate": plan.generate,
        "depth": plan.depth,
        "streams": plan.streams,
        "repeat": args.repeat,
        "prefill_tokens_per_s": median(&prefill),
        "prefill_runs": prefill,
        "decode_tokens_per_s": median(&decode),
        "decode_runs": decode,
        "bytes_per_token": traffic.step() as f64 / plan.streams as f64,
        "weight_bytes_per_step": traffic.weights,
        "cache_bytes_per_step": traffic.cache,
        "memory_bandwidth_bytes_per_s": bandwidth,
        "bandwidth_share": steps.map(|steps| steps * traffic.step() as f64 / bandwidth),
        "load_s": load_s,
        "load_to_first_token_s": first_token_s,
        "load_to_packed_s": settled_s,
        "file_bytes": traffic.file,
        "peak_memory_bytes": memory.peak,
        "own_memory_bytes": memory.own,
    });
    if globals.json {
        print_json(&about)?;
    } else {
        print(&model, &about);
    }
    Ok(ExitCode::SUCCESS)
}

fn median(runs: &[f64]) -> Option<f64> {
    let mut runs = runs.to_vec();
    runs.sort_by(f64::total_cmp);
    runs.get(runs.len() / 2).copied()
}

/// Memory of this process, where the system tells.
struct Memory {
    /// The most that was resident, pages of the mapped file included.
    peak: Option<u64>,
    /// What is resident now and not in the file.
    own: Option<u64>,
}

fn memory() -> Memory {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1_024)
    };
    Memory {
        peak: field("VmHWM:"),
        own: field("RssAnon:"),
    }
}

fn print(model: &Model, about: &serde_json::Value) {
    let number = |key: &str| about[key].as_f64();
    let show = |label: &str, value: Option<String>| {
        if let Some(value) = value {
            println!("{label:<10} {value}");
        }
    };
    let speed = |key| number(key).map(|x| format!("{x:.2} tokens/s"));
    let mib = |key| number(key).map(|x| format!("{:.1} MiB", x / f64::from(1 << 20)));
    show(
        "model",
        Some(format!(
            "{} ({}, {}) on {}, {} threads, {}",
            super::show::clean(&model.info().name, 60),
            model.info().architecture,
            model.info().quantisation,
            model.device(),
            model.threads(),
            model.simd().name()
        )),
    );
    show("prefill", speed("prefill_tokens_per_s"));
    show("decode", speed("decode_tokens_per_s"));
    show(
        "reads",
        mib("bytes_per_token").map(|x| format!("{x} a token")),
    );
    let share = number("bandwidth_share").map(|x| format!("{:.1} % of ", 100.0 * x));
    let bandwidth = number("memory_bandwidth_bytes_per_s").unwrap_or_default() / 1e9;
    show(
        "bandwidth",
        Some(format!("{}{bandwidth:.1} GB/s", share.unwrap_or_default())),
    );
    show("load", number("load_s").map(|x| format!("{x:.3} s")));
    show(
        "to first",
        number("load_to_first_token_s").map(|x| format!("{x:.3} s")),
    );
    show(
        "to packed",
        number("load_to_packed_s").map(|x| format!("{x:.3} s")),
    );
    show("file", mib("file_bytes"));
    show("peak", mib("peak_memory_bytes"));
    show("own", mib("own_memory_bytes"));
}
