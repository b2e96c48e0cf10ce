//! The reputation machine.
//!
//! # States
//! The book, and dials that nobody answered while this node may have been cut off itself
//! (see `super::reach`). Every input is answered at once.
//!
//! # Inputs and effects
//! See [`crate::message::reputation`]. An outcome, an offence or a verdict changes the book, which
//! is persisted; a question is answered with score cards.
//!
//! # Invariants
//! - Only what this node saw itself counts. Another validator's word is a hint; several that
//!   agree on one answer convict (see `Reputation::agreed`).
//! - Only hosts are in the book: what a buyer's key, a relay or whoever repeats others'
//!   messages can cause is booked against nobody.
//! - The book is bounded; a conviction over an order of this node is the last thing to
//!   be forgotten.
//! - Weights of a card sum to 1,000,000.
//!
//! # Crash recovery
//! The book is rebuilt from [`Table::History`].

use super::book::Book;
use super::history::{Conviction, Counted, EVENT, Hint, HostHistory};
use super::reach::Reach;
use super::score::{self, Known, Weights};
use crate::ids::{ModelDigest, NodeKey};
use crate::limits;
use crate::machine::{Machine, Outbox, Record, Secrets, Table};
use crate::message::discovery::Subject;
use crate::message::inference::Outcome;
use crate::message::reputation::{Effect, Input, ScoreCard};
use crate::message::sibling::Message;
use crate::message::validator::{AGREEING, Witness};
use crate::offence::{Offence, OffenceKind};
use crate::refusal::Code;
use crate::time::{Now, Tick, WallTime};
use crate::wire::bundle::{Finding, Tier};
use crate::wire::envelope::Network;

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

impl Config {
    /// The usual settings, the same for every network.
    pub fn new(_: Network) -> Self {
        Config::default()
    }
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
    reach: Reach,
}

impl Reputation {
    /// Starts with an empty book.
    pub fn new(config: Config) -> Self {
        Reputation {
            book: Book::new(config.max_histories),
            reach: Reach::default(),
            config,
        }
    }

    /// Returns how many histories of (host, model) and of hosts are kept.
    pub fn histories(&self) -> (usize, usize) {
        self.book.len()
    }

    fn happened(&mut self, now: Now, outcome: &Outcome, out: &mut Outbox<Effect>) {
        // The dial that nobody answered is told by its offence.
        if outcome.failure == Some(Code::Disconnected) && self.reach.is_dial(&outcome.order) {
            return;
        }
        let (host, model) = (outcome.host, outcome.model);
        let half_life_ms = self.config.half_life_ms;
        let mut records = Vec::new();
        if outcome.shows_contact() {
            for silent in self.reach.reached(host, now.tick) {
                records.extend(self.fault(now.wall, silent));
            }
        }
        let mut history = self.book.model(host, model, now.wall, half_life_ms);
        history.record(outcome, now.wall);
        records.extend(self.book.set_model(host, model, history));
        if outcome.took_payment || (outcome.went_well() && self.book.knows_host(&host)) {
            let mut known = self.book.host(host, now.wall, half_life_ms);
            match outcome.took_payment {
                true => known.taken.count(Counted::Taken, now.wall),
                false => {
                    known.streak.clear();
                    known.taken.clear();
                }
            }
            records.extend(self.book.set_host(host, known));
        }
        out.push(Effect::Persist(records));
    }

    fn payment_taken(&mut self, now: WallTime, host: NodeKey, out: &mut Outbox<Effect>) {
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        known.taken.count(Counted::Taken, now);
        out.push(Effect::Persist(self.book.set_host(host, known)));
    }

    fn offended(&mut self, now: Now, offence: Offence, out: &mut Outbox<Effect>) {
        if offence.kind.is_objective() {
            let what = short(&format!("{} ({})", sentence(&offence.kind), offence.detail));
            return self.convict(now.wall, offence.by, what, true, out);
        }
        match offence.kind {
            OffenceKind::GhostListing => {
                if !self.reach.silent(offence.by, offence.order, now) {
                    return;
                }
            }
            OffenceKind::NotServed => {}
            // Frames and signatures: the order that they end is booked, and only there it is
            // certain that the peer is a host. Terms and clocks: a relay or this machine may
            // be the cause. Replays: the signer is the victim. Unpaid: a buyer's.
            _ => return,
        }
        out.push(Effect::Persist(self.fault(now.wall, offence.by)));
    }

    /// Books a fault that names no model.
    fn fault(&mut self, now: WallTime, host: NodeKey) -> Vec<Record> {
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        known.faults = known.faults.saturating_add(EVENT);
        known.streak.count(Counted::Failures, now);
        self.book.set_host(host, known)
    }

