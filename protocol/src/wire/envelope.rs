//! The signed envelope: who says what to whom, when, on which network, once.
//!
//! Not encryption. Used for listings, orders, terms, invoices, receipts and
//! verdicts; chunks are authenticated by the Noise channel alone.
//!
//! The signature covers a tagged hash of the exact bytes received, so nothing
//! is encoded again before it is checked.

use crate::codec::{self, CodecError, Extension};
use crate::crypto::{Crypto, tagged_hash};
use crate::ids::{Digest, NodeKey, Signature};
use crate::limits;
use crate::time::WallTime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The Bitcoin network that money moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Real money.
    Mainnet,
    /// The public test network with signed blocks.
    Signet,
    /// A private chain on one machine.
    Regtest,
}

impl Network {
    /// Returns the name used in listings and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Network::Mainnet => "mainnet",
            Network::Signet => "signet",
            Network::Regtest => "regtest",
        }
    }
}

/// What an envelope's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MessageType {
    /// [`crate::wire::manifest::Manifest`]
    Manifest,
    /// [`crate::wire::order::Order`]
    Order,
    /// [`crate::wire::order::Terms`]
    Terms,
    /// [`crate::wire::order::Invoice`]
    Invoice,
    /// [`crate::wire::order::Paid`]
    Paid,
    /// [`crate::wire::order::Receipt`]
    Receipt,
    /// [`crate::wire::order::Countersigned`]
    Countersigned,
    /// [`crate::wire::bundle::Verdict`]
    Verdict,
    /// [`crate::wire::quote::QuoteRequest`]
    QuoteRequest,
    /// [`crate::wire::quote::HostQuote`]
    HostQuote,
    /// [`crate::wire::quote::RouterOffer`]
    RouterOffer,
    /// [`crate::wire::mandate::Mandate`]
    Mandate,
    /// [`crate::wire::mandate::Revocation`]
    Revocation,
}

/// A type that may be the body of an envelope.
pub trait Body: Serialize + DeserializeOwned {
    /// Its tag.
    const TYPE: MessageType;
    /// Its version; a reader refuses what it does not know.
    const VERSION: u16;

    /// Every list of extension records in the body. Whoever opens the envelope refuses a
    /// body with a record that must be understood and is not.
    fn extensions(&self) -> Vec<&[Extension]>;
}

/// Makes bodies of types of one name with their tag, version 1, whose extension records
/// are their last field.
macro_rules! bodies {
    ($($name:ident),*) => {$(
        impl $crate::wire::envelope::Body for $name {
            const TYPE: $crate::wire::envelope::MessageType = $crate::wire::envelope::MessageType::$name;
            const VERSION: u16 = 1;

            fn extensions(&self) -> Vec<&[$crate::codec::Extension]> {
                vec![&self.extensions]
            }
        }
    )*};
}
pub(crate) use bodies;

/// The signed fields around a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Network; a message for regtest means nothing on mainnet.
    pub network: Network,
    /// What the body is.
    pub kind: MessageType,
    /// Version of the body.
    pub version: u16,
    /// Signer.
    pub from: NodeKey,
    /// Recipient; `None` for public messages.
    pub to: Option<NodeKey>,
    /// When it was signed, in milliseconds since the epoch.
    pub time: WallTime,
    /// Random; never used twice within the window.
    pub nonce: [u8; 16],
    /// The encoded body.
    pub body: Vec<u8>,
    /// Extension records.
    pub extensions: Vec<Extension>,
}

/// An envelope as it travels: the encoded bytes and the signature over their tagged hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The encoded [`Envelope`].
    pub bytes: Vec<u8>,
    /// BIP340 signature by `from`.
    pub signature: Signature,
}

