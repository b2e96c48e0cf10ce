//! Which orders of peers are taken, and which of those that nobody paid for give way.
//!
//! An order is refused before it costs anything: what is not signed, not served or not allowed
//! first, then what there is no room for.

use super::{HostOrder, HostState, Inference, Parts, Use};
use crate::ids::{AddressTag, Caller, NodeKey, OrderId, PeerTag, StreamId};
use crate::limits;
use crate::message::inference::Admission;
use crate::message::payment::Credit;
use crate::money::Msat;
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::time::Tick;
use crate::wire::envelope::{EnvelopeError, Opened, Signed};
use crate::wire::manifest::{ModelOffer, PaymentMode};
use crate::wire::order::{Handling, Order};

/// Orders that nobody paid for, over all peers: of strangers, and as many of known keys. Beyond
/// it the oldest gives way.
pub(super) const MAX_UNPAID: usize = 256;
/// Bytes that either of them hold in memory together.
const MAX_UNPAID_BYTES: usize = 64 << 20;
/// How long an accepted order keeps others out while its entry payment may be on its way.
/// Milliseconds. Most payments are settled much sooner; a later one finds its order or is
/// credit for the next.
pub(super) const ENTRY_GRACE_MS: u64 = 30_000;
/// Peers, addresses and keys whose unpaid orders are counted at once: more than may be connected.
const MAX_COUNTED_SENDERS: usize = 8_192;
/// Suggested wait when all slots are taken. Milliseconds. A typical answer takes this long.
const BUSY_RETRY_MS: u64 = 10_000;

/// Who answers for orders that end unpaid: the peer that sent them, its address, and a key that
/// has credit. Keys without credit are free, and answer for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    Peer(PeerTag),
    Address(AddressTag),
    Key(NodeKey),
}

/// A refusal that says when to come back.
pub(super) fn busy(code: Code, text: &str) -> Refusal {
    let mut refusal = Refusal::new(code, text);
    refusal.retry_after_ms = Some(BUSY_RETRY_MS);
    refusal
}

/// What whoever sent an order is told whose nonce is not taken.
pub(super) fn not_admitted(error: EnvelopeError) -> Refusal {
    match error {
        EnvelopeError::Replayed => Refusal::new(Code::BadEnvelope, error.to_string()),
        full => busy(Code::TooManyUnpaid, &full.to_string()),
    }
}

