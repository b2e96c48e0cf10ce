//! Streams between two honest nodes, and dials that fail.

use super::*;
use actors::ports::network::{FrameError, OpenError, PeerId, StartError, peer_id_of};
use std::time::Instant;

async fn frames_go_both_ways(listen: &str) {
    let (host, mut events) = server(1, listen).await;
    let (buyer, _buyer_events) = client().await;
    let mut near = open(&buyer, &host, Protocol::Order).await;
    assert_eq!(near.peer, host.peer_id());
    assert_eq!(near.node, host.node_key());
    near.send(b"order").await.unwrap();
    let mut far = inbound(&mut events).await;
    assert_eq!((far.peer, far.node), (buyer.peer_id(), None));
    assert_eq!(far.protocol, Protocol::Order);
    assert_eq!(within(far.next()).await, Ok(Some(b"order".to_vec())));
    let large = vec![7; Protocol::Order.frame_limit()];
    let (sent, got) = tokio::join!(far.send(&large), within(near.next()));
    sent.unwrap();
    assert_eq!(got.unwrap().unwrap(), large);
    // Frames larger than any window are read in pieces.
    let mut asked = open(&buyer, &host, Protocol::Audit).await;
    let mut asker = inbound(&mut events).await;
    let bundle = vec![9; Protocol::Audit.frame_limit()];
    let (sent, got) = tokio::join!(asked.send(&bundle), within(asker.next()));
    sent.unwrap();
    assert!(got.unwrap() == Some(bundle));
    // One side has sent all; the other goes on.
    near.finish().await.unwrap();
    assert_eq!(within(far.next()).await, Ok(None));
    far.send(b"receipt").await.unwrap();
    far.finish().await.unwrap();
    assert_eq!(within(near.next()).await, Ok(Some(b"receipt".to_vec())));
    assert_eq!(within(near.next()).await, Ok(None));
    within(buyer.shutdown()).await;
    within(host.shutdown()).await;
}

#[tokio::test]
async fn frames_go_both_ways_over_tcp() {
    frames_go_both_ways(TCP).await;
}

#[tokio::test]
async fn frames_go_both_ways_over_quic() {
    frames_go_both_ways(QUIC).await;
}

#[tokio::test]
async fn a_servers_peer_id_is_its_node_key_and_is_proved_to_the_other_side() {
    for number in 1..9 {
        let identity = secret(number);
        let key = identity.node_key().unwrap();
        assert_eq!(peer_id_of(&key).unwrap(), identity.peer_id());
    }
    let (host, _host_events) = server(3, TCP).await;
    let (other, mut events) = server(4, TCP).await;
    let mut near = open(&host, &other, Protocol::Audit).await;
    near.send(b"bundle").await.unwrap();
    let far = inbound(&mut events).await;
    assert_eq!(far.node, secret(3).node_key());
}

#[tokio::test]
async fn two_swarms_of_one_process_are_two_peers() {
    let (seller, seller_events) = server(5, TCP).await;
    let (own_buyer, _events) = client().await;
    assert_ne!(seller.peer_id(), own_buyer.peer_id());
    assert_eq!(own_buyer.local_addresses(), Vec::<Multiaddr>::new());
    let _echo = echo(seller_events);
    let mut stream = open(&own_buyer, &seller, Protocol::Quote).await;
    stream.send(b"price?").await.unwrap();
    assert_eq!(within(stream.next()).await, Ok(Some(b"price?".to_vec())));
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let (host, events) = server(6, QUIC).await;
    let _echo = echo(events);
    let (buyer, _events) = client().await;
    let opens = (0..8u8).map(|number| {
        let (buyer, host) = (buyer.clone(), host.clone());
        tokio::spawn(async move {
            let mut stream = open(&buyer, &host, Protocol::Order).await;
            stream.send(&[number]).await.unwrap();
            assert_eq!(within(stream.next()).await, Ok(Some(vec![number])));
            stream
        })
    });
    let mut streams = Vec::new();
    for open in opens.collect::<Vec<_>>() {
        streams.push(within(open).await.unwrap());
    }
    assert_eq!(host.status().borrow().peers, 1);
}

