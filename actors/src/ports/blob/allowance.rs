//! How much of models' files is given away in an hour: to a peer, to an address, in all.
//!
//! Peers are free and addresses are not, so both are counted. Nothing is taken from who is
//! refused.

use parking_lot::Mutex;
use protocol::ids::PeerTag;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The span that is counted.
const HOUR: Duration = Duration::from_secs(3_600);
/// What a slice counts for at least. Bytes. It bounds how many peers are remembered.
const LEAST: u64 = 64 << 10;

/// What may be given away in an hour. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// To one peer: the largest metadata there may be, once.
    pub peer: u64,
    /// To one address, or /48 of IPv6: an office of buyers.
    pub group: u64,
    /// In all: 0.6 MB a second.
    pub all: u64,
    /// Transfers at once.
    pub transfers: usize,
    /// How long one transfer may take in all.
    pub life: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            peer: 64 << 20,
            group: 256 << 20,
            all: 2 << 30,
            transfers: 8,
            life: Duration::from_secs(300),
        }
    }
}

/// What is left of the hour.
#[derive(Debug)]
pub struct Allowance {
    bounds: Bounds,
    hour: Mutex<Hour>,
}

#[derive(Debug)]
struct Hour {
    begun: Instant,
    all: u64,
    /// By the tags of peers and of addresses, which are never the same.
    given: HashMap<PeerTag, u64>,
}

impl Hour {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            all: 0,
            given: HashMap::new(),
        }
    }
}

impl Allowance {
    /// Nothing was given yet.
    pub fn new(bounds: Bounds) -> Self {
        let hour = Mutex::new(Hour::new(Instant::now()));
        Self { bounds, hour }
    }

    /// Takes `bytes` for a peer at an address, or says how long the hour still lasts.
    ///
    /// # Errors
    /// Where one of the bounds is reached.
    pub fn take(&self, peer: PeerTag, group: PeerTag, bytes: u64) -> Result<(), Duration> {
        self.take_at(Instant::now(), peer, group, bytes)
    }

    fn take_at(
        &self,
        now: Instant,
        peer: PeerTag,
        group: PeerTag,
        bytes: u64,
    ) -> Result<(), Duration> {
        let mut hour = self.hour.lock();
        let passed = now.saturating_duration_since(hour.begun);
        if passed >= HOUR {
            *hour = Hour::new(now);
        }
        let bytes = bytes.max(LEAST);
        let of = |tag: &PeerTag| hour.given.get(tag).copied().unwrap_or(0);
        let fits = of(&peer) + bytes <= self.bounds.peer
            && of(&group) + bytes <= self.bounds.group
            && hour.all + bytes <= self.bounds.all;
        if !fits {
            return Err(HOUR.saturating_sub(passed));
        }
        hour.all += bytes;
        *hour.given.entry(peer).or_default() += bytes;
        if group != peer {
            *hour.given.entry(group).or_default() += bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tag(kind: u8, n: u8) -> PeerTag {
        let mut tag = [kind; 16];
        tag[0] = n;
        PeerTag(tag)
    }

    /// Takes until nothing is left; returns how much came.
    fn drain(allowance: &Allowance, now: Instant, peer: PeerTag, group: PeerTag) -> u64 {
        let take = |_: &u64| allowance.take_at(now, peer, group, MIB).is_ok();
        (0u64..10_000).take_while(take).count() as u64 * MIB
    }

    #[test]
    fn a_peer_an_address_and_all_together_get_the_hours_bytes_and_no_more() {
        let bounds = Bounds {
            peer: 4 * MIB,
            group: 10 * MIB,
            all: 25 * MIB,
            ..Bounds::default()
        };
        let allowance = Allowance::new(bounds);
        let now = Instant::now();
        // Fifty peers of one address, then one peer each of many.
        let of_one = |n| drain(&allowance, now, tag(1, n), tag(2, 0));
        assert_eq!(of_one(0), 4 * MIB);
        assert_eq!((1..50).map(of_one).sum::<u64>(), 6 * MIB);
        let many = |n| drain(&allowance, now, tag(3, n), tag(4, n));
        assert_eq!((0..50).map(many).sum::<u64>(), 15 * MIB);
        let left = allowance.take_at(now, tag(5, 0), tag(6, 0), 1).unwrap_err();
        assert!(left <= HOUR && left > HOUR / 2);
        // The hour ends.
        assert_eq!(drain(&allowance, now + HOUR, tag(1, 0), tag(2, 0)), 4 * MIB);
    }

    #[test]
    fn small_slices_count_for_enough_to_bound_who_is_remembered() {
        let allowance = Allowance::new(Bounds::default());
        let now = Instant::now();
        for n in 0..u32::MAX {
            let mut peer = tag(1, 0);
            peer.0[..4].copy_from_slice(&n.to_be_bytes());
            if allowance.take_at(now, peer, peer, 1).is_err() {
                break;
            }
        }
        let most = Bounds::default().all / LEAST;
        assert_eq!(allowance.hour.lock().given.len() as u64, most);
    }
}
