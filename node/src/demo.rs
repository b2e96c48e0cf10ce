//! `freehold demo`: the whole path, on real parts, in one command.
//!
//! A regtest chain, a relay, three processes (buyer, host, validator), a real
//! channel; listing, choice, price and cap; an answer that streams while sats
//! move; the receipt that both signed; the validator's verdict by
//! recomputation; and the balances before and after, to the msat.

use crate::control::{BuyOrder, VerdictRow};
use crate::lab::member::MemberOptions;
use crate::lab::{Stage, plans};
use crate::server::openai::ANY;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::Msat;
use protocol::wire::bundle::Tier;
use protocol::wire::order::Receipt;
use protocol::work::{ChatMessage, Work};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long the listing may take to appear: self-test, proof of work, relay.
const LISTING: Duration = Duration::from_secs(90);
/// How long the verdict may take.
const VERDICT: Duration = Duration::from_secs(90);
/// Cap on the demonstration's order.
const CAP: Msat = Msat(100_000);
const POLL: Duration = Duration::from_millis(200);

/// See the whole system work on this machine: no account, no download, no real money.
///
/// Starts a private chain, a relay and three nodes, buys an answer token by
/// token over a real Lightning channel, and has it checked by recomputation.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What to ask the model.
    #[arg(long, default_value = "What is freehold?")]
    pub prompt: String,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 96)]
    pub max_tokens: u32,
    /// Make the host dishonest: it alters one weight of the model, or shows other words than it
    /// computed. The validator must notice.
    #[arg(long)]
    pub cheat: Option<CheatKind>,
    /// Leave everything running afterwards and say how to use the gateway.
    #[arg(long)]
    pub keep: bool,
    /// Set by the global flag: one JSON object in place of the story.
    #[arg(skip)]
    pub json: bool,
    /// Set by the global flag: where the nodes keep their data; a temporary folder if left out.
    #[arg(skip)]
    pub stage: Option<PathBuf>,
}

/// How the host cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheatKind {
    /// One weight of the model has the wrong sign.
    Weight,
    /// The buyer is shown other words than the model chose.
    Text,
}

impl CheatKind {
    /// The word of the command line.
    const fn word(self) -> &'static str {
        match self {
            CheatKind::Weight => "weight",
            CheatKind::Text => "text",
        }
    }

    const fn deed(self) -> &'static str {
        match self {
            CheatKind::Weight => "altered one weight",
            CheatKind::Text => "showed other words than the model chose",
        }
    }
}

/// One payment of the demonstration.
#[derive(Debug, Clone, Serialize)]
pub struct DemoPayment {
    /// Payment hash.
    pub hash: String,
    /// Amount without fee.
    pub msat: u64,
    /// Routing fee.
    pub fee_msat: u64,
    /// From asking the wallet to the preimage.
    pub ms: u64,
}

/// Balances of one node, in msat.
#[derive(Debug, Clone, Serialize)]
pub struct DemoBalance {
    /// The node.
    pub node: String,
    /// Spendable over Lightning before.
    pub before_msat: u64,
    /// Spendable over Lightning after.
    pub after_msat: u64,
}

/// Everything the demonstration showed.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// The answer.
    pub answer: String,
    /// Output tokens delivered.
    pub tokens: u64,
    /// Payments, in order.
    pub payments: Vec<DemoPayment>,
    /// The receipt, signed by both.
    pub receipt: Receipt,
    /// The validator's verdict.
    pub verdict: VerdictRow,
    /// Whether the host was convicted.
    pub convicted: bool,
    /// Balances per node.
    pub balances: Vec<DemoBalance>,
    /// Sum of routing fees.
    pub routing_fees_msat: u64,
}

/// Runs `freehold demo`.
///
/// # Errors
/// The first step that fails, or a verdict other than the one expected.
pub async fn run(args: DemoArgs) -> Result<ExitCode> {
    let temporary = tempfile::tempdir()?;
    let dir = args
        .stage
        .clone()
        .unwrap_or_else(|| temporary.path().to_path_buf());
    let say = |line: &str| {
        if args.json {
            eprintln!("  {line}");
        } else {
            println!("  {line}");
        }
    };
    say("setting the stage: a private chain, a relay, three nodes");
    let options = MemberOptions {
        cheat: args.cheat.map(|cheat| cheat.word().to_owned()),
        ..MemberOptions::default()
    };
    let stage = Stage::start(&dir, &plans(3), &options, &mut |line| say(line)).await?;
    let result = play(&stage, &args, &say).await;
    match result {
        Ok(report) => {
            let expected = report.convicted == args.cheat.is_some();
            if args.json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                conclude(&report, args.cheat);
            }
            if args.keep {
                keep(&stage).await?;
            }
            stage.shutdown().await;
            ensure!(
                expected,
                "the validator's verdict is not the one this run had to end in"
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            stage.shutdown().await;
            if args.stage.is_none() {
                let kept = temporary.keep();
                return Err(error.context(format!("the nodes' logs are in {}", kept.display())));
            }
            Err(error)
        }
    }
}

