//! Who could serve a query: matching, and ranking by score.
//!
//! Not scoring: Reputation scores what is matched here, all of it, before anything is cut.
//! Functions over the book of listings; the machine keeps the tickets in between.

use super::listings::{Listing, Listings};
use crate::ids::{Digest, ModelDigest, NodeKey};
use crate::limits;
use crate::message::discovery::{Candidate, HostRow, Subject};
use crate::message::inference::{ModelSelector, Query};
use crate::message::reputation::{ScoreCard, Standing};
use crate::money::{Meter, Prices};
use crate::time::{Now, WallTime};
use crate::wire::manifest::{Manifest, ModelOffer, Role};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens of ordinary text have rarely more bytes than this. Hosts are left out only where even
/// the shortest prompt would not fit.
const MOST_BYTES_PER_TOKEN: u64 = 32;
/// A cool-down that ends within this time puts a host last; a longer one leaves it out. Milliseconds.
const LONG_COOLDOWN_MS: u64 = 600_000;
/// Places among the candidates for hosts that served this node, however many others there are.
const SERVED_SHARE: usize = limits::MAX_CANDIDATES / 2;
/// Tokens of prompt and of answer for which `List` compares prices.
const LISTED_TOKENS: u64 = 1_000;

/// An offer that fits, before it is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    manifest: Arc<Manifest>,
    /// Where the offer stands in the manifest; `None`: it lists the model nowhere.
    offer: Option<usize>,
    model: ModelDigest,
    /// Cost of the order at most, for ranking.
    ceiling_msat: u64,
    /// Its last pulse said that slots and queue are full.
    full: bool,
}

impl Match {
    /// What Reputation is asked.
    pub fn subject(&self) -> Subject {
        Subject {
            host: self.manifest.node,
            model: self.model,
            expected_cost_msat: self.ceiling_msat,
        }
    }

    fn candidate(&self, score: ScoreCard) -> Candidate {
        let manifest = &self.manifest;
        let offer = self.offer.and_then(|at| manifest.models.get(at)).cloned();
        Candidate {
            host: manifest.node,
            lightning: manifest.lightning,
            offer: offer.unwrap_or_else(|| checks_only(&self.model)),
            quantum: manifest.quantum,
            keep_days: manifest.keep_days,
            addresses: manifest.addresses.clone(),
            score,
        }
    }
}

/// Every host that could serve `query`, with its cheapest offer that fits. One place for a
/// host, however many models it lists.
pub fn matches(listings: &Listings, query: &Query, own: &NodeKey, now: Now) -> Vec<Match> {
    listings
        .alive(now.wall)
        .filter(|listing| listing.manifest.node != *own)
        .filter(|listing| listing.manifest.roles.contains(&query.role))
        .filter(|listing| takes_mode(&listing.manifest, query))
        .filter(|listing| query.host.is_none_or(|host| host == listing.manifest.node))
        .filter_map(|listing| {
            let offers = listing.manifest.models.iter().enumerate();
            let fitting = offers
                .filter(|(_, offer)| wanted(offer, &query.model) && fits(listing, offer, query));
            let (at, offer) = fitting.min_by_key(|(at, offer)| (ceiling(offer, query), *at))?;
            Some(Match {
                offer: Some(at),
                model: offer.digest,
                ceiling_msat: ceiling(offer, query),
                full: is_full(listings, listing, offer, now),
                manifest: listing.manifest.clone(),
            })
        })
        .collect()
}

/// Every node that checks answers, but this one.
pub fn validators(listings: &Listings, model: &ModelDigest, own: &NodeKey, now: Now) -> Vec<Match> {
    listings
        .alive(now.wall)
        .filter(|listing| listing.manifest.node != *own)
        .filter(|listing| listing.manifest.roles.contains(&Role::Validator))
        .map(|listing| Match {
            offer: listing
                .manifest
                .models
                .iter()
                .position(|offer| offer.digest == *model),
            model: *model,
            ceiling_msat: 0,
            full: false,
            manifest: listing.manifest.clone(),
        })
        .collect()
}

/// A match with its card and a number drawn for it.
struct Scored {
    one: Match,
    card: ScoreCard,
    rest_ms: u64,
    draw: u64,
}

impl Scored {
    fn served(&self) -> bool {
        self.card.standing == Standing::Served
    }

    /// It kept a payment for nothing, never served, and may be tried again.
    fn kept(&self) -> bool {
        self.card.standing == Standing::Kept && self.rest_ms == 0
    }

