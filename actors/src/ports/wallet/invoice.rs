//! Reading a BOLT 11 invoice: a pure function over its text.
//!
//! Checks the signature and the syntax (crate `lightning-invoice`), nothing
//! about whether it can or should be paid. Called by whoever receives an
//! invoice, before anything is decided about it.

use std::str::FromStr;

use bitcoin::Network;
use bitcoin::hashes::Hash as _;
use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
use protocol::ids::{LightningId, PaymentHash};
use protocol::money::Msat;

/// Longest text that is parsed. Invoices of ours have about 300 characters;
/// with route hints for twenty hops they stay under 2,000.
const MAX_INVOICE_CHARS: usize = 4_096;

/// What an invoice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceFacts {
    /// Who signed it, and will be paid.
    pub payee: LightningId,
    /// The payment hash.
    pub hash: PaymentHash,
    /// The amount; `None` where the payer may choose.
    pub msat: Option<Msat>,
    /// SHA-256 of a description (tag `h`), where it has one.
    pub description_hash: Option<[u8; 32]>,
    /// The description in clear (tag `d`), where it has one. From a stranger:
    /// escape it before showing it.
    pub description: Option<String>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The network it is for.
    pub network: Network,
}

impl InvoiceFacts {
    /// Whether it has expired at `now_ms`.
    pub fn expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_ms
    }
}

/// A text that is not an invoice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvoiceError {
    /// Longer than any invoice.
    #[error("{chars} characters, more than the {MAX_INVOICE_CHARS} an invoice may have")]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// Not BOLT 11, or signed wrongly.
    #[error("not a BOLT 11 invoice: {reason}")]
    Syntax {
        /// What the parser says.
        reason: String,
    },
}

/// Reads an invoice. No clock: whether it has expired is the caller's question.
///
/// # Errors
/// [`InvoiceError`] for anything but a well-formed, correctly signed invoice.
pub fn read_invoice(bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
    parse(bolt11).map(|invoice| facts(&invoice))
}

pub(super) fn parse(bolt11: &str) -> Result<Bolt11Invoice, InvoiceError> {
    if bolt11.len() > MAX_INVOICE_CHARS {
        return Err(InvoiceError::TooLong {
            chars: bolt11.len(),
        });
    }
    Bolt11Invoice::from_str(bolt11).map_err(|error| InvoiceError::Syntax {
        reason: error.to_string(),
    })
}

pub(super) fn facts(invoice: &Bolt11Invoice) -> InvoiceFacts {
    let (description_hash, description) = match invoice.description() {
        Bolt11InvoiceDescriptionRef::Direct(text) => (None, Some(text.to_string())),
        Bolt11InvoiceDescriptionRef::Hash(hash) => (Some(hash.0.to_byte_array()), None),
    };
    InvoiceFacts {
        payee: LightningId(invoice.get_payee_pub_key().serialize()),
        hash: PaymentHash(invoice.payment_hash().to_byte_array()),
        msat: invoice.amount_milli_satoshis().map(Msat),
        description_hash,
        description,
        expires_ms: invoice.expires_at().map_or(u64::MAX, |at| {
            u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
        }),
        network: invoice.network(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the examples of BOLT 11: 2,500 uBTC for a cup of coffee, expiring
    /// after a minute; signed by the specification's well-known key.
    const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

    #[test]
    fn the_specifications_coffee_invoice_reads_as_it_is_described() {
        let facts = read_invoice(COFFEE).unwrap();
        assert_eq!(facts.msat, Some(Msat(250_000_000)));
        assert_eq!(facts.description.as_deref(), Some("1 cup coffee"));
        assert_eq!(facts.description_hash, None);
        assert_eq!(facts.expires_ms, (1_496_314_658 + 60) * 1_000);
        assert_eq!(facts.network, Network::Bitcoin);
        assert_eq!(
            facts.payee.to_string(),
            "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
        );
        assert!(facts.expired(facts.expires_ms));
        assert!(!facts.expired(facts.expires_ms - 1));
    }

    #[test]
    fn one_altered_character_is_refused() {
        let altered = COFFEE.replacen("2500u", "2501u", 1);
        assert!(matches!(
            read_invoice(&altered),
            Err(InvoiceError::Syntax { .. })
        ));
    }

    #[test]
    fn a_text_longer_than_any_invoice_is_refused_unread() {
        let refused = read_invoice(&"l".repeat(5_000));
        assert_eq!(refused, Err(InvoiceError::TooLong { chars: 5_000 }));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _ = read_invoice(&text);
        }

        #[test]
        fn any_mutation_of_an_invoice_is_read_or_refused_without_a_panic(
            at in 0usize..330, to in proptest::char::range('0', 'z'),
        ) {
            let mut chars: Vec<char> = COFFEE.chars().collect();
            if let Some(place) = chars.get_mut(at) {
                *place = to;
            }
            let _ = read_invoice(&chars.into_iter().collect::<String>());
        }
    }
}
