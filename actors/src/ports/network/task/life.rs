//! How a swarm begins and ends: listening, joining the overlay, closing.

use super::super::bounds::*;
use super::super::frame::Registry;
use super::super::handle::peer_of;
use super::super::swarm::{self, Behaviour, BehaviourEvent, Tasks};
use super::super::{
    Config, Identity, Multiaddr, NetworkEvent, NetworkHandle, Outlet, PeerId, ReadyTransport, Role,
    StartError, Status,
};
use super::{Dials, Ends, Overlay, Policing, Task};
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{Swarm, SwarmEvent};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub(in super::super) async fn start(
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
        outbound: Default::default(),
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
                reason: super::super::error::root_cause(&error),
            })?;
        starting.insert(id, address.clone());
    }
    Ok(starting)
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

impl Task {
    /// Ends connections in order, then everything else whether in order or not.
    pub(super) async fn close(mut self, mut ends: Ends) {
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

    pub(super) fn on_listener(&mut self, event: SwarmEvent<BehaviourEvent>) {
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

    /// A node that lost everybody begins anew.
    pub(super) fn rejoin(&mut self) {
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
