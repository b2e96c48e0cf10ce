//! The shells with ears in place of the machines.

use super::discovery::{OwnAddresses, follow_relays, judge};
use super::inference::{Counts, InferencePorts};
use super::*;
use crate::node::streams::{Acceptors, attend_swarm};
use crate::ports::blob::{Blobs, Vocabularies};
use crate::ports::compute::Output;
use crate::ports::network::{self, GossipMessage, Identity, Judgement, NetworkEvent};
use crate::ports::relay::listing::ListingDeletion;
use crate::ports::relay::{EventSigner, RelayEvent, SecretSigner};
use actix::{Actor, Context, Handler};
use protocol::ids::{ModelDigest, OrderId};
use protocol::message::discovery::Pulse;
use protocol::wire::envelope::Network;
use protocol::{codec, message};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Nothing here takes as long; a hang fails the test instead of stopping it.
const BOUND: Duration = Duration::from_secs(30);

/// Hears what is told to Discovery, Payment and Inference.
struct Ear {
    discovery: mpsc::Sender<message::discovery::Input>,
    payment: mpsc::Sender<message::payment::Input>,
    inference: mpsc::Sender<message::inference::Input>,
}

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Ear {
    fn hear(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Discovery(input) => self.discovery.try_send(input).unwrap(),
            Delivery::Payment(input) => self.payment.try_send(input).unwrap(),
            Delivery::Inference(input) => self.inference.try_send(input).unwrap(),
            _ => {}
        }
    }
}

macro_rules! ears {
    ($(
        $(#[$doc:meta])*
        $machine:ident: $module:ident hears $heard:tt
    )*) => {
        $(impl Handler<Deliver<message::$module::Input>> for Ear {
            type Result = ();
            fn handle(&mut self, message: Deliver<message::$module::Input>, _: &mut Context<Self>) {
                self.hear(message.input.into());
            }
        })*

        fn addresses(ear: actix::Addr<Ear>) -> Addresses {
            Addresses {
                $($module: ear.clone().recipient(),)*
            }
        }
    };
}

protocol::machines!(ears);

/// Inputs that an ear takes before the test looks at them.
const HEARD: usize = 64;

/// What a test holds.
pub(crate) struct Heard {
    pub(crate) shared: Shared,
    pub(crate) discovery: mpsc::Receiver<message::discovery::Input>,
    pub(crate) payment: mpsc::Receiver<message::payment::Input>,
    pub(crate) inference: mpsc::Receiver<message::inference::Input>,
    _dir: tempfile::TempDir,
}

/// Runs `test` in an actix system with an ear for each machine.
pub(crate) fn with<F: Future<Output = ()>>(test: impl FnOnce(Heard) -> F) {
    actix::System::new().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let shared = Shared::new(Handle::current(), storage);
        let (to_discovery, discovery) = mpsc::channel(HEARD);
        let (to_payment, payment) = mpsc::channel(HEARD);
        let (to_inference, inference) = mpsc::channel(HEARD);
        let ear = Ear {
            discovery: to_discovery,
            payment: to_payment,
            inference: to_inference,
        }
        .start();
        shared.connect(addresses(ear));
        let heard = Heard {
            shared,
            discovery,
            payment,
            inference,
            _dir: dir,
        };
        tokio::time::timeout(BOUND, test(heard)).await.unwrap();
    });
}

#[test]
fn a_prompt_whose_order_ended_waits_no_longer_to_be_counted() {
    use protocol::ids::EffectId;
    use protocol::refusal::{Code, Refusal};
    with(|mut heard| async move {
        let counts = super::inference::Counts::new(1);
        let ours = protocol::ids::AddressTag([1; 16]);
        let (begun, mut begins) = mpsc::channel(1);
        let (go, goes) = std::sync::mpsc::sync_channel::<()>(1);
        let refused = || Err(Refusal::new(Code::BadOrder, "counted"));
        let slow = move || {
            begun.try_send(()).unwrap();
            let _ = goes.recv();
            refused()
        };
        tokio::spawn(counts.count(heard.shared.clone(), EffectId(1), ours, false, slow));
        begins.recv().await.unwrap();
        // A hundred prompts wait behind it, and their orders end: nothing holds them.
        let prompt = std::sync::Arc::new(vec![0u8; 1 << 20]);
        let mut tasks = Vec::new();
        for id in 2..102 {
            let held = prompt.clone();
            let count = move || {
                drop(held);
                refused()
            };
            let task = counts.count(heard.shared.clone(), EffectId(id), ours, false, count);
            tasks.push(tokio::spawn(task));
        }
        for id in 2..101 {
            counts.cancel(EffectId(id));
        }
        for task in tasks.drain(..99) {
            task.await.unwrap();
        }
        assert_eq!(std::sync::Arc::strong_count(&prompt), 2);
        // The two others are counted in turn.
        go.send(()).unwrap();
        for expected in [1, 101] {
            let told = heard.inference.recv().await.unwrap();
            let message::inference::Input::Counted { id, .. } = told else {
                panic!("{told:?}");
            };
            assert_eq!(id, EffectId(expected));
        }
    });
}