impl Inference {
    /// Counts the orders that ended unpaid in this turn.
    pub(super) fn count_voids(&mut self) {
        let over = |order: &HostOrder| order.state == HostState::Over && order.was_void();
        for order in self.hosts.values().filter(|order| over(order)) {
            let Caller { peer, address } = order.caller();
            let mut senders = vec![Sender::Address(address)];
            // Who gave way to a flood is not to blame; only an address has so many offers.
            if !order.was_let_go() {
                senders.push(Sender::Peer(peer));
                senders.extend(order.is_known().then(|| Sender::Key(order.buyer())));
            }
            for sender in senders {
                if self.voids.len() < MAX_COUNTED_SENDERS || self.voids.contains_key(&sender) {
                    let count = self.voids.entry(sender).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
    }
}

impl Parts<'_> {
    pub(super) fn on_order(
        &mut self,
        stream: StreamId,
        caller: Caller,
        signed: Signed,
        ctx: &mut Ctx<'_>,
    ) {
        let opened = match signed.open::<Order>(
            ctx.crypto,
            ctx.config.network,
            &ctx.crypto.key(),
            ctx.now.wall,
        ) {
            Ok(opened) => opened,
            Err(error) => {
                return self.refuse(
                    stream,
                    Refusal::new(Code::BadEnvelope, error.to_string()),
                    ctx,
                );
            }
        };
        let payer = self.is_payer(&opened.envelope.from, ctx.config.quantum);
        let offer = match self.admit(&opened, caller.peer, payer, &ctx.config.modes) {
            Ok(offer) => offer,
            Err(refusal) => return self.refuse(stream, refusal, ctx),
        };
        // Whoever sends somebody's envelope again is not its signer: nobody is blamed.
        if self.replay.knows(&opened.envelope) {
            return self.refuse(stream, not_admitted(EnvelopeError::Replayed), ctx);
        }
        if !self.make_room(&caller, payer, signed.bytes.len(), ctx) {
            let text = "too many orders wait for their entry payments";
            return self.refuse(stream, busy(Code::TooManyUnpaid, text), ctx);
        }
        let id = OrderId::of(&opened.digest);
        self.streams.insert(stream, Use::Host(id));
        let order = HostOrder::open(stream, caller, signed, opened, offer, payer, ctx);
        self.hosts.insert(id, order);
    }

    /// Whether the next order of a key stands apart from those of strangers: the key paid here in
    /// this run, a step for each order that it then has unpaid.
    pub(super) fn is_payer(&self, key: &NodeKey, step: Msat) -> bool {
        let unpaid = |order: &&HostOrder| order.is_unpaid() && order.buyer() == *key;
        let orders = self.hosts.values().filter(unpaid).count() + 1;
        self.payers.covers(key, orders, step)
    }

    /// Lets unpaid orders go until one of `bytes` has room: of strangers first among those of its
    /// address, then among all. Orders of known keys have as much room apart from theirs.
    /// Returns whether there is room.
    pub(super) fn make_room(
        &mut self,
        caller: &Caller,
        known: bool,
        bytes: usize,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let alike = |order: &HostOrder| order.is_unpaid() && order.is_known() == known;
        let of_address =
            |order: &HostOrder| alike(order) && order.caller().address == caller.address;
        let count = self
            .hosts
            .values()
            .filter(|order| of_address(order))
            .count();
        if !known
            && count >= limits::MAX_UNPAID_PER_ADDRESS
            && self.let_one_go(of_address, ctx).is_none()
        {
            return false;
        }
        let (mut count, mut held) = (0, bytes);
        for order in self.hosts.values().filter(|order| alike(order)) {
            count += 1;
            held = held.saturating_add(order.bytes());
        }
        while count >= MAX_UNPAID || held > MAX_UNPAID_BYTES {
            let Some(freed) = self.let_one_go(alike, ctx) else {
                return false;
            };
            count -= 1;
            held = held.saturating_sub(freed);
        }
        true
    }

    /// Of some unpaid orders, lets one go: the oldest whose terms nobody accepted; then of those
    /// accepted so long ago that their payments should have come. Returns the bytes that it held;
    /// it is dropped at the end of the turn.
    pub(super) fn let_one_go(
        &mut self,
        unpaid: impl Fn(&HostOrder) -> bool,
        ctx: &mut Ctx<'_>,
    ) -> Option<usize> {
        let now = ctx.now.tick;
        let grace = |then| now.ms_since(then) < ENTRY_GRACE_MS;
        let gives_way =
            |order: &&mut HostOrder| unpaid(order) && !order.accepted().is_some_and(grace);
        let candidates = self.hosts.values_mut().filter(gives_way);
        let oldest = candidates.min_by_key(|order| (order.accepted(), order.came()))?;
        oldest.evict(ctx);
        Some(oldest.bytes())
    }

    /// Orders of a sender that ended unpaid since the last sweep.
    pub(super) fn voids(&self, sender: Sender) -> u32 {
        self.voids.get(&sender).copied().unwrap_or_default()
    }

    /// Where many orders of an address ended unpaid, strangers from there are offered nothing for
    /// a while: an entry invoice stays in wallet and ledger. Who has credit or paid in this run is
    /// not concerned.
    pub(super) fn worth_an_offer(
        &self,
        order: &OrderId,
        credit: Credit,
    ) -> Result<Credit, Refusal> {
        let address = self.hosts.get(order).map(|order| order.caller().address);
        let voids = address.map_or(0, |address| self.voids(Sender::Address(address)));
        let stranger = credit.prepay && !self.hosts.get(order).is_some_and(HostOrder::is_known);
        if stranger && voids >= limits::MAX_VOID_PER_ADDRESS {
            let text = "many orders that came from this address were not paid";
            return Err(busy(Code::TooManyUnpaid, text));
        }
        Ok(credit)
    }

    /// Of the strangers' orders that cost less than a msat one stands at a time: they hold
    /// places for nothing.
    pub(super) fn one_gratis(&mut self, order: OrderId, ctx: &mut Ctx<'_>) {
        let gratis = |host: &&HostOrder| host.is_gratis() && host.state != HostState::Over;
        let newest = self.hosts.get(&order).filter(gratis).is_some();
        if newest && self.hosts.values().filter(gratis).count() > 1 {
            let text = "an order of less than a msat of another buyer is under way";
            self.host(order, |host| {
                host.fail(busy(Code::TooManyUnpaid, text), ctx)
            });
        }
    }

    /// How soon an order that is paid for now would begin. Milliseconds.
    pub(super) fn starts_within(&self, order: &OrderId, now: Tick) -> u64 {
        let Some(model) = self.hosts.get(order).map(HostOrder::model) else {
            return 0;
        };
        let slots = self.served.get(&model);
        let slots = slots.map_or(1, |served| served.limits.concurrent_orders);
        self.waits.starts_within(self.hosts, &model, slots, now)
    }

    pub(super) fn admit(
        &self,
        opened: &Opened<Order>,
        peer: PeerTag,
        payer: bool,
        modes: &[PaymentMode],
    ) -> Result<ModelOffer, Refusal> {
        let (order, digest, buyer) = (&opened.body, &opened.digest, &opened.envelope.from);
        match self.admission {
            Admission::Open => {}
            Admission::OwnerActive => {
                return Err(Refusal::new(
                    Code::OwnerActive,
                    "the owner of this machine needs it",
                ));
            }
            Admission::Draining => {
                return Err(Refusal::new(
                    Code::ShuttingDown,
                    "this host is shutting down",
                ));
            }
        }
        order
            .job
            .check()
            .map_err(|error| Refusal::new(Code::BadOrder, error.to_string()))?;
        order
            .check()
            .map_err(|error| Refusal::new(Code::BadOrder, error.to_string()))?;
        if !order.job.prefix.is_empty() {
            let text = "this host does not go on with another host's answer";
            return Err(Refusal::new(Code::BadOrder, text));
        }
        if order.handling != Handling::Plain {
            let text = "this host has no attested hardware";
            return Err(Refusal::new(Code::HandlingUnsupported, text));
        }
        if order.payment_grain.0 > limits::MAX_PAYMENT_GRAIN_MSAT {
            let text = format!("a payment grain of {}", order.payment_grain);
            return Err(Refusal::new(Code::BadOrder, text));
        }
        let served = self
            .served
            .get(&order.model)
            .ok_or_else(|| Refusal::new(Code::UnknownModel, "this model is not served here"))?;
        if !modes.contains(&order.mode) {
            let text = format!("this host offers the payment modes {modes:?} alone");
            return Err(Refusal::new(Code::ModeUnsupported, text.to_lowercase()));
        }
        if order.job.most_delivered() == 0 || order.job.max_output > served.limits.output_tokens {
            let message = format!(
                "max_output is {}, this host allows 1 to {} (or, for embeddings, no text was sent)",
                order.job.max_output, served.limits.output_tokens
            );
            return Err(Refusal::new(Code::TooLong, message));
        }
        if self.hosts.contains_key(&OrderId::of(digest)) {
            return Err(Refusal::new(Code::BadOrder, "this order is under way"));
        }
        let room = served
            .limits
            .concurrent_orders
            .saturating_add(served.limits.queued_orders);
        let taken = self
            .hosts
            .values()
            .filter(|host| host.model() == order.model && host.takes_place())
            .count();
        if taken >= room as usize || self.hosts.len() >= limits::MAX_ORDERS {
            return Err(busy(Code::Busy, "all slots and the queue are full"));
        }
        let of_peer = |known: bool| {
            let unpaid = self.hosts.values().filter(|host| {
                host.is_unpaid() && host.is_known() == known && host.caller().peer == peer
            });
            unpaid.count()
        };
        let voids = self.voids(Sender::Peer(peer));
        // Whoever paid has no less than a stranger.
        let most = limits::MAX_UNPAID_PER_PEER.max(room as usize);
        if (!payer && of_peer(false) >= limits::MAX_UNPAID_PER_PEER)
            || of_peer(true) >= most
            || voids.max(self.voids(Sender::Key(*buyer))) >= limits::MAX_VOID_PER_MINUTE
        {
            let text = "orders of this peer wait for their payment, or many of them were not paid";
            return Err(busy(Code::TooManyUnpaid, text));
        }
        Ok(served.offer.clone())
    }
}
