//! The serving side of `/freehold/audit/1`: who is let in, and who is told to wait.

use super::{MAX_PER_ADDRESS, MAX_PER_PEER, Origin, Stage, Validator};
use crate::ids::{Caller, StreamId};
use crate::limits;
use crate::machine::Outbox;
use crate::message::validator::Effect;
use crate::refusal::{Code, Refusal};
use crate::time::Now;
use crate::validator::bookkeeping::label;
use crate::wire::bundle::{AuditFrame, Bundle};

/// When a refused peer may try again. Milliseconds. About one replay.
const RETRY_MS: u64 = 30_000;

impl Validator {
    /// A peer sent a frame on an audit stream.
    pub(super) fn asked(
        &mut self,
        now: Now,
        stream: StreamId,
        caller: Caller,
        frame: AuditFrame,
        out: &mut Outbox<Effect>,
    ) {
        let AuditFrame::Check(bundle) = frame else {
            let refusal = Refusal::new(
                Code::ProtocolViolation,
                "an audit stream begins with a bundle to check",
            );
            return refuse(stream, refusal, out);
        };
        if let Err(refusal) = self.admit(stream, caller) {
            self.closed(stream, out);
            return refuse(stream, refusal, out);
        }
        if let Err(refusal) = self.count(now, &caller, &bundle) {
            return refuse(stream, refusal, out);
        }
        if label(&bundle).host == self.crypto.key() {
            let refusal = Refusal::new(Code::NoHost, "this node does not judge its own answers");
            return refuse(stream, refusal, out);
        }
        self.begin(now, Origin::Audit { stream, caller }, bundle, true, out);
    }

    /// Takes the check from the quotas, before any of it is done: a bundle that fails costs
    /// as much as one that passes.
    fn count(&mut self, now: Now, caller: &Caller, bundle: &Bundle) -> Result<(), Refusal> {
        let signatures = signatures_in(bundle);
        let wait_ms = self.checks.wait_ms(caller, 1, now.tick);
        let wait_ms = wait_ms.max(self.signatures.wait_ms(caller, signatures, now.tick));
        if wait_ms > 0 {
            let why = "this node's free checks are used up for now";
            let mut busy = Refusal::new(Code::Busy, why);
            busy.retry_after_ms = Some(wait_ms);
            return Err(busy);
        }
        self.checks.take(caller, 1, now.tick);
        self.signatures.take(caller, signatures, now.tick);
        Ok(())
    }

    fn admit(&self, stream: StreamId, caller: Caller) -> Result<(), Refusal> {
        if !self.config.serve {
            let why = "this node does not check answers for others";
            return Err(Refusal::new(Code::NoHost, why));
        }
        let (mut strangers, mut same_peer, mut same_address, mut ours) = (0, 0, 0, false);
        for job in self.jobs.values() {
            let Origin::Audit {
                stream: busy,
                caller: other,
            } = job.origin
            else {
                ours |= matches!(job.stage, Stage::Replaying(_));
                continue;
            };
            if busy == stream {
                let why = "one bundle for each audit stream";
                return Err(Refusal::new(Code::ProtocolViolation, why));
            }
            strangers += 1;
            same_peer += usize::from(other.peer == caller.peer);
            same_address += usize::from(other.address == caller.address);
        }
        let full = strangers >= limits::MAX_PENDING_AUDITS / 2
            || self.jobs.len() >= limits::MAX_PENDING_AUDITS
            || same_peer >= MAX_PER_PEER
            || same_address >= MAX_PER_ADDRESS
            || ours;
        if full {
            let mut busy = Refusal::new(Code::Busy, "too many checks are waiting here");
            busy.retry_after_ms = Some(RETRY_MS);
            return Err(busy);
        }
        Ok(())
    }

    /// The peer went away: its check is dropped, and the engine need not go on.
    pub(super) fn closed(&mut self, stream: StreamId, out: &mut Outbox<Effect>) {
        self.jobs.retain(|id, job| {
            let stays = !matches!(job.origin, Origin::Audit { stream: gone, .. } if gone == stream);
            if !stays && matches!(job.stage, Stage::Replaying(_)) {
                out.push(Effect::CancelReplay { id: *id });
            }
            stays
        });
    }
}

/// Order, terms and what follows them.
fn signatures_in(bundle: &Bundle) -> u64 {
    let ends = usize::from(bundle.receipt.is_some()) + usize::from(bundle.countersigned.is_some());
    (2 + bundle.invoices.len() + ends) as u64
}

fn refuse(stream: StreamId, refusal: Refusal, out: &mut Outbox<Effect>) {
    let frame = Box::new(AuditFrame::Refusal(refusal));
    out.push(Effect::Answer { stream, frame });
}
