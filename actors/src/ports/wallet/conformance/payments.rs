//! Invoices, payments, look-ups and refusals.

use futures::future::join_all;
use protocol::crypto::verify_lightning_message;
use protocol::ids::PaymentHash;
use protocol::money::Msat;

use super::{Pair, Report, Seen, ensure, now_ms};
use crate::ports::wallet::{
    FailReason, Incoming, Outgoing, PayOutcome, Payment, WalletEvent, read_invoice,
};

pub(super) async fn run(pair: &Pair, report: &mut Report) {
    report
        .case("an invoice says what was asked for", invoice_says(pair))
        .await;
    report
        .case("a payment settles and both sides agree on it", pays(pair))
        .await;
    report
        .case("unknown hashes are not found", unknown_hashes(pair))
        .await;
    report
        .case("paying twice moves money once", pays_once(pair))
        .await;
    report
        .case("two calls at once pay once", pays_once_at_once(pair))
        .await;
    report
        .case("another hash or amount is refused", mismatches(pair))
        .await;
    report
        .case("what is no invoice is refused", no_invoice(pair))
        .await;
    report
        .case("an expired invoice is refused", expired(pair))
        .await;
    report
        .case(
            "more than the balance fails and costs nothing",
            underfunded(pair),
        )
        .await;
    report
        .case("a burst of payments all settle", burst(pair))
        .await;
    report
        .case("a call that is dropped still pays", dropped_call(pair))
        .await;
    report
        .case("the node's signature verifies", signature(pair))
        .await;
}

async fn invoice_says(pair: &Pair) -> Seen {
    let before = now_ms();
    let invoice = pair.invoice(Msat(12_345)).await?;
    let says = read_invoice(&invoice.bolt11).map_err(|error| error.to_string())?;
    ensure!(says.payee == pair.payee.node_id(), "payee {}", says.payee);
    ensure!(says.network == pair.payee.network(), "{}", says.network);
    ensure!(says.hash == invoice.hash, "hash {}", says.hash);
    ensure!(says.msat == Some(Msat(12_345)), "amount {:?}", says.msat);
    ensure!(
        says.description_hash == Some([0x5a; 32]),
        "description hash {:?}",
        says.description_hash
    );
    ensure!(
        says.expires_ms == invoice.expires_ms,
        "expiry {}",
        says.expires_ms
    );
    // Invoices count whole seconds.
    let lasts = says.expires_ms.saturating_sub(before);
    ensure!(
        (598_000..=602_000).contains(&lasts),
        "payable for {lasts} ms, asked for 600 s"
    );
    let pending = pair.payee.lookup_incoming(invoice.hash).await;
    ensure!(
        pending == Ok(Incoming::Pending { msat: Msat(12_345) }),
        "unpaid, but {pending:?}"
    );
    Ok(())
}

async fn pays(pair: &Pair) -> Seen {
    let invoice = pair.invoice(pair.terms.msat).await?;
    let (preimage, fee) = pair.must_pay(&invoice).await?;
    let msat = pair.terms.msat;
    let outgoing = pair.payer.lookup_outgoing(invoice.hash).await;
    ensure!(
        outgoing
            == Ok(Outgoing::Settled {
                msat,
                fee,
                preimage
            }),
        "payer's look-up: {outgoing:?}"
    );
    let received = WalletEvent::Received {
        hash: invoice.hash,
        msat,
    };
    pair.event(&pair.payee, "received", |event| *event == received)
        .await?;
    let sent = WalletEvent::Sent {
        hash: invoice.hash,
        fee,
        preimage,
    };
    pair.event(&pair.payer, "sent", |event| *event == sent)
        .await?;
    let incoming = pair.payee.lookup_incoming(invoice.hash).await;
    ensure!(
        incoming == Ok(Incoming::Settled { msat, preimage }),
        "payee's look-up: {incoming:?}"
    );
    Ok(())
}

