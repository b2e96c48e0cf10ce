//! What an order machine borrows from the inference machine for one turn.

use crate::crypto::{Crypto, OrderKeys};
use crate::ids::{EffectId, NodeKey, OrderId, RequestId, StreamId};
use crate::limits;
use crate::machine::{EffectIds, Outbox, Record};
use crate::message::inference::{BuyerEvent, Effect};
use crate::message::sibling::Message;
use crate::money::{Fees, Msat};
use crate::offence::{Offence, OffenceKind};
use crate::order::late::LatePayments;
use crate::order::record::{Closing, Journal, Keep, OrderRecord, Retained};
use crate::time::Now;
use crate::wire::envelope::{Body, Network, Signed};
use crate::wire::manifest::PaymentMode;
use crate::wire::order::Frame;
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

/// Timings and sizes of the order machines. Set by the operator; the defaults are for a home node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The network that money moves on.
    pub network: Network,
    /// Host: least invoice, one step of payment.
    pub quantum: Msat,
    /// Host: a remainder below this is carried as debt, because some wallets cannot pay it.
    pub min_invoice: Msat,
    /// Host: payment modes offered.
    pub modes: Vec<PaymentMode>,
    /// Host: how long terms stand, and how long a buyer may take to accept them. Milliseconds.
    pub terms_ttl_ms: u64,
    /// Host: expiry of the entry invoice. Seconds.
    pub entry_expiry_s: u32,
    /// Host: how long an accepted order outlives its entry invoice: a payment that was sent in
    /// time may be settled that much later. Milliseconds.
    pub late_entry_ms: u64,
    /// Host: how long a running order may stall unpaid before it ends. Milliseconds.
    pub pay_timeout_ms: u64,
    /// Host: how long the engine may give no output where it is allowed some. Milliseconds.
    pub engine_timeout_ms: u64,
    /// Host: expiry of invoices. Seconds. Longer than `pay_timeout_ms`, or a slow payment is lost.
    pub invoice_expiry_s: u32,
    /// Buyer: how long a dial may take. Milliseconds.
    pub dial_timeout_ms: u64,
    /// Buyer: how long the client may take to agree to a choice. Milliseconds.
    pub confirm_timeout_ms: u64,
    /// Buyer: how long terms may take. Milliseconds. Counting a long prompt takes a while on a slow host.
    pub terms_timeout_ms: u64,
    /// Buyer: how long the first token may take, queue and prefill included. Milliseconds.
    pub first_token_timeout_ms: u64,
    /// Buyer: longest wait that terms may announce. Milliseconds.
    pub max_wait_ms: u64,
    /// Buyer: largest step of payment that is agreed to: so much output is prepaid.
    pub max_quantum: Msat,
    /// Buyer: smallest amount that the wallet can pay, and a divisor of all that it can.
    pub payment_grain: Msat,
    /// Buyer: how long a stream may be silent. Milliseconds.
    pub idle_timeout_ms: u64,
    /// Buyer: hosts that took longer than ten seconds and did not serve, before a request fails.
    /// Quick refusals do not count, nor do hosts that are seen to be away at once.
    pub max_attempts: u32,
    /// How long finished orders stay on disk, prompts among them.
    pub keep: Keep,
    /// Buyer: routing fee accepted per payment, in parts per million of its amount.
    pub max_fee_ppm: u64,
    /// Buyer: routing fee accepted per payment in any case.
    pub max_fee_floor: Msat,
    /// Buyer: how much of a cap is kept for routing fees; hosts are told the rest. The same
    /// as in the settings of Payment.
    pub fees: Fees,
}

impl Config {
    /// Defaults for `network`.
    pub fn new(network: Network) -> Self {
        Config {
            network,
            quantum: Msat(1_000),
            min_invoice: Msat(1),
            modes: vec![PaymentMode::Metered],
            terms_ttl_ms: 60_000,
            entry_expiry_s: 60,
            // Wallets behind NWC answer as late as 72 s; a retry on the way takes as long.
            late_entry_ms: 120_000,
            pay_timeout_ms: 60_000,
            // Twice as long as buyers wait for the first token.
            engine_timeout_ms: 360_000,
            invoice_expiry_s: 180,
            dial_timeout_ms: 20_000,
            // Half the life of a listing; the money is set aside meanwhile.
            confirm_timeout_ms: 600_000,
            terms_timeout_ms: 30_000,
            first_token_timeout_ms: limits::FIRST_TOKEN_MS,
            max_wait_ms: 120_000,
            // Ten default steps: more than that before the first word is mode `before`.
            max_quantum: Msat(10_000),
            payment_grain: Msat(1),
            idle_timeout_ms: 90_000,
            max_attempts: 3,
            keep: Keep {
                days: 90,
                bytes: 1 << 30,
            },
            max_fee_ppm: 10_000,
            max_fee_floor: Msat(3_000),
            fees: Fees::default(),
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
    pub(crate) retained: &'a mut Retained,
    pub(crate) late: &'a mut LatePayments,
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

    pub(crate) fn persist(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            self.out.push(Effect::Persist(records));
        }
    }

    /// Writes down an order that is over, or more of it.
    pub(crate) fn keep(&mut self, record: &OrderRecord) {
        let records = self.retained.keep(record, self.now.wall);
        self.persist(records);
    }

    /// Ends an order: its evidence and what Payment must be told are durable together,
    /// before Payment is told. An order of which nothing is on disk leaves nothing there.
    pub(crate) fn close_order(
        &mut self,
        journal: &mut Journal,
        record: &OrderRecord,
        closing: Closing,
    ) {
        if journal.is_open() {
            let mut records = journal.close(&closing);
            records.extend(self.retained.keep(record, self.now.wall));
            self.persist(records);
        }
        self.tell(Message::CloseOrder {
            account: Box::new(closing.account),
            unpaid: closing.unpaid,
        });
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
