//! Listing events, kind 38717: building, mining, reading and deleting them.
//!
//! Not the manifest inside: its own signature and meaning are checked by whoever decodes
//! it. Not a view of hosts either: which listing is the newest of an author is Discovery's
//! business. Built by the host's shell before publishing; read by whoever drains the pool.
//!
//! A listing is an addressable event (NIP-01) with `d` = network name, `m` = model digests,
//! `t` = topics, `expiration` (NIP-40) and `nonce` (NIP-13). Relays may serve it long after
//! it expired, or never checked its work: both are checked here.

use super::pow;
use super::signer::{BadSigner, EventSigner, public_key, sign_event};
use nostr::event::{Event, EventId, Kind, Tag, UnsignedEvent};
use nostr::filter::Filter;
use protocol::ids::{ModelDigest, NodeKey};
use protocol::time::WallTime;

/// The kind of a listing: addressable, and taken by nobody else in NIP's registry.
pub const LISTING_KIND: u16 = 38_717;

/// Bits of work mined: about a second of one core, so that readers may raise what they ask.
pub const MINED_BITS: u8 = 20;

/// Bits of work, both committed and done, that a reader asks for.
pub const REQUIRED_BITS: u8 = 16;

/// Largest content, in bytes: with its escapes it still fits the 64 KiB message of the
/// common relay.
pub const MAX_CONTENT_BYTES: usize = 32 * 1024;

/// Most models one listing names.
pub const MAX_MODELS: usize = 64;

/// Most topics one listing names.
pub const MAX_TOPICS: usize = 16;

/// Longest network name or topic, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Longest life, in seconds: listings are republished every 10 to 60 minutes with twice
/// that as expiration; a day leaves room, and keeps ghosts short.
pub const MAX_LIFE_SECS: u64 = 24 * 3_600;

/// How far a listing may be dated ahead, in seconds: clocks disagree by less.
pub const MAX_AHEAD_SECS: u64 = 900;

/// Authors whose withdrawals are followed: at 67 bytes each the filter fits the message of any relay
/// (16 KiB is the least known). A withdrawal that is not heard costs its readers a ghost until
/// the listing expires.
pub const MAX_FOLLOWED: usize = 200;

/// NIP-09's kind of a deletion request.
const DELETION_KIND: u16 = 5;

/// What a host wants to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingDraft {
    /// The signed manifest as JSON: UTF-8, at most [`MAX_CONTENT_BYTES`].
    pub content: Vec<u8>,
    /// Network name, the event's `d` tag: one listing per author and network.
    pub network: String,
    /// Models on offer, the `m` tags.
    pub models: Vec<ModelDigest>,
    /// Topics, the `t` tags.
    pub topics: Vec<String>,
    /// When it is made, to the second; must move forward between versions.
    pub created_at: WallTime,
    /// When it dies, to the second: twice the republish interval.
    pub expires: WallTime,
}

/// A listing whose event was checked in every respect; its content was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingEvent {
    /// The key that signed the event.
    pub author: NodeKey,
    /// Network name (`d`).
    pub network: String,
    /// The manifest's JSON, at most [`MAX_CONTENT_BYTES`].
    pub content: String,
    /// Models on offer (`m`).
    pub models: Vec<ModelDigest>,
    /// Topics (`t`).
    pub topics: Vec<String>,
    /// When it dies.
    pub expires: WallTime,
    /// When it was made; of two listings of one author and network the later one counts.
    pub created_at: WallTime,
    /// The event's id.
    pub id: EventId,
    /// Work the author committed to, in bits.
    pub committed_bits: u8,
}

/// A host's word that its listing is withdrawn (NIP-09).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingDeletion {
    /// The key that signed it, and whose listing is meant.
    pub author: NodeKey,
    /// Network name of the listing.
    pub network: String,
    /// Listings made up to this moment are withdrawn.
    pub created_at: WallTime,
}

