//! The payment machine: budgets, the payment saga, invoices, credit windows, the ledger.
//!
//! Decides who may be paid, how much, and how far a buyer is trusted; never sees
//! text, never holds a balance for anybody. Driven by the payment actor and by
//! the simulator; Inference asks, the wallet answers.
//!
//! - States: of one payment, see `saga`; of one invoice, see `incoming`.
//! - Inputs and effects: [`crate::message::payment`].
//! - Invariants: one [`Effect::Pay`] per payment hash, ever; no payment beyond
//!   what was reserved for its request, nor beyond the day's and the key's limit,
//!   fees included; a wallet event is acknowledged behind the `Persist` that books
//!   it; a payment of unknown fate is looked up, never replaced.
//! - Crash recovery: everything open is found in [`Table::Ledger`] and looked up at
//!   the first [`Machine::expire`]; reservations end with the run, as do the
//!   requests that they belong to.
//!
//! # Tables
//! Every value is one version byte (1) and the bincode of the named type.
//!
//! | table | key | value |
//! |---|---|---|
//! | `Ledger` | row number, 8 bytes big-endian | [`ledger::Row`] |
//! | `Outgoing` | payment hash, while its fate is open | row number, fee limit |
//! | `Outgoing` | `swept` | row before which the wallet was told to forget payments |
//! | `Incoming` | payment hash, while the invoice is open | row number, nothing |
//! | `Credit` | `c` + buyer key | window, debt, settlements, time of the last one, backing |
//! | `Credit` | `o` + order id, while it carries a debt | buyer, quantum, debt carried |

mod budget;
mod credit;
mod incoming;
pub mod ledger;
mod lookup;
mod reserve;
mod saga;
mod sweep;
mod turn;
mod unpaid;

#[cfg(test)]
mod tests;

use crate::ids::{Caller, EffectId, NodeKey, OrderId, PaymentHash};
use crate::limits;
use crate::machine::{EffectIds, Machine, Outbox, Record, Secrets, Table};
use crate::message::inference::OrderAccount;
use crate::message::payment::{Effect, EntryState, Input, Report, Side};
use crate::message::sibling::Message;
use crate::money::{Counts, Fees, Msat};
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick};
use crate::wire::envelope::Network;
use budget::Budgets;
use credit::Credits;
use incoming::{Invoice, Making};
use ledger::{Ledger, Row};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use saga::Saga;
use std::collections::BTreeMap;
pub use sweep::UNPAID_KEPT_MS;
use sweep::{SWEPT, SWEPT_UNPAID, Sweep};
use turn::{RecordError, TimerKind, Timers, Turn};
use unpaid::Unpaid;

/// What the owner of the node allows, and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most for one order, routing fees included.
    pub per_order: Msat,
    /// What of an order's cap may go into routing fees, over all its payments.
    pub fees: Fees,
    /// Most for one UTC day over all budgets, routing fees included.
    pub per_day: Msat,
    /// Most for one UTC day per budget name, fees included; a name not listed has only `per_day`.
    pub per_key: BTreeMap<String, Msat>,
    /// Payments of one order under way at once; never more than [`limits::MAX_PAYMENTS_IN_FLIGHT`].
    pub max_in_flight_per_order: usize,
    /// How long the wallet may take over a payment before its fate counts as unknown. Milliseconds.
    pub pay_timeout_ms: u64,
    /// How long the wallet may take over a balance or an invoice. Milliseconds.
    pub wallet_timeout_ms: u64,
    /// Pause before the first look-up of an unknown payment; doubles each time. Milliseconds.
    pub lookup_first_ms: u64,
    /// Longest pause between two look-ups. Milliseconds.
    pub lookup_max_ms: u64,
    /// How long after an invoice's expiry "never heard of it" is believed. Milliseconds.
    pub unknown_grace_ms: u64,
    /// An invoice settled later than this after it was made is late. Milliseconds.
    pub late_ms: u64,
    /// Largest credit window of one buyer; an order that was paid for has a quantum whatever
    /// it says.
    pub window_cap: Msat,
    /// A buyer that leaves more than this unpaid is a stranger again; what is left of an old
    /// debt is written off once it is no more than this.
    pub tolerated_debt: Msat,
    /// Days that the wallet keeps a payment after it was planned or invoiced; 0: it keeps all for
    /// ever. The books keep every payment, and the wallet no invoice that nobody can pay any more.
    pub retention_days: u64,
    /// What a key never seen before may use before its first payment is due.
    pub free_quota: Msat,
}

impl Config {
    /// The usual settings, the same for every network.
    pub fn new(_: Network) -> Self {
        Config::default()
    }
}

