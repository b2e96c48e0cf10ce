//! A client that knows nothing but a host's address: it opens, closes, holds and floods. After each
//! attack an honest exchange succeeds.
//!
//! The host here is the port and the shell's streams with an echo in place of a machine: frames come
//! back, `bye` makes the host close its side, and what is beyond a bound is turned away as in a node.

use super::hostile::{connection_from, raw_streams};
use super::*;
use actors::ports::network::bounds::{
    CONNECTIONS_ONE_WAY, CONNECTIONS_PER_ORIGIN, INBOUND_SIDE_STREAMS, OUTBOUND_STREAMS_PER_PEER,
};
use actors::ports::network::{ApartStream, OpenError, Status, open_apart};
use actors::ports::storage::Storage;
use actors::shell::discovery::reach;
use actors::shell::inference::{self, turn_away};
use actors::shell::streams::{Arrival, Streams};
use actors::shell::{Shared, validator};
use futures::{AsyncReadExt, AsyncWriteExt};
use protocol::codec;
use protocol::limits::MAX_AUDIT_FRAME_BYTES;
use protocol::message::discovery::SelfTestError;
use protocol::refusal::Code;
use protocol::wire::bundle::AuditFrame;
use protocol::wire::order::Frame;
use tokio::net::TcpSocket;

struct Host {
    handle: NetworkHandle,
    streams: Streams,
}

impl Host {
    async fn with(number: u8, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
        change(&mut config);
        let (handle, events) = start(config, secret(number)).await;
        let streams = Streams::default();
        tokio::spawn(serve(events, streams.clone()));
        Self { handle, streams }
    }

    async fn new(number: u8) -> Self {
        Self::with(number, |_| {}).await
    }