/// Why an event is no listing to act upon, or a draft cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// Another kind of event.
    #[error("event kind {kind} is not a listing ({LISTING_KIND})")]
    Kind {
        /// The kind found.
        kind: u16,
    },
    /// The id is not the hash of the event, or the signature is not the author's.
    #[error("the event's id or signature is wrong")]
    Signature,
    /// A tag that must be there is not.
    #[error("tag `{tag}` is missing")]
    Missing {
        /// The tag's name.
        tag: &'static str,
    },
    /// A tag that must be there once is there more often.
    #[error("tag `{tag}` is there more than once")]
    Repeated {
        /// The tag's name.
        tag: &'static str,
    },
    /// A tag whose value cannot be read.
    #[error("tag `{tag}` has an unreadable value")]
    Malformed {
        /// The tag's name.
        tag: &'static str,
    },
    /// Something is longer or more numerous than allowed.
    #[error("{what} is {have}, at most {max} is allowed")]
    TooMuch {
        /// What is too long or too many.
        what: &'static str,
        /// How much there is.
        have: u64,
        /// The bound.
        max: u64,
    },
    /// The content is not UTF-8.
    #[error("the content is not UTF-8; a manifest is JSON")]
    NotText,
    /// The author committed to less work than is asked.
    #[error("{committed} bits of work are committed, {required} are required")]
    WeakCommitment {
        /// Bits in the `nonce` tag.
        committed: u8,
        /// Bits asked.
        required: u8,
    },
    /// The id does not have the work that was committed.
    #[error("{committed} bits of work are committed, the id has {bits}")]
    WorkMissing {
        /// Bits in the `nonce` tag.
        committed: u8,
        /// Leading zero bits of the id.
        bits: u16,
    },
    /// Its time is over.
    #[error("the listing expired {ago_secs} s ago")]
    Expired {
        /// Seconds since.
        ago_secs: u64,
    },
    /// It would live longer than listings may, or not at all.
    #[error("the listing would live {life_secs} s; it must be 1 to {MAX_LIFE_SECS}")]
    BadLife {
        /// Seconds from its making to its expiration; zero if it expires before it is made.
        life_secs: u64,
    },
    /// It is dated ahead of our clock.
    #[error("the listing is dated {ahead_secs} s ahead; check both clocks")]
    FromTheFuture {
        /// Seconds ahead.
        ahead_secs: u64,
    },
    /// The signer failed.
    #[error(transparent)]
    Signer(#[from] BadSigner),
    /// The runtime went down while work was mined.
    #[error("mining was interrupted")]
    Interrupted,
}

impl ListingDraft {
    /// Mines [`MINED_BITS`] of work on blocking threads and signs. Dropping the future
    /// cancels the search.
    pub async fn build(self, signer: &dyn EventSigner) -> Result<Event, ListingError> {
        self.build_with(signer, MINED_BITS, mining_threads()).await
    }

    /// Builds with another amount of work, for networks and tests that ask for another.
    pub async fn build_with(
        self,
        signer: &dyn EventSigner,
        bits: u8,
        threads: usize,
    ) -> Result<Event, ListingError> {
        let unsigned = self.unsigned(signer)?;
        let mined = pow::mine(unsigned, bits, threads).await;
        Ok(sign_event(mined.ok_or(ListingError::Interrupted)?, signer)?)
    }

    fn unsigned(self, signer: &dyn EventSigner) -> Result<UnsignedEvent, ListingError> {
        let content = String::from_utf8(self.content).map_err(|_| ListingError::NotText)?;
        check_bounds(&content, &self.network, self.models.len(), &self.topics)?;
        let (created, expires) = (self.created_at.secs(), self.expires.secs());
        check_life(created, expires)?;
        let mut tags = vec![Tag::identifier(self.network)];
        tags.extend(
            self.models
                .iter()
                .map(|m| Tag::custom("m", [m.to_string()])),
        );
        tags.extend(self.topics.into_iter().map(|t| Tag::custom("t", [t])));
        tags.push(Tag::custom("expiration", [expires.to_string()]));
        let author = public_key(signer)?;
        let kind = Kind::Custom(LISTING_KIND);
        Ok(UnsignedEvent::new(
            author,
            created.into(),
            kind,
            tags,
            content,
        ))
    }
}

