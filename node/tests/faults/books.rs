//! What must hold after every fault: the books of buyer and host agree with each
//! other and with their wallets, and nobody lost more than a window.

use super::BOUND;
use anyhow::{Context, Result};
use freehold::control::{BuyOrder, Client};
use freehold::lab::Stage;
use freehold::lab::member::{MemberOptions, MemberPlan};
use protocol::inference::io::ModelSelector;
use protocol::money::Msat;
use protocol::payment::io::{EntryState, Report, Side};
use protocol::work::{ChatMessage, Work};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest credit window a host grants by default.
const WINDOW: Msat = Msat(64_000);

/// A buyer (0) and a host (1) with a channel, the host listed.
pub async fn stage(dir: &Path) -> Result<(Stage, MemberOptions)> {
    let options = MemberOptions {
        exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_freehold"))),
        ..MemberOptions::default()
    };
    let plans = [MemberPlan::buyer("buyer"), MemberPlan::host("host")];
    let stage = Stage::start(dir, &plans, &options, &mut |line| println!("{line}")).await?;
    listed(stage.members[0].client()?).await?;
    Ok((stage, options))
}

/// An answer of some twenty sat.
pub fn order() -> BuyOrder {
    let mut order = BuyOrder::new(ModelSelector::Any, work(), "fault");
    order.max_output = Some(80);
    order.max_cost = Some(Msat(100_000));
    order
}

fn work() -> Work {
    Work::Chat {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: "Explain how paying per token works.".to_owned(),
        }],
    }
}

/// Waits until nothing is open and all books say the same; then judges the losses.
pub async fn agree(stage: &Stage, before: (Msat, Msat)) -> Result<()> {
    let buyer = stage.members[0].client()?;
    until("every payment's fate is known", || async {
        Ok(resolved(&buyer.report().await?))
    })
    .await?;
    same(stage, before).await
}

/// As [`agree`], but a payment that the wallet has no trace of may stay unknown: that is
/// believed only when its invoice has long expired.
pub async fn same(stage: &Stage, before: (Msat, Msat)) -> Result<()> {
    let buyer = stage.members[0].client()?;
    let host = stage.members[1].client()?;
    until("both books show the same payments", || async {
        Ok(buyer.report().await?.spent == host.report().await?.earned)
    })
    .await?;
    let settled = until("the wallets show what the books show", || async {
        let now = balances(stage).await?;
        let (spent, earned) = (buyer.report().await?, host.report().await?);
        Ok(
            before.0.0.checked_sub(now.0.0) == Some(spent.spent.0 + spent.fees.0)
                && now.1.0.checked_sub(before.1.0) == Some(earned.earned.0),
        )
    })
    .await;
    if let Err(error) = settled {
        return Err(error.context(figures(stage, before).await?));
    }
    nobody_lost_more_than_a_window(&buyer.report().await?, &host.report().await?);
    Ok(())
}

/// What books and wallets say, for whoever must find out why they differ.
async fn figures(stage: &Stage, before: (Msat, Msat)) -> Result<String> {
    let now = balances(stage).await?;
    let mut text = format!("wallets before {before:?}, now {now:?}");
    for member in &stage.members {
        let report = member.client()?.report().await?;
        text += &format!(
            "\n{}: spent {}, fees {}, earned {}",
            member.name, report.spent, report.fees, report.earned
        );
        for entry in &report.entries {
            text += &format!(
                "\n  {:?} {} {} {} {}",
                entry.state,
                entry.order.short(),
                entry.seq,
                entry.msat,
                entry.note
            );
        }
        for channel in member.client()?.channels().await? {
            text += &format!("\n  {channel:?}");
        }
    }
    Ok(text)
}

/// Whether nothing of a buyer's books is under way.
fn resolved(report: &Report) -> bool {
    report
        .entries
        .iter()
        .filter(|entry| entry.side == Side::Buyer)
        .all(|entry| matches!(entry.state, EntryState::Settled | EntryState::Failed))
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let wait = async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        while !holds().await? {
            pause.tick().await;
        }
        Ok(())
    };
    tokio::time::timeout(BOUND, wait)
        .await
        .with_context(|| format!("waited in vain: {what}"))?
}

/// Waits until the buyer sees the host.
pub async fn listed(client: &Client) -> Result<()> {
    until("the host is listed", || async {
        Ok(!client.hosts().await?.is_empty())
    })
    .await
}

/// What buyer and host can spend over Lightning.
pub async fn balances(stage: &Stage) -> Result<(Msat, Msat)> {
    let buyer = stage.members[0].client()?.balance().await?.spendable;
    Ok((buyer, stage.members[1].client()?.balance().await?.spendable))
}

fn nobody_lost_more_than_a_window(buyer: &Report, host: &Report) {
    for account in &host.orders {
        let paid = host
            .entries
            .iter()
            .filter(|entry| entry.order == account.order && entry.state == EntryState::Settled)
            .fold(Msat::ZERO, |sum, entry| sum.saturating_add(entry.msat));
        let unpaid = account.cost.saturating_sub(paid);
        assert!(
            unpaid <= WINDOW,
            "host: {unpaid} unpaid in order {}",
            account.order
        );
    }
    for account in &buyer.orders {
        let paid = buyer
            .entries
            .iter()
            .filter(|entry| entry.order == account.order && entry.state == EntryState::Settled)
            .fold(Msat::ZERO, |sum, entry| sum.saturating_add(entry.msat));
        // The entry payment covers the input and at most one quantum of output; what was
        // delivered since the last write to disk is not in the account, at most a window.
        let ahead = paid.saturating_sub(account.cost);
        assert!(
            ahead <= WINDOW,
            "buyer: {ahead} ahead in order {}",
            account.order
        );
    }
}
