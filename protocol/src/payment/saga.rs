//! The saga of one payment that we make, from plan to certainty.
//!
//! Not the wallet, and not the choice whom to pay. One payment per hash, ever;
//! its fate is asked for as long as it takes.
//!
//! # States
//! ```text
//! Planned -> Sent -> Settled
//!                 -> Failed
//!                 -> Unknown -> (look-up, with back-off) -> Settled
//!                                                        -> Failed
//! ```
//! `Planned` is on disk, with the hash, before the wallet is asked. `Sent` is in
//! memory only: on disk, `Planned` already means "may have been sent", so another
//! write would only cost the stream a disk flush per payment.
//!
//! # Failures
//! | what happens | what follows |
//! |---|---|
//! | the wallet fails the payment | `Failed`; what was held is free again |
//! | the wallet does not know, or says nothing for `pay_timeout_ms` | `Unknown`; Inference is told, and the hash is looked up |
//! | look-up: pending, or no answer | asked again, at twice the pause |
//! | look-up: settled, preimage withheld | asked again, for the proof; after [`UNPROVED`] such answers booked without it, since some wallets have none to give |
//! | "settled" with the preimage after that | the preimage is added |
//! | look-up: never heard of it | believed only of a question asked after the invoice's expiry and `unknown_grace_ms`: the wallet may write late |
//! | a result comes twice, or after a look-up | nothing more is told; the event is acknowledged |
//! | "settled" after "failed" | `Settled`: money moved, so the books follow |
//! | "failed" after "settled" | ignored |
//! | an invoice with a known hash | refused; nothing is sent |
//! | an invoice that lives longer than [`MAX_EXPIRY_S`] | refused: a payment lost on the way would be of unknown fate as long |
//!
//! # Crash
//! | crash | found at restart | what follows |
//! |---|---|---|
//! | before `Planned` is durable | nothing | the wallet was not asked |
//! | between the write and the wallet's start | `Planned` | looked up; `Failed` once expired and never heard of |
//! | while the wallet pays, or before its result is written | `Planned` or `Unknown` | looked up; the wallet repeats its event too |
//! | after the result is written, before it is told | the result | the books are right; the request ended with the run |
//! | after the result is written, before the acknowledgement | the result | the event comes again and is acknowledged |

use super::Payment;
use super::budget::{self, PendingSpend};
use super::turn::{Extra, TimerKind, Turn};
use crate::ids::{EffectId, NodeKey, PaymentHash, Preimage};
use crate::limits;
use crate::machine::Table;
use crate::message::inference::PayRequest;
use crate::message::payment::{Effect, EntryState, LedgerEntry, PayOutcome, Side};
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick, WallTime};

/// Payments of open fate at once, over all orders.
const MAX_OPEN: usize = limits::MAX_ORDERS * limits::MAX_PAYMENTS_IN_FLIGHT;

/// Longest life of an invoice that is paid. Seconds. An hour is the default of most wallets, and
/// hosts of this program use minutes.
const MAX_EXPIRY_S: u64 = 3_600;

/// Answers "settled, and no preimage" until that is believed. With the pauses between look-ups
/// these are three minutes, in which a wallet that has one would have written it.
pub(super) const UNPROVED: u32 = 8;

/// What is remembered of a payment whose fate is open; its entry is in the ledger.
#[derive(Debug)]
pub(super) struct Saga {
    pub hold: PendingSpend,
    /// When the wallet was asked, if that was in this run: the wall clock may jump.
    began: Option<Tick>,
    /// Look-ups that said "settled" and gave no proof.
    pub unproved: u32,
    /// Pause before the next look-up.
    pub pause_ms: u64,
    /// The last look-up and when it was asked.
    pub asked: Option<(EffectId, Now)>,
}

impl Saga {
    /// Milliseconds from the plan to `at`.
    pub fn age(&self, at: Now, entry: &LedgerEntry) -> u64 {
        match self.began {
            Some(began) => at.tick.ms_since(began),
            None => at.wall.ms_since(entry.created),
        }
    }
}

