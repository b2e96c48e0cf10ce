//! The inference actor: carries out the effects of the inference machine on streams, engines and
//! clients.
//!
//! - Started by [`crate::node::Node::start`] around a recovered machine; stops after its last write.
//! - Its inputs come from
//!   - clients of this node, by [`crate::node::Node::buy`] and what follows it;
//!   - [`accept`], one task for each order stream that a peer opens, and one for each that this
//!     node dials: frames in order, then that the stream is closed;
//!   - [`Counts`]: prompts of strangers, rendered and counted in turn on threads that may block;
//!   - one task for each running answer, which forwards the engine's output;
//!   - the machines Discovery and Payment.
//! - A client that does not read its events loses its purchase, and holds up nobody else.
//!
//! Decides nothing about orders: what is admitted, paced and paid is [`protocol::inference`]'s.

use super::streams::{Arrival, Reader, Streams};
use super::turns::Turns;
use super::{ActorPorts, Carried, Parts, Perform, Shared};
use crate::driver::{Driver, Performed};
use crate::ports::blob::Vocabularies;
use crate::ports::compute::{Compute, Output, owner_of};
use crate::ports::network::{
    self, ApartStream, FrameError, FramedStream, NetworkHandle, Protocol, open_apart,
};
use parking_lot::Mutex;
use protocol::ids::{AddressTag, EffectId, OrderId, RequestId, StreamId};
use protocol::inference::Inference;
use protocol::message::inference::{BuyerEvent, Effect, Input, InputCount, PromptFacts};
use protocol::refusal::{Code, Refusal};
use protocol::wire::order::Frame;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The actor.
pub type InferenceActor = Driver<Inference, ActorPorts<InferencePorts>>;

/// Longest dial. The machine gives up earlier; this ends the task.
const DIAL: Duration = Duration::from_secs(25);
/// When an order that found no free stream may try again. Milliseconds.
const BUSY_RETRY_MS: u64 = 5_000;
/// How long a stream stays open for the refusal of a frame that could not be read.
const FAREWELL: Duration = Duration::from_secs(5);
/// Events that may wait for one local client; one that does not read is cancelled.
pub const CLIENT_QUEUE: usize = 1_024;

/// Where the events of a purchase go.
pub type Clients = Arc<Mutex<BTreeMap<RequestId, mpsc::Sender<BuyerEvent>>>>;

/// What InferenceActor touches.
pub struct InferencePorts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
    /// For dialling hosts: the buyer's own swarm.
    pub dialer: NetworkHandle,
    /// How to start another one, for an order that is to be linked to no other.
    pub dial: network::Config,
    /// Open order streams.
    pub streams: Streams,
    /// The engine.
    pub compute: Compute,
    /// Vocabularies of models that are bought from others.
    pub vocabularies: Vocabularies,
    /// Prompts that are counted.
    pub counts: Counts,
    /// Local clients.
    pub clients: Clients,
}

impl Carried for Inference {
    type Ports = InferencePorts;

    fn ports(parts: &Parts) -> InferencePorts {
        InferencePorts {
            shared: parts.shared.clone(),
            dialer: parts.dialer.clone(),
            dial: parts.dial.clone(),
            streams: parts.streams.clone(),
            compute: parts.compute.clone(),
            vocabularies: parts.vocabularies.clone(),
            counts: parts.counts.clone(),
            clients: parts.clients.clone(),
        }
    }
}

