//! Paying, and finding out what became of it.
//!
//! The order of writes: our journal entry, then LDK's send (which writes its
//! channel state before anything leaves), then LDK's own record. A crash in
//! between leaves one of these states, found again by hash:
//!
//! | journal | LDK's record | is | lookup | pay again |
//! |---|---|---|---|---|
//! | none | none | never asked | not found | sends |
//! | started | none | left or not | pending, until an event or [`quiet`] tells | sends; LDK refuses what it has |
//! | started | pending | under way; or, from an earlier run, lost before LDK saved it | pending, likewise | waits; from an earlier run as above |
//! | started | failed | an event to come will tell | pending, likewise | as above |
//! | failed | failed | came back | failed | sends |
//! | any | succeeded | paid | settled | returns the preimage |
//! | settled | none | paid, by an event without a record | settled | returns the preimage |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ldk_node::lightning::routing::router::RouteParametersConfig;
use ldk_node::lightning_invoice::Bolt11Invoice;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentStatus};
use ldk_node::{ChannelDetails, LightningBalance, NodeError};
use parking_lot::Mutex;
use protocol::ids::PaymentHash;
use protocol::money::Msat;
use tokio::sync::watch;

use super::store::{Journal, JournalState};
use super::{Inner, convert, now_ms};
use crate::ports::wallet::invoice::{facts, parse};
use crate::ports::wallet::{FailReason, Outgoing, PayOutcome, Payment, WalletError};

/// How often a waiting call looks at LDK's record itself, in case events are
/// held up by consumers that do not acknowledge.
const LOOK: Duration = Duration::from_millis(500);

/// How long all channels that a payment may have gone through must have been usable
/// before its absence in them proves that it never left. LDK drops a peer that does not
/// complete a commitment within two minutes.
const QUIET: Duration = Duration::from_secs(180);

/// Calls to pay that are in progress, by hash.
#[derive(Default)]
pub(super) struct Waiters {
    calls: Mutex<HashMap<PaymentHash, Call>>,
}

struct Call {
    outcome: watch::Sender<Option<PayOutcome>>,
    users: usize,
}

/// A place among those who wait for a hash; left when dropped.
struct Ticket<'a> {
    waiters: &'a Waiters,
    hash: PaymentHash,
    outcome: watch::Receiver<Option<PayOutcome>>,
    first: bool,
}

impl Waiters {
    fn join(&self, hash: PaymentHash) -> Ticket<'_> {
        let mut calls = self.calls.lock();
        let call = calls.entry(hash).or_insert_with(|| Call {
            outcome: watch::Sender::new(None),
            users: 0,
        });
        call.users += 1;
        Ticket {
            waiters: self,
            hash,
            outcome: call.outcome.subscribe(),
            first: call.users == 1,
        }
    }

    pub fn finish(&self, hash: PaymentHash, outcome: PayOutcome) {
        if let Some(call) = self.calls.lock().get(&hash) {
            call.outcome.send_replace(Some(outcome));
        }
    }

    fn busy(&self, hash: PaymentHash) -> bool {
        self.calls.lock().contains_key(&hash)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut calls = self.waiters.calls.lock();
        if let Some(call) = calls.get_mut(&self.hash) {
            call.users -= 1;
            if call.users == 0 {
                calls.remove(&self.hash);
            }
        }
    }
}

/// What handing a payment over led to.
enum Submitted {
    UnderWay,
    Done(PayOutcome),
}

pub(super) async fn pay(inner: Arc<Inner>, payment: Payment) -> PayOutcome {
    if *inner.stopping.borrow() {
        return PayOutcome::not_sent(FailReason::NotRunning);
    }
    let phase = inner.phase.borrow().check();
    if let Err(error) = phase {
        return not_open(&inner, payment.hash, error).await;
    }
    let invoice = match check(&inner, &payment) {
        Ok(invoice) => invoice,
        Err(reason) => return PayOutcome::not_sent(reason),
    };
    // On the wallet's runtime, so that a caller that goes away changes nothing.
    let handle = inner.runtime.handle();
    let paying = handle.spawn(async move { pay_checked(&inner, payment, invoice).await });
    paying.await.unwrap_or_else(|_| PayOutcome::Unknown {
        submitted: false,
        why: "the wallet stopped".to_string(),
    })
}

