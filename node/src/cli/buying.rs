//! One purchase on a terminal: the choice and the cap first, then the answer with a
//! live cost line, then the account.
//!
//! Used by `ask` and `chat`. Text goes to stdout, everything else to stderr. Where this
//! machine has the model that was named, or nobody else sells one, it answers itself.

use super::lines::agree;
use super::{Globals, INTERRUPTED, show};
use crate::control::{BuyOrder, Client, Purchase, RunLine, VerdictRow};
use crate::session::{Interrupted, Session};
use crate::signals::Stops;
use anyhow::Context;
use protocol::ids::{NodeKey, OrderId, PaymentHash};
use protocol::message::discovery::Candidate;
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::{Counts, Msat};
use protocol::refusal::Refusal;
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Finish, Receipt, Retention};
use protocol::work::{Constraint, Sampling};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What `ask` and `chat` have in common.
#[derive(Debug, Clone, clap::Args)]
pub struct BuyArgs {
    /// Model by name or digest; the best offer of any model otherwise
    #[arg(long, value_name = "NAME|DIGEST")]
    pub model: Option<String>,
    /// Spend at most this on an answer, in sat [default: what it can cost, at most budget.per_order]
    #[arg(long, value_name = "SAT")]
    pub max_cost: Option<crate::sats::Sats>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Randomness, 0 (none) to 2
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temperature: Option<u32>,
    /// Same seed, prompt and model: same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The answer is JSON after this schema (a file with a JSON Schema)
    #[arg(long, value_name = "FILE", group = "form")]
    pub json_schema: Option<std::path::PathBuf>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "REGEX", group = "form")]
    pub regex: Option<String>,
    /// The answer follows this grammar (a file in Lark syntax)
    #[arg(long, value_name = "FILE", group = "form")]
    pub grammar: Option<std::path::PathBuf>,
    /// Buy from this host or not at all
    #[arg(long, value_name = "KEY")]
    pub host: Option<NodeKey>,
    /// Buy, even where this machine has the model
    #[arg(long)]
    pub buy: bool,
    /// Have the answer checked by recomputation; the validator reads the prompt too
    #[arg(long)]
    pub audit: bool,
    /// Sign with a key of this order alone, over a connection of its own: the host sees an unknown buyer, asks an unknown buyer's prepayment, and still sees your address
    #[arg(long)]
    pub private: bool,
    /// Pay in steps while the answer streams, all of it before (what is not used is not refunded), or at the end (only with credit at the host)
    #[arg(long, value_enum, default_value = "metered", value_name = "WHEN")]
    pub pay: Pay,
    /// Ask the host to keep no prompt and no answer afterwards (its promise, not a proof)
    #[arg(long)]
    pub forget: bool,
    /// Agree to the choice beforehand; the caps still hold
    #[arg(short, long)]
    pub yes: bool,
}

/// When an answer is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pay {
    /// In steps while it streams.
    Metered,
    /// All of it first.
    Before,
    /// At its end.
    After,
}

impl From<Pay> for PaymentMode {
    fn from(pay: Pay) -> Self {
        match pay {
            Pay::Metered => PaymentMode::Metered,
            Pay::Before => PaymentMode::Before,
            Pay::After => PaymentMode::After,
        }
    }
}

/// Reads a temperature into thousandths.
fn temperature(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        // In range, so the product fits.
        Ok(value) if (0.0..=2.0).contains(&value) => Ok((value * 1_000.0).round() as u32),
        _ => Err("must be a number between 0 and 2".to_owned()),
    }
}

