//! The capability manifest: what a host claims about itself, signed by its node key.
//!
//! A claim, not a fact: whatever is in here weighs nothing until it was checked.
//! Published inside a Nostr event of kind 38717; the event itself is built and
//! read by the relay port.

use crate::codec::Extension;
use crate::crypto::tagged_hash;
use crate::ids::{Digest, LightningId, ModelDigest, NodeKey};
use crate::limits;
use crate::money::{Meter, Msat, Prices};
use crate::time::WallTime;
use crate::wire::envelope::{EnvelopeError, Network, check_extensions};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

/// Kind of the listing event (addressable, NIP-01).
pub const LISTING_KIND: u16 = 38_717;

/// The word in [`ModelOffer::quantisation`] that says that a server of another make
/// computes: alone, or in brackets behind the quantisation of the file it should run.
pub const RUNNER: &str = "runner";
/// Tokenizer and template of an offer whose host does not know them: zeros, the digest
/// of no file.
pub const UNKNOWN_DIGEST: Digest = Digest([0; 32]);

/// The digest that stands for a model known by its name alone, as the server that runs
/// it calls it. Hashed in a domain of its own, so that it is never the digest of a file.
/// It says what was asked for, not what was run.
pub fn named_model(name: &str) -> ModelDigest {
    ModelDigest(tagged_hash("freehold/named-model/1", &[name.as_bytes()]).0)
}

/// What a node may be used for. Several at once; none is taken silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Buys.
    Client,
    /// Sells inference.
    Host,
    /// Sells embeddings, CPU only.
    Embedder,
    /// Checks others' answers by recomputation.
    Validator,
    /// Quotes and routes for others; never touches funds.
    Router,
    /// Takes part in training rounds.
    Trainer,
    /// Runs training rounds.
    Coordinator,
    /// Relays libp2p circuits.
    Relay,
    /// Opens just-in-time Lightning channels.
    Lsp,
}

/// One model on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOffer {
    /// Name shown to people and matched by clients.
    pub name: String,
    /// BLAKE3 of the GGUF, or [`named_model`].
    pub digest: ModelDigest,
    /// Digest of the tokenizer's vocabulary and merges, or [`UNKNOWN_DIGEST`].
    pub tokenizer: Digest,
    /// Digest of the chat template, or [`UNKNOWN_DIGEST`].
    pub template: Digest,
    /// `general.architecture` of the GGUF.
    pub architecture: String,
    /// Quantisation, such as `Q8_0`; `runner` or `Q8_0 (runner)` behind a [`RUNNER`].
    pub quantisation: String,
    /// Context in tokens.
    pub context: u32,
    /// Numerics under which an answer can be replayed bit for bit; `None`: not replayable.
    pub numerics: Option<String>,
    /// Msat per million units.
    pub prices: Prices,
}

/// Limits that a host puts on one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLimits {
    /// Orders served at once.
    pub concurrent_orders: u32,
    /// Orders waiting behind them.
    pub queued_orders: u32,
    /// Prompt tokens in one order.
    pub prompt_tokens: u32,
    /// Output tokens in one order.
    pub output_tokens: u32,
}

/// How an order may be paid.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PaymentMode {
    /// In quanta while tokens stream (the default).
    #[default]
    Metered,
    /// One invoice for the ceiling; the unused part is not refunded.
    Before,
    /// One invoice at the end, only within the credit window.
    After,
}

/// What a host says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Network that its wallet is on.
    pub network: Network,
    /// The node key; also the signer of the envelope and the libp2p key.
    pub node: NodeKey,
    /// The node that its invoices pay.
    pub lightning: LightningId,
    /// Signature of the Lightning node key over [`lightning_statement`], as the wallet makes it (zbase32 text).
    pub lightning_proof: String,
    /// Roles enabled; one that this release does not know is left out on reading.
    #[serde(deserialize_with = "known")]
    pub roles: Vec<Role>,
    /// Software and version.
    pub software: String,
    /// Coarse hardware bands, such as `cpu:avx2` or `ram:16-32`.
    pub bands: Vec<String>,
    /// Models on offer; an offer in terms that this release does not know, such as another
    /// meter, is left out on reading: it could not be bought.
    #[serde(deserialize_with = "known")]
    pub models: Vec<ModelOffer>,
    /// Limits per order.
    pub limits: HostLimits,
    /// Accepted payment modes; an unknown one is left out on reading.
    #[serde(deserialize_with = "known")]
    pub payment_modes: Vec<PaymentMode>,
    /// Least invoice; also the size of one step of payment.
    pub quantum: Msat,
    /// Most days for which it keeps a finished order, with the prompt unless the order asks it to
    /// forget that. Nothing proves it.
    pub keep_days: u32,
    /// Where to dial: libp2p multiaddrs with `/p2p/`.
    pub addresses: Vec<String>,
    /// When it was made.
    pub created: WallTime,
    /// When it is dead, whatever a relay serves.
    pub expires: WallTime,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// Reads a list of a listing without the entries that this release does not know: a host that