impl Perform<Inference> for InferencePorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::OpenStream {
                id,
                addresses,
                private,
                ..
            } => self.open(id, &addresses, private),
            Effect::Send { stream, frame } => self.send(stream, &frame),
            Effect::Close { stream } => self.streams.close(stream),
            Effect::CountPrompt {
                id,
                caller,
                payer,
                buyer,
                model,
                job,
                salt,
            } => {
                let (shared, compute) = (self.shared.clone(), self.compute.clone());
                let count = move || compute.count_for(&owner_of(&buyer), &model, &job, &salt);
                let counted = self.counts.count(shared, id, caller.address, payer, count);
                self.shared.runtime.spawn(counted);
            }
            Effect::CancelCount { id } => self.counts.cancel(id),
            Effect::CountInput { id, model, job } => {
                let (shared, vocabularies) = (self.shared.clone(), self.vocabularies.clone());
                self.shared.runtime.spawn(async move {
                    let counted =
                        tokio::task::spawn_blocking(move || vocabularies.count(&model, &job)).await;
                    let count = counted.unwrap_or(InputCount::Unknown);
                    shared.send(Input::InputCounted { id, count }).await;
                });
            }
            Effect::CheckPieces {
                order,
                host,
                model,
                from,
                tokens,
            } => {
                let (shared, vocabularies) = (self.shared.clone(), self.vocabularies.clone());
                self.shared.runtime.spawn(async move {
                    if let Some(at) = vocabularies.wrong_piece(model, tokens).await {
                        let position = from + at as u64;
                        let wrong = Input::WrongPiece {
                            order,
                            host,
                            position,
                        };
                        shared.send(wrong).await;
                    }
                });
            }
            Effect::FetchVocabulary { model, hosts } => {
                let vocabularies = self.vocabularies.clone();
                self.shared
                    .runtime
                    .spawn(async move { vocabularies.fetch(model, hosts).await });
            }
            Effect::StartEngine {
                order,
                buyer,
                model,
                job,
                allowed,
            } => {
                let owner = owner_of(&buyer);
                let compute = &self.compute;
                let output = compute.start_for(owner, order, &model, *job, allowed);
                self.shared
                    .runtime
                    .spawn(forward(self.shared.clone(), order, output));
            }
            Effect::AllowTokens { order, total } => self.compute.allow(&order, total),
            Effect::CancelEngine { order } => self.compute.cancel(&order),
            Effect::Deliver { request, event } => self.deliver(request, event),
        }
        Performed::Done
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn abort(&mut self) {
        self.compute.cancel_all();
        // Whoever waits for a purchase learns that nothing more comes.
        self.clients.lock().clear();
    }
}

impl InferencePorts {
    /// Dials a host; `apart`: from an identity of this order alone.
    fn open(&self, id: EffectId, addresses: &[String], apart: bool) {
        let parsed: Vec<_> = addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let (shared, streams) = (self.shared.clone(), self.streams.clone());
        let (dialer, config) = (self.dialer.clone(), self.dial.clone());
        self.shared.runtime.spawn(async move {
            let opened = match apart {
                true => open_apart(&config, Protocol::Order, parsed, DIAL)
                    .await
                    .map(|ApartStream { stream, swarm }| (stream, Some(swarm))),
                false => dialer
                    .open(Protocol::Order, parsed, DIAL)
                    .await
                    .map(|stream| (stream, None)),
            };
            match opened {
                Ok((stream, swarm)) => {
                    let (stream, mut reader) = streams.adopt(stream);
                    shared.send(Input::Opened { id, stream }).await;
                    read(shared, streams, stream, &mut reader).await;
                    if let Some(swarm) = swarm {
                        reader.written().await;
                        swarm.shutdown().await;
                    }
                }
                Err(error) => {
                    let (reason, ours) = (error.to_string(), error.is_own());
                    let failed = Input::OpenFailed { id, reason, ours };
                    shared.send(failed).await;
                }
            }
        });
    }

    fn send(&self, stream: StreamId, frame: &Frame) {
        if !self.streams.send(stream, frame.encode()) {
            let shared = self.shared.clone();
            self.shared.runtime.spawn(async move {
                shared.send(Input::Closed { stream }).await;
            });
        }
    }

    fn deliver(&self, request: RequestId, event: BuyerEvent) {
        let last = matches!(event, BuyerEvent::Finished { .. } | BuyerEvent::Failed(_));
        let mut clients = self.clients.lock();
        let gone = clients
            .get(&request)
            .is_some_and(|client| client.try_send(event).is_err());
        if last || gone {
            clients.remove(&request);
        }
        if gone && !last {
            let shared = self.shared.clone();
            self.shared.runtime.spawn(async move {
                // Whoever asked is gone: nothing more is bought for them.
                shared.send(Input::Stop(request)).await;
            });
        }
    }
}

/// Prompts that are counted: so many at once, one for each address, the others in turn, those of
/// keys that paid first. One that waits is forgotten with its order; so no more prompts wait than
/// orders do.
#[derive(Clone)]
pub struct Counts {
    turns: Turns,
    /// Those that wait for a turn; each is let go when its sender is dropped.
    waiting: Arc<Mutex<BTreeMap<EffectId, oneshot::Sender<()>>>>,
}

impl Counts {
    /// Counts so many at once.
    pub fn new(at_once: usize) -> Self {
        Counts {
            turns: Turns::new(at_once),
            waiting: Arc::default(),
        }
    }

