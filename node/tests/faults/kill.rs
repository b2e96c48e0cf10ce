//! Real processes, killed (`SIGKILL`) in the middle of a paid stream.
//!
//! After every restart the books of buyer and host agree with each other and with
//! their wallets, and nobody lost more than a window. The moments are drawn from
//! a seed; `FREEHOLD_KILLS` sets how many (the README names the long run).

use super::BOUND;
use super::books::{Books, listed, order, stage};
use anyhow::Result;
use freehold::control::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Kills in a run of the ordinary suite; each takes a few seconds.
const KILLS: u32 = 6;
/// Buys until the moment of the kill, or until the answer is complete.
async fn buy_until(client: &Client, moment: Duration) -> Result<()> {
    let buying = async {
        let mut purchase = client.buy(&order()).await?;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_at_any_moment_the_books_agree_with_the_wallets() -> Result<()> {
    let kills = std::env::var("FREEHOLD_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS);
    let mut rng = StdRng::seed_from_u64(20_261_120);
    let dir = tempfile::tempdir()?;
    let (mut stage, options) = stage(dir.path()).await?;
    let mut books = Books::open(&stage).await?;

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
        books.after_start(&stage).await?;
        books.agree(&stage).await?;
        listed(stage.members[0].client()?).await?;
    }
    // Some percent are expected; a store that is often behind itself would show.
    assert!(books.closed <= 2 + kills as usize / 4, "{}", books.closed);
    println!("{kills} kills, {} channels closed by them", books.closed);
    stage.shutdown().await;
    Ok(())
}
