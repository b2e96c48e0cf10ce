//! Between LDK's types and the port's.
//!
//! No decisions; used by every part of the embedded wallet.

use std::str::FromStr as _;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::events::PaymentFailureReason;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::payment::{PaymentDetails, PaymentKind};
use ldk_node::{NodeError, UserChannelId};
use protocol::ids::{LightningId, PaymentHash, Preimage};

use crate::ports::wallet::{ChannelId, FailReason, WalletError};

pub(super) fn payment_id(hash: PaymentHash) -> PaymentId {
    PaymentId(hash.0)
}

pub(super) fn lightning_id(key: &PublicKey) -> LightningId {
    LightningId(key.serialize())
}

pub(super) fn key(id: &LightningId) -> Option<PublicKey> {
    PublicKey::from_slice(id.as_bytes()).ok()
}

pub(super) fn keys(
    setting: &'static str,
    ids: &[LightningId],
) -> Result<Vec<PublicKey>, WalletError> {
    ids.iter()
        .map(|id| {
            key(id).ok_or_else(|| WalletError::Setting {
                key: setting,
                reason: format!("{id} is not a public key"),
            })
        })
        .collect()
}

pub(super) fn address(text: &str) -> Result<SocketAddress, String> {
    SocketAddress::from_str(text).map_err(|error| format!("`{text}` is not host:port ({error})"))
}

pub(super) fn addresses(
    setting: &'static str,
    texts: &[String],
) -> Result<Vec<SocketAddress>, WalletError> {
    texts
        .iter()
        .map(|text| {
            address(text).map_err(|reason| WalletError::Setting {
                key: setting,
                reason,
            })
        })
        .collect()
}

pub(super) fn channel_id(id: UserChannelId) -> ChannelId {
    ChannelId(format!("{:032x}", id.0))
}

pub(super) fn node_error(doing: &'static str) -> impl Fn(NodeError) -> WalletError {
    move |error| match error {
        NodeError::NotRunning => WalletError::NotRunning,
        NodeError::PersistenceFailed => WalletError::Storage {
            reason: format!("{doing}: {error}"),
        },
        NodeError::TxSyncFailed
        | NodeError::TxSyncTimeout
        | NodeError::FeerateEstimationUpdateFailed
        | NodeError::FeerateEstimationUpdateTimeout
        | NodeError::WalletOperationTimeout => WalletError::Chain {
            reason: format!("{doing}: {error}"),
        },
        _ => WalletError::Node {
            doing,
            reason: error.to_string(),
        },
    }
}

/// The preimage that a record of a Lightning payment holds.
pub(super) fn preimage(details: &PaymentDetails) -> Option<Preimage> {
    let preimage = match &details.kind {
        PaymentKind::Bolt11 { preimage, .. }
        | PaymentKind::Bolt11Jit { preimage, .. }
        | PaymentKind::Bolt12Offer { preimage, .. }
        | PaymentKind::Bolt12Refund { preimage, .. }
        | PaymentKind::Spontaneous { preimage, .. } => *preimage,
        PaymentKind::Onchain { .. } => None,
    };
    preimage.map(|preimage| Preimage(preimage.0))
}

pub(super) fn fail_reason(reason: Option<PaymentFailureReason>) -> FailReason {
    match reason {
        Some(PaymentFailureReason::RecipientRejected) => FailReason::Refused,
        Some(PaymentFailureReason::PaymentExpired) => FailReason::Expired,
        Some(reason) => FailReason::CameBack(format!("{reason:?}")),
        None => FailReason::CameBack("no reason given".to_string()),
    }
}