#[test]
fn an_engine_that_ends_without_a_word_has_failed() {
    with(|mut heard| async move {
        let order = OrderId([1; 16]);
        let (out, output) = mpsc::channel::<Output>(2);
        drop(out);
        super::inference::forward(heard.shared.clone(), order, output).await;
        let told = heard.inference.recv().await.unwrap();
        let message::inference::Input::EngineFailed { order: of, .. } = told else {
            panic!("{told:?}");
        };
        assert_eq!(of, order);
        // One that said so itself is not reported twice.
        let (out, output) = mpsc::channel(2);
        out.send(Output::Failed("own words".to_owned()))
            .await
            .unwrap();
        drop(out);
        super::inference::forward(heard.shared.clone(), order, output).await;
        assert!(heard.inference.recv().await.is_some());
        assert!(heard.inference.try_recv().is_err());
    });
}

#[test]
fn a_part_that_ends_stops_the_node_unless_the_node_is_being_stopped() {
    with(|heard| async move {
        let shared = heard.shared;
        let mut fatal = shared.fatal();
        shared.supervise_panics("may end", async {});
        shared.supervise_panics("panics", async { panic!("planted") });
        let stopped = fatal.wait_for(Option::is_some).await.unwrap().clone();
        assert!(stopped.unwrap().what.ends_with("panics"));
    });
    with(|heard| async move {
        let mut fatal = heard.shared.fatal();
        heard.shared.supervise("must last", async {});
        let stopped = fatal.wait_for(Option::is_some).await.unwrap().clone();
        assert!(stopped.unwrap().what.ends_with("must last"));
    });
    with(|heard| async move {
        heard.shared.set_stopping();
        let (ended, end) = oneshot::channel::<()>();
        heard
            .shared
            .supervise("may end now", async move { drop(ended) });
        let _ = end.await;
        tokio::task::yield_now().await;
        assert!(heard.shared.fatal().borrow().is_none());
    });
}

#[test]
fn a_withdrawal_on_one_network_leaves_the_listing_on_another() {
    with(|mut heard| async move {
        let signer = SecretSigner::random();
        let (events, received) = mpsc::channel(8);
        let following = follow_relays(heard.shared.clone(), Network::Regtest, None, received);
        for (network, at) in [(Network::Signet, 1_000), (Network::Regtest, 2_000)] {
            let at = protocol::time::WallTime(at);
            let deletion = ListingDeletion::build(network.name(), at, &signer).unwrap();
            let event = RelayEvent::Event {
                url: "ws://relay".into(),
                subscription: "withdrawals".into(),
                event: Box::new(deletion),
            };
            events.send(event).await.unwrap();
        }
        drop(events);
        following.await;
        let told = heard.discovery.recv().await.unwrap();
        let expected = message::discovery::Input::ListingDeleted {
            author: signer.author(),
            at: protocol::time::WallTime(2_000),
        };
        assert_eq!(told, expected);
        assert!(heard.discovery.try_recv().is_err());
    });
}

#[test]
fn a_pulse_is_its_hosts_own_fresh_and_numbered_by_its_time() {
    let host = Identity::from_secret([7; 32]).unwrap().node_key().unwrap();
    let model = ModelDigest([9; 32]);
    let topic = format!("/freehold/regtest/pulse/{model}");
    let at = |time| {
        codec::encode(&Pulse {
            host,
            model,
            running: 1,
            queued: 0,
            slots: 4,
            time,
        })
    };
    let now = crate::clock::wall_now();
    let judged = |node, topic: &str, data: &[u8]| judge(GossipMessage { topic, node, data });
    assert_eq!(
        judged(Some(host), &topic, &at(now)),
        Judgement::Numbered(now.0)
    );
    let old = protocol::time::WallTime(now.0 - 600_000);
    assert_eq!(judged(Some(host), &topic, &at(old)), Judgement::Stale);
    assert_eq!(
        judged(Some(host), &topic, &at(now.after_ms(600_000))),
        Judgement::Stale
    );
    let other = Identity::from_secret([8; 32]).unwrap().node_key();
    for (node, topic, data) in [
        (other, topic.as_str(), at(now)),
        (None, &topic, at(now)),
        (Some(host), "/freehold/regtest/pulse/another", at(now)),
        (Some(host), "news", at(now)),
        (Some(host), &topic, vec![1, 2, 3]),
    ] {
        assert_eq!(judged(node, topic, &data), Judgement::Malformed);
    }
}

