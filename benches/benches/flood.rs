//! How many orders a host refuses in a second while it is flooded, and what that costs a stream
//! that it sells meanwhile.
//!
//! Chain, relay, a buyer and a host, started as a user would (this program again, as `up`), with
//! a real channel. The host sells a paced answer of the pocket model; then it sells the same while
//! another process sends it well-formed, signed orders of fresh keys over several connections, as
//! fast as they are answered, and pays none. Two a connection are taken and never accepted, the
//! others are refused. Processor time is that of the system's books, for host and attacker apart,
//! so that the rate for one core can be told on a machine that does other things.
//!
//! `cargo bench --workspace --bench flood` takes about a minute.

#[path = "../../node/tests/attacks/stranger.rs"]
mod stranger;

use anyhow::{Context, Result, bail, ensure};
use freehold::control::BuyOrder;
use freehold::lab::Stage;
use freehold::lab::member::{MemberOptions, MemberPlan};
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::Msat;
use protocol::wire::order::Frame;
use protocol::work::{ChatMessage, Work};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use stranger::{ORDER, Stranger, Target, fresh_key, job, order, receive, send};
use tokio::process::Command;
use tokio::task::JoinSet;

/// Tokens a second of the stream.
const PACE: u32 = 30;
/// Tokens of the stream: twelve seconds.
const TOKENS: u32 = 360;
/// The flood begins before the stream and outlasts it.
const FLOOD: Duration = Duration::from_secs(16);
/// Connections of the attacker, each with a peer id and an address of its own.
const CONNECTIONS: u8 = 8;
/// Orders under way on each.
const AT_ONCE: usize = 6;
/// Where the attacker process finds its target.
const TARGET: &str = "FREEHOLD_FLOOD_TARGET";

/// What the attacker counted.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    refused: u64,
    other: u64,
}

/// Sends orders over one connection until the time is up.
async fn flood_from(number: u8, target: Target, until: Instant) -> Counts {
    let mut counts = Counts::default();
    let from = Ipv4Addr::new(127, 0, 4, number + 2);
    while Instant::now() < until {
        let Ok(stranger) = Stranger::from(from, &target).await else {
            counts.other += 1;
            continue;
        };
        let mut under_way = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (target, mut stranger) = (target.clone(), stranger.opener());
            under_way.spawn(async move {
                let mut counts = Counts::default();
                while Instant::now() < until {
                    let signed = order(&fresh_key(), &target, target.model, job("What is a sat?"));
                    let answered = async {
                        let mut stream = stranger.open(ORDER).await?;
                        send(&mut stream, &signed).await?;
                        receive(&mut stream).await
                    };
                    match answered.await {
                        Ok(Some(Frame::Refusal(_))) => counts.refused += 1,
                        _ => counts.other += 1,
                    }
                }
                counts
            });
        }
        while let Some(Ok(sent)) = under_way.join_next().await {
            counts.refused += sent.refused;
            counts.other += sent.other;
        }
    }
    counts
}

/// The attacker's process: prints what it counted.
async fn attack(target: &str) -> Result<()> {
    let parts: Vec<&str> = target.split(' ').collect();
    let [address, node, model] = parts[..] else {
        bail!("no target");
    };
    let target = Target::listed(&[address.to_owned()], node.parse()?, model.parse()?)?;
    let until = Instant::now() + FLOOD;
    let mut floods = JoinSet::new();
    for number in 0..CONNECTIONS {
        floods.spawn(flood_from(number, target.clone(), until));
    }
    let mut counts = Counts::default();
    while let Some(flood) = floods.join_next().await {
        let flood = flood?;
        counts.refused += flood.refused;
        counts.other += flood.other;
    }
    println!("{} {}", counts.refused, counts.other);
    Ok(())
}

/// Processor time of a process, and of its children that ended. Seconds.
fn processor_s(process: &str) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which stands in brackets and may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no name")?;
    let fields = rest.split_whitespace().skip(11).take(4);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    let [user, system, their_user, their_system] = ticks[..] else {
        bail!("no processor time in {text:?}");
    };
    // Linux counts hundredths of a second here.
    Ok(((user + system) / 100.0, (their_user + their_system) / 100.0))
}

