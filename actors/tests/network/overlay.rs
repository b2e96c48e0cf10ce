//! Lookup and gossip between three nodes.

use super::*;
use actors::ports::network::{GossipMessage, Judgement, Misbehaviour, OverlayError};

/// A server that keeps what others announce.
async fn keeper(number: u8) -> (NetworkHandle, Events) {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.keep_providers = true;
    start(config, secret(number)).await
}

async fn joined(number: u8, at: &NetworkHandle) -> (NetworkHandle, Events) {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.keep_providers = true;
    config.judge = numbered;
    config.bootstrap = bootstrap_at(at);
    start(config, secret(number)).await
}

async fn client_at(at: &NetworkHandle) -> (NetworkHandle, Events) {
    let mut config = Config::client("regtest");
    config.judge = numbered;
    config.bootstrap = bootstrap_at(at);
    start(config, Identity::ephemeral()).await
}

async fn knows(handle: &NetworkHandle, peers: usize) {
    let mut status = handle.status();
    within(status.wait_for(|status| status.table >= peers))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_provider_is_found_through_a_third_node_and_can_be_dialled() {
    let (middle, _middle_events) = keeper(30).await;
    let (host, mut host_events) = joined(31, &middle).await;
    let digest = [0xab; 32];
    // Whether this comes before or after the first peer is known is up to the race.
    host.provide(&digest).await.unwrap();
    knows(&host, 1).await;
    assert!(host.provide(&digest).await.unwrap());
    let (buyer, _buyer_events) = client_at(&middle).await;
    knows(&buyer, 1).await;
    let found = within(buyer.find_providers(&digest, 4)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].peer, found[0].node),
        (host.peer_id(), host.node_key())
    );
    assert_eq!(found[0].addresses, host.local_addresses());
    let addresses = found[0].addresses.clone();
    let mut near = buyer
        .open(Protocol::Order, addresses, PATIENCE)
        .await
        .unwrap();
    near.send(b"hello").await.unwrap();
    let mut far = inbound(&mut host_events).await;
    assert_eq!(within(far.next()).await, Ok(Some(b"hello".to_vec())));
    // A client is nobody's server: it is in no table.
    assert!(middle.status().borrow().table <= 1);
    assert_eq!(
        within(buyer.find_providers(&[1; 32], 4)).await,
        Ok(Vec::new())
    );
}

#[tokio::test]
async fn what_is_announced_before_anybody_is_known_reaches_the_first_peer() {
    let (host, _host_events) = server(32, TCP).await;
    let digest = [0xcd; 32];
    assert_eq!(host.provide(&digest).await, Ok(false));
    let (other, _other_events) = joined(33, &host).await;
    knows(&other, 1).await;
    let found = within(other.find_providers(&digest, 4)).await.unwrap();
    assert_eq!(found[0].peer, host.peer_id());
    // The holder's own store is asked too, so stopping must show.
    host.stop_providing(&digest).await.unwrap();
    assert_eq!(host.find_providers(&digest, 4).await, Ok(Vec::new()));
}

/// The first byte of a message is its number; `x` is none.
fn numbered(message: GossipMessage<'_>) -> Judgement {
    match message.data.first() {
        Some(b'x') | None => Judgement::Malformed,
        Some(number) => Judgement::Numbered(u64::from(*number)),
    }
}

