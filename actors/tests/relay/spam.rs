//! What strangers leave on an honest relay: it must hide nothing that others wrote.

use crate::support::*;
use actors::ports::relay::listing::{self, ListingDeletion, ListingDraft};
use actors::ports::relay::{
    Event, EventSigner, Kind, RelayEvent, SecretSigner, Tag, UnsignedEvent, public_key, sign_event,
};
use protocol::ids::ModelDigest;
use protocol::time::WallTime;

/// A deletion that names listings and is nobody's business.
fn junk_deletion(key: &SecretSigner, number: u64) -> Event {
    let author = public_key(key).unwrap();
    let tags = [Tag::custom("k", [listing::LISTING_KIND.to_string()])];
    let created = now().secs() - number % 600;
    let text = number.to_string();
    let unsigned = UnsignedEvent::new(author, created.into(), Kind::EventDeletion, tags, text);
    sign_event(unsigned, key).unwrap()
}

#[tokio::test]
async fn thousands_of_junk_deletions_hide_no_listing_and_no_withdrawal() {
    let relay = lab_relay().await;
    let (host, gone, stranger) = (signer(), signer(), signer());
    let network = unique("net");
    for key in [&host, &gone] {
        let draft = ListingDraft {
            content: b"{}".to_vec(),
            network: network.clone(),
            models: vec![ModelDigest([7; 32])],
            topics: Vec::new(),
            created_at: WallTime(now().0 - 60_000),
            expires: now().after_ms(1_200_000),
        };
        assert!(relay.inject(draft.build_with(key, 16, 2).await.unwrap()));
    }
    for number in 0..5_001 {
        assert!(relay.inject(junk_deletion(&stranger, number)));
    }
    let mut pool = Pool::start(&[relay.url()]);
    let listings = listing::filters(&network, now());
    pool.handle.subscribe("listings", listings).await.unwrap();
    let seen = pool.eose("listings").await;
    assert_eq!(contents(&seen), ["{}", "{}"]);

    let authors = [host.author(), gone.author()];
    let withdrawals = listing::deletion_filters(authors, now());
    pool.handle
        .subscribe("withdrawals", withdrawals)
        .await
        .unwrap();
    assert!(contents(&pool.eose("withdrawals").await).is_empty());
    let withdrawal = ListingDeletion::build(&network, now(), &gone).unwrap();
    assert!(relay.inject(withdrawal.clone()));
    pool.event(&withdrawal).await;
    let status = &pool.handle.relays()[0];
    assert!(status.connected && status.offences == 0, "{status:?}");
}

#[tokio::test]
async fn older_events_come_in_pages_where_a_relay_gives_few_at_once() {
    let relay = lab_relay().await;
    let (key, topic, newest) = (signer(), unique("pages"), now().secs());
    // More than a page within one second, and what is older behind it.
    for number in 0..1_700 {
        let secs = match number {
            0..600 => newest,
            _ => newest - number,
        };
        assert!(relay.inject(dated_note(&key, &topic, &number.to_string(), secs)));
    }
    let mut pool = Pool::start(&[relay.url()]);
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let mut seen = pool.eose("notes").await;
    let is_offence = |event: &RelayEvent| matches!(event, RelayEvent::Misbehaved { .. });
    assert!(!seen.iter().any(is_offence));
    seen.retain(|event| matches!(event, RelayEvent::Event { .. }));
    // All but those of the crowded second beyond the relay's own bound of 500.
    assert_eq!(seen.len(), 1_600);
}
