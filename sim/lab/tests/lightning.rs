//! The proof of the lab: two real ldk-node nodes live on its chain. Funding,
//! a channel, payments, a cooperative close, a force close swept on chain.
//!
//! Runs on the in-process chain, and on a real bitcoind instead when
//! `BITCOIND_EXE` names one.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::{Lab, LabOptions, MinerOptions};
use ldk_node::bitcoin::Network;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};
use ldk_node::{Builder, Event, Node, UserChannelId};
use tokio::runtime::{Handle, Runtime};

/// No single step takes longer, even on a loaded machine.
const BOUND: Duration = Duration::from_secs(90);

const CHANNEL_SATS: u64 = 1_000_000;
const PUSHED_SATS: u64 = 100_000;

/// Fees of a funding, a close and its sweeps stay far below this.
const FEES_AT_MOST_SATS: u64 = 30_000;

/// A node with its name for messages.
struct Party {
    name: &'static str,
    node: Arc<Node>,
    address: SocketAddress,
}

impl Party {
    fn start(name: &'static str, lab: &Lab, dir: &Path, runtime: &Handle, seed: u8) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap().to_string();
        drop(port);
        let address = SocketAddress::from_str(&address).unwrap();
        let rpc = lab.rpc().clone();
        let mut builder = Builder::new();
        builder
            .set_network(Network::Regtest)
            .set_runtime(runtime.clone())
            .set_entropy_seed_bytes([seed; 64])
            .set_storage_dir_path(dir.join(name).display().to_string())
            .set_log_facade_logger()
            .set_chain_source_bitcoind_rpc(rpc.host, rpc.port, rpc.user, rpc.password);
        builder
            .set_listening_addresses(vec![address.clone()])
            .unwrap();
        let node = Arc::new(builder.build_with_fs_store().unwrap());
        node.start().unwrap();
        Self {
            name,
            node,
            address,
        }
    }

    fn id(&self) -> PublicKey {
        self.node.node_id()
    }

    /// Looks at the chain now; ldk-node blocks while it does.
    async fn sync(&self) {
        let node = self.node.clone();
        let synced = tokio::task::spawn_blocking(move || node.sync_wallets());
        synced.await.unwrap().unwrap();
    }

    /// The next event for which `wanted` gives a value; others are passed over.
    async fn wait<T>(&self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let until = Instant::now() + BOUND;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let next = tokio::time::timeout(left, self.node.next_event_async()).await;
            let Ok(event) = next else {
                panic!("{} waited in vain for {what}", self.name);
            };
            let found = wanted(&event);
            self.node.event_handled().unwrap();
            if let Some(found) = found {
                return found;
            }
        }
    }

    fn onchain_sats(&self) -> u64 {
        self.node.list_balances().total_onchain_balance_sats
    }
}

/// Opens a channel from `from` to `to` and mines until both can use it.
async fn open(lab: &Lab, from: &Party, to: &Party) -> UserChannelId {
    let address = to.address.clone();
    let pushed = Some(PUSHED_SATS * 1_000);
    let channel = from
        .node
        .open_channel(to.id(), address, CHANNEL_SATS, pushed, None)
        .unwrap();
    let txid = from
        .wait("ChannelPending", |event| match event {
            Event::ChannelPending { funding_txo, .. } => Some(funding_txo.txid),
            _ => None,
        })
        .await;
    lab.wait_for_mempool(&txid, BOUND).await.unwrap();
    // Before the next open, or it may spend the same coin (ldk-node issue 41).
    from.sync().await;
    lab.mine(6).await.unwrap();
    for party in [from, to] {
        party.sync().await;
        let ready = |event: &Event| matches!(event, Event::ChannelReady { .. }).then_some(());
        party.wait("ChannelReady", ready).await;
    }
    channel
}

/// One payment by invoice; how long until the payer knew.
async fn pay(from: &Party, to: &Party, msat: u64) -> Duration {
    let words = Description::new("one of twenty".to_owned()).unwrap();
    let description = Bolt11InvoiceDescription::Direct(words);
    let invoice = to
        .node
        .bolt11_payment()
        .receive(msat, &description, 600)
        .unwrap();
    let begun = Instant::now();
    from.node.bolt11_payment().send(&invoice, None).unwrap();
    from.wait("PaymentSuccessful", |event| match event {
        Event::PaymentSuccessful { .. } => Some(()),
        Event::PaymentFailed { reason, .. } => panic!("payment failed: {reason:?}"),
        _ => None,
    })
    .await;
    let took = begun.elapsed();
    let received = to
        .wait("PaymentReceived", |event| match event {
            Event::PaymentReceived { amount_msat, .. } => Some(*amount_msat),
            _ => None,
        })
        .await;
    assert_eq!(received, msat);
    took
}