impl Default for Config {
    /// Limits of a careful owner; `freehold.toml` overrides them.
    fn default() -> Self {
        Config {
            per_order: Msat(1_000_000),
            fees: Fees::default(),
            per_day: Msat(10_000_000),
            per_key: BTreeMap::new(),
            max_in_flight_per_order: limits::MAX_PAYMENTS_IN_FLIGHT,
            // Wallets behind NWC have a tail of over a minute; a direct channel takes 65 ms.
            pay_timeout_ms: 60_000,
            wallet_timeout_ms: 30_000,
            lookup_first_ms: 1_000,
            lookup_max_ms: 60_000,
            // Long enough for a wallet that writes its history in batches.
            unknown_grace_ms: 600_000,
            late_ms: 30_000,
            // 64 default quanta: 256 tokens at 250 msat, eight seconds at 30 tokens a second.
            window_cap: Msat(64_000),
            // One default quantum: what cannot be invoiced is smaller.
            tolerated_debt: Msat(1_000),
            // Past every dispute; wallets show about as much.
            retention_days: 90,
            free_quota: Msat::ZERO,
        }
    }
}

/// The machine. See the module's head for its invariants.
pub struct Payment {
    config: Config,
    ids: EffectIds,
    rng: ChaCha8Rng,
    timers: Timers,
    ledger: Ledger,
    budgets: Budgets,
    credits: Credits,
    sagas: BTreeMap<PaymentHash, Saga>,
    making: BTreeMap<EffectId, Making>,
    invoices: BTreeMap<PaymentHash, Invoice>,
    /// Of these, entry payments, by order.
    entries: BTreeMap<OrderId, PaymentHash>,
    unpaid: Unpaid,
    sweep: Sweep,
    /// Debts that hosts of open orders claim, and that our books allow.
    claims: BTreeMap<OrderId, (NodeKey, Msat)>,
}

impl Payment {
    /// Starts with empty books. `seed` spreads look-ups in time, nothing else.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        Payment {
            config,
            ids: EffectIds::default(),
            rng: ChaCha8Rng::from_seed(seed),
            timers: Timers::default(),
            ledger: Ledger::default(),
            budgets: Budgets::default(),
            credits: Credits::default(),
            sagas: BTreeMap::new(),
            making: BTreeMap::new(),
            invoices: BTreeMap::new(),
            entries: BTreeMap::new(),
            unpaid: Unpaid::default(),
            sweep: Sweep::default(),
            claims: BTreeMap::new(),
        }
    }

    fn load_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let (row, loaded) = self.ledger.read(key, value)?;
        if let Row::Entry { entry, budget } = &loaded {
            self.sweep.add(row, entry);
            if (entry.side, entry.state) == (Side::Buyer, EntryState::Settled) {
                let day = budget::day(entry.created);
                let paid = entry.msat.saturating_add(entry.fee);
                self.budgets.spend(day, budget.clone(), paid);
            }
        }
        self.ledger.load(row, loaded);
        Ok(())
    }

    /// Returns the books.
    pub fn report(&self, now: Now) -> Report {
        let mut report = self.ledger.report();
        report.owed_to_us = self.credits.owed(&self.config, now.wall);
        report.spent_today = self.budgets.spent_on(budget::day(now.wall));
        report
    }

    fn resume(&mut self, now: Now, fee_limits: &BTreeMap<PaymentHash, Msat>) {
        self.sweep.begin();
        for (row, budget, entry) in self.ledger.open() {
            match entry.side {
                Side::Buyer => {
                    let fee = fee_limits.get(&entry.hash).copied().unwrap_or_default();
                    self.resume_saga(now, row, budget, &entry, fee);
                }
                Side::Host => self.resume_invoice(now, &entry),
            }
        }
    }

    fn open_credit(
        &mut self,
        turn: &mut Turn,
        order: OrderId,
        buyer: NodeKey,
        caller: &Caller,
        quantum: Msat,
    ) {
        let known = self.credits.knows(&order)
            || self.ledger.is_closed(Side::Host, &order)
            || self.ledger.received_for(&order) > Msat::ZERO;
        let result = match known {
            true => Err(Refusal::new(
                Code::BadOrder,
                "an order with this id was taken before",
            )),
            false => self
                .credits
                .open(turn, &self.config, order, buyer, caller, quantum),
        };
        turn.tell(Message::CreditOpened { order, result });
    }

    /// Books the end of an order, once, and says so.
    fn close(&mut self, turn: &mut Turn, account: OrderAccount, unpaid: Msat) {
        let (order, side) = (account.order, account.side);
        match side {
            Side::Host => self.close_sale(turn, account, unpaid),
            Side::Buyer => {
                self.claims.remove(&order);
                self.ledger.close(turn, account);
            }
        }
        turn.tell(Message::OrderClosed { order, side });
    }

    fn close_sale(&mut self, turn: &mut Turn, account: OrderAccount, unpaid: Msat) {
        let order = account.order;
        let buyer = self.credits.buyer_of(&order);
        if buyer.is_some_and(|buyer| buyer != account.counterparty) {
            return; // Refused for its id: the order that has it is another's.
        }
        let received = self.ledger.received_for(&order);
        let closed = self.ledger.is_closed(Side::Host, &order);
        // Whatever the books say, an order that was given credit is booked when it ends.
        if !closed || self.credits.is_open(&order) {
            self.credits
                .close(turn, &self.config, &account, unpaid, received);
        }
        if account.counts == Counts::default() && received == Msat::ZERO && !closed {
            // Nothing given, nothing taken: strangers do not fill the disk with refusals.
            self.credits.close_void(order);
            return self.let_go(turn, &order);
        }
        self.ledger.close(turn, account);
    }

    /// Adds up to an eighth of random jitter to `ms`, so that polls armed together do not fire
    /// together. Never returns 0.
    fn with_jitter(&mut self, ms: u64) -> u64 {
        let extra = (ms / 8).saturating_mul(u64::from(self.rng.next_u32())) >> 32;
        ms.saturating_add(extra).max(1)
    }
}