async fn unknown_hashes(pair: &Pair) -> Seen {
    let hash = PaymentHash(rand::random());
    let outgoing = pair.payer.lookup_outgoing(hash).await;
    ensure!(outgoing == Ok(Outgoing::NotFound), "outgoing {outgoing:?}");
    let incoming = pair.payee.lookup_incoming(hash).await;
    ensure!(incoming == Ok(Incoming::NotFound), "incoming {incoming:?}");
    let invoice = pair.invoice(pair.terms.msat).await?;
    let outgoing = pair.payer.lookup_outgoing(invoice.hash).await;
    ensure!(
        outgoing == Ok(Outgoing::NotFound),
        "never asked to pay it, but {outgoing:?}"
    );
    let outgoing = pair.payee.lookup_outgoing(invoice.hash).await;
    ensure!(
        outgoing == Ok(Outgoing::NotFound),
        "an invoice of ours is not a payment of ours, but {outgoing:?}"
    );
    Ok(())
}

async fn spendable(pair: &Pair) -> Result<Msat, String> {
    let balance = pair.payer.balance().await;
    Ok(balance.map_err(|error| error.to_string())?.spendable)
}

/// Waits until the payer's balance is `expected`.
async fn balance_becomes(pair: &Pair, expected: Msat) -> Seen {
    pair.until(
        &format!("the payer's balance becomes {expected}"),
        || async { (spendable(pair).await == Ok(expected)).then_some(()) },
    )
    .await
}

async fn pays_once(pair: &Pair) -> Seen {
    let before = spendable(pair).await?;
    let invoice = pair.invoice(pair.terms.msat).await?;
    let (preimage, fee) = pair.must_pay(&invoice).await?;
    let after = before.saturating_sub(pair.terms.msat).saturating_sub(fee);
    balance_becomes(pair, after).await?;
    let again = pair.pay(&invoice).await;
    ensure!(
        again == PayOutcome::Settled { preimage, fee },
        "the second call: {again:?}"
    );
    ensure!(
        spendable(pair).await? == after,
        "the second call moved money"
    );
    Ok(())
}

async fn pays_once_at_once(pair: &Pair) -> Seen {
    let before = spendable(pair).await?;
    let invoice = pair.invoice(pair.terms.msat).await?;
    let (one, two) = tokio::join!(pair.pay(&invoice), pair.pay(&invoice));
    ensure!(one == two, "different results: {one:?} and {two:?}");
    let PayOutcome::Settled { fee, .. } = one else {
        return Err(format!("not settled: {one:?}"));
    };
    let after = before.saturating_sub(pair.terms.msat).saturating_sub(fee);
    balance_becomes(pair, after).await
}

/// Demands a refusal that left no trace of money under way.
async fn refused(pair: &Pair, payment: Payment) -> Result<FailReason, String> {
    let hash = payment.hash;
    match pair.payer.pay(payment).await {
        PayOutcome::Failed {
            reason,
            submitted: false,
            retryable,
        } => {
            ensure!(!retryable, "said to be worth trying again: {reason}");
            let outgoing = pair.payer.lookup_outgoing(hash).await;
            ensure!(
                matches!(outgoing, Ok(Outgoing::NotFound | Outgoing::Failed { .. })),
                "look-up after a refusal: {outgoing:?}"
            );
            Ok(reason)
        }
        other => Err(format!("not refused: {other:?}")),
    }
}

async fn mismatches(pair: &Pair) -> Seen {
    let invoice = pair.invoice(pair.terms.msat).await?;
    let mut payment = pair.payment(&invoice);
    payment.hash = PaymentHash([1; 32]);
    let reason = refused(pair, payment).await?;
    ensure!(
        matches!(reason, FailReason::HashMismatch { .. }),
        "{reason:?}"
    );
    let mut payment = pair.payment(&invoice);
    payment.msat = Msat(pair.terms.msat.0 - 1);
    let reason = refused(pair, payment).await?;
    ensure!(
        matches!(reason, FailReason::AmountMismatch { .. }),
        "{reason:?}"
    );
    let own = pair.payer.create_invoice(pair.terms.msat, [0; 32], 600);
    let own = own.await.map_err(|error| error.to_string())?;
    let reason = refused(pair, pair.payment(&own)).await?;
    ensure!(reason == FailReason::OwnInvoice, "{reason:?}");
    Ok(())
}

