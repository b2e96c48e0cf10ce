//! A disk that takes no more, in the middle of trade.
//!
//! The limit on the size of files (`prlimit`, from util-linux) stands in for a full
//! disk: writes fail in the same way. It is set on a running process, a little above
//! the present size of its files, so that the log still takes the last words.

use super::BOUND;
use super::books::{Books, buy, listed, order, stage};
use anyhow::{Context, Result, bail, ensure};
use freehold::control::Client;
use freehold::lab::member::Member;
use std::process::Command;

/// Room that is left in every file: some entries of the ledger, a message in the log.
const ROOM: u64 = 32 << 10;
/// Purchases within which the disk must turn out to be full.
const TRIES: usize = 20;

/// Lets no file of the process grow much beyond what the largest has now.
fn fill_disk(member: &Member) -> Result<()> {
    let pid = member.pid().context("it does not run")?;
    let mut size = 0;
    for file in ["db/db", "node.log"] {
        size = size.max(std::fs::metadata(member.dir.join(file))?.len() + ROOM);
    }
    let status = Command::new("prlimit")
        .arg(format!("--pid={pid}"))
        .arg(format!("--fsize={size}:{size}"))
        .status()
        .context("prlimit is missing: install util-linux")?;
    ensure!(status.success(), "prlimit failed");
    Ok(())
}

/// Buys again and again; how each purchase ends depends on the moment.
async fn keep_buying(buyer: Client) {
    for _ in 0..TRIES {
        let Ok(mut purchase) = buyer.buy(&order()).await else {
            break;
        };
        while let Some(Ok(_)) = purchase.next().await {}
    }
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_node_with_the_fix_and_loses_no_money() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut stage, options) = stage(dir.path()).await?;
    let mut books = Books::open(&stage).await?;
    for victim in [1, 0] {
        fill_disk(&stage.members[victim])?;
        let buyer = stage.members[0].client()?.clone();
        let status = tokio::select! {
            status = stage.members[victim].wait() => status?,
            () = keep_buying(buyer) => bail!("the purchases came to an end"),
            () = tokio::time::sleep(BOUND) => bail!("node {victim} goes on with a full disk"),
        };
        ensure!(!status.success(), "it ended as if all were well");
        let log = std::fs::read_to_string(stage.members[victim].dir.join("node.log"))?;
        ensure!(
            log.contains("writable and has space"),
            "the log does not name the fix:\n{log}"
        );
        stage.members[victim].spawn(&options)?;
        stage.members[victim].wait_ready(BOUND).await?;
        books.after_start(&stage).await?;
        books.same(&stage).await?;
        listed(stage.members[0].client()?).await?;
    }
    // And it trades again.
    buy(stage.members[0].client()?).await?;
    books.same(&stage).await?;
    stage.shutdown().await;
    Ok(())
}
