//! The validator machine.
//!
//! # States of a job
//! `Replaying → [Seeking → Asking → [Asking →]] done`, each with a deadline. Bookkeeping
//! takes no state: it is done at once. Where a validator convicts and this node has no replay
//! of its own, further ones are asked, until one does not or enough agree.
//!
//! # Inputs and effects
//! See [`crate::message::validator`].
//!
//! # Invariants
//! - Every order of ours gets a bookkeeping check; a sample, and every one that
//!   the user asked for, a replay where the engine can.
//! - A host is convicted only by what it signed itself, or by a replay under
//!   equal numerics.
//! - A prompt leaves this machine only where the user asked for the check, or
//!   [`Config::share_sampled`] says so.
//! - Jobs are bounded; strangers get at most half of them, one peer at most
//!   [`MAX_PER_PEER`], one address at most [`MAX_PER_ADDRESS`], and none while a replay of ours
//!   is due. What they ask for is counted before any of it is done: checks and signatures in an
//!   hour, per peer, per address and in all.
//! - A replay that nobody waits for any more, for its stream is closed or its time is over,
//!   is cancelled.
//! - A stranger learns where an answer differs from a replay, not what the replay gives.
//!
//! # Crash recovery
//! Verdicts are durable before they are shown or sent. A job under way is lost
//! with the process: its order was checked by bookkeeping, and the stream of a
//! stranger is gone with it.

use super::bookkeeping::{Facts, Label, label};
use super::store::{Store, Whose};
use crate::crypto::Crypto;
use crate::ids::{Caller, EffectId, NodeKey, StreamId};
use crate::limits;
use crate::machine::{EffectIds, Machine, Outbox, Record, Secrets, Table};
use crate::message::discovery::Candidate;
use crate::message::inference::Evidence;
use crate::message::sibling::Message;
use crate::message::validator::{Effect, Input, Unrepeatable, Witness};
use crate::quota::Quota;
use crate::time::{Now, Tick};
use crate::wire::bundle::{Bundle, Finding, Tier, Verdict};
use crate::wire::envelope::Network;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

mod check;
mod opinion;
mod publish;
mod serve;

/// Most checks that one peer may have waiting.
pub const MAX_PER_PEER: usize = 4;
/// Most checks that peers of one address may have waiting.
pub const MAX_PER_ADDRESS: usize = 8;
/// How long Discovery may take to name validators. Milliseconds.
const SEEK_MS: u64 = 10_000;

/// What the operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Evidence for any other network is inconclusive.
    pub network: Network,
    /// How many of our orders are replayed, per million. Publish it: it deters.
    pub sample_ppm: u32,
    /// This node has an engine that can replay.
    pub can_replay: bool,
    /// Serve `/freehold/audit/1`.
    pub serve: bool,
    /// The user agrees that sampled bundles, with their prompts, go to another validator.
    pub share_sampled: bool,
    /// How long a replay may take. Milliseconds.
    pub replay_ms: u64,
    /// How long another validator may take. Milliseconds.
    pub ask_ms: u64,
    /// Most verdicts kept.
    pub max_verdicts: usize,
    /// Checks that one stranger gets for nothing in an hour.
    pub free_checks_per_peer: u32,
    /// Checks that the strangers of one address get for nothing in an hour.
    pub free_checks_per_address: u32,
    /// Checks that all strangers together get for nothing in an hour. A replay each at worst.
    pub free_checks: u32,
    /// Signatures verified for one stranger in an hour. A bundle has as many as invoices, and four.
    pub free_signatures_per_peer: u32,
    /// Signatures verified for the strangers of one address in an hour.
    pub free_signatures_per_address: u32,
    /// Signatures verified for all strangers together in an hour. Some 50 us each: a few seconds.
    pub free_signatures: u32,
}

impl Config {
    /// The usual settings for a network: five orders in a hundred, and nothing leaves the machine unasked.
    pub fn new(network: Network) -> Self {
        Config {
            network,
            sample_ppm: 50_000,
            can_replay: false,
            serve: false,
            share_sampled: false,
            replay_ms: 600_000,
            ask_ms: 900_000,
            max_verdicts: limits::MAX_VERDICTS,
            free_checks_per_peer: 12,
            free_checks_per_address: 48,
            free_checks: 240,
            free_signatures_per_peer: 8_192,
            free_signatures_per_address: 16_384,
            free_signatures: 65_536,
        }
    }
}

/// Why a bundle is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// We bought it. `audit`: the user asked for the check.
    Own { audit: bool },
    /// A peer asks.
    Audit { stream: StreamId, caller: Caller },
    /// The operator asks.
    Judge { id: EffectId },
}

#[derive(Debug)]
enum Stage {
    /// Our engine works on it.
    Replaying(Box<Facts>),
    /// Discovery looks for a validator.
    Seeking {
        own: Box<Verdict>,
        numerics: Option<String>,
    },
    /// Another validator works on it.
    Asking {
        validator: NodeKey,
        question: Box<Question>,
    },
}

