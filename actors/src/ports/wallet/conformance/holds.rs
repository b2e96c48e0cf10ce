//! Payments that wait for their preimage.

use futures::FutureExt as _;
use protocol::ids::{PaymentHash, Preimage};

use super::{Pair, Report, Seen, ensure, fresh_preimage, hash_of};
use crate::ports::wallet::{Incoming, Outgoing, PayOutcome, WalletError, WalletEvent};

pub(super) async fn run(pair: &Pair, report: &mut Report) {
    report
        .case("a held payment settles with its preimage", settles(pair))
        .await;
    report
        .case(
            "a cancelled hold goes back and stays refused",
            cancels(pair),
        )
        .await;
    report
        .case(
            "holds are refused where nothing can be held",
            refusals(pair),
        )
        .await;
}

/// Waits until `hash` is held at the payee.
async fn becomes_held(pair: &Pair, hash: PaymentHash) -> Seen {
    let delivery = pair
        .event(
            &pair.payee,
            "held",
            |event| matches!(event, WalletEvent::Held { hash: held, .. } if *held == hash),
        )
        .await?;
    let WalletEvent::Held { msat, deadline, .. } = delivery.event else {
        return Err("another event".to_string());
    };
    ensure!(msat == pair.terms.msat, "held {msat}");
    let incoming = pair.payee.lookup_incoming(hash).await;
    ensure!(
        incoming == Ok(Incoming::Held { msat, deadline }),
        "payee's look-up: {incoming:?}"
    );
    let outgoing = pair.payer.lookup_outgoing(hash).await;
    ensure!(
        outgoing == Ok(Outgoing::Pending),
        "payer's look-up: {outgoing:?}"
    );
    Ok(())
}

async fn settles(pair: &Pair) -> Seen {
    let preimage = fresh_preimage();
    let invoice = pair.hold_invoice(&preimage).await?;
    let mut paying = pair.pay(&invoice).boxed();
    tokio::select! {
        early = &mut paying => return Err(format!("paid before it was settled: {early:?}")),
        held = becomes_held(pair, invoice.hash) => held?,
    }
    let wrong = pair.payee.settle_hold(Preimage([0; 32])).await;
    ensure!(
        matches!(wrong, Err(WalletError::NotHeld { .. })),
        "settled with a wrong preimage: {wrong:?}"
    );
    let settled = pair.payee.settle_hold(preimage).await;
    settled.map_err(|error| format!("not settled: {error}"))?;
    match paying.await {
        PayOutcome::Settled { preimage: got, .. } => {
            ensure!(got == preimage, "another preimage");
        }
        other => return Err(format!("the payer saw {other:?}")),
    }
    pair.event(
        &pair.payee,
        "received after a hold",
        |event| matches!(event, WalletEvent::Received { hash, .. } if *hash == invoice.hash),
    )
    .await?;
    let incoming = pair.payee.lookup_incoming(invoice.hash).await;
    let msat = pair.terms.msat;
    ensure!(
        incoming == Ok(Incoming::Settled { msat, preimage }),
        "payee's look-up: {incoming:?}"
    );
    let again = pair.payee.settle_hold(preimage).await;
    ensure!(again == Ok(()), "settling again: {again:?}");
    let late = pair.payee.cancel_hold(invoice.hash).await;
    ensure!(late.is_err(), "a settled payment was cancelled");
    Ok(())
}

async fn cancels(pair: &Pair) -> Seen {
    let preimage = fresh_preimage();
    let invoice = pair.hold_invoice(&preimage).await?;
    let mut paying = pair.pay(&invoice).boxed();
    tokio::select! {
        early = &mut paying => return Err(format!("paid before it was settled: {early:?}")),
        held = becomes_held(pair, invoice.hash) => held?,
    }
    let cancelled = pair.payee.cancel_hold(invoice.hash).await;
    cancelled.map_err(|error| format!("not cancelled: {error}"))?;
    match paying.await {
        PayOutcome::Failed {
            submitted: true, ..
        } => {}
        other => return Err(format!("the payer saw {other:?}")),
    }
    let outgoing = pair.payer.lookup_outgoing(invoice.hash).await;
    ensure!(
        matches!(outgoing, Ok(Outgoing::Failed { .. })),
        "payer's look-up: {outgoing:?}"
    );
    let incoming = pair.payee.lookup_incoming(invoice.hash).await;
    ensure!(
        incoming == Ok(Incoming::Failed),
        "payee's look-up: {incoming:?}"
    );
    let settled = pair.payee.settle_hold(preimage).await;
    ensure!(
        matches!(settled, Err(WalletError::NotHeld { .. })),
        "settled after it was cancelled: {settled:?}"
    );
    let again = pair.payee.cancel_hold(invoice.hash).await;
    ensure!(again == Ok(()), "cancelling again: {again:?}");
    // The payer may try again; it must come back, not hang.
    match pair.pay(&invoice).await {
        PayOutcome::Failed { .. } => Ok(()),
        other => Err(format!("paid a cancelled invoice: {other:?}")),
    }
}

async fn refusals(pair: &Pair) -> Seen {
    let preimage = fresh_preimage();
    let hash = hash_of(&preimage);
    let nothing = pair.payee.settle_hold(preimage).await;
    ensure!(
        nothing == Err(WalletError::NotHeld { hash }),
        "settling nothing: {nothing:?}"
    );
    let nothing = pair.payee.cancel_hold(hash).await;
    ensure!(
        nothing == Err(WalletError::NotHeld { hash }),
        "cancelling nothing: {nothing:?}"
    );
    let invoice = pair.hold_invoice(&preimage).await?;
    let msat = pair.terms.msat;
    let second = pair
        .payee
        .create_hold_invoice(invoice.hash, msat, [6; 32], 600)
        .await;
    ensure!(
        second == Err(WalletError::HashInUse { hash }),
        "a hash was taken twice: {second:?}"
    );
    let unpaid = pair.payee.settle_hold(preimage).await;
    ensure!(
        unpaid == Err(WalletError::NotHeld { hash }),
        "settled before it was paid: {unpaid:?}"
    );
    Ok(())
}
