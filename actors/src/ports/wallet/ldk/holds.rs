//! Payments that are held until their preimage is known.
//!
//! LDK guarantees only some blocks between arrival and the deadline (44 and
//! more were seen), after which it gives the payment back by itself. A held
//! payment takes one of the 50 places of its channel and direction.

use std::sync::Arc;

use bitcoin::hashes::{Hash as _, sha256};
use ldk_node::lightning_types::payment::{PaymentHash as LdkHash, PaymentPreimage};
use ldk_node::payment::{PaymentDirection, PaymentStatus};
use protocol::ids::{PaymentHash, Preimage};

use super::{Inner, convert};
use crate::ports::wallet::WalletError;

/// Whether the chain has reached `deadline`.
pub(super) fn past(inner: &Inner, deadline: u32) -> bool {
    inner.node.status().current_best_block.height >= deadline
}

pub(super) fn settle(inner: &Arc<Inner>, preimage: Preimage) -> Result<(), WalletError> {
    let hash = PaymentHash(sha256::Hash::hash(preimage.as_bytes()).to_byte_array());
    let Some(details) = inner.node.payment(&convert::payment_id(hash)) else {
        return Err(WalletError::NotHeld { hash });
    };
    if details.direction != PaymentDirection::Inbound {
        return Err(WalletError::NotHeld { hash });
    }
    if details.status == PaymentStatus::Succeeded {
        return Ok(());
    }
    let Some(held) = inner.held.lock().get(&hash).copied() else {
        return Err(WalletError::NotHeld { hash });
    };
    if past(inner, held.deadline) {
        return Err(WalletError::HoldExpired {
            hash,
            deadline: held.deadline,
        });
    }
    inner.store.write_claimed(hash, preimage)?;
    inner
        .node
        .bolt11_payment()
        .claim_for_hash(
            LdkHash(hash.0),
            held.msat.0,
            PaymentPreimage(*preimage.as_bytes()),
        )
        .map_err(convert::node_error("claiming a held payment"))
}

pub(super) fn cancel(inner: &Arc<Inner>, hash: PaymentHash) -> Result<(), WalletError> {
    let Some(details) = inner.node.payment(&convert::payment_id(hash)) else {
        return Err(WalletError::NotHeld { hash });
    };
    if details.direction != PaymentDirection::Inbound || details.status == PaymentStatus::Succeeded
    {
        return Err(WalletError::NotHeld { hash });
    }
    inner
        .node
        .bolt11_payment()
        .fail_for_hash(LdkHash(hash.0))
        .map_err(convert::node_error("giving a held payment back"))?;
    inner.held.lock().remove(&hash);
    inner.store.remove_held(hash)
}