impl BuyArgs {
    fn constraint(&self) -> anyhow::Result<Option<Constraint>> {
        let read = |file: &std::path::PathBuf| {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())
        };
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(file), ..) => Some(Constraint::JsonSchema(read(file)?)),
            (_, Some(regex), _) => Some(Constraint::Regex(regex.clone())),
            (.., Some(file)) => Some(Constraint::Lark(read(file)?)),
            _ => None,
        })
    }

    /// The order for some work.
    ///
    /// # Errors
    /// Where a schema or grammar cannot be read.
    pub fn order(&self, work: protocol::work::Work) -> anyhow::Result<BuyOrder> {
        let model = match self.model.as_deref() {
            None => ModelSelector::Any,
            Some(name) => name.parse().map_or_else(
                |_| ModelSelector::Name(name.to_owned()),
                ModelSelector::Digest,
            ),
        };
        let mut order = BuyOrder::new(model, work, "cli");
        order.max_cost = self.max_cost.map(|cap| cap.0);
        order.max_output = self.max_tokens;
        if let Some(milli) = self.temperature {
            order.sampling = Sampling {
                temperature_milli: milli,
                ..order.sampling
            };
        }
        order.seed = self.seed;
        order.host = self.host;
        order.audit = self.audit;
        order.private = self.private;
        order.mode = self.pay.into();
        if self.forget {
            order.retention = Retention::Forget;
        }
        order.confirm = true;
        order.steering.constraint = self.constraint()?;
        Ok(order)
    }
}

/// One settled payment.
#[derive(Debug, Clone, Serialize)]
pub struct Payment {
    /// Which invoice; 0 is the entry payment.
    pub seq: u32,
    /// Payment hash.
    pub hash: PaymentHash,
    /// Amount without fee.
    pub msat: Msat,
    /// Routing fee.
    pub fee_msat: Msat,
    /// Milliseconds.
    pub ms: u64,
}

/// What became of a purchase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The text.
    pub answer: String,
    /// Tokens delivered.
    pub tokens: Counts,
    /// Host and offer chosen.
    pub chosen: Option<Candidate>,
    /// Cap on the order.
    pub max_cost_msat: Msat,
    /// The order.
    pub order: Option<OrderId>,
    /// Prompt tokens by this node's own count, where it has the model's vocabulary.
    pub input_counted_here: Option<u64>,
    /// Payments in the order in which they settled.
    pub payments: Vec<Payment>,
    /// From the order to the first text, milliseconds.
    pub first_token_ms: Option<u64>,
    /// From the order to the end, milliseconds.
    pub total_ms: u64,
    /// Why output ended.
    pub finish: Option<Finish>,
    /// The receipt that both sides signed.
    pub receipt: Option<Receipt>,
    /// Why it failed.
    pub failure: Option<Refusal>,
    /// The owner did not agree.
    pub declined: bool,
    /// The verdict, where one was asked for.
    pub verdict: Option<VerdictRow>,
    /// This machine answered, for nothing.
    pub local: bool,
    /// Somebody pressed Ctrl-C, or the system asked to stop.
    pub interrupted: bool,
}

impl Outcome {
    /// The exit code of a command that did nothing else.
    pub fn code(&self, done: bool) -> ExitCode {
        match (self.interrupted, done) {
            (true, _) => ExitCode::from(INTERRUPTED),
            (false, true) => ExitCode::SUCCESS,
            (false, false) => ExitCode::FAILURE,
        }
    }

    /// Sum of payments without fees.
    pub fn paid(&self) -> Msat {
        self.payments
            .iter()
            .fold(Msat::ZERO, |sum, payment| sum.saturating_add(payment.msat))
    }

    /// Sum of routing fees.
    pub fn fees(&self) -> Msat {
        self.payments.iter().fold(Msat::ZERO, |sum, payment| {
            sum.saturating_add(payment.fee_msat)
        })
    }
}

/// Whether this machine answers: it has the model that was named, or it has one and nobody
/// sells what is asked for. Otherwise waits until the wallet can pay.
///
/// # Errors
/// Where the node does not answer, or has no wallet that runs.
pub async fn is_local(session: &Session, args: &BuyArgs) -> anyhow::Result<bool> {
    let must_buy = args.buy
        || args.host.is_some()
        || args.audit
        || args.private
        || args.forget
        || args.pay != Pay::Metered;
    if !must_buy && args.model.is_some() && session.has_model(args.model.as_deref()).await? {
        return Ok(true);
    }
    let fits = super::hosts::filter(&args.model, args.host);
    let hosts = session.hosts(&fits).await?;
    if !must_buy && !hosts.iter().any(fits) && session.has_model(args.model.as_deref()).await? {
        return Ok(true);
    }
    session.wallet().await?;
    Ok(false)
}