/// learns something new stays visible to older nodes. Only where the format says what it
/// holds, as JSON does; the binary form on disk is always of our own making.
fn known<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry<T> {
        Known(T),
        Unknown(IgnoredAny),
    }
    if !from.is_human_readable() {
        return Vec::deserialize(from);
    }
    let entries: Vec<Entry<T>> = Vec::deserialize(from)?;
    let known = entries.into_iter().filter_map(|entry| match entry {
        Entry::Known(entry) => Some(entry),
        Entry::Unknown(_) => None,
    });
    Ok(known.collect())
}

crate::wire::envelope::bodies!(Manifest);

/// Why a manifest is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A list or text over its limit.
    #[error("{what} has {found} entries or bytes, the limit is {limit}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Size.
        found: usize,
        /// Bound.
        limit: usize,
    },
    /// Its life is over or absurdly long.
    #[error("manifest expired, or claims to live longer than {max_ms} ms")]
    Expired {
        /// Longest life accepted.
        max_ms: u64,
    },
    /// An extension record that must be understood, or too many or too large ones.
    #[error(transparent)]
    Extensions(#[from] EnvelopeError),
    /// The payload names a key other than its signer.
    #[error("manifest of one key is signed by another")]
    WrongSigner,
}

/// What a Lightning node signs to say that it is paid for `node` on `network`:
/// the text of [`Manifest::lightning_proof`].
pub fn lightning_statement(node: &NodeKey, network: Network) -> String {
    format!("freehold node key {node} on {}", network.name())
}

/// A shared manifest is stored like an owned one.
pub(crate) mod shared {
    use super::Manifest;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub fn serialize<S: Serializer>(manifest: &Arc<Manifest>, to: S) -> Result<S::Ok, S::Error> {
        manifest.as_ref().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Manifest>, D::Error> {
        Manifest::deserialize(from).map(Arc::new)
    }
}

impl Manifest {
    /// Returns the offer of a model by digest.
    pub fn offer(&self, digest: &ModelDigest) -> Option<&ModelOffer> {
        self.models.iter().find(|model| model.digest == *digest)
    }

    /// Checks bounds, signer and life.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, signer: &NodeKey, now: WallTime) -> Result<(), ManifestError> {
        let at_most = |what, found, limit| {
            if found > limit {
                Err(ManifestError::TooLarge { what, found, limit })
            } else {
                Ok(())
            }
        };
        at_most("models", self.models.len(), limits::MAX_MODELS)?;
        at_most("addresses", self.addresses.len(), limits::MAX_ADDRESSES)?;
        at_most("roles", self.roles.len(), 16)?;
        at_most("bands", self.bands.len(), 16)?;
        at_most(
            "lightning proof",
            self.lightning_proof.len(),
            limits::MAX_SHORT_TEXT_BYTES,
        )?;
        at_most(
            "software",
            self.software.len(),
            limits::MAX_SHORT_TEXT_BYTES,
        )?;
        let texts = self.bands.iter().chain(&self.addresses).chain(
            self.models
                .iter()
                .flat_map(|m| [&m.name, &m.architecture, &m.quantisation]),
        );
        for text in texts {
            at_most("a text", text.len(), limits::MAX_SHORT_TEXT_BYTES)?;
        }
        check_extensions(&self.extensions)?;
        if self.node != *signer {
            return Err(ManifestError::WrongSigner);
        }
        let max_ms = 2 * limits::LISTING_TTL_MS;
        if self.expires <= now || self.expires.ms_since(now) > max_ms {
            return Err(ManifestError::Expired { max_ms });
        }
        Ok(())
    }
}

impl ModelOffer {
    /// Price of an order at most: all of the prompt and all of the output (tokens or items).
    pub fn ceiling(&self, input_tokens: u64, meter: Meter, units: u64) -> Option<Msat> {
        let input = crate::money::Counts {
            input_tokens,
            ..Default::default()
        };
        self.prices.cost(&input.with_delivered(meter, units))
    }

    /// Whether the model makes embeddings, which are counted as items, rather than text.
    pub fn embeds(&self) -> bool {
        self.prices.lists(Meter::Item)
    }

    /// Whether a server of another make computes the answers.
    pub fn is_runner(&self) -> bool {
        let marked = self.quantisation.strip_suffix(')');
        self.quantisation == RUNNER || marked.is_some_and(|text| text.ends_with("(runner"))
    }

    /// Whether an answer can be computed again, in words.
    pub fn replay_note(&self) -> &str {
        match &self.numerics {
            Some(numerics) => numerics,
            None if self.is_runner() => "runner, not replayable",
            None => "not replayable",
        }
    }

    /// Msat per million output tokens, the figure by which offers are compared.
    pub fn output_price(&self) -> u64 {
        self.prices.of(Meter::OutputToken)
    }
}
