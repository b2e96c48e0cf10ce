//! The discovery actor: carries out the effects of the discovery machine on relays and gossip.
//!
//! - Started by [`crate::node::Node::start`] around a recovered machine; stops after its last write.
//! - Its inputs come from
//!   - [`attend_relays`], one task per node: listings and deletions of the relays, verified here;
//!   - [`gossip`]: pulses, of which some may be lost;
//!   - one task for each self-test and each publication;
//!   - the machines Inference (candidates, load), Validator (validators) and Reputation (scores);
//!   - the operator, by [`crate::node::Node::hosts`].
//! - Relays that are away are tried again by their pool. A node whose
//!   [`attend_relays`] ends before it stops.
//!
//! Decides nothing about hosts: which are listed and ranked is [`protocol::discovery`]'s.

use super::ask::Asks;
use super::{ActorPorts, Carried, Parts, Perform, Shared};
use crate::driver::{Driver, Performed};
use crate::ports::network::{
    self, GossipMessage, Judgement, Multiaddr, NetworkEvent, NetworkHandle, PeerId, Protocol,
    Status,
};
use crate::ports::relay::listing::{
    ListingDeletion, ListingDraft, ListingEvent, MAX_FOLLOWED, deletion_filters,
};
use crate::ports::relay::{EventSigner, Filter, RelayEvent, RelayHandle};
use crate::ports::wallet::Wallet;
use parking_lot::Mutex;
use protocol::codec;
use protocol::discovery::Discovery;
use protocol::ids::{EffectId, ModelDigest, NodeKey};
use protocol::limits::{ENVELOPE_WINDOW_MS, LISTING_POW_MINED_BITS, LISTING_POW_REQUIRED_BITS};
use protocol::message::discovery::{Effect, HostRow, Input, Pulse, SelfTestError};
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{Manifest, Role};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The actor.
pub type DiscoveryActor = Driver<Discovery, ActorPorts<DiscoveryPorts>>;

/// Longest exchange in a self-test.
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after a refusal was felt it may be counted.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that no stream protocol takes for a frame.
const NO_FRAME: &[u8] = &[0xff];
/// The name of the subscription to withdrawals.
const WITHDRAWALS: &str = "withdrawals";
/// How long after an author's first listing the relays are asked for its withdrawals: one question for
/// the many that come at a start.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(5);
/// Largest pulse. Bytes. Three numbers and three identifiers.
const MAX_PULSE_BYTES: usize = 256;

/// The withdrawal of our listing under way, for whoever must wait until relays have it.
pub type Withdrawal = Arc<Mutex<Option<JoinHandle<()>>>>;

/// What DiscoveryActor touches.
pub struct DiscoveryPorts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
    /// The Bitcoin network, which is the listing's `d` tag.
    pub network: Network,
    /// Nostr relays.
    pub relays: Option<RelayHandle>,
    /// Signs listing events with the node key.
    pub signer: Arc<dyn EventSigner>,
    /// The swarm that gossip goes through: the serving one, or the buyer's.
    pub gossip: NetworkHandle,
    /// The buyer's swarm, which knows nothing of our addresses: for the self-test.
    pub dialer: NetworkHandle,
    /// Where others may reach us, as things are now.
    pub addresses: OwnAddresses,
    /// For the self-test: can we be paid?
    pub wallet: Arc<dyn Wallet>,
    /// Operators that wait for the list of hosts.
    pub lists: Asks<Vec<HostRow>>,
    /// The withdrawal under way.
    pub withdrawal: Withdrawal,
}

/// The addresses that a listing names.
#[derive(Clone)]
pub struct OwnAddresses {
    /// The network that money moves on.
    pub network: Network,
    /// What the operator says they are; none: those that the swarm listens on.
    pub announce: Vec<Multiaddr>,
    /// The serving swarm, where there is one.
    pub serving: Option<NetworkHandle>,
}

impl OwnAddresses {
    /// As things are now: an interface may come up after the node, or get another address.
    pub fn now(&self) -> Vec<String> {
        let serving = self.serving.iter();
        let addresses = match self.announce.is_empty() {
            true => serving.flat_map(NetworkHandle::local_addresses).collect(),
            false => {
                let me = self.serving.as_ref().map(NetworkHandle::peer_id);
                let named = |address: &Multiaddr| with_peer(address, me);
                self.announce.iter().map(named).collect()
            }
        };
        told_to_others(self.network, addresses)
    }
}