/// Has this machine answer, and shows it. Ctrl-C stops it.
///
/// # Errors
/// Where the node does not answer.
pub async fn run_here(
    session: &Session,
    order: &BuyOrder,
    globals: &Globals,
) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let mut run = session.client.run(order).await?;
    let mut outcome = Outcome {
        local: true,
        ..Outcome::default()
    };
    let mut screen = Screen::new(globals.json);
    let mut stops = session.stops().await;
    loop {
        let line = tokio::select! {
            line = run.next() => line,
            () = stops.next() => {
                outcome.finish = Some(Finish::Stopped);
                outcome.interrupted = true;
                break;
            }
            died = session.died() => return Err(died),
        };
        let Some(line) = line else { break };
        match line? {
            RunLine::Text { text } => {
                outcome.first_token_ms.get_or_insert_with(|| elapsed(began));
                outcome.answer.push_str(&text);
                screen.text(&text);
            }
            RunLine::End { finish, counts } => {
                outcome.finish = Some(finish);
                outcome.tokens = counts;
            }
            RunLine::Failed { refusal } => outcome.failure = Some(refusal),
        }
    }
    outcome.total_ms = elapsed(began);
    screen.end();
    eprintln!("this machine answered: nothing was paid, nobody else read it");
    account(&outcome);
    Ok(outcome)
}

/// Buys, and shows it. Ctrl-C once stops (what was delivered is paid), twice cancels.
///
/// # Errors
/// Where the node does not answer, or nobody can be asked to agree.
pub async fn buy(
    session: &Session,
    order: &BuyOrder,
    args: &BuyArgs,
    globals: &Globals,
) -> anyhow::Result<Outcome> {
    let client = &session.client;
    let began = Instant::now();
    let mut purchase = client.buy(order).await?;
    let mut outcome = Outcome::default();
    let mut screen = Screen::new(globals.json);
    let mut stops = session.stops().await;
    let mut interrupts = 0;
    loop {
        let event = tokio::select! {
            event = purchase.next() => event,
            () = stops.next() => {
                interrupts += 1;
                outcome.interrupted = true;
                interrupt(client, &purchase, interrupts, &mut screen).await?;
                continue;
            }
            died = session.died() => return Err(died),
        };
        let Some(event) = event else { break };
        match event? {
            BuyerEvent::Chosen {
                candidate,
                max_cost,
                considered,
            } => {
                choice(&candidate, max_cost, considered);
                outcome.chosen = Some(*candidate);
                outcome.max_cost_msat = max_cost;
                let agreed = match &purchase.notice {
                    None if args.yes => Some(true),
                    None => consent(&mut stops).await?,
                    Some(notice) => {
                        eprintln!("NOTE    {}", show::clean(notice, 1_000));
                        consent_in_person(args.yes, &mut stops).await?
                    }
                };
                outcome.interrupted |= agreed.is_none();
                if agreed != Some(true) {
                    outcome.declined = true;
                    client.cancel(purchase.request).await?;
                    return Ok(outcome);
                }
                client.confirm(purchase.request).await?;
            }
            BuyerEvent::Accepted {
                order,
                input,
                entry,
                window,
                quantum,
                carried,
            } => {
                outcome.order = Some(order);
                let entry = entry.map_or_else(|| "none".to_owned(), |msat| msat.to_string());
                eprintln!(
                    "order {order}: {} prompt tokens, entry payment {entry}, window {window}, step {quantum}",
                    input.prompt()
                );
                if carried > Msat::ZERO {
                    eprintln!(
                        "debt    {carried} of earlier orders with this host is paid with this one"
                    );
                }
            }
            BuyerEvent::InputCounted { tokens } => outcome.input_counted_here = Some(tokens),
            BuyerEvent::Output {
                text, totals, cost, ..
            } => {
                outcome.first_token_ms.get_or_insert_with(|| elapsed(began));
                outcome.tokens = totals;
                outcome.answer.push_str(&text);
                screen.text(&text);
                let paid = outcome.paid();
                screen.status(&format!(
                    "{} tokens · cost {cost} · paid {paid}",
                    totals.output_tokens
                ));
            }
            BuyerEvent::Paid {
                seq,
                hash,
                msat,
                fee,
                ms,
            } => {
                outcome.payments.push(Payment {
                    seq,
                    hash,
                    msat,
                    fee_msat: fee,
                    ms,
                });
                screen.status(&format!(
                    "payment {seq}: {msat} in {ms} ms · paid {} so far",
                    outcome.paid()
                ));
            }
            BuyerEvent::Finished { finish, receipt } => {
                outcome.tokens = receipt.counts;
                outcome.finish = Some(finish);
                outcome.receipt = Some(*receipt);
            }
            BuyerEvent::Failed(refusal) => outcome.failure = Some(refusal),
        }
    }
    outcome.total_ms = elapsed(began);
    screen.end();
    account(&outcome);
    Ok(outcome)
}

