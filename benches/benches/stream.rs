//! What paying costs a stream: paid against free, cold and warm, paced and unpaced.
//!
//! Real nodes, relay, sockets and channels in this process; a model with random
//! weights that is far faster than the pace. "Cold" is a stranger's order (it
//! prepays), "warm" one of a buyer with a full credit window; "free" is the same
//! order at price 0. Prints tables; figures go to BASELINE.md.
//!
//! `cargo bench --workspace --bench stream` takes about six minutes;
//! `FREEHOLD_BENCH_TOKENS=256` makes it shorter.

use actors::ports::wallet::{PayOutcome, Payment};
use anyhow::{Context, Result, bail, ensure};
use kernels::gguf::TensorType;
use kernels::synthetic::{self, Shape};
use protocol::message::inference::{BuyRequest, BuyerEvent};
use protocol::money::Msat;
use protocol::wire::manifest::Role;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::{Plan, Stage, TestNode, question, until};

/// Output tokens of an answer.
const TOKENS: u32 = 1_024;
/// The pace of a decent reader's machine: 30 tokens a second.
const PACE: Duration = Duration::from_micros(33_333);
/// Added to every payment in the slow runs: about one hop of LDK.
const DELAY: Duration = Duration::from_millis(50);
/// Msat per million output tokens: 250 msat a token.
const PRICE: u64 = 250_000_000;
/// Payments for the latency figure.
const PAYMENTS: usize = 100;
/// Sat in a channel: enough for all runs.
const CHANNEL: u64 = 2_000_000;

struct Run {
    first_token: Duration,
    total: Duration,
    tokens: u64,
    payments: Vec<u64>,
}

impl Run {
    fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / (self.total - self.first_token).as_secs_f64().max(1e-9)
    }
}

fn request(tokens: u32, private: bool) -> BuyRequest {
    BuyRequest {
        max_cost: Msat(400_000),
        audit: false,
        private,
        ..question("Go on.", tokens)
    }
}

async fn buy(buyer: &TestNode, tokens: u32, private: bool) -> Result<Run> {
    let began = Instant::now();
    let mut purchase = buyer.node.buy(request(tokens, private)).await;
    let (mut first_token, mut payments) = (None, Vec::new());
    while let Some(event) = purchase.events.recv().await {
        match event {
            BuyerEvent::Output { .. } => {
                first_token.get_or_insert_with(|| began.elapsed());
            }
            BuyerEvent::Paid { ms, .. } => payments.push(ms),
            BuyerEvent::Failed(refusal) => bail!("the purchase failed: {refusal}"),
            BuyerEvent::Finished { receipt, .. } => {
                let tokens_out = receipt.counts.output_tokens;
                ensure!(
                    tokens_out == u64::from(tokens),
                    "{tokens_out} tokens where {tokens} were asked for"
                );
                return Ok(Run {
                    first_token: first_token.context("no output")?,
                    total: began.elapsed(),
                    tokens: tokens_out,
                    payments,
                });
            }
            BuyerEvent::Chosen { .. }
            | BuyerEvent::Accepted { .. }
            | BuyerEvent::InputCounted { .. } => {}
        }
    }
    bail!("the purchase ended without a receipt")
}

/// A lab with one buyer and one host.
async fn pair(
    dir: &Path,
    price: u64,
    pace: Option<Duration>,
    delay: Duration,
) -> Result<(Stage, TestNode, TestNode)> {
    let shape = Shape {
        context: 4_096,
        ..Shape::tiny()
    };
    let stage = Stage::start().await?;
    let mut plan = Plan::new(&[Role::Client]);
    plan.payment_delay = delay;
    plan.payment.per_order = Msat(1_000_000);
    plan.payment.per_day = Msat(100_000_000);
    let buyer = stage.node(&dir.join("buyer"), &plan).await?;
    let mut plan = Plan::new(&[Role::Client, Role::Host]);
    plan.model = Some(synthetic::qwen3(&shape, TensorType::Q8_0, 1));
    plan.output_tokens = TOKENS;
    plan.output_price = price;
    plan.pace = pace;
    let host = stage.node(&dir.join("host"), &plan).await?;
    stage.connect(&buyer, &[&host], CHANNEL).await?;
    until("the host is listed", || async {
        buyer.node.hosts().await.is_ok_and(|rows| !rows.is_empty())
    })
    .await?;
    Ok((stage, buyer, host))
}

