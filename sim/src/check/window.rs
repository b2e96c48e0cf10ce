//! A host never has more delivered and unpaid than the window that it granted.

use super::{Checker, Facts, Seen};
use crate::node::QUANTUM;
use protocol::order::wire::Frame;

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
        let host = facts.people.get(*from)?;
        if chunk.tokens.is_empty() || !host.honest() {
            return None;
        }
        let (id, book) = facts.index.on(*stream)?;
        let due = book.cost(&facts.people, book.sent) + book.carried;
        let unpaid = due.saturating_sub(book.settled);
        let cap = host.limits.window_cap.0.max(2 * QUANTUM);
        if unpaid > book.window.min(cap) {
            return Some(format!(
                "host {from} has {unpaid} msat of order {} delivered and unpaid, its window is {}",
                id.short(),
                book.window
            ));
        }
        None
    }
}