/// Asks the user for what `--yes` does not agree to.
async fn consent_in_person(yes: bool, stops: &mut Stops) -> anyhow::Result<Option<bool>> {
    if yes && !std::io::stdin().is_terminal() {
        eprintln!("--yes does not agree to that: ask at a terminal, or name the model's digest");
        return Ok(Some(false));
    }
    consent(stops).await
}

/// Asks the user; `None` at Ctrl-C.
async fn consent(stops: &mut Stops) -> anyhow::Result<Option<bool>> {
    tokio::select! {
        agreed = agree("Buy this?", "--yes") => agreed.map(Some),
        () = stops.next() => {
            eprintln!();
            Ok(None)
        }
    }
}

fn elapsed(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn interrupt(
    client: &Client,
    purchase: &Purchase,
    count: u32,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    match count {
        1 => {
            screen.status("stopping: what was delivered is paid (Ctrl-C again: cancel)");
            client.stop(purchase.request).await?;
        }
        2 => {
            screen.status("cancelling");
            client.cancel(purchase.request).await?;
        }
        _ => return Err(Interrupted.into()),
    }
    Ok(())
}

/// Shows the choice, its reason and the cap, before anything is spent.
fn choice(candidate: &Candidate, max_cost: Msat, considered: u32) {
    let offer = &candidate.offer;
    eprintln!(
        "model   {} ({}, {})",
        show::clean(&offer.name, 60),
        show::clean(&offer.quantisation, 16),
        offer.digest.short()
    );
    eprintln!("host    {} (best of {considered})", candidate.host);
    eprintln!(
        "price   {} sat per million input / output tokens",
        show::prices(offer)
    );
    if offer.numerics.is_none() {
        eprintln!("answer  {}", show::clean(offer.replay_note(), 60));
    }
    eprintln!(
        "cap     {max_cost} for this order; of it at most 5 % or 3 sat for routing, whichever is more"
    );
    eprintln!("score   {}", show::percent(candidate.score.total_ppm));
    for term in &candidate.score.terms {
        eprintln!(
            "        {:<12} {:>8} of {:>8}  {}",
            show::clean(&term.name, 12),
            show::percent(term.value_ppm),
            show::percent(term.weight_ppm),
            show::clean(&term.why, 100)
        );
    }
    eprintln!(
        "The host reads the prompt, and says that it keeps it for {} days at most; \
         --forget asks it to keep none. Do not send what must stay secret.",
        candidate.keep_days
    );
}

/// Shows what was bought.
fn account(outcome: &Outcome) {
    if let Some(refusal) = &outcome.failure {
        eprintln!("failed: {}", show::clean(&refusal.message, 400));
        eprintln!("fix:    {}", refusal.fix());
    }
    if let Some(receipt) = &outcome.receipt {
        eprintln!("receipt {} (signed by both sides)", receipt.id);
        eprintln!(
            "tokens  {} in, {} out, in {:.1} s",
            receipt.counts.input_tokens + receipt.counts.cached_input_tokens,
            receipt.counts.output_tokens,
            outcome.total_ms as f64 / 1e3
        );
        match outcome.input_counted_here {
            Some(tokens) => eprintln!("input counted here: {tokens}"),
            None => eprintln!(
                "input not counted here: this node has not the model's vocabulary, the host's count was believed within bounds"
            ),
        }
        eprintln!("cost    {}", receipt.cost);
        if receipt.debt > Msat::ZERO {
            eprintln!(
                "owed    {} (too little to invoice; added to the next order there)",
                receipt.debt
            );
        }
    }
    if !outcome.payments.is_empty() {
        let slowest = outcome
            .payments
            .iter()
            .map(|payment| payment.ms)
            .max()
            .unwrap_or_default();
        eprintln!(
            "paid    {} in {} payments, slowest {slowest} ms; routing fees {}",
            outcome.paid(),
            outcome.payments.len(),
            outcome.fees()
        );
    }
    if outcome.finish == Some(Finish::Budget) {
        eprintln!("the cap on this order is used up: raise --max-cost for a longer answer");
    }
}

/// A verdict in words.
pub fn verdict(row: &VerdictRow) -> String {
    use protocol::wire::bundle::Finding;
    let verdict = match &row.result {
        Ok(verdict) => verdict,
        Err(reason) => return format!("none: {}", show::clean(reason, 200)),
    };
    let finding = match &verdict.finding {
        Finding::Honest => format!(
            "honest: {} tokens computed again, every bit agrees",
            verdict.tokens
        ),
        Finding::FalseAccount { detail } => {
            format!("FALSE ACCOUNT: {}", show::clean(detail, 200))
        }
        Finding::WrongAnswer { position, detail } => format!(
            "WRONG ANSWER at token {position}: {}",
            show::clean(detail, 200)
        ),
        Finding::Inconclusive { detail } => format!("inconclusive: {}", show::clean(detail, 200)),
    };
    format!("{finding} (validator {})", verdict.validator.short())
}

/// Waits for the verdict on an order: the first recomputation or conviction, or what else
/// there was when the time is over.
pub async fn await_verdict(
    verdicts: &mut crate::control::Verdicts,
    receipt: &Receipt,
    most: Duration,
) -> Option<VerdictRow> {
    use protocol::wire::bundle::Tier;
    let mut last = None;
    let found = async {
        while let Some(Ok(row)) = verdicts.next().await {
            if row.order != receipt.id {
                continue;
            }
            let enough = row.result.as_ref().is_ok_and(|verdict| {
                // Nobody can do more than the books where the host names no numerics.
                receipt.numerics.is_none()
                    || verdict.tier == Tier::ExactReplay
                    || verdict.finding.convicts()
            });
            last = Some(row);
            if enough {
                return;
            }
        }
    };
    // Out of time: the check of the books, if it came, is better than nothing.
    let _ = tokio::time::timeout(most, found).await;
    last
}

/// The terminal: streamed text, and one status line below it.
struct Screen {
    silent: bool,
    text_on_terminal: bool,
    status_on_terminal: bool,
    midline: bool,
}

impl Screen {
    fn new(silent: bool) -> Self {
        Screen {
            silent,
            text_on_terminal: !silent && std::io::stdout().is_terminal(),
            status_on_terminal: std::io::stderr().is_terminal(),
            midline: false,
        }
    }

    fn text(&mut self, text: &str) {
        if self.silent || text.is_empty() {
            return;
        }
        if self.status_on_terminal {
            // Takes the status line away, which is below or at the cursor.
            eprint!("\x1b[0J");
        }
        // From a stranger: only line breaks and tabs may move the cursor.
        let shown: String = text
            .chars()
            .filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t'))
            .collect();
        print!("{shown}");
        // A reader that is gone is noticed at the end.
        let _ = std::io::stdout().flush();
        self.midline = !shown.ends_with('\n');
    }

    fn status(&self, text: &str) {
        if !self.status_on_terminal {
            return;
        }
        if self.text_on_terminal && self.midline {
            // Makes room below, remembers the place, writes there, and comes back.
            eprint!("\x1bD\x1b[1A\x1b7\x1bE\x1b[2K\x1b[2m{text}\x1b[0m\x1b8");
        } else {
            eprint!("\r\x1b[2K\x1b[2m{text}\x1b[0m\r");
        }
    }

    fn end(&mut self) {
        if self.status_on_terminal {
            eprint!("\x1b[0J");
        }
        if self.midline && !self.silent {
            println!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_purchase_says_so_whatever_was_delivered() {
        let code = |interrupted, done| {
            let outcome = Outcome {
                interrupted,
                ..Outcome::default()
            };
            format!("{:?}", outcome.code(done))
        };
        let exit = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!([code(false, true), code(false, false)], [exit(0), exit(1)]);
        assert_eq!(
            [code(true, true), code(true, false)],
            [exit(130), exit(130)]
        );
    }
}
