//! A whole node: five actors, their ports, and the handle that clients use.
//!
//! Wiring only. What is decided is decided in `protocol`; what is configured is
//! decided by the binary, which fills [`NodeConfig`].

mod offers;

use crate::clock::{Clock, SystemClock, wall_now};
use crate::driver::{Begin, Deliver, Driver, Fatal, Flush, Halt, Look};
use crate::keys::NodeKeys;
use crate::ports::blob::{self, Blobs, Cache, Vocabularies};
use crate::ports::compute::Compute;
use crate::ports::network::{
    self, Identity, Multiaddr, Network as Swarm, NetworkEvent, NetworkHandle, Protocol,
};
use crate::ports::relay::{
    RelayConfig, RelayHandle, RelayPool, RelayStatus, SecretSigner, listing,
};
use crate::ports::storage::Storage;
use crate::ports::wallet::Wallet;
use crate::shell::discovery::{
    DiscoveryPorts, Lists, OwnAddresses, Withdrawal, attend_relays, gossip, judge as judge_gossip,
};
use crate::shell::inference::{CLIENT_QUEUE, Clients, Counts, InferencePorts};
use crate::shell::payment::{PaymentPorts, Reports};
use crate::shell::reputation::ReputationPorts;
use crate::shell::streams::Streams;
use crate::shell::validator::{Judgements, Replays, ValidatorPorts, VerdictNote};
use crate::shell::{
    Addresses, Shared, inference as inference_shell, payment as payment_shell,
    validator as validator_shell,
};
use actix::{Actor, Addr, Arbiter, Recipient};
use futures::FutureExt;
use offers::{NO_LIMITS, Offers};
use protocol::crypto::{Crypto, DerivedOrderKeys, Secp};
use protocol::ids::{EffectId, NodeKey, RequestId};
use protocol::machine::{Machine, Secrets, Table};
use protocol::message::discovery::HostRow;
use protocol::message::inference::{Admission, BuyRequest, BuyerEvent, Served};
use protocol::message::payment::Report;
use protocol::refusal::{Code, Refusal};
use protocol::time::Now;
use protocol::wire::bundle::{Bundle, Verdict};
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{Manifest, Role};
use protocol::{discovery, inference, message, payment, reputation, validator};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// How long an operator's question may take.
const QUESTION: Duration = Duration::from_secs(30);
/// How long running orders may take to end at a shutdown, their settlement included.
const DRAIN: Duration = Duration::from_secs(20);
/// How often a shutdown looks whether orders still run.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long relays may take to take back our listing at a shutdown.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what is still to be written may take at a shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything a node needs to start.
pub struct NodeConfig {
    /// The network that money moves on.
    pub network: Network,
    /// Its secrets.
    pub keys: NodeKeys,
    /// Roles that were chosen.
    pub roles: Vec<Role>,
    /// Where the serving swarm listens (multiaddrs); unused by a pure client.
    pub listen: Vec<Multiaddr>,
    /// Addresses to announce in place of the listening ones.
    pub announce: Vec<Multiaddr>,
    /// Peers to begin with.
    pub bootstrap: Vec<Multiaddr>,
    /// Nostr relays.
    pub relays: Vec<String>,
    /// Models that are sold.
    pub serve: Vec<Served>,
    /// Least invoice.
    pub quantum: protocol::money::Msat,
    /// Coarse hardware bands for the listing.
    pub bands: Vec<String>,
    /// Budgets and credit.
    pub payment: payment::Config,
    /// Timings of orders.
    pub orders: inference::Config,
    /// Sampling rate of checks and who can replay.
    pub validator: validator::Config,
    /// Listings.
    pub discovery: discovery::Config,
    /// Scores.
    pub reputation: reputation::Config,
    /// Where vocabularies of models that are bought from others are kept.
    pub vocabularies: Cache,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A key is unusable.
    #[error("the node's keys are unusable: make new ones with `freehold init`")]
    Keys,
    /// The swarm does not start.
    #[error("the network does not start: {0}")]
    Network(#[from] network::StartError),
    /// The relays cannot be used.
    #[error("the relays cannot be used: {0}")]
    Relay(#[from] crate::ports::relay::RelayError),
    /// Stored records cannot be read.
    #[error(transparent)]
    Storage(#[from] crate::ports::storage::StorageError),
    /// The actors' threads do not start.
    #[error("the actors do not start: {reason}")]
    Actors {
        /// What the system said.
        reason: String,
    },
    /// The node did not answer.
    #[error("the node did not answer in time: look at its log")]
    Silent,
}

type Mailbox<M, P> = Addr<Driver<M, P>>;

struct Actors {
    discovery: Mailbox<discovery::Discovery, DiscoveryPorts>,
    payment: Mailbox<payment::Payment, PaymentPorts>,
    inference: Mailbox<inference::Inference, InferencePorts>,
    validator: Mailbox<validator::Validator, ValidatorPorts>,
    reputation: Mailbox<reputation::Reputation, ReputationPorts>,
}

impl Actors {
    /// Lets all five recover and take their inputs.
    fn begin(&self) {
        // The mailboxes are new, so there is room; an actor that is gone is noticed elsewhere.
        let _ = self.reputation.try_send(Begin);
        let _ = self.payment.try_send(Begin);
        let _ = self.discovery.try_send(Begin);
        let _ = self.validator.try_send(Begin);
        let _ = self.inference.try_send(Begin);
    }
}

/// A running node. Cheap to clone; [`Node::shutdown`] stops it for all.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    key: NodeKey,
    roles: Vec<Role>,
    network: Network,
    shared: Shared,
    orders: Addr<inference_shell::InferenceActor>,
    flushes: Vec<Recipient<Flush>>,
    halts: Vec<Recipient<Halt>>,
    offers: Arc<Offers>,
    withdrawal: Withdrawal,
    draining: AtomicBool,
    compute: Compute,
    vocabularies: Vocabularies,
    wallet: Arc<dyn Wallet>,
    serving: Option<NetworkHandle>,
    dialer: NetworkHandle,
    relays: Option<RelayHandle>,
    clients: Clients,
    reports: Reports,
    lists: Lists,
    judgements: Judgements,
    notes: broadcast::Sender<VerdictNote>,
    next: AtomicU64,
    system: parking_lot::Mutex<Option<SystemThread>>,
}

struct SystemThread {
    system: actix::System,
    thread: std::thread::JoinHandle<()>,
}

/// A purchase under way.
#[derive(Debug)]
pub struct Purchase {
    /// Its number, for [`Node::confirm`], [`Node::stop`] and [`Node::cancel`].
    pub request: RequestId,
    /// What happens, in order. Ends after `Finished` or `Failed`.
    pub events: mpsc::Receiver<BuyerEvent>,
}

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

        let streams = Streams::default();
        let clients = Clients::default();
        let reports = Reports::default();
        let lists = Lists::default();
        let judgements = Judgements::default();
        let withdrawal = Withdrawal::default();
        let (notes, _) = broadcast::channel(256);
        let start = MachineStart {
            keys: &config.keys,
            storage: &shared.storage,
            now: clock.now(),
        };
        let discovery_machine: discovery::Discovery = start.recover(config.discovery.clone())?;
        let payment_machine: payment::Payment = start.recover(config.payment.clone())?;
        let inference_machine: inference::Inference = start.recover(config.orders.clone())?;
        let validator_machine: validator::Validator = start.recover(config.validator.clone())?;
        let reputation_machine: reputation::Reputation =
            start.recover(config.reputation.clone())?;

        let discovery_ports = DiscoveryPorts {
            shared: shared.clone(),
            network: config.network,
            relays: relays.clone(),
            signer: event_signer,
            gossip: serving.clone().unwrap_or_else(|| dialer.clone()),
            dialer: dialer.clone(),
            addresses: OwnAddresses {
                network: config.network,
                announce: config.announce.clone(),
                serving: serving.clone(),
            },
            wallet: wallet.clone(),
            lists: lists.clone(),
            withdrawal: withdrawal.clone(),
        };
        let payment_ports = PaymentPorts {
            shared: shared.clone(),
            wallet: wallet.clone(),
            reports: reports.clone(),
        };
        let vocabularies = Vocabularies::new(
            compute.clone(),
            config.vocabularies.clone(),
            dialer_config(&config),
        );
        let inference_ports = InferencePorts {
            shared: shared.clone(),
            dialer: dialer.clone(),
            dial: dialer_config(&config),
            streams: streams.clone(),
            compute: compute.clone(),
            vocabularies: vocabularies.clone(),
            counts: Counts::new(counts_at_once()),
            clients: clients.clone(),
        };
        let validator_ports = ValidatorPorts {
            shared: shared.clone(),
            dialer: dialer.clone(),
            streams: streams.clone(),
            compute: compute.clone(),
            notes: notes.clone(),
            judgements: judgements.clone(),
            replays: Replays::default(),
        };
        let reputation_ports = ReputationPorts {
            shared: shared.clone(),
        };

        let (system, actors) = spawn_actors(move || Actors {
            discovery: on_arbiter(Driver::new(discovery_machine, discovery_ports, clock)),
            payment: on_arbiter(Driver::new(payment_machine, payment_ports, clock)),
            inference: on_arbiter(Driver::new(inference_machine, inference_ports, clock)),
            validator: on_arbiter(Driver::new(validator_machine, validator_ports, clock)),
            reputation: on_arbiter(Driver::new(reputation_machine, reputation_ports, clock)),
        })
        .await?;
        let addresses = Addresses {
            discovery: actors.discovery.clone().recipient::<Deliver<_>>(),
            payment: actors.payment.clone().recipient::<Deliver<_>>(),
            inference: actors.inference.clone().recipient::<Deliver<_>>(),
            validator: actors.validator.clone().recipient::<Deliver<_>>(),
            reputation: actors.reputation.clone().recipient::<Deliver<_>>(),
        };
        shared.connect(addresses);
        // Only now may they speak: what a recovered machine tells its siblings must arrive.
        actors.begin();
        let orders = actors.inference.clone();
        // Those whose words make others write come first.
        let flushes = vec![
            actors.inference.clone().recipient::<Flush>(),
            actors.validator.clone().recipient::<Flush>(),
            actors.discovery.clone().recipient::<Flush>(),
            actors.payment.clone().recipient::<Flush>(),
            actors.reputation.clone().recipient::<Flush>(),
        ];
        let halts = vec![
            actors.inference.recipient::<Halt>(),
            actors.payment.recipient::<Halt>(),
            actors.discovery.recipient::<Halt>(),
            actors.validator.recipient::<Halt>(),
            actors.reputation.recipient::<Halt>(),
        ];

        let listed = config
            .serve
            .iter()
            .map(|model| model.offer.digest)
            .collect();
        let blobs = Blobs::new(compute.clone(), listed, blob::Bounds::default());
        let outgoing = "the events of outgoing connections";
        attend_swarm(
            &shared,
            outgoing,
            streams.clone(),
            blobs.clone(),
            dialer_events,
        );
        if let Some(events) = serving_events {
            attend_swarm(
                &shared,
                "the events of incoming connections",
                streams,
                blobs,
                events,
            );
        }
        if let Some(events) = relay_events {
            attend_relays(&shared, config.network, relays.clone(), events);
        }
        let payments = payment_shell::follow(shared.clone(), wallet.clone());
        // A wallet that is not there has no events.
        shared.supervise_panics("the events of the wallet", payments);

        let offers = Offers::new(
            shared.clone(),
            compute.clone(),
            config.serve.clone(),
            config.roles.contains(&Role::Host),
            own_listing(&config, key, wallet.as_ref()),
        );
        let node = Node {
            inner: Arc::new(Inner {
                key,
                roles: config.roles.clone(),
                network: config.network,
                shared,
                orders,
                flushes,
                halts,
                offers,
                withdrawal,
                draining: AtomicBool::new(false),
                compute,
                vocabularies,
                wallet,
                serving,
                dialer,
                relays,
                clients,
                reports,
                lists,
                judgements,
                notes,
                next: AtomicU64::new(1),
                system: parking_lot::Mutex::new(Some(system)),
            }),
        };
        let offers = &node.inner.offers;
        offers.tell().await;
        node.inner
            .shared
            .supervise_panics("the watch over engines", offers.attend());
        Ok(node)
    }