impl Machine for Payment {
    type Input = Input;
    type Effect = Effect;
    type Config = Config;

    const TABLES: &'static [Table] = &[
        Table::Outgoing,
        Table::Incoming,
        Table::Ledger,
        Table::Credit,
    ];

    /// What is open is looked up at the first `expire`. A record that does not decode is
    /// skipped and noted in the report.
    fn recover(
        config: Config,
        secrets: Secrets,
        records: impl Iterator<Item = Record>,
        now: Now,
    ) -> Self {
        let mut machine = Payment::new(config, secrets.seed);
        let mut fee_limits = BTreeMap::new();
        for record in records {
            let Some(value) = &record.value else { continue };
            let read = match record.table {
                Table::Ledger => machine.load_row(&record.key, value),
                Table::Credit => machine.credits.load(&record.key, value),
                Table::Outgoing if record.key == SWEPT => machine.sweep.load(value),
                Table::Outgoing if record.key == SWEPT_UNPAID => machine.sweep.load_unpaid(value),
                Table::Outgoing => turn::load_extra(&record.key, value, &mut fee_limits),
                _ => Ok(()),
            };
            if let Err(error) = read {
                machine.ledger.complain(now, &record, &error);
            }
        }
        machine.ledger.loaded();
        machine.resume(now, &fee_limits);
        machine
    }

    fn handle(&mut self, now: Now, input: Input, out: &mut Outbox<Effect>) {
        let mut turn = Turn::new(now);
        let turn_ref = &mut turn;
        match input {
            Input::Reserve {
                request,
                budget,
                max_cost,
            } => self.reserve(turn_ref, request, budget, max_cost),
            Input::Bind {
                request,
                order,
                host,
            } => self.budgets.bind(request, order, host),
            Input::Release { request } => self.release(request),
            Input::Pay(request) => self.pay(turn_ref, &request),
            Input::OpenCredit {
                order,
                buyer,
                caller,
                quantum,
            } => self.open_credit(turn_ref, order, buyer, &caller, quantum),
            Input::MakeInvoice {
                order,
                seq,
                msat,
                description_hash,
                expiry_s,
            } => {
                let whose = self.whose(self.credits.buyer_of(&order));
                let making = Making::new(now, order, seq, msat, whose, expiry_s);
                self.make_invoice(turn_ref, making, description_hash, expiry_s);
            }
            Input::CloseOrder { account, unpaid } => self.close(turn_ref, *account, unpaid),
            Input::BalanceChecked { id, spendable } => {
                self.balance_checked(turn_ref, id, spendable);
            }
            Input::InvoiceCreated { id, result } => self.invoice_created(turn_ref, id, result),
            Input::PayDone { hash, outcome, .. } => {
                self.apply_update(turn_ref, &hash, outcome.into());
            }
            Input::LookedUp { id, hash, outcome } => self.looked_up(turn_ref, id, hash, outcome),
            Input::Received { event, hash, msat } => self.received(turn_ref, event, hash, msat),
            Input::Sent {
                event,
                hash,
                outcome,
            } => self.sent(turn_ref, event, &hash, outcome),
            Input::StillNeeded { hash, wait_ms } => self.still_needed(now, hash, wait_ms),
            Input::Report { id } => {
                let report = Box::new(self.report(now));
                turn_ref.then(Effect::Reply { id, report });
            }
        }
        self.sweep(turn_ref);
        turn.finish(out);
    }

    fn expire(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let mut turn = Turn::new(now);
        for job in self.timers.due(now.tick) {
            match job {
                TimerKind::Outgoing(hash) => self.poll_outgoing(&mut turn, hash),
                TimerKind::Incoming(hash) => self.poll_incoming(&mut turn, hash),
                TimerKind::Balance(id) => self.balance_checked(&mut turn, id, None),
                TimerKind::Invoice(id) => {
                    let reason = "the wallet did not answer in time".to_owned();
                    self.invoice_created(&mut turn, id, Err(reason));
                }
            }
        }
        self.sweep(&mut turn);
        turn.finish(out);
    }

    fn deadline(&self) -> Option<Tick> {
        self.timers.next()
    }
}