/// An address of the operator's, with our peer id at its end.
fn with_peer(address: &Multiaddr, me: Option<PeerId>) -> Multiaddr {
    match (network::peer_of(address), me) {
        (None, Some(me)) => address.clone().with_p2p(me).unwrap_or_else(|same| same),
        _ => address.clone(),
    }
}

/// Those that mean the same machine to everybody. On a network for tests all nodes are near.
fn told_to_others(network: Network, addresses: Vec<Multiaddr>) -> Vec<String> {
    let (told, kept): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| network == Network::Regtest || network::is_global(address));
    if told.is_empty() && !kept.is_empty() {
        tracing::warn!(
            addresses = ?kept,
            "no address of this node can be reached from outside its own network: set `announce` in \
             freehold.toml to its public address"
        );
    }
    told.iter().map(ToString::to_string).collect()
}

/// The gossip topic of a model's pulses.
fn topic(network: Network, model: &ModelDigest) -> String {
    format!("/freehold/{}/pulse/{model}", network.name())
}

impl Carried for Discovery {
    type Ports = DiscoveryPorts;

    fn ports(parts: &Parts) -> DiscoveryPorts {
        DiscoveryPorts {
            shared: parts.shared.clone(),
            network: parts.network,
            relays: parts.relays.clone(),
            signer: parts.signer.clone(),
            gossip: parts.serving.as_ref().unwrap_or(&parts.dialer).clone(),
            dialer: parts.dialer.clone(),
            addresses: OwnAddresses {
                network: parts.network,
                announce: parts.announce.clone(),
                serving: parts.serving.clone(),
            },
            wallet: parts.wallet.clone(),
            lists: parts.lists.clone(),
            withdrawal: parts.withdrawal.clone(),
        }
    }
}

impl Perform<Discovery> for DiscoveryPorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::SelfTest { id, mut manifest } => {
                manifest.addresses = self.addresses.now();
                let (shared, wallet) = (self.shared.clone(), self.wallet.clone());
                let (dialer, serving) = (self.dialer.clone(), self.gossip.clone());
                self.shared.runtime.spawn(async move {
                    let tested = self_test(&dialer, &serving, wallet.as_ref(), &manifest).await;
                    let result = tested.map(|()| manifest.addresses);
                    shared.send(Input::SelfTested { id, result }).await;
                });
            }
            Effect::Publish { id, manifest } => self.publish(id, &manifest),
            Effect::Unpublish => self.unpublish(),
            Effect::SendPulse(pulse) => {
                let (gossip, topic) = (self.gossip.clone(), topic(self.network, &pulse.model));
                self.shared.runtime.spawn(async move {
                    // Nobody listens yet: no harm, load is asked at order time as well.
                    let _ = gossip.publish(&topic, &codec::encode(&pulse)).await;
                });
            }
            Effect::Follow(model) => {
                let (gossip, topic) = (self.gossip.clone(), topic(self.network, &model));
                self.shared.runtime.spawn(async move {
                    if let Err(error) = gossip.subscribe(&topic).await {
                        tracing::debug!(%error, "a pulse topic cannot be followed");
                    }
                });
            }
            Effect::Reply { id, hosts } => self.lists.answer(id, hosts),
            Effect::Notice(text) => tracing::warn!("{text}"),
            Effect::News(text) => tracing::info!("{text}"),
        }
        Performed::Done
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl DiscoveryPorts {
    fn publish(&self, id: EffectId, manifest: &Manifest) {
        let content = serde_json::to_vec(manifest).unwrap_or_default();
        let draft = ListingDraft {
            content,
            network: self.network.name().to_owned(),
            models: manifest.models.iter().map(|model| model.digest).collect(),
            topics: manifest
                .roles
                .iter()
                .map(|role| format!("{role:?}").to_lowercase())
                .collect(),
            created_at: manifest.created,
            expires: manifest.expires,
        };
        let (shared, relays, signer) = (
            self.shared.clone(),
            self.relays.clone(),
            self.signer.clone(),
        );
        // Nobody floods a private chain: there the least that readers accept will do.
        let bits = match self.network {
            Network::Regtest => LISTING_POW_REQUIRED_BITS,
            _ => LISTING_POW_MINED_BITS,
        };
        self.shared.runtime.spawn(async move {
            let built = draft.build_with(signer.as_ref(), bits, 1).await;
            let (accepted, refused) = match (relays, built) {
                (Some(relays), Ok(event)) => {
                    let report = relays.publish(event).await;
                    let mut refused: Vec<(String, String)> = report
                        .refused
                        .into_iter()
                        .map(|(url, reason)| (url, format!("{reason:?}")))
                        .collect();
                    refused.extend(
                        report
                            .timed_out
                            .into_iter()
                            .map(|url| (url, "no answer in time".to_owned())),
                    );
                    (report.accepted, refused)
                }
                (None, _) => (
                    Vec::new(),
                    vec![("none".to_owned(), "no relay is configured".to_owned())],
                ),
                (_, Err(error)) => (
                    Vec::new(),
                    vec![("this node".to_owned(), error.to_string())],
                ),
            };
            tracing::info!(?accepted, ?refused, "listing published");
            shared
                .send(Input::Published {
                    id,
                    accepted,
                    refused,
                })
                .await;
        });
    }

    fn unpublish(&self) {
        let (Some(relays), signer, network) =
            (self.relays.clone(), self.signer.clone(), self.network)
        else {
            return;
        };
        let published = self.shared.runtime.spawn(async move {
            let made =
                ListingDeletion::build(network.name(), crate::clock::wall_now(), signer.as_ref());
            if let Ok(event) = made {
                relays.publish(event).await;
            }
        });
        *self.withdrawal.lock() = Some(published);
    }
}