async fn play(stage: &Stage, args: &DemoArgs, say: &dyn Fn(&str)) -> Result<DemoReport> {
    let buyer = stage.member("buyer")?.client()?;
    say("waiting for the listings of host and validator");
    let listed = wait_for_listings(stage).await?;
    say(&listed);
    let before = balances(stage).await?;
    let mut verdicts = buyer.verdicts().await?;

    let work = Work::Chat {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: args.prompt.clone(),
        }],
    };
    let mut order = BuyOrder::new(ModelSelector::Any, work, "demo");
    order.max_output = Some(args.max_tokens);
    order.max_cost = Some(CAP);
    order.audit = true;
    let mut purchase = buyer.buy(&order).await?;
    let mut told = Told::default();
    let receipt = loop {
        let event = purchase
            .next()
            .await
            .context("the purchase ended without a receipt")??;
        match event {
            BuyerEvent::Finished { receipt, .. } => break *receipt,
            BuyerEvent::Failed(refusal) => bail!("the purchase failed: {refusal}"),
            other => told.tell(other, args, say),
        }
    };
    if !args.json {
        println!();
    }
    say("the receipt is signed by both; the validator recomputes the answer");
    let verdict = wait_for_verdict(&mut verdicts, &receipt).await?;
    let convicted = matches!(&verdict.result, Ok(verdict) if verdict.finding.convicts());
    let after = settle_balances(stage, &before, &receipt).await?;
    Ok(DemoReport {
        answer: told.answer,
        tokens: receipt.counts.output_tokens,
        routing_fees_msat: told.payments.iter().map(|payment| payment.fee_msat).sum(),
        payments: told.payments,
        receipt,
        verdict,
        convicted,
        balances: before
            .into_iter()
            .zip(after)
            .map(|((node, before), (_, after))| DemoBalance {
                node,
                before_msat: before.0,
                after_msat: after.0,
            })
            .collect(),
    })
}

#[derive(Default)]
struct Told {
    answer: String,
    payments: Vec<DemoPayment>,
}

impl Told {
    fn tell(&mut self, event: BuyerEvent, args: &DemoArgs, say: &dyn Fn(&str)) {
        match event {
            BuyerEvent::Chosen {
                candidate,
                max_cost,
                considered,
            } => {
                say(&format!(
                    "chose host {} of {considered}: model {}, score {} of 1000000",
                    candidate.host.short(),
                    candidate.offer.name,
                    candidate.score.total_ppm
                ));
                for term in &candidate.score.terms {
                    say(&format!(
                        "    {:<12} {:>7} x {:>7}  {}",
                        term.name, term.value_ppm, term.weight_ppm, term.why
                    ));
                }
                say(&format!(
                    "price {} msat a token; cap on this order {max_cost}",
                    candidate.offer.output_price() / 1_000_000
                ));
                say("the host reads the prompt");
            }
            BuyerEvent::Accepted {
                input,
                entry,
                window,
                ..
            } => {
                let entry = entry.map_or("none".to_owned(), |entry| entry.to_string());
                say(&format!(
                    "terms: {} input tokens, entry payment {entry}, credit window {window}",
                    input.input_tokens
                ));
                if !args.json {
                    println!();
                }
            }
            BuyerEvent::Output { text, .. } => {
                self.answer.push_str(&text);
                if !args.json {
                    print!("{text}");
                    let _ = std::io::stdout().flush();
                }
            }
            BuyerEvent::Paid {
                hash,
                msat,
                fee,
                ms,
                ..
            } => {
                if !args.json {
                    print!(" [{msat} in {ms} ms] ");
                    let _ = std::io::stdout().flush();
                }
                self.payments.push(DemoPayment {
                    hash: hash.to_string(),
                    msat: msat.0,
                    fee_msat: fee.0,
                    ms,
                });
            }
            BuyerEvent::Finished { .. }
            | BuyerEvent::Failed(_)
            | BuyerEvent::InputCounted { .. } => {}
        }
    }
}

