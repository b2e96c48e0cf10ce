//! How much of models' files is given away in an hour: to a peer, to an address, in all.
//!
//! Peers are free and addresses are not, so both are counted. Nothing is taken from who is
//! refused.

use parking_lot::Mutex;
use protocol::ids::{AddressTag, Caller, PeerTag};
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
    pub address: u64,
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
            address: 256 << 20,
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
    peers: HashMap<PeerTag, u64>,
    addresses: HashMap<AddressTag, u64>,
}

impl Hour {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            all: 0,
            peers: HashMap::new(),
            addresses: HashMap::new(),
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
    pub fn take(&self, caller: &Caller, bytes: u64) -> Result<(), Duration> {
        self.take_at(Instant::now(), caller, bytes)
    }

    fn take_at(&self, now: Instant, caller: &Caller, bytes: u64) -> Result<(), Duration> {
        let mut hour = self.hour.lock();
        let passed = now.saturating_duration_since(hour.begun);
        if passed >= HOUR {
            *hour = Hour::new(now);
        }
        let bytes = bytes.max(LEAST);
        let Caller { peer, address } = caller;
        let given = |bytes: Option<&u64>| bytes.copied().unwrap_or(0);
        let fits = given(hour.peers.get(peer)) + bytes <= self.bounds.peer
            && given(hour.addresses.get(address)) + bytes <= self.bounds.address
            && hour.all + bytes <= self.bounds.all;
        if !fits {
            return Err(HOUR.saturating_sub(passed));
        }
        hour.all += bytes;
        *hour.peers.entry(*peer).or_default() += bytes;
        *hour.addresses.entry(*address).or_default() += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn caller(peer: u32, address: u32) -> Caller {
        let tag = |n: u32| {
            let mut tag = [0; 16];
            tag[..4].copy_from_slice(&n.to_be_bytes());
            tag
        };
        Caller {
            peer: PeerTag(tag(peer)),
            address: AddressTag(tag(address)),
        }
    }

    /// Takes until nothing is left; returns how much came.
    fn drain(allowance: &Allowance, now: Instant, caller: &Caller) -> u64 {
        let take = |_: &u64| allowance.take_at(now, caller, MIB).is_ok();
        (0u64..10_000).take_while(take).count() as u64 * MIB
    }

    #[test]
    fn a_peer_an_address_and_all_together_get_the_hours_bytes_and_no_more() {
        let bounds = Bounds {
            peer: 4 * MIB,
            address: 10 * MIB,
            all: 25 * MIB,
            ..Bounds::default()
        };
        let allowance = Allowance::new(bounds);
        let now = Instant::now();
        // Fifty peers of one address, then one peer each of many.
        let of_one = |n| drain(&allowance, now, &caller(n, 0));
        assert_eq!(of_one(0), 4 * MIB);
        assert_eq!((1..50).map(of_one).sum::<u64>(), 6 * MIB);
        let many = |n: u32| drain(&allowance, now, &caller(100 + n, 100 + n));
        assert_eq!((0..50).map(many).sum::<u64>(), 15 * MIB);
        let left = allowance.take_at(now, &caller(999, 999), 1).unwrap_err();
        assert!(left <= HOUR && left > HOUR / 2);
        // The hour ends.
        assert_eq!(drain(&allowance, now + HOUR, &caller(0, 0)), 4 * MIB);
    }

    #[test]
    fn small_slices_count_for_enough_to_bound_who_is_remembered() {
        let allowance = Allowance::new(Bounds::default());
        let now = Instant::now();
        for n in 0..u32::MAX {
            if allowance.take_at(now, &caller(n, n), 1).is_err() {
                break;
            }
        }
        let most = Bounds::default().all / LEAST;
        let hour = allowance.hour.lock();
        assert_eq!(
            (hour.peers.len() as u64, hour.addresses.len() as u64),
            (most, most)
        );
    }
}