    fn judged(
        &mut self,
        now: WallTime,
        (host, model): (NodeKey, ModelDigest),
        tier: Tier,
        finding: &Finding,
        witness: Witness,
        out: &mut Outbox<Effect>,
    ) {
        let what = match finding {
            Finding::Honest => {
                let mut history = self.book.model(host, model, now, self.config.half_life_ms);
                // Praise by others is worth nothing: it costs a host a second key.
                if witness == Witness::Own && history.verify(tier) {
                    out.push(Effect::Persist(self.book.set_model(host, model, history)));
                }
                return;
            }
            Finding::FalseAccount { detail } => format!("false account ({detail})"),
            Finding::WrongAnswer { position, detail } => {
                format!("wrong answer at token {position} ({detail})")
            }
            Finding::Inconclusive { .. } => return,
        };
        let what = short(&what);
        match witness {
            Witness::Own => self.convict(now, host, what, true, out),
            Witness::Stranger => self.convict(now, host, what, false, out),
            Witness::Other(by) => self.hinted(now, host, Hint { by, at: now, what }, out),
            Witness::Agreed(by) => self.agreed(now, host, by, &what, out),
        }
    }

    /// Takes in another validator's word: it lowers the score, and excludes nobody.
    fn hinted(&mut self, now: WallTime, host: NodeKey, hint: Hint, out: &mut Outbox<Effect>) {
        if hint.by == host {
            return;
        }
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        known.hint(hint);
        out.push(Effect::Persist(self.book.set_host(host, known)));
    }

    /// Convicts where [`AGREEING`] validators say so of one answer, and one of them has served
    /// this node within the last weeks.
    ///
    /// That bounds what free keys can do: any number of validators that this node never
    /// dealt with convict nobody. It does not bound a host that served well and then lies
    /// as a validator, where it and keys of its own are all that are asked about an answer.
    fn agreed(
        &mut self,
        now: WallTime,
        host: NodeKey,
        by: [NodeKey; AGREEING],
        what: &str,
        out: &mut Outbox<Effect>,
    ) {
        let half_life_ms = self.config.half_life_ms;
        let familiar = |key: &NodeKey| self.book.served(*key, now, half_life_ms);
        if by.contains(&host) || !by.iter().any(familiar) {
            return;
        }
        let what = short(&format!("by {AGREEING} validators, {what}"));
        self.convict(now, host, what, true, out);
    }

    /// A conviction over an order of this node is not replaced by a stranger's bundle.
    fn convict(
        &mut self,
        now: WallTime,
        host: NodeKey,
        what: String,
        own_order: bool,
        out: &mut Outbox<Effect>,
    ) {
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        let before = known.convicted.as_ref();
        known.convicted = Some(Conviction {
            until: now.after_ms(self.config.conviction_ms),
            what,
            own_order: own_order || before.is_some_and(|before| before.own_order),
        });
        out.push(Effect::Persist(self.book.set_host(host, known)));
    }

    /// What is known of a host, with the unanswered dials that may yet be entered.
    fn suspected(&self, now: WallTime, host: NodeKey) -> HostHistory {
        let mut known = self.book.host(host, now, self.config.half_life_ms);
        for at in self.reach.pending(host) {
            known.faults = known.faults.saturating_add(EVENT);
            known.streak.count(Counted::Failures, at);
        }
        known
    }

    fn cards(&self, now: WallTime, subjects: Vec<Subject>) -> Vec<ScoreCard> {
        let half_life_ms = self.config.half_life_ms;
        let known: Vec<Known> = subjects
            .into_iter()
            .map(|subject| Known {
                history: self
                    .book
                    .model(subject.host, subject.model, now, half_life_ms),
                host: self.suspected(now, subject.host),
                served: self.book.served(subject.host, now, half_life_ms),
                subject,
            })
            .collect();
        score::cards(&known, &self.config.weights, now)
    }
}

impl Machine for Reputation {
    type Input = Input;
    type Effect = Effect;
    type Config = Config;

    const TABLES: &'static [Table] = &[Table::History];

    fn recover(
        config: Config,
        _: Secrets,
        records: impl Iterator<Item = Record>,
        _now: Now,
    ) -> Self {
        let mut machine = Reputation::new(config);
        for record in records {
            machine.book.restore(&record);
        }
        machine
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::Happened(outcome) => self.happened(now, &outcome, out),
            Input::PaymentTaken { host } => self.payment_taken(now.wall, host, out),
            Input::Offended(offence) => self.offended(now, offence, out),
            Input::Judged {
                host,
                model,
                order: _,
                tier,
                finding,
                witness,
            } => self.judged(now.wall, (host, model), tier, &finding, witness, out),
            Input::ScoreHosts { id, subjects } => {
                let cards = self.cards(now.wall, subjects);
                out.push(Effect::Tell(Message::HostsScored { id, cards }));
            }
        }
    }

    fn expire(&mut self, _now: Now, _out: &mut Outbox<Effect>) {}

    fn deadline(&self) -> Option<Tick> {
        None
    }
}

fn sentence(kind: &OffenceKind) -> &'static str {
    match kind {
        OffenceKind::WrongAnswer => "wrong answer",
        OffenceKind::WrongReceipt => "wrong receipt",
        OffenceKind::WrongCount => "wrong count",
        OffenceKind::FalseInput => "false count of the prompt",
        OffenceKind::FalseText => "text that is not its tokens'",
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
