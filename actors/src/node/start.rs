//! The start of a node: its swarms, its relays, its machines and their ports, and who tells whom.

use super::announce::own_listing;
use super::machines::{Actors, MachineStart, Machines};
use super::offers::Offers;
use super::streams::{Acceptors, attend_swarm};
use super::{Inner, Node, NodeConfig, NodeError, SystemThread};
use crate::clock::{Clock, SystemClock, wall_now};
use crate::ports::blob::{self, Blobs, Vocabularies};
use crate::ports::compute::Compute;
use crate::ports::network::{
    self, Identity, Network as Swarm, NetworkEvent, NetworkHandle, Protocol,
};
use crate::ports::relay::{RelayConfig, RelayPool, SecretSigner, listing};
use crate::ports::storage::Storage;
use crate::ports::wallet::Wallet;
use crate::shell::ask::Asks;
use crate::shell::discovery::{Withdrawal, attend_relays, judge as judge_gossip};
use crate::shell::inference::{Clients, Counts};
use crate::shell::payment as payment_shell;
use crate::shell::streams::Streams;
use crate::shell::{Parts, Shared};
use protocol::crypto::{Crypto, Secp};
use protocol::wire::manifest::Role;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::{broadcast, mpsc, oneshot};

impl Node {
    /// Starts a node on the current (multi-thread) tokio runtime.
    ///
    /// # Errors
    /// When a port does not start; nothing is left running then.
    pub async fn start(
        config: NodeConfig,
        wallet: Arc<dyn Wallet>,
        compute: Compute,
        storage: Storage,
    ) -> Result<Node, NodeError> {
        let clock = SystemClock::start();
        let shared = Shared::new(tokio::runtime::Handle::current(), storage);
        let signer = Secp::from_secret(&config.keys.node).ok_or(NodeError::Keys)?;
        let key = signer.key();
        let event_signer =
            Arc::new(SecretSigner::from_secret(&config.keys.node).ok_or(NodeError::Keys)?);

        let (dialer, dialer_events) = start_dialer(&config).await?;
        let (serving, serving_events) = match start_serving(&config).await? {
            Some((handle, events)) => (Some(handle), Some(events)),
            None => (None, None),
        };
        let (relays, relay_events) = if config.relays.is_empty() {
            (None, None)
        } else {
            let reader = relay_reader(&config.roles, &event_signer);
            let relay_config = RelayConfig::new(config.relays.clone()).with_auth(reader);
            let (handle, events) = RelayPool::start(relay_config)?;
            handle
                .subscribe(
                    "listings",
                    listing::filters(config.network.name(), wall_now()),
                )
                .await?;
            (Some(handle), Some(events))
        };

        let parts = Parts {
            shared,
            network: config.network,
            relays,
            signer: event_signer,
            dialer,
            dial: dialer_config(&config),
            serving,
            announce: config.announce.clone(),
            wallet,
            vocabularies: Vocabularies::new(
                compute.clone(),
                config.vocabularies.clone(),
                dialer_config(&config),
            ),
            compute,
            streams: Streams::default(),
            clients: Clients::default(),
            counts: Counts::new(counts_at_once()),
            reports: Asks::default(),
            lists: Asks::default(),
            judgements: Asks::default(),
            notes: broadcast::channel(256).0,
            withdrawal: Withdrawal::default(),
        };
        let shared = &parts.shared;
        let start = MachineStart {
            keys: &config.keys,
            storage: &shared.storage,
            now: clock.now(),
        };
        let machines = Machines::recover(&start, config.machines.clone(), &parts)?;
        let (system, actors) = spawn_actors(move || machines.run(clock)).await?;
        shared.connect(actors.addresses());
        // Only now may they speak: what a recovered machine tells its siblings must arrive.
        actors.begin();

        let listed = config
            .serve
            .iter()
            .map(|model| model.offer.digest)
            .collect();
        let blobs = Blobs::new(parts.compute.clone(), listed, blob::Bounds::default());
        let acceptors = Acceptors::of(shared, &parts.streams, blobs);
        let outgoing = "the events of outgoing connections";
        attend_swarm(shared, outgoing, acceptors.clone(), dialer_events);
        if let Some(events) = serving_events {
            let incoming = "the events of incoming connections";
            attend_swarm(shared, incoming, acceptors, events);
        }
        if let Some(events) = relay_events {
            attend_relays(shared, config.network, parts.relays.clone(), events);
        }
        let payments = payment_shell::follow(shared.clone(), parts.wallet.clone());
        // A wallet that is not there has no events.
        shared.supervise_panics("the events of the wallet", payments);

        let offers = Offers::new(
            shared.clone(),
            parts.compute.clone(),
            config.serve.clone(),
            config.roles.contains(&Role::Host),
            own_listing(&config, key, parts.wallet.as_ref()),
        );
        offers.tell().await;
        shared.supervise_panics("the watch over engines", offers.attend());
        Ok(Node {
            inner: Arc::new(Inner {
                key,
                roles: config.roles,
                parts,
                actors,
                offers,
                draining: AtomicBool::new(false),
                next: AtomicU64::new(1),
                system: parking_lot::Mutex::new(Some(system)),
            }),
        })
    }
}

