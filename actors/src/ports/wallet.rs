//! The wallet port: what a node asks of whatever holds its money.
//!
//! Shaped for the weakest wallet: it answers late, loses contact, and may have
//! no say over channels. What a wallet of our own can do beyond that stands
//! beside it as optional capabilities ([`Channels`], [`NodeSigner`]).
//!
//! Not a ledger and not a policy: caps, windows and the payment saga are the
//! payment machine's. Implementations: [`ldk`] (embedded), which passes
//! [`conformance`] as every wallet must, and [`absent`] (none). Called by the payment actor and the command line.
//!
//! The rules that an implementation must keep:
//! - [`PayOutcome::Failed`] is said only when it is certain that no part of the
//!   payment is under way and none will be. Everything else is `Unknown`, and
//!   stays resolvable by hash, after a restart too.
//! - Paying a hash twice never moves money twice: while the first is under way
//!   a second call waits for the same result, after it the same preimage is
//!   returned.
//! - Events are repeated, also after a restart, until they are acknowledged.

use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use protocol::ids::{LightningId, PaymentHash, Preimage};
use protocol::money::Msat;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

pub use bitcoin::Network;

pub mod absent;
pub mod conformance;
mod error;
mod invoice;
pub mod ldk;
mod outbox;

pub use error::{FailReason, WalletError};
pub use invoice::{InvoiceError, InvoiceFacts, read_invoice};
pub use outbox::{Outbox, OutboxStore};

/// Longest expiry of an invoice that a wallet is asked to make, in seconds.
///
/// An hour: long enough for a person with a phone, short enough that records of
/// payments can be forgotten the same day (a payee may accept up to two hours
/// after the expiry, because block times are loose).
pub const MAX_EXPIRY_S: u32 = 3_600;

/// A wallet that can receive, pay, and tell what became of a payment.
///
/// Futures may be dropped: what they started goes on, and is found again by
/// hash. No call blocks the calling thread.
pub trait Wallet: Send + Sync {
    /// The key that signs this wallet's invoices.
    fn node_id(&self) -> LightningId;

    /// The network whose coins it holds.
    fn network(&self) -> Network;

