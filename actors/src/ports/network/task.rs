//! The one task that owns a swarm, and its loop.
//!
//! Turns commands into calls on the swarm and the swarm's events into
//! [`NetworkEvent`]s. Never waits for a consumer. `life` starts and ends it,
//! `dials` holds what waits for connections, `overlay` lookups and gossip,
//! `policing` the counting of offences.

mod dials;
mod life;
mod overlay;
mod policing;

pub(super) use life::start;

use super::admission::Origin;
use super::bounds::BOOTSTRAP_INTERVAL;
use super::frame::Registry;
use super::handle::peer_of;
use super::streams::{self, OpenRequest, Refusal};
use super::swarm::{Behaviour, BehaviourEvent};
use super::{
    Config, FramedStream, Misbehaviour, Multiaddr, NetworkEvent, OpenError, Outlet, OverlayError,
    PeerId, Protocol, Provider, Reporter, StartError, Status, node_key_of,
};
use dials::Dials;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{ListenError, Swarm, SwarmEvent};
use libp2p::{StreamProtocol, ping};
use overlay::Overlay;
use policing::Policing;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// What a handle asks of the task.
pub(super) enum Command {
    Open {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        request: OpenRequest,
    },
    Disconnect(PeerId),
    Provide {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<bool, OverlayError>>,
    },
    StopProviding {
        key: Vec<u8>,
        reply: oneshot::Sender<()>,
    },
    FindProviders {
        key: Vec<u8>,
        bound: usize,
        reply: oneshot::Sender<Result<Vec<Provider>, OverlayError>>,
    },
    Subscribe {
        topic: String,
        reply: oneshot::Sender<Result<(), OverlayError>>,
    },
    Unsubscribe {
        topic: String,
        reply: oneshot::Sender<()>,
    },
    Publish {
        topic: String,
        data: Vec<u8>,
        reply: oneshot::Sender<Result<(), OverlayError>>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// See the head of the file.
struct Task {
    swarm: Swarm<Behaviour>,
    config: Config,
    table_protocol: StreamProtocol,
    outlet: Outlet,
    registry: Registry,
    status: watch::Sender<Status>,
    /// Listeners that have not reported an address yet.
    starting: HashMap<ListenerId, Multiaddr>,
    ready: Option<oneshot::Sender<Result<(), StartError>>>,
    dials: Dials,
    overlay: Overlay,
    policing: Policing,
}

/// What must be ended, in order, when the task is.
struct Ends {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetworkEvent>,
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Task {
    async fn run(mut self, mut ends: Ends) {
        let mut rejoin = interval_at(Instant::now() + BOOTSTRAP_INTERVAL, BOOTSTRAP_INTERVAL);
        rejoin.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let done = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = ends.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                _ = rejoin.tick() => self.rejoin(),
            }
        };
        self.close(ends).await;
        if let Some(reply) = done {
            let _ = reply.send(());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open {
                peer,
                addresses,
                request,
            } => self.open(peer, addresses, request),
            Command::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Provide { key, reply } => self.provide(key, reply),
            Command::StopProviding { key, reply } => {
                self.stop_providing(&key);
                let _ = reply.send(());
            }
            Command::FindProviders { key, bound, reply } => self.find_providers(key, bound, reply),
            Command::Subscribe { topic, reply } => {
                let _ = reply.send(self.subscribe(topic));
            }
            Command::Unsubscribe { topic, reply } => {
                self.unsubscribe(&topic);
                let _ = reply.send(());
            }
            Command::Publish { topic, data, reply } => {
                let _ = reply.send(self.publish(topic, data));
            }
            // Taken by the loop.
            Command::Shutdown { .. } => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                num_established,
                ..
            } => {
                self.connected(peer_id);
                if num_established.get() == 1 {
                    let node = node_key_of(&peer_id);
                    self.outlet.emit(NetworkEvent::Connected {
                        peer: peer_id,
                        node,
                    });
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established,
                cause,
                ..
            } => {
                if let Some(detail) = cause.as_ref().and_then(policing::garbage) {
                    self.report(peer_id, Misbehaviour::Garbage { detail });
                }
                if num_established == 0 {
                    self.outlet
                        .emit(NetworkEvent::Disconnected { peer: peer_id });
                }
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => {
                self.dial_failed(peer, connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an inbound connection failed");
                let denied = matches!(error, ListenError::Denied { .. });
                self.status.send_modify(|status| {
                    status.failed_inbound += 1;
                    status.no_room += u64::from(denied);
                });
            }
            other => self.on_listener(other),
        }
        self.refresh_status();
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(event) => self.on_stream(event),
            BehaviourEvent::Kad(event) => self.on_table(event),
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(ping::Event {
                connection, result, ..
            }) => {
                // A peer that vanished without a word: end it, so that callers learn.
                if matches!(result, Err(ping::Failure::Timeout)) {
                    self.swarm.close_connection(connection);
                }
            }
        }
    }

    fn on_stream(&mut self, event: streams::Event) {
        match event {
            streams::Event::Opened {
                peer,
                protocol,
                stream,
                origin,
                slot,
            } => {
                let stream = self.framed(peer, protocol, stream, origin, slot);
                self.outlet.emit(NetworkEvent::Stream(stream));
            }
            streams::Event::Refused {
                peer,
                refusal,
                excess,
            } => {
                match refusal {
                    Refusal::TooMany { open } => {
                        self.report(peer, Misbehaviour::TooManyStreams { open });
                    }
                    Refusal::Crowded => {
                        tracing::debug!(%peer, "refused a stream: its address has as many as it may have");
                    }
                    Refusal::Full => {
                        tracing::warn!(%peer, "refused a stream: all inbound streams are in use");
                    }
                }
                self.on_excess(peer, excess);
            }
        }
    }

    fn on_excess(&mut self, peer: PeerId, excess: Option<streams::Excess>) {
        let Some(streams::Excess {
            protocol,
            stream,
            origin,
            slot,
        }) = excess
        else {
            self.status.send_modify(|status| status.no_room += 1);
            return;
        };
        let stream = self.framed(peer, protocol, stream, origin, slot);
        self.outlet.emit(NetworkEvent::Excess(stream));
    }

    fn framed(
        &self,
        peer: PeerId,
        protocol: Protocol,
        stream: Box<libp2p::Stream>,
        origin: Option<Origin>,
        slot: streams::Slot,
    ) -> FramedStream {
        let reporter = Reporter {
            outlet: self.outlet.clone(),
            peer,
        };
        let slot: Option<Box<dyn Send>> = Some(Box::new(slot));
        let timing = &self.config.timing;
        FramedStream::new(stream, protocol, timing, reporter, &self.registry, slot).from(origin)
    }

    fn report(&mut self, peer: PeerId, kind: Misbehaviour) {
        if self.policing.may_report(peer, &kind, Instant::now()) {
            Reporter {
                outlet: self.outlet.clone(),
                peer,
            }
            .report(kind);
        }
    }

    fn refresh_status(&mut self) {
        use std::sync::atomic::Ordering;
        let peers = self.swarm.network_info().num_peers();
        let dropped = self.outlet.dropped.load(Ordering::Relaxed);
        self.status.send_if_modified(|status| {
            let changed = (status.peers, status.dropped) != (peers, dropped);
            (status.peers, status.dropped) = (peers, dropped);
            changed
        });
    }
}