    /// The node key.
    pub fn key(&self) -> NodeKey {
        self.inner.key
    }

    /// The network that money moves on.
    pub fn network(&self) -> Network {
        self.inner.network
    }

    /// Roles enabled.
    pub fn roles(&self) -> &[Role] {
        &self.inner.roles
    }

    /// Where it can be reached; empty for a pure client.
    pub fn addresses(&self) -> Vec<String> {
        let serving = self.inner.serving.iter();
        let listening = serving.flat_map(NetworkHandle::local_addresses);
        listening.map(|address| address.to_string()).collect()
    }

    /// The wallet.
    pub fn wallet(&self) -> &Arc<dyn Wallet> {
        &self.inner.wallet
    }

    /// The engine.
    pub fn compute(&self) -> &Compute {
        &self.inner.compute
    }

    /// The vocabularies of models that are bought from others.
    pub fn vocabularies(&self) -> &Vocabularies {
        &self.inner.vocabularies
    }

    /// The machines' records, for reading.
    pub fn storage(&self) -> &Storage {
        &self.inner.shared.storage
    }

    /// How the relays fare.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.inner
            .relays
            .iter()
            .flat_map(RelayHandle::relays)
            .collect()
    }

    /// Tells when the node must stop, and why.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.inner.shared.fatal()
    }

    /// Verdicts from now on: ours and those of validators that were asked.
    pub fn verdicts(&self) -> broadcast::Receiver<VerdictNote> {
        self.inner.notes.subscribe()
    }

    fn fresh(&self) -> u64 {
        self.inner.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Buys. `request.request` is filled in.
    pub async fn buy(&self, mut request: BuyRequest) -> Purchase {
        let id = RequestId(self.fresh());
        let (sender, events) = mpsc::channel(CLIENT_QUEUE);
        if self.inner.draining.load(Ordering::Acquire) {
            let refusal = Refusal::new(Code::ShuttingDown, "this node is shutting down");
            // The queue is empty: there is room.
            let _ = sender.try_send(BuyerEvent::Failed(refusal));
            return Purchase {
                request: id,
                events,
            };
        }
        self.inner.clients.lock().insert(id, sender);
        request.request = id;
        self.inner
            .shared
            .to_inference(message::inference::Input::Buy(Box::new(request)))
            .await;
        Purchase {
            request: id,
            events,
        }
    }

    /// Agrees to the choice that was shown.
    pub async fn confirm(&self, request: RequestId) {
        self.inner
            .shared
            .to_inference(message::inference::Input::Confirm(request))
            .await;
    }

    /// Wants no more output; what was delivered is paid.
    pub async fn stop(&self, request: RequestId) {
        self.inner
            .shared
            .to_inference(message::inference::Input::Stop(request))
            .await;
    }

    /// Ends a purchase at once.
    pub async fn cancel(&self, request: RequestId) {
        self.inner
            .shared
            .to_inference(message::inference::Input::Cancel(request))
            .await;
    }

    /// Whether new orders are taken.
    pub async fn admit(&self, admission: Admission) {
        self.inner
            .shared
            .to_inference(message::inference::Input::Admit(admission))
            .await;
    }

    /// The hosts known, with the reasons for their rank.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, NodeError> {
        let id = EffectId(self.fresh());
        let (sender, answer) = oneshot::channel();
        self.inner.lists.lock().insert(id, sender);
        let question = message::discovery::Input::List { id };
        let asked = self.inner.shared.to_discovery(question);
        let answer = answered(QUESTION, asked, answer).await;
        self.inner.lists.lock().remove(&id);
        answer.ok_or(NodeError::Silent)
    }

    /// The books.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn report(&self) -> Result<Report, NodeError> {
        let id = EffectId(self.fresh());
        let (sender, answer) = oneshot::channel();
        self.inner.reports.lock().insert(id, sender);
        let question = message::payment::Input::Report { id };
        let asked = self.inner.shared.to_payment(question);
        let answer = answered(QUESTION, asked, answer).await;
        self.inner.reports.lock().remove(&id);
        answer.ok_or(NodeError::Silent)
    }

    /// The books with every payment ever: [`Node::report`] has the newest some thousands. It
    /// reads the whole ledger from disk.
    ///
    /// # Errors
    /// When the node does not answer in time, or storage cannot be read.
    pub async fn whole_report(&self) -> Result<Report, NodeError> {
        // The disk first: what the machine tells afterwards is newer.
        let storage = self.inner.shared.storage.clone();
        let stored = tokio::task::spawn_blocking(move || storage.load(&[Table::Ledger]));
        let stored = stored.await.map_err(|_| NodeError::Silent)??;
        let report = self.report().await?;
        Ok(payment::ledger::whole(report, &stored))
    }

    /// Judges a bundle by recomputation.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn judge(&self, bundle: Bundle) -> Result<Verdict, NodeError> {
        let id = EffectId(self.fresh());
        let (sender, answer) = oneshot::channel();
        self.inner.judgements.lock().insert(id, sender);
        let input = message::validator::Input::Judge {
            id,
            bundle: Box::new(bundle),
        };
        let asked = self.inner.shared.to_validator(input);
        let answer = answered(QUESTION * 10, asked, answer).await;
        self.inner.judgements.lock().remove(&id);
        answer.ok_or(NodeError::Silent)
    }

    /// Orders that run or wait, on both sides, their settlement included.
    pub async fn active_orders(&self) -> usize {
        let look = Look(inference::Inference::active);
        // An actor that is gone has none.
        self.inner.orders.send(look).await.unwrap_or_default()
    }

    /// Takes no new orders and purchases, withdraws the listing, lets running orders end and be
    /// settled, and stops everything, each within a bound.
    pub async fn shutdown(&self) {
        let Some(system) = self.inner.system.lock().take() else {
            return;
        };
        self.inner.draining.store(true, Ordering::Release);
        let told = async {
            self.admit(Admission::Draining).await;
            self.inner.offers.withdraw().await;
        };
        // A disk that takes nothing holds the actors up.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, told).await;
        let drained = async {
            let mut wait = tokio::time::interval(DRAIN_POLL_INTERVAL);
            while !self.inner.clients.lock().is_empty()
                || self.inner.compute.is_busy()
                || self.active_orders().await > 0
            {
                wait.tick().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, drained).await;
        self.inner.compute.cancel_all();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.flush()).await;
        let withdrawn = self.inner.withdrawal.lock().take();
        if let Some(withdrawn) = withdrawn {
            // Relays that do not answer learn from the listing's expiry.
            let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, withdrawn).await;
        }
        self.inner.shared.set_stopping();
        for halt in &self.inner.halts {
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, halt.send(Halt)).await;
        }
        if let Some(relays) = &self.inner.relays {
            relays.shutdown().await;
        }
        if let Some(serving) = &self.inner.serving {
            serving.shutdown().await;
        }
        self.inner.dialer.shutdown().await;
        // A wallet whose disk is full may never stop.
        let _ = tokio::time::timeout(DRAIN, self.inner.wallet.stop()).await;
        let stopped = tokio::task::spawn_blocking(move || {
            system.system.stop();
            let _ = system.thread.join();
        });
        let _ = tokio::time::timeout(Duration::from_secs(5), stopped).await;
        // What was told last is on disk before the process may end.
        let _ = self.inner.shared.storage.commit(Vec::new()).await;
    }

    /// Waits until what the machines decided so far is carried out. Twice, for what one's effects
    /// made another decide.
    async fn flush(&self) {
        for actor in self.inner.flushes.iter().chain(&self.inner.flushes) {
            let (done, flushed) = oneshot::channel();
            if actor.send(Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        }
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

/// Asks, and waits for the answer, within a bound for both.
async fn answered<T>(
    limit: Duration,
    asked: impl Future<Output = ()>,
    answer: oneshot::Receiver<T>,
) -> Option<T> {
    let both = async {
        asked.await;
        answer.await.ok()
    };
    tokio::time::timeout(limit, both).await.ok().flatten()
}

/// Whether one of these roles is found by listings.
fn lists(roles: &[Role]) -> bool {
    let listed = |role: &Role| matches!(role, Role::Host | Role::Validator);
    roles.iter().any(listed)
}

/// Why a node that should be listed is not, and what to do about it.
fn unlisted(roles: &[Role], wallet: &dyn Wallet) -> Option<String> {
    if !lists(roles) || wallet.signer().is_some() {
        return None;
    }
    let why = match wallet.opened().now_or_never() {
        Some(Err(error)) => error.to_string(),
        _ => "its wallet signs nothing".to_owned(),
    };
    Some(format!(
        "this node is not listed, so nobody finds it: {why}. A listing is signed by the wallet that \
         is paid: name a chain source in [chain] of freehold.toml and start again, or remove `host` \
         and `validator` from `roles`"
    ))
}

/// The listing of this node but for its models; none where it has no role that is listed, or no
/// wallet.
fn own_listing(config: &NodeConfig, key: NodeKey, wallet: &dyn Wallet) -> Option<Manifest> {
    if let Some(why) = unlisted(&config.roles, wallet) {
        tracing::warn!("{why}");
    }
    let signer = wallet.signer().filter(|_| lists(&config.roles))?;
    let message = protocol::wire::manifest::lightning_statement(&key, config.network);
    Some(Manifest {
        network: config.network,
        node: key,
        lightning: wallet.node_id(),
        lightning_proof: signer.sign_message(message.as_bytes()),
        roles: config.roles.clone(),
        software: concat!("freehold/", env!("CARGO_PKG_VERSION")).to_owned(),
        bands: config.bands.clone(),
        // A validator lists the models it can recompute; only hosts take orders for them.
        models: Vec::new(),
        limits: NO_LIMITS,
        payment_modes: config.orders.modes.clone(),
        quantum: config.quantum,
        keep_days: config.orders.keep.days,
        // Those of each self-test.
        addresses: Vec::new(),
        created: wall_now(),
        expires: wall_now(),
        extensions: Vec::new(),
    })
}

/// What the machines of a node have in common at a start.
struct MachineStart<'a> {
    keys: &'a NodeKeys,
    storage: &'a Storage,
    now: Now,
}

impl MachineStart<'_> {
    /// A machine as it comes out of its records. One that knows half of its past must not act
    /// on it.
    fn recover<M: Machine>(&self, config: M::Config) -> Result<M, NodeError> {
        let secrets = Secrets {
            node: Box::new(Secp::from_secret(&self.keys.node).ok_or(NodeError::Keys)?),
            orders: Box::new(DerivedOrderKeys::new(self.keys.order)),
            seed: seed(),
        };
        let mut unread = None;
        let records = self.storage.records(M::TABLES, &mut unread);
        let machine = M::recover(config, secrets, records, self.now);
        unread.map_or(Ok(machine), |error| Err(error.into()))
    }
}