/// Why an envelope is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It does not decode.
    #[error("envelope does not decode")]
    Codec(#[from] CodecError),
    /// The signature does not verify.
    #[error("signature of {from} does not verify")]
    BadSignature {
        /// The claimed signer.
        from: NodeKey,
    },
    /// Another type of message was expected.
    #[error("expected a {expected:?} message, got {found:?} version {version}")]
    WrongType {
        /// What was wanted.
        expected: MessageType,
        /// What came.
        found: MessageType,
        /// Its version.
        version: u16,
    },
    /// Signed for another network.
    #[error("signed for {found:?}, this node is on {expected:?}")]
    WrongNetwork {
        /// Ours.
        expected: Network,
        /// Theirs.
        found: Network,
    },
    /// Meant for somebody else.
    #[error("addressed to another key")]
    WrongRecipient,
    /// Outside the time window.
    #[error(
        "signed {off_ms} ms away from this node's clock; the window is {window_ms} ms: check the clocks"
    )]
    OutsideWindow {
        /// Distance in milliseconds.
        off_ms: u64,
        /// Allowed distance.
        window_ms: u64,
    },
    /// Seen before.
    #[error("this envelope was received before")]
    Replayed,
    /// So many are remembered that another could not be told from a repetition.
    #[error("this node remembers as many orders as it can: try again in some minutes")]
    WindowFull,
    /// An even extension that this version does not understand.
    #[error("extension {kind} must be understood and is not: update freehold")]
    UnknownExtension {
        /// Its type.
        kind: u16,
    },
    /// More extension records, or larger ones, than a message may have.
    #[error(
        "too many extensions, or {bytes} bytes of them: {} records in a list and {} bytes in all are the most",
        limits::MAX_EXTENSIONS,
        limits::MAX_EXTENSION_BYTES
    )]
    LargeExtensions {
        /// Contents of all of them together.
        bytes: usize,
    },
}

/// A decoded and verified envelope with its typed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened<T> {
    /// The fields around it.
    pub envelope: Envelope,
    /// The body.
    pub body: T,
    /// Hash of the exact bytes; what other messages commit to.
    pub digest: Digest,
}

/// The bytes of an envelope that a signature covers.
fn signing_hash(bytes: &[u8]) -> [u8; 32] {
    tagged_hash("freehold/envelope/1", &[bytes]).0
}

impl Signed {
    /// Signs `body` for `to`.
    pub fn seal<T: Body>(
        crypto: &dyn Crypto,
        network: Network,
        to: Option<NodeKey>,
        time: WallTime,
        nonce: [u8; 16],
        body: &T,
    ) -> Signed {
        let envelope = Envelope {
            network,
            kind: T::TYPE,
            version: T::VERSION,
            from: crypto.key(),
            to,
            time,
            nonce,
            body: codec::encode(body),
            extensions: Vec::new(),
        };
        let bytes = codec::encode(&envelope);
        let signature = crypto.sign(&signing_hash(&bytes));
        Signed { bytes, signature }
    }

    /// Hash of the exact bytes.
    pub fn digest(&self) -> Digest {
        tagged_hash("freehold/digest/1", &[&self.bytes])
    }

    /// Decodes and verifies signature, type, version, network and extensions, but
    /// neither recipient nor time: what a third party can check years later.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn open_public<T: Body>(
        &self,
        crypto: &dyn Crypto,
        network: Network,
    ) -> Result<Opened<T>, EnvelopeError> {
        let envelope: Envelope = codec::decode(&self.bytes, limits::MAX_ORDER_FRAME_BYTES)?;
        if envelope.kind != T::TYPE || envelope.version != T::VERSION {
            return Err(EnvelopeError::WrongType {
                expected: T::TYPE,
                found: envelope.kind,
                version: envelope.version,
            });
        }
        if envelope.network != network {
            return Err(EnvelopeError::WrongNetwork {
                expected: network,
                found: envelope.network,
            });
        }
        check_extensions(&envelope.extensions)?;
        if !crypto.verify(&envelope.from, &signing_hash(&self.bytes), &self.signature) {
            return Err(EnvelopeError::BadSignature {
                from: envelope.from,
            });
        }
        let body: T = codec::decode(&envelope.body, limits::MAX_ORDER_FRAME_BYTES)?;
        let mut lists = body.extensions();
        lists.push(&envelope.extensions);
        check_lists(&lists)?;
        Ok(Opened {
            body,
            digest: self.digest(),
            envelope,
        })
    }

    /// Decodes and verifies everything that a recipient must check, apart from replay.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn open<T: Body>(
        &self,
        crypto: &dyn Crypto,
        network: Network,
        to: &NodeKey,
        now: WallTime,
    ) -> Result<Opened<T>, EnvelopeError> {
        let opened = self.open_public::<T>(crypto, network)?;
        if opened.envelope.to.as_ref() != Some(to) {
            return Err(EnvelopeError::WrongRecipient);
        }
        let off_ms = now
            .ms_since(opened.envelope.time)
            .max(opened.envelope.time.ms_since(now));
        if off_ms > limits::ENVELOPE_WINDOW_MS {
            return Err(EnvelopeError::OutsideWindow {
                off_ms,
                window_ms: limits::ENVELOPE_WINDOW_MS,
            });
        }
        Ok(opened)
    }
}

