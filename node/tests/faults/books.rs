//! What must hold after every fault: the books of buyer and host agree with each
//! other and with their wallets, and nobody lost more than a window.

use super::BOUND;
use anyhow::{Context, Result, ensure};
use freehold::control::{BuyOrder, Client};
use freehold::lab::Stage;
use freehold::lab::member::{Member, MemberOptions, MemberPlan};
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::message::payment::{EntryState, Report, Side};
use protocol::money::Msat;
use protocol::work::{ChatMessage, Work};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest credit window a host grants by default.
const WINDOW: Msat = Msat(64_000);

/// How many lines of each wallet's log are shown when something does not hold.
const LOG_LINES: usize = 12;

/// Mostly a second. Three minutes where a kill came between a payment's journal and LDK's own
/// record (channels must be quiet for that long before it is known never to have left), and
/// its invoice's life and ten minutes where the wallet has no trace of it at all.
const FATE: Duration = Duration::from_secs(840);

/// What LDK logs where it closes a channel that it cannot go on with.
const STALE: &str = "A ChannelManager is stale compared to the current ChannelMonitor!";

/// Blocks mined at once while a closed channel's coins come back: 144 until they can be swept.
const BLOCKS: u32 = 24;

/// How often in a row, every 100 ms, books must say the same to be at rest.
const REST: u32 = 20;

/// What closing a channel may cost each side: commitment, anchors, sweep. Sat.
const CLOSING_SATS: u64 = 20_000;

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

/// Buys one answer to its end; again where the host is not back yet.
pub async fn buy(client: &Client) -> Result<()> {
    until("an answer was bought", || async {
        let mut purchase = client.buy(&order()).await?;
        let mut finished = false;
        while let Some(event) = purchase.next().await {
            finished |= matches!(event?, BuyerEvent::Finished { .. });
        }
        Ok(finished)
    })
    .await
}

/// What a node has in all: in channels and on chain. Sat.
async fn wealth(stage: &Stage, member: usize) -> Result<u64> {
    let balance = stage.members[member].client()?.balance().await?;
    Ok(balance.channels_sat + balance.onchain_total_sat)
}

/// The books of buyer and host, held against their wallets.
pub struct Books {
    /// What the buyer's channels would hold had nothing been spent, the host's without earnings.
    before: (Msat, Msat),
    /// As [`wealth`], likewise.
    wealth: (u64, u64),
    /// Credited by the host and returned to the buyer: under way, below the dust limit, when a
    /// channel closed.
    dust: Msat,
    /// Channels that LDK closed at a start, in both logs.
    pub closed: usize,
}

impl Books {
    /// Opens them; nothing is under way.
    pub async fn open(stage: &Stage) -> Result<Self> {
        Ok(Books {
            before: balances(stage).await?,
            wealth: (wealth(stage, 0).await?, wealth(stage, 1).await?),
            dust: Msat::ZERO,
            closed: 0,
        })
    }

    /// Waits until nothing is open and all books say the same; then judges the losses.
    pub async fn agree(&self, stage: &Stage) -> Result<()> {
        let buyer = stage.members[0].client()?;
        let known = within(FATE, "every payment's fate is known", || async {
            Ok(resolved(&buyer.report().await?))
        });
        if let Err(error) = known.await {
            return Err(error.context(self.figures(stage).await?));
        }
        self.same(stage).await
    }

    /// As [`Books::agree`], but a payment that the wallet has no trace of may stay unknown: that
    /// is believed only when its invoice has long expired.
    pub async fn same(&self, stage: &Stage) -> Result<()> {
        let held = self.compare(stage).await;
        if let Err(error) = held {
            return Err(error.context(self.figures(stage).await?));
        }
        let (buyer, host) = (stage.members[0].client()?, stage.members[1].client()?);
        nobody_lost_more_than_a_window(&buyer.report().await?, &host.report().await?);
        Ok(())
    }

    async fn compare(&self, stage: &Stage) -> Result<()> {
        let (buyer, host) = (stage.members[0].client()?, stage.members[1].client()?);
        until("both books show the same payments", || async {
            let spent = buyer.report().await?.spent;
            Ok(spent.saturating_add(self.dust) == host.report().await?.earned)
        })
        .await?;
        until("the wallets show what the books show", || async {
            let now = balances(stage).await?;
            let (spent, earned) = (buyer.report().await?, host.report().await?);
            Ok(
                self.before.0.0.checked_sub(now.0.0) == Some(spent.spent.0 + spent.fees.0)
                    && now.1.0.checked_sub(self.before.1.0) == Some(earned.earned.0),
            )
        })
        .await
    }