    /// Counts a prompt in turn, on a thread that may block, and tells the machine.
    pub(super) fn count(
        &self,
        shared: Shared,
        id: EffectId,
        address: AddressTag,
        payer: bool,
        count: impl FnOnce() -> Result<PromptFacts, Refusal> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (keep, cancelled) = oneshot::channel();
        self.waiting.lock().insert(id, keep);
        let (turn, waiting) = (self.turns.take(address, payer), self.waiting.clone());
        async move {
            // Held to the end: a blocking thread cannot be stopped.
            let _turn = tokio::select! {
                turn = turn => turn,
                _ = cancelled => return,
            };
            waiting.lock().remove(&id);
            let counted = tokio::task::spawn_blocking(count).await;
            let result = counted.unwrap_or_else(|_| {
                Err(Refusal::new(
                    Code::EngineFailed,
                    "the tokenizer failed on this prompt",
                ))
            });
            shared.send(Input::Counted { id, result }).await;
        }
    }

    /// Lets one go that waits for its turn.
    pub(super) fn cancel(&self, id: EffectId) {
        drop(self.waiting.lock().remove(&id));
    }
}

/// Takes an inbound order stream.
pub async fn accept(shared: Shared, streams: Streams, stream: FramedStream) {
    let caller = stream.caller();
    let (id, mut reader) = streams.adopt(stream);
    shared.send(Input::Inbound { stream: id, caller }).await;
    read(shared, streams, id, &mut reader).await;
}

/// Answers a stream beyond its peer's bound, or beyond all streams: not now. The peer may be an honest
/// buyer who fans out, and must not take it for a broken host.
pub async fn turn_away(mut stream: FramedStream) {
    let frame = Frame::Refusal(busy("too many order streams are open here")).encode();
    let answered = async {
        stream.send(&frame).await?;
        stream.finish().await?;
        // Until it has read that, or for as long as it takes to.
        while stream.next().await?.is_some() {}
        Ok::<_, FrameError>(())
    };
    // Whoever does not listen is reset.
    let _ = tokio::time::timeout(FAREWELL, answered).await;
}

fn busy(what: &str) -> Refusal {
    Refusal {
        retry_after_ms: Some(BUSY_RETRY_MS),
        ..Refusal::new(Code::Busy, what)
    }
}

/// Hands the frames of a stream to the machine until either side ends it, then closes it: the
/// machine does not, where it was the peer who ended it.
async fn read(shared: Shared, streams: Streams, stream: StreamId, reader: &mut Reader) {
    loop {
        let input = match reader.next().await {
            Arrival::Frame(bytes) => match Frame::decode(&bytes) {
                Ok(frame) => Input::Received {
                    stream,
                    frame: Box::new(frame),
                },
                Err(error) => Input::Garbled {
                    stream,
                    detail: error.to_string(),
                },
            },
            Arrival::Garbled(detail) => Input::Garbled { stream, detail },
            Arrival::Closed => Input::Closed { stream },
        };
        let (last, garbled) = match &input {
            Input::Received { .. } => (false, false),
            Input::Garbled { .. } => (true, true),
            _ => (true, false),
        };
        shared.send(input).await;
        if garbled {
            // The machine refuses and closes; what the peer still says is nothing to it.
            let _ = tokio::time::timeout(FAREWELL, reader.discard()).await;
        }
        if last {
            streams.close(stream);
            return;
        }
    }
}

/// Hands an engine's output to the machine. An engine that ends without a word (its thread
/// panicked, or could not start) has failed; of one that was cancelled the machine expects none,
/// and passes that over.
pub(super) async fn forward(shared: Shared, order: OrderId, mut output: mpsc::Receiver<Output>) {
    let mut ended = false;
    while let Some(piece) = output.recv().await {
        let input = match piece {
            Output::Tokens {
                tokens,
                finish,
                attached,
            } => {
                ended = finish.is_some();
                Input::Produced {
                    order,
                    tokens,
                    finish,
                    attached,
                }
            }
            Output::Failed(reason) => {
                ended = true;
                Input::EngineFailed { order, reason }
            }
        };
        shared.send(input).await;
    }
    if !ended {
        let reason = "the engine stopped in the middle of the answer".to_owned();
        shared.send(Input::EngineFailed { order, reason }).await;
    }
}
