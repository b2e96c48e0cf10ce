//! Builds one swarm: its transports and behaviours, from config and bounds.
//!
//! No policy and no loop; `task` drives what is built here.

use super::bounds::*;
use super::muxer::Yamux;
use super::revocable::{Latest, Revocable};
use super::scope::GlobalOnly;
use super::{Config, Identity, PeerId, Role, StartError, admission, streams};
use futures::future::Either;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OptionalTransport};
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{
    self, AllowAllSubscriptionFilter, IdentityTransform, MaxCountSubscriptionFilter,
    MessageAuthenticity, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
};
use libp2p::kad::StoreInserts;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{StreamProtocol, Transport, dns, identify, kad, noise, ping, quic, tcp};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::{mpsc, watch};

/// A transport that is already encrypted and multiplexed (an onion transport,
/// say), to stand beside TCP and QUIC.
pub type ReadyTransport = Boxed<(PeerId, StreamMuxerBox)>;

type Gossip =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<AllowAllSubscriptionFilter>>;

/// Everything that happens on the connections of one swarm.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First: what these deny, the others never see.
    pub limits: connection_limits::Behaviour,
    pub admission: admission::Behaviour,
    pub streams: streams::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub kad: kad::Behaviour<MemoryStore>,
    pub gossip: Gossip,
}

/// Builds the swarm. `tasks` runs its connections.
pub(super) fn build(
    config: &Config,
    identity: &Identity,
    extra: Option<ReadyTransport>,
    tasks: Tasks,
) -> Result<Swarm<Behaviour>, StartError> {
    let latest = Latest::default();
    let transport = Revocable::new(transport(config, identity, extra)?, latest.clone()).boxed();
    let settings = libp2p::swarm::Config::with_executor(move |task| tasks.spawn(task))
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS)
        .with_idle_connection_timeout(IDLE_CONNECTION);
    let behaviour = behaviour(config, identity, latest)?;
    Ok(Swarm::new(
        transport,
        behaviour,
        identity.peer_id(),
        settings,
    ))
}

/// Runs the connections' tasks and can end all of them.
#[derive(Clone)]
pub(super) struct Tasks {
    stop: watch::Receiver<bool>,
    /// Closed once every task has ended.
    alive: mpsc::Sender<()>,
}

impl Tasks {
    /// The runner, what stops its tasks, and what ends with the last of them.
    pub(super) fn new() -> (Self, watch::Sender<bool>, mpsc::Receiver<()>) {
        let (stopper, stop) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        (Self { stop, alive }, stopper, ended)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let Self { mut stop, alive } = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                // Also when the sender is gone.
                _ = stop.wait_for(|stop| *stop) => {}
            }
            drop(alive);
        });
    }
}

fn transport(
    config: &Config,
    identity: &Identity,
    extra: Option<ReadyTransport>,
) -> Result<ReadyTransport, StartError> {
    let ip = config
        .ip
        .then(|| ip_transport(config, identity))
        .transpose()?;
    let both = optional(ip).or_transport(optional(extra));
    Ok(both.map(|either, _| either.into_inner()).boxed())
}

fn optional(transport: Option<ReadyTransport>) -> OptionalTransport<ReadyTransport> {
    transport.map_or_else(OptionalTransport::none, OptionalTransport::some)
}

fn ip_transport(config: &Config, identity: &Identity) -> Result<ReadyTransport, StartError> {
    // A machine may have no resolver configuration; then names do not resolve. What a name
    // resolves to is dialled by the transport below it, which checks it.
    match dns::tokio::Transport::system(sockets(config, identity)?) {
        Ok(resolving) => Ok(resolving.boxed()),
        Err(error) => {
            tracing::warn!(%error, "no resolver: addresses with host names cannot be dialled");
            sockets(config, identity)
        }
    }
}

/// TCP (noise, yamux) and QUIC.
fn sockets(config: &Config, identity: &Identity) -> Result<ReadyTransport, StartError> {
    let keypair = identity.keypair();
    let noise = noise::Config::new(keypair).map_err(|e| StartError::Config(e.to_string()))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(Yamux::new())
        .timeout(config.timing.connect);
    let mut settings = quic::Config::new(keypair);
    settings.handshake_timeout = config.timing.connect;
    settings.max_concurrent_stream_limit = MUXED_STREAMS as u32;
    settings.max_stream_data = QUIC_STREAM_WINDOW;
    settings.max_connection_data = QUIC_CONNECTION_WINDOW;
    let both =
        quic::tokio::Transport::new(settings)
            .or_transport(tcp)
            .map(|either, _| match either {
                Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
                Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            });
    Ok(match config.dial_local {
        true => both.boxed(),
        false => GlobalOnly::new(both, &config.bootstrap).boxed(),
    })
}

