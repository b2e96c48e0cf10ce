//! The reputation machine.
//!
//! # States
//! None beyond the book: every input is answered at once.
//!
//! # Inputs and effects
//! See [`super::io`]. An outcome, an offence or a verdict changes the book, which
//! is persisted; a question is answered with score cards.
//!
//! # Invariants
//! - Only what this node saw itself counts.
//! - The book is bounded; a conviction is the last thing to be forgotten.
//! - Weights of a card sum to 1,000,000.
//!
//! # Crash recovery
//! The book is rebuilt from [`Table::History`](crate::machine::Table).

use super::book::Book;
use super::io::{Effect, Input, Outcome, Subject};
use super::score::{self, Known, Weights};
use crate::bundle::{Finding, Tier};
use crate::ids::{ModelDigest, NodeKey};
use crate::limits;
use crate::machine::{Machine, Outbox, Record};
use crate::offence::{Offence, OffenceKind};
use crate::route::Message;
use crate::time::{Now, Tick, WallTime};

/// What the operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time in which an old event loses half its weight. Milliseconds.
    pub half_life_ms: u64,
    /// How long a host that was caught is not used. Milliseconds.
    pub conviction_ms: u64,
    /// Most histories of each kind.
    pub max_histories: usize,
    /// Weights of the terms.
    pub weights: Weights,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            half_life_ms: 7 * 86_400_000,
            conviction_ms: 30 * 86_400_000,
            max_histories: limits::MAX_HISTORIES,
            weights: Weights::default(),
        }
    }
}

/// First-party history in, explained scores out.
#[derive(Debug)]
pub struct Reputation {
    config: Config,
    book: Book,
}

impl Reputation {
    /// Starts with an empty book.
    pub fn new(config: Config) -> Self {
        let book = Book::new(config.max_histories);
        Reputation { config, book }
    }

    /// Starts from stored records.
    pub fn recover(config: Config, records: impl Iterator<Item = Record>, _now: Now) -> Self {
        let mut machine = Reputation::new(config);
        for record in records {
            machine.book.restore(&record);
        }
        machine
    }

    /// Returns how many histories of (host, model) and of hosts are kept.
    pub fn histories(&self) -> (usize, usize) {
        self.book.len()
    }

    fn happened(&mut self, now: WallTime, outcome: &Outcome, out: &mut Outbox<Effect>) {
        let (host, model) = (outcome.host, outcome.model);
        let mut history = self.book.model(host, model, now, self.config.half_life_ms);
        history.record(outcome, now);
        let mut records = self.book.set_model(host, model, history);
        if outcome.failure.is_none() && self.book.knows_host(&host) {
            let mut known = self.book.host(host, now, self.config.half_life_ms);
            known.streak.clear();
            records.extend(self.book.set_host(host, known));
        }
        out.push(Effect::Persist(records));
    }

    fn offended(&mut self, now: WallTime, offence: Offence, out: &mut Outbox<Effect>) {
        if offence.kind.is_objective() {
            let what = short(&format!("{} ({})", sentence(&offence.kind), offence.detail));
            return self.convict(now, offence.by, what, out);
        }
        if !is_hosts_fault(&offence.kind) {
            return;
        }
        let mut known = self.book.host(offence.by, now, self.config.half_life_ms);
        known.faults = known.faults.saturating_add(super::history::EVENT);
        known.streak.fail(now);
        out.push(Effect::Persist(self.book.set_host(offence.by, known)));
    }

    fn judged(
        &mut self,
        now: WallTime,
        host: NodeKey,
        model: ModelDigest,
        tier: Tier,
        finding: &Finding,
        out: &mut Outbox<Effect>,
    ) {
        match finding {
            Finding::Honest => {
                let mut history = self.book.model(host, model, now, self.config.half_life_ms);
                history.verify(tier);
                out.push(Effect::Persist(self.book.set_model(host, model, history)));
            }
            Finding::FalseAccount { detail } => {
                self.convict(now, host, short(&format!("false account ({detail})")), out);
            }
            Finding::WrongAnswer { position, detail } => {
                let what = short(&format!("wrong answer at token {position} ({detail})"));
                self.convict(now, host, what, out);
            }
            Finding::Inconclusive { .. } => {}
        }
    }

    fn convict(&mut self, now: WallTime, host: NodeKey, what: String, out: &mut Outbox<Effect>) {
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        known.convicted = Some((now, now.after_ms(self.config.conviction_ms), what));
        out.push(Effect::Persist(self.book.set_host(host, known)));
    }

    fn cards(&self, now: WallTime, subjects: Vec<Subject>) -> Vec<super::ScoreCard> {
        let half_life_ms = self.config.half_life_ms;
        let known: Vec<Known> = subjects
            .into_iter()
            .map(|subject| Known {
                history: self
                    .book
                    .model(subject.host, subject.model, now, half_life_ms),
                host: self.book.host(subject.host, now, half_life_ms),
                subject,
            })
            .collect();
        score::cards(&known, &self.config.weights, now)
    }
}

impl Machine for Reputation {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::Happened(outcome) => self.happened(now.wall, &outcome, out),
            Input::Offended(offence) => self.offended(now.wall, offence, out),
            Input::Judged {
                host,
                model,
                order: _,
                tier,
                finding,
            } => self.judged(now.wall, host, model, tier, &finding, out),
            Input::ScoresWanted { ticket, subjects } => {
                let cards = self.cards(now.wall, subjects);
                out.push(Effect::Tell(Message::ScoresGiven { ticket, cards }));
            }
        }
    }

    fn expire(&mut self, _now: Now, _out: &mut Outbox<Effect>) {}

    fn deadline(&self) -> Option<Tick> {
        None
    }
}

/// A buyer's offences say nothing about it as a host.
fn is_hosts_fault(kind: &OffenceKind) -> bool {
    !matches!(kind, OffenceKind::NotPaid | OffenceKind::Replay)
}

fn sentence(kind: &OffenceKind) -> &'static str {
    match kind {
        OffenceKind::WrongAnswer => "wrong answer",
        OffenceKind::WrongReceipt => "wrong receipt",
        OffenceKind::WrongCount => "wrong count",
        OffenceKind::WrongInvoice => "wrong invoice",
        _ => "misbehaviour",
    }
}

/// Cuts text of others' making to a line.
fn short(text: &str) -> String {
    const MOST: usize = 160;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
