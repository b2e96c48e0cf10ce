//! The validator actor: carries out the effects of the validator machine, which replays answers on
//! this node's engine and asks other validators.
//!
//! - Started by [`crate::node::Node::start`] around a recovered machine; stops after its last write.
//! - Its inputs come from
//!   - the machines Inference (evidence of orders that ended) and Discovery (validators to ask);
//!   - [`accept`], one task for each audit stream that a peer opens: a bundle in, a verdict out;
//!   - [`Replays`]: what the engine computes again, for strangers one at a time;
//!   - one task for each validator that is asked;
//!   - the operator, by [`crate::node::Node::judge`].
//! - Verdicts are shown to whoever listens ([`VerdictNote`]); whether one convicts is decided by
//!   Reputation.
//!
//! Decides nothing about answers: what is compared with what is [`protocol::validator`]'s.

mod replays;

pub use replays::Replays;

use super::ask::Asks;
use super::streams::{Arrival, Streams};
use super::{ActorPorts, Carried, Parts, Perform, Shared};
use crate::driver::{Driver, Performed};
use crate::ports::compute::{CancelFlag, Compute};
use crate::ports::network::{FramedStream, NetworkHandle, Protocol};
use protocol::codec;
use protocol::ids::OrderId;
use protocol::limits::MAX_AUDIT_FRAME_BYTES;
use protocol::message::validator::{Effect, Input, Unrepeatable};
use protocol::refusal::{Code, Refusal};
use protocol::validator::Validator;
use protocol::wire::bundle::{AuditFrame, Bundle, Verdict};
use protocol::wire::envelope::Signed;
use std::time::Duration;
use tokio::sync::broadcast;

/// The actor.
pub type ValidatorActor = Driver<Validator, ActorPorts<ValidatorPorts>>;

/// Longest wait for another validator's verdict: it has a queue and an engine of its own.
const VERDICT: Duration = Duration::from_secs(120);
/// How long an asker may say nothing before its bundle. All of it may then take as long as any
/// frame: 8 MiB over a slow line.
pub const FIRST: Duration = Duration::from_secs(15);
/// How long an asker may wait for its answer. The asker's own patience ([`VERDICT`]) is shorter.
const AUDIT_LIFE: Duration = Duration::from_secs(180);
/// When a turned away asker may try again. Milliseconds.
const BUSY_RETRY_MS: u64 = 30_000;
/// How long it may take to hear that.
const FAREWELL: Duration = Duration::from_secs(5);
/// Longest dial of a validator.
const DIAL: Duration = Duration::from_secs(25);

/// A verdict, or why there is none, as shown to the operator.
#[derive(Debug, Clone, serde::Serialize)]
pub struct VerdictNote {
    /// The order.
    pub order: OrderId,
    /// The verdict.
    pub result: Result<Box<Verdict>, String>,
}

/// What ValidatorActor touches.
pub struct ValidatorPorts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
    /// For dialling other validators.
    pub dialer: NetworkHandle,
    /// Open audit streams.
    pub streams: Streams,
    /// The engine.
    pub compute: Compute,
    /// What it computes again, and what waits for that.
    pub replays: Replays,
    /// Shows verdicts.
    pub notes: broadcast::Sender<VerdictNote>,
    /// Operators that wait for a judgement.
    pub judgements: Asks<Verdict>,
}

impl Carried for Validator {
    type Ports = ValidatorPorts;

    fn ports(parts: &Parts) -> ValidatorPorts {
        ValidatorPorts {
            shared: parts.shared.clone(),
            dialer: parts.dialer.clone(),
            streams: parts.streams.clone(),
            compute: parts.compute.clone(),
            notes: parts.notes.clone(),
            judgements: parts.judgements.clone(),
            replays: Replays::default(),
        }
    }
}