async fn stop(nodes: [TestNode; 2]) {
    for node in nodes {
        node.node.shutdown().await;
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(0)
}

async fn payment_latency(buyer: &TestNode, host: &TestNode) -> Result<Vec<u64>> {
    let mut taken = Vec::new();
    for n in 0..PAYMENTS {
        let hash = [u8::try_from(n)?; 32];
        let invoice = host.wallet.create_invoice(Msat(1_000), hash, 600).await?;
        let began = Instant::now();
        let outcome = buyer
            .wallet
            .pay(Payment {
                bolt11: invoice.bolt11,
                hash: invoice.hash,
                msat: Msat(1_000),
                max_fee: Msat::ZERO,
            })
            .await;
        ensure!(
            matches!(outcome, PayOutcome::Settled { .. }),
            "payment {n}: {outcome:?}"
        );
        taken.push(u64::try_from(began.elapsed().as_millis())?);
    }
    taken.sort_unstable();
    Ok(taken)
}

fn row(name: &str, run: &Run, free: &Run) {
    let mut paid = run.payments.clone();
    paid.sort_unstable();
    // Of answers of another length only the rates compare.
    let whole = match run.tokens == free.tokens {
        true => format!("{:.3}", free.total.as_secs_f64() / run.total.as_secs_f64()),
        false => String::new(),
    };
    println!(
        "| {name} | {:.0} ms | {:.1} | {:.3} | {whole} | {} | {} / {} ms |",
        run.first_token.as_secs_f64() * 1e3,
        run.tokens_per_s(),
        run.tokens_per_s() / free.tokens_per_s(),
        paid.len(),
        percentile(&paid, 50),
        percentile(&paid, 99),
    );
}

async fn compare(tokens: u32, pace: Option<Duration>, dir: &Path) -> Result<()> {
    let name = if pace.is_some() { "paced" } else { "unpaced" };
    let (_stage, buyer, host) = pair(&dir.join("free"), 0, pace, Duration::ZERO).await?;
    buy(&buyer, 16, false).await?;
    let free = buy(&buyer, tokens, false).await?;
    row(&format!("{name}, free"), &free, &free);
    stop([buyer, host]).await;
    for delay in [Duration::ZERO, DELAY] {
        let ms = delay.as_millis();
        let at = dir.join(format!("paid-{ms}"));
        let (_stage, buyer, host) = pair(&at, PRICE, pace, delay).await?;
        // The first payment after a start takes up to two seconds, whoever pays.
        buy(&buyer, 16, true).await?;
        let cold = buy(&buyer, tokens, true).await?;
        row(&format!("{name}, paid, cold, +{ms} ms"), &cold, &free);
        // With what the cold one paid this opens the window as far as it goes.
        buy(&buyer, 128, false).await?;
        let warm = buy(&buyer, tokens, false).await?;
        row(&format!("{name}, paid, warm, +{ms} ms"), &warm, &free);
        let answer = buy(&buyer, 256, false).await?;
        row(
            &format!("{name}, 256 tokens, warm, +{ms} ms"),
            &answer,
            &free,
        );
        stop([buyer, host]).await;
    }
    Ok(())
}

async fn all() -> Result<()> {
    let tokens = std::env::var("FREEHOLD_BENCH_TOKENS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(TOKENS, |tokens: u32| tokens.min(TOKENS));
    let dir = tempfile::tempdir()?;
    let (_stage, buyer, host) = pair(&dir.path().join("wallets"), 0, None, Duration::ZERO).await?;
    let taken = payment_latency(&buyer, &host).await?;
    println!(
        "payment over a direct channel, {PAYMENTS} in sequence: p50 {} ms, p99 {} ms",
        percentile(&taken, 50),
        percentile(&taken, 99)
    );
    stop([buyer, host]).await;
    println!(
        "\n{tokens} tokens\n| order | to first token | tokens/s | rate to free | whole to free | payments | p50 / p99 |\n|---|---|---|---|---|---|---|"
    );
    compare(tokens, Some(PACE), &dir.path().join("paced")).await?;
    compare(tokens, None, &dir.path().join("unpaced")).await
}

fn main() -> Result<()> {
    // `cargo test --benches` starts every bench with this: nothing to test here.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(all())
}
