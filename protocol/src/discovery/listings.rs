//! The bounded book of verified listings, with their load reports.
//!
//! Not ranking: see `find`. The newest listing of an author wins; a listing that
//! expired is dead whatever a relay serves.
//!
//! A full book gives up what the fullest relay brought, so that one relay cannot fill it
//! alone, and hosts that served this node last.

use crate::crypto::Crypto;
use crate::ids::{ModelDigest, NodeKey};
use crate::machine::{Record, Table};
use crate::message::discovery::Pulse;
use crate::time::{Now, Tick, WallTime};
use crate::wire::envelope::Network;
use crate::wire::manifest::{Manifest, lightning_statement};
use crate::{codec, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A pulse older than this says nothing any more. Milliseconds. Three missed reports.
pub const PULSE_LIFE_MS: u64 = 3 * limits::PULSE_MIN_MS;
/// Least time between accepted pulses. Milliseconds. Half the sender's, as networks bunch messages up.
const PULSE_GAP_MS: u64 = limits::PULSE_MIN_MS / 2;
/// Longest stored listing. Bytes. The manifest and the names of its relays.
const MAX_RECORD_BYTES: usize = 2 * limits::MAX_MANIFEST_BYTES;
/// Most pulses remembered, those included that only bar their own repetition.
const MAX_PULSES: usize = 2 * limits::MAX_LISTINGS;
/// Most hosts that are kept for their service to this node. A quarter of the book, so that
/// a new host always finds a place.
const MAX_SERVED: usize = limits::MAX_LISTINGS / 4;

/// A verified listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The manifest; shared, as a simulated world has one for all its nodes.
    #[serde(with = "crate::wire::manifest::shared")]
    pub manifest: Arc<Manifest>,
    /// Creation time of the event that carried it.
    pub created: WallTime,
    /// When it is dead.
    pub expires: WallTime,
    /// Relays that served it, at most [`limits::MAX_LISTING_RELAYS`].
    pub relays: Vec<String>,
    /// When a relay last served it.
    pub seen: WallTime,
}

/// Every listing that holds.
#[derive(Debug)]
pub struct Listings {
    max: usize,
    known: BTreeMap<NodeKey, Listing>,
    /// Deletions, so that another relay cannot bring a deleted listing back.
    deleted: BTreeMap<NodeKey, WallTime>,
    /// The last pulse of each model at each host, kept for as long as its envelope's time
    /// would be accepted: a pulse counts only if it is newer.
    pulses: BTreeMap<(NodeKey, ModelDigest), (Tick, Pulse)>,
    /// Hosts that served this node, as Reputation last said.
    served: BTreeSet<NodeKey>,
}

impl Listings {
    /// An empty book of at most `max` listings.
    pub fn new(max: usize) -> Self {
        Listings {
            max: max.max(1),
            known: BTreeMap::new(),
            deleted: BTreeMap::new(),
            pulses: BTreeMap::new(),
            served: BTreeSet::new(),
        }
    }

    /// Notes whether a host served this node.
    pub fn note_served(&mut self, host: NodeKey, served: bool) {
        if !served {
            self.served.remove(&host);
        } else if self.served.len() < MAX_SERVED {
            self.served.insert(host);
        }
    }

    /// Returns whether the host is known to have served this node.
    pub fn has_served(&self, host: &NodeKey) -> bool {
        self.served.contains(host)
    }

    /// Returns whether more than half of the places are taken.
    pub fn is_crowded(&self) -> bool {
        self.known.len() > self.max / 2
    }

    /// Takes back a stored record, unless it expired.
    pub fn restore(&mut self, record: &Record, now: WallTime) {
        let (Table::Listings, Some(value)) = (record.table, &record.value) else {
            return;
        };
        let Ok(listing) = codec::decode::<Listing>(value, MAX_RECORD_BYTES) else {
            return;
        };
        if listing.expires > now && self.known.len() < self.max {
            self.known.insert(listing.manifest.node, listing);
        }
    }