    /// Waits until the host has this many streams.
    async fn has(&self, streams: usize) {
        within(async {
            while self.streams.len() != streams {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// A stranger to the host sends a frame and gets it back.
    async fn serves(&self) {
        let (buyer, _events) = client().await;
        let mut stream = open(&buyer, &self.handle, Protocol::Order).await;
        stream.send(b"an order").await.unwrap();
        assert_eq!(within(stream.next()).await, Ok(Some(b"an order".to_vec())));
        buyer.shutdown().await;
    }
}

async fn serve(mut events: Events, streams: Streams) {
    while let Some(event) = events.recv().await {
        match event {
            NetworkEvent::Stream(stream) => {
                let streams = streams.clone();
                tokio::spawn(async move {
                    let (id, mut reader) = streams.adopt(stream);
                    while let Arrival::Frame(frame) = reader.next().await {
                        match &*frame {
                            b"bye" => streams.close(id),
                            _ => drop(streams.send(id, frame)),
                        }
                    }
                    streams.close(id);
                });
            }
            NetworkEvent::Excess(stream) => drop(tokio::spawn(turn_away(stream))),
            _ => {}
        }
    }
}

/// The frame that a stream beyond the bounds is answered with.
async fn is_turned_away(stream: &mut FramedStream) {
    let answer = within(stream.next()).await.unwrap().expect("a frame");
    let Frame::Refusal(refusal) = Frame::decode(&answer).unwrap() else {
        panic!("not a refusal");
    };
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.retry_after_ms.is_some());
    assert_eq!(within(stream.next()).await, Ok(None));
}

#[tokio::test]
async fn three_hundred_streams_opened_and_dropped_leave_every_slot_free() {
    let host = Host::new(60).await;
    for _ in 0..25 {
        let (stranger, _events) = client().await;
        for _ in 0..12 {
            let mut stream = open(&stranger, &host.handle, Protocol::Order).await;
            stream.send(b"x").await.unwrap();
            within(stream.next()).await.unwrap();
        }
        stranger.shutdown().await;
    }
    host.has(0).await;
    host.serves().await;
    // The same by one who finishes in order, and keeps half of its places.
    let (stranger, _events) = client().await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        kept.push(open(&stranger, &host.handle, Protocol::Order).await);
    }
    for _ in 0..300 {
        let mut stream = open(&stranger, &host.handle, Protocol::Order).await;
        stream.send(b"x").await.unwrap();
        assert_eq!(within(stream.next()).await, Ok(Some(b"x".to_vec())));
        stream.finish().await.unwrap();
        assert_eq!(within(stream.next()).await, Ok(None));
    }
}

#[tokio::test]
async fn a_stream_that_the_host_closed_cannot_be_held_by_its_peer() {
    let host = Host::with(61, |config| config.bounds.inbound_streams_per_peer = 1).await;
    let (mut held, _running) = raw_streams(&host.handle, Protocol::Order, 1).await;
    held[0].write_all(&[0, 0, 0, 3]).await.unwrap();
    held[0].write_all(b"bye").await.unwrap();
    held[0].flush().await.unwrap();
    // The end mark, and then nothing: the peer neither closes nor stops sending.
    let mut end = [1; 4];
    within(held[0].read_exact(&mut end)).await.unwrap();
    assert_eq!(end, [0; 4]);
    let _ = held[0].write_all(&[0, 0, 0, 1, 7]).await;
    host.has(0).await;
    host.serves().await;
}

#[tokio::test]
async fn a_peer_that_opens_more_than_its_share_is_told_so_and_keeps_what_it_has() {
    let host = Host::with(62, |config| config.bounds.inbound_streams_per_peer = 2).await;
    let (buyer, _events) = client().await;
    let mut served = Vec::new();
    for _ in 0..2 {
        let mut stream = open(&buyer, &host.handle, Protocol::Order).await;
        stream.send(b"x").await.unwrap();
        within(stream.next()).await.unwrap();
        served.push(stream);
    }
    for _ in 0..4 {
        let mut excess = open(&buyer, &host.handle, Protocol::Order).await;
        is_turned_away(&mut excess).await;
    }
    served[0].send(b"still").await.unwrap();
    assert_eq!(within(served[0].next()).await, Ok(Some(b"still".to_vec())));
    host.serves().await;
}

#[tokio::test]
async fn of_eighty_orders_at_once_each_is_served_or_told_that_the_host_is_busy() {
    let host = Host::new(63).await;
    let (buyer, _events) = client().await;
    let mut tasks = Vec::new();
    for number in 0..80u8 {
        let (buyer, to) = (buyer.clone(), host.handle.clone());
        tasks.push(tokio::spawn(async move {
            let mut stream = open(&buyer, &to, Protocol::Order).await;
            stream.send(&[number]).await.unwrap();
            let answer = within(stream.next()).await.unwrap().unwrap();
            match Frame::decode(&answer) {
                Ok(Frame::Refusal(refusal)) => assert_eq!(refusal.code, Code::Busy),
                _ => assert_eq!(answer, [number]),
            }
        }));
    }
    for task in tasks {
        within(task).await.unwrap();
    }
    host.has(0).await;
    // Where none ends, it is this side's doing, and known as such.
    let mut held = Vec::new();
    for _ in 0..OUTBOUND_STREAMS_PER_PEER {
        held.push(open(&buyer, &host.handle, Protocol::Order).await);
    }
    let to = host.handle.local_addresses();
    let limit = Duration::from_millis(50);
    let error = buyer.open(Protocol::Order, to, limit).await.unwrap_err();
    assert!(error.is_own(), "{error}");
}

#[tokio::test]
async fn all_streams_held_by_many_strangers_are_answered_as_busy_and_free_when_they_leave() {
    let host = Host::with(64, |config| config.bounds.inbound_streams = 24).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let (stranger, events) = client().await;
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(open(&stranger, &host.handle, Protocol::Order).await);
        }
        strangers.push((stranger, events, held));
    }
    host.has(24).await;
    let (buyer, _events) = client().await;
    let mut stream = open(&buyer, &host.handle, Protocol::Order).await;
    is_turned_away(&mut stream).await;
    drop(stream);
    for (stranger, _, held) in strangers {
        drop(held);
        stranger.shutdown().await;
    }
    host.has(0).await;
    host.serves().await;
}

