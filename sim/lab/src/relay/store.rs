//! The events, by NIP-01's rules of which one stands, NIP-09's deletions and
//! NIP-40's expiry.
//!
//! Signatures are checked before, in `session`.
//!
//! Invariants: one event per replaceable or addressable coordinate; nothing
//! deleted by its author comes back; at most `MAX_EVENTS` are kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use nostr::event::Event;

use super::filter::Filter;
use super::limits::{MAX_EVENTS, MAX_TOMBSTONES};

/// Kind of a deletion request (NIP-09).
const KIND_DELETION: u16 = 5;

/// Newest first, then lowest id: NIP-01's order of an answer.
type Key = (Reverse<u64>, [u8; 32]);

/// An event with its number of arrival.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) event: Event,
    /// Orders arrivals, so that a subscription gets no event twice.
    pub(super) number: u64,
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Kept, or only to be passed on (ephemeral).
    Taken(Arc<Stored>),
    /// It is here already.
    Duplicate,
    /// Not taken; the text has NIP-01's prefix.
    Refused(&'static str),
}

/// What a kind number means for keeping (NIP-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    Regular,
    Replaceable,
    Ephemeral,
    Addressable,
}

fn keeping(kind: u16) -> Keeping {
    match kind {
        0 | 3 | 10_000..=19_999 => Keeping::Replaceable,
        20_000..=29_999 => Keeping::Ephemeral,
        30_000..=39_999 => Keeping::Addressable,
        _ => Keeping::Regular,
    }
}

#[derive(Default)]
pub(super) struct Store {
    events: BTreeMap<Key, Arc<Stored>>,
    by_id: HashMap<[u8; 32], Key>,
    /// `kind:pubkey:d` -> the event that stands.
    standing: HashMap<String, Key>,
    /// (event id, author) of deletions by id.
    deleted_ids: HashSet<(String, String)>,
    /// `kind:pubkey:d` -> versions up to this date are deleted.
    deleted_until: HashMap<String, u64>,
    arrivals: u64,
}

impl Store {
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Takes in one event whose signature is known to be good.
    pub(super) fn insert(&mut self, event: Event, now: u64) -> Outcome {
        match expiration(&event) {
            Expiration::Malformed => {
                return Outcome::Refused("invalid: expiration is no Unix time in seconds");
            }
            Expiration::At(end) if end <= now => {
                return Outcome::Refused("invalid: the event has expired");
            }
            _ => {}
        }
        let keeping = keeping(u16::from(event.kind));
        if keeping == Keeping::Ephemeral {
            return Outcome::Taken(self.number(event));
        }
        let key = key(&event);
        if self.by_id.contains_key(&key.1) {
            return Outcome::Duplicate;
        }
        let coordinate = coordinate(&event, keeping);
        if self.is_deleted(&event, coordinate.as_deref()) {
            return Outcome::Refused("blocked: its author deleted this event");
        }
        if let Some(coordinate) = &coordinate
            && let Some(standing) = self.standing.get(coordinate).copied()
        {
            // The smaller key is the newer event, or at one date the lower id.
            if standing <= key {
                return Outcome::Refused("blocked: a newer version of this event is here");
            }
            self.remove(standing);
        }
        if u16::from(event.kind) == KIND_DELETION
            && let Err(reason) = self.delete(&event)
        {
            return Outcome::Refused(reason);
        }
        self.make_room(now);
        let stored = self.number(event);
        self.by_id.insert(key.1, key);
        if let Some(coordinate) = coordinate {
            self.standing.insert(coordinate, key);
        }
        self.events.insert(key, stored.clone());
        Outcome::Taken(stored)
    }

    /// The answer to a REQ: events that match any filter, newest first, each
    /// filter giving at most its limit and `most`.
    pub(super) fn query(&self, filters: &[Filter], most: usize, now: u64) -> Vec<Arc<Stored>> {
        let mut found: BTreeMap<Key, Arc<Stored>> = BTreeMap::new();
        for filter in filters {
            let hits = self
                .events
                .iter()
                .filter(|(_, stored)| !is_expired(&stored.event, now))
                .filter(|(_, stored)| filter.matches(&stored.event))
                .take(filter.bound(most));
            found.extend(hits.map(|(key, stored)| (*key, stored.clone())));
        }
        found.into_values().collect()
    }

    fn number(&mut self, event: Event) -> Arc<Stored> {
        self.arrivals += 1;
        Arc::new(Stored {
            event,
            number: self.arrivals,
        })
    }