async fn wait_for_listings(stage: &Stage) -> Result<String> {
    let buyer = stage.member("buyer")?.client()?;
    let wanted = stage.members.len() - 1;
    let listed = async {
        loop {
            let rows = buyer.hosts().await?;
            let mut authors: Vec<_> = rows.iter().map(|row| row.manifest.node).collect();
            authors.dedup();
            if authors.len() >= wanted {
                return Ok::<_, anyhow::Error>(rows);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let rows = tokio::time::timeout(LISTING, listed)
        .await
        .context("the listings did not appear at the buyer; see node.log of each node")??;
    Ok(format!(
        "{} listed (host, model) pairs, each verified: signature, proof of work, expiry, Lightning key",
        rows.len()
    ))
}

async fn balances(stage: &Stage) -> Result<Vec<(String, Msat)>> {
    let mut all = Vec::new();
    for member in &stage.members {
        all.push((
            member.name.clone(),
            member.client()?.balance().await?.spendable,
        ));
    }
    Ok(all)
}

/// Balances once both sides' show every payment: the last settles a moment after its receipt.
async fn settle_balances(
    stage: &Stage,
    before: &[(String, Msat)],
    receipt: &Receipt,
) -> Result<Vec<(String, Msat)>> {
    let paid: u64 = receipt.payments.iter().map(|payment| payment.msat.0).sum();
    let was = |wanted: &str| {
        let found = before.iter().find(|(name, _)| name == wanted);
        found.map_or(0, |(_, msat)| msat.0)
    };
    let (due, got) = (
        was("buyer").saturating_sub(paid),
        was("host").saturating_add(paid),
    );
    let settled = async {
        loop {
            let now = balances(stage).await?;
            let all = |(name, msat): &(String, Msat)| match name.as_str() {
                "buyer" => msat.0 <= due,
                "host" => msat.0 >= got,
                _ => true,
            };
            if now.iter().all(all) {
                return Ok::<_, anyhow::Error>(now);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), settled).await {
        Ok(settled) => settled,
        Err(_) => balances(stage).await,
    }
}

async fn wait_for_verdict(
    verdicts: &mut crate::control::Verdicts,
    receipt: &Receipt,
) -> Result<VerdictRow> {
    let ours = async {
        while let Some(row) = verdicts.next().await {
            let row = row?;
            // The buyer's own bookkeeping check comes first; wait for the recomputation.
            let books = matches!(&row.result, Ok(verdict) if verdict.tier == Tier::Bookkeeping && !verdict.finding.convicts());
            if row.order == receipt.id && !books {
                return Ok(row);
            }
        }
        bail!("the buyer's node went away before the verdict")
    };
    tokio::time::timeout(VERDICT, ours)
        .await
        .context("no verdict came in time")?
}

fn conclude(report: &DemoReport, cheat: Option<CheatKind>) {
    let receipt = &report.receipt;
    println!("\nreceipt");
    println!("  order      {}", receipt.id);
    println!("  host       {}", receipt.host);
    println!("  model      {}", receipt.model);
    println!(
        "  tokens     {} in, {} out",
        receipt.counts.input_tokens, receipt.counts.output_tokens
    );
    println!("  cost       {}", receipt.cost);
    println!(
        "  payments   {} (the entry payment first)",
        receipt.payments.len()
    );
    println!("  chain head {}", receipt.head);
    println!("verdict");
    println!("  {}", crate::cli::buying::verdict(&report.verdict));
    println!("balances over Lightning");
    for balance in &report.balances {
        let change = i128::from(balance.after_msat) - i128::from(balance.before_msat);
        println!(
            "  {:<10} {} -> {}  ({change:+} msat)",
            balance.node,
            Msat(balance.before_msat),
            Msat(balance.after_msat)
        );
    }
    println!("  routing fees {} msat", report.routing_fees_msat);
    match (cheat, report.convicted) {
        (Some(cheat), true) => println!("\nThe host {}, and was convicted.", cheat.deed()),
        (None, false) => {
            println!("\nPaid by the token, from wallet to wallet; checked by recomputation.")
        }
        _ => println!("\nThis is not how it had to end."),
    }
}

async fn keep(stage: &Stage) -> Result<()> {
    let buyer = stage.member("buyer")?;
    println!(
        "\nEverything keeps running. Any OpenAI-compatible client works against the buyer's gateway:"
    );
    println!("  curl {}/v1/models", buyer.gateway);
    println!(
        "  curl {}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\":\"{ANY}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"What is a receipt?\"}}]}}'",
        buyer.gateway
    );
    for member in &stage.members {
        println!("  {:<10} folder {}", member.name, member.dir.display());
    }
    println!("Ctrl-C stops it.");
    crate::signals::stop().await?;
    Ok(())
}
