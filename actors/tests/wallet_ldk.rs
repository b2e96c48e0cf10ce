//! The embedded wallet over the lab's chain: conformance, restart, latency.
//!
//! Real channels on a regtest chain in this process; nothing is simulated.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::ports::wallet::conformance::{self, Terms};
use actors::ports::wallet::ldk::{ChainSource, LdkConfig, LdkWallet, WalletRuntime};
use actors::ports::wallet::{
    Delivery, FailReason, Incoming, Invoice, Network, OpenChannel, Outgoing, PayOutcome, Payment,
    Peer, Wallet, WalletError, WalletEvent,
};
use actors::shell::payment::forget;
use bitcoin::hashes::{Hash as _, sha256};
use futures::StreamExt as _;
use lab::{Lab, LabOptions, MinerOptions};
use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
use protocol::ids::{PaymentHash, Preimage};
use protocol::message::payment::Input;
use protocol::money::Msat;

/// Bound on anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn config(lab: &Lab, dir: &Path, seed: u8, listen: &str) -> LdkConfig {
    let rpc = lab.rpc();
    let chain = ChainSource::BitcoindRpc {
        host: rpc.host.clone(),
        port: rpc.port,
        user: rpc.user.clone(),
        password: rpc.password.clone(),
    };
    let mut config = LdkConfig::new(dir.to_path_buf(), Network::Regtest, [seed; 64], chain);
    config.listen = vec![listen.to_string()];
    config
}

/// Polls a condition that has no event of its own, within the bound.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let ask = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            if condition().await {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, ask).await.is_err() {
        panic!("not within {PATIENCE:?}: {what}");
    }
}

async fn usable(wallet: &LdkWallet) -> bool {
    let channels = wallet.channels().unwrap().list().await.unwrap();
    !channels.is_empty() && channels.iter().all(|channel| channel.usable)
}

/// A lab with two wallets and a channel from the first to the second.
struct World {
    lab: Lab,
    dirs: [tempfile::TempDir; 2],
    addresses: [String; 2],
    runtime: Arc<WalletRuntime>,
    payer: Arc<LdkWallet>,
    payee: Arc<LdkWallet>,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::start(LabOptions::default()).await.unwrap();
        let runtime = Arc::new(WalletRuntime::new().unwrap());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let addresses = [free_address(), free_address()];
        let mut wallets = Vec::new();
        for (n, seed) in [(0, 1), (1, 2)] {
            let config = config(&lab, dirs[n].path(), seed, &addresses[n]);
            let wallet = LdkWallet::start(config, runtime.clone()).await.unwrap();
            wallets.push(Arc::new(wallet));
        }
        let payee = wallets.pop().unwrap();
        let payer = wallets.pop().unwrap();
        Self {
            lab,
            dirs,
            addresses,
            runtime,
            payer,
            payee,
        }
    }

    /// Funds the payer and opens a channel to the payee.
    async fn with_channel(sats: u64, push: Msat) -> Self {
        let world = Self::new().await;
        let channels = world.payer.channels().unwrap();
        let address = channels.address().await.unwrap();
        world.lab.fund(&address, 10_000_000).await.unwrap();
        channels.sync().await.unwrap();
        let opened = channels
            .open(OpenChannel {
                peer: world.payee_peer(),
                sats,
                push,
                announce: false,
            })
            .await
            .unwrap();
        world
            .lab
            .wait_for_mempool(&opened.funding_txid.parse().unwrap(), PATIENCE)
            .await
            .unwrap();
        world.lab.mine(6).await.unwrap();
        channels.sync().await.unwrap();
        world.payee.channels().unwrap().sync().await.unwrap();
        world.wait_usable().await;
        world
    }

    async fn wait_usable(&self) {
        until("the channel is usable on both sides", || async {
            usable(&self.payer).await && usable(&self.payee).await
        })
        .await;
    }

    fn payee_peer(&self) -> Peer {
        Peer {
            id: self.payee.node_id(),
            address: self.addresses[1].clone(),
        }
    }

    /// Stops the payee and opens it again from what is on disk.
    async fn restart_payee(&mut self) {
        self.payee.stop().await;
        let config = config(&self.lab, self.dirs[1].path(), 2, &self.addresses[1]);
        // The old one goes first: it holds the lock of the folder.
        let old = std::mem::replace(&mut self.payee, self.payer.clone());
        drop(old);
        let started = LdkWallet::start(config, self.runtime.clone()).await;
        self.payee = Arc::new(started.unwrap());
    }

    async fn shutdown(self) {
        self.payer.stop().await;
        self.payee.stop().await;
        self.lab.shutdown().await;
    }
}