/// What the wallet reports of a payment.
#[derive(Debug)]
pub(super) enum PaymentUpdate {
    /// It was paid; some wallets give no proof.
    Settled {
        preimage: Option<Preimage>,
        fee: Msat,
    },
    /// It was not, and will not be.
    Failed { reason: String },
    /// The wallet cannot tell.
    Unknown { reason: String },
}

impl From<PayOutcome> for PaymentUpdate {
    fn from(outcome: PayOutcome) -> PaymentUpdate {
        match outcome {
            PayOutcome::Settled { preimage, fee } => PaymentUpdate::Settled {
                preimage: Some(preimage),
                fee,
            },
            PayOutcome::Failed { reason } => PaymentUpdate::Failed { reason },
            PayOutcome::Unknown => PaymentUpdate::Unknown {
                reason: "the wallet does not know yet".to_owned(),
            },
        }
    }
}

/// The whole transition table; `None`: nothing changes.
fn next(state: EntryState, news: &PaymentUpdate) -> Option<EntryState> {
    use EntryState as S;
    match (state, news) {
        (S::Settled, _) => None,
        (S::Planned | S::Sent | S::Unknown | S::Failed, PaymentUpdate::Settled { .. }) => {
            Some(S::Settled)
        }
        (S::Planned | S::Sent | S::Unknown, PaymentUpdate::Failed { .. }) => Some(S::Failed),
        (S::Planned | S::Sent, PaymentUpdate::Unknown { .. }) => Some(S::Unknown),
        _ => None,
    }
}

impl Payment {
    /// Pays an invoice, or says why not. The same invoice of the same order asked again is ignored.
    pub(super) fn pay(&mut self, turn: &mut Turn, pay: &PayRequest) {
        let hash = pay.facts.hash;
        if let Some((_, entry, _)) = self.ledger.find(Side::Buyer, &hash)
            && entry.order == pay.order
            && entry.seq == pay.seq
        {
            return;
        }
        let today = budget::day(turn.now.wall);
        let leave = self
            .may_pay(turn.now, pay)
            .and_then(|()| self.allow_debt(turn.now.wall, pay))
            .and_then(|()| self.budgets.allow(&self.config, today, pay));
        match leave {
            Ok(leave) => {
                let hold = PendingSpend {
                    order: pay.order,
                    seq: pay.seq,
                    budget: leave.budget,
                    day: today,
                    msat: pay.msat,
                    max_fee: leave.max_fee,
                };
                self.begin(turn, pay, hold);
            }
            Err(refusal) => turn.tell(Message::NotSettled {
                order: pay.order,
                seq: pay.seq,
                refusal,
            }),
        }
    }

    fn may_pay(&self, now: Now, pay: &PayRequest) -> Result<(), Refusal> {
        let problem = if self.ledger.knows(Side::Buyer, &pay.facts.hash) {
            "an invoice with this payment hash was paid or tried before".to_owned()
        } else if pay.msat == Msat::ZERO {
            "the invoice asks for nothing".to_owned()
        } else if pay.facts.msat.is_some_and(|msat| msat != pay.msat) {
            let says = pay.facts.msat.unwrap_or_default();
            format!("the invoice says {says}, the order {}", pay.msat)
        } else if pay.facts.expires <= now.wall {
            "the invoice had expired when it was to be paid".to_owned()
        } else if pay.facts.expires > now.wall.after_ms(MAX_EXPIRY_S * 1_000) {
            format!("the invoice is good for more than {MAX_EXPIRY_S} s, which is the most")
        } else if self.sagas.len() >= MAX_OPEN {
            format!("{MAX_OPEN} payments are under way, which is the most")
        } else {
            return Ok(());
        };
        Err(Refusal::new(Code::PaymentFailed, problem))
    }