fn behaviour(
    config: &Config,
    identity: &Identity,
    latest: Latest,
) -> Result<Behaviour, StartError> {
    let bounds = &config.bounds;
    let one_way = bounds.connections.min(CONNECTIONS_ONE_WAY);
    // Where others dial in, dials of our own have what is left.
    let outgoing = match config.role {
        Role::Client => one_way,
        Role::Serving => (bounds.connections - one_way).max(1),
    };
    let orders = streams::Orders::default();
    let limits = ConnectionLimits::default()
        // Those that gave way are counted here for a moment more.
        .with_max_pending_incoming(Some(2 * PENDING_INBOUND))
        .with_max_pending_outgoing(Some(bounds.pending_dials))
        .with_max_established_outgoing(Some(outgoing))
        .with_max_established_per_peer(Some(bounds.connections_per_peer));
    let public = identity.keypair().public();
    let about = identify::Config::new(format!("/freehold/{}/1", config.network), public)
        .with_agent_version(concat!("freehold/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_hide_listen_addrs(config.role == Role::Client);
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(PING_TIMEOUT);
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        admission: admission::Behaviour::new(
            admission::Limits {
                pending: PENDING_INBOUND,
                pending_per_origin: bounds.pending_inbound_per_origin,
                established: one_way,
                established_per_origin: bounds.connections_per_origin,
            },
            orders.clone(),
            latest,
        ),
        streams: streams::Behaviour::new(&config.accept, bounds, orders),
        identify: identify::Behaviour::new(about),
        ping: ping::Behaviour::new(ping),
        kad: table(config, identity.peer_id())?,
        gossip: gossip(config, identity)?,
    })
}

/// The name of the lookup protocol; networks do not see each other's tables.
pub(super) fn table_protocol(config: &Config) -> Result<StreamProtocol, StartError> {
    StreamProtocol::try_from_owned(format!("/freehold/{}/kad/1", config.network))
        .map_err(|e| StartError::Config(e.to_string()))
}

fn table(config: &Config, me: PeerId) -> Result<kad::Behaviour<MemoryStore>, StartError> {
    let store = MemoryStore::with_config(
        me,
        MemoryStoreConfig {
            // Provider records only: nobody may leave values here.
            max_records: 0,
            max_value_bytes: 0,
            max_provided_keys: STORED_KEYS,
            ..MemoryStoreConfig::default()
        },
    );
    let mut settings = kad::Config::new(table_protocol(config)?);
    settings
        .set_query_timeout(LOOKUP_TIMEOUT)
        .set_provider_publication_interval(Some(PROVIDER_INTERVAL))
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_publication_interval(None)
        .set_replication_interval(None)
        // What others leave here passes through the task, which keeps none unless told to.
        .set_record_filtering(StoreInserts::FilterBoth);
    let mut table = kad::Behaviour::with_config(me, store, settings);
    // Set, not guessed: without it a node waits for a confirmed public address.
    table.set_mode(Some(match config.role {
        Role::Serving => kad::Mode::Server,
        Role::Client => kad::Mode::Client,
    }));
    Ok(table)
}

fn gossip(config: &Config, identity: &Identity) -> Result<Gossip, StartError> {
    let settings = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/freehold/{}/gossip", config.network))
        .validation_mode(ValidationMode::Strict)
        // Nothing is passed on before it was judged: see `overlay`.
        .validate_messages()
        .max_transmit_size(GOSSIP_BYTES)
        .build()
        .map_err(|e| StartError::Config(e.to_string()))?;
    let filter = MaxCountSubscriptionFilter {
        filter: AllowAllSubscriptionFilter {},
        max_subscribed_topics: TOPICS_PER_PEER,
        max_subscriptions_per_request: TOPICS_PER_PEER,
    };
    let author = MessageAuthenticity::Signed(identity.keypair().clone());
    let mut gossip = Gossip::new_with_subscription_filter(author, settings, filter)
        .map_err(|e| StartError::Config(e.to_owned()))?;
    gossip
        .with_peer_score(peer_score(config), PeerScoreThresholds::default())
        .map_err(StartError::Config)?;
    Ok(gossip)
}

/// How neighbours are judged: those who pass on what is none, or break the mesh's own rules, are
/// heard less and then not at all. Silence costs nothing: hosts send a pulse a minute.
fn peer_score(config: &Config) -> PeerScoreParams {
    let defaults = PeerScoreParams::default();
    PeerScoreParams {
        // Neighbours of one address beyond this many. On a network for tests all have one.
        ip_colocation_factor_threshold: f64::from(config.bounds.connections_per_origin),
        ip_colocation_factor_weight: match config.dial_local {
            true => 0.0,
            false => defaults.ip_colocation_factor_weight,
        },
        // Points for what a topic has come to know of a neighbour never outweigh a fault.
        topic_score_cap: 10.0,
        app_specific_weight: 0.0,
        ..defaults
    }
}

/// The score of neighbours on one topic.
pub(super) fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.99,
        first_message_deliveries_cap: 100.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Squared: three are forgiven, nine within some minutes are not (-80 is the grey list).
        invalid_message_deliveries_weight: -1.0,
        invalid_message_deliveries_decay: 0.99,
        ..TopicScoreParams::default()
    }
}
