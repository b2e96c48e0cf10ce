//! InferenceActor: streams, engine, clients.

use super::Shared;
use super::streams::{Arrival, Streams, next};
use crate::driver::{Driver, Fatal, Performed, Ports};
use crate::ports::compute::{Compute, Output, owner_of};
use crate::ports::network::{FrameReader, FramedStream, NetworkHandle, Protocol};
use parking_lot::Mutex;
use protocol::ids::{OrderId, RequestId, StreamId};
use protocol::inference::Inference;
use protocol::inference::io::{BuyerEvent, Effect, Input};
use protocol::order::wire::Frame;
use protocol::refusal::{Code, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The actor.
pub type InferenceActor = Driver<Inference, InferencePorts>;

/// Longest dial. The machine gives up earlier; this ends the task.
const DIAL: Duration = Duration::from_secs(25);
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
    /// Open order streams.
    pub streams: Streams,
    /// The engine.
    pub compute: Compute,
    /// Local clients.
    pub clients: Clients,
}

impl Ports<Inference> for InferencePorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::OpenStream { id, addresses, .. } => self.open(id, &addresses),
            Effect::Send { stream, frame } => self.send(stream, &frame),
            Effect::Close { stream } => self.streams.close(stream),
            Effect::CountPrompt {
                id,
                buyer,
                model,
                job,
                salt,
            } => {
                let (shared, compute) = (self.shared.clone(), self.compute.clone());
                self.shared.runtime.spawn(async move {
                    let counted = tokio::task::spawn_blocking(move || {
                        compute.count_for(&owner_of(&buyer), &model, &job, &salt)
                    })
                    .await;
                    let result = counted.unwrap_or_else(|_| {
                        Err(Refusal::new(
                            Code::EngineFailed,
                            "the tokenizer failed on this prompt",
                        ))
                    });
                    shared.to_inference(Input::Counted { id, result }).await;
                });
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

    fn fatal(&mut self, fatal: Fatal) {
        self.compute.cancel_all();
        self.shared.stop(fatal);
    }
}

impl InferencePorts {
    fn open(&self, id: protocol::ids::EffectId, addresses: &[String]) {
        let parsed: Vec<_> = addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let (shared, dialer, streams) = (
            self.shared.clone(),
            self.dialer.clone(),
            self.streams.clone(),
        );
        self.shared.runtime.spawn(async move {
            match dialer.open(Protocol::Order, parsed, DIAL).await {
                Ok(stream) => {
                    let (stream, reader) = streams.adopt(stream);
                    shared.to_inference(Input::Opened { id, stream }).await;
                    read(shared, stream, reader).await;
                }
                Err(error) => {
                    let reason = error.to_string();
                    shared.to_inference(Input::OpenFailed { id, reason }).await;
                }
            }
        });
    }

    fn send(&self, stream: StreamId, frame: &Frame) {
        if !self.streams.send(stream, frame.encode()) {
            let shared = self.shared.clone();
            self.shared.runtime.spawn(async move {
                shared.to_inference(Input::Closed { stream }).await;
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
                shared.to_inference(Input::Stop(request)).await;
            });
        }
    }
}

/// Takes an inbound order stream.
pub async fn accept(shared: Shared, streams: Streams, stream: FramedStream) {
    let peer = stream.tag();
    let (id, reader) = streams.adopt(stream);
    shared
        .to_inference(Input::Inbound { stream: id, peer })
        .await;
    read(shared, id, reader).await;
}

async fn read(shared: Shared, stream: StreamId, mut reader: FrameReader) {
    loop {
        let input = match next(&mut reader).await {
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
        let last = !matches!(input, Input::Received { .. });
        shared.to_inference(input).await;
        if last {
            return;
        }
    }
}

async fn forward(shared: Shared, order: OrderId, mut output: mpsc::Receiver<Output>) {
    while let Some(piece) = output.recv().await {
        let input = match piece {
            Output::Tokens {
                tokens,
                finish,
                attached,
            } => Input::Produced {
                order,
                tokens,
                finish,
                attached,
            },
            Output::Failed(reason) => Input::EngineFailed { order, reason },
        };
        shared.to_inference(input).await;
    }
}