/// What is put to other validators.
#[derive(Debug)]
struct Question {
    /// What we found ourselves.
    own: Verdict,
    /// Numerics that the host claims.
    numerics: Option<String>,
    /// Who may still be asked.
    hosts: Vec<Candidate>,
    /// How many were asked.
    asked: usize,
    /// Validators that convicted already, over this very answer.
    against: Vec<NodeKey>,
}

#[derive(Debug)]
struct Job {
    origin: Origin,
    bundle: Box<Bundle>,
    label: Label,
    stage: Stage,
    until: Tick,
}

/// Evidence in, verdicts out.
pub struct Validator {
    config: Config,
    crypto: Box<dyn Crypto>,
    rng: ChaCha8Rng,
    ids: EffectIds,
    jobs: BTreeMap<EffectId, Job>,
    store: Store,
    checks: Quota,
    signatures: Quota,
}

/// What a check came to.
struct Outcome {
    tier: Tier,
    finding: Finding,
    tokens: u64,
    numerics: Option<String>,
}

impl Outcome {
    fn bookkeeping(finding: Finding) -> Self {
        Outcome {
            tier: Tier::Bookkeeping,
            finding,
            tokens: 0,
            numerics: None,
        }
    }
}

impl Validator {
    /// Starts without verdicts.
    pub fn new(config: Config, crypto: Box<dyn Crypto>, seed: [u8; 32]) -> Self {
        Validator {
            store: Store::new(config.max_verdicts),
            checks: Quota::new(
                config.free_checks_per_peer,
                config.free_checks_per_address,
                config.free_checks,
            ),
            signatures: Quota::new(
                config.free_signatures_per_peer,
                config.free_signatures_per_address,
                config.free_signatures,
            ),
            config,
            crypto,
            rng: ChaCha8Rng::from_seed(seed),
            ids: EffectIds::default(),
            jobs: BTreeMap::new(),
        }
    }

    /// Returns how many checks are under way.
    pub fn pending(&self) -> usize {
        self.jobs.len()
    }

    /// Returns how many verdicts are kept.
    pub fn verdicts(&self) -> usize {
        self.store.len()
    }

    fn ended(&mut self, now: Now, evidence: Evidence, out: &mut Outbox<Effect>) {
        let label = label(&evidence.bundle);
        // Orders that we served: the buyer checks them.
        if evidence.request.is_none() || label.host == self.crypto.key() {
            return;
        }
        // Drawn for every order, so that the draw does not depend on what is in it.
        let sampled = self.rng.gen_range(0..1_000_000) < self.config.sample_ppm;
        let origin = Origin::Own {
            audit: evidence.audit,
        };
        let deep = evidence.audit || sampled;
        self.begin(now, origin, Box::new(evidence.bundle), deep, out);
    }

    /// A job's time is over.
    fn give_up(&mut self, now: Now, id: EffectId, out: &mut Outbox<Effect>) {
        match self.jobs.get(&id).map(|job| &job.stage) {
            Some(Stage::Replaying(_)) => {
                out.push(Effect::CancelReplay { id });
                self.replayed(
                    now,
                    id,
                    Err(Unrepeatable::Failed("the engine took too long".to_owned())),
                    out,
                );
            }
            Some(Stage::Seeking { .. }) => self.validators(now, id, Vec::new(), out),
            Some(Stage::Asking { .. }) => {
                self.answered(
                    now,
                    id,
                    Err("the validator did not answer in time".to_owned()),
                    out,
                );
            }
            None => {}
        }
    }
}

fn judged(verdict: &Verdict, witness: Witness, out: &mut Outbox<Effect>) {
    out.push(Effect::Tell(Message::Judged {
        host: verdict.host,
        model: verdict.model,
        order: verdict.id,
        tier: verdict.tier,
        finding: verdict.finding.clone(),
        witness,
    }));
}

fn report(label: &Label, result: Result<Box<Verdict>, String>, out: &mut Outbox<Effect>) {
    out.push(Effect::Report {
        order: label.id,
        result,
    });
}

impl Machine for Validator {
    type Input = Input;
    type Effect = Effect;
    type Config = Config;

    const TABLES: &'static [Table] = &[Table::Verdicts];

    fn recover(
        config: Config,
        secrets: Secrets,
        records: impl Iterator<Item = Record>,
        _now: Now,
    ) -> Self {
        let mut machine = Validator::new(config, secrets.node, secrets.seed);
        for record in records {
            machine.store.restore(&record);
        }
        machine
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::OrderEnded(evidence) => self.ended(now, *evidence, out),
            Input::AuditAsked {
                stream,
                caller,
                frame,
            } => self.asked(now, stream, caller, *frame, out),
            Input::StreamClosed { stream } => self.closed(stream, out),
            Input::Replayed { id, result } => self.replayed(now, id, result, out),
            Input::ValidatorsFound { id, hosts } => self.validators(now, id, hosts, out),
            Input::Answered { id, result } => self.answered(now, id, result, out),
            Input::Judge { id, bundle } => {
                self.begin(now, Origin::Judge { id }, bundle, true, out);
            }
        }
    }

    fn expire(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let due: Vec<EffectId> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.until <= now.tick)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.give_up(now, id, out);
        }
    }

    fn deadline(&self) -> Option<Tick> {
        self.jobs.values().map(|job| job.until).min()
    }
}

#[cfg(test)]
mod tests;