impl Perform<Validator> for ValidatorPorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::Replay {
                id,
                stranger,
                model,
                job,
                salt,
                tokens,
            } => {
                let (shared, compute) = (self.shared.clone(), self.compute.clone());
                let turn = self.replays.begin(id, stranger);
                self.shared.runtime.spawn(async move {
                    let replay = move |cancel: &CancelFlag| {
                        let absent = compute.model(&model).is_none();
                        let replay = compute.replay(&model, &job, &salt, &tokens, cancel);
                        replay.map_err(|reason| match absent {
                            true => Unrepeatable::Absent,
                            false => Unrepeatable::Failed(reason),
                        })
                    };
                    let Some(replayed) = turn.run(replay).await else {
                        return; // Nobody waits for it.
                    };
                    let result = replayed.map(Box::new);
                    shared.send(Input::Replayed { id, result }).await;
                });
            }
            Effect::CancelReplay { id } => self.replays.cancel(&id),
            Effect::AskValidator {
                id,
                addresses,
                bundle,
                ..
            } => {
                let (shared, dialer) = (self.shared.clone(), self.dialer.clone());
                self.shared.runtime.spawn(async move {
                    let asked =
                        tokio::time::timeout(VERDICT, ask(&dialer, &addresses, bundle)).await;
                    let result = asked
                        .unwrap_or_else(|_| Err("the validator did not answer in time".to_owned()));
                    shared.send(Input::Answered { id, result }).await;
                });
            }
            Effect::Answer { stream, frame } => {
                self.streams.send(stream, codec::encode(&*frame));
                self.streams.close(stream);
            }
            Effect::Report { order, result } => {
                // No subscriber is no error: the verdict is in storage too.
                let _ = self.notes.send(VerdictNote { order, result });
            }
            Effect::Reply { id, verdict } => self.judgements.answer(id, *verdict),
        }
        Performed::Done
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }
}

async fn ask(
    dialer: &NetworkHandle,
    addresses: &[String],
    bundle: Box<Bundle>,
) -> Result<Signed, String> {
    let addresses: Vec<_> = addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut stream = dialer
        .open(Protocol::Audit, addresses, DIAL)
        .await
        .map_err(|error| text(&error))?;
    let frame = codec::encode(&AuditFrame::Check(bundle));
    stream.send(&frame).await.map_err(|error| text(&error))?;
    let answer = stream.next().await.map_err(|error| text(&error))?;
    let answer = answer.ok_or("the validator closed the stream without a verdict")?;
    match codec::decode::<AuditFrame>(&answer, MAX_AUDIT_FRAME_BYTES)
        .map_err(|error| text(&error))?
    {
        AuditFrame::Verdict(signed) => Ok(signed),
        AuditFrame::Refusal(refusal) => Err(refusal.to_string()),
        AuditFrame::Check(_) => Err("the validator answered with a question".to_owned()),
    }
}

/// Takes an inbound audit stream: one bundle, then the answer. Silence for as long as `first`
/// before the bundle, one that takes too long to arrive or to judge, and a second frame end it.
pub async fn accept(shared: Shared, streams: Streams, stream: FramedStream, first: Duration) {
    let caller = stream.caller();
    let (id, mut reader) = streams.adopt(stream);
    reader.set_idle(Some(first));
    if let Arrival::Frame(bytes) = reader.next().await
        && let Ok(frame) = codec::decode::<AuditFrame>(&bytes, MAX_AUDIT_FRAME_BYTES)
    {
        drop(bytes);
        shared
            .send(Input::AuditAsked {
                stream: id,
                caller,
                frame: Box::new(frame),
            })
            .await;
        // Ends when the answer is queued, or the asker gives up.
        reader.set_idle(None);
        let _ = tokio::time::timeout(AUDIT_LIFE, reader.next()).await;
        shared.send(Input::StreamClosed { stream: id }).await;
    }
    streams.close(id);
}

/// Answers a stream beyond its peer's bound, or beyond all streams: not now.
pub async fn turn_away(mut stream: FramedStream) {
    let refusal = Refusal {
        retry_after_ms: Some(BUSY_RETRY_MS),
        ..Refusal::new(Code::Busy, "too many audit streams are open here")
    };
    let frame = codec::encode(&AuditFrame::Refusal(refusal));
    let answered = async {
        stream.send(&frame).await?;
        stream.finish().await
    };
    // Whoever does not listen is reset.
    let _ = tokio::time::timeout(FAREWELL, answered).await;
}
