//! What a buyer key can take from a host unpaid: no more than it paid that host in all.

use super::{Checker, Facts, Seen};
use protocol::wire::order::Frame;

/// The judge.
pub struct Loss;

impl Checker for Loss {
    fn name(&self) -> &'static str {
        "loss-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Sent {
            from,
            stream,
            frame: Frame::Chunk(_),
            ..
        } = seen
        else {
            return None;
        };
        let host = facts.participants.get(*from).filter(|host| host.honest())?;
        let (_, book) = facts.index.on(*stream)?;
        let key = facts.index.keys.get(&(*from, book.key))?;
        // One step, or one unit where that is dearer: what cannot be invoiced is smaller.
        let step = facts.index.quantum(*from).max(book.unit());
        let most = key.paid + host.limits.free_quota.0 + step;
        (key.unpaid() > most).then(|| {
            format!(
                "a key had {} msat of host {from} and paid {}: {} unpaid, {most} at most",
                key.value,
                key.paid,
                key.unpaid()
            )
        })
    }
}