/// Buys the stream; returns its tokens a second, from the first piece to the last.
async fn stream(stage: &Stage) -> Result<f64> {
    let work = Work::Chat {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: "Explain how paying per token works.".to_owned(),
        }],
    };
    let mut order = BuyOrder::new(ModelSelector::Any, work, "flood");
    order.max_output = Some(TOKENS);
    order.max_cost = Some(Msat(200_000));
    // Everything but the end of the text is allowed, so that none ends early.
    order.steering.constraint = Some(protocol::work::Constraint::Regex("(?s).{2000}".to_owned()));
    let mut purchase = stage.members[0].client()?.buy(&order).await?;
    let mut first = None;
    while let Some(event) = purchase.next().await {
        match event? {
            BuyerEvent::Output { .. } => {
                first.get_or_insert_with(Instant::now);
            }
            BuyerEvent::Finished { receipt, .. } => {
                let tokens = receipt.counts.output_tokens;
                ensure!(tokens == u64::from(TOKENS), "{tokens} tokens");
                let took = first.context("no output")?.elapsed();
                return Ok((tokens - 1) as f64 / took.as_secs_f64());
            }
            BuyerEvent::Failed(refusal) => bail!("the stream failed: {refusal}"),
            _ => {}
        }
    }
    bail!("the stream ended without a receipt")
}

async fn all() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = MemberOptions {
        pace: PACE,
        ..MemberOptions::default()
    };
    let plans = [MemberPlan::buyer("buyer"), MemberPlan::host("host")];
    let stage = Stage::start(dir.path(), &plans, &options, &mut |line| {
        eprintln!("{line}")
    })
    .await?;
    let buyer = stage.members[0].client()?;
    while buyer.hosts().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let host = stage.members[1].client()?.status().await?;
    let pid = host.pid.to_string();
    let model = host.models.first().context("no model")?.digest;
    let tcp = host.addresses.iter().find(|text| text.contains("/tcp/"));
    let target = format!("{} {} {model}", tcp.context("no address")?, host.node);

    // The first opens the window.
    stream(&stage).await?;
    let (began, before) = (Instant::now(), processor_s(&pid)?.0);
    let alone = stream(&stage).await?;
    let quiet = (processor_s(&pid)?.0 - before) / began.elapsed().as_secs_f64();

    let attacker = Command::new(std::env::current_exe()?)
        .env(TARGET, target)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (began, before) = (Instant::now(), processor_s(&pid)?.0);
    // The attacker's connections come first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let flooded = stream(&stage).await?;
    let output = attacker.wait_with_output().await?;
    let lasted = began.elapsed().as_secs_f64();
    let used = processor_s(&pid)?.0 - before - quiet * lasted;
    // The only child that ended.
    let attackers = processor_s("self")?.1;
    let text = String::from_utf8(output.stdout)?;
    let counted: Vec<f64> = text
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let [refused, other] = counted[..] else {
        bail!("the attacker says {text:?}");
    };
    println!(
        "orders refused: {refused:.0} in {lasted:.1} s ({:.0} a second by the clock), {other:.0} answered otherwise",
        refused / lasted
    );
    println!(
        "the host's processor time for them: {used:.1} s: {:.0} refused a second of one core",
        refused / used
    );
    println!("the attacker's processor time: {attackers:.1} s");
    println!(
        "the stream: {alone:.2} tokens/s alone, {flooded:.2} beside the flood ({:.1} %)",
        100.0 * flooded / alone
    );
    stage.shutdown().await;
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` starts every bench with this: nothing to test here.
    if arguments.iter().any(|argument| argument == "--test") {
        return std::process::ExitCode::SUCCESS;
    }
    let target = std::env::var(TARGET).ok();
    let as_node = arguments.len() > 1 && !arguments.iter().any(|argument| argument == "--bench");
    // Started by itself as a node, or by that node as the child that renders templates.
    if as_node && target.is_none() {
        return freehold::main();
    }
    let run = async {
        match &target {
            Some(target) => attack(target).await,
            None => all().await,
        }
    };
    let ended = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
