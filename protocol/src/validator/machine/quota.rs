//! What strangers may have for nothing: so much an hour for each peer, and for all of them.
//!
//! Not a queue: what is over the quota is refused, with the time until it fits. Our own
//! orders are never counted.

use crate::ids::PeerTag;
use crate::time::Tick;
use std::collections::BTreeMap;

/// In this time an empty quota is whole again. Milliseconds. An hour.
const PERIOD_MS: u64 = 3_600_000;
/// Most peers remembered. The one that used least is forgotten first; the common quota
/// bounds what many peers can have together.
const MAX_PEERS: usize = 1_024;

/// A level that rises with use and sinks evenly with time, in units times [`PERIOD_MS`].
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    used: u64,
    at: Tick,
}

impl Level {
    fn drained(self, most: u64, now: Tick) -> Level {
        let back = now.ms_since(self.at).saturating_mul(most);
        Level {
            used: self.used.saturating_sub(back),
            at: now,
        }
    }

    /// Milliseconds until `units` more fit.
    fn wait_ms(self, units: u64, most: u64) -> u64 {
        let after = self.used.saturating_add(units.saturating_mul(PERIOD_MS));
        let over = after.saturating_sub(most.saturating_mul(PERIOD_MS));
        over.div_ceil(most.max(1))
    }
}

/// A quota of one kind of work.
#[derive(Debug)]
pub(super) struct Quota {
    per_peer: u64,
    in_all: u64,
    all: Level,
    peers: BTreeMap<PeerTag, Level>,
}

impl Quota {
    /// A whole quota of so many units an hour.
    pub fn new(per_peer: u32, in_all: u32) -> Self {
        Quota {
            per_peer: u64::from(per_peer),
            in_all: u64::from(in_all),
            all: Level::default(),
            peers: BTreeMap::new(),
        }
    }

    /// Returns how long `peer` must wait for so many units. More than a whole quota waits for
    /// a whole one.
    pub fn wait_ms(&self, peer: &PeerTag, units: u64, now: Tick) -> u64 {
        let level = self.peers.get(peer).copied().unwrap_or_default();
        let own = level
            .drained(self.per_peer, now)
            .wait_ms(units.min(self.per_peer), self.per_peer);
        let all = self
            .all
            .drained(self.in_all, now)
            .wait_ms(units.min(self.in_all), self.in_all);
        match self.per_peer == 0 || self.in_all == 0 {
            true => PERIOD_MS,
            false => own.max(all),
        }
    }

    /// Takes the units.
    pub fn take(&mut self, peer: PeerTag, units: u64, now: Tick) {
        let cost = units.saturating_mul(PERIOD_MS);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let least = self
                .peers
                .iter()
                .min_by_key(|(tag, level)| (level.drained(self.per_peer, now).used, **tag))
                .map(|(tag, _)| *tag);
            if let Some(least) = least {
                self.peers.remove(&least);
            }
        }
        let level = self.peers.entry(peer).or_default();
        *level = level.drained(self.per_peer, now);
        level.used = level.used.saturating_add(cost);
        self.all = self.all.drained(self.in_all, now);
        self.all.used = self.all.used.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    fn peer(n: u32) -> PeerTag {
        let mut tag = [0; 16];
        tag[..4].copy_from_slice(&n.to_be_bytes());
        PeerTag(tag)
    }

    #[test]
    fn a_quota_refills_evenly() {
        let mut quota = Quota::new(4, 100);
        for _ in 0..4 {
            assert_eq!(quota.wait_ms(&peer(1), 1, at(0)), 0);
            quota.take(peer(1), 1, at(0));
        }
        assert_eq!(quota.wait_ms(&peer(1), 1, at(0)), PERIOD_MS / 4);
        assert_eq!(quota.wait_ms(&peer(2), 1, at(0)), 0);
        assert_eq!(quota.wait_ms(&peer(1), 1, at(PERIOD_MS / 4)), 0);
        assert_eq!(quota.wait_ms(&peer(1), 2, at(PERIOD_MS / 4)), PERIOD_MS / 4);
    }

    #[test]
    fn any_number_of_peers_have_no_more_than_the_common_quota() {
        let mut quota = Quota::new(4, 100);
        let mut taken = 0;
        for n in 0..5_000 {
            if quota.wait_ms(&peer(n), 1, at(0)) == 0 {
                quota.take(peer(n), 1, at(0));
                taken += 1;
            }
        }
        assert_eq!(taken, 100);
        let mut wide = Quota::new(4, 100_000);
        for n in 0..5_000 {
            wide.take(peer(n), 1, at(0));
        }
        assert_eq!(wide.peers.len(), MAX_PEERS);
    }

    #[test]
    fn more_than_a_whole_quota_waits_for_a_whole_one_and_none_for_ever() {
        let mut quota = Quota::new(4, 100);
        assert_eq!(quota.wait_ms(&peer(1), 50, at(0)), 0);
        quota.take(peer(1), 1, at(0));
        assert_eq!(quota.wait_ms(&peer(1), 50, at(0)), PERIOD_MS / 4);
        assert_eq!(Quota::new(0, 100).wait_ms(&peer(1), 1, at(0)), PERIOD_MS);
    }
}