async fn gossiped(events: &mut Events) -> Vec<u8> {
    event(events, |event| match event {
        NetworkEvent::Gossip { data, .. } => Some(data),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn an_old_message_that_is_sent_again_goes_no_further_and_harms_nobody() {
    let (middle, mut middle_events) = keeper(40).await;
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.judge = numbered;
    config.bootstrap = bootstrap_at(&middle);
    let (author, mut author_events) = start(config, secret(41)).await;
    let (reader, mut reader_events) = client_at(&middle).await;
    for node in [&middle, &author, &reader] {
        node.subscribe("pulse").await.unwrap();
    }
    follower(&mut author_events, &middle).await;
    follower(&mut middle_events, &reader).await;
    // `middle` passes everything on; `reader` judges.
    for message in [&b"5"[..], b"4", b"5again", b"6"] {
        author.publish("pulse", message).await.unwrap();
    }
    assert_eq!(gossiped(&mut reader_events).await, b"5");
    let mut blamed = Vec::new();
    let next = event(&mut reader_events, |event| match event {
        NetworkEvent::Gossip { data, .. } => Some(data),
        NetworkEvent::Misbehaved { peer, .. } => {
            blamed.push(peer);
            None
        }
        _ => None,
    })
    .await;
    assert_eq!((next.as_slice(), blamed), (&b"6"[..], Vec::new()));
}

#[tokio::test]
async fn who_passes_on_what_is_no_message_is_blamed_and_not_its_author() {
    let (middle, mut middle_events) = keeper(42).await;
    let (author, mut author_events) = joined(43, &middle).await;
    let (reader, mut reader_events) = client_at(&middle).await;
    for node in [&middle, &author, &reader] {
        node.subscribe("pulse").await.unwrap();
    }
    follower(&mut author_events, &middle).await;
    follower(&mut middle_events, &reader).await;
    author.publish("pulse", b"x").await.unwrap();
    let (peer, kind) = event(&mut reader_events, |event| match event {
        NetworkEvent::Misbehaved { peer, kind, .. } => Some((peer, kind)),
        NetworkEvent::Gossip { .. } => panic!("it was handed out"),
        _ => None,
    })
    .await;
    assert_eq!(
        (peer, kind),
        (middle.peer_id(), Misbehaviour::GossipMalformed)
    );
}

#[tokio::test]
async fn records_of_strangers_are_not_kept_unless_asked_for() {
    let (host, _host_events) = server(44, TCP).await;
    let (stranger, _stranger_events) = joined(45, &host).await;
    knows(&stranger, 1).await;
    assert!(stranger.provide(&[7; 32]).await.unwrap());
    // Who announced it would say so itself, so it goes first.
    stranger.shutdown().await;
    let found = within(host.find_providers(&[7; 32], 4)).await;
    assert!(found.unwrap_or_default().is_empty());
}

async fn follower(events: &mut Events, who: &NetworkHandle) {
    event(events, |event| match event {
        NetworkEvent::Follows { peer, .. } if peer == who.peer_id() => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn gossip_reaches_a_node_that_the_author_is_not_connected_to() {
    let (middle, mut middle_events) = server(34, TCP).await;
    middle.subscribe("pulse").await.unwrap();
    let (author, mut author_events) = joined(35, &middle).await;
    let (reader, mut reader_events) = client_at(&middle).await;
    author.subscribe("pulse").await.unwrap();
    reader.subscribe("pulse").await.unwrap();
    follower(&mut author_events, &middle).await;
    follower(&mut middle_events, &reader).await;
    author.publish("pulse", b"busy").await.unwrap();
    let message = event(&mut reader_events, |event| match event {
        NetworkEvent::Gossip {
            topic,
            author,
            node,
            data,
            relayed_by,
        } => Some((topic, author, node, data, relayed_by)),
        _ => None,
    })
    .await;
    let (key, relay) = (author.node_key(), middle.peer_id());
    assert_eq!(
        message,
        (
            "pulse".to_owned(),
            author.peer_id(),
            key,
            b"busy".to_vec(),
            relay
        )
    );
}

#[tokio::test]
async fn gossip_and_keys_of_a_wrong_size_or_without_listeners_are_errors() {
    let (host, _events) = server(36, TCP).await;
    let large = vec![0; 16 << 10];
    let error = host.publish("pulse", &large).await.unwrap_err();
    assert!(matches!(error, OverlayError::Size { .. }), "{error}");
    let error = host.publish("pulse", b"x").await.unwrap_err();
    assert!(matches!(error, OverlayError::NoListeners { .. }), "{error}");
    assert!(matches!(
        host.provide(&[]).await,
        Err(OverlayError::Size { .. })
    ));
    assert!(matches!(
        host.provide(&[0; 65]).await,
        Err(OverlayError::Size { .. })
    ));
    host.shutdown().await;
    assert_eq!(host.subscribe("pulse").await, Err(OverlayError::Closed));
}

#[tokio::test]
async fn nodes_of_different_networks_share_no_table() {
    let (regtest, _regtest_events) = server(37, TCP).await;
    let mut config = Config::serving("signet", vec![TCP.parse().unwrap()]);
    config.bootstrap = bootstrap_at(&regtest);
    let (signet, mut events) = start(config, secret(38)).await;
    event(&mut events, |event| {
        matches!(event, NetworkEvent::Connected { .. }).then_some(())
    })
    .await;
    // They can still speak frames: what counts there is the signed network name.
    let mut stream = open(&signet, &regtest, Protocol::Order).await;
    stream.send(b"x").await.unwrap();
    assert_eq!(signet.status().borrow().table, 0);
}
