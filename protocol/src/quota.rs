//! What strangers may have for nothing: so much an hour for each peer, for each address, and for
//! all of them. A quota is whole at first and refills evenly, so within one hour it gives up to
//! twice as much: all of it at once, and what came back since.
//!
//! Not a queue: what is over the quota is refused, with the time until it fits. Our own
//! orders are never counted.

use crate::ids::Caller;
use crate::time::Tick;
use std::collections::BTreeMap;

/// In this time an empty quota is whole again. Milliseconds. An hour.
const PERIOD_MS: u64 = 3_600_000;
/// Most peers remembered, and most addresses. The one that used least is forgotten first; the
/// common quota bounds what many of them can have together.
const MAX_REMEMBERED: usize = 1_024;

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

/// Levels of many, each with the same bound.
#[derive(Debug)]
struct Levels {
    most: u64,
    levels: BTreeMap<[u8; 16], Level>,
}

impl Levels {
    fn new(most: u32) -> Self {
        Levels {
            most: u64::from(most),
            levels: BTreeMap::new(),
        }
    }

    fn wait_ms(&self, tag: &[u8; 16], units: u64, now: Tick) -> u64 {
        let level = self.levels.get(tag).copied().unwrap_or_default();
        let level = level.drained(self.most, now);
        level.wait_ms(units.min(self.most), self.most)
    }

    fn take(&mut self, tag: [u8; 16], cost: u64, now: Tick) {
        if self.levels.len() >= MAX_REMEMBERED && !self.levels.contains_key(&tag) {
            let least = self
                .levels
                .iter()
                .min_by_key(|(tag, level)| (level.drained(self.most, now).used, **tag))
                .map(|(tag, _)| *tag);
            if let Some(least) = least {
                self.levels.remove(&least);
            }
        }
        let level = self.levels.entry(tag).or_default();
        *level = level.drained(self.most, now);
        level.used = level.used.saturating_add(cost);
    }
}

/// A quota of one kind of work.
#[derive(Debug)]
pub(crate) struct Quota {
    peers: Levels,
    addresses: Levels,
    all: Levels,
}

/// Where the level of all is kept.
const ALL: [u8; 16] = [0; 16];

impl Quota {
    /// A whole quota of so many units an hour.
    pub fn new(per_peer: u32, per_address: u32, in_all: u32) -> Self {
        Quota {
            peers: Levels::new(per_peer),
            addresses: Levels::new(per_address),
            all: Levels::new(in_all),
        }
    }

    /// Returns how long the caller must wait for so many units. More than a whole quota waits
    /// for a whole one.
    pub fn wait_ms(&self, caller: &Caller, units: u64, now: Tick) -> u64 {
        if self.peers.most == 0 || self.addresses.most == 0 || self.all.most == 0 {
            return PERIOD_MS;
        }
        let of_peer = self.peers.wait_ms(&caller.peer.0, units, now);
        let of_address = self.addresses.wait_ms(&caller.address.0, units, now);
        let of_all = self.all.wait_ms(&ALL, units, now);
        of_peer.max(of_address).max(of_all)
    }

    /// Takes the units.
    pub fn take(&mut self, caller: &Caller, units: u64, now: Tick) {
        let cost = units.saturating_mul(PERIOD_MS);
        self.peers.take(caller.peer.0, cost, now);
        self.addresses.take(caller.address.0, cost, now);
        self.all.take(ALL, cost, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AddressTag, PeerTag};

    fn at(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    fn peer(n: u32) -> Caller {
        let mut tag = [0; 16];
        tag[..4].copy_from_slice(&n.to_be_bytes());
        Caller::alone(PeerTag(tag))
    }

    #[test]
    fn a_quota_refills_evenly() {
        let mut quota = Quota::new(4, 4, 100);
        for _ in 0..4 {
            assert_eq!(quota.wait_ms(&peer(1), 1, at(0)), 0);
            quota.take(&peer(1), 1, at(0));
        }
        assert_eq!(quota.wait_ms(&peer(1), 1, at(0)), PERIOD_MS / 4);
        assert_eq!(quota.wait_ms(&peer(2), 1, at(0)), 0);
        assert_eq!(quota.wait_ms(&peer(1), 1, at(PERIOD_MS / 4)), 0);
        assert_eq!(quota.wait_ms(&peer(1), 2, at(PERIOD_MS / 4)), PERIOD_MS / 4);
    }

    #[test]
    fn any_number_of_peers_have_no_more_than_the_common_quota() {
        let mut quota = Quota::new(4, 4, 100);
        let mut taken = 0;
        for n in 0..5_000 {
            if quota.wait_ms(&peer(n), 1, at(0)) == 0 {
                quota.take(&peer(n), 1, at(0));
                taken += 1;
            }
        }
        assert_eq!(taken, 100);
        let mut wide = Quota::new(4, 4, 100_000);
        for n in 0..5_000 {
            wide.take(&peer(n), 1, at(0));
        }
        assert_eq!(wide.peers.levels.len(), MAX_REMEMBERED);
        assert_eq!(wide.addresses.levels.len(), MAX_REMEMBERED);
    }

    #[test]
    fn any_number_of_peers_of_one_address_have_no_more_than_its_quota() {
        let mut quota = Quota::new(4, 16, 100);
        let mut taken = [0, 0];
        for n in 0..1_000 {
            let which = n as usize % 2;
            let address = AddressTag([which as u8 + 1; 16]);
            let caller = Caller { address, ..peer(n) };
            if quota.wait_ms(&caller, 1, at(0)) == 0 {
                quota.take(&caller, 1, at(0));
                taken[which] += 1;
            }
        }
        assert_eq!(taken, [16, 16]);
    }

    #[test]
    fn more_than_a_whole_quota_waits_for_a_whole_one_and_none_for_ever() {
        let mut quota = Quota::new(4, 4, 100);
        assert_eq!(quota.wait_ms(&peer(1), 50, at(0)), 0);
        quota.take(&peer(1), 1, at(0));
        assert_eq!(quota.wait_ms(&peer(1), 50, at(0)), PERIOD_MS / 4);
        assert_eq!(Quota::new(0, 4, 100).wait_ms(&peer(1), 1, at(0)), PERIOD_MS);
    }
}