/// Speaks to ourselves at the addresses of the listing, from this machine, and asks the wallet
/// whether it can be paid. That somebody elsewhere gets through is not proved by it.
async fn self_test(
    dialer: &NetworkHandle,
    serving: &NetworkHandle,
    wallet: &dyn Wallet,
    manifest: &Manifest,
) -> Result<(), SelfTestError> {
    let failed = |reason: String| Err(SelfTestError::Failed(reason));
    let addresses: Vec<Multiaddr> = manifest
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    if addresses.is_empty() {
        return failed(
            "this node has no address that others could reach: set `listen` in freehold.toml, and \
             behind a router `announce` as well, to its public address"
                .to_owned(),
        );
    }
    let sells = manifest.roles.contains(&Role::Host);
    let protocol = if sells {
        Protocol::Order
    } else {
        Protocol::Audit
    };
    let reached = reach(dialer, serving, protocol, addresses).await;
    if let Err(SelfTestError::Failed(reason)) = reached {
        return failed(format!(
            "this node does not answer at its own addresses ({reason}): check `listen`, `announce` and the firewall"
        ));
    }
    if !sells {
        return reached;
    }
    let balance = match wallet.balance().await {
        Ok(balance) => balance,
        Err(error) => return failed(error.to_string()),
    };
    if balance.receivable < manifest.quantum {
        return failed(format!(
            "this node can receive {} over Lightning and asks for {} at least: open a channel with inbound capacity (`freehold wallet open` from the other side)",
            balance.receivable, manifest.quantum
        ));
    }
    reached
}

/// Speaks to `serving`, a swarm of this node, at `addresses`, from `dialer`.
///
/// # Errors
/// [`SelfTestError::NoRoom`] where `serving` turned somebody away meanwhile: then its places are
/// taken, and it was reached. Else what the dialler saw.
pub async fn reach(
    dialer: &NetworkHandle,
    serving: &NetworkHandle,
    protocol: Protocol,
    addresses: Vec<Multiaddr>,
) -> Result<(), SelfTestError> {
    let mut status = serving.status();
    let turned_away = |status: &Status| status.no_room + status.dropped;
    let before = turned_away(&status.borrow());
    let answered = tokio::time::timeout(SELF_TEST_TIMEOUT, exchange(dialer, protocol, addresses))
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let Err(reason) = answered else {
        return Ok(());
    };
    let counted = status.wait_for(|status| turned_away(status) > before);
    match tokio::time::timeout(COUNTED_WITHIN, counted).await {
        Ok(Ok(_)) => Err(SelfTestError::NoRoom),
        _ => Err(SelfTestError::Failed(reason)),
    }
}

/// Opens a stream, sends a frame that is none, and waits until it is refused: then a frame went to
/// the machine and one came back, which a stream that was merely agreed on does not show.
async fn exchange(
    dialer: &NetworkHandle,
    protocol: Protocol,
    addresses: Vec<Multiaddr>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut stream = dialer
        .open(protocol, addresses, SELF_TEST_TIMEOUT)
        .await
        .map_err(|error| text(&error))?;
    stream.send(NO_FRAME).await.map_err(|error| text(&error))?;
    // An audit stream is closed in order, an order stream answered.
    stream.next().await.map_err(|error| text(&error))?;
    Ok(())
}

