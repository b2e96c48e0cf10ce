//! What must hold with any relay that speaks NIP-01.

use crate::support::*;
use actors::ports::relay::listing::{self, ListingDeletion, ListingDraft, ListingEvent};
use actors::ports::relay::{EventSigner, RelayError, RelayEvent, RelayPool};
use protocol::ids::ModelDigest;
use protocol::time::WallTime;

#[tokio::test]
async fn an_event_goes_to_the_relay_and_comes_back_stored_and_live() {
    let relay = Target::new().await;
    let (key, topic) = (signer(), unique("round"));
    let writer = Pool::start(&[relay.url()]);
    let stored = note(&key, &topic, "stored");
    let report = writer.handle.publish(stored.clone()).await;
    assert_eq!(report.accepted, [relay.url()], "{report:?}");

    let mut reader = Pool::start(&[relay.url()]);
    reader
        .handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let before = reader.eose("notes").await;
    assert!(matches!(&before[0], RelayEvent::Connected { url } if **url == *relay.url()));
    assert_eq!(contents(&before), ["stored"]);

    let live = note(&key, &topic, "live");
    assert!(writer.handle.publish(live.clone()).await.is_published());
    let between = reader.event(&live).await;
    assert!(
        contents(&between).is_empty(),
        "the stored one came twice: {between:?}"
    );
}

#[tokio::test]
async fn publishing_the_same_event_twice_is_no_failure() {
    let relay = Target::new().await;
    let pool = Pool::start(&[relay.url()]);
    let event = note(&signer(), &unique("twice"), "once");
    assert!(pool.handle.publish(event.clone()).await.is_published());
    assert!(pool.handle.publish(event).await.is_published());
}

#[tokio::test]
async fn an_event_that_two_relays_serve_is_handed_on_once_and_a_dead_relay_does_not_matter() {
    let (first, second) = (Target::new().await, lab_relay().await);
    // Bound and dropped: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("ws://{}", free.local_addr().unwrap());
    drop(free);
    let (key, topic) = (signer(), unique("both"));
    let urls = [first.url(), second.url(), dead.clone()];
    let mut pool = Pool::start(&urls);
    let event = note(&key, &topic, "one");
    let report = pool.handle.publish(event.clone()).await;
    let mut accepted = report.accepted.clone();
    accepted.sort();
    let mut expected = vec![first.url(), second.url()];
    expected.sort();
    assert_eq!((accepted, report.timed_out), (expected, vec![dead.clone()]));

    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let mut seen = pool.eose("notes").await;
    seen.extend(pool.eose("notes").await);
    assert_eq!(contents(&seen), ["one"]);

    let states = pool.handle.relays();
    let dead_state = states.iter().find(|s| s.url == dead).unwrap();
    assert!(!dead_state.connected && dead_state.last_error.is_some());
    assert!(
        states
            .iter()
            .filter(|s| s.connected)
            .all(|s| s.score > dead_state.score)
    );
}

#[tokio::test]
async fn a_subscription_asked_again_brings_stored_events_again_and_an_ended_one_brings_none() {
    let relay = Target::new().await;
    let (key, topic) = (signer(), unique("again"));
    let mut pool = Pool::start(&[relay.url()]);
    assert!(
        pool.handle
            .publish(note(&key, &topic, "kept"))
            .await
            .is_published()
    );
    for _ in 0..2 {
        pool.handle
            .subscribe("notes", topic_filter(&topic))
            .await
            .unwrap();
        assert_eq!(contents(&pool.eose("notes").await), ["kept"]);
    }
    pool.handle.unsubscribe("notes").await.unwrap();
    assert!(
        pool.handle
            .publish(note(&key, &topic, "unheard"))
            .await
            .is_published()
    );
    // What a later subscription brings to its end bounds the wait.
    let other = unique("other");
    pool.handle
        .subscribe("later", topic_filter(&other))
        .await
        .unwrap();
    assert!(contents(&pool.eose("later").await).is_empty());
}

#[tokio::test]
async fn a_ping_measures_the_relay() {
    let relay = Target::new().await;
    let mut pool = Pool::start(&[relay.url()]);
    pool.handle
        .subscribe("notes", topic_filter(&unique("none")))
        .await
        .unwrap();
    pool.eose("notes").await;
    let measured = async {
        while pool.handle.relays()[0].latency_ms.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, measured).await.unwrap();
    let status = &pool.handle.relays()[0];
    assert!(status.connected && status.score > 500 && status.last_error.is_none());
}

