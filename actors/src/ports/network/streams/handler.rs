//! One connection's share of the stream behaviour: agrees on the protocol.

use super::super::admission::Origin;
use super::super::bounds::NEGOTIATION_TIMEOUT;
use super::super::{OpenError, Protocol};
use super::OpenRequest;
use libp2p::StreamProtocol;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Inbound {
    pub(super) protocol: Protocol,
    pub(super) stream: Stream,
    /// Where its peer is.
    pub(super) origin: Option<Origin>,
}

type ToBehaviour = ConnectionHandlerEvent<Choice, OpenRequest, Inbound>;

/// See the head of the file. Its queue is bounded by the task's bounds on opens
/// and by the connection's limit of negotiating streams.
pub struct Handler {
    accepted: Arc<[Protocol]>,
    pub(super) origin: Option<Origin>,
    queue: VecDeque<ToBehaviour>,
}

impl Handler {
    pub(super) fn new(accepted: Arc<[Protocol]>, origin: Option<Origin>) -> Self {
        Self {
            accepted,
            origin,
            queue: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Inbound;
    type InboundProtocol = Choice;
    type OutboundProtocol = Choice;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Choice> {
        let choice = Choice(self.accepted.iter().map(|one| one.wire()).collect());
        SubstreamProtocol::new(choice, ()).with_timeout(NEGOTIATION_TIMEOUT)
    }

    fn connection_keep_alive(&self) -> bool {
        !self.queue.is_empty()
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToBehaviour> {
        // Filled only by the two calls below, after which the connection polls again.
        match self.queue.pop_front() {
            Some(next) => Poll::Ready(next),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        if request.reply.is_closed() {
            return;
        }
        let choice = Choice(vec![request.protocol.wire()]);
        let protocol = SubstreamProtocol::new(choice, request).with_timeout(NEGOTIATION_TIMEOUT);
        self.queue
            .push_back(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Choice, Choice, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, name),
                ..
            }) => {
                if let Some(protocol) = Protocol::from_wire(&name) {
                    let inbound = Inbound {
                        protocol,
                        stream,
                        origin: self.origin,
                    };
                    self.queue
                        .push_back(ConnectionHandlerEvent::NotifyBehaviour(inbound));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: request,
            }) => request.answer(Ok(stream)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: request,
                error,
            }) => {
                let error = refusal(request.protocol, error);
                request.answer(Err(error));
            }
            _ => {}
        }
    }
}

fn refusal(protocol: Protocol, error: StreamUpgradeError<Infallible>) -> OpenError {
    match error {
        StreamUpgradeError::NegotiationFailed => OpenError::NotSpoken { protocol },
        StreamUpgradeError::Timeout => OpenError::Timeout {
            after: NEGOTIATION_TIMEOUT,
        },
        StreamUpgradeError::Io(error) => OpenError::Lost {
            reason: error.to_string(),
        },
        StreamUpgradeError::Apply(never) => match never {},
    }
}

/// Agrees on one of some names and leaves the stream as it is.
#[derive(Debug, Clone)]
pub struct Choice(Vec<StreamProtocol>);

impl UpgradeInfo for Choice {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Choice {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Choice {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
