//! The discovery machine.
//!
//! # States
//! A book of listings; open tickets (questions put to Reputation); our own
//! listing with a state of its own (see [`super::announce`]).
//!
//! # Inputs and effects
//! See [`crate::message::discovery`].
//!
//! # Invariants
//! - Nothing is answered from a listing that expired, is for another network, or
//!   whose Lightning node did not sign the node key.
//! - Every `List` is answered exactly once, with or without scores. `Find` and `FindValidators`
//!   are answered once at most, and name nobody of whom it is not known whether it lied, unless
//!   it was asked for by key: where scores do not come, no validator is named, and a buyer gives
//!   up at its own deadline.
//! - This node is never its own candidate.
//! - Nothing is cut before it is scored, and no number of listings takes the places of
//!   hosts that served this node (see [`super::find::ranked`]).
//! - Listings, tickets, topics, relays and pulses are bounded. Tickets are this node's own
//!   questions: no stranger opens one.
//!
//! # Crash recovery
//! Listings come back from [`Table::Listings`]; tickets
//! and our own announcement do not: the operator announces again at start.

use super::announce::Own;
use super::find::{self, Match};
use super::listings::{Listing, Listings};
use crate::crypto::Crypto;
use crate::ids::{EffectId, ModelDigest, NodeKey, RequestId};
use crate::limits;
use crate::machine::{EffectIds, Machine, Outbox, Record, Secrets, Table};
use crate::message::discovery::{Effect, HostRow, Input, Subject};
use crate::message::inference::Query;
use crate::message::reputation::{ScoreCard, Standing};
use crate::message::sibling::Message;
use crate::time::{Now, Tick, WallTime};
use crate::wire::envelope::Network;
use crate::wire::manifest::Manifest;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How often expired listings are swept out. Milliseconds. They are never used meanwhile.
const SWEEP_MS: u64 = 60_000;
/// Candidates of an answer whose models' topics are followed. As many as an order may dial, and one.
const FOLLOWED_CANDIDATES: usize = 4;

/// What the operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Listings for any other network are ignored.
    pub network: Network,
    /// Most listings kept, at most [`limits::MAX_LISTINGS`].
    pub max_listings: usize,
    /// How long Reputation may take before a list goes out unscored. Milliseconds.
    pub ticket_ms: u64,
    /// How long it may take before nobody is chosen: within what a buyer waits. Milliseconds.
    pub choice_ms: u64,
}

impl Config {
    /// The usual settings for a network.
    pub fn new(network: Network) -> Self {
        Config {
            network,
            max_listings: limits::MAX_LISTINGS,
            ticket_ms: 2_000,
            choice_ms: 10_000,
        }
    }
}

/// What is answered once the scores are there.
#[derive(Debug)]
enum Ticket {
    Find {
        request: RequestId,
        found: Vec<Match>,
        pinned: bool,
    },
    Validators {
        id: EffectId,
        found: Vec<Match>,
    },
    List {
        id: EffectId,
        rows: Vec<HostRow>,
    },
    /// Nobody waits for it: the book learns who served this node.
    Learn,
}

/// Listings in, ranked candidates out.
pub struct Discovery {
    config: Config,
    crypto: Box<dyn Crypto>,
    key: NodeKey,
    rng: ChaCha8Rng,
    ids: EffectIds,
    listings: Listings,
    tickets: BTreeMap<EffectId, (Tick, Ticket)>,
    topics: BTreeSet<ModelDigest>,
    own: Option<Own>,
    sweep: Tick,
    /// Reputation was asked since the start who served this node.
    learned: bool,
}

impl Discovery {
    /// Starts knowing nobody.
    pub fn new(config: Config, crypto: Box<dyn Crypto>, seed: [u8; 32]) -> Self {
        Discovery {
            listings: Listings::new(config.max_listings.min(limits::MAX_LISTINGS)),
            key: crypto.key(),
            config,
            crypto,
            rng: ChaCha8Rng::from_seed(seed),
            ids: EffectIds::default(),
            tickets: BTreeMap::new(),
            topics: BTreeSet::new(),
            own: None,
            sweep: Tick(0),
            learned: false,
        }
    }

    /// Returns how many listings are kept.
    pub fn listed(&self) -> usize {
        self.listings.len()
    }

    fn find(&mut self, now: Now, request: RequestId, query: &Query, out: &mut Outbox<Effect>) {
        let found = find::matches(&self.listings, query, &self.key, now);
        let subjects: Vec<Subject> = found.iter().map(Match::subject).collect();
        let ticket = Ticket::Find {
            request,
            found,
            pinned: query.host.is_some(),
        };
        self.ask(now, ticket, subjects, out);
    }

