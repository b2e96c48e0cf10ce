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
use super::io::{Effect, EntryState, LedgerEntry, LookupOutcome, Note, Side};
use super::turn::{Extra, Job, Turn};
use crate::ids::{EffectId, OrderId, PaymentHash, Preimage};
use crate::limits;
use crate::machine::Table;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::route::Message;
use crate::time::{Now, WallTime};

/// Unpaid invoices at once, over all orders.
const MAX_OPEN: usize = limits::MAX_ORDERS * limits::MAX_PAYMENTS_IN_FLIGHT;

/// An invoice asked of the wallet.
#[derive(Debug)]
pub(super) struct Making {
    order: OrderId,
    seq: u32,
    msat: Msat,
    created: WallTime,
    expires: WallTime,
}

impl Making {
    /// An invoice of `msat` that is good for `expiry_s` seconds.
    pub fn new(now: Now, order: OrderId, seq: u32, msat: Msat, expiry_s: u32) -> Self {
        let created = now.wall;
        Making {
            order,
            seq,
            msat,
            created,
            expires: created.after_ms(u64::from(expiry_s).saturating_mul(1_000)),
        }
    }
}

/// What is remembered of an unpaid invoice; its entry is in the ledger.
#[derive(Debug)]
pub(super) struct Invoice {
    row: u64,
    pause_ms: u64,
    /// The last look-up and when it was asked.
    asked: Option<(EffectId, WallTime)>,
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
        if self.making.len() + self.invoices.len() >= MAX_OPEN {
            let reason = format!("{MAX_OPEN} invoices are unpaid, which is the most");
            tell_made(turn, &making, Err(refusal(&reason)));
            return;
        }
        let id = self.ids.fresh();
        let timeout = turn.now.tick.after_ms(self.config.wallet_timeout_ms.max(1));
        self.timers.set(Job::Invoice(id), timeout);
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
        self.timers.clear(Job::Invoice(id));
        let Some(making) = self.making.remove(&id) else {
            return; // Given up: nobody saw the invoice.
        };
        let (bolt11, hash) = match result {
            Ok(made) => made,
            Err(reason) => return tell_made(turn, &making, Err(refusal(&reason))),
        };
        if self.ledger.knows(Side::Host, &hash) {
            let reason = "the wallet gave out a payment hash twice";
            return tell_made(turn, &making, Err(refusal(reason)));
        }
        let buyer = self.credits.buyer_of(&making.order);
        let row = self.ledger.append(
            turn,
            LedgerEntry {
                order: making.order,
                seq: making.seq,
                side: Side::Host,
                counterparty: buyer,
                hash,
                msat: making.msat,
                fee: Msat::ZERO,
                state: EntryState::Invoiced,
                preimage: None,
                created: making.created,
                changed: turn.now.wall,
                expires: making.expires,
                note: String::new(),
            },
            "",
        );
        turn.put(
            Table::Incoming,
            &hash.0,
            &Extra {
                row,
                msat: Msat::ZERO,
            },
        );
        self.watch(turn.now, row, hash, making.expires);
        tell_made(turn, &making, Ok((bolt11, hash)));
    }

    /// Takes up an invoice found in the ledger at start: looked up at once.
    pub(super) fn resume_invoice(&mut self, now: Now, row: u64, entry: &LedgerEntry) {
        self.watch(now, row, entry.hash, entry.expires);
        self.timers.set(Job::Incoming(entry.hash), now.tick);
    }

    fn watch(&mut self, now: Now, row: u64, hash: PaymentHash, expires: WallTime) {
        let invoice = Invoice {
            row,
            pause_ms: self.config.lookup_first_ms,
            asked: None,
        };
        self.invoices.insert(hash, invoice);
        let ms = self.until_dead(now, expires);
        self.timers.set(Job::Incoming(hash), now.tick.after_ms(ms));
    }

    /// Milliseconds until an invoice that nobody paid may be given up; at least one.
    fn until_dead(&self, now: Now, expires: WallTime) -> u64 {
        let dead = expires.after_ms(self.config.unknown_grace_ms);
        dead.ms_since(now.wall).saturating_add(1)
    }

    /// Money arrived.
    pub(super) fn received(&mut self, turn: &mut Turn, event: u64, hash: PaymentHash, msat: Msat) {
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

    /// Time to ask after an invoice: at its end, or after a restart.
    pub(super) fn look_in(&mut self, turn: &mut Turn, hash: PaymentHash) {
        let id = self.ids.fresh();
        let Some(invoice) = self.invoices.get_mut(&hash) else {
            return;
        };
        invoice.asked = Some((id, turn.now.wall));
        let pause = invoice.pause_ms;
        invoice.pause_ms = pause.saturating_mul(2).min(self.config.lookup_max_ms);
        let pause = self.spread(pause);
        self.timers
            .set(Job::Incoming(hash), turn.now.tick.after_ms(pause));
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
        let row = invoice.row;
        let asked = invoice.asked.filter(|(last, _)| *last == id);
        let Some((_, entry, _)) = self.ledger.find(Side::Host, &hash) else {
            return;
        };
        let expires = entry.expires;
        let dead = expires.after_ms(self.config.unknown_grace_ms);
        match outcome {
            LookupOutcome::Settled { msat, preimage, .. } => {
                self.credit(turn, &hash, msat, Source::LookUp { preimage });
            }
            LookupOutcome::Unavailable => {} // Asked again.
            // "Pending" of an invoice means only that it is unpaid.
            _ if asked.is_some_and(|(_, at)| at > dead) => {
                let wall = turn.now.wall;
                self.ledger.change(Some(&mut *turn), row, |entry| {
                    entry.state = EntryState::Expired;
                    entry.changed = wall;
                    entry.note = "not paid before it expired".to_owned();
                });
                self.unwatch(turn, &hash);
            }
            _ => {
                let ms = self.until_dead(turn.now, expires);
                let pause = self.config.lookup_first_ms;
                if let Some(invoice) = self.invoices.get_mut(&hash) {
                    invoice.pause_ms = pause;
                }
                self.timers
                    .set(Job::Incoming(hash), turn.now.tick.after_ms(ms));
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
        self.unwatch(turn, hash);
        let late = wall.ms_since(before.created) > self.config.late_ms;
        let punctuality = match source {
            Source::Event if late => Punctuality::Late,
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
            closed: self.ledger.is_closed(Side::Host, &before.order)
                || self.credits.is_void(&before.order),
        };
        let window = self.credits.settled(turn, &self.config, &settlement);
        turn.tell(Message::CreditGranted {
            order: before.order,
            seq: before.seq,
            hash: before.hash,
            msat,
            window,
        });
    }

    fn unwatch(&mut self, turn: &mut Turn, hash: &PaymentHash) {
        self.timers.clear(Job::Incoming(*hash));
        if self.invoices.remove(hash).is_some() {
            turn.delete(Table::Incoming, &hash.0);
        }
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
