//! Why a wallet call or a payment failed.
//!
//! Two types on purpose: [`FailReason`] is a fact about one payment and is kept
//! with it; [`WalletError`] is about a call. Used by every implementation.

use protocol::ids::{LightningId, PaymentHash};
use protocol::money::Msat;
use serde::{Deserialize, Serialize};

/// Why a payment failed, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The text is not an invoice that can be paid.
    #[error("the invoice cannot be paid: {0}")]
    BadInvoice(String),
    /// The invoice is for other coins.
    #[error("the invoice is for {invoice}, this wallet is on {ours}")]
    WrongNetwork {
        /// The invoice's network.
        invoice: String,
        /// The wallet's network.
        ours: String,
    },
    /// The invoice has another hash than expected.
    #[error("the invoice has payment hash {invoice}, expected was {expected}")]
    HashMismatch {
        /// In the invoice.
        invoice: PaymentHash,
        /// In the order to pay.
        expected: PaymentHash,
    },
    /// The invoice is over another amount than expected.
    #[error("the invoice asks for {invoice}, expected was {expected}")]
    AmountMismatch {
        /// In the invoice.
        invoice: Msat,
        /// In the order to pay.
        expected: Msat,
    },
    /// The invoice ran out.
    #[error("the invoice has expired; ask for a new one")]
    Expired,
    /// The payee is this wallet.
    #[error("the invoice is this wallet's own")]
    OwnInvoice,
    /// The channels do not hold enough.
    #[error(
        "{needed} needed, {spendable} can be sent; open a channel or wait for incoming payments"
    )]
    Underfunded {
        /// The payment's amount.
        needed: Msat,
        /// What can be sent now.
        spendable: Msat,
    },
    /// Too much is under way in the channels at this moment (at most 50
    /// payments per channel and direction with LDK).
    #[error("too many payments under way at once; try again when one has ended")]
    ChannelBusy,
    /// There are channels, but no peer is connected.
    #[error("no channel is usable just now; its peer is not connected")]
    PeerOffline,
    /// No path within the limits on fees.
    #[error("no route to the payee within {max_fee} of fees")]
    NoRoute {
        /// The limit.
        max_fee: Msat,
    },
    /// The payee gave it back (cancelled, unknown or already paid invoice).
    #[error("the payee refused the payment")]
    Refused,
    /// All attempts came back.
    #[error("every attempt came back: {0}")]
    CameBack(String),
    /// The wallet was asked while it was not running.
    #[error("the wallet is not running")]
    NotRunning,
    /// It was on record before a restart, and has been found not to have left.
    #[error("the payment never left the wallet")]
    NeverLeft,
}

impl FailReason {
    /// Whether the same payment may succeed if tried again soon.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            FailReason::ChannelBusy
                | FailReason::PeerOffline
                | FailReason::NoRoute { .. }
                | FailReason::CameBack(_)
                | FailReason::NotRunning
                | FailReason::NeverLeft
        )
    }
}

/// Why a call to a wallet failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The wallet has been stopped, or stopped while it was asked.
    #[error("the wallet is not running")]
    NotRunning,
    /// The Lightning node does not run yet: it is tried again until it does.
    #[error("the wallet does not run yet: {reason}")]
    NotReady {
        /// Why the last attempt failed.
        reason: String,
    },
    /// Another process uses the wallet's folder.
    #[error("another process uses the wallet in {dir}; stop it first")]
    Locked {
        /// The folder.
        dir: String,
    },
    /// The wallet could not be opened.
    #[error("cannot open the wallet: {reason}")]
    Open {
        /// What went wrong.
        reason: String,
    },
    /// The wallet's files could not be read or written.
    #[error("wallet storage: {reason}; check space and permissions of its folder")]
    Storage {
        /// What went wrong.
        reason: String,
    },
    /// A setting that cannot be used.
    #[error("wallet setting `{key}`: {reason}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The amount or the expiry of an invoice is out of range.
    #[error("no invoice made: {reason}")]
    InvoiceTerms {
        /// What is wrong.
        reason: String,
    },
    /// The hash of a hold invoice was used before.
    #[error("payment hash {hash} has been used before; draw a new preimage")]
    HashInUse {
        /// The hash.
        hash: PaymentHash,
    },
    /// Nothing is held for the hash.
    #[error("no payment is held for {hash}")]
    NotHeld {
        /// The hash.
        hash: PaymentHash,
    },
    /// What was held has gone back.
    #[error("the payment held for {hash} went back at block {deadline}")]
    HoldExpired {
        /// The hash.
        hash: PaymentHash,
        /// When.
        deadline: u32,
    },
    /// The record is still needed.
    #[error("the record of {hash} is needed for another {wait_s} s")]
    TooEarlyToForget {
        /// The hash.
        hash: PaymentHash,
        /// Seconds to wait; at least, where the payment is not final.
        wait_s: u64,
    },
    /// A peer could not be reached.
    #[error("cannot reach {peer} at {address}: {reason}")]
    Connect {
        /// Its id.
        peer: LightningId,
        /// Where it was tried.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// A channel was not opened.
    #[error("channel not opened: {reason}")]
    NotOpened {
        /// Why.
        reason: String,
    },
    /// No such channel.
    #[error("no channel {id}")]
    NoSuchChannel {
        /// Its name.
        id: String,
    },
    /// Too few coins on chain.
    #[error("{needed_sat} sat needed on chain (with the reserve), {have_sat} sat are there")]
    TooFewCoins {
        /// Needed, sat.
        needed_sat: u64,
        /// There, sat.
        have_sat: u64,
    },
    /// The chain source did not answer.
    #[error("the chain source does not answer: {reason}")]
    Chain {
        /// What went wrong.
        reason: String,
    },
    /// Anything else that the Lightning node reports.
    #[error("{doing}: {reason}")]
    Node {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        reason: String,
    },
}