fn payment(invoice: &Invoice) -> Payment {
    Payment {
        bolt11: invoice.bolt11.clone(),
        hash: invoice.hash,
        msat: invoice.msat,
        max_fee: Msat::ZERO,
    }
}

/// The first event that is about `hash`, unacknowledged.
async fn event_of(wallet: &LdkWallet, hash: PaymentHash) -> Delivery {
    let mut stream = wallet.events().await.unwrap();
    let find = async {
        loop {
            let delivery = stream.next().await.unwrap();
            let about = match &delivery.event {
                WalletEvent::Received { hash, .. } | WalletEvent::Held { hash, .. } => Some(*hash),
                _ => None,
            };
            if about == Some(hash) {
                return delivery;
            }
        }
    };
    tokio::time::timeout(PATIENCE, find).await.unwrap()
}

#[tokio::test]
async fn two_embedded_wallets_conform_and_keep_their_state_over_a_restart() {
    let mut world = World::with_channel(1_000_000, Msat(100_000_000)).await;

    let report = conformance::run(
        world.payer.clone(),
        world.payee.clone(),
        Terms {
            max_fee: Msat::ZERO,
            ..Terms::default()
        },
    )
    .await;
    println!("{report}");
    assert!(report.failed.is_empty(), "{report}");

    // One payment received and not acknowledged, one held, one invoice unpaid.
    let payee = &world.payee;
    let told = payee.create_invoice(Msat(5_000), [1; 32], 600).await;
    let told = told.unwrap();
    let paid = world.payer.pay(payment(&told)).await;
    assert!(matches!(paid, PayOutcome::Settled { .. }), "{paid:?}");
    let before = event_of(payee, told.hash).await;
    let preimage = Preimage([42; 32]);
    let hash = PaymentHash(sha256::Hash::hash(preimage.as_bytes()).to_byte_array());
    let hold = payee.create_hold_invoice(hash, Msat(6_000), [2; 32], 600);
    let hold = hold.await.unwrap();
    let paying = {
        let (payer, order) = (world.payer.clone(), payment(&hold));
        tokio::spawn(async move { payer.pay(order).await })
    };
    let held = event_of(payee, hash).await;
    payee.ack(held.id).await.unwrap();
    let open = payee.create_invoice(Msat(7_000), [3; 32], 600).await;
    let open = open.unwrap();

    world.restart_payee().await;

    let payee = &world.payee;
    assert_eq!(event_of(payee, told.hash).await, before);
    let incoming = payee.lookup_incoming(told.hash).await.unwrap();
    assert!(
        matches!(incoming, Incoming::Settled { msat, .. } if msat == Msat(5_000)),
        "{incoming:?}"
    );
    let incoming = payee.lookup_incoming(hash).await.unwrap();
    assert!(
        matches!(incoming, Incoming::Held { msat, .. } if msat == Msat(6_000)),
        "{incoming:?}"
    );
    world.wait_usable().await;
    payee.settle_hold(preimage).await.unwrap();
    match paying.await.unwrap() {
        PayOutcome::Settled { preimage: got, .. } => assert_eq!(got, preimage),
        other => panic!("{other:?}"),
    }
    let paid = world.payer.pay(payment(&open)).await;
    assert!(matches!(paid, PayOutcome::Settled { .. }), "{paid:?}");
    world.shutdown().await;
}