#[tokio::test]
async fn a_listing_is_mined_published_found_replaced_and_withdrawn() {
    let relay = Target::new().await;
    let (key, network) = (signer(), unique("net"));
    let model = ModelDigest([7; 32]);
    let draft = |content: &str, ago: u64| ListingDraft {
        content: content.as_bytes().to_vec(),
        network: network.clone(),
        models: vec![model],
        topics: vec!["inference".into()],
        created_at: WallTime(now().0 - ago * 1_000),
        expires: now().after_ms(1_200_000),
    };
    let mut host = Pool::start(&[relay.url()]);
    let mut buyer = Pool::start(&[relay.url()]);
    buyer
        .handle
        .subscribe("listings", listing::filters(&network, now()))
        .await
        .unwrap();
    buyer.eose("listings").await;

    for (content, ago) in [("{\"v\":1}", 20), ("{\"v\":2}", 10)] {
        let event = draft(content, ago).build_with(&key, 16, 2).await.unwrap();
        assert!(host.handle.publish(event.clone()).await.is_published());
        buyer.event(&event).await;
        let found = ListingEvent::verify(&event, now()).unwrap();
        assert_eq!((found.author, &*found.network), (key.author(), &*network));
        assert_eq!((&*found.content, found.models), (content, vec![model]));
    }
    // Addressable: the relay keeps only the newest.
    host.handle
        .subscribe("mine", listing::filters(&network, now()))
        .await
        .unwrap();
    assert_eq!(contents(&host.eose("mine").await), ["{\"v\":2}"]);

    // Whoever knows a listing follows its author's withdrawals.
    let withdrawals = listing::deletion_filters([key.author()], now());
    buyer
        .handle
        .subscribe("withdrawals", withdrawals)
        .await
        .unwrap();
    let deletion = ListingDeletion::build(&network, now(), &key).unwrap();
    assert!(host.handle.publish(deletion.clone()).await.is_published());
    buyer.event(&deletion).await;
    let withdrawn = ListingDeletion::read(&deletion);
    assert_eq!(
        (withdrawn[0].author, &*withdrawn[0].network),
        (key.author(), &*network)
    );
}

#[tokio::test]
async fn a_slow_receiver_loses_nothing() {
    let relay = Target::new().await;
    let (key, topic) = (signer(), unique("slow"));
    let writer = Pool::start(&[relay.url()]);
    let mut sent = Vec::new();
    for number in 0..40 {
        let event = note(&key, &topic, &number.to_string());
        assert!(writer.handle.publish(event).await.is_published());
        sent.push(number.to_string());
    }
    let mut narrow = config(&[relay.url()]);
    narrow.limits.channel = 1;
    let mut reader = Pool::with(narrow);
    reader
        .handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let before = reader.eose("notes").await;
    let mut got = contents(&before);
    got.sort_by_key(|number| number.parse::<u32>().unwrap());
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_pool_that_is_shut_down_ends_its_receiver_and_refuses_work() {
    let relay = Target::new().await;
    let mut pool = Pool::start(&[relay.url()]);
    pool.until(|event| matches!(event, RelayEvent::Connected { .. }))
        .await;
    pool.handle.shutdown().await;
    let end = async { while pool.events.recv().await.is_some() {} };
    tokio::time::timeout(BOUND, end).await.unwrap();
    let refused = pool.handle.subscribe("late", topic_filter("x")).await;
    assert_eq!(refused, Err(RelayError::Stopped));
    let report = pool.handle.publish(note(&signer(), "x", "late")).await;
    assert_eq!(report.refused.len(), 1);
}

#[tokio::test]
async fn a_wrong_config_names_what_is_wrong() {
    let start = |urls: &[&str]| {
        let urls: Vec<_> = urls.iter().map(|url| url.to_string()).collect();
        RelayPool::start(config(&urls)).err()
    };
    assert_eq!(start(&[]), Some(RelayError::NoRelays));
    let bad = |url: &str| Some(RelayError::BadUrl { url: url.into() });
    assert_eq!(
        start(&["https://relay.example"]),
        bad("https://relay.example")
    );
    assert_eq!(start(&["relay.example"]), bad("relay.example"));
    let many: Vec<_> = (0..17).map(|n| format!("wss://relay{n}.example")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(
        start(&many),
        Some(RelayError::TooManyRelays { have: 17, max: 16 })
    );
}