/// Prompts of strangers that are rendered, tokenised and compiled at once: half the cores, for the
/// other half serves those who paid, and fewer than there are renderers.
fn counts_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2).min(2))
}

/// Who a relay that asks (NIP-42) is told to be talking to. A node that publishes nothing under its
/// key does not tell it to relays either.
fn relay_reader(roles: &[Role], node: &Arc<SecretSigner>) -> Arc<SecretSigner> {
    match roles.iter().any(|role| *role != Role::Client) {
        true => node.clone(),
        false => Arc::new(SecretSigner::random()),
    }
}

fn dialer_config(config: &NodeConfig) -> network::Config {
    network::Config {
        bootstrap: config.bootstrap.clone(),
        judge: judge_gossip,
        ..network::Config::client(config.network.name())
    }
}

async fn start_dialer(
    config: &NodeConfig,
) -> Result<(NetworkHandle, mpsc::Receiver<NetworkEvent>), NodeError> {
    Ok(Swarm::start(dialer_config(config), Identity::ephemeral()).await?)
}

async fn start_serving(
    config: &NodeConfig,
) -> Result<Option<(NetworkHandle, mpsc::Receiver<NetworkEvent>)>, NodeError> {
    let serves = config.roles.iter().any(|role| *role != Role::Client);
    if !serves || config.listen.is_empty() {
        return Ok(None);
    }
    let mut serving = network::Config::serving(config.network.name(), config.listen.clone());
    serving.external.clone_from(&config.announce);
    serving.bootstrap.clone_from(&config.bootstrap);
    serving.judge = judge_gossip;
    serving.accept.clear();
    if config.roles.contains(&Role::Host) {
        serving.accept.push(Protocol::Order);
        serving.accept.push(Protocol::Blob);
    }
    if config.roles.contains(&Role::Validator) {
        serving.accept.push(Protocol::Audit);
    }
    let identity = Identity::from_secret(config.keys.node).map_err(|_| NodeError::Keys)?;
    Ok(Some(Swarm::start(serving, identity).await?))
}

/// Runs an actix system on a thread of its own and starts the actors in it.
async fn spawn_actors(
    make: impl FnOnce() -> Actors + Send + 'static,
) -> Result<(SystemThread, Actors), NodeError> {
    let (sender, ready) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("actors".to_owned())
        .spawn(move || {
            let runner = actix::System::new();
            runner.block_on(async move {
                let _ = sender.send((actix::System::current(), make()));
            });
            if let Err(error) = runner.run() {
                tracing::error!(%error, "the actors' system failed");
            }
        })
        .map_err(|error| NodeError::Actors {
            reason: error.to_string(),
        })?;
    let (system, actors) = ready.await.map_err(|_| NodeError::Actors {
        reason: "they ended at once".to_owned(),
    })?;
    Ok((SystemThread { system, thread }, actors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::relay::EventSigner;

    #[test]
    fn a_mere_client_shows_relays_no_node_key() {
        let node = Arc::new(SecretSigner::random());
        let host = relay_reader(&[Role::Client, Role::Host], &node);
        assert_eq!(host.author(), node.author());
        let client = relay_reader(&[Role::Client], &node);
        assert_ne!(client.author(), node.author());
    }
}
