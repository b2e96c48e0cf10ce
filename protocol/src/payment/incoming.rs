//! The other half of the saga: an invoice that we issue, until it is paid or dead.
//!
//! # States
//! ```text
//! (asked of the wallet) -> Invoiced -> Settled
//!                                   -> Expired -> Settled, if the money comes after all
//! ```
//!
//! # Failures
//! | what happens | what follows |
//! |---|---|
//! | the wallet cannot make one, or is silent | Inference is told; nothing is written; a late one is dropped unsent |
//! | paid | written, credited once, told once, then the wallet's event is acknowledged |
//! | the event comes again, or a second payment to the same hash | noted in the entry, acknowledged, no credit |
//! | paid with another amount | booked as received; credited is what was asked for, at most |
//! | money for no invoice of ours | a note in the books, acknowledged |
//! | its order ends with nothing given | `Expired` at once and not asked after; it no longer counts as unpaid |
//! | paid after that | booked, told in a note, and counted as credit of the buyer's key: nobody here holds a balance |
//! | expired for `unknown_grace_ms` | the wallet is asked; unless it was paid: `Expired` |
//! | the wallet does not answer that | asked again, at twice the pause |
//!
//! # Crash
//! | crash | found at restart | what follows |
//! |---|---|---|
//! | before `Invoiced` is durable | nothing | the buyer never saw the invoice |
//! | after it | `Invoiced` | looked up at once, and again at its expiry |
//! | before the acknowledgement | `Settled` | the event comes again and is acknowledged |

use super::Payment;
use super::credit::{Punctuality, Settlement};
use super::turn::{Extra, TimerKind, Turn};
use super::unpaid::Whose;
use crate::ids::{EffectId, NodeKey, OrderId, PaymentHash, Preimage};
use crate::machine::Table;
use crate::message::payment::{Effect, EntryState, LedgerEntry, LookupOutcome, Note, Side};
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick, WallTime};

/// An invoice asked of the wallet.
#[derive(Debug)]
pub(super) struct Making {
    order: OrderId,
    seq: u32,
    msat: Msat,
    whose: Whose,
    created: Now,
    expires: WallTime,
}

impl Making {
    /// An invoice of `msat` that is good for `expiry_s` seconds.
    pub fn new(
        now: Now,
        order: OrderId,
        seq: u32,
        msat: Msat,
        whose: Whose,
        expiry_s: u32,
    ) -> Self {
        let ms = u64::from(expiry_s).saturating_mul(1_000);
        Making {
            order,
            seq,
            msat,
            whose,
            created: now,
            expires: now.wall.after_ms(ms),
        }
    }
}

/// What is remembered of an unpaid invoice; its entry is in the ledger.
#[derive(Debug)]
pub(super) struct Invoice {
    whose: Whose,
    /// When it was asked of the wallet, if that was in this run: the wall clock may jump.
    made: Option<Tick>,
    /// How long it can be paid. Milliseconds.
    life_ms: u64,
    pause_ms: u64,
    /// The last look-up and when it was asked.
    asked: Option<(EffectId, Now)>,
}

impl Invoice {
    /// Milliseconds from when it was made.
    fn age(&self, now: Now, entry: &LedgerEntry) -> u64 {
        match self.made {
            Some(made) => now.tick.ms_since(made),
            None => now.wall.ms_since(entry.created),
        }
    }
}

/// How a payment to us became known.
enum Source {
    Event,
    LookUp { preimage: Option<Preimage> },
}

impl Payment {
    /// Asks the wallet for an invoice.
    pub(super) fn make_invoice(
        &mut self,
        turn: &mut Turn,
        making: Making,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) {
        if let Some(reason) = self.unpaid.refuse(making.whose) {
            return tell_made(turn, &making, Err(refusal(&reason)));
        }
        self.unpaid.add(making.whose);
        let id = self.ids.fresh();
        let timeout = turn.now.tick.after_ms(self.config.wallet_timeout_ms.max(1));
        self.timers.set(TimerKind::Invoice(id), timeout);
        self.credits.touch(turn.now, &making.order);
        turn.then(Effect::CreateInvoice {
            id,
            msat: making.msat,
            description_hash,
            expiry_s,
        });
        self.making.insert(id, making);
    }