/// What can be said of a payment while the Lightning node does not run: it has not failed
/// where an earlier run may have sent it.
async fn not_open(inner: &Arc<Inner>, hash: PaymentHash, why: WalletError) -> PayOutcome {
    let untouched = inner
        .unchecked(move |inner| {
            let known = inner.node.payment(&convert::payment_id(hash)).is_some();
            Ok(!known && inner.store.journal(hash)?.is_none())
        })
        .await;
    match untouched {
        Ok(true) => PayOutcome::not_sent(FailReason::NotRunning),
        Ok(false) | Err(_) => PayOutcome::Unknown {
            submitted: true,
            why: why.to_string(),
        },
    }
}

/// Refuses what must not be paid. Expiry comes later: a payment under way stays
/// under way when its invoice expires.
fn check(inner: &Inner, payment: &Payment) -> Result<Bolt11Invoice, FailReason> {
    let invoice =
        parse(&payment.bolt11).map_err(|error| FailReason::BadInvoice(error.to_string()))?;
    let says = facts(&invoice);
    if says.network != inner.network {
        return Err(FailReason::WrongNetwork {
            invoice: says.network.to_string(),
            ours: inner.network.to_string(),
        });
    }
    if says.hash != payment.hash {
        return Err(FailReason::HashMismatch {
            invoice: says.hash,
            expected: payment.hash,
        });
    }
    let Some(msat) = says.msat else {
        return Err(FailReason::BadInvoice("it names no amount".to_string()));
    };
    if msat != payment.msat {
        return Err(FailReason::AmountMismatch {
            invoice: msat,
            expected: payment.msat,
        });
    }
    if says.payee == inner.node_id {
        return Err(FailReason::OwnInvoice);
    }
    Ok(invoice)
}

async fn pay_checked(inner: &Arc<Inner>, payment: Payment, invoice: Bolt11Invoice) -> PayOutcome {
    let hash = payment.hash;
    let mut ticket = inner.waiters.join(hash);
    if ticket.first {
        let submitted = inner
            .unchecked(move |inner| submit(inner, &payment, &invoice))
            .await
            .unwrap_or_else(|error| {
                Submitted::Done(PayOutcome::Unknown {
                    submitted: false,
                    why: error.to_string(),
                })
            });
        if let Submitted::Done(outcome) = submitted {
            inner.waiters.finish(hash, outcome.clone());
            return outcome;
        }
    }
    let wait = async {
        let mut look = tokio::time::interval(LOOK);
        let mut stopping = inner.stopping.subscribe();
        loop {
            tokio::select! {
                done = ticket.outcome.wait_for(Option::is_some) => {
                    return done.ok().and_then(|outcome| outcome.clone());
                }
                _ = look.tick() => {
                    if let Some(outcome) = settled(inner, hash) {
                        return Some(outcome);
                    }
                }
                _ = stopping.wait_for(|stopping| *stopping) => return None,
            }
        }
    };
    match tokio::time::timeout(inner.config.pay_timeout, wait).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => PayOutcome::Unknown {
            submitted: true,
            why: "the wallet stopped".to_string(),
        },
        Err(_) => PayOutcome::Unknown {
            submitted: true,
            why: format!("no answer within {} s", inner.config.pay_timeout.as_secs()),
        },
    }
}

fn record(inner: &Inner, hash: PaymentHash) -> Option<PaymentDetails> {
    inner
        .node
        .payment(&convert::payment_id(hash))
        .filter(|details| details.direction == PaymentDirection::Outbound)
}

