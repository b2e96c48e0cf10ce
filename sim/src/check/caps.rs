//! An order costs its buyer no more than its cap, routing fees included, whatever the host asks for.

use super::{Checker, Facts, Seen};

/// The judge.
pub struct Caps;

impl Checker for Caps {
    fn name(&self) -> &'static str {
        "cost-capped"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Settled { payer, hash, .. } = seen else {
            return None;
        };
        let participant = facts
            .participants
            .get(*payer)
            .filter(|participant| participant.honest())?;
        let (_, book) = facts.index.paid_by(hash)?;
        let spent = book.settled + book.fees;
        let cap = facts
            .index
            .cap(*payer, book)
            .min(participant.limits.per_order.0);
        (spent > cap).then(|| {
            format!(
                "node {payer} paid {} msat and {} of fees for order {}, its cap is {cap}",
                book.settled,
                book.fees,
                book.id.short()
            )
        })
    }
}
