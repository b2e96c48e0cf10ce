//! What a dishonest host can take: an entry, now and then; and no prompt that is not there.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::Digest;
use protocol::payment::io::Effect;
use std::collections::BTreeMap;

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

/// The judge of prompts billed.
pub struct Counted;

impl Checker for Counted {
    fn name(&self) -> &'static str {
        "input-true"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Payment(Effect::Pay { hash, .. }),
            ..
        } = seen
        else {
            return None;
        };
        let (_, book) = facts.index.paid_by(hash)?;
        let billed = book.input.prompt();
        let honest = facts.people.get(*node)?.honest();
        (honest && billed > book.counted).then(|| {
            format!(
                "node {node} pays for {billed} tokens of a prompt of {} in order {}",
                book.counted,
                book.id.short()
            )
        })
    }
}