    /// Best first: full and cooled-down hosts last, before them those that kept a payment, and
    /// before these those that only ever failed; then by score, price, and the number drawn.
    fn rank(&self) -> (u8, u32, u64, u64) {
        let class = match self.card.standing {
            _ if self.rest_ms > 0 || self.one.full => 3,
            Standing::Kept => 2,
            Standing::Failed => 1,
            Standing::Served | Standing::Unknown => 0,
        };
        let missing = u32::MAX - self.card.total_ppm;
        (class, missing, self.one.ceiling_msat, self.draw)
    }

    fn candidate(self) -> Candidate {
        self.one.candidate(self.card)
    }
}

/// Joins matches and cards. A long cool-down (a host that was caught) leaves a host out,
/// unless it was asked for by key.
fn scored(
    found: Vec<Match>,
    cards: Vec<ScoreCard>,
    pinned: bool,
    now: WallTime,
    rng: &mut ChaCha8Rng,
) -> Vec<Scored> {
    let mut cards: BTreeMap<(NodeKey, ModelDigest), ScoreCard> = cards
        .into_iter()
        .map(|card| ((card.host, card.model), card))
        .collect();
    found
        .into_iter()
        .map(|one| {
            let (host, model) = (one.manifest.node, one.model);
            let card = cards.remove(&(host, model));
            let card = card.unwrap_or_else(|| ScoreCard::blank(host, model));
            Scored {
                rest_ms: cooldown_ms(&card, now),
                draw: rng.r#gen(),
                card,
                one,
            }
        })
        .filter(|one| pinned || one.rest_ms <= LONG_COOLDOWN_MS)
        .collect()
}

/// Chooses at most [`limits::MAX_CANDIDATES`] of the scored matches, best first.
///
/// Hosts that served this node have `SERVED_SHARE` places of their own. Of the others'
/// places half go to the best, and half are drawn: whoever lists most and cheapest does
/// not fill them all. One of the drawn places is for the best of those that kept a payment
/// and never served: an honest host whose network failed once is not behind all of a flood.
pub fn ranked(
    found: Vec<Match>,
    cards: Vec<ScoreCard>,
    pinned: bool,
    now: WallTime,
    rng: &mut ChaCha8Rng,
) -> Vec<Candidate> {
    let mut all = scored(found, cards, pinned, now, rng);
    all.sort_by_key(Scored::rank);
    let (mut chosen, mut others): (Vec<Scored>, Vec<Scored>) =
        all.into_iter().partition(Scored::served);
    let free = limits::MAX_CANDIDATES.saturating_sub(others.len());
    chosen.truncate(free.max(SERVED_SHARE));
    let places = limits::MAX_CANDIDATES.saturating_sub(chosen.len());
    if others.len() > places {
        let mut drawn = others.split_off(places.div_ceil(2));
        let kept = match others.iter().any(Scored::kept) {
            true => None,
            false => drawn.iter().position(Scored::kept),
        };
        let kept = kept.map(|at| drawn.remove(at));
        drawn.sort_by_key(|one| one.draw);
        drawn.truncate((places / 2).saturating_sub(usize::from(kept.is_some())));
        others.extend(drawn);
        others.extend(kept);
    }
    chosen.extend(others);
    chosen.sort_by_key(Scored::rank);
    chosen.into_iter().map(Scored::candidate).collect()
}

/// Chooses at most [`limits::MAX_CANDIDATES`] validators: those that have the model first,
/// then those that served this node, the rest by lot. A key that was chosen for its
/// place in the book gains nothing.
pub fn drawn(
    found: Vec<Match>,
    cards: Vec<ScoreCard>,
    now: WallTime,
    rng: &mut ChaCha8Rng,
) -> Vec<Candidate> {
    let mut all = scored(found, cards, false, now, rng);
    all.sort_by_key(|one| (one.one.offer.is_none(), !one.served(), one.draw));
    all.truncate(limits::MAX_CANDIDATES);
    all.into_iter().map(Scored::candidate).collect()
}

