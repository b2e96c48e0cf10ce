//! What a dishonest host can take: an entry, now and then; and no prompt that is not there.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{Digest, EffectId, ModelDigest};
use protocol::inference::io::{Effect as OrderEffect, Input as OrderInput, InputCount};
use protocol::payment::io::Effect;
use protocol::route::Delivery;
use std::collections::{BTreeMap, BTreeSet};

/// Entries that one buyer loses to one host before it learns. Each counts as a failure, and
/// failures in a row are a pause; it is not for ever, since networks fail too.
const ENTRIES: usize = 3;
/// An answer may take so long to begin. Milliseconds.
const SERVED_MS: u64 = 200_000;

/// The judge of entries taken.
#[derive(Default)]
pub struct Theft {
    entries: BTreeMap<(NodeIx, NodeIx), Vec<(u64, Digest)>>,
}

impl Checker for Theft {
    fn name(&self) -> &'static str {
        "theft-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Settled {
            payer, payee, hash, ..
        } = seen
        else {
            return None;
        };
        let honest = |node: &NodeIx| facts.people.get(*node).is_some_and(|one| one.honest());
        let (digest, seq) = facts.index.hashes.get(hash)?;
        if *seq != 0 || !honest(payer) || honest(payee) {
            return None;
        }
        let entries = self.entries.entry((*payer, *payee)).or_default();
        entries.push((facts.now_ms, *digest));
        let taken = entries
            .iter()
            .filter(|(at, _)| at + SERVED_MS < facts.now_ms)
            .filter(|(_, digest)| {
                let book = facts.index.orders.get(digest);
                book.is_some_and(|book| book.delivered == 0)
            })
            .count();
        (taken > ENTRIES).then(|| {
            format!("node {payer} pays host {payee} again, which took {taken} entries and served nothing")
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
        let honest = facts.people.get(*node)?.honest();
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