impl ListingEvent {
    /// Checks everything about `event`, its id and signature included.
    pub fn verify(event: &Event, now: WallTime) -> Result<Self, ListingError> {
        // The cheap checks come first: a stranger must not make us do curve arithmetic.
        let listing = Self::read(event, now)?;
        event.verify().map_err(|_| ListingError::Signature)?;
        Ok(listing)
    }

    /// Checks everything but id and signature, which the pool has checked on its events.
    pub fn read(event: &Event, now: WallTime) -> Result<Self, ListingError> {
        let kind = event.kind.as_u16();
        if kind != LISTING_KIND {
            return Err(ListingError::Kind { kind });
        }
        let committed_bits = check_work(event)?;
        let created = event.created_at.as_secs();
        let expires = number(one(event, "expiration")?, "expiration")?;
        check_times(created, expires, now.secs())?;
        let network = one(event, "d")?.get(1).cloned();
        let network = network.ok_or(ListingError::Malformed { tag: "d" })?;
        let models = values(event, "m")
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| ListingError::Malformed { tag: "m" })
            })
            .take(MAX_MODELS + 1)
            .collect::<Result<Vec<ModelDigest>, _>>()?;
        let topics: Vec<_> = values(event, "t")
            .take(MAX_TOPICS + 1)
            .map(str::to_owned)
            .collect();
        check_bounds(&event.content, &network, models.len(), &topics)?;
        Ok(Self {
            author: NodeKey(event.pubkey.to_bytes()),
            network,
            content: event.content.clone(),
            models,
            topics,
            expires: WallTime(expires.saturating_mul(1_000)),
            created_at: WallTime(created.saturating_mul(1_000)),
            id: event.id,
            committed_bits,
        })
    }
}

impl ListingDeletion {
    /// Builds the deletion event of the signer's own listing in `network`.
    pub fn build(
        network: &str,
        created_at: WallTime,
        signer: &dyn EventSigner,
    ) -> Result<Event, ListingError> {
        let author = public_key(signer)?;
        let address = format!("{LISTING_KIND}:{}:{network}", author.to_hex());
        let tags = [
            Tag::custom("a", [address]),
            Tag::custom("k", [LISTING_KIND.to_string()]),
        ];
        let kind = Kind::Custom(DELETION_KIND);
        let created = created_at.secs().into();
        Ok(sign_event(
            UnsignedEvent::new(author, created, kind, tags, ""),
            signer,
        )?)
    }

    /// Reads the withdrawals in an event that the pool has verified. An author can only
    /// withdraw its own listings; addresses of others are passed over.
    pub fn read(event: &Event) -> Vec<Self> {
        if event.kind.as_u16() != DELETION_KIND {
            return Vec::new();
        }
        let own = format!("{LISTING_KIND}:{}:", event.pubkey.to_hex());
        values(event, "a")
            .filter_map(|address| address.strip_prefix(&own))
            .filter(|network| network.len() <= MAX_NAME_BYTES)
            .take(MAX_TOPICS)
            .map(|network| Self {
                author: NodeKey(event.pubkey.to_bytes()),
                network: network.to_owned(),
                created_at: WallTime(event.created_at.as_secs().saturating_mul(1_000)),
            })
            .collect()
    }
}

/// The filter that follows a network's listings.
pub fn filters(network: &str, now: WallTime) -> Vec<Filter> {
    // Older listings cannot be alive any more.
    let since = now.secs().saturating_sub(MAX_LIFE_SECS);
    vec![
        Filter::new()
            .kind(Kind::Custom(LISTING_KIND))
            .identifier(network)
            .since(since.into()),
    ]
}