    fn list(&mut self, now: Now, id: EffectId, out: &mut Outbox<Effect>) {
        let (rows, subjects) = find::rows(&self.listings, now).into_iter().unzip();
        self.ask(now, Ticket::List { id, rows }, subjects, out);
    }

    /// Puts a question to Reputation, unless there is nobody to ask about.
    fn ask(&mut self, now: Now, ticket: Ticket, subjects: Vec<Subject>, out: &mut Outbox<Effect>) {
        if subjects.is_empty() {
            return self.answer(ticket, Vec::new(), now.wall, out);
        }
        if self.tickets.len() >= limits::MAX_TICKETS {
            return self.unscored(ticket, now.wall, out);
        }
        let id = self.ids.fresh();
        let wait_ms = match ticket {
            Ticket::Find { .. } | Ticket::Validators { .. } => self.config.choice_ms,
            Ticket::List { .. } | Ticket::Learn => self.config.ticket_ms,
        };
        let until = now.tick.after_ms(wait_ms);
        self.tickets.insert(id, (until, ticket));
        out.push(Effect::Tell(Message::ScoreHosts { id, subjects }));
    }

    /// What is said where no scores come.
    fn unscored(&mut self, ticket: Ticket, now: WallTime, out: &mut Outbox<Effect>) {
        match ticket {
            Ticket::Find { pinned: false, .. } => {}
            Ticket::Validators { id, .. } => {
                let hosts = Vec::new();
                out.push(Effect::Tell(Message::ValidatorsFound { id, hosts }));
            }
            ticket => self.answer(ticket, Vec::new(), now, out),
        }
    }

    /// Follows a model's topic. Models of hosts that never served this node take half of the
    /// topics at most: anybody can list models.
    fn follow(&mut self, model: ModelDigest, familiar: bool, out: &mut Outbox<Effect>) {
        let most = match familiar {
            true => limits::MAX_TOPICS,
            false => limits::MAX_TOPICS / 2,
        };
        if self.topics.len() < most && self.topics.insert(model) {
            out.push(Effect::Follow(model));
        }
    }

    /// Asks who of the listed hosts served this node: at the start, and while the book is
    /// so full that it may have to give up listings.
    fn learn(&mut self, now: Now, out: &mut Outbox<Effect>) {
        if !self.learned || self.listings.is_crowded() {
            let subjects = find::acquaintances(&self.listings, now);
            self.learned |= !subjects.is_empty();
            self.ask(now, Ticket::Learn, subjects, out);
        }
    }

    fn answer(
        &mut self,
        ticket: Ticket,
        cards: Vec<ScoreCard>,
        now: WallTime,
        out: &mut Outbox<Effect>,
    ) {
        for card in &cards {
            let served = card.standing == Standing::Served;
            if served || matches!(ticket, Ticket::Learn) {
                self.listings.note_served(card.host, served);
            }
        }
        match ticket {
            Ticket::Find {
                request,
                found,
                pinned,
            } => {
                let hosts = find::ranked(found, cards, pinned, now, &mut self.rng);
                for one in hosts.iter().take(FOLLOWED_CANDIDATES) {
                    let familiar = one.score.standing == Standing::Served;
                    self.follow(one.offer.digest, familiar, out);
                }
                out.push(Effect::Tell(Message::CandidatesFound { request, hosts }));
            }
            Ticket::Validators { id, found } => {
                let hosts = find::drawn(found, cards, now, &mut self.rng);
                out.push(Effect::Tell(Message::ValidatorsFound { id, hosts }));
            }
            Ticket::List { id, rows } => {
                let hosts = with_scores(rows, cards);
                out.push(Effect::Reply { id, hosts });
            }
            Ticket::Learn => {}
        }
    }

    fn announce(&mut self, now: Now, manifest: Manifest, out: &mut Outbox<Effect>) {
        let mut dated = manifest.clone();
        dated.created = now.wall;
        dated.expires = now.wall.after_ms(limits::LISTING_TTL_MS);
        let wrong = match dated.check(&self.key, now.wall) {
            _ if dated.network != self.config.network => Some(format!(
                "it is for {}, this node is on {}: correct `network` in freehold.toml",
                dated.network.name(),
                self.config.network.name()
            )),
            Err(error) => Some(format!("{error}: correct [host] in freehold.toml")),
            Ok(()) => None,
        };
        if let Some(wrong) = wrong {
            out.push(Effect::Notice(format!("Not listed: {wrong}.")));
            return;
        }
        for model in &manifest.models {
            self.follow(model.digest, true, out);
        }
        let before = self.own.take();
        self.own = Some(Own::new(manifest, before, now, &mut self.ids, out));
    }

