//! DiscoveryActor: relays, gossip, the self-test.

use super::Shared;
use crate::driver::{Driver, Fatal, Performed, Ports};
use crate::ports::network::{Multiaddr, NetworkEvent, NetworkHandle, Protocol};
use crate::ports::relay::listing::{ListingDeletion, ListingDraft, ListingEvent};
use crate::ports::relay::{EventSigner, RelayEvent, RelayHandle};
use crate::ports::wallet::Wallet;
use parking_lot::Mutex;
use protocol::codec;
use protocol::discovery::Discovery;
use protocol::discovery::io::{Effect, HostRow, Input, Pulse};
use protocol::envelope::Network;
use protocol::ids::{EffectId, ModelDigest};
use protocol::limits::{LISTING_POW_MINED_BITS, LISTING_POW_REQUIRED_BITS};
use protocol::manifest::{Manifest, Role};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The actor.
pub type DiscoveryActor = Driver<Discovery, DiscoveryPorts>;

/// Longest dial in a self-test.
const SELF_TEST: Duration = Duration::from_secs(15);
/// Largest pulse. Bytes. Three numbers and three identifiers.
const MAX_PULSE_BYTES: usize = 256;

/// Operators that wait for the list of hosts.
pub type Lists = Arc<Mutex<BTreeMap<EffectId, oneshot::Sender<Vec<HostRow>>>>>;

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
    /// For the self-test: can we be paid?
    pub wallet: Arc<dyn Wallet>,
    /// Operators that wait.
    pub lists: Lists,
}

/// The gossip topic of a model's pulses.
fn topic(network: Network, model: &ModelDigest) -> String {
    format!("/freehold/{}/pulse/{model}", network.name())
}

impl Ports<Discovery> for DiscoveryPorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::SelfTest { id, manifest } => {
                let (shared, dialer, wallet) = (
                    self.shared.clone(),
                    self.dialer.clone(),
                    self.wallet.clone(),
                );
                self.shared.runtime.spawn(async move {
                    let result = self_test(&dialer, wallet.as_ref(), &manifest).await;
                    shared.to_discovery(Input::SelfTested { id, result }).await;
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
            Effect::Reply { id, hosts } => {
                if let Some(waiting) = self.lists.lock().remove(&id) {
                    let _ = waiting.send(hosts);
                }
            }
            Effect::Notice(text) => tracing::warn!("{text}"),
            Effect::News(text) => tracing::info!("{text}"),
        }
        Performed::Done
    }

    fn fatal(&mut self, fatal: Fatal) {
        self.shared.stop(fatal);
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
                .to_discovery(Input::Published {
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
        self.shared.runtime.spawn(async move {
            let made =
                ListingDeletion::build(network.name(), crate::clock::wall_now(), signer.as_ref());
            if let Ok(event) = made {
                relays.publish(event).await;
            }
        });
    }
}

/// Dials our own addresses from the outside, and asks the wallet whether it can be paid.
async fn self_test(
    dialer: &NetworkHandle,
    wallet: &dyn Wallet,
    manifest: &Manifest,
) -> Result<(), String> {
    let addresses: Vec<Multiaddr> = manifest
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    if addresses.is_empty() {
        return Err(
            "this node has no address to be reached at: set `listen` in freehold.toml".to_owned(),
        );
    }
    let sells = manifest.roles.contains(&Role::Host);
    let protocol = if sells {
        Protocol::Order
    } else {
        Protocol::Audit
    };
    if let Err(error) = dialer.open(protocol, addresses, SELF_TEST).await {
        return Err(format!(
            "this node cannot be reached at its own addresses ({error}): check `listen` and the firewall"
        ));
    }
    if !sells {
        return Ok(());
    }
    let balance = wallet.balance().await.map_err(|error| error.to_string())?;
    if balance.receivable < manifest.quantum {
        return Err(format!(
            "this node can receive {} over Lightning and asks for {} at least: open a channel with inbound capacity (`freehold wallet open` from the other side)",
            balance.receivable, manifest.quantum
        ));
    }
    Ok(())
}

/// Feeds what relays bring to Discovery until the pool ends.
pub async fn follow_relays(shared: Shared, mut events: mpsc::Receiver<RelayEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            RelayEvent::Event { url, event, .. } => {
                for deletion in ListingDeletion::read(&event) {
                    let input = Input::ListingDeleted {
                        author: deletion.author,
                        at: deletion.created_at,
                    };
                    shared.to_discovery(input).await;
                }
                if let Ok(listing) = ListingEvent::read(&event, crate::clock::wall_now())
                    && let Ok(manifest) = serde_json::from_str::<Manifest>(&listing.content)
                {
                    let input = Input::ListingSeen {
                        relay: url.to_string(),
                        author: listing.author,
                        created: listing.created_at,
                        expires: listing.expires,
                        manifest: manifest.into(),
                    };
                    shared.to_discovery(input).await;
                }
            }
            RelayEvent::Misbehaved { url, kind } => {
                tracing::warn!(%url, ?kind, "a relay misbehaved")
            }
            RelayEvent::Disconnected { url, reason } => tracing::info!(%url, %reason, "relay lost"),
            RelayEvent::Connected { url } => tracing::info!(%url, "relay connected"),
            _ => {}
        }
    }
}

/// Hands a swarm's gossip to Discovery.
pub async fn gossip(shared: &Shared, event: &NetworkEvent) {
    if let NetworkEvent::Gossip {
        topic, node, data, ..
    } = event
        && topic.contains("/pulse/")
        && let Ok(pulse) = codec::decode::<Pulse>(data, MAX_PULSE_BYTES)
    {
        shared
            .to_discovery(Input::PulseSeen { from: *node, pulse })
            .await;
    }
}