/// Refuses too many or too large extension records and even types that are not understood.
pub fn check_extensions(extensions: &[Extension]) -> Result<(), EnvelopeError> {
    check_lists(&[extensions])
}

/// The same for all lists of one message, which share one bound on their contents.
fn check_lists(lists: &[&[Extension]]) -> Result<(), EnvelopeError> {
    let all = || lists.iter().copied().flatten();
    let bytes: usize = all().map(|extension| extension.value.len()).sum();
    let too_many = lists.iter().any(|list| list.len() > limits::MAX_EXTENSIONS);
    if too_many || bytes > limits::MAX_EXTENSION_BYTES {
        return Err(EnvelopeError::LargeExtensions { bytes });
    }
    match all().find(|extension| extension.kind % 2 == 0) {
        Some(Extension { kind, .. }) => Err(EnvelopeError::UnknownExtension { kind: *kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secp;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(String);
    impl Body for Note {
        const TYPE: MessageType = MessageType::HostQuote;
        const VERSION: u16 = 1;

        fn extensions(&self) -> Vec<&[Extension]> {
            Vec::new()
        }
    }

    fn sealed() -> (Secp, Secp, Signed) {
        let alice = Secp::from_secret(&[1; 32]).unwrap();
        let bob = Secp::from_secret(&[2; 32]).unwrap();
        let signed = Signed::seal(
            &alice,
            Network::Regtest,
            Some(bob.key()),
            WallTime(1_000_000),
            [3; 16],
            &Note("hi".into()),
        );
        (alice, bob, signed)
    }

    #[test]
    fn a_sealed_note_opens_for_its_recipient_within_the_window() {
        let (alice, bob, signed) = sealed();
        let opened = signed
            .open::<Note>(&bob, Network::Regtest, &bob.key(), WallTime(1_000_500))
            .unwrap();
        assert_eq!(opened.body, Note("hi".into()));
        assert_eq!(opened.envelope.from, alice.key());
    }

    #[test]
    fn the_wrong_recipient_network_or_time_is_refused() {
        let (alice, bob, signed) = sealed();
        let at = WallTime(1_000_000);
        assert_eq!(
            signed.open::<Note>(&bob, Network::Regtest, &alice.key(), at),
            Err(EnvelopeError::WrongRecipient)
        );
        assert!(matches!(
            signed.open::<Note>(&bob, Network::Mainnet, &bob.key(), at),
            Err(EnvelopeError::WrongNetwork { .. })
        ));
        assert!(matches!(
            signed.open::<Note>(&bob, Network::Regtest, &bob.key(), WallTime(2_000_000)),
            Err(EnvelopeError::OutsideWindow { .. })
        ));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (_, bob, signed) = sealed();
        for index in 0..signed.bytes.len() {
            let mut broken = signed.clone();
            broken.bytes[index] ^= 1;
            let result =
                broken.open::<Note>(&bob, Network::Regtest, &bob.key(), WallTime(1_000_000));
            assert!(result.is_err(), "byte {index}");
        }
    }
}