    fn saw(
        &mut self,
        now: Now,
        relay: &str,
        author: NodeKey,
        listing: Listing,
        out: &mut Outbox<Effect>,
    ) {
        if listing.manifest.node != author {
            return;
        }
        let (crypto, network) = (self.crypto.as_ref(), self.config.network);
        let records = self.listings.saw(crypto, network, now.wall, relay, listing);
        persist(records, out);
        if self.sweep <= now.tick {
            self.sweep = now.tick.after_ms(SWEEP_MS);
        }
    }
}

fn persist(records: Vec<Record>, out: &mut Outbox<Effect>) {
    if !records.is_empty() {
        out.push(Effect::Persist(records));
    }
}

/// The cards come in the order of the rows; a card of another row is not shown.
fn with_scores(rows: Vec<HostRow>, cards: Vec<ScoreCard>) -> Vec<HostRow> {
    let mut cards = cards.into_iter();
    rows.into_iter()
        .map(|mut row| {
            if let Some(card) = cards.next()
                && card.host == row.manifest.node
                && card.model == row.model
            {
                row.score = card;
            }
            row
        })
        .collect()
}

impl Machine for Discovery {
    type Input = Input;
    type Effect = Effect;
    type Config = Config;

    const TABLES: &'static [Table] = &[Table::Listings];

    /// Listings that expired meanwhile are left out.
    fn recover(
        config: Config,
        secrets: Secrets,
        records: impl Iterator<Item = Record>,
        now: Now,
    ) -> Self {
        let mut machine = Discovery::new(config, secrets.node, secrets.seed);
        for record in records {
            machine.listings.restore(&record, now.wall);
        }
        machine.sweep = now.tick;
        machine
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        match input {
            Input::ListingSeen {
                relay,
                author,
                created,
                expires,
                manifest,
            } => {
                let listing = Listing {
                    manifest,
                    created,
                    expires,
                    relays: Vec::new(),
                    seen: now.wall,
                };
                self.saw(now, &relay, author, listing, out);
            }
            Input::ListingDeleted { author, at } => {
                persist(self.listings.deleted(author, at, now.wall), out);
            }
            Input::PulseSeen { from, pulse } => self.listings.pulsed(from, pulse, now),
            Input::LoadChanged {
                model,
                running,
                queued,
                slots,
            } => {
                if let Some(own) = &mut self.own {
                    own.load(now, self.key, model, (running, queued, slots), out);
                }
            }
            Input::FindCandidates { request, query } => self.find(now, request, &query, out),
            Input::FindValidators { id, model } => {
                let found = find::validators(&self.listings, &model, &self.key, now);
                let subjects = found.iter().map(Match::subject).collect();
                self.ask(now, Ticket::Validators { id, found }, subjects, out);
            }
            Input::HostsScored { id, cards } => {
                if let Some((_, ticket)) = self.tickets.remove(&id) {
                    self.answer(ticket, cards, now.wall, out);
                }
            }
            Input::Announce(manifest) => self.announce(now, *manifest, out),
            Input::Withdraw => {
                if let Some(own) = self.own.take() {
                    own.withdraw(out);
                }
            }
            Input::SelfTested { id, result } => {
                if let Some(own) = &mut self.own {
                    own.tested(now, id, result, &mut self.ids, out);
                }
            }
            Input::Published {
                id,
                accepted,
                refused,
            } => match &mut self.own {
                Some(own) => own.published(now, id, &accepted, &refused, &mut self.rng, out),
                // Taken back while it was on its way.
                None => out.push(Effect::Unpublish),
            },
            Input::List { id } => self.list(now, id, out),
        }
    }

    fn expire(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let due: Vec<EffectId> = self
            .tickets
            .iter()
            .filter(|(_, (until, _))| *until <= now.tick)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some((_, ticket)) = self.tickets.remove(&id) {
                self.unscored(ticket, now.wall, out);
            }
        }
        if !self.listings.is_empty() && self.sweep <= now.tick {
            persist(self.listings.sweep(now), out);
            self.learn(now, out);
            self.sweep = now.tick.after_ms(SWEEP_MS);
        }
        if let Some(own) = &mut self.own {
            own.expire(now, self.key, &mut self.ids, out);
        }
    }

    fn deadline(&self) -> Option<Tick> {
        let tickets = self.tickets.values().map(|(until, _)| *until);
        let sweep = (!self.listings.is_empty()).then_some(self.sweep);
        let own = self.own.as_ref().map(Own::deadline);
        tickets.chain(sweep).chain(own).min()
    }
}

#[cfg(test)]
mod tests;