    /// A debt is paid only where our own books say that there is one; a host that carries
    /// the same one into two orders gets it once. While a payment for an order with this host
    /// that is over is of open fate, none is paid: a debt may be that payment in another coat,
    /// and would replace it.
    fn allow_debt(&mut self, wall: WallTime, pay: &PayRequest) -> Result<(), Refusal> {
        if pay.carried == Msat::ZERO || self.claims.contains_key(&pay.order) {
            return Ok(());
        }
        let disputed = |text| Err(Refusal::new(Code::DebtDisputed, text));
        if let Some(open) = self.under_way(&pay.host) {
            return disputed(format!(
                "the host claims {} of debt from earlier orders, while a payment of {open} for one of them is under way",
                pay.carried
            ));
        }
        let owed = self.ledger.owed_to(&pay.host, wall);
        let claimed = self
            .claims
            .values()
            .filter(|(host, _)| *host == pay.host)
            .fold(Msat::ZERO, |sum, (_, msat)| sum.saturating_add(*msat));
        let most = owed.saturating_sub(claimed);
        if pay.carried > most {
            return disputed(format!(
                "the host claims {} of debt from earlier orders, by our books it is at most {most}",
                pay.carried
            ));
        }
        self.claims.insert(pay.order, (pay.host, pay.carried));
        Ok(())
    }

    /// A payment of open fate for an order with this host that is over.
    fn under_way(&self, host: &NodeKey) -> Option<Msat> {
        let open = self.sagas.iter().find(|(hash, saga)| {
            let entry = self.ledger.find(Side::Buyer, hash);
            entry.is_some_and(|(_, entry, _)| entry.counterparty == Some(*host))
                && self.ledger.is_closed(Side::Buyer, &saga.hold.order)
        });
        open.map(|(_, saga)| saga.hold.msat)
    }

    fn begin(&mut self, turn: &mut Turn, pay: &PayRequest, hold: PendingSpend) {
        let hash = pay.facts.hash;
        let entry = LedgerEntry {
            order: pay.order,
            seq: pay.seq,
            side: Side::Buyer,
            counterparty: Some(pay.host),
            hash,
            msat: pay.msat,
            fee: Msat::ZERO,
            state: EntryState::Planned,
            preimage: None,
            created: turn.now.wall,
            changed: turn.now.wall,
            expires: pay.facts.expires,
            note: String::new(),
        };
        let row = self.ledger.append(turn, entry.clone(), &hold.budget);
        self.sweep.add(row, &entry);
        let msat = hold.max_fee;
        turn.put(Table::Outgoing, &hash.0, &Extra { row, msat });
        turn.then(Effect::Pay {
            id: self.ids.fresh(),
            bolt11: pay.bolt11.clone(),
            hash,
            msat: pay.msat,
            max_fee: hold.max_fee,
        });
        self.ledger
            .change(None, row, |entry| entry.state = EntryState::Sent);
        self.budgets.hold(&hold, hash);
        let saga = Saga {
            hold,
            began: Some(turn.now.tick),
            unproved: 0,
            pause_ms: self.config.lookup_first_ms,
            asked: None,
        };
        self.sagas.insert(hash, saga);
        let timeout = turn.now.tick.after_ms(self.config.pay_timeout_ms.max(1));
        self.timers.set(TimerKind::Outgoing(hash), timeout);
    }

    /// Takes up a payment found in the ledger at start. It is never sent again.
    pub(super) fn resume_saga(
        &mut self,
        now: Now,
        row: u64,
        budget: String,
        entry: &LedgerEntry,
        max_fee: Msat,
    ) {
        let hold = PendingSpend {
            order: entry.order,
            seq: entry.seq,
            budget,
            day: budget::day(entry.created),
            msat: entry.msat,
            max_fee,
        };
        self.budgets.resume(&hold);
        self.ledger.change(None, row, |entry| {
            entry.state = EntryState::Unknown;
            entry.note = "under way when the node stopped; being looked up".to_owned();
        });
        let saga = Saga {
            hold,
            began: None,
            unproved: 0,
            pause_ms: self.config.lookup_first_ms,
            asked: None,
        };
        self.sagas.insert(entry.hash, saga);
        self.timers.set(TimerKind::Outgoing(entry.hash), now.tick);
    }

    /// The wallet's event for a payment of ours, or for one that is none of the books'.
    ///
    /// Both are acknowledged; only the former is written.
    pub(super) fn sent(
        &mut self,
        turn: &mut Turn,
        event: u64,
        hash: &PaymentHash,
        outcome: PayOutcome,
    ) {
        let known = self.ledger.find(Side::Buyer, hash).map(|(row, ..)| row);
        let proof = match outcome {
            PayOutcome::Settled { preimage, .. } => Some(preimage),
            _ => None,
        };
        if !self.apply_update(turn, hash, outcome.into())
            && let Some(row) = known
        {
            // Written again, so that the acknowledgement is behind what it answers.
            self.ledger.change(Some(&mut *turn), row, |entry| {
                if entry.state == EntryState::Settled {
                    entry.preimage = entry.preimage.or(proof);
                }
            });
        }
        turn.then(Effect::Acknowledge { event });
    }

