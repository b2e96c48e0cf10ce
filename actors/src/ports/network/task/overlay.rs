//! The lookup table and gossip, from the task's point of view.

use super::super::bounds::*;
use super::super::swarm::topic_score;
use super::super::{GossipMessage, Judgement, is_global};
use super::{
    Misbehaviour, Multiaddr, NetworkEvent, OverlayError, PeerId, Provider, Task, node_key_of,
    peer_of,
};
use libp2p::core::Endpoint;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError};
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, GetProvidersOk, InboundRequest, QueryId, QueryResult, RecordKey};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{identify, multiaddr};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::oneshot;
use tokio::time::Instant;

type Found = oneshot::Sender<Result<Vec<Provider>, OverlayError>>;

/// What is under way, and what this node announces and follows.
#[derive(Default)]
pub(super) struct Overlay {
    lookups: HashMap<QueryId, Lookup>,
    announcing: HashMap<QueryId, oneshot::Sender<Result<bool, OverlayError>>>,
    provided: BTreeSet<Vec<u8>>,
    /// Announced while nobody was known: to be repeated with the first peer.
    unheard: BTreeSet<Vec<u8>>,
    topics: BTreeSet<String>,
}

struct Lookup {
    bound: usize,
    found: BTreeMap<PeerId, Vec<Multiaddr>>,
    reply: Found,
}

impl Lookup {
    fn answer(self, timed_out: bool) {
        let answer = if timed_out && self.found.is_empty() {
            Err(OverlayError::Timeout {
                after: LOOKUP_TIMEOUT,
            })
        } else {
            let found = self.found.into_iter().take(self.bound);
            Ok(found
                .map(|(peer, addresses)| Provider {
                    peer,
                    node: node_key_of(&peer),
                    addresses,
                })
                .collect())
        };
        let _ = self.reply.send(answer);
    }
}

impl Task {
    pub(super) fn provide(
        &mut self,
        key: Vec<u8>,
        reply: oneshot::Sender<Result<bool, OverlayError>>,
    ) {
        let known = self.overlay.provided.contains(&key);
        if !known && self.overlay.provided.len() >= PROVIDED_KEYS {
            let _ = reply.send(Err(OverlayError::TooMany {
                what: "announced keys",
                limit: PROVIDED_KEYS,
            }));
            return;
        }
        let started = self
            .swarm
            .behaviour_mut()
            .kad
            .start_providing(RecordKey::new(&key));
        let query = match started {
            Ok(query) => query,
            Err(error) => {
                let _ = reply.send(Err(OverlayError::Other(error.to_string())));
                return;
            }
        };
        self.overlay.provided.insert(key.clone());
        if self.table_size() == 0 {
            self.overlay.unheard.insert(key);
            let _ = reply.send(Ok(false));
        } else {
            self.overlay.announcing.insert(query, reply);
        }
    }

    pub(super) fn stop_providing(&mut self, key: &[u8]) {
        self.overlay.provided.remove(key);
        self.overlay.unheard.remove(key);
        self.swarm
            .behaviour_mut()
            .kad
            .stop_providing(&RecordKey::new(&key));
    }

    pub(super) fn find_providers(&mut self, key: Vec<u8>, bound: usize, reply: Found) {
        if self.overlay.lookups.len() >= LOOKUPS {
            let error = OverlayError::TooMany {
                what: "lookups under way",
                limit: LOOKUPS,
            };
            let _ = reply.send(Err(error));
            return;
        }
        let query = self
            .swarm
            .behaviour_mut()
            .kad
            .get_providers(RecordKey::new(&key));
        let lookup = Lookup {
            bound,
            found: BTreeMap::new(),
            reply,
        };
        self.overlay.lookups.insert(query, lookup);
    }