fn settled(inner: &Inner, hash: PaymentHash) -> Option<PayOutcome> {
    let details = record(inner, hash)?;
    if details.status != PaymentStatus::Succeeded {
        return None;
    }
    Some(PayOutcome::Settled {
        preimage: convert::preimage(&details)?,
        fee: Msat(details.fee_paid_msat.unwrap_or(0)),
    })
}

/// Hands a payment to LDK, unless it has it already. Blocks.
fn submit(
    inner: &Arc<Inner>,
    payment: &Payment,
    invoice: &Bolt11Invoice,
) -> Result<Submitted, WalletError> {
    let hash = payment.hash;
    if let Some(outcome) = settled(inner, hash) {
        return Ok(Submitted::Done(outcome));
    }
    let journal = inner.store.journal(hash)?;
    if let Some(JournalState::Settled { preimage, fee }) = journal.as_ref().map(|j| &j.state) {
        return Ok(Submitted::Done(PayOutcome::Settled {
            preimage: *preimage,
            fee: *fee,
        }));
    }
    let id = convert::payment_id(hash);
    let known = inner.node.payment(&id);
    if let Some(details) = &known {
        if details.direction == PaymentDirection::Inbound {
            return Ok(Submitted::Done(PayOutcome::not_sent(
                FailReason::OwnInvoice,
            )));
        }
        if details.status == PaymentStatus::Pending {
            if !earlier(inner, details.latest_update_timestamp.saturating_mul(1_000)) {
                return Ok(Submitted::UnderWay);
            }
            // LDK decides below whether it still has it; its list of payments,
            // which would refuse, may be ahead of what it really saved.
            inner
                .node
                .remove_payment(&id)
                .map_err(convert::node_error("removing a stale record"))?;
        }
    }
    let doubtful = journal
        .as_ref()
        .filter(|journal| journal.state == JournalState::Started)
        .map(|journal| journal.at_ms);
    let says = facts(invoice);
    if says.expired(now_ms()) {
        return Ok(not_handed_over(inner, hash, doubtful, FailReason::Expired));
    }
    let mut entry = Journal {
        msat: payment.msat,
        expires_ms: says.expires_ms,
        at_ms: now_ms(),
        state: JournalState::Started,
    };
    inner.store.write_journal(hash, &entry)?;
    inner.usable.look(&inner.node.list_channels())?;
    let limits = RouteParametersConfig {
        max_total_routing_fee_msat: Some(payment.max_fee.0),
        ..RouteParametersConfig::default()
    };
    match inner.node.bolt11_payment().send(invoice, Some(limits)) {
        Ok(_) | Err(NodeError::DuplicatePayment) => Ok(Submitted::UnderWay),
        // Its own record could not be written; the payment may have left.
        Err(NodeError::PersistenceFailed) => Ok(Submitted::Done(PayOutcome::Unknown {
            submitted: false,
            why: "the wallet's record could not be written".to_string(),
        })),
        Err(error) => {
            let reason = why_not_sent(inner, payment, &error);
            match doubtful {
                // Nothing new began: what is in doubt is as old as it was, and is resolved as such.
                Some(at_ms) => entry.at_ms = at_ms,
                None => {
                    entry.state = JournalState::Failed {
                        reason: reason.clone(),
                    };
                }
            }
            inner.store.write_journal(hash, &entry)?;
            Ok(not_handed_over(inner, hash, doubtful, reason))
        }
    }
}

/// LDK took nothing this time. If an earlier run may have handed it over (`doubtful`:
/// when), that proves nothing.
fn not_handed_over(
    inner: &Arc<Inner>,
    hash: PaymentHash,
    doubtful: Option<u64>,
    reason: FailReason,
) -> Submitted {
    if doubtful.is_some_and(|began_ms| !quiet(inner, began_ms)) {
        return Submitted::Done(PayOutcome::Unknown {
            submitted: false,
            why: format!(
                "payment {} was begun before a restart and cannot be sent again ({reason}); \
                 waiting for what became of it",
                hash.short()
            ),
        });
    }
    Submitted::Done(PayOutcome::not_sent(reason))
}

