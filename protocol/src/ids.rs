//! Identifiers: keys, digests, hashes and counters, each a type of its own.
//!
//! Not a place for behaviour: no signing, no hashing of messages. Used by every
//! other module and by the ports.
//!
//! Fixed-size identifiers are hex strings in human-readable formats (JSON) and
//! raw bytes on the wire (bincode).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A hex string that does not have the length or alphabet of the identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {bytes} bytes as {} hex digits", bytes * 2)]
pub struct ParseIdError {
    /// The identifier that was being read.
    pub what: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Returns the raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Returns the first eight hex digits, for logs and tables.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0u8; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError { what: stringify!($name), bytes: $len })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    bytes_as_tuple(&self.0, serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    deserializer.deserialize_tuple($len, TupleBytes::<$len>).map(Self)
                }
            }
        }
    };
}

fn bytes_as_tuple<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeTuple;
    let mut tuple = serializer.serialize_tuple(bytes.len())?;
    for byte in bytes {
        tuple.serialize_element(byte)?;
    }
    tuple.end()
}

struct TupleBytes<const N: usize>;

impl<'de, const N: usize> serde::de::Visitor<'de> for TupleBytes<N> {
    type Value = [u8; N];
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
        let mut bytes = [0u8; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = seq
                .next_element()?
                .ok_or_else(|| A::Error::invalid_length(index, &self))?;
        }
        Ok(bytes)
    }
}

fixed_bytes!(
    /// An x-only secp256k1 public key (BIP340): a node, a buyer's order key, a validator.
    NodeKey, 32
);
fixed_bytes!(
    /// A compressed secp256k1 public key (SEC1): a Lightning node id (BOLT 1).
    LightningId, 33
);
fixed_bytes!(
    /// A BLAKE3 digest of some canonical bytes.
    Digest, 32
);
fixed_bytes!(
    /// The BLAKE3 digest of a model's GGUF file.
    ModelDigest, 32
);
fixed_bytes!(
    /// SHA-256 of a payment preimage (BOLT 2).
    PaymentHash, 32
);
fixed_bytes!(
    /// The secret whose SHA-256 is the payment hash; the proof of a payment.
    Preimage, 32
);
fixed_bytes!(
    /// An order: the first half of the digest of the signed order ([`OrderId::of`]).
    OrderId, 16
);
fixed_bytes!(
    /// A BIP340 signature.
    Signature, 64
);

impl OrderId {
    /// Returns the id of the order with this digest.
    pub fn of(signed: &Digest) -> OrderId {
        let mut id = [0; 16];
        id.copy_from_slice(&signed.0[..16]);
        OrderId(id)
    }
}

fixed_bytes!(
    /// Tells the far ends of connections apart: a hash of what the transport proved, or of
    /// the address where it proves nothing. Means nothing to anybody else.
    PeerTag, 16
);
fixed_bytes!(
    /// Tells the addresses that peers come from apart: a hash of an IPv4 address or of the /48
    /// around an IPv6 one, or the peer's own tag where there is none that says anything.
    AddressTag, 16
);

/// Who opened a stream to this node. Peers are free, addresses are not: what strangers get for
/// nothing is counted for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The peer.
    pub peer: PeerTag,
    /// Where it comes from.
    pub address: AddressTag,
}

impl Caller {
    /// A peer that shares its address with nobody, as far as is known.
    pub fn alone(peer: PeerTag) -> Caller {
        let address = AddressTag(peer.0);
        Caller { peer, address }
    }
}

/// A byte stream to a peer, numbered by the driver; never reused within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// A purchase as the local client sees it, numbered by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Pairs an effect with the input that reports its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_hex_and_the_wire_is_raw_bytes() {
        let id = OrderId([7; 16]);
        assert_eq!(
            serde_json::to_string(&id).unwrap(),
            format!("\"{}\"", "07".repeat(16))
        );
        let wire = bincode::serde::encode_to_vec(id, bincode::config::standard()).unwrap();
        assert_eq!(wire, vec![7; 16]);
        let (back, used): (OrderId, usize) =
            bincode::serde::decode_from_slice(&wire, bincode::config::standard()).unwrap();
        assert_eq!((back, used), (id, 16));
    }

    #[test]
    fn a_wrong_length_is_refused_with_the_expected_one() {
        let error = "abcd".parse::<NodeKey>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "NodeKey must be 32 bytes as 64 hex digits"
        );
    }
}