    pub(super) fn on_table(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                self.on_query(id, result, step.last);
            }
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } if self.config.keep_providers => {
                let store = self.swarm.behaviour_mut().kad.store_mut();
                if let Err(error) = store.add_provider(record) {
                    tracing::debug!(%error, "a provider record is not kept");
                }
            }
            kad::Event::RoutingUpdated { .. } => {
                let table = self.table_size();
                self.status.send_modify(|status| status.table = table);
                for key in std::mem::take(&mut self.overlay.unheard) {
                    let key = RecordKey::new(&key);
                    let _ = self.swarm.behaviour_mut().kad.start_providing(key);
                }
            }
            _ => {}
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::StartProviding(outcome) => {
                if let Some(reply) = self.overlay.announcing.remove(&id) {
                    let timed_out = OverlayError::Timeout {
                        after: LOOKUP_TIMEOUT,
                    };
                    let _ = reply.send(outcome.map(|_| true).map_err(|_| timed_out));
                }
            }
            QueryResult::GetProviders(outcome) => {
                let timed_out = outcome.is_err();
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = outcome {
                    self.on_found(id, providers);
                }
                let lookups = &mut self.overlay.lookups;
                let enough = lookups
                    .get(&id)
                    .is_some_and(|one| one.found.len() >= one.bound);
                if enough && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
                    query.finish();
                }
                if (enough || last)
                    && let Some(lookup) = lookups.remove(&id)
                {
                    lookup.answer(timed_out);
                }
            }
            _ => {}
        }
    }

    fn on_found(&mut self, id: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let me = *self.swarm.local_peer_id();
        for peer in providers {
            let addresses = self.known_addresses(peer);
            let Some(lookup) = self.overlay.lookups.get_mut(&id) else {
                return;
            };
            if peer != me && lookup.found.len() < lookup.bound {
                lookup.found.entry(peer).or_insert(addresses);
            }
        }
    }

    /// What the table and the running lookups know: the question that the swarm
    /// asks before it dials, asked without dialling.
    fn known_addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let mut addresses = Vec::new();
        let known = self
            .swarm
            .behaviour_mut()
            .kad
            .handle_pending_outbound_connection(
                ConnectionId::new_unchecked(0),
                Some(peer),
                &[],
                Endpoint::Dialer,
            );
        for address in known.unwrap_or_default() {
            let address = match peer_of(&address) {
                Some(_) => address,
                None => address.with(multiaddr::Protocol::P2p(peer)),
            };
            if addresses.len() < ADDRESSES_PER_PEER && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn table_size(&mut self) -> usize {
        let table = &mut self.swarm.behaviour_mut().kad;
        table.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else {
            return;
        };
        // Clients keep no table, so nobody should look things up at them.
        if !info.protocols.contains(&self.table_protocol) {
            return;
        }
        // The peer's word alone; dialling checks who answers there, but should not knock everywhere.
        let local = self.config.dial_local;
        let listed = info.listen_addrs.into_iter();
        let listed = listed.filter(|address| local || is_global(address));
        for address in listed.take(ADDRESSES_PER_PEER) {
            self.swarm
                .behaviour_mut()
                .kad
                .add_address(&peer_id, address);
        }
    }

    pub(super) fn subscribe(&mut self, topic: String) -> Result<(), OverlayError> {
        if !self.overlay.topics.contains(&topic) && self.overlay.topics.len() >= TOPICS {
            return Err(OverlayError::TooMany {
                what: "followed topics",
                limit: TOPICS,
            });
        }
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip
            .set_topic_params(IdentTopic::new(&topic), topic_score())
            .map_err(|error| OverlayError::Other(error.to_owned()))?;
        gossip
            .subscribe(&IdentTopic::new(&topic))
            .map_err(|error| OverlayError::Other(error.to_string()))?;
        self.overlay.topics.insert(topic);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, topic: &str) {
        self.overlay.topics.remove(topic);
        self.swarm
            .behaviour_mut()
            .gossip
            .unsubscribe(&IdentTopic::new(topic));
    }

    pub(super) fn publish(&mut self, topic: String, data: Vec<u8>) -> Result<(), OverlayError> {
        let length = data.len();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(IdentTopic::new(&topic), data) {
            Ok(_) => Ok(()),
            Err(PublishError::NoPeersSubscribedToTopic) => Err(OverlayError::NoListeners { topic }),
            Err(PublishError::Duplicate) => Err(OverlayError::Duplicate),
            Err(PublishError::MessageTooLarge) => Err(OverlayError::Size {
                what: "message",
                length,
                limit: GOSSIP_BYTES,
            }),
            Err(other) => Err(OverlayError::Other(other.to_string())),
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => self.on_message(propagation_source, &message_id, message),
            gossipsub::Event::Subscribed { peer_id, topic } => {
                let topic = topic.into_string();
                if self.overlay.topics.contains(&topic) {
                    self.outlet.emit(NetworkEvent::Follows {
                        peer: peer_id,
                        topic,
                    });
                }
            }
            _ => {}
        }
    }

    /// Judges a message before it goes further, and says so to the mesh.
    fn on_message(&mut self, relayed_by: PeerId, id: &MessageId, message: gossipsub::Message) {
        let acceptance = self.judge(relayed_by, &message);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        let reject = matches!(acceptance, MessageAcceptance::Reject);
        let accept = matches!(acceptance, MessageAcceptance::Accept);
        gossip.report_message_validation_result(id, &relayed_by, acceptance);
        if reject {
            self.report(relayed_by, Misbehaviour::GossipMalformed);
        }
        if let (true, Some(author)) = (accept, message.source) {
            self.outlet.emit(NetworkEvent::Gossip {
                topic: message.topic.into_string(),
                author,
                node: node_key_of(&author),
                relayed_by,
                data: message.data,
            });
        }
    }

    /// Only the neighbour that passed a message on is ever blamed: signed messages stay signed for
    /// ever, and anybody may repeat those of others.
    fn judge(&mut self, relayed_by: PeerId, message: &gossipsub::Message) -> MessageAcceptance {
        // Strict validation refused unsigned messages before.
        let Some(author) = message.source else {
            return MessageAcceptance::Reject;
        };
        let judged = (self.config.judge)(GossipMessage {
            topic: message.topic.as_str(),
            node: node_key_of(&author),
            data: &message.data,
        });
        let fresh = match judged {
            Judgement::Malformed => return MessageAcceptance::Reject,
            Judgement::Stale => false,
            Judgement::Fresh => true,
            Judgement::Numbered(number) => {
                self.policing
                    .is_next(author, message.topic.as_str(), number)
            }
        };
        if !fresh {
            return MessageAcceptance::Ignore;
        }
        let messages = self.policing.count_gossip(author, Instant::now());
        if messages <= GOSSIP_PER_AUTHOR {
            return MessageAcceptance::Accept;
        }
        if author == relayed_by {
            self.report(author, Misbehaviour::GossipFlood { messages });
        }
        MessageAcceptance::Ignore
    }
}
