//! Opens that wait for a connection, and the dials made for them.

use super::super::bounds::{ADDRESSES_PER_PEER, PENDING_OPENS, PENDING_OPENS_PER_PEER};
use super::super::error::{Attempt, root_cause};
use super::{Multiaddr, OpenError, OpenRequest, PeerId, Task};
use libp2p::connection_limits::Exceeded;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use std::collections::BTreeMap;

/// See the head of the file.
#[derive(Default)]
pub(super) struct Dials {
    waiting: BTreeMap<PeerId, Waiting>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<OpenRequest>,
    /// The dial under way for them.
    connection: Option<ConnectionId>,
    tried: Vec<Multiaddr>,
    untried: Vec<Multiaddr>,
    attempts: Vec<Attempt>,
}

impl Dials {
    /// Forgets requests whose callers have given up; their dials go on.
    fn prune(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting
                .requests
                .retain(|request| !request.reply.is_closed());
        }
    }

    fn room_for(&self, peer: &PeerId) -> Result<(), OpenError> {
        let of_peer = self
            .waiting
            .get(peer)
            .map_or(0, |waiting| waiting.requests.len());
        let all: usize = self
            .waiting
            .values()
            .map(|waiting| waiting.requests.len())
            .sum();
        let what = "streams wait for a connection";
        if of_peer >= PENDING_OPENS_PER_PEER {
            return Err(OpenError::Busy {
                what,
                limit: PENDING_OPENS_PER_PEER,
            });
        }
        if all >= PENDING_OPENS {
            return Err(OpenError::Busy {
                what,
                limit: PENDING_OPENS,
            });
        }
        Ok(())
    }
}

impl Waiting {
    fn add_addresses(&mut self, addresses: Vec<Multiaddr>) {
        for address in addresses {
            let known = self.tried.contains(&address) || self.untried.contains(&address);
            if !known && self.tried.len() + self.untried.len() < ADDRESSES_PER_PEER {
                self.untried.push(address);
            }
        }
    }
}

impl Task {
    pub(super) fn open(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, request: OpenRequest) {
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().streams.open(peer, request);
            return;
        }
        self.dials.prune();
        if let Err(error) = self.dials.room_for(&peer) {
            request.answer(Err(error));
            return;
        }
        let waiting = self.dials.waiting.entry(peer).or_default();
        waiting.requests.push(request);
        waiting.add_addresses(addresses);
        if waiting.connection.is_none() {
            self.dial(peer);
        }
    }

    /// Dials the addresses that were not tried yet, and those the swarm knows.
    /// Another dial to the same peer (the lookup table's) may be under way with
    /// other addresses: it is not waited for.
    fn dial(&mut self, peer: PeerId) {
        let Some(waiting) = self.dials.waiting.get_mut(&peer) else {
            return;
        };
        let addresses = std::mem::take(&mut waiting.untried);
        waiting.tried.extend(addresses.iter().cloned());
        let dial = DialOpts::peer_id(peer)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::Disconnected)
            // From the port that it listens on, a dial fails where another socket holds the pair.
            .allocate_new_port()
            .build();
        let connection = dial.connection_id();
        waiting.connection = Some(connection);
        if let Err(error) = self.swarm.dial(dial) {
            self.dial_failed(peer, connection, &error);
        }
    }

    /// A connection came about, dialled by either side.
    pub(super) fn connected(&mut self, peer: PeerId) {
        let Some(waiting) = self.dials.waiting.remove(&peer) else {
            return;
        };
        for request in waiting.requests {
            self.swarm.behaviour_mut().streams.open(peer, request);
        }
    }

    pub(super) fn dial_failed(&mut self, peer: PeerId, of: ConnectionId, error: &DialError) {
        let Some(waiting) = self.dials.waiting.get_mut(&peer) else {
            return;
        };
        if waiting.connection != Some(of) {
            return;
        }
        waiting.connection = None;
        if let DialError::Transport(failures) = error {
            let failures = failures.iter().map(|(address, error)| Attempt {
                address: address.clone(),
                reason: root_cause(error),
            });
            waiting.attempts.extend(failures);
        }
        if !waiting.untried.is_empty() {
            // Ends, because a dial leaves nothing untried.
            self.dial(peer);
            return;
        }
        if let Some(waiting) = self.dials.waiting.remove(&peer) {
            let error = explain(peer, error, waiting.attempts);
            for request in waiting.requests {
                request.answer(Err(error.clone()));
            }
        }
    }
}

fn explain(peer: PeerId, error: &DialError, attempts: Vec<Attempt>) -> OpenError {
    match error {
        DialError::WrongPeerId { obtained, address } => OpenError::WrongPeer {
            found: *obtained,
            address: address.clone(),
        },
        DialError::LocalPeerId { .. } => OpenError::Myself,
        DialError::Denied { cause } => match cause.downcast_ref::<Exceeded>() {
            Some(exceeded) => OpenError::Busy {
                what: "connections",
                limit: exceeded.limit() as usize,
            },
            None => OpenError::Lost {
                reason: cause.to_string(),
            },
        },
        DialError::Aborted => OpenError::Lost {
            reason: "the dial was given up".to_owned(),
        },
        DialError::Transport(_) | DialError::NoAddresses | DialError::DialPeerConditionFalse(_) => {
            OpenError::Unreachable { peer, attempts }
        }
    }
}
