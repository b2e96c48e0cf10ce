//! Within one order a host has no more delivered and unpaid than its buyer's key ever paid it,
//! nor than the largest window that its owner allows.

use super::{Checker, Facts, Seen};
use protocol::wire::order::Frame;

/// The judge.
pub struct Window;

impl Checker for Window {
    fn name(&self) -> &'static str {
        "credit-window"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Sent {
            from,
            stream,
            frame: Frame::Chunk(chunk),
            ..
        } = seen
        else {
            return None;
        };
        let host = facts.participants.get(*from)?;
        if chunk.tokens.is_empty() || !host.honest() {
            return None;
        }
        let (_, book) = facts.index.on(*stream)?;
        let due = book.cost(book.sent) + book.carried;
        let unpaid = due.saturating_sub(book.settled);
        let quantum = facts.index.quantum(*from);
        let step = quantum.max(book.unit());
        let paid = facts.index.keys.get(&(*from, book.key))?.paid;
        let cap = host.limits.window_cap.0.max(2 * step);
        let most = cap.min(paid + host.limits.free_quota.0 + step) + book.carried;
        (unpaid > most).then(|| {
            format!(
                "host {from} has {unpaid} msat of order {} delivered and unpaid, {most} at most",
                book.id.short()
            )
        })
    }
}