fn closed(event: &Event) -> Option<()> {
    matches!(event, Event::ChannelClosed { .. }).then_some(())
}

/// Mines and syncs until `done`; bounded by rounds, not by a clock.
async fn mine_until(lab: &Lab, parties: [&Party; 2], done: impl Fn() -> bool) -> bool {
    for _ in 0..60 {
        lab.mine(6).await.unwrap();
        for party in parties {
            party.sync().await;
        }
        if done() {
            return true;
        }
    }
    false
}

async fn scenario(lab: &Lab, dir: &Path, runtime: &Handle) {
    let alice = Party::start("alice", lab, dir, runtime, 1);
    let bob = Party::start("bob", lab, dir, runtime, 2);
    let addresses = [&alice, &bob].map(|p| p.node.onchain_payment().new_address().unwrap());
    let [for_alice, for_bob] = addresses.map(|a| a.to_string());
    lab.fund_all(&[(&for_alice, 10_000_000), (&for_bob, 100_000)])
        .await
        .unwrap();
    alice.sync().await;
    bob.sync().await;
    let before = alice.onchain_sats() + bob.onchain_sats();
    assert_eq!(before, 10_000_000_000, "two coinbases of 50 bitcoin");

    let channel = open(lab, &alice, &bob).await;
    let mut times = Vec::new();
    for n in 0..20 {
        times.push(pay(&alice, &bob, 1_000 + n).await);
    }
    times.sort_unstable();
    println!("20 payments: p50 {:?}, slowest {:?}", times[10], times[19]);
    alice.node.close_channel(&channel, bob.id()).unwrap();
    alice.wait("ChannelClosed", closed).await;
    bob.wait("ChannelClosed", closed).await;
    let all_back = || {
        let now = alice.onchain_sats() + bob.onchain_sats();
        now <= before && now + FEES_AT_MOST_SATS >= before
    };
    let parties = [&alice, &bob];
    assert!(
        mine_until(lab, parties, all_back).await,
        "cooperative close: {} of {before}",
        alice.onchain_sats() + bob.onchain_sats()
    );

    let channel = open(lab, &alice, &bob).await;
    pay(&alice, &bob, 50_000_000).await;
    let reason = Some("test".to_owned());
    alice
        .node
        .force_close_channel(&channel, bob.id(), reason)
        .unwrap();
    alice.wait("ChannelClosed", closed).await;
    // Alice's own output is locked for 144 blocks or so, then swept.
    assert!(
        mine_until(lab, parties, all_back).await,
        "force close: {} of {before}",
        alice.onchain_sats() + bob.onchain_sats()
    );
    for party in parties {
        let lightning = party.node.list_balances().total_lightning_balance_sats;
        assert_eq!(lightning, 0, "{} has an unswept channel", party.name);
        party.node.stop().unwrap();
    }
    if let Some(chain) = lab.chain().engine() {
        let supply = chain.supply();
        assert_eq!(supply.unspent_sats + supply.burned_sats, supply.issued_sats);
    }
}

/// ldk-node needs a multi-thread runtime and panics inside any other.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn two_nodes_open_pay_twenty_invoices_close_and_sweep_a_force_close() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let lab = Lab::start(LabOptions::from_env(dir.path())).await.unwrap();
        scenario(&lab, dir.path(), runtime.handle()).await;
        lab.shutdown().await;
    });
}

#[test]
fn a_background_miner_confirms_a_channel_without_orders() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let lab = Lab::start(LabOptions::from_env(dir.path())).await.unwrap();
        let alice = Party::start("alice", &lab, dir.path(), runtime.handle(), 3);
        let bob = Party::start("bob", &lab, dir.path(), runtime.handle(), 4);
        let address = alice.node.onchain_payment().new_address().unwrap();
        lab.fund(&address.to_string(), 10_000_000).await.unwrap();
        alice.sync().await;
        let miner = lab.start_miner(MinerOptions::default());
        alice
            .node
            .open_channel(bob.id(), bob.address.clone(), CHANNEL_SATS, None, None)
            .unwrap();
        let ready = |event: &Event| matches!(event, Event::ChannelReady { .. }).then_some(());
        alice.wait("ChannelReady", ready).await;
        bob.wait("ChannelReady", ready).await;
        pay(&alice, &bob, 1_000).await;
        miner.stop().await;
        alice.node.stop().unwrap();
        bob.node.stop().unwrap();
        lab.shutdown().await;
    });
}
