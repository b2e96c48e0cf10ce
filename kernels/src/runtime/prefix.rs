//! Full pages kept after their sequence, for later ones that begin with the same
//! tokens.
//!
//! A page's key is a hash over the scope and all tokens up to its end, so equal
//! keys mean equal keys and values, bit for bit. Least recently used pages go first;
//! a page that a sequence holds stays. Not a budget: pages are counted by their
//! arena, and the engine evicts when that is empty.

use super::pages::Page;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Names a page by everything that its content depends on.
pub(crate) type Key = [u8; 32];

/// The key that the first page of a scope continues.
pub(crate) fn root(scope: &[u8; 32]) -> Key {
    blake3::derive_key("freehold prefix cache 2026-11 scope", scope)
}

/// The key of the page with these tokens after a page of key `before`.
pub(crate) fn key(before: &Key, tokens: &[u32]) -> Key {
    let mut hash = blake3::Hasher::new();
    hash.update(before);
    for token in tokens {
        hash.update(&token.to_le_bytes());
    }
    hash.finalize().into()
}

struct Entry {
    page: Arc<Page>,
    place: Place,
}

/// Order of eviction: last use, then the end of a chain before its beginning,
/// because an end is of no use without it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    used: u64,
    depth: Reverse<usize>,
    key: Key,
}

/// The pages that are kept.
#[derive(Default)]
pub(crate) struct Prefix {
    entries: HashMap<Key, Entry>,
    order: BTreeSet<Place>,
    clock: u64,
}

impl Prefix {
    /// The longest beginning of a chain that is kept, at most `most` pages; counts as
    /// used now.
    pub fn find(&mut self, chain: &[Key], most: usize) -> Vec<Arc<Page>> {
        self.clock += 1;
        let mut pages = Vec::new();
        for key in chain.iter().take(most) {
            let Some(entry) = self.entries.get_mut(key) else {
                break;
            };
            self.order.remove(&entry.place);
            entry.place.used = self.clock;
            self.order.insert(entry.place);
            pages.push(entry.page.clone());
        }
        pages
    }

    /// How many pages [`Self::find`] would find; counts as no use of them.
    pub fn count(&self, chain: &[Key], most: usize) -> usize {
        let kept = |key: &&Key| self.entries.contains_key(*key);
        chain.iter().take(most).take_while(kept).count()
    }

    /// Keep a full page, the `depth`th of its chain. Where its twin is already kept,
    /// that one comes back, to be held instead.
    pub fn keep(&mut self, key: Key, depth: usize, page: &Arc<Page>) -> Option<Arc<Page>> {
        if let Some(entry) = self.entries.get(&key) {
            return (!Arc::ptr_eq(&entry.page, page)).then(|| entry.page.clone());
        }
        self.clock += 1;
        let place = Place {
            used: self.clock,
            depth: Reverse(depth),
            key,
        };
        self.order.insert(place);
        let page = page.clone();
        self.entries.insert(key, Entry { page, place });
        None
    }

    /// Pages that nobody else holds.
    pub fn idle(&self) -> usize {
        let idle = |entry: &&Entry| Arc::strong_count(&entry.page) == 1;
        self.entries.values().filter(idle).count()
    }

    /// Drop the page that was used least recently and that nobody else holds.
    pub fn evict(&mut self) -> bool {
        let idle = |place: &&Place| {
            let entry = self.entries.get(&place.key);
            entry.is_some_and(|entry| Arc::strong_count(&entry.page) == 1)
        };
        let Some(place) = self.order.iter().find(idle).copied() else {
            return false;
        };
        self.order.remove(&place);
        self.entries.remove(&place.key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::pages::Arena;
    use super::*;

    fn chain(tokens: &[u32]) -> Vec<Key> {
        let mut last = root(&[0; 32]);
        let keys = tokens.iter().map(|token| {
            last = key(&last, &[*token]);
            last
        });
        keys.collect()
    }

    #[test]
    fn a_key_names_everything_before_it_and_its_scope() {
        assert_eq!(chain(&[1, 2])[1], chain(&[1, 2, 3])[1]);
        assert_ne!(chain(&[1, 2])[1], chain(&[3, 2])[1]);
        assert_ne!(root(&[0; 32]), root(&[1; 32]));
    }

    #[test]
    fn the_longest_kept_beginning_is_found() {
        let arena = Arc::new(Arena::new(1, 100));
        let mut prefix = Prefix::default();
        let keys = chain(&[1, 2, 3]);
        for (depth, key) in keys[..2].iter().enumerate() {
            let page = Arc::new(arena.page().unwrap());
            assert!(prefix.keep(*key, depth, &page).is_none());
        }
        assert_eq!((prefix.count(&keys, 3), prefix.count(&keys, 1)), (2, 1));
        assert_eq!(prefix.find(&keys, 3).len(), 2);
        assert_eq!(prefix.find(&keys, 1).len(), 1);
        assert_eq!(prefix.find(&chain(&[2]), 1).len(), 0);
    }

    #[test]
    fn a_twin_is_given_back_to_be_held_instead() {
        let arena = Arc::new(Arena::new(1, 100));
        let mut prefix = Prefix::default();
        let (first, second) = (arena.page().unwrap(), arena.page().unwrap());
        let (first, second) = (Arc::new(first), Arc::new(second));
        let key = chain(&[1])[0];
        assert!(prefix.keep(key, 0, &first).is_none());
        assert!(prefix.keep(key, 0, &first).is_none());
        let kept = prefix.keep(key, 0, &second).unwrap();
        assert!(Arc::ptr_eq(&kept, &first));
    }

    #[test]
    fn the_least_recently_used_end_goes_first_and_held_pages_stay() {
        let arena = Arc::new(Arena::new(1, 100));
        let mut prefix = Prefix::default();
        let (old, new) = (chain(&[1, 2]), chain(&[7, 8]));
        for keys in [&new, &old] {
            for (depth, key) in keys.iter().enumerate() {
                prefix.keep(*key, depth, &Arc::new(arena.page().unwrap()));
            }
        }
        let held = prefix.find(&old, 1);
        prefix.find(&old, 2);
        prefix.find(&new, 2);
        assert_eq!(prefix.idle(), 3);
        // The end of the older chain, then the end and the beginning of the newer one.
        for (left_old, left_new) in [(1, 2), (1, 1), (1, 0)] {
            assert!(prefix.evict());
            let count = |keys: &[Key]| {
                keys.iter()
                    .filter(|k| prefix.entries.contains_key(*k))
                    .count()
            };
            assert_eq!((count(&old), count(&new)), (left_old, left_new));
        }
        assert!(!prefix.evict());
        drop(held);
        assert!(prefix.evict());
        assert_eq!((prefix.order.len(), arena.free()), (0, arena.capacity()));
    }
}
