//! Making invoices, plain and hold, and what became of them.
//!
//! Holding, settling and cancelling are next door in `holds`.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::{Hash as _, sha256};
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description, Sha256};
use ldk_node::lightning_types::payment::PaymentHash as LdkHash;
use ldk_node::payment::{PaymentDirection, PaymentStatus};
use protocol::ids::PaymentHash;
use protocol::money::Msat;
use protocol::payment::UNPAID_KEPT_MS;

use super::{Inner, convert, now_ms};
use crate::ports::wallet::invoice::facts;
use crate::ports::wallet::{Incoming, Invoice, MAX_EXPIRY_S, WalletError};

/// LDK accepts payments up to two hours after an invoice's expiry, because it
/// goes by block times; records are kept for that long and the longest expiry.
pub(super) const KEEP: Duration = Duration::from_secs(2 * 3_600 + MAX_EXPIRY_S as u64);
// The books ask for it then, and not earlier.
const _: () = assert!(KEEP.as_millis() as u64 == UNPAID_KEPT_MS);

/// The hash of a description, as an invoice carries it.
pub(super) fn hashed(description: [u8; 32]) -> Bolt11InvoiceDescription {
    Bolt11InvoiceDescription::Hash(Sha256(sha256::Hash::from_byte_array(description)))
}

/// A description that payers read.
///
/// # Errors
/// Where it is too long for an invoice.
pub(super) fn described(text: String) -> Result<Bolt11InvoiceDescription, WalletError> {
    let description = Description::new(text).map_err(|error| WalletError::InvoiceTerms {
        reason: format!("the description does not fit: {error}"),
    })?;
    Ok(Bolt11InvoiceDescription::Direct(description))
}

/// Makes an invoice; for `hold`, one whose payment is held. Blocks.
pub(super) fn create(
    inner: &Arc<Inner>,
    hold: Option<PaymentHash>,
    msat: Msat,
    description: &Bolt11InvoiceDescription,
    expiry_s: u32,
) -> Result<Invoice, WalletError> {
    if msat == Msat::ZERO {
        return Err(WalletError::InvoiceTerms {
            reason: "the amount must be at least 1 msat".to_string(),
        });
    }
    if expiry_s == 0 || expiry_s > MAX_EXPIRY_S {
        return Err(WalletError::InvoiceTerms {
            reason: format!("it may be payable for 1 to {MAX_EXPIRY_S} s, not {expiry_s}"),
        });
    }
    let receive = inner.node.bolt11_payment();
    let made = match hold {
        None => receive.receive(msat.0, description, expiry_s),
        Some(hash) => {
            // LDK would overwrite the record of the other payment.
            let used = inner.node.payment(&convert::payment_id(hash)).is_some()
                || inner.store.journal(hash)?.is_some();
            if used {
                return Err(WalletError::HashInUse { hash });
            }
            receive.receive_for_hash(msat.0, description, expiry_s, LdkHash(hash.0))
        }
    };
    let invoice = made.map_err(convert::node_error("making an invoice"))?;
    let says = facts(&invoice);
    Ok(Invoice {
        bolt11: invoice.to_string(),
        hash: says.hash,
        msat,
        expires_ms: says.expires_ms,
    })
}

/// What became of an invoice of ours. Blocks for a read at most.
pub(super) fn lookup(inner: &Arc<Inner>, hash: PaymentHash) -> Result<Incoming, WalletError> {
    let Some(details) = inner
        .node
        .payment(&convert::payment_id(hash))
        .filter(|details| details.direction == PaymentDirection::Inbound)
    else {
        return Ok(Incoming::NotFound);
    };
    let msat = Msat(details.amount_msat.unwrap_or(0));
    Ok(match details.status {
        PaymentStatus::Succeeded => {
            let preimage = match convert::preimage(&details) {
                Some(preimage) => Some(preimage),
                None => inner.store.claimed(hash)?,
            };
            // The money is there; one record is not, and that is no reason to stop.
            let preimage = preimage.ok_or_else(|| WalletError::Node {
                doing: "looking for a preimage",
                reason: format!("{hash} was received, but its preimage is not on record"),
            })?;
            Incoming::Settled { msat, preimage }
        }
        PaymentStatus::Failed => Incoming::Failed,
        PaymentStatus::Pending => match inner.held.lock().get(&hash) {
            Some(held) if super::holds::past(inner, held.deadline) => Incoming::Failed,
            Some(held) => Incoming::Held {
                msat: held.msat,
                deadline: held.deadline,
            },
            None => Incoming::Pending { msat },
        },
    })
}

/// Drops the records of a final payment or an invoice past its time. Blocks.
pub(super) fn forget(inner: &Arc<Inner>, hash: PaymentHash) -> Result<(), WalletError> {
    let id = convert::payment_id(hash);
    let keep_s = inner.config.keep_invoices.as_secs();
    let journal = inner.store.journal(hash)?;
    let details = inner.node.payment(&id);
    let wait_s = |until_s: u64| until_s.saturating_sub(now_ms() / 1_000);
    let needed_s = match (&details, &journal) {
        (None, None) => return Ok(()),
        (Some(details), _) if details.direction == PaymentDirection::Inbound => {
            if inner.held.lock().contains_key(&hash) {
                keep_s
            } else {
                wait_s(details.latest_update_timestamp.saturating_add(keep_s))
            }
        }
        (_, journal) => {
            // While the invoice can be paid, the record keeps it from being
            // paid twice; while the payment is open, it is how we find it.
            let open = !matches!(
                super::pay::lookup(inner, hash)?,
                crate::ports::wallet::Outgoing::Settled { .. }
                    | crate::ports::wallet::Outgoing::Failed { .. }
            );
            let until = journal.as_ref().map_or(0, |journal| journal.expires_ms) / 1_000;
            wait_s(until).max(u64::from(open))
        }
    };
    if needed_s > 0 {
        return Err(WalletError::TooEarlyToForget {
            hash,
            wait_s: needed_s,
        });
    }
    inner
        .node
        .remove_payment(&id)
        .map_err(convert::node_error("forgetting a payment"))?;
    inner.store.remove_claimed(hash)?;
    inner.store.remove_journal(hash)
}