    /// Moves the saga of `hash` on, books it, and tells Inference. Returns whether anything changed.
    pub(super) fn apply_update(
        &mut self,
        turn: &mut Turn,
        hash: &PaymentHash,
        news: PaymentUpdate,
    ) -> bool {
        let Some((row, before, budget)) = self.ledger.find(Side::Buyer, hash) else {
            return false; // Not a payment of an order: the wallet's own command line, say.
        };
        let Some(state) = next(before.state, &news) else {
            return false;
        };
        let (before, budget) = (before.clone(), budget.to_owned());
        let wall = turn.now.wall;
        self.ledger.change(Some(&mut *turn), row, |entry| {
            entry.state = state;
            entry.changed = wall;
            match &news {
                PaymentUpdate::Settled { preimage, fee } => {
                    entry.preimage = *preimage;
                    entry.fee = *fee;
                    entry.note = match preimage {
                        Some(_) => String::new(),
                        None => "the wallet says that it is paid, and gives no proof".to_owned(),
                    };
                }
                PaymentUpdate::Failed { reason } | PaymentUpdate::Unknown { reason } => {
                    entry.note = clip(reason)
                }
            }
        });
        match news {
            PaymentUpdate::Settled { preimage, fee } => {
                self.settle(turn, &before, budget, preimage, fee);
            }
            PaymentUpdate::Failed { reason } => {
                if let Some(saga) = self.forget(turn, hash) {
                    self.budgets.end(&saga.hold, None);
                }
                let text = format!("the payment of {} failed: {}", before.msat, clip(&reason));
                not_settled(turn, &before, Code::PaymentFailed, text);
            }
            PaymentUpdate::Unknown { reason } => {
                let pause = self.with_jitter(self.config.lookup_first_ms);
                let at = turn.now.tick.after_ms(pause);
                self.timers.set(TimerKind::Outgoing(*hash), at);
                let text = format!(
                    "the fate of {} is not known: {}",
                    before.msat,
                    clip(&reason)
                );
                not_settled(turn, &before, Code::PaymentUnknown, text);
            }
        }
        true
    }

    fn settle(
        &mut self,
        turn: &mut Turn,
        before: &LedgerEntry,
        budget: String,
        preimage: Option<Preimage>,
        fee: Msat,
    ) {
        let mut ms = turn.now.wall.ms_since(before.created);
        match self.forget(turn, &before.hash) {
            Some(saga) => {
                if let Some(began) = saga.began {
                    ms = turn.now.tick.ms_since(began);
                }
                self.budgets.end(&saga.hold, Some(fee));
            }
            None => {
                let hold = PendingSpend {
                    order: before.order,
                    seq: before.seq,
                    budget,
                    day: budget::day(before.created),
                    msat: before.msat,
                    max_fee: Msat::ZERO,
                };
                self.budgets.revive(&hold, before.hash, fee);
            }
        }
        turn.tell(Message::Settled {
            order: before.order,
            seq: before.seq,
            hash: before.hash,
            preimage,
            msat: before.msat,
            fee,
            ms,
        });
    }

    fn forget(&mut self, turn: &mut Turn, hash: &PaymentHash) -> Option<Saga> {
        self.timers.clear(TimerKind::Outgoing(*hash));
        let saga = self.sagas.remove(hash)?;
        turn.delete(Table::Outgoing, &hash.0);
        Some(saga)
    }
}

fn not_settled(turn: &mut Turn, entry: &LedgerEntry, code: Code, text: String) {
    turn.tell(Message::NotSettled {
        order: entry.order,
        seq: entry.seq,
        refusal: Refusal::new(code, text),
    });
}

/// Bounds a wallet's own words before they enter the books.
fn clip(text: &str) -> String {
    const MOST: usize = 300;
    text.chars().take(MOST).collect()
}