    fn is_deleted(&self, event: &Event, coordinate: Option<&str>) -> bool {
        let by_id = (event.id.to_hex(), event.pubkey.to_hex());
        let until = coordinate.and_then(|c| self.deleted_until.get(c));
        self.deleted_ids.contains(&by_id)
            || until.is_some_and(|until| event.created_at.as_secs() <= *until)
    }

    /// Carries out a deletion request: own events only, and no deletions.
    fn delete(&mut self, request: &Event) -> Result<(), &'static str> {
        let author = request.pubkey.to_hex();
        let date = request.created_at.as_secs();
        let kept = self.deleted_ids.len() + self.deleted_until.len();
        if kept + request.tags.iter().count() > MAX_TOMBSTONES {
            return Err("error: this relay remembers no more deletions");
        }
        for tag in request.tags.iter() {
            match tag.as_slice() {
                [name, id, ..] if name == "e" => self.delete_id(id, &author),
                [name, coordinate, ..] if name == "a" => {
                    self.delete_coordinate(coordinate, &author, date);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn delete_id(&mut self, id: &str, author: &str) {
        let mut raw = [0u8; 32];
        if hex::decode_to_slice(id, &mut raw).is_err() {
            return;
        }
        if let Some(key) = self.by_id.get(&raw).copied()
            && let Some(stored) = self.events.get(&key)
        {
            let own = stored.event.pubkey.to_hex() == author;
            if !own || u16::from(stored.event.kind) == KIND_DELETION {
                return;
            }
            self.remove(key);
        }
        self.deleted_ids.insert((id.to_owned(), author.to_owned()));
    }

    fn delete_coordinate(&mut self, coordinate: &str, author: &str, date: u64) {
        // kind:pubkey:d, where d may hold colons.
        let mut parts = coordinate.splitn(3, ':');
        let kind = parts.next().and_then(|kind| kind.parse::<u16>().ok());
        if kind.is_none() || parts.next() != Some(author) || parts.next().is_none() {
            return;
        }
        if let Some(key) = self.standing.get(coordinate).copied()
            && key.0.0 <= date
        {
            self.remove(key);
        }
        let until = self.deleted_until.entry(coordinate.to_owned()).or_default();
        *until = date.max(*until);
    }

    fn remove(&mut self, key: Key) {
        self.by_id.remove(&key.1);
        if let Some(stored) = self.events.remove(&key) {
            let keeping = keeping(u16::from(stored.event.kind));
            if let Some(coordinate) = coordinate(&stored.event, keeping) {
                self.standing.remove(&coordinate);
            }
        }
    }

    /// Makes room for one more: first what has expired, then the oldest.
    fn make_room(&mut self, now: u64) {
        if self.events.len() < MAX_EVENTS {
            return;
        }
        let expired: Vec<Key> = self
            .events
            .iter()
            .filter(|(_, stored)| is_expired(&stored.event, now))
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            self.remove(key);
        }
        while self.events.len() >= MAX_EVENTS {
            let Some((&oldest, _)) = self.events.last_key_value() else {
                return;
            };
            self.remove(oldest);
        }
    }
}

fn key(event: &Event) -> Key {
    (Reverse(event.created_at.as_secs()), *event.id.as_bytes())
}

/// `kind:pubkey:d` of an event that replaces its older versions.
fn coordinate(event: &Event, keeping: Keeping) -> Option<String> {
    let d = match keeping {
        Keeping::Regular | Keeping::Ephemeral => return None,
        Keeping::Replaceable => "",
        // No `d` tag counts as an empty one.
        Keeping::Addressable => event
            .tags
            .iter()
            .find_map(|tag| match tag.as_slice() {
                [name, value, ..] if name == "d" => Some(value.as_str()),
                _ => None,
            })
            .unwrap_or(""),
    };
    let kind = u16::from(event.kind);
    Some(format!("{kind}:{}:{d}", event.pubkey.to_hex()))
}

enum Expiration {
    Never,
    At(u64),
    Malformed,
}

fn expiration(event: &Event) -> Expiration {
    let tag = event.tags.iter().find_map(|tag| match tag.as_slice() {
        [name, rest @ ..] if name == "expiration" => Some(rest.first()),
        _ => None,
    });
    match tag {
        None => Expiration::Never,
        Some(value) => match value.and_then(|v| v.parse().ok()) {
            Some(end) => Expiration::At(end),
            None => Expiration::Malformed,
        },
    }
}

/// Whether it must not be served any more.
pub(super) fn is_expired(event: &Event, now: u64) -> bool {
    matches!(expiration(event), Expiration::At(end) if end <= now)
}

#[cfg(test)]
mod tests;
