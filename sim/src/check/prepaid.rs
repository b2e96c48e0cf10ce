//! Nobody pays for more than was delivered, plus the entry payment, at the listed price.
//!
//! The entry is the prompt and one step of output; all that was ordered where it is paid before;
//! nothing where it is paid after, and then nothing at all before the last chunk.

use super::{Checker, Facts, Seen};
use crate::node::AnyEffect;
use protocol::ids::Digest;
use protocol::message::payment::Effect;
use protocol::wire::manifest::PaymentMode;
use std::collections::BTreeMap;

/// The judge.
#[derive(Default)]
pub struct Prepaid {
    asked: BTreeMap<Digest, u64>,
}

impl Checker for Prepaid {
    fn name(&self) -> &'static str {
        "no-prepayment"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Payment(Effect::Pay { hash, msat, .. }),
            ..
        } = seen
        else {
            return None;
        };
        if !facts.participants.get(*node)?.honest() {
            return None;
        }
        let Some((order, seq)) = facts.index.hashes.get(hash) else {
            return Some(format!("node {node} pays an invoice that no host sent it"));
        };
        let book = facts.index.orders.get(order)?;
        let asked = self.asked.entry(*order).or_default();
        *asked += msat.0;
        // What a host says is owed counts only as far as something is.
        let carried = match book.carried {
            0 => 0,
            claimed => claimed.min(facts.index.owed(order, book)),
        };
        let step = facts.index.quantum(book.host).max(book.unit());
        let entry = match book.mode {
            PaymentMode::Metered => book.cost(0) + step + carried,
            PaymentMode::Before => book.cost(book.ordered) + carried,
            PaymentMode::After => 0,
        };
        let ends = matches!(book.mode, PaymentMode::Before | PaymentMode::After);
        let early = match book.mode {
            PaymentMode::After => true,
            _ => *seq > 0,
        };
        if ends && early && !book.finished {
            return Some(format!(
                "node {node} pays invoice {seq} of order {}, paid {:?}, in the middle of the output",
                book.id.short(),
                book.mode
            ));
        }
        let delivered = book.cost(book.delivered) + carried;
        let most = entry.max(delivered);
        if *asked > most {
            return Some(format!(
                "node {node} pays {asked} msat by invoice {seq} of order {}, {} tokens were delivered: {most} at most",
                book.id.short(),
                book.delivered
            ));
        }
        (*asked > book.max_cost).then(|| {
            format!(
                "node {node} pays {asked} msat for order {}, its cap is {}",
                book.id.short(),
                book.max_cost
            )
        })
    }
}