/// The filter that follows withdrawals by `authors`, of whom a listing is known; none for nobody. Anybody may write
/// deletions that name this kind, or these listings; only their authors' count, and only theirs
/// are asked for.
pub fn deletion_filters(authors: impl IntoIterator<Item = NodeKey>, now: WallTime) -> Vec<Filter> {
    let since = now.secs().saturating_sub(MAX_LIFE_SECS);
    let authors: Vec<_> = authors
        .into_iter()
        .take(MAX_FOLLOWED)
        .filter_map(|author| nostr::key::PublicKey::from_slice(&author.0).ok())
        .collect();
    if authors.is_empty() {
        // A filter that names no author asks for everybody's.
        return Vec::new();
    }
    vec![
        Filter::new()
            .kind(Kind::Custom(DELETION_KIND))
            .authors(authors)
            .since(since.into()),
    ]
}

/// Half the cores: a host serves while it mines.
fn mining_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn values<'a>(event: &'a Event, tag: &'static str) -> impl Iterator<Item = &'a str> {
    let named = event.tags.iter().filter(move |t| t.kind() == tag);
    named.filter_map(|t| t.content())
}

fn one<'a>(event: &'a Event, tag: &'static str) -> Result<&'a [String], ListingError> {
    let mut named = event.tags.iter().filter(|t| t.kind() == tag);
    let found = named.next().ok_or(ListingError::Missing { tag })?;
    match named.next() {
        None => Ok(found.as_slice()),
        Some(_) => Err(ListingError::Repeated { tag }),
    }
}

fn number(tag: &[String], name: &'static str) -> Result<u64, ListingError> {
    let value = tag.get(1).and_then(|value| value.parse().ok());
    value.ok_or(ListingError::Malformed { tag: name })
}

/// The committed target counts, not a lucky id: else the work of many cheap tries would pass.
fn check_work(event: &Event) -> Result<u8, ListingError> {
    let nonce = one(event, "nonce")?;
    let committed = nonce.get(2).and_then(|bits| bits.parse().ok());
    let committed: u8 = committed.ok_or(ListingError::Malformed { tag: "nonce" })?;
    if committed < REQUIRED_BITS {
        return Err(ListingError::WeakCommitment {
            committed,
            required: REQUIRED_BITS,
        });
    }
    let bits = pow::leading_zero_bits(event.id.as_bytes());
    if bits < u16::from(committed) {
        return Err(ListingError::WorkMissing { committed, bits });
    }
    Ok(committed)
}

fn check_times(created: u64, expires: u64, now: u64) -> Result<(), ListingError> {
    if expires <= now {
        return Err(ListingError::Expired {
            ago_secs: now - expires,
        });
    }
    let ahead_secs = created.saturating_sub(now);
    if ahead_secs > MAX_AHEAD_SECS {
        return Err(ListingError::FromTheFuture { ahead_secs });
    }
    check_life(created, expires)
}

fn check_life(created: u64, expires: u64) -> Result<(), ListingError> {
    let life_secs = expires.saturating_sub(created);
    if life_secs == 0 || life_secs > MAX_LIFE_SECS {
        return Err(ListingError::BadLife { life_secs });
    }
    Ok(())
}

fn check_bounds(
    content: &str,
    network: &str,
    models: usize,
    topics: &[String],
) -> Result<(), ListingError> {
    let longest_topic = topics.iter().map(String::len).max().unwrap_or(0);
    for (what, have, max) in [
        ("the content's length", content.len(), MAX_CONTENT_BYTES),
        ("the network name's length", network.len(), MAX_NAME_BYTES),
        ("the number of models", models, MAX_MODELS),
        ("the number of topics", topics.len(), MAX_TOPICS),
        ("a topic's length", longest_topic, MAX_NAME_BYTES),
    ] {
        if have > max {
            let (have, max) = (have as u64, max as u64);
            return Err(ListingError::TooMuch { what, have, max });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
