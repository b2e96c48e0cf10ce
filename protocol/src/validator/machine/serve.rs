//! The serving side of `/freehold/audit/1`: who is let in, and who is told to wait.

use super::{MAX_PER_PEER, Origin, Validator};
use crate::bundle::AuditFrame;
use crate::ids::{NodeKey, StreamId};
use crate::limits;
use crate::machine::Outbox;
use crate::refusal::{Code, Refusal};
use crate::time::Now;
use crate::validator::bookkeeping::label;
use crate::validator::io::Effect;

/// When a refused peer may try again. Milliseconds. About one replay.
const RETRY_MS: u64 = 30_000;

impl Validator {
    /// A peer sent a frame on an audit stream.
    pub(super) fn asked(
        &mut self,
        now: Now,
        stream: StreamId,
        peer: Option<NodeKey>,
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
        if let Err(refusal) = self.admit(stream, peer) {
            self.closed(stream);
            return refuse(stream, refusal, out);
        }
        if label(&bundle).host == self.crypto.key() {
            let refusal = Refusal::new(Code::NoHost, "this node does not judge its own answers");
            return refuse(stream, refusal, out);
        }
        self.begin(now, Origin::Audit { stream, peer }, bundle, true, out);
    }

    fn admit(&self, stream: StreamId, peer: Option<NodeKey>) -> Result<(), Refusal> {
        if !self.config.serve {
            let why = "this node does not check answers for others";
            return Err(Refusal::new(Code::NoHost, why));
        }
        let (mut strangers, mut same_peer) = (0, 0);
        for job in self.jobs.values() {
            let Origin::Audit {
                stream: busy,
                peer: theirs,
            } = job.origin
            else {
                continue;
            };
            if busy == stream {
                let why = "one bundle for each audit stream";
                return Err(Refusal::new(Code::ProtocolViolation, why));
            }
            strangers += 1;
            same_peer += usize::from(theirs == peer);
        }
        let full = strangers >= limits::MAX_PENDING_AUDITS / 2
            || self.jobs.len() >= limits::MAX_PENDING_AUDITS
            || same_peer >= MAX_PER_PEER;
        if full {
            let mut busy = Refusal::new(Code::Busy, "too many checks are waiting here");
            busy.retry_after_ms = Some(RETRY_MS);
            return Err(busy);
        }
        Ok(())
    }

    /// The peer went away: its check is dropped.
    pub(super) fn closed(&mut self, stream: StreamId) {
        self.jobs.retain(
            |_, job| !matches!(job.origin, Origin::Audit { stream: gone, .. } if gone == stream),
        );
    }
}

fn refuse(stream: StreamId, refusal: Refusal, out: &mut Outbox<Effect>) {
    let frame = Box::new(AuditFrame::Refusal(refusal));
    out.push(Effect::Answer { stream, frame });
}
