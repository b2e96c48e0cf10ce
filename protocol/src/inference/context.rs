//! What an order machine borrows from the inference machine for one turn.

use super::io::{BuyerEvent, Effect};
use crate::codec;
use crate::crypto::{Crypto, OrderKeys};
use crate::envelope::{Body, Network, Signed};
use crate::ids::{EffectId, ModelDigest, NodeKey, OrderId, RequestId, StreamId};
use crate::machine::{EffectIds, Outbox, Record, Table};
use crate::money::{Counts, Msat};
use crate::offence::{Offence, OffenceKind};
use crate::order::wire::{Frame, Status};
use crate::payment::io::Side;
use crate::route::Message;
use crate::time::{Now, WallTime};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Timings and sizes of the order machines. Set by the operator; the defaults are for a home node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The network that money moves on.
    pub network: Network,
    /// Host: least invoice, one step of payment.
    pub quantum: Msat,
    /// Host: a remainder below this is carried as debt, because some wallets cannot pay it.
    pub min_invoice: Msat,
    /// Host: how long terms stand, and how long a buyer may take to accept and to pay the entry. Milliseconds.
    pub terms_ttl_ms: u64,
    /// Host: how long a running order may stall unpaid before it ends. Milliseconds.
    pub pay_timeout_ms: u64,
    /// Host: expiry of invoices. Seconds. Longer than `pay_timeout_ms`, or a slow payment is lost.
    pub invoice_expiry_s: u32,
    /// Buyer: how long a dial may take. Milliseconds.
    pub dial_timeout_ms: u64,
    /// Buyer: how long terms may take. Milliseconds. Counting a long prompt takes a while on a slow host.
    pub terms_timeout_ms: u64,
    /// Buyer: how long the first token may take, queue and prefill included. Milliseconds.
    pub first_token_timeout_ms: u64,
    /// Buyer: how long a stream may be silent. Milliseconds.
    pub idle_timeout_ms: u64,
    /// Buyer: hosts tried for one request before any money moved.
    pub max_attempts: u32,
    /// Buyer: routing fee accepted per payment, in parts per million of its amount.
    pub max_fee_ppm: u64,
    /// Buyer: routing fee accepted per payment in any case.
    pub max_fee_floor: Msat,
}

impl Config {
    /// Defaults for `network`.
    pub fn new(network: Network) -> Self {
        Config {
            network,
            quantum: Msat(1_000),
            min_invoice: Msat(1),
            terms_ttl_ms: 60_000,
            pay_timeout_ms: 60_000,
            invoice_expiry_s: 180,
            dial_timeout_ms: 20_000,
            terms_timeout_ms: 30_000,
            first_token_timeout_ms: 180_000,
            idle_timeout_ms: 90_000,
            max_attempts: 3,
            max_fee_ppm: 10_000,
            max_fee_floor: Msat(3_000),
        }
    }

    /// Returns the routing fee accepted for a payment of `msat`.
    pub fn max_fee(&self, msat: Msat) -> Msat {
        let share = u128::from(msat.0) * u128::from(self.max_fee_ppm) / 1_000_000;
        Msat(u64::try_from(share).unwrap_or(u64::MAX)).max(self.max_fee_floor)
    }
}

/// The borrowed parts.
pub struct Ctx<'a> {
    /// The node key: signs as a host.
    pub(crate) crypto: &'a dyn Crypto,
    /// The order keys: sign as a buyer, who is not a public person.
    pub(crate) orders: &'a dyn OrderKeys,
    pub(crate) config: &'a Config,
    pub(crate) now: Now,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) ids: &'a mut EffectIds,
    pub(crate) out: &'a mut Outbox<Effect>,
}

impl Ctx<'_> {
    /// Signs `body` for `to` with the node key and a fresh nonce.
    pub(crate) fn seal<T: Body>(&mut self, to: NodeKey, body: &T) -> Signed {
        self.seal_with(self.crypto, to, body)
    }

    /// Signs `body` for `to` with `crypto` and a fresh nonce.
    pub(crate) fn seal_with<T: Body>(
        &mut self,
        crypto: &dyn Crypto,
        to: NodeKey,
        body: &T,
    ) -> Signed {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let (network, time) = (self.config.network, self.now.wall);
        Signed::seal(crypto, network, Some(to), time, nonce, body)
    }

    pub(crate) fn fresh(&mut self) -> EffectId {
        self.ids.fresh()
    }

    pub(crate) fn send(&mut self, stream: StreamId, frame: Frame) {
        self.out.push(Effect::Send {
            stream,
            frame: Box::new(frame),
        });
    }

    pub(crate) fn close(&mut self, stream: StreamId) {
        self.out.push(Effect::Close { stream });
    }

    pub(crate) fn tell(&mut self, message: Message) {
        self.out.push(Effect::Tell(message));
    }

    pub(crate) fn deliver(&mut self, request: RequestId, event: BuyerEvent) {
        self.out.push(Effect::Deliver { request, event });
    }

    pub(crate) fn persist_order(&mut self, id: &OrderId, record: &OrderRecord) {
        self.out.push(Effect::Persist(vec![record.to_record(id)]));
    }

    pub(crate) fn offence(&mut self, by: NodeKey, order: OrderId, kind: OffenceKind, detail: &str) {
        self.tell(Message::Offended(Offence {
            by,
            order: Some(order),
            kind,
            detail: detail.to_owned(),
        }));
    }
}

