//! A bounded memory of events already handed on, least recently seen forgotten first.
//!
//! Not a store of events and not persistent. Shared by all relay sessions of a pool:
//! the same event usually arrives from every relay.

use std::collections::{BTreeMap, HashMap};

/// A subscription's generation and an event id.
pub type SeenKey = (u64, [u8; 32]);

/// A set of at most `capacity` keys.
#[derive(Debug)]
pub struct Seen {
    capacity: usize,
    clock: u64,
    stamps: HashMap<SeenKey, u64>,
    order: BTreeMap<u64, SeenKey>,
}

impl Seen {
    /// Creates an empty set; a capacity of zero is taken as one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            clock: 0,
            stamps: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// Reports whether `key` is in the set, and marks it as just seen if so.
    pub fn touch(&mut self, key: &SeenKey) -> bool {
        let known = self.stamps.contains_key(key);
        if known {
            self.stamp(*key);
        }
        known
    }

    /// Adds `key`; returns false if it was there already.
    pub fn insert(&mut self, key: SeenKey) -> bool {
        let new = !self.stamps.contains_key(&key);
        self.stamp(key);
        if self.stamps.len() > self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.stamps.remove(&oldest);
        }
        new
    }

    fn stamp(&mut self, key: SeenKey) {
        self.clock += 1;
        if let Some(old) = self.stamps.insert(key, self.clock) {
            self.order.remove(&old);
        }
        self.order.insert(self.clock, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SeenKey {
        (1, [n; 32])
    }

    #[test]
    fn the_least_recently_seen_key_is_forgotten_first() {
        let mut seen = Seen::new(2);
        assert!(seen.insert(key(1)));
        assert!(seen.insert(key(2)));
        assert!(seen.touch(&key(1)));
        assert!(seen.insert(key(3)));
        assert!(!seen.touch(&key(2)), "2 was the least recently seen");
        assert!(seen.touch(&key(1)) && seen.touch(&key(3)));
    }

    #[test]
    fn a_key_is_new_once_and_the_set_never_outgrows_its_capacity() {
        let mut seen = Seen::new(8);
        for round in 0..200u8 {
            assert!(seen.insert(key(round)));
            assert!(!seen.insert(key(round)));
            assert!(seen.stamps.len() <= 8 && seen.order.len() == seen.stamps.len());
        }
    }
}