async fn no_invoice(pair: &Pair) -> Seen {
    let reason = refused(
        pair,
        Payment {
            bolt11: "lnbcrt1notaninvoice".to_string(),
            hash: PaymentHash([2; 32]),
            msat: pair.terms.msat,
            max_fee: pair.terms.max_fee,
        },
    )
    .await?;
    ensure!(matches!(reason, FailReason::BadInvoice(_)), "{reason:?}");
    Ok(())
}

async fn expired(pair: &Pair) -> Seen {
    let made = pair.payee.create_invoice(pair.terms.msat, [3; 32], 1).await;
    let invoice = made.map_err(|error| error.to_string())?;
    pair.until("the invoice expires", || async {
        (now_ms() > invoice.expires_ms).then_some(())
    })
    .await?;
    let reason = refused(pair, pair.payment(&invoice)).await?;
    ensure!(reason == FailReason::Expired, "{reason:?}");
    Ok(())
}

async fn underfunded(pair: &Pair) -> Seen {
    let before = spendable(pair).await?;
    let invoice = pair.invoice(before.saturating_add(Msat(1_000))).await?;
    match pair.pay(&invoice).await {
        PayOutcome::Failed {
            reason: FailReason::Underfunded { .. },
            retryable: false,
            submitted: false,
        } => {}
        other => return Err(format!("{other:?}")),
    }
    let outgoing = pair.payer.lookup_outgoing(invoice.hash).await;
    ensure!(
        matches!(outgoing, Ok(Outgoing::Failed { .. } | Outgoing::NotFound)),
        "look-up: {outgoing:?}"
    );
    ensure!(spendable(pair).await? == before, "the balance changed");
    let small = pair.invoice(pair.terms.msat).await?;
    pair.must_pay(&small).await.map(|_| ())
}

async fn burst(pair: &Pair) -> Seen {
    let mut invoices = Vec::new();
    for _ in 0..pair.terms.burst {
        invoices.push(pair.invoice(pair.terms.msat).await?);
    }
    let paid = join_all(invoices.iter().map(|invoice| pair.must_pay(invoice))).await;
    let failed: Vec<_> = paid.into_iter().filter_map(Result::err).collect();
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

async fn dropped_call(pair: &Pair) -> Seen {
    let invoice = pair.invoice(pair.terms.msat).await?;
    {
        let call = pair.pay(&invoice);
        futures::pin_mut!(call);
        // Polled once, so begun; then dropped.
        if futures::poll!(&mut call).is_ready() {
            return Ok(());
        }
    }
    pair.until("a dropped call's payment settles", || async {
        let outgoing = pair.payer.lookup_outgoing(invoice.hash).await;
        matches!(outgoing, Ok(Outgoing::Settled { .. })).then_some(())
    })
    .await
}

async fn signature(pair: &Pair) -> Seen {
    let Some(signer) = pair.payee.signer() else {
        return Ok(());
    };
    let message = "node key 0123";
    let signature = signer.sign_message(message.as_bytes());
    let by = pair.payee.node_id();
    ensure!(
        verify_lightning_message(&by, message, &signature),
        "not verified: {signature}"
    );
    ensure!(
        !verify_lightning_message(&by, "node key 0124", &signature),
        "verified over another message"
    );
    ensure!(
        !verify_lightning_message(&pair.payer.node_id(), message, &signature),
        "verified by another node"
    );
    Ok(())
}
