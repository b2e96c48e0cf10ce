//! Keeping the peers of our channels connected.
//!
//! ldk-node looks once a minute; a payment should not wait for that after a
//! restart. Also keeps the time since which each channel has been usable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::PublicKey;

use super::{Inner, convert};

/// How often peers are looked at. A look costs microseconds.
const LOOK: Duration = Duration::from_secs(1);

/// Longest pause between two attempts to reach a peer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

struct Absent {
    next: Instant,
    pause: Duration,
}

pub(super) async fn run(inner: Arc<Inner>) {
    let mut stopping = inner.stopping.subscribe();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut absent: HashMap<PublicKey, Absent> = HashMap::new();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            _ = look.tick() => {}
        }
        let mine = std::mem::take(&mut absent);
        let round = inner.unchecked(move |inner| Ok(look_once(inner, mine)));
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            done = round => absent = done.unwrap_or_default(),
        }
    }
}

/// One look, with at most one attempt per absent peer that is due. Blocks.
fn look_once(
    inner: &Arc<Inner>,
    mut absent: HashMap<PublicKey, Absent>,
) -> HashMap<PublicKey, Absent> {
    let channels = inner.node.list_channels();
    if let Err(error) = inner.usable.look(&channels) {
        tracing::debug!(%error, "what channels can be used could not be written");
    }
    let peers = inner.node.list_peers();
    absent.retain(|key, _| peers.iter().any(|p| p.node_id == *key && !p.is_connected));
    for peer in peers.iter().filter(|peer| !peer.is_connected) {
        let wanted = channels
            .iter()
            .any(|channel| channel.counterparty_node_id == peer.node_id);
        if !wanted {
            continue;
        }
        let now = Instant::now();
        let entry = absent.entry(peer.node_id).or_insert(Absent {
            next: now,
            pause: LOOK,
        });
        if now < entry.next {
            continue;
        }
        if let Err(error) = inner.node.connect(peer.node_id, peer.address.clone(), true) {
            let id = convert::lightning_id(&peer.node_id);
            tracing::debug!(peer = %id, %error, pause = ?entry.pause, "peer not reached");
        }
        entry.next = Instant::now() + entry.pause;
        entry.pause = (entry.pause * 2).min(LONGEST_PAUSE);
    }
    absent
}