#[tokio::test]
async fn a_dead_address_is_a_clear_error_in_bounded_time() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (buyer, _events) = client().await;
    let peer = PeerId::random();
    let begun = Instant::now();
    let tcp: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")
        .parse()
        .unwrap();
    let error = buyer
        .open(Protocol::Order, vec![tcp], PATIENCE)
        .await
        .unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
    assert!(
        text.contains(&port.to_string()) && text.contains("refused"),
        "{text}"
    );
    let udp: Multiaddr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{peer}")
        .parse()
        .unwrap();
    let limit = Duration::from_millis(300);
    let error = buyer
        .open(Protocol::Order, vec![udp], limit)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        OpenError::Timeout { .. } | OpenError::Unreachable { .. }
    ));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn addresses_must_name_one_peer_and_another_one_there_is_an_error() {
    let (host, _host_events) = server(7, TCP).await;
    let (buyer, _events) = client().await;
    let bare: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let error = buyer
        .open(Protocol::Order, vec![bare], PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error, OpenError::NoPeer);
    let other = peer_id_of(&secret(8).node_key().unwrap()).unwrap();
    let at_host = host.local_addresses().remove(0).to_string();
    let wrong: Multiaddr = at_host
        .replace(&host.peer_id().to_string(), &other.to_string())
        .parse()
        .unwrap();
    let both = vec![host.local_addresses().remove(0), wrong.clone()];
    let error = buyer
        .open(Protocol::Order, both, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::TwoPeers { .. }), "{error}");
    let error = buyer
        .open(Protocol::Order, vec![wrong], PATIENCE)
        .await
        .unwrap_err();
    match error {
        OpenError::WrongPeer { found, .. } => assert_eq!(found, host.peer_id()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_protocol_that_the_peer_does_not_serve_is_refused_by_name() {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.accept = vec![Protocol::Order];
    let (host, _host_events) = start(config, secret(9)).await;
    let (buyer, _events) = client().await;
    let error = buyer
        .open(Protocol::Audit, host.local_addresses(), PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        OpenError::NotSpoken {
            protocol: Protocol::Audit
        }
    );
}

async fn shutdown_frees_the_port(listen: &str) {
    let (host, mut events) = server(10, listen).await;
    let (buyer, _buyer_events) = client().await;
    let mut near = open(&buyer, &host, Protocol::Order).await;
    near.send(b"x").await.unwrap();
    let mut far = inbound(&mut events).await;
    let address = host.local_addresses().remove(0);
    within(host.shutdown()).await;
    assert!(within(near.next()).await.is_err());
    assert!(
        within(async {
            while let Ok(Some(_)) = far.next().await {}
            far.next().await
        })
        .await
        .is_err()
    );
    while within(events.recv()).await.is_some() {}
    let error = host
        .open(Protocol::Order, host.local_addresses(), PATIENCE)
        .await;
    assert!(error.is_err());
    // The very same port, at once.
    let port_only: Multiaddr = address.iter().take(address.iter().count() - 1).collect();
    let config = Config::serving("regtest", vec![port_only]);
    let (again, _events) = start(config, secret(10)).await;
    assert_eq!(again.local_addresses(), vec![address]);
}

#[tokio::test]
async fn shutdown_ends_streams_and_events_and_frees_the_tcp_port() {
    shutdown_frees_the_port(TCP).await;
}

#[tokio::test]
async fn shutdown_ends_streams_and_events_and_frees_the_quic_port() {
    shutdown_frees_the_port(QUIC).await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let config = Config::serving("regtest", vec![address]);
    let error = within(Network::start(config, secret(11)))
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn a_stream_dropped_without_finish_is_lost_not_ended() {
    for listen in [TCP, QUIC] {
        let (host, mut events) = server(12, listen).await;
        let (buyer, _buyer_events) = client().await;
        let mut near = open(&buyer, &host, Protocol::Order).await;
        near.send(b"x").await.unwrap();
        let mut far = inbound(&mut events).await;
        assert_eq!(within(far.next()).await, Ok(Some(b"x".to_vec())));
        drop(near);
        assert!(matches!(
            within(far.next()).await,
            Err(FrameError::Lost { .. })
        ));
    }
}

/// Prints what opening and a round trip take; the bounds are only sanity.
#[tokio::test]
async fn opening_takes_well_under_a_second_and_a_round_trip_a_few_milliseconds() {
    for (name, listen) in [("tcp", TCP), ("quic", QUIC)] {
        let (host, events) = server(13, listen).await;
        let _echo = echo(events);
        let mut cold = Vec::new();
        for _ in 0..10 {
            let (buyer, _events) = client().await;
            let begun = Instant::now();
            let _stream = open(&buyer, &host, Protocol::Order).await;
            cold.push(begun.elapsed());
            buyer.shutdown().await;
        }
        let (buyer, _events) = client().await;
        let mut stream = open(&buyer, &host, Protocol::Order).await;
        let (mut warm, mut trips) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            let begun = Instant::now();
            let _stream = open(&buyer, &host, Protocol::Order).await;
            warm.push(begun.elapsed());
        }
        for _ in 0..500 {
            let begun = Instant::now();
            stream.send(&[1; 200]).await.unwrap();
            within(stream.next()).await.unwrap();
            trips.push(begun.elapsed());
        }
        let bulk = vec![3; Protocol::Order.frame_limit()];
        let begun = Instant::now();
        for _ in 0..32 {
            stream.send(&bulk).await.unwrap();
            within(stream.next()).await.unwrap();
        }
        let rate = 64.0 / begun.elapsed().as_secs_f64();
        for (what, times) in [
            ("connect+open", cold),
            ("open warm", warm),
            ("round trip", trips),
        ] {
            let (p50, p99) = percentiles(times);
            eprintln!("{name}: {what}: p50 {p50:?}, p99 {p99:?}");
            assert!(p50 < Duration::from_secs(1), "{what} {p50:?}");
        }
        eprintln!("{name}: echo of 1 MiB frames: {rate:.0} MiB/s both ways together");
    }
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