#[test]
fn a_listing_names_no_address_of_a_private_network_unless_all_nodes_are_near() {
    let addresses = [
        "/ip4/127.0.0.1/tcp/9",
        "/ip4/192.168.1.5/udp/9/quic-v1",
        "/ip4/8.8.8.8/tcp/9",
    ]
    .map(|text| text.parse().unwrap());
    let own = |network| OwnAddresses {
        network,
        announce: addresses.to_vec(),
        serving: None,
    };
    assert_eq!(own(Network::Signet).now(), ["/ip4/8.8.8.8/tcp/9"]);
    assert_eq!(own(Network::Regtest).now().len(), 3);
}

#[tokio::test]
async fn a_listing_names_the_addresses_that_the_swarm_has_now() {
    let identity = Identity::from_secret([7; 32]).unwrap();
    let at = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let config = network::Config::serving("regtest", at);
    let (serving, _events) = network::Network::start(config, identity).await.unwrap();
    let mut own = OwnAddresses {
        network: Network::Regtest,
        announce: Vec::new(),
        serving: Some(serving.clone()),
    };
    let one: Vec<String> = own.now();
    assert_eq!(one.len(), 1);
    // Of its own interface it may name none, as after a start without one.
    own.serving = None;
    assert_eq!(own.now(), Vec::<String>::new());
    own.announce = vec!["/ip4/192.0.2.1/tcp/9".parse().unwrap()];
    own.serving = Some(serving.clone());
    assert_eq!(
        own.now(),
        [format!("/ip4/192.0.2.1/tcp/9/p2p/{}", serving.peer_id())]
    );
    serving.shutdown().await;
}

#[test]
fn private_orders_come_from_peers_of_their_own_and_the_others_from_one() {
    with(|heard| async move {
        let identity = Identity::from_secret([7; 32]).unwrap();
        let at = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let config = network::Config::serving("regtest", at);
        let (host, mut events) = network::Network::start(config, identity).await.unwrap();
        let dial = network::Config::client("regtest");
        let started = network::Network::start(dial.clone(), Identity::ephemeral());
        let (dialer, _dialled) = started.await.unwrap();
        let mut ports = InferencePorts {
            shared: heard.shared.clone(),
            dialer: dialer.clone(),
            dial,
            streams: Default::default(),
            compute: Default::default(),
            vocabularies: Vocabularies::new(
                Default::default(),
                Default::default(),
                network::Config::client("regtest"),
            ),
            counts: Counts::new(1),
            clients: Default::default(),
        };
        let addresses: Vec<String> = host
            .local_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut open = async |n, private| {
            ports.perform(message::inference::Effect::OpenStream {
                id: protocol::ids::EffectId(n),
                host: protocol::ids::NodeKey([7; 32]),
                addresses: addresses.clone(),
                private,
            });
            loop {
                if let Some(NetworkEvent::Stream(stream)) = events.recv().await {
                    return stream.tag();
                }
            }
        };
        let usual = [open(1, false).await, open(2, false).await];
        assert_eq!(usual[0], usual[1]);
        let apart = [open(3, true).await, open(4, true).await];
        assert!(apart[0] != apart[1] && !apart.contains(&usual[0]));
        dialer.shutdown().await;
        host.shutdown().await;
    });
}

/// What the node says of the part that ended.
async fn ended(shared: &Shared) -> String {
    let mut fatal = shared.fatal();
    let fatal = fatal.wait_for(Option::is_some).await.unwrap().clone();
    fatal.unwrap().what
}

#[test]
fn a_node_stops_when_nobody_hears_its_swarms_or_relays_any_more() {
    with(|heard| async move {
        let (_, events) = mpsc::channel(1);
        let blobs = Blobs::new(Default::default(), Default::default(), Default::default());
        let acceptors = Acceptors::of(&heard.shared, &Default::default(), blobs);
        attend_swarm(&heard.shared, "a swarm", acceptors, events);
        assert!(ended(&heard.shared).await.ends_with("a swarm"));
    });
    with(|heard| async move {
        let (_, events) = mpsc::channel(1);
        super::discovery::attend_relays(&heard.shared, Network::Regtest, None, events);
        assert!(ended(&heard.shared).await.ends_with("relays"));
    });
}