    /// Makes an invoice over exactly `msat`, bound to `description_hash`
    /// (BOLT 11 tag `h`), payable for `expiry_s` seconds (at most
    /// [`MAX_EXPIRY_S`]).
    fn create_invoice(
        &self,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>>;

    /// As [`Wallet::create_invoice`], for people: payers read what it is for (BOLT 11 tag
    /// `d`). A wallet that cannot do that binds the hash of the text.
    fn create_described_invoice(
        &self,
        msat: Msat,
        description: String,
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        let hash = sha2::Sha256::digest(description.as_bytes()).into();
        self.create_invoice(msat, hash, expiry_s)
    }

    /// Pays an invoice and waits for the result, within the wallet's own bound.
    ///
    /// Idempotent by hash. After a restart it may be called again with the same
    /// [`Payment`]: what is under way is not sent again, what never left is.
    fn pay(&self, payment: Payment) -> BoxFuture<'_, PayOutcome>;

    /// What became of a payment to `hash`.
    fn lookup_outgoing(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Outgoing, WalletError>>;

    /// What became of an invoice of ours.
    fn lookup_incoming(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Incoming, WalletError>>;

    /// Makes an invoice for a hash whose preimage the wallet does not know.
    /// What arrives is held until [`Wallet::settle_hold`] or
    /// [`Wallet::cancel_hold`], or until its deadline.
    ///
    /// # Errors
    /// [`WalletError::HashInUse`] where the hash was ever paid or invoiced here.
    fn create_hold_invoice(
        &self,
        hash: PaymentHash,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>>;

    /// Claims the held payment whose hash is SHA-256 of `preimage`. An
    /// [`WalletEvent::Received`] follows; settling again is no error.
    ///
    /// # Errors
    /// [`WalletError::NotHeld`] where nothing is held for it,
    /// [`WalletError::HoldExpired`] after the deadline.
    fn settle_hold(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Gives a held payment back, and refuses what may still arrive for the
    /// hash. Cancelling again is no error.
    fn cancel_hold(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>>;

    /// What can be spent and received now.
    fn balance(&self) -> BoxFuture<'_, Result<Balance, WalletError>>;

    /// Every unacknowledged event, oldest first, then the new ones. May be
    /// called again; each stream starts with everything unacknowledged.
    fn events(&self) -> BoxFuture<'_, Result<EventStream, WalletError>>;

    /// Confirms that an event has been dealt with, durably. Idempotent.
    fn ack(&self, id: EventId) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Drops the record of a final payment or invoice, once the ledger has it.
    ///
    /// # Errors
    /// [`WalletError::TooEarlyToForget`] while it may still be paid or repeated.
    fn forget(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Stops the wallet in good order. Idempotent.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Waits until it is known whether the wallet can be used, and says why not. One that
    /// opens by itself later says [`WalletError::NotReady`].
    fn opened(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Control over channels and coins on chain, where the wallet has it.
    fn channels(&self) -> Option<&dyn Channels> {
        None
    }

    /// Signatures by the key of [`Wallet::node_id`], where the wallet has it.
    fn signer(&self) -> Option<&dyn NodeSigner> {
        None
    }
}

/// Channels and coins on chain: what only a Lightning node of our own offers.
pub trait Channels: Send + Sync {
    /// A fresh on-chain address of this wallet.
    fn address(&self) -> BoxFuture<'_, Result<String, WalletError>>;

    /// Connects to a peer and remembers it.
    fn connect(&self, peer: Peer) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Opens a channel. Returns when its funding transaction has been made,
    /// broadcast, and seen by the wallet, so that the next open cannot spend
    /// the same coin. One at a time; a second call waits.
    fn open(&self, open: OpenChannel) -> BoxFuture<'_, Result<OpenedChannel, WalletError>>;

    /// Closes a channel: with the peer, or (`force`) without it, which locks
    /// our funds for the channel's delay.
    fn close(&self, id: ChannelId, force: bool) -> BoxFuture<'_, Result<(), WalletError>>;

    /// All channels.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ChannelInfo>, WalletError>>;

    /// Looks at the chain now rather than at the next poll.
    fn sync(&self) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Sends coins to an address; all of them where `sats` is `None`. Returns
    /// the transaction id.
    fn withdraw(
        &self,
        address: String,
        sats: Option<u64>,
    ) -> BoxFuture<'_, Result<String, WalletError>>;
}

/// Signatures by the Lightning node's own key.
pub trait NodeSigner: Send + Sync {
    /// Signs `message` with the node key, in the form that other Lightning
    /// nodes verify (zbase32 of a recoverable signature over the message with
    /// the prefix "Lightning Signed Message:").
    fn sign_message(&self, message: &[u8]) -> String;
}

/// An invoice of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// The invoice as BOLT 11 text.
    pub bolt11: String,
    /// Its payment hash.
    pub hash: PaymentHash,
    /// Its amount.
    pub msat: Msat,
    /// When it can no longer be paid, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// An order to pay. What the payer expects is named apart from the invoice, so
/// that an invoice that says something else is not paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The invoice as BOLT 11 text.
    pub bolt11: String,
    /// The payment hash that it must have.
    pub hash: PaymentHash,
    /// The amount that it must have.
    pub msat: Msat,
    /// The most that may be paid to routers on top.
    pub max_fee: Msat,
}

/// How a call to pay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayOutcome {
    /// The payee has been paid; the preimage proves it.
    Settled {
        /// The proof.
        preimage: Preimage,
        /// What routers took.
        fee: Msat,
    },
    /// Nothing was paid and nothing is under way.
    Failed {
        /// Why.
        reason: FailReason,
        /// Whether the same payment may succeed if tried again soon.
        retryable: bool,
        /// Whether it left the wallet and came back (`true`) or never left.
        submitted: bool,
    },
    /// Not known, or not yet. Resolve it with [`Wallet::lookup_outgoing`] or by
    /// calling pay again with the same [`Payment`]; never by another payment.
    Unknown {
        /// `true`: it is on its way. `false`: it may never have left.
        submitted: bool,
        /// What is known about the reason, for a person.
        why: String,
    },
}

impl PayOutcome {
    /// A failure before anything left the wallet.
    pub fn not_sent(reason: FailReason) -> Self {
        PayOutcome::Failed {
            retryable: reason.retryable(),
            reason,
            submitted: false,
        }
    }
}

/// The state of a payment by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// The wallet has no trace of it: it was never asked to pay it, or has
    /// forgotten it by order.
    NotFound,
    /// Under way, or it cannot be told yet.
    Pending,
    /// Paid.
    Settled {
        /// What the payee got.
        msat: Msat,
        /// What routers took.
        fee: Msat,
        /// The proof.
        preimage: Preimage,
    },
    /// Nothing was paid and nothing is under way.
    Failed {
        /// Why.
        reason: FailReason,
    },
}

/// The state of an invoice of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// No such invoice, or forgotten by order.
    NotFound,
    /// Not paid so far.
    Pending {
        /// The invoice's amount.
        msat: Msat,
    },
    /// Locked in and waiting for us to settle or cancel.
    Held {
        /// What arrived.
        msat: Msat,
        /// The block height at which it goes back by itself.
        deadline: u32,
    },
    /// Received.
    Settled {
        /// What arrived.
        msat: Msat,
        /// The preimage that was released.
        preimage: Preimage,
    },
    /// Cancelled, or given back after its deadline.
    Failed,
}

/// What can be spent and received now. Sums, except where said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Can be sent over usable channels.
    #[serde(rename = "spendable_msat")]
    pub spendable: Msat,
    /// The largest single part that can be sent now.
    #[serde(rename = "largest_part_msat")]
    pub largest_part: Msat,
    /// Can be received over usable channels.
    #[serde(rename = "receivable_msat")]
    pub receivable: Msat,
    /// Ours in all channels, usable or not, closing ones included, sat.
    pub channels_sat: u64,
    /// Confirmed on chain and free to use, sat.
    pub onchain_sat: u64,
    /// On chain in total, with what is unconfirmed or kept in reserve, sat.
    pub onchain_total_sat: u64,
    /// Of closed channels, on its way to the coins on chain, sat. Also in `channels_sat` until
    /// it is swept, and in `onchain_total_sat` as soon as the sweep is seen.
    #[serde(default)]
    pub returning_sat: u64,
}

impl Balance {
    /// Whether coins are in channels of which none can be used: their peers are away. That is not an
    /// empty wallet, and no channel need be opened.
    pub fn peers_are_away(&self) -> bool {
        self.spendable == Msat::ZERO
            && self.receivable == Msat::ZERO
            && self.channels_sat > self.returning_sat
    }
}

/// Numbers an event; grows within a wallet's life, restarts included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub u64);

/// An event with the number to acknowledge it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// For [`Wallet::ack`].
    pub id: EventId,
    /// What happened.
    pub event: WalletEvent,
}

/// Events in order; pulls one at a time, so a slow reader holds nothing up in
/// memory. Ends when the wallet stops.
pub type EventStream = BoxStream<'static, Delivery>;

/// Something that happened in the wallet. The same thing may be told twice
/// under two numbers (a crash between two writes): handle it by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalletEvent {
    /// An invoice of ours was paid.
    Received {
        /// Its hash.
        hash: PaymentHash,
        /// What arrived.
        msat: Msat,
    },
    /// A payment of ours arrived.
    Sent {
        /// Its hash.
        hash: PaymentHash,
        /// What routers took.
        fee: Msat,
        /// The proof.
        preimage: Preimage,
    },
    /// A payment of ours came back for good.
    SendFailed {
        /// Its hash.
        hash: PaymentHash,
        /// Why.
        reason: FailReason,
    },
    /// A hold invoice of ours was paid and waits for settle or cancel.
    Held {
        /// Its hash.
        hash: PaymentHash,
        /// What is held.
        msat: Msat,
        /// The block height at which it goes back by itself.
        deadline: u32,
    },
    /// A channel's funding transaction is on its way.
    ChannelPending {
        /// Our name for the channel.
        channel: ChannelId,
        /// The other side.
        peer: LightningId,
    },
    /// A channel can be used.
    ChannelReady {
        /// Our name for the channel.
        channel: ChannelId,
        /// The other side, where known.
        peer: Option<LightningId>,
    },
    /// A channel is no more.
    ChannelClosed {
        /// Our name for the channel.
        channel: ChannelId,
        /// The other side, where known.
        peer: Option<LightningId>,
        /// Why, for a person.
        reason: String,
    },
}

/// Our own name for a channel (each side has its own), as hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelId(pub String);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Lightning node and where to reach it (`host:port`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its node id.
    pub id: LightningId,
    /// Its address, `host:port`.
    pub address: String,
}

/// A channel to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenChannel {
    /// With whom.
    pub peer: Peer,
    /// Its size in sat; ours to begin with, but for `push`.
    pub sats: u64,
    /// Given to the peer at once. A gift: nothing secures its return.
    pub push: Msat,
    /// Announced to the network, so that others may route through it.
    pub announce: bool,
}

/// A channel whose funding transaction is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedChannel {
    /// Our name for it.
    pub id: ChannelId,
    /// The funding transaction.
    pub funding_txid: String,
}

/// A channel as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// Our name for it.
    pub id: ChannelId,
    /// The other side.
    pub peer: LightningId,
    /// Its size, sat.
    pub sats: u64,
    /// Can be sent.
    pub spendable: Msat,
    /// Can be received.
    pub receivable: Msat,
    /// Confirmed deep enough.
    pub ready: bool,
    /// Ready, and the peer is connected.
    pub usable: bool,
    /// Announced to the network.
    pub announced: bool,
    /// Opened by us.
    pub ours: bool,
    /// The funding transaction, once there is one.
    pub funding_txid: Option<String>,
}
