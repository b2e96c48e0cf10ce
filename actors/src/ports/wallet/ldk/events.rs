//! The one consumer of LDK's event queue.
//!
//! LDK repeats an event until it is confirmed. Here it wakes whoever waits, is
//! written to the outbox, and only then confirmed; so a crash repeats it, and a
//! slow reader of the outbox holds nothing up.

use std::sync::Arc;
use std::time::Duration;

use ldk_node::Event;
use ldk_node::payment::PaymentStatus;
use protocol::ids::{PaymentHash, Preimage};
use protocol::money::Msat;

use super::channels::{self, ChannelNews};
use super::store::{Held, Journal, JournalState};
use super::{Inner, convert, now_ms};
use crate::ports::wallet::{PayOutcome, WalletError, WalletEvent};

/// Pause after an event that could not be handled (a full disk, say).
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn run(inner: Arc<Inner>) {
    let mut stopping = inner.stopping.subscribe();
    loop {
        let next = async {
            if inner.outbox.room().await {
                Some(inner.node.next_event_async().await)
            } else {
                None
            }
        };
        let event = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            event = next => event,
        };
        let Some(event) = event else { return };
        let handled = inner
            .unchecked(move |inner| {
                handle(inner, event)?;
                inner
                    .node
                    .event_handled()
                    .map_err(convert::node_error("confirming an event"))
            })
            .await;
        if let Err(error) = handled {
            tracing::error!(node = %inner.node_id, %error, "wallet event not handled; it will be repeated");
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// Handles one event; again, if it is repeated. Blocks.
fn handle(inner: &Arc<Inner>, event: Event) -> Result<(), WalletError> {
    let told = match event {
        Event::PaymentSuccessful {
            payment_hash,
            payment_preimage: Some(preimage),
            fee_paid_msat,
            ..
        } => Some(sent(
            inner,
            PaymentHash(payment_hash.0),
            Preimage(preimage.0),
            Msat(fee_paid_msat.unwrap_or(0)),
        )?),
        Event::PaymentFailed {
            payment_hash: Some(hash),
            reason,
            ..
        } => came_back(inner, PaymentHash(hash.0), convert::fail_reason(reason))?,
        Event::PaymentReceived {
            payment_hash,
            amount_msat,
            ..
        } => {
            let hash = PaymentHash(payment_hash.0);
            if inner.held.lock().remove(&hash).is_some() {
                inner.store.remove_held(hash)?;
            }
            Some(WalletEvent::Received {
                hash,
                msat: Msat(amount_msat),
            })
        }
        Event::PaymentClaimable {
            payment_hash,
            claimable_amount_msat,
            claim_deadline,
            ..
        } => held(
            inner,
            PaymentHash(payment_hash.0),
            Held {
                msat: Msat(claimable_amount_msat),
                deadline: claim_deadline.unwrap_or(0),
            },
        )?,
        Event::ChannelPending {
            user_channel_id,
            counterparty_node_id,
            funding_txo,
            ..
        } => {
            inform(inner, ChannelNews::pending(user_channel_id, funding_txo));
            Some(WalletEvent::ChannelPending {
                channel: convert::channel_id(user_channel_id),
                peer: convert::lightning_id(&counterparty_node_id),
            })
        }
        Event::ChannelReady {
            user_channel_id,
            counterparty_node_id,
            ..
        } => {
            channels::drop_base_fee(inner, user_channel_id);
            Some(WalletEvent::ChannelReady {
                channel: convert::channel_id(user_channel_id),
                peer: counterparty_node_id.as_ref().map(convert::lightning_id),
            })
        }
        Event::ChannelClosed {
            user_channel_id,
            counterparty_node_id,
            reason,
            ..
        } => {
            let reason = reason.map_or_else(|| "no reason given".to_string(), |r| r.to_string());
            inform(inner, ChannelNews::closed(user_channel_id, reason.clone()));
            Some(WalletEvent::ChannelClosed {
                channel: convert::channel_id(user_channel_id),
                peer: counterparty_node_id.as_ref().map(convert::lightning_id),
                reason,
            })
        }
        // Forwards and splices: nothing that this port tells.
        _ => None,
    };
    match told {
        Some(event) => inner.outbox.push(event),
        None => Ok(()),
    }
}

fn inform(inner: &Inner, news: ChannelNews) {
    // Nobody listens unless a channel is being opened.
    let _ = inner.news.send(news);
}

fn sent(
    inner: &Arc<Inner>,
    hash: PaymentHash,
    preimage: Preimage,
    fee: Msat,
) -> Result<WalletEvent, WalletError> {
    inner
        .waiters
        .finish(hash, PayOutcome::Settled { preimage, fee });
    if inner.node.payment(&convert::payment_id(hash)).is_none() {
        // A crash came between sending and LDK's record: keep our own.
        let entry = match inner.store.journal(hash)? {
            Some(journal) => journal,
            None => Journal {
                msat: Msat::ZERO,
                expires_ms: 0,
                at_ms: now_ms(),
                state: JournalState::Started,
            },
        };
        inner.store.write_journal(
            hash,
            &Journal {
                state: JournalState::Settled { preimage, fee },
                ..entry
            },
        )?;
    }
    Ok(WalletEvent::Sent {
        hash,
        fee,
        preimage,
    })
}

fn came_back(
    inner: &Arc<Inner>,
    hash: PaymentHash,
    reason: crate::ports::wallet::FailReason,
) -> Result<Option<WalletEvent>, WalletError> {
    let status = inner
        .node
        .payment(&convert::payment_id(hash))
        .map(|details| details.status);
    if matches!(
        status,
        Some(PaymentStatus::Pending | PaymentStatus::Succeeded)
    ) {
        // Of an earlier attempt, repeated after a restart; a later one is on.
        return Ok(None);
    }
    if let Some(journal) = inner.store.journal(hash)? {
        inner.store.write_journal(
            hash,
            &Journal {
                state: JournalState::Failed {
                    reason: reason.clone(),
                },
                ..journal
            },
        )?;
    }
    inner.waiters.finish(
        hash,
        PayOutcome::Failed {
            retryable: reason.retryable(),
            reason: reason.clone(),
            submitted: true,
        },
    );
    Ok(Some(WalletEvent::SendFailed { hash, reason }))
}

fn held(
    inner: &Arc<Inner>,
    hash: PaymentHash,
    held: Held,
) -> Result<Option<WalletEvent>, WalletError> {
    let cancelled = inner
        .node
        .payment(&convert::payment_id(hash))
        .is_some_and(|details| details.status == PaymentStatus::Failed);
    if cancelled {
        inner
            .node
            .bolt11_payment()
            .fail_for_hash(ldk_node::lightning_types::payment::PaymentHash(hash.0))
            .map_err(convert::node_error("giving a payment back"))?;
        return Ok(None);
    }
    inner.store.write_held(hash, held)?;
    inner.held.lock().insert(hash, held);
    Ok(Some(WalletEvent::Held {
        hash,
        msat: held.msat,
        deadline: held.deadline,
    }))
}
