//! Who could serve a query: matching, and ranking by score.
//!
//! Not scoring: Reputation scores what is matched here. Pure functions over the
//! book of listings; the machine keeps the tickets in between.

use super::io::{HostRow, Query};
use super::listings::{Listing, Listings};
use crate::ids::{Digest, ModelDigest, NodeKey};
use crate::inference::io::{Candidate, ModelSelector};
use crate::limits;
use crate::manifest::{ModelOffer, Role};
use crate::money::{Meter, Prices};
use crate::reputation::ScoreCard;
use crate::reputation::io::Subject;
use crate::time::{Now, WallTime};

/// A byte count is an upper bound of a token count; a token has rarely more than this many bytes.
/// Hosts are left out only where even the shortest prompt would not fit.
const MOST_BYTES_PER_TOKEN: u64 = 8;
/// A cool-down that ends within this time puts a host last; a longer one leaves it out. Milliseconds.
const LONG_COOLDOWN_MS: u64 = 600_000;
/// Tokens of prompt and of answer for which `List` compares prices.
const LISTED_TOKENS: u64 = 1_000;

/// A match, before it is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// What Inference gets, with an empty score.
    pub candidate: Candidate,
    /// Cost of the order at most, for ranking.
    pub ceiling_msat: u64,
    /// Its last pulse said that slots and queue are full.
    pub full: bool,
}

impl Match {
    /// What Reputation is asked.
    pub fn subject(&self) -> Subject {
        Subject {
            host: self.candidate.host,
            model: self.candidate.offer.digest,
            expected_cost_msat: self.ceiling_msat,
        }
    }
}

/// A card that says that nothing is known.
pub fn blank(host: NodeKey, model: ModelDigest) -> ScoreCard {
    ScoreCard {
        host,
        model,
        total_ppm: 0,
        terms: Vec::new(),
        served: false,
        cooldown: None,
    }
}

/// Every (host, model) that could serve `query`, cheapest first, at most [`limits::MAX_CANDIDATES`].
pub fn matches(listings: &Listings, query: &Query, own: &NodeKey, now: Now) -> Vec<Match> {
    let mut found: Vec<Match> = listings
        .alive(now.wall)
        .filter(|listing| listing.manifest.node != *own)
        .filter(|listing| listing.manifest.roles.contains(&query.role))
        .filter(|listing| query.host.is_none_or(|host| host == listing.manifest.node))
        .flat_map(|listing| listing.manifest.models.iter().map(move |m| (listing, m)))
        .filter(|(listing, offer)| wanted(offer, &query.model) && fits(listing, offer, query))
        .map(|(listing, offer)| Match {
            ceiling_msat: ceiling(offer, query),
            full: is_full(listings, listing, offer, now),
            candidate: candidate(listing, offer),
        })
        .collect();
    found.sort_by_key(|one| (one.full, one.ceiling_msat, rank_key(&one.candidate)));
    found.truncate(limits::MAX_CANDIDATES);
    found
}

/// Nodes that check answers: those that have the model themselves first, never this node.
pub fn validators(
    listings: &Listings,
    model: &ModelDigest,
    own: &NodeKey,
    now: Now,
) -> Vec<Candidate> {
    let mut found: Vec<(bool, Candidate)> = listings
        .alive(now.wall)
        .filter(|listing| listing.manifest.node != *own)
        .filter(|listing| listing.manifest.roles.contains(&Role::Validator))
        .map(|listing| match listing.manifest.offer(model) {
            Some(offer) => (false, candidate(listing, offer)),
            None => (true, candidate(listing, &checks_only(model))),
        })
        .collect();
    found.sort_by_key(|(lacks, one)| (*lacks, rank_key(one)));
    found.truncate(limits::MAX_CANDIDATES);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Puts the scored matches in order: best first, cooled-down and full ones last.
///
/// A long cool-down (a host that was caught) leaves it out, unless it was asked for by key.
pub fn ranked(
    found: Vec<Match>,
    mut cards: Vec<ScoreCard>,
    pinned: bool,
    now: WallTime,
) -> Vec<Candidate> {
    let mut scored: Vec<(bool, Candidate)> = found
        .into_iter()
        .map(|one| {
            let mut candidate = one.candidate;
            let (host, model) = (candidate.host, candidate.offer.digest);
            let card = cards
                .iter()
                .position(|card| card.host == host && card.model == model);
            if let Some(at) = card {
                candidate.score = cards.swap_remove(at);
            }
            let rest_ms = cooldown_ms(&candidate.score, now);
            (rest_ms, one.full, candidate)
        })
        .filter(|(rest_ms, ..)| pinned || *rest_ms <= LONG_COOLDOWN_MS)
        .map(|(rest_ms, full, candidate)| (rest_ms > 0 || full, candidate))
        .collect();
    // Stable, and the matches came cheapest first: equal scores keep the order of price, then key.
    scored.sort_by_key(|(last, one)| (*last, u32::MAX - one.score.total_ppm));
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Rows of the operator's table with what Reputation must be asked for each.
pub fn rows(listings: &Listings, now: Now) -> Vec<(HostRow, Subject)> {
    listings
        .alive(now.wall)
        .flat_map(|listing| listing.manifest.models.iter().map(move |m| (listing, m)))
        .map(|(listing, offer)| {
            let host = listing.manifest.node;
            let row = HostRow {
                manifest: listing.manifest.as_ref().clone(),
                model: offer.digest,
                relays: listing.relays.clone(),
                seen: listing.seen,
                pulse: listings.pulse(&host, &offer.digest, now.tick).cloned(),
                score: blank(host, offer.digest),
            };
            let subject = Subject {
                host,
                model: offer.digest,
                expected_cost_msat: listed_cost(offer),
            };
            (row, subject)
        })
        .take(limits::MAX_LISTINGS)
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

fn rank_key(candidate: &Candidate) -> (NodeKey, ModelDigest) {
    (candidate.host, candidate.offer.digest)
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

fn fits(listing: &Listing, offer: &ModelOffer, query: &Query) -> bool {
    let limits = &listing.manifest.limits;
    let shortest = query.input_tokens / MOST_BYTES_PER_TOKEN;
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

fn candidate(listing: &Listing, offer: &ModelOffer) -> Candidate {
    let manifest = &listing.manifest;
    Candidate {
        host: manifest.node,
        lightning: manifest.lightning,
        offer: offer.clone(),
        quantum: manifest.quantum,
        addresses: manifest.addresses.clone(),
        score: blank(manifest.node, offer.digest),
    }
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