/// A seed of this run alone: nonces of two runs must never be the same.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut seed);
    seed
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

/// Hears what a swarm tells, for as long as the node lives.
pub(crate) fn attend_swarm(
    shared: &Shared,
    part: &'static str,
    streams: Streams,
    blobs: Blobs,
    events: mpsc::Receiver<NetworkEvent>,
) {
    shared.supervise(part, follow_swarm(shared.clone(), streams, blobs, events));
}

async fn follow_swarm(
    shared: Shared,
    streams: Streams,
    blobs: Blobs,
    mut events: mpsc::Receiver<NetworkEvent>,
) {
    while let Some(event) = events.recv().await {
        gossip(&shared, &event);
        match event {
            NetworkEvent::Stream(stream) => match stream.protocol {
                Protocol::Order => {
                    tokio::spawn(inference_shell::accept(
                        shared.clone(),
                        streams.clone(),
                        stream,
                    ));
                }
                Protocol::Audit => {
                    tokio::spawn(validator_shell::accept(
                        shared.clone(),
                        streams.clone(),
                        stream,
                        validator_shell::FIRST,
                    ));
                }
                Protocol::Blob => drop(tokio::spawn(blobs.clone().serve(stream))),
                Protocol::Quote => {}
            },
            NetworkEvent::Excess(stream) => match stream.protocol {
                Protocol::Order => drop(tokio::spawn(inference_shell::turn_away(stream))),
                Protocol::Audit => drop(tokio::spawn(validator_shell::turn_away(stream))),
                Protocol::Blob => drop(tokio::spawn(blob::turn_away(stream))),
                Protocol::Quote => {}
            },
            // What a connection does is no deed of a node's key: nothing of it is signed, and whoever
            // passes gossip on could make it. The network port holds the peer to its bounds.
            NetworkEvent::Misbehaved { peer, kind, .. } => {
                tracing::warn!(%peer, ?kind, "a peer misbehaved")
            }
            NetworkEvent::ListenerFailed { reason } => {
                tracing::error!(%reason, "a listening socket failed")
            }
            _ => {}
        }
    }
}

