//! A wallet whose last write is missing, made on purpose: what a kill does between two of
//! LDK's writes, and what a power cut does on a disk that reorders.

use super::BOUND;
use super::books::{Books, buy, listed, stage};
use anyhow::{Result, ensure};
use freehold::lab::member::Member;
use rusqlite::{Connection, params};

fn wallet(member: &Member) -> Result<Connection> {
    Ok(Connection::open(
        member.dir.join("wallet/ldk_node_data.sqlite"),
    )?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_lost_its_last_write_closes_the_channel_and_its_coins_come_back() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let (mut stage, options) = stage(dir.path()).await?;
    let mut books = Books::open(&stage).await?;

    for (closed, victim) in [1, 0].into_iter().enumerate() {
        stage.members[victim].kill().await;
        let earlier: Vec<u8> = wallet(&stage.members[victim])?.query_row(
            "SELECT value FROM ldk_node_data WHERE key = 'manager'",
            [],
            |row| row.get(0),
        )?;
        stage.members[victim].spawn(&options)?;
        stage.members[victim].wait_ready(BOUND).await?;
        listed(stage.members[0].client()?).await?;
        buy(stage.members[0].client()?).await?;
        books.agree(&stage).await?;

        stage.members[victim].kill().await;
        wallet(&stage.members[victim])?.execute(
            "UPDATE ldk_node_data SET value = ?1 WHERE key = 'manager'",
            params![earlier],
        )?;
        stage.members[victim].spawn(&options)?;
        stage.members[victim].wait_ready(BOUND).await?;
        books.after_start(&stage).await?;
        ensure!(books.closed == closed + 1, "the channel was not closed");
        books.agree(&stage).await?;
        let log = std::fs::read_to_string(stage.members[victim].dir.join("node.log"))?;
        ensure!(
            log.matches("will return on chain").count() == closed + 1,
            "the node does not say what becomes of the coins:\n{log}"
        );
    }

    listed(stage.members[0].client()?).await?;
    buy(stage.members[0].client()?).await?;
    books.agree(&stage).await?;
    stage.shutdown().await;
    Ok(())
}