    /// A relay served a listing; returns what to persist. Anything wrong with it is ignored:
    /// the relay may be the liar, and says nothing about the author.
    pub fn saw(
        &mut self,
        crypto: &dyn Crypto,
        network: Network,
        now: WallTime,
        relay: &str,
        found: Listing,
    ) -> Vec<Record> {
        let author = found.manifest.node;
        if let Some(known) = self.known.get(&author)
            && known.created >= found.created
        {
            if known.created == found.created && known.manifest == found.manifest {
                return self.seen_again(&author, relay, now);
            }
            return Vec::new();
        }
        if !self.acceptable(crypto, network, now, &found) {
            return Vec::new();
        }
        let mut listing = found;
        listing.seen = now;
        listing.expires = listing.expires.min(listing.manifest.expires);
        add_relay(&mut listing.relays, relay);
        self.deleted.remove(&author);
        let mut records = vec![record(&author, Some(&listing))];
        self.known.insert(author, listing);
        if self.known.len() > self.max {
            records.extend(self.evict(&author));
        }
        records
    }

    fn seen_again(&mut self, author: &NodeKey, relay: &str, now: WallTime) -> Vec<Record> {
        let Some(known) = self.known.get_mut(author) else {
            return Vec::new();
        };
        known.seen = now;
        match add_relay(&mut known.relays, relay) {
            true => vec![record(author, Some(known))],
            false => Vec::new(),
        }
    }

    fn acceptable(
        &self,
        crypto: &dyn Crypto,
        network: Network,
        now: WallTime,
        found: &Listing,
    ) -> bool {
        let manifest = &found.manifest;
        let author = &manifest.node;
        let from_the_future = found.created > now.after_ms(limits::ENVELOPE_WINDOW_MS);
        let taken_back = self
            .deleted
            .get(author)
            .is_some_and(|at| *at >= found.created);
        if manifest.network != network
            || manifest.check(author, now).is_err()
            || found.expires <= now
            || from_the_future
            || taken_back
        {
            return false;
        }
        let proved_before = self.known.get(author).is_some_and(|known| {
            known.manifest.lightning == manifest.lightning
                && known.manifest.lightning_proof == manifest.lightning_proof
        });
        proved_before
            || crypto.verify_lightning(
                &manifest.lightning,
                &lightning_statement(author, network),
                &manifest.lightning_proof,
            )
    }