    /// The wallet made it, or not.
    pub(super) fn invoice_created(
        &mut self,
        turn: &mut Turn,
        id: EffectId,
        result: Result<(String, PaymentHash), String>,
    ) {
        self.timers.clear(TimerKind::Invoice(id));
        let Some(making) = self.making.remove(&id) else {
            return; // Given up: nobody saw the invoice.
        };
        self.unpaid.remove(making.whose);
        if self.credits.is_void(&making.order) {
            return; // Its order is over: nobody sees the invoice.
        }
        let (bolt11, hash) = match result {
            Ok(made) => made,
            Err(reason) => return tell_made(turn, &making, Err(refusal(&reason))),
        };
        if self.ledger.knows(Side::Host, &hash) {
            let reason = "the wallet gave out a payment hash twice";
            return tell_made(turn, &making, Err(refusal(reason)));
        }
        let entry = LedgerEntry {
            order: making.order,
            seq: making.seq,
            side: Side::Host,
            counterparty: making.whose.buyer,
            hash,
            msat: making.msat,
            fee: Msat::ZERO,
            state: EntryState::Invoiced,
            preimage: None,
            created: making.created.wall,
            changed: turn.now.wall,
            expires: making.expires,
            note: String::new(),
        };
        let row = self.ledger.append(turn, entry.clone(), "");
        self.sweep.add(row, &entry);
        turn.put(
            Table::Incoming,
            &hash.0,
            &Extra {
                row,
                msat: Msat::ZERO,
            },
        );
        let made = Some(making.created.tick);
        let life_ms = making.expires.ms_since(making.created.wall);
        let invoice = self.invoice(making.whose, made, life_ms);
        self.watch(turn.now, hash, invoice, life_ms);
        if making.seq == 0 {
            self.entries.insert(making.order, hash);
        }
        tell_made(turn, &making, Ok((bolt11, hash)));
    }

    /// Takes up an invoice found in the ledger at start: looked up at once.
    pub(super) fn resume_invoice(&mut self, now: Now, entry: &LedgerEntry) {
        let whose = self.whose(entry.counterparty);
        let life_ms = entry.expires.ms_since(entry.created);
        let invoice = self.invoice(whose, None, life_ms);
        self.watch(now, entry.hash, invoice, 0);
        self.timers.set(TimerKind::Incoming(entry.hash), now.tick);
    }

    /// Whose the invoices of a buyer are.
    pub(super) fn whose(&self, buyer: Option<NodeKey>) -> Whose {
        let paid_before = buyer.is_some_and(|buyer| self.credits.paid_before(&self.config, &buyer));
        Whose { buyer, paid_before }
    }

    fn invoice(&self, whose: Whose, made: Option<Tick>, life_ms: u64) -> Invoice {
        Invoice {
            whose,
            made,
            life_ms,
            pause_ms: self.config.lookup_first_ms,
            asked: None,
        }
    }

    fn watch(&mut self, now: Now, hash: PaymentHash, invoice: Invoice, left_ms: u64) {
        self.unpaid.add(invoice.whose);
        self.invoices.insert(hash, invoice);
        let ms = left_ms
            .saturating_add(self.config.unknown_grace_ms)
            .saturating_add(1);
        self.timers
            .set(TimerKind::Incoming(hash), now.tick.after_ms(ms));
    }

    /// An order ended and nothing was given or taken: its entry invoice is nobody's care any
    /// more. Money that comes for it all the same is found by its hash.
    pub(super) fn let_go(&mut self, turn: &mut Turn, order: &OrderId) {
        let Some(hash) = self.entries.get(order).copied() else {
            return;
        };
        self.expired(turn, &hash, "its order ended before it was paid");
    }

    fn expired(&mut self, turn: &mut Turn, hash: &PaymentHash, note: &str) {
        let Some((row, entry, _)) = self.ledger.find(Side::Host, hash) else {
            return;
        };
        if entry.state != EntryState::Invoiced {
            return;
        }
        let (wall, order) = (turn.now.wall, entry.order);
        self.sweep.expired(entry);
        self.ledger.change(Some(&mut *turn), row, |entry| {
            entry.state = EntryState::Expired;
            entry.changed = wall;
            entry.note = note.to_owned();
        });
        self.unwatch(turn, hash, &order);
    }

    /// Money arrived.
    pub(super) fn received(&mut self, turn: &mut Turn, event: u64, hash: PaymentHash, msat: Msat) {
        self.ledger.recall(turn, &hash);
        match self.ledger.find(Side::Host, &hash) {
            Some((row, entry, _)) if entry.state == EntryState::Settled => {
                let note = format!("reported again by the wallet ({msat}); credited once");
                self.ledger
                    .change(Some(&mut *turn), row, |entry| entry.note = note);
            }
            Some(_) => self.credit(turn, &hash, msat, Source::Event),
            None => self.ledger.note(
                turn,
                Note {
                    at: turn.now.wall,
                    hash: Some(hash),
                    msat,
                    text: "received for no order of this node".to_owned(),
                },
            ),
        }
        turn.then(Effect::Acknowledge { event });
    }

    /// Asks the wallet whether the invoice of `hash` was paid, and arms the next poll. Due when the
    /// invoice expires, and after a restart.
    pub(super) fn poll_incoming(&mut self, turn: &mut Turn, hash: PaymentHash) {
        let id = self.ids.fresh();
        let Some(invoice) = self.invoices.get_mut(&hash) else {
            return;
        };
        invoice.asked = Some((id, turn.now));
        let pause = invoice.pause_ms;
        invoice.pause_ms = pause.saturating_mul(2).min(self.config.lookup_max_ms);
        let pause = self.with_jitter(pause);
        self.timers
            .set(TimerKind::Incoming(hash), turn.now.tick.after_ms(pause));
        let side = Side::Host;
        turn.then(Effect::Lookup { id, hash, side });
    }

