//! What a dishonest host can take: an entry, ever more seldom; and no prompt that is not there.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{Digest, EffectId, ModelDigest, OrderId, StreamId};
use protocol::limits::FIRST_TOKEN_MS;
use protocol::message::inference::{Effect as OrderEffect, Input as OrderInput, InputCount};
use protocol::message::payment::Effect;
use protocol::message::sibling::Message;
use protocol::route::Delivery;
use protocol::wire::order::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// A buyer knows of a loss by now: it waits for [`FIRST_TOKEN_MS`] and twice what it was told,
/// and is told no more than two minutes. Then the host has a first rest of two minutes. Milliseconds.
const KNOWN_MS: u64 = FIRST_TOKEN_MS + 2 * 120_000 + 120_000;
/// How long a host is left alone that took entries at two times. Four times as long each time
/// after that. Milliseconds.
const REST_MS: u64 = 3_600_000;

/// What a node was told so shortly before a crash may be lost. Milliseconds.
const LOST_MS: u64 = 10_000;

/// The judge of entries taken.
#[derive(Default)]
pub struct Theft {
    /// What was paid, and for which order.
    entries: BTreeMap<(NodeIx, NodeIx), Vec<(u64, Digest)>>,
    /// Orders that a node took for ended, and when.
    ended: BTreeMap<(NodeIx, OrderId), u64>,
}

impl Theft {
    /// A buyer that crashes in the middle of an order holds nothing against its host.
    fn crashed(&mut self, facts: &Facts, node: NodeIx) {
        let ended = &self.ended;
        let known = |digest: &Digest| {
            let order = facts.index.orders.get(digest).map(|book| book.id);
            let at = order.and_then(|id| ended.get(&(node, id)));
            at.is_some_and(|at| at + LOST_MS < facts.now_ms)
        };
        for ((payer, _), entries) in &mut self.entries {
            entries.retain(|(_, digest)| *payer != node || known(digest));
        }
    }

    /// Who leaves before its patience is over holds nothing against the host.
    fn given_up(&mut self, facts: &Facts, pair: (NodeIx, NodeIx), stream: StreamId) {
        if let (Some((order, _)), Some(entries)) =
            (facts.index.on(stream), self.entries.get_mut(&pair))
        {
            let early = |at: u64| facts.now_ms < at + FIRST_TOKEN_MS;
            entries.retain(|(at, digest)| digest != order || !early(*at));
        }
    }
}

impl Checker for Theft {
    fn name(&self) -> &'static str {
        "theft-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Crashed { node } => self.crashed(facts, *node),
            Seen::Emitted { node, effect, .. } => {
                if let Some(Message::Happened(outcome)) = effect.tell() {
                    self.ended.insert((*node, outcome.order), facts.now_ms);
                }
            }
            // A rest may be over at once.
            Seen::ClockSet { node, .. } => self.entries.retain(|(payer, _), _| payer != node),
            Seen::Sent {
                from,
                to,
                stream,
                frame: Frame::Stop | Frame::Cancel,
            } => self.given_up(facts, (*from, *to), *stream),
            _ => {}
        }
        let Seen::Settled {
            payer, payee, hash, ..
        } = seen
        else {
            return None;
        };
        let honest = |node: &NodeIx| {
            facts
                .participants
                .get(*node)
                .is_some_and(|one| one.honest())
        };
        let (digest, seq) = facts.index.hashes.get(hash)?;
        if !honest(payer) || honest(payee) {
            return None;
        }
        let entries = self.entries.entry((*payer, *payee)).or_default();
        // Output that was paid for later counts as served, also without an entry.
        entries.push((facts.now_ms, *digest));
        if *seq != 0 {
            return None;
        }
        let lost = |digest: &Digest| {
            let book = facts.index.orders.get(digest);
            book.is_some_and(|book| book.delivered == 0)
        };
        // Times at which it lost entries, each begun when the one before was known.
        let (mut times, mut last): (u32, u64) = (0, 0);
        for (at, digest) in entries.iter().filter(|(at, _)| *at < facts.now_ms) {
            if !lost(digest) {
                times = 0;
            } else if times == 0 || *at > last + KNOWN_MS {
                (times, last) = (times + 1, *at);
            }
        }
        let rest = REST_MS.saturating_mul(4u64.saturating_pow(times.saturating_sub(2)));
        let known = facts.now_ms > last + KNOWN_MS;
        (times >= 2 && known && facts.now_ms < last + rest).then(|| {
            format!(
                "node {payer} pays host {payee} again, which took entries at {times} times and served nothing"
            )
        })
    }
}

/// The judge of prompts billed: who has the model's vocabulary pays for no prompt that is not
/// there. Who has not may be told anything, until it has it.
#[derive(Default)]
pub struct Counted {
    /// Counts under way, and of which model.
    counting: BTreeMap<(NodeIx, EffectId), ModelDigest>,
    /// Whose vocabulary each node was seen to have.
    has: BTreeSet<(NodeIx, ModelDigest)>,
}

impl Checker for Counted {
    fn name(&self) -> &'static str {
        "input-true"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let (node, hash) = match seen {
            Seen::Performed {
                node,
                effect: AnyEffect::Inference(OrderEffect::CountInput { id, model, .. }),
                ..
            } => {
                self.counting.insert((*node, *id), *model);
                return None;
            }
            Seen::Handed {
                node,
                delivery: Delivery::Inference(OrderInput::InputCounted { id, count }),
            } => {
                let model = self.counting.remove(&(*node, *id))?;
                if matches!(count, InputCount::Counted(_)) {
                    self.has.insert((*node, model));
                }
                return None;
            }
            Seen::Performed {
                node,
                effect: AnyEffect::Payment(Effect::Pay { hash, .. }),
                ..
            } => (node, hash),
            _ => return None,
        };
        let (_, book) = facts.index.paid_by(hash)?;
        let billed = book.input.prompt();
        let honest = facts.participants.get(*node)?.honest();
        let has = self.has.contains(&(*node, book.model));
        (honest && has && billed > book.counted).then(|| {
            format!(
                "node {node} pays for {billed} tokens of a prompt of {} in order {}",
                book.counted,
                book.id.short()
            )
        })
    }
}