    /// Each listing is on the account of the least used of its relays. The fullest account
    /// gives up what was seen longest ago; hosts that served this node go last.
    fn evict(&mut self, but: &NodeKey) -> Option<Record> {
        let mut use_of: BTreeMap<&str, usize> = BTreeMap::new();
        for relay in self.known.values().flat_map(|listing| &listing.relays) {
            *use_of.entry(relay).or_default() += 1;
        }
        let account = |listing: &'_ Listing| {
            let relays = listing.relays.iter().map(String::as_str);
            let least = relays.min_by_key(|relay| (use_of.get(relay).copied(), *relay));
            least.and_then(|least| use_of.get_key_value(least).map(|(relay, _)| *relay))
        };
        let mut load: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for listing in self.known.values() {
            *load.entry(account(listing)).or_default() += 1;
        }
        let fullest = load.iter().max_by_key(|(_, count)| **count);
        let fullest = fullest.and_then(|(relay, _)| *relay);
        let oldest = self
            .known
            .iter()
            .filter(|(author, _)| *author != but)
            .min_by_key(|(author, listing)| {
                let elsewhere = account(listing) != fullest;
                (self.has_served(author), elsewhere, listing.seen, **author)
            })
            .map(|(author, _)| *author)?;
        Some(self.remove(&oldest))
    }

    fn remove(&mut self, author: &NodeKey) -> Record {
        self.known.remove(author);
        record(author, None)
    }

    /// A relay served a deletion that was verified.
    pub fn deleted(&mut self, author: NodeKey, at: WallTime, now: WallTime) -> Vec<Record> {
        let at = at.min(now.after_ms(limits::ENVELOPE_WINDOW_MS));
        if self.deleted.len() >= self.max && !self.deleted.contains_key(&author) {
            let oldest = self
                .deleted
                .iter()
                .min_by_key(|(author, at)| (**at, **author));
            if let Some(oldest) = oldest.map(|(author, _)| *author) {
                self.deleted.remove(&oldest);
            }
        }
        let latest = self.deleted.entry(author).or_insert(at);
        *latest = (*latest).max(at);
        match self.known.get(&author) {
            Some(listing) if listing.created <= at => vec![self.remove(&author)],
            _ => Vec::new(),
        }
    }

    /// A pulse arrived. It counts only from the host itself, on a model that it
    /// lists, with a later time than the last and not too soon after it. So one that
    /// somebody sends again says nothing, even after the last was too old to be used.
    pub fn pulsed(&mut self, from: Option<NodeKey>, pulse: Pulse, now: Now) {
        let off_ms = now
            .wall
            .ms_since(pulse.time)
            .max(pulse.time.ms_since(now.wall));
        let listed = self
            .known
            .get(&pulse.host)
            .is_some_and(|listing| listing.manifest.offer(&pulse.model).is_some());
        if from != Some(pulse.host) || !listed || off_ms > limits::ENVELOPE_WINDOW_MS {
            return;
        }
        let key = (pulse.host, pulse.model);
        if let Some((at, last)) = self.pulses.get(&key)
            && (now.tick.ms_since(*at) < PULSE_GAP_MS || last.time >= pulse.time)
        {
            return;
        }
        if self.pulses.len() < MAX_PULSES || self.pulses.contains_key(&key) {
            self.pulses.insert(key, (now.tick, pulse));
        }
    }

    /// The latest pulse of a model at a host, unless it is too old to mean anything.
    pub fn pulse(&self, host: &NodeKey, model: &ModelDigest, tick: Tick) -> Option<&Pulse> {
        let (at, pulse) = self.pulses.get(&(*host, *model))?;
        (tick.ms_since(*at) < PULSE_LIFE_MS).then_some(pulse)
    }

    /// Drops what expired; returns the deletions to persist.
    pub fn sweep(&mut self, now: Now) -> Vec<Record> {
        let dead: Vec<NodeKey> = self
            .known
            .iter()
            .filter(|(_, listing)| listing.expires <= now.wall)
            .map(|(author, _)| *author)
            .collect();
        self.pulses.retain(|_, (at, pulse)| {
            now.tick.ms_since(*at) < PULSE_LIFE_MS
                || now.wall.ms_since(pulse.time) <= limits::ENVELOPE_WINDOW_MS
        });
        // A listing lives at most two lifetimes, so an older deletion protects from nothing.
        self.deleted
            .retain(|_, at| now.wall.ms_since(*at) < 2 * limits::LISTING_TTL_MS);
        dead.iter().map(|author| self.remove(author)).collect()
    }

    /// Every listing that holds at `now`, by author.
    pub fn alive(&self, now: WallTime) -> impl Iterator<Item = &Listing> {
        self.known
            .values()
            .filter(move |listing| listing.expires > now)
    }

    /// Returns how many listings are kept.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns whether there is nothing to sweep.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.deleted.is_empty() && self.pulses.is_empty()
    }
}

fn add_relay(relays: &mut Vec<String>, relay: &str) -> bool {
    let wanted = relays.len() < limits::MAX_LISTING_RELAYS
        && relay.len() <= limits::MAX_SHORT_TEXT_BYTES
        && !relays.iter().any(|known| known == relay);
    if wanted {
        relays.push(relay.to_owned());
    }
    wanted
}

fn record(author: &NodeKey, listing: Option<&Listing>) -> Record {
    Record {
        table: Table::Listings,
        key: author.0.to_vec(),
        value: listing.map(codec::encode),
    }
}