/// Rows of the operator's table with what Reputation must be asked for each, by host, at
/// most [`limits::MAX_LISTINGS`]. All models of hosts that served this node, in half of the
/// rows at most; of the others the first of each, then the second of each, and so on.
pub fn rows(listings: &Listings, now: Now) -> Vec<(HostRow, Subject)> {
    let all = |listing: &Listing| listing.manifest.models.len();
    let (served, others): (Vec<&Listing>, Vec<&Listing>) = listings
        .alive(now.wall)
        .partition(|listing| listings.has_served(&listing.manifest.node));
    let mut chosen: Vec<(&Listing, usize)> = served
        .into_iter()
        .flat_map(|listing| (0..all(listing)).map(move |at| (listing, at)))
        .take(limits::MAX_LISTINGS / 2)
        .collect();
    let most = others.iter().map(|listing| all(listing)).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|at| others.iter().map(move |listing| (*listing, at)));
    let free = limits::MAX_LISTINGS - chosen.len();
    chosen.extend(
        in_turn
            .filter(|(listing, at)| *at < all(listing))
            .take(free),
    );
    chosen.sort_by_key(|(listing, at)| (listing.manifest.node, *at));
    chosen
        .into_iter()
        .filter_map(|(listing, at)| {
            let offer = listing.manifest.models.get(at)?;
            Some(row(listings, listing, offer, now))
        })
        .collect()
}

fn row(listings: &Listings, listing: &Listing, offer: &ModelOffer, now: Now) -> (HostRow, Subject) {
    let host = listing.manifest.node;
    let row = HostRow {
        manifest: listing.manifest.clone(),
        model: offer.digest,
        relays: listing.relays.clone(),
        seen: listing.seen,
        pulse: listings.pulse(&host, &offer.digest, now.tick).cloned(),
        score: ScoreCard::blank(host, offer.digest),
    };
    let subject = Subject {
        host,
        model: offer.digest,
        expected_cost_msat: listed_cost(offer),
    };
    (row, subject)
}

/// What Reputation is asked to learn which hosts served this node: one question for a host.
pub fn acquaintances(listings: &Listings, now: Now) -> Vec<Subject> {
    listings
        .alive(now.wall)
        .filter_map(|listing| {
            Some(Subject {
                host: listing.manifest.node,
                model: listing.manifest.models.first()?.digest,
                expected_cost_msat: 0,
            })
        })
        .collect()
}

/// What a table compares offers by: a usual order, or a text to embed.
fn listed_cost(offer: &ModelOffer) -> u64 {
    let (meter, units) = match offer.embeds() {
        true => (Meter::Item, 1),
        false => (Meter::OutputToken, LISTED_TOKENS),
    };
    most_cost(offer, LISTED_TOKENS, meter, units)
}

fn cooldown_ms(card: &ScoreCard, now: WallTime) -> u64 {
    card.cooldown
        .as_ref()
        .map_or(0, |(until, _)| until.ms_since(now))
}

fn wanted(offer: &ModelOffer, model: &ModelSelector) -> bool {
    match model {
        ModelSelector::Name(name) => offer.name == *name,
        ModelSelector::Digest(digest) => offer.digest == *digest,
        ModelSelector::Any => true,
    }
}

fn takes_mode(manifest: &Manifest, query: &Query) -> bool {
    query.role != Role::Host || manifest.payment_modes.contains(&query.mode)
}

fn fits(listing: &Listing, offer: &ModelOffer, query: &Query) -> bool {
    let limits = &listing.manifest.limits;
    let shortest = query.input_bytes / MOST_BYTES_PER_TOKEN;
    // The longest text of many is not known here: the host looks at it.
    let whole = match query.items {
        0 => shortest.saturating_add(query.output_tokens),
        _ => 0,
    };
    offer.embeds() == (query.items > 0)
        && query.output_tokens <= u64::from(limits.output_tokens)
        && shortest <= u64::from(limits.prompt_tokens)
        && whole <= u64::from(offer.context)
}

fn ceiling(offer: &ModelOffer, query: &Query) -> u64 {
    let (meter, units) = match query.items {
        0 => (Meter::OutputToken, query.output_tokens),
        items => (Meter::Item, items),
    };
    most_cost(offer, query.input_tokens, meter, units)
}

fn most_cost(offer: &ModelOffer, input: u64, meter: Meter, units: u64) -> u64 {
    let most = offer.ceiling(input, meter, units);
    most.map_or(u64::MAX, |msat| msat.0)
}

fn is_full(listings: &Listings, listing: &Listing, offer: &ModelOffer, now: Now) -> bool {
    listings
        .pulse(&listing.manifest.node, &offer.digest, now.tick)
        .is_some_and(|pulse| {
            pulse.running >= pulse.slots && pulse.queued >= listing.manifest.limits.queued_orders
        })
}

/// Stands for the offer of a validator that does not sell the model; it may have it all the same.
fn checks_only(model: &ModelDigest) -> ModelOffer {
    ModelOffer {
        name: String::new(),
        digest: *model,
        tokenizer: Digest([0; 32]),
        template: Digest([0; 32]),
        architecture: String::new(),
        quantisation: String::new(),
        context: 0,
        numerics: None,
        prices: Prices::default(),
    }
}