/// Feeds what relays bring to Discovery, for as long as the node lives.
pub fn attend_relays(
    shared: &Shared,
    network: Network,
    relays: Option<RelayHandle>,
    events: mpsc::Receiver<RelayEvent>,
) {
    let following = follow_relays(shared.clone(), network, relays, events);
    shared.supervise("the events of the relays", following);
}

/// Feeds what relays bring to Discovery until the pool ends.
pub async fn follow_relays(
    shared: Shared,
    network: Network,
    relays: Option<RelayHandle>,
    mut events: mpsc::Receiver<RelayEvent>,
) {
    let mut followed = Followed::default();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = followed.due() => {
                // Not awaited here: the pool's tasks wait for room in the queue that is drained here.
                if let Some(relays) = relays.clone() {
                    let filters = followed.filters();
                    shared.runtime.spawn(async move {
                        if let Err(error) = relays.subscribe(WITHDRAWALS, filters).await {
                            tracing::debug!(%error, "withdrawals of listings cannot be followed");
                        }
                    });
                }
                continue;
            }
        };
        match event {
            Some(RelayEvent::Event { url, event, .. }) => {
                for deletion in ListingDeletion::read(&event) {
                    // One key serves several networks, each with a listing of its own.
                    if deletion.network != network.name() {
                        continue;
                    }
                    let input = Input::ListingDeleted {
                        author: deletion.author,
                        at: deletion.created_at,
                    };
                    shared.send(input).await;
                }
                if let Ok(listing) = ListingEvent::read(&event, crate::clock::wall_now())
                    && let Ok(manifest) = serde_json::from_str::<Manifest>(&listing.content)
                {
                    followed.add(listing.author);
                    let input = Input::ListingSeen {
                        relay: url.to_string(),
                        author: listing.author,
                        created: listing.created_at,
                        expires: listing.expires,
                        manifest: manifest.into(),
                    };
                    shared.send(input).await;
                }
            }
            Some(RelayEvent::Misbehaved { url, kind }) => {
                tracing::warn!(%url, ?kind, "a relay misbehaved")
            }
            Some(RelayEvent::Disconnected { url, reason }) => {
                tracing::info!(%url, %reason, "relay lost")
            }
            Some(RelayEvent::Connected { url }) => tracing::info!(%url, "relay connected"),
            Some(_) => {}
            None => return,
        }
    }
}

/// The authors whose withdrawals are followed: those whose listings were seen last.
#[derive(Default)]
struct Followed {
    /// Oldest first.
    authors: VecDeque<NodeKey>,
    changed: Option<Instant>,
}

impl Followed {
    fn add(&mut self, author: NodeKey) {
        if self.authors.contains(&author) {
            return;
        }
        if self.authors.len() >= MAX_FOLLOWED {
            self.authors.pop_front();
        }
        self.authors.push_back(author);
        self.changed.get_or_insert_with(Instant::now);
    }

    /// Resolves when the relays should be asked anew; never while nothing has changed.
    async fn due(&self) {
        match self.changed {
            Some(changed) => tokio::time::sleep_until(changed + FOLLOW_INTERVAL).await,
            None => std::future::pending().await,
        }
    }

    fn filters(&mut self) -> Vec<Filter> {
        self.changed = None;
        deletion_filters(self.authors.iter().copied(), crate::clock::wall_now())
    }
}

/// Judges gossip before it is passed on: a pulse is signed by the host it speaks of, and later than the
/// last one. Old ones stay signed for ever, so their age counts, not who passes them on.
pub fn judge(message: GossipMessage<'_>) -> Judgement {
    if !message.topic.contains("/pulse/") {
        return Judgement::Malformed;
    }
    let Ok(pulse) = codec::decode::<Pulse>(message.data, MAX_PULSE_BYTES) else {
        return Judgement::Malformed;
    };
    if message.node != Some(pulse.host) || !message.topic.ends_with(&pulse.model.to_string()) {
        return Judgement::Malformed;
    }
    let now = crate::clock::wall_now();
    let age_ms = now.0.abs_diff(pulse.time.0);
    match age_ms <= ENVELOPE_WINDOW_MS {
        true => Judgement::Numbered(pulse.time.0),
        false => Judgement::Stale,
    }
}

/// Hands a swarm's gossip to Discovery, where there is room: streams must not wait behind it.
pub fn gossip(shared: &Shared, event: &NetworkEvent) {
    if let NetworkEvent::Gossip {
        topic, node, data, ..
    } = event
        && topic.contains("/pulse/")
        && let Ok(pulse) = codec::decode::<Pulse>(data, MAX_PULSE_BYTES)
    {
        shared.offer(Input::PulseSeen { from: *node, pulse });
    }
}