/// LDK says only that sending failed; the channels tell the reason.
fn why_not_sent(inner: &Inner, payment: &Payment, error: &NodeError) -> FailReason {
    match error {
        NodeError::NotRunning => return FailReason::NotRunning,
        NodeError::InvalidInvoice | NodeError::InvalidAmount => {
            return FailReason::BadInvoice(error.to_string());
        }
        _ => {}
    }
    let channels = inner.node.list_channels();
    let figures: Vec<Figures> = channels.iter().map(Figures::of).collect();
    why_channels_refuse(&figures, payment.msat, payment.max_fee)
}

/// What a channel says of itself that decides whether something can be sent.
#[derive(Debug, Clone, Copy)]
struct Figures {
    ready: bool,
    usable: bool,
    capacity: u64,
    most_at_once: u64,
    least_at_once: u64,
}

impl Figures {
    fn of(channel: &ChannelDetails) -> Self {
        Self {
            ready: channel.is_channel_ready,
            usable: channel.is_usable,
            capacity: channel.outbound_capacity_msat,
            most_at_once: channel.next_outbound_htlc_limit_msat,
            least_at_once: channel.next_outbound_htlc_minimum_msat,
        }
    }
}

fn why_channels_refuse(channels: &[Figures], msat: Msat, max_fee: Msat) -> FailReason {
    let usable = || channels.iter().filter(|channel| channel.usable);
    let capacity: u64 = usable().map(|channel| channel.capacity).sum();
    // Over all channels: a payment may be split between them.
    let at_once: u64 = usable().map(|channel| channel.most_at_once).sum();
    if usable().next().is_none() && channels.iter().any(|channel| channel.ready) {
        FailReason::PeerOffline
    } else if capacity < msat.0 {
        FailReason::Underfunded {
            needed: msat,
            spendable: Msat(capacity),
        }
    } else if usable().all(|channel| channel.least_at_once > msat.0) {
        // Too small: the most that may be under way in amounts too small for
        // an output of their own (27,750 sat at the lowest fees) is under way.
        FailReason::ChannelBusy
    } else if at_once == 0 {
        // As many payments are under way as there may be.
        FailReason::ChannelBusy
    } else if at_once < msat.0 {
        FailReason::TooLarge {
            needed: msat,
            largest: Msat(at_once),
        }
    } else {
        FailReason::NoRoute { max_fee }
    }
}

/// What became of a payment of ours. Blocks for a read at most.
pub(super) fn lookup(inner: &Arc<Inner>, hash: PaymentHash) -> Result<Outgoing, WalletError> {
    let record = record(inner, hash);
    let journal = inner.store.journal(hash)?;
    if let Some(details) = &record {
        match (details.status, convert::preimage(details)) {
            (PaymentStatus::Succeeded, Some(preimage)) => {
                return Ok(Outgoing::Settled {
                    msat: Msat(details.amount_msat.unwrap_or(0)),
                    fee: Msat(details.fee_paid_msat.unwrap_or(0)),
                    preimage,
                });
            }
            (PaymentStatus::Pending | PaymentStatus::Succeeded, _) => {
                let since = details.latest_update_timestamp.saturating_mul(1_000);
                let began = journal.map_or(since, |journal| journal.at_ms.min(since));
                return Ok(open_or_lost(inner, hash, since, began));
            }
            (PaymentStatus::Failed, _) => {}
        }
    }
    Ok(match (journal, record) {
        (None, None) => Outgoing::NotFound,
        (None, Some(_)) => Outgoing::Failed {
            reason: FailReason::CameBack("no reason on record".to_string()),
        },
        (Some(journal), _) => match journal.state {
            JournalState::Settled { preimage, fee } => Outgoing::Settled {
                msat: journal.msat,
                fee,
                preimage,
            },
            JournalState::Failed { reason } => Outgoing::Failed { reason },
            JournalState::Started => open_or_lost(inner, hash, journal.at_ms, journal.at_ms),
        },
    })
}

