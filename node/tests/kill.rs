//! Real processes, killed (`SIGKILL`) in the middle of a paid stream.
//!
//! After every restart the books of buyer and host agree with each other and with
//! their wallets, and nobody lost more than a window. The moments are drawn from
//! a seed; `FREEHOLD_KILLS` sets how many (the README names the long run).

use anyhow::{Context, Result};
use freehold::control::{BuyOrder, Client};
use freehold::lab::Stage;
use freehold::lab::member::{MemberOptions, MemberPlan};
use protocol::inference::io::ModelSelector;
use protocol::money::Msat;
use protocol::payment::io::{EntryState, Report, Side};
use protocol::work::{ChatMessage, Work};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use std::time::Duration;

/// Bound on every wait. Unpaid invoices of a killed stream expire after three minutes.
const BOUND: Duration = Duration::from_secs(120);
/// Kills in a run of the ordinary suite; each takes a few seconds.
const KILLS: u32 = 6;
/// The largest credit window a host grants by default.
const WINDOW: Msat = Msat(64_000);

fn work() -> Work {
    Work::Chat {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: "Explain how paying per token works.".to_owned(),
        }],
    }
}

/// Buys until the moment of the kill, or until the answer is complete.
async fn buy_until(client: &Client, moment: Duration) -> Result<()> {
    let mut order = BuyOrder::new(ModelSelector::Any, work(), "kill");
    order.max_output = Some(80);
    order.max_cost = Some(Msat(100_000));
    let buying = async {
        let mut purchase = client.buy(&order).await?;
        while let Some(event) = purchase.next().await {
            // An error here is the other side's death: what the test is about.
            if event.is_err() {
                break;
            }
        }
        // Stay until the moment comes, so that a finished answer counts too.
        std::future::pending::<Result<()>>().await
    };
    match tokio::time::timeout(moment, buying).await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

/// Whether nothing of a buyer's books is under way.
fn resolved(report: &Report) -> bool {
    report
        .entries
        .iter()
        .filter(|entry| entry.side == Side::Buyer)
        .all(|entry| matches!(entry.state, EntryState::Settled | EntryState::Failed))
}

async fn until<F: Future<Output = Result<bool>>>(
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

async fn listed(client: &Client) -> Result<()> {
    until("the host is listed", || async {
        Ok(!client.hosts().await?.is_empty())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_at_any_moment_the_books_agree_with_the_wallets() -> Result<()> {
    let kills = std::env::var("FREEHOLD_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS);
    let mut rng = StdRng::seed_from_u64(20_261_120);
    let dir = tempfile::tempdir()?;
    let options = MemberOptions {
        exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_freehold"))),
        ..MemberOptions::default()
    };
    let plans = [MemberPlan::buyer("buyer"), MemberPlan::host("host")];
    let mut stage =
        Stage::start(dir.path(), &plans, &options, &mut |line| println!("{line}")).await?;
    listed(stage.member("buyer")?.client()?).await?;
    let before = balances(&stage).await?;

    for kill in 0..kills {
        let moment = Duration::from_millis(rng.gen_range(50..2_500));
        let victims: &[usize] = [&[0][..], &[1], &[0, 1]][rng.gen_range(0..3)];
        println!("kill {kill}: nodes {victims:?} after {moment:?}");
        buy_until(stage.members[0].client()?, moment).await?;
        for victim in victims {
            stage.members[*victim].kill().await;
        }
        for victim in victims {
            stage.members[*victim].spawn(&options)?;
            stage.members[*victim].wait_ready(BOUND).await?;
        }
        let buyer = stage.members[0].client()?;
        let host = stage.members[1].client()?;
        until("every payment's fate is known", || async {
            Ok(resolved(&buyer.report().await?))
        })
        .await?;
        until("both books show the same payments", || async {
            Ok(buyer.report().await?.spent == host.report().await?.earned)
        })
        .await?;
        until("the wallets show what the books show", || async {
            let now = balances(&stage).await?;
            let (spent, earned) = (buyer.report().await?, host.report().await?);
            Ok(
                before.0.0.checked_sub(now.0.0) == Some(spent.spent.0 + spent.fees.0)
                    && now.1.0.checked_sub(before.1.0) == Some(earned.earned.0),
            )
        })
        .await?;
        nobody_lost_more_than_a_window(&buyer.report().await?, &host.report().await?);
        listed(buyer).await?;
    }
    stage.shutdown().await;
    Ok(())
}

async fn balances(stage: &Stage) -> Result<(Msat, Msat)> {
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