#[tokio::test]
async fn a_hundred_silent_connections_from_one_address_shut_nobody_else_out() {
    let host = Host::new(65).await;
    let text = host.handle.local_addresses().remove(0).to_string();
    let port: u16 = text.split('/').nth(4).unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        // Another address than the honest one's, on the same machine.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let to = format!("127.0.0.1:{port}").parse().unwrap();
        silent.push(within(socket.connect(to)).await.unwrap());
    }
    // Those beyond the bound are turned away, and only those.
    let mut status = host.handle.status();
    within(status.wait_for(|status| status.failed_inbound >= 84))
        .await
        .unwrap();
    host.serves().await;
    assert_eq!(host.handle.status().borrow().failed_inbound, 84);
}

#[tokio::test]
async fn silent_connections_from_many_addresses_give_way_to_newcomers() {
    let host = Host::new(69).await;
    let text = host.handle.local_addresses().remove(0).to_string();
    let port: u16 = text.split('/').nth(4).unwrap().parse().unwrap();
    let mut silent = Vec::new();
    // 320, each address within its bound; there is room for 256.
    for n in 0..320 {
        let socket = TcpSocket::new_v4().unwrap();
        let from = format!("127.0.1.{}:0", 1 + n / 16);
        socket.bind(from.parse().unwrap()).unwrap();
        let to = format!("127.0.0.1:{port}").parse().unwrap();
        silent.push(within(socket.connect(to)).await.unwrap());
    }
    let mut status = host.handle.status();
    within(status.wait_for(|status| status.failed_inbound >= 64))
        .await
        .unwrap();
    host.serves().await;
    drop(silent);
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_and_free_again_when_one_leaves() {
    let host = Host::with(66, |config| config.bounds.connections_per_origin = 3).await;
    let mut near = Vec::new();
    for _ in 0..3 {
        let (stranger, events) = client().await;
        near.push((
            open(&stranger, &host.handle, Protocol::Order).await,
            stranger,
            events,
        ));
    }
    let (fourth, _events) = client().await;
    let to = host.handle.local_addresses();
    // The connection comes about and is closed at once, before or behind the first stream.
    let stream = fourth.open(Protocol::Order, to.clone(), PATIENCE).await;
    if let Ok(mut stream) = stream {
        assert!(within(stream.next()).await.is_err());
    }
    let (_, stranger, _) = near.remove(0);
    stranger.shutdown().await;
    let mut status = host.handle.status();
    within(status.wait_for(|status| status.peers == 2))
        .await
        .unwrap();
    host.serves().await;
}

#[tokio::test]
async fn six_addresses_do_not_shut_out_a_seventh_nor_unlist_the_host() {
    let host = Host::new(72).await;
    let mut status = host.handle.status();
    let (early, _events) = client().await;
    let mut order = open(&early, &host.handle, Protocol::Order).await;
    // Each address takes all that it may have, and these are all places that there are.
    let mut held = Vec::new();
    for address in 2..8 {
        for _ in 0..CONNECTIONS_PER_ORIGIN {
            held.push(connection_from([127, 0, 0, address], &host.handle).await);
        }
    }
    let full = |status: &Status| status.peers >= CONNECTIONS_ONE_WAY as usize;
    within(status.wait_for(full)).await.unwrap();
    // Buyers that come now are served, and stay; so is the one with an order, and the host itself.
    let mut buyers = Vec::new();
    for _ in 0..5 {
        let (buyer, events) = client().await;
        let mut stream = open(&buyer, &host.handle, Protocol::Order).await;
        stream.send(b"an order").await.unwrap();
        assert!(within(stream.next()).await.is_ok());
        buyers.push((buyer, stream, events));
    }
    let (dialer, _events) = client().await;
    let addresses = host.handle.local_addresses();
    let tested = reach(&dialer, &host.handle, Protocol::Order, addresses).await;
    assert_eq!(tested, Ok(()));
    order.send(b"still here").await.unwrap();
    assert_eq!(within(order.next()).await, Ok(Some(b"still here".to_vec())));
    for (_, stream, _) in &mut buyers {
        stream.send(b"and here").await.unwrap();
        assert!(within(stream.next()).await.is_ok());
    }
    let bounded = |status: &Status| status.peers <= CONNECTIONS_ONE_WAY as usize;
    within(status.wait_for(bounded)).await.unwrap();
}

#[tokio::test]
async fn a_self_test_that_finds_no_room_says_so() {
    let host = Host::with(73, |config| config.bounds.connections = 3).await;
    let addresses = host.handle.local_addresses();
    let mut held = Vec::new();
    for _ in 0..3 {
        let (buyer, events) = client().await;
        let stream = open(&buyer, &host.handle, Protocol::Order).await;
        held.push((buyer, stream, events));
    }
    host.has(3).await;
    // All have an order: nobody gives way.
    let (dialer, _events) = client().await;
    let tested = reach(&dialer, &host.handle, Protocol::Order, addresses.clone()).await;
    assert_eq!(tested, Err(SelfTestError::NoRoom));
    let (_, stream, _) = held.remove(0);
    drop(stream);
    host.has(2).await;
    let tested = reach(&dialer, &host.handle, Protocol::Order, addresses.clone()).await;
    assert_eq!(tested, Ok(()));
    // One that does not answer is another matter.
    host.handle.shutdown().await;
    let tested = reach(&dialer, &host.handle, Protocol::Order, addresses).await;
    assert!(
        matches!(tested, Err(SelfTestError::Failed(_))),
        "{tested:?}"
    );
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off_and_holds_no_memory() {
    let host = Host::new(67).await;
    let (mut held, _running) = raw_streams(&host.handle, Protocol::Order, 1).await;
    let frame = [&(1u32 << 20).to_be_bytes()[..], &vec![7; 1 << 20]].concat();
    // Each comes back, and is not read: the window fills, then the queue, and then it is over.
    let flood = async { while held[0].write_all(&frame).await.is_ok() {} };
    within(flood).await;
    host.has(0).await;
    host.serves().await;
}

#[tokio::test]
async fn unfinished_frames_of_audits_leave_room_for_orders() {
    let host = Host::new(68).await;
    let (mut held, _running) = raw_streams(&host.handle, Protocol::Audit, 12).await;
    let mut writes = Vec::new();
    for mut stream in held.drain(..) {
        // All but the last byte of the largest frame.
        let length = Protocol::Audit.frame_limit();
        writes.push(tokio::spawn(async move {
            let _ = stream.write_all(&(length as u32).to_be_bytes()).await;
            let _ = stream.write_all(&vec![1; length - 1]).await;
            let _ = stream.flush().await;
            stream
        }));
    }
    // Eight fit; the others wait with their bytes unread.
    within(async {
        while writes.iter().filter(|write| write.is_finished()).count() < 8 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (buyer, _events) = client().await;
    let mut stream = open(&buyer, &host.handle, Protocol::Order).await;
    let large = vec![5; Protocol::Order.frame_limit()];
    stream.send(&large).await.unwrap();
    assert_eq!(within(stream.next()).await, Ok(Some(large)));
    host.serves().await;
}

#[tokio::test]
async fn the_nodes_own_readers_give_back_every_slot_that_strangers_took() {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.bounds.inbound_streams = 16;
    let (host, mut events) = start(config, secret(69)).await;
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let shared = Shared::new(tokio::runtime::Handle::current(), storage);
    let streams = Streams::default();
    let open_streams = streams.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let NetworkEvent::Stream(stream) = event else {
                continue;
            };
            let (shared, streams) = (shared.clone(), streams.clone());
            match stream.protocol {
                Protocol::Audit => {
                    let first = validator::FIRST;
                    tokio::spawn(validator::accept(shared, streams, stream, first))
                }
                _ => tokio::spawn(inference::accept(shared, streams, stream)),
            };
        }
    });
    let has = async |count: usize| {
        within(async {
            while open_streams.len() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    for round in 0..25 {
        let (stranger, _events) = client().await;
        let protocol = [Protocol::Order, Protocol::Audit][round % 2];
        let mut held = Vec::new();
        for _ in 0..12 {
            held.push(open(&stranger, &host, protocol).await);
        }
        has(12).await;
        if round % 3 == 0 {
            for stream in &mut held {
                stream.finish().await.unwrap();
            }
        }
        drop(held);
        has(0).await;
        stranger.shutdown().await;
    }
    let (buyer, _events) = client().await;
    let _stream = open(&buyer, &host, Protocol::Order).await;
    has(1).await;
}

#[tokio::test]
async fn orders_are_taken_beside_as_many_audits_as_there_may_be() {
    let (host, mut events) = server(74, TCP).await;
    let mut strangers = Vec::new();
    let mut far = Vec::new();
    while far.len() < INBOUND_SIDE_STREAMS {
        let (stranger, running) = client().await;
        let mut held = Vec::new();
        while held.len() < OUTBOUND_STREAMS_PER_PEER && far.len() < INBOUND_SIDE_STREAMS {
            held.push(open(&stranger, &host, Protocol::Audit).await);
            far.push(inbound(&mut events).await);
        }
        strangers.push((stranger, running, held));
    }
    let (other, _events) = client().await;
    let mut excess = open(&other, &host, Protocol::Audit).await;
    let refused = event(&mut events, |event| match event {
        NetworkEvent::Excess(stream) => Some(stream),
        _ => None,
    });
    tokio::spawn(validator::turn_away(refused.await));
    let answer = within(excess.next()).await.unwrap().expect("a frame");
    let answer = codec::decode(&answer, MAX_AUDIT_FRAME_BYTES).unwrap();
    let AuditFrame::Refusal(refusal) = answer else {
        panic!("not a refusal");
    };
    assert_eq!(refusal.code, Code::Busy);
    let mut order = open(&other, &host, Protocol::Order).await;
    order.send(b"an order").await.unwrap();
    let mut served = inbound(&mut events).await;
    assert_eq!(within(served.next()).await, Ok(Some(b"an order".to_vec())));
}

#[tokio::test]
async fn an_audit_stream_on_which_nothing_is_said_ends_long_before_a_slow_bundle() {
    let (host, mut events) = server(75, TCP).await;
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let shared = Shared::new(tokio::runtime::Handle::current(), storage);
    let streams = Streams::default();
    let (mut held, _running) = raw_streams(&host, Protocol::Audit, 2).await;
    // One has begun: what it sends takes its time.
    held[1].write_all(&[0, 0, 1]).await.unwrap();
    held[1].flush().await.unwrap();
    let mut accepts = Vec::new();
    for _ in 0..2 {
        let stream = inbound(&mut events).await;
        let first = Duration::from_millis(500);
        let accept = validator::accept(shared.clone(), streams.clone(), stream, first);
        accepts.push(tokio::spawn(accept));
    }
    let ended = |accept: &&tokio::task::JoinHandle<()>| accept.is_finished();
    within(async {
        while accepts.iter().filter(ended).count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(streams.len(), 1);
    held[1].close().await.unwrap();
    for accept in accepts {
        within(accept).await.unwrap();
    }
    assert!(streams.is_empty());
}

#[tokio::test]
async fn addresses_of_private_networks_are_not_dialled_on_anothers_word() {
    let host = Host::new(70).await;
    let numeric = host.handle.local_addresses();
    let named = numeric[0]
        .to_string()
        .replace("/ip4/127.0.0.1", "/dns4/localhost");
    let named: Vec<Multiaddr> = vec![named.parse().unwrap()];
    let (buyer, _events) = start(Config::client("signet"), Identity::ephemeral()).await;
    for addresses in [numeric.clone(), named] {
        let error = buyer
            .open(Protocol::Order, addresses, PATIENCE)
            .await
            .unwrap_err();
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    }
    // The operator's own word is another matter.
    let mut config = Config::client("signet");
    config.bootstrap = numeric.clone();
    let (buyer, _events) = start(config, Identity::ephemeral()).await;
    let opened = buyer.open(Protocol::Order, numeric, PATIENCE).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn streams_that_are_opened_apart_come_from_peers_never_seen_before() {
    let (host, mut events) = server(71, TCP).await;
    let config = Config::client("regtest");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let to = host.local_addresses();
        let opened = open_apart(&config, Protocol::Order, to, PATIENCE).await;
        let ApartStream { mut stream, swarm } = opened.unwrap();
        stream.send(b"order").await.unwrap();
        let far = inbound(&mut events).await;
        assert!(far.node.is_none() && seen.insert(far.peer));
        swarm.shutdown().await;
    }
}