    /// A process that ends between two writes of LDK's finds its channel closed at the next
    /// start (rust-lightning issue 4286; see the README). Then all that was in it must come
    /// back on chain, less the fees of closing, and a new channel carries on.
    ///
    /// Not for a channel that closed for another reason: that is an error.
    pub async fn after_start(&mut self, stage: &Stage) -> Result<()> {
        let mut closed = 0;
        for member in &stage.members {
            closed += wallet_log(member).matches(STALE).count();
        }
        if closed == self.closed {
            return Ok(());
        }
        self.closed = closed;
        println!("LDK closed the channel at this start");
        let (buyer, host) = (stage.members[0].client()?, stage.members[1].client()?);
        within(FATE, "every payment's fate is known", || async {
            stage.mine(1).await?;
            Ok(resolved(&buyer.report().await?))
        })
        .await?;
        // The host may still have claims to hear of again.
        let (same, last) = (Cell::new(0), Cell::new(None));
        within(FATE, "the host's books come to rest", || async {
            let sums = (buyer.report().await?.spent, host.report().await?.earned);
            let rests = last.replace(Some(sums)) == Some(sums) && sums.1 >= sums.0;
            same.set(if rests { same.get() + 1 } else { 0 });
            Ok(same.get() >= REST)
        })
        .await?;
        let (spent, earned) = (buyer.report().await?, host.report().await?);
        let gap = earned.earned.0.saturating_sub(spent.spent.0);
        let gone = gap.saturating_sub(self.dust.0);
        ensure!(gone <= WINDOW.0, "{gone} msat are gone: more than a window");
        self.dust = Msat(gap);
        let paid = (spent.spent.0 + spent.fees.0).div_ceil(1_000);
        let got = (earned.earned.0 - gap) / 1_000;
        let least = (
            self.wealth.0 - paid - CLOSING_SATS,
            self.wealth.1 + got - CLOSING_SATS,
        );
        let back = until("the closed channel's coins are on chain", || async {
            stage.mine(BLOCKS).await?;
            let mut now = Vec::new();
            for member in &stage.members {
                let client = member.client()?;
                let balance = client.balance().await?;
                let open = !client.channels().await?.is_empty() || balance.channels_sat > 0;
                now.push(if open { 0 } else { balance.onchain_total_sat });
            }
            Ok(now[0] >= least.0 && now[1] >= least.1)
        });
        if let Err(error) = back.await {
            return Err(error.context(self.figures(stage).await?));
        }
        stage.reopen("host").await?;
        let now = balances(stage).await?;
        self.before = (
            Msat(now.0.0 + spent.spent.0 + spent.fees.0),
            Msat(now.1.0 - earned.earned.0),
        );
        let now = (wealth(stage, 0).await?, wealth(stage, 1).await?);
        self.wealth = (now.0 + paid, now.1 - got);
        Ok(())
    }

    /// What books and wallets say, for whoever must find out why they differ.
    async fn figures(&self, stage: &Stage) -> Result<String> {
        let now = balances(stage).await?;
        let mut text = format!(
            "wallets before {:?}, now {now:?}, dust {}, closed {}",
            self.before, self.dust, self.closed
        );
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
            text += &format!("\n  {:?}", member.client()?.balance().await?);
            for channel in member.client()?.channels().await? {
                text += &format!("\n  {channel:?}");
            }
            // What LDK itself had to say: why a channel closed, for example.
            let log = wallet_log(member);
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                text += &format!("\n  {line}");
            }
        }
        Ok(text)
    }
}

/// What LDK logged of a node, over all its starts.
fn wallet_log(member: &Member) -> String {
    std::fs::read_to_string(member.dir.join("wallet/ldk_node.log")).unwrap_or_default()
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
    holds: impl FnMut() -> F,
) -> Result<()> {
    within(BOUND, what, holds).await
}

async fn within<F: Future<Output = Result<bool>>>(
    bound: Duration,
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
    tokio::time::timeout(bound, wait)
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