/// An order on disk: what must survive a crash, and the evidence afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Our side.
    pub side: Side,
    /// The other side.
    pub counterparty: NodeKey,
    /// The model.
    pub model: ModelDigest,
    /// The signed order.
    pub order: Signed,
    /// The signed terms.
    pub terms: Option<Signed>,
    /// Tokens so far (buyer side; the host can produce them again).
    pub tokens: Vec<crate::chain::ChainedToken>,
    /// The text so far (buyer side).
    pub text: String,
    /// Signed invoices, oldest first.
    pub invoices: Vec<Signed>,
    /// Signed `Paid` frames (host side).
    pub paid: Vec<Signed>,
    /// The signed receipt.
    pub receipt: Option<Signed>,
    /// The buyer's countersignature.
    pub countersigned: Option<Signed>,
    /// Totals delivered.
    pub counts: Counts,
    /// Their cost.
    pub cost: Msat,
    /// `None`: still running when it was written.
    pub status: Option<Status>,
    /// When it began.
    pub started: WallTime,
}

/// Bytes that a stored order may have: the bundle's limit.
const MAX_RECORD_BYTES: usize = crate::limits::MAX_AUDIT_FRAME_BYTES;

impl OrderRecord {
    /// Encodes the record under `buyer|host` and the order's id.
    pub fn to_record(&self, id: &OrderId) -> Record {
        let side = match self.side {
            Side::Buyer => 0u8,
            Side::Host => 1u8,
        };
        Record {
            table: Table::Orders,
            key: [&[side][..], &id.0].concat(),
            value: Some(codec::encode(self)),
        }
    }

    /// Reads back what [`OrderRecord::to_record`] wrote.
    pub fn from_record(key: &[u8], value: &[u8]) -> Option<(OrderId, OrderRecord)> {
        let id = OrderId(key.get(1..)?.try_into().ok()?);
        Some((id, codec::decode(value, MAX_RECORD_BYTES).ok()?))
    }

    /// A body as it was written down: it was verified then.
    fn body<T: serde::de::DeserializeOwned>(signed: &Signed) -> Option<T> {
        let limit = crate::limits::MAX_ORDER_FRAME_BYTES;
        let envelope: crate::envelope::Envelope = codec::decode(&signed.bytes, limit).ok()?;
        codec::decode(&envelope.body, limit).ok()
    }

    fn terms_body(&self) -> Option<crate::order::wire::Terms> {
        Self::body(self.terms.as_ref()?)
    }

    /// Debt from earlier orders that the terms add, on the buyer's side where an invoice came.
    pub fn carried(&self) -> Msat {
        let terms = self.terms_body();
        let billed = |terms: &crate::order::wire::Terms| {
            terms.entry.is_some() || !self.invoices.is_empty() || self.side == Side::Host
        };
        terms
            .filter(billed)
            .map_or(Msat::ZERO, |terms| terms.carried_debt)
    }

    /// What a host may have delivered beyond what its buyer wrote down, at most.
    pub fn unsure(&self) -> Msat {
        match self.side {
            Side::Buyer => {
                let order = Self::body::<crate::order::wire::Order>(&self.order);
                let (Some(order), Some(terms)) = (order, self.terms_body()) else {
                    return Msat::ZERO;
                };
                // The entry payment, and one that was not written down any more.
                let payments = self.invoices.len() + 2;
                terms.most_under_way(&order.job, &self.counts, payments)
            }
            Side::Host => Msat::ZERO,
        }
    }

    /// Returns the evidence for a third party, once there are terms.
    pub fn bundle(&self) -> Option<crate::bundle::Bundle> {
        Some(crate::bundle::Bundle {
            order: self.order.clone(),
            terms: self.terms.clone()?,
            tokens: self.tokens.clone(),
            invoices: self.invoices.clone(),
            receipt: self.receipt.clone(),
            countersigned: self.countersigned.clone(),
        })
    }
}
