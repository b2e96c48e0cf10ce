//! Events come again until they are acknowledged.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use protocol::ids::PaymentHash;

use super::{Pair, Report, Seen, ensure};
use crate::ports::wallet::{Delivery, Wallet, WalletEvent};

pub(super) async fn run(pair: &Pair, report: &mut Report) {
    report
        .case("an event comes again until it is acknowledged", again(pair))
        .await;
    report
        .case("everything can be acknowledged", drain(pair))
        .await;
}

/// Finds the `Received` of `hash`, without acknowledging it.
async fn peek(pair: &Pair, hash: PaymentHash) -> Result<Delivery, String> {
    let stream = pair.payee.events().await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let find = async {
        while let Some(delivery) = stream.next().await {
            if matches!(delivery.event, WalletEvent::Received { hash: got, .. } if got == hash) {
                return Some(delivery);
            }
        }
        None
    };
    tokio::time::timeout(pair.terms.patience, find)
        .await
        .ok()
        .flatten()
        .ok_or_else(|| "the payment is not told".to_string())
}

/// What is unacknowledged at this moment.
async fn waiting(wallet: &Arc<dyn Wallet>) -> Result<Vec<Delivery>, String> {
    let stream = wallet.events().await;
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    // Stored events are ready at once; the first that is not is yet to come.
    while let Some(Some(delivery)) = stream.next().now_or_never() {
        all.push(delivery);
    }
    Ok(all)
}

async fn again(pair: &Pair) -> Seen {
    let invoice = pair.invoice(pair.terms.msat).await?;
    pair.must_pay(&invoice).await?;
    let first = peek(pair, invoice.hash).await?;
    let second = peek(pair, invoice.hash).await?;
    ensure!(first == second, "{first:?}, then {second:?}");
    for _ in 0..2 {
        let acknowledged = pair.payee.ack(first.id).await;
        acknowledged.map_err(|error| format!("not acknowledged: {error}"))?;
    }
    let left = waiting(&pair.payee).await?;
    ensure!(
        left.iter().all(|delivery| delivery.id != first.id),
        "told again after it was acknowledged"
    );
    Ok(())
}

async fn drain(pair: &Pair) -> Seen {
    for wallet in [&pair.payer, &pair.payee] {
        pair.until("no event is left", || async {
            let all = waiting(wallet).await.ok()?;
            for delivery in &all {
                wallet.ack(delivery.id).await.ok()?;
            }
            all.is_empty().then_some(())
        })
        .await?;
    }
    Ok(())
}