fn open_or_lost(inner: &Inner, hash: PaymentHash, since_ms: u64, began_ms: u64) -> Outgoing {
    if earlier(inner, since_ms) && !inner.waiters.busy(hash) && quiet(inner, began_ms) {
        Outgoing::Failed {
            reason: FailReason::NeverLeft,
        }
    } else {
        Outgoing::Pending
    }
}

/// Whether something recorded at `ms` is from before this run.
fn earlier(inner: &Inner, ms: u64) -> bool {
    // LDK counts in whole seconds: one that began in this run's first second
    // must not look older than the run.
    ms.saturating_add(1_000) < inner.started_ms
}

/// Whether the channels prove that nothing which an earlier run began then is under way:
/// all that it may have gone through usable for long enough, no payment of ours in any of
/// them, no event waiting.
fn quiet(inner: &Inner, began_ms: u64) -> bool {
    let channels = inner.node.list_channels();
    let (mattered, others): (Vec<_>, Vec<_>) = channels
        .iter()
        .partition(|channel| inner.usable.mattered(channel, began_ms));
    let other = |id| others.iter().any(|channel| channel.channel_id == id);
    let long_enough = |channel: &&ChannelDetails| inner.usable.is_for(channel, QUIET);
    inner.usable.is_open_for(QUIET)
        && mattered.iter().all(long_enough)
        && inner.node.next_event().is_none()
        && inner
            .node
            .list_balances()
            .lightning_balances
            .iter()
            .all(|balance| match balance {
                LightningBalance::ClaimableOnChannelClose {
                    channel_id,
                    outbound_payment_htlc_rounded_msat,
                    ..
                } => *outbound_payment_htlc_rounded_msat == 0 || other(*channel_id),
                LightningBalance::MaybeTimeoutClaimableHTLC {
                    outbound_payment, ..
                } => !outbound_payment,
                _ => true,
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_say_why_nothing_was_sent() {
        let fine = Figures {
            ready: true,
            usable: true,
            capacity: 90_000,
            most_at_once: 50_000,
            least_at_once: 1,
        };
        let away = Figures {
            usable: false,
            ..fine
        };
        let busy = Figures {
            most_at_once: 0,
            ..fine
        };
        let dust = Figures {
            least_at_once: 400_000,
            ..fine
        };
        let max_fee = Msat(7);
        let why = |channels: &[Figures], msat| why_channels_refuse(channels, Msat(msat), max_fee);
        let underfunded = |needed, spendable| FailReason::Underfunded {
            needed: Msat(needed),
            spendable: Msat(spendable),
        };
        assert_eq!(why(&[], 1), underfunded(1, 0));
        assert_eq!(why(&[away, away], 1), FailReason::PeerOffline);
        // What lies with a peer that is away cannot be spent.
        assert_eq!(why(&[fine, away], 90_001), underfunded(90_001, 90_000));
        assert_eq!(why(&[dust], 1_000), FailReason::ChannelBusy);
        assert_eq!(why(&[busy], 1_000), FailReason::ChannelBusy);
        // There is enough, but not for one payment, in one part or in several.
        let too_large = |needed, largest| FailReason::TooLarge {
            needed: Msat(needed),
            largest: Msat(largest),
        };
        assert_eq!(why(&[fine], 60_000), too_large(60_000, 50_000));
        assert_eq!(why(&[fine, busy], 120_000), too_large(120_000, 50_000));
        assert_eq!(why(&[fine, fine], 60_000), FailReason::NoRoute { max_fee });
        assert_eq!(why(&[fine], 50_000), FailReason::NoRoute { max_fee });
    }
}