    /// The wallet answered a look-up of an invoice.
    pub(super) fn found_incoming(
        &mut self,
        turn: &mut Turn,
        id: EffectId,
        hash: PaymentHash,
        outcome: LookupOutcome,
    ) {
        let Some(invoice) = self.invoices.get(&hash) else {
            return; // Settled meanwhile.
        };
        let Some((_, entry, _)) = self.ledger.find(Side::Host, &hash) else {
            return;
        };
        let asked = invoice.asked.filter(|(last, _)| *last == id);
        let life = invoice.life_ms.saturating_add(self.config.unknown_grace_ms);
        let is_dead = asked.is_some_and(|(_, at)| invoice.age(at, entry) > life);
        let left = life.saturating_sub(invoice.age(turn.now, entry));
        match outcome {
            LookupOutcome::Settled { msat, preimage, .. } => {
                self.credit(turn, &hash, msat, Source::LookUp { preimage });
            }
            LookupOutcome::Unavailable => {} // Asked again.
            // "Pending" of an invoice means only that it is unpaid.
            _ if is_dead => self.expired(turn, &hash, "not paid before it expired"),
            _ => {
                let pause = self.config.lookup_first_ms;
                if let Some(invoice) = self.invoices.get_mut(&hash) {
                    invoice.pause_ms = pause;
                }
                let at = turn.now.tick.after_ms(left.saturating_add(1));
                self.timers.set(TimerKind::Incoming(hash), at);
            }
        }
    }

    /// Books a payment to us, opens the window further, tells Inference. Once per hash.
    fn credit(&mut self, turn: &mut Turn, hash: &PaymentHash, received: Msat, source: Source) {
        let Some((row, before, _)) = self.ledger.find(Side::Host, hash) else {
            return;
        };
        let before = before.clone();
        let wall = turn.now.wall;
        self.ledger.change(Some(&mut *turn), row, |entry| {
            entry.state = EntryState::Settled;
            entry.changed = wall;
            entry.msat = received;
            entry.note = if received == before.msat {
                String::new()
            } else {
                format!("{} were asked for", before.msat)
            };
            if let Source::LookUp { preimage } = &source {
                entry.preimage = *preimage;
            }
        });
        let is_void = self.credits.is_void(&before.order);
        let age = match self.unwatch(turn, hash, &before.order) {
            Some(invoice) => invoice.age(turn.now, &before),
            None => wall.ms_since(before.created),
        };
        let punctuality = match source {
            // We ended the order, and have the money: who paid it is owed the trust.
            _ if is_void => Punctuality::OnTime,
            Source::Event if age > self.config.late_ms => Punctuality::Late,
            Source::Event => Punctuality::OnTime,
            // It may have waited for us, not we for it.
            Source::LookUp { .. } => Punctuality::Unclear,
        };
        let msat = received.min(before.msat);
        let settlement = Settlement {
            order: before.order,
            buyer: before.counterparty,
            msat,
            punctuality,
            closed: is_void || self.ledger.is_closed(Side::Host, &before.order),
        };
        if is_void {
            let text = format!(
                "received for order {} after it had ended and with nothing served for it: it counts as credit of its buyer's key",
                before.order.short()
            );
            let note = Note {
                at: wall,
                hash: Some(*hash),
                msat: received,
                text,
            };
            self.ledger.note(turn, note);
        }
        let window = self.credits.settled(turn, &self.config, &settlement);
        turn.tell(Message::CreditGranted {
            order: before.order,
            seq: before.seq,
            hash: before.hash,
            msat,
            window,
        });
    }

    fn unwatch(&mut self, turn: &mut Turn, hash: &PaymentHash, order: &OrderId) -> Option<Invoice> {
        self.timers.clear(TimerKind::Incoming(*hash));
        let invoice = self.invoices.remove(hash)?;
        turn.delete(Table::Incoming, &hash.0);
        self.unpaid.remove(invoice.whose);
        if self.entries.get(order) == Some(hash) {
            self.entries.remove(order);
        }
        Some(invoice)
    }
}

fn refusal(reason: &str) -> Refusal {
    let reason: String = reason.chars().take(300).collect();
    Refusal::new(
        Code::NoInvoice,
        format!("no invoice could be made: {reason}"),
    )
}

fn tell_made(turn: &mut Turn, making: &Making, result: Result<(String, PaymentHash), Refusal>) {
    turn.tell(Message::InvoiceMade {
        order: making.order,
        seq: making.seq,
        result,
    });
}
