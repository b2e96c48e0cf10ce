//! What strangers leave on the relay that host and buyer read.

use super::fitness::Range;
use super::{alone, long};
use anyhow::{Result, ensure};
use nostr::event::Event;
use nostr::prelude::{EventBuilder, FinalizeEvent, Keys, Kind, Tag};
use protocol::ids::ModelDigest;
use std::time::Duration;

/// One more withdrawal than a node takes of stored events.
const DELETIONS: u64 = 5_001;
/// Listings without the work that readers ask for.
const LISTINGS: u64 = 2_000;
const LISTING_KIND: u16 = 38_717;

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// A withdrawal that names listings and is nobody's business.
fn deletion(key: &Keys, number: u64) -> Result<Event> {
    let tags = [Tag::custom("k", [LISTING_KIND.to_string()])];
    let builder = EventBuilder::new(Kind::EventDeletion, number.to_string());
    let dated = builder
        .tags(tags)
        .custom_created_at((now() - number % 600).into());
    Ok(dated.finalize(key)?)
}

/// A listing of the attacked model at a made-up host.
fn listing(model: ModelDigest, number: u64) -> Result<Event> {
    let expires = (now() + 1_200).to_string();
    let tags = [
        Tag::custom("d", ["regtest".to_owned()]),
        Tag::custom("m", [model.to_string()]),
        Tag::custom("expiration", [expires]),
        Tag::custom("nonce", [number.to_string(), "16".to_owned()]),
    ];
    let content = format!("{{\"junk\":{number},\"more\":\"{}\"}}", "x".repeat(2_000));
    let builder = EventBuilder::new(Kind::Custom(LISTING_KIND), content);
    Ok(builder.tags(tags).finalize(&Keys::generate())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_and_found_beside_thousands_of_junk_events_on_its_relay() -> Result<()> {
    let _alone = alone().await;
    let mut range = Range::start().await?;
    let relay = range.stage.lab.relay();
    let junk = |target: super::stranger::Target| async move {
        let key = Keys::generate();
        for number in 0..DELETIONS {
            ensure!(relay.inject(deletion(&key, number)?), "it was not taken");
        }
        for number in 0..LISTINGS {
            ensure!(
                relay.inject(listing(target.model, number)?),
                "it was not taken"
            );
            if number % 200 == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Whoever reads the relay now reads all of it before its end of stored events.
        relay.faults().close_connections();
        tokio::time::sleep(long()).await;
        Ok(format!("{DELETIONS} withdrawals and {LISTINGS} listings"))
    };
    range.survives("relay flooded", junk).await?;

    // A buyer who was not there before finds the host behind all that.
    let options = range.options.clone();
    let buyer = &mut range.stage.members[0];
    buyer.stop().await;
    buyer.spawn(&options)?;
    buyer.wait_ready(super::fitness::BOUND).await?;
    range.buy().await?;
    range.is_listed().await?;
    range.end().await
}