/// Starts one actor on an arbiter (thread) of its own.
fn on_arbiter<A>(actor: A) -> Addr<A>
where
    A: Actor<Context = actix::Context<A>> + Send,
{
    A::start_in_arbiter(&Arbiter::new().handle(), move |_| actor)
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
    use crate::ports::wallet::{self, absent::AbsentWallet};

    #[test]
    fn a_mere_client_shows_relays_no_node_key() {
        let node = Arc::new(SecretSigner::random());
        let host = relay_reader(&[Role::Client, Role::Host], &node);
        assert_eq!(host.author(), node.author());
        let client = relay_reader(&[Role::Client], &node);
        assert_ne!(client.author(), node.author());
    }

    #[test]
    fn a_host_that_cannot_be_listed_is_told_what_to_do() {
        let wallet = AbsentWallet::new(&[7; 64], wallet::Network::Regtest, "no chain is named");
        let wallet = wallet.unwrap();
        for role in [Role::Host, Role::Validator] {
            let why = unlisted(&[Role::Client, role], &wallet).unwrap();
            assert!(why.contains("no chain is named"), "{why}");
            assert!(why.contains("[chain] of freehold.toml"), "{why}");
        }
        assert_eq!(unlisted(&[Role::Client], &wallet), None);
    }
}
