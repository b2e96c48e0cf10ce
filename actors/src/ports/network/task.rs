//! The one task that owns a swarm: its loop, its start and its end.
//!
//! Turns commands into calls on the swarm and the swarm's events into
//! [`NetworkEvent`]s. Never waits for a consumer. `dials` holds what waits for
//! connections, `overlay` lookups and gossip, `policing` the counting of
//! offences.

mod dials;
mod overlay;
mod policing;

use super::bounds::*;
use super::frame::Registry;
use super::handle::peer_of;
use super::streams::{self, OpenRequest};
use super::swarm::{self, Behaviour, BehaviourEvent, Tasks};
use super::{
    Config, FramedStream, Identity, Misbehaviour, Multiaddr, NetworkEvent, NetworkHandle,
    OpenError, Outlet, OverlayError, PeerId, Provider, ReadyTransport, Reporter, Role, StartError,
    Status, node_key_of,
};
use dials::Dials;
use futures::StreamExt;
use libp2p::StreamProtocol;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{multiaddr, ping};
use overlay::Overlay;
use policing::Policing;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

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

pub(super) async fn start(
    config: Config,
    identity: Identity,
    extra: Option<ReadyTransport>,
) -> Result<(NetworkHandle, mpsc::Receiver<NetworkEvent>), StartError> {
    let (tasks, stop, ended) = Tasks::new();
    let mut swarm = swarm::build(&config, &identity, extra, tasks)?;
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }
    let starting = listen(&mut swarm, &config)?;
    let (events, receiver) = mpsc::channel(config.bounds.events.max(1));
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (status, watching) = watch::channel(Status::default());
    let (ready, started) = oneshot::channel();
    let registry = Registry::default();
    let outlet = Outlet {
        sender: events.downgrade(),
        dropped: Arc::default(),
    };
    let handle = NetworkHandle {
        peer: identity.peer_id(),
        timing: config.timing.clone(),
        commands: sender,
        status: watching,
        outlet: outlet.clone(),
        registry: registry.clone(),
    };
    let mut task = Task {
        table_protocol: swarm::table_protocol(&config)?,
        swarm,
        outlet,
        registry,
        status,
        starting,
        ready: Some(ready),
        dials: Dials::default(),
        overlay: Overlay::default(),
        policing: Policing::default(),
        config,
    };
    task.check_ready();
    task.join_overlay()?;
    tokio::spawn(task.run(Ends {
        commands,
        events,
        stop,
        ended,
    }));
    match timeout(LISTEN_TIMEOUT, started).await {
        Ok(Ok(outcome)) => outcome.map(|()| (handle, receiver)),
        _ => Err(StartError::Config(
            "the listening sockets did not come up".to_owned(),
        )),
    }
}

/// Returns when the UDP sockets are free. QUIC answers late packets of closed
/// connections for some round trips, in a task that cannot be waited for.
async fn released(listeners: &[Multiaddr]) {
    for socket in listeners.iter().filter_map(udp_socket) {
        while std::net::UdpSocket::bind(socket).is_err() {
            tokio::time::sleep(PORT_PROBE_INTERVAL).await;
        }
    }
}

fn udp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    use multiaddr::Protocol::{Ip4, Ip6, Udp};
    let mut parts = address.iter();
    match (parts.next()?, parts.next()?) {
        (Ip4(ip), Udp(port)) => Some((ip, port).into()),
        (Ip6(ip), Udp(port)) => Some((ip, port).into()),
        _ => None,
    }
}

fn listen(
    swarm: &mut Swarm<Behaviour>,
    config: &Config,
) -> Result<HashMap<ListenerId, Multiaddr>, StartError> {
    let mut starting = HashMap::new();
    for address in &config.listen {
        let id = swarm
            .listen_on(address.clone())
            .map_err(|error| StartError::Listen {
                address: address.clone(),
                reason: super::error::root_cause(&error),
            })?;
        starting.insert(id, address.clone());
    }
    Ok(starting)
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

    /// Ends connections in order, then everything else whether in order or not.
    async fn close(mut self, mut ends: Ends) {
        let sockets: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = timeout(CLOSE_TIMEOUT, async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.next().await;
            }
        })
        .await;
        self.registry.close();
        drop(self.swarm);
        ends.stop.send_replace(true);
        while ends.ended.recv().await.is_some() {}
        let _ = timeout(CLOSE_TIMEOUT, released(&sockets)).await;
        drop(ends.events);
        drop(ends.commands);
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
                self.status.send_modify(|status| status.failed_inbound += 1);
            }
            other => self.on_listener(other),
        }
        self.refresh_status();
    }

    fn on_listener(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                // Peers are told what we listen on, unless told what to tell.
                if self.config.role == Role::Serving && self.config.external.is_empty() {
                    self.swarm.add_external_address(address);
                }
                self.starting.remove(&listener_id);
                self.list_addresses();
                self.check_ready();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if self.config.external.is_empty() {
                    self.swarm.remove_external_address(&address);
                }
                self.list_addresses();
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            } => {
                let reason = error.to_string();
                self.list_addresses();
                match (self.starting.remove(&listener_id), self.ready.take()) {
                    (Some(address), Some(ready)) => {
                        let _ = ready.send(Err(StartError::Listen { address, reason }));
                    }
                    _ => self.outlet.emit(NetworkEvent::ListenerFailed { reason }),
                }
            }
            _ => {}
        }
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
                slot,
            } => {
                let reporter = Reporter {
                    outlet: self.outlet.clone(),
                    peer,
                };
                let timing = &self.config.timing;
                let slot: Option<Box<dyn Send>> = Some(Box::new(slot));
                let stream = FramedStream::new(
                    Box::new(stream),
                    protocol,
                    timing,
                    reporter,
                    &self.registry,
                    slot,
                );
                self.outlet.emit(NetworkEvent::Stream(stream));
            }
            streams::Event::TooMany { peer, open } => {
                self.report(peer, Misbehaviour::TooManyStreams { open });
            }
            streams::Event::Full { peer } => {
                tracing::warn!(%peer, "refused a stream: all inbound streams are in use");
            }
        }
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

    fn check_ready(&mut self) {
        if self.starting.is_empty()
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(Ok(()));
        }
    }

    fn list_addresses(&mut self) {
        let me = multiaddr::Protocol::P2p(*self.swarm.local_peer_id());
        let with_peer = |address: &Multiaddr| match peer_of(address) {
            Some(_) => address.clone(),
            None => address.clone().with(me.clone()),
        };
        let addresses = self.swarm.listeners().map(with_peer).collect();
        self.status
            .send_modify(|status| status.addresses = addresses);
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

    /// A node that lost everybody begins anew.
    fn rejoin(&mut self) {
        if self.swarm.network_info().num_peers() == 0 {
            let _ = self.join_overlay();
        }
    }

    fn join_overlay(&mut self) -> Result<(), StartError> {
        for address in self.config.bootstrap.clone() {
            let peer = peer_of(&address).ok_or_else(|| StartError::Address {
                address: address.clone(),
                problem: "must end in /p2p/<peer id> to be a bootstrap peer",
            })?;
            if peer == *self.swarm.local_peer_id() {
                continue;
            }
            let dial = DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            if let Err(error) = self.swarm.dial(dial) {
                tracing::debug!(%peer, %error, "no dial to a bootstrap peer");
            }
        }
        Ok(())
    }
}
