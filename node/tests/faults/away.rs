//! The peer of a buyer's only channel leaves and comes back.

use super::BOUND;
use super::books::{buy, stage, until};
use anyhow::Result;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_whose_only_peer_is_away_says_so_until_it_is_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut stage, options) = stage(dir.path()).await?;
    stage.members[1].kill().await;
    let buyer = stage.members[0].client()?.clone();
    let lacks_peers = async || {
        let degraded = buyer.status().await?.degraded;
        anyhow::Ok(degraded.iter().any(|one| one.what == "peers"))
    };
    until("the buyer says that its peer is away", lacks_peers).await?;
    stage.members[1].spawn(&options)?;
    stage.members[1].wait_ready(BOUND).await?;
    until("its peer is back", || async { Ok(!lacks_peers().await?) }).await?;
    buy(&buyer).await?;
    stage.shutdown().await;
    Ok(())
}
