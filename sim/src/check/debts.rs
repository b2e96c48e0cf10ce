//! An honest host claims no debt that is not there: what was delivered to the key, less what it paid.

use super::index::body;
use super::{Checker, Facts, Seen};
use protocol::wire::order::{Frame, Terms};

/// The judge.
pub struct Debts;

impl Checker for Debts {
    fn name(&self) -> &'static str {
        "debts-true"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Sent {
            from,
            stream,
            frame: Frame::Terms(signed),
            ..
        } = seen
        else {
            return None;
        };
        if !facts.participants.get(*from)?.honest() {
            return None;
        }
        let (_, book) = facts.index.on(*stream)?;
        let claimed = body::<Terms>(signed)?.carried_debt.0;
        let most = facts.index.claimable(*from, &book.key, facts.now_ms);
        (claimed > most).then(|| {
            format!(
                "host {from} claims a debt of {claimed} msat with order {}, the key owes {most} at most",
                book.id.short()
            )
        })
    }
}