#[tokio::test]
async fn payments_over_a_direct_channel_settle_within_half_a_second() {
    const PAYMENTS: usize = 100;
    let world = World::with_channel(1_000_000, Msat(0)).await;
    let mut times = Vec::new();
    for n in 0..=PAYMENTS {
        let made = world.payee.create_invoice(Msat(1_000), [9; 32], 600).await;
        let order = payment(&made.unwrap());
        let begun = Instant::now();
        let paid = world.payer.pay(order).await;
        assert!(matches!(paid, PayOutcome::Settled { .. }), "{paid:?}");
        // The first after a start waits up to two seconds inside LDK.
        if n > 0 {
            times.push(begun.elapsed());
        }
    }
    times.sort();
    let (p50, p99) = (times[PAYMENTS / 2], times[PAYMENTS * 99 / 100]);
    println!("pay latency over {PAYMENTS} payments: p50 {p50:?}, p99 {p99:?}");
    assert!(p50 < Duration::from_millis(500), "p50 {p50:?}");
    world.shutdown().await;
}

#[tokio::test]
async fn more_payments_than_a_channel_holds_fail_as_busy_and_settle_when_tried_again() {
    // LDK takes 50 payments per channel and direction.
    const AT_ONCE: u8 = 60;
    let world = World::with_channel(1_000_000, Msat(0)).await;
    let mut holds = Vec::new();
    for n in 0..AT_ONCE {
        let preimage = Preimage([n + 1; 32]);
        let hash = PaymentHash(sha256::Hash::hash(preimage.as_bytes()).to_byte_array());
        let made = world
            .payee
            .create_hold_invoice(hash, Msat(1_000_000), [0; 32], 600)
            .await;
        holds.push((preimage, made.unwrap()));
    }
    let mut busy = Vec::new();
    let mut paying = Vec::new();
    for (preimage, invoice) in &holds {
        let (payer, order) = (world.payer.clone(), payment(invoice));
        let mut call = tokio::spawn(async move { payer.pay(order).await });
        let event = event_of(&world.payee, invoice.hash);
        tokio::select! {
            held = event => {
                world.payee.ack(held.id).await.unwrap();
                paying.push((*preimage, call));
            }
            outcome = &mut call => match outcome.unwrap() {
                PayOutcome::Failed {
                    reason: FailReason::ChannelBusy,
                    retryable: true,
                    submitted: false,
                } => busy.push((*preimage, payment(invoice))),
                other => panic!(
                    "{other:?} after {} at once, {:?}",
                    paying.len(),
                    world.payer.balance().await
                ),
            },
        }
    }
    println!(
        "{} under way at once, {} refused as busy",
        paying.len(),
        busy.len()
    );
    assert!(!busy.is_empty());
    for (preimage, call) in paying {
        world.payee.settle_hold(preimage).await.unwrap();
        let outcome = call.await.unwrap();
        assert!(matches!(outcome, PayOutcome::Settled { .. }), "{outcome:?}");
    }
    for (preimage, order) in busy {
        let hash = order.hash;
        let payer = world.payer.clone();
        let call = tokio::spawn(async move { payer.pay(order).await });
        event_of(&world.payee, hash).await;
        world.payee.settle_hold(preimage).await.unwrap();
        let outcome = call.await.unwrap();
        assert!(matches!(outcome, PayOutcome::Settled { .. }), "{outcome:?}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn channels_opened_back_to_back_fund_from_different_coins_and_close() {
    let world = World::new().await;
    let payer = world.payer.channels().unwrap();
    let address = payer.address().await.unwrap();
    world.lab.fund(&address, 10_000_000).await.unwrap();
    payer.sync().await.unwrap();
    let open = || OpenChannel {
        peer: world.payee_peer(),
        sats: 500_000,
        push: Msat(1_000_000),
        announce: false,
    };
    let (one, two) = tokio::join!(payer.open(open()), payer.open(open()));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.funding_txid, two.funding_txid);
    for opened in [&one, &two] {
        let txid = opened.funding_txid.parse().unwrap();
        world.lab.wait_for_mempool(&txid, PATIENCE).await.unwrap();
    }
    let miner = world.lab.start_miner(MinerOptions::default());
    until("both channels are usable", || async {
        usable(&world.payer).await && usable(&world.payee).await
    })
    .await;
    let balance = world.payee.balance().await.unwrap();
    assert_eq!(payer.list().await.unwrap().len(), 2);
    assert!(balance.receivable > Msat(900_000_000), "{balance:?}");
    payer.close(one.id.clone(), false).await.unwrap();
    until("one channel is closed", || async {
        payer.list().await.unwrap().len() == 1
    })
    .await;
    let again = payer.close(one.id.clone(), false).await;
    assert_eq!(again, Err(WalletError::NoSuchChannel { id: one.id.0 }));
    miner.stop().await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_second_wallet_on_the_same_folder_is_refused_and_stopping_twice_is_fine() {
    let world = World::new().await;
    let config = config(&world.lab, world.dirs[0].path(), 1, &free_address());
    let second = LdkWallet::start(config.clone(), world.runtime.clone()).await;
    assert!(matches!(second, Err(WalletError::Locked { .. })));
    world.payer.stop().await;
    world.payer.stop().await;
    let invoice = world.payee.create_invoice(Msat(1_000), [0; 32], 60).await;
    let invoice = invoice.unwrap();
    let refused = world.payer.pay(payment(&invoice)).await;
    assert_eq!(refused, PayOutcome::not_sent(FailReason::NotRunning));
    let lookup = world.payer.lookup_outgoing(invoice.hash).await;
    assert_eq!(lookup, Err(WalletError::NotRunning));
    world.shutdown().await;
}

#[tokio::test]
async fn an_invoice_that_nobody_paid_is_forgotten_when_it_can_no_longer_be_paid() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let runtime = Arc::new(WalletRuntime::new().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&lab, dir.path(), 7, &free_address());
    // Long enough for the first two questions on a busy machine.
    config.keep_invoices = Duration::from_secs(20);
    let wallet = LdkWallet::start(config, runtime).await.unwrap();
    let made = wallet.create_invoice(Msat(1_000), [0; 32], 2).await;
    let hash = made.unwrap().hash;
    let early = forget(&wallet, vec![hash]).await;
    let [
        Input::StillNeeded {
            hash: told,
            wait_ms,
        },
    ] = early[..]
    else {
        panic!("{early:?}");
    };
    assert!(told == hash && wait_ms <= 20_000, "{wait_ms}");
    until("it is forgotten", || async {
        forget(&wallet, vec![hash]).await.is_empty()
    })
    .await;
    assert_eq!(wallet.lookup_incoming(hash).await, Ok(Incoming::NotFound));
    wallet.stop().await;
}

#[tokio::test]
async fn records_are_forgotten_only_when_they_protect_nothing_any_more() {
    let world = World::with_channel(1_000_000, Msat(0)).await;
    let made = world.payee.create_invoice(Msat(1_000), [0; 32], 2).await;
    let invoice = made.unwrap();
    let paid = world.payer.pay(payment(&invoice)).await;
    assert!(matches!(paid, PayOutcome::Settled { .. }), "{paid:?}");
    let early = world.payee.forget(invoice.hash).await;
    assert!(matches!(early, Err(WalletError::TooEarlyToForget { .. })));
    until("the payer may forget an expired, paid invoice", || async {
        world.payer.forget(invoice.hash).await.is_ok()
    })
    .await;
    let gone = world.payer.lookup_outgoing(invoice.hash).await;
    assert_eq!(gone, Ok(Outgoing::NotFound));
    world.shutdown().await;
}

#[tokio::test]
async fn an_invoice_made_by_hand_says_to_its_payer_what_it_is_for() {
    let world = World::new().await;
    let made = world
        .payee
        .create_described_invoice(Msat(25_000), "lunch".to_owned(), 600);
    let invoice: Bolt11Invoice = made.await.unwrap().bolt11.parse().unwrap();
    let Bolt11InvoiceDescriptionRef::Direct(text) = invoice.description() else {
        panic!("payers see a hash: {:?}", invoice.description());
    };
    assert_eq!(text.to_string(), "lunch");
    // What an order pays is bound by a hash instead, which no person reads.
    let bound = world.payee.create_invoice(Msat(25_000), [7; 32], 600).await;
    let invoice: Bolt11Invoice = bound.unwrap().bolt11.parse().unwrap();
    assert!(matches!(
        invoice.description(),
        Bolt11InvoiceDescriptionRef::Hash(_)
    ));
    // More than an invoice holds is refused, and not cut.
    let long = world
        .payee
        .create_described_invoice(Msat(25_000), "x".repeat(640), 600)
        .await;
    assert!(matches!(long, Err(WalletError::InvoiceTerms { .. })));
    world.shutdown().await;
}
