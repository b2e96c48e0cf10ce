//! Peers that break rules: the node reports them, resets, and serves the others.

use super::*;
use actors::ports::network::bounds::{
    NEGOTIATING_STREAMS, QUIC_CONNECTION_WINDOW, QUIC_STREAM_WINDOW, WAITING_STREAMS,
};
use actors::ports::network::{FrameError, Misbehaviour, NodeKey};
use futures::future::Either;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts as DialOptions, PortUse, Transport as _};
use libp2p::core::upgrade::{OutboundConnectionUpgrade as _, Version};
use libp2p::swarm::{Swarm, SwarmEvent, dial_opts::DialOpts};
use libp2p::{PeerId, StreamProtocol, identity, noise, quic, tcp, yamux};
use libp2p_stream as raw;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// A peer that speaks libp2p but no frames: raw streams to `host`.
pub async fn raw_streams(
    host: &NetworkHandle,
    protocol: Protocol,
    count: usize,
) -> (Vec<libp2p::Stream>, tokio::task::JoinHandle<()>) {
    let key = identity::Keypair::generate_ed25519();
    let tcp = tcp::tokio::Transport::default()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default());
    let transport = quic::tokio::Transport::new(quic::Config::new(&key))
        .or_transport(tcp)
        .map(|either, _| match either {
            Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        })
        .boxed();
    let settings = libp2p::swarm::Config::with_tokio_executor();
    let me = key.public().to_peer_id();
    let mut swarm = Swarm::new(transport, raw::Behaviour::new(), me, settings);
    let mut control = swarm.behaviour().new_control();
    let dial = DialOpts::peer_id(host.peer_id())
        .addresses(host.local_addresses())
        .build();
    swarm.dial(dial).unwrap();
    within(async {
        while !matches!(
            futures::StreamExt::select_next_some(&mut swarm).await,
            SwarmEvent::ConnectionEstablished { .. }
        ) {}
    })
    .await;
    let running = tokio::spawn(async move {
        loop {
            futures::StreamExt::select_next_some(&mut swarm).await;
        }
    });
    let mut streams = Vec::new();
    for _ in 0..count {
        let name = StreamProtocol::new(protocol.name());
        let stream = within(control.open_stream(host.peer_id(), name))
            .await
            .unwrap();
        streams.push(stream);
    }
    (streams, running)
}

/// A connection to `host` from an address of this machine and an identity of its own, on which
/// nothing is said.
pub async fn connection_from(
    address: [u8; 4],
    host: &NetworkHandle,
) -> noise::Output<tcp::tokio::TcpStream> {
    let text = host.local_addresses().remove(0).to_string();
    let port = text.split('/').nth(4).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let to = format!("127.0.0.1:{port}").parse().unwrap();
    let socket = tcp::tokio::TcpStream(within(socket.connect(to)).await.unwrap());
    let key = identity::Keypair::generate_ed25519();
    let mut secure = handshake(socket, &key).await;
    let asked = [line("/multistream/1.0.0"), line("/yamux/1.0.0")].concat();
    secure.write_all(&asked).await.unwrap();
    secure.flush().await.unwrap();
    let mut agreed = vec![0; asked.len()];
    within(secure.read_exact(&mut agreed)).await.unwrap();
    assert_eq!(agreed, asked);
    secure
}

/// Agrees on noise and proves `key`.
async fn handshake(
    mut socket: tcp::tokio::TcpStream,
    key: &identity::Keypair,
) -> noise::Output<tcp::tokio::TcpStream> {
    let asked = [line("/multistream/1.0.0"), line("/noise")].concat();
    socket.write_all(&asked).await.unwrap();
    let mut agreed = vec![0; asked.len()];
    within(socket.read_exact(&mut agreed)).await.unwrap();
    assert_eq!(agreed, asked);
    let noise = noise::Config::new(key).unwrap();
    let (_, secure) = within(noise.upgrade_outbound(socket, "/noise"))
        .await
        .unwrap();
    secure
}

async fn misbehaviour(events: &mut Events) -> (PeerId, Option<NodeKey>, Misbehaviour) {
    event(events, |event| match event {
        NetworkEvent::Misbehaved { peer, node, kind } => Some((peer, node, kind)),
        _ => None,
    })
    .await
}

async fn still_serves(host: &NetworkHandle, events: &mut Events) {
    let (buyer, _buyer_events) = client().await;
    let mut near = open(&buyer, host, Protocol::Order).await;
    near.send(b"still there?").await.unwrap();
    let mut far = loop {
        let stream = inbound(events).await;
        if stream.peer == buyer.peer_id() {
            break stream;
        }
    };
    assert_eq!(within(far.next()).await, Ok(Some(b"still there?".to_vec())));
}

#[tokio::test]
async fn an_oversized_frame_is_refused_reported_and_reset() {
    let (host, mut events) = server(20, TCP).await;
    let (mut streams, _running) = raw_streams(&host, Protocol::Order, 1).await;
    let length = Protocol::Order.frame_limit() + 1;
    streams[0]
        .write_all(&(length as u32).to_be_bytes())
        .await
        .unwrap();
    streams[0].flush().await.unwrap();
    let mut far = inbound(&mut events).await;
    let error = within(far.next()).await.unwrap_err();
    assert!(matches!(error, FrameError::Oversized { .. }), "{error}");
    let (peer, _, kind) = misbehaviour(&mut events).await;
    assert_eq!(peer, far.peer);
    assert!(matches!(kind, Misbehaviour::OversizedFrame { length: l, .. } if l == length));
    // The offender sees the end of its stream at once.
    let mut rest = Vec::new();
    let read = within(streams[0].read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty());
    still_serves(&host, &mut events).await;
}

#[tokio::test]
async fn a_truncated_frame_is_told_from_an_end() {
    let (host, mut events) = server(21, TCP).await;
    let (mut streams, _running) = raw_streams(&host, Protocol::Order, 1).await;
    streams[0].write_all(&[0, 0, 0, 10, 1, 2, 3]).await.unwrap();
    streams[0].close().await.unwrap();
    let mut far = inbound(&mut events).await;
    let error = within(far.next()).await.unwrap_err();
    assert_eq!(
        error,
        FrameError::Truncated {
            received: 3,
            expected: 10
        }
    );
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_freed_slots_serve_again() {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.bounds.inbound_streams_per_peer = 2;
    let (host, mut events) = start(config, secret(22)).await;
    let (buyer, _buyer_events) = client().await;
    let mut near = Vec::new();
    let mut far = Vec::new();
    for _ in 0..2 {
        near.push(open(&buyer, &host, Protocol::Order).await);
        far.push(inbound(&mut events).await);
    }
    let mut third = open(&buyer, &host, Protocol::Order).await;
    // It may be told so; dropping it resets it.
    let (mut excess, mut offence) = (None, None);
    while excess.is_none() || offence.is_none() {
        match within(events.recv()).await.unwrap() {
            NetworkEvent::Excess(stream) => excess = Some(stream),
            NetworkEvent::Misbehaved { peer, node, kind } => offence = Some((peer, node, kind)),
            _ => {}
        }
    }
    drop(excess);
    assert!(matches!(
        within(third.next()).await,
        Err(FrameError::Lost { .. })
    ));
    let kind = Misbehaviour::TooManyStreams { open: 2 };
    assert_eq!(offence, Some((buyer.peer_id(), None, kind)));
    // Others are not affected, and a slot that was given back is good again.
    still_serves(&host, &mut events).await;
    far.pop();
    let mut again = open(&buyer, &host, Protocol::Order).await;
    again.send(b"again").await.unwrap();
    let mut served = inbound(&mut events).await;
    assert_eq!(within(served.next()).await, Ok(Some(b"again".to_vec())));
}

#[tokio::test]
async fn a_silent_stream_is_ended_by_the_idle_limit_and_a_drip_by_the_frame_limit() {
    let mut config = Config::serving("regtest", vec![TCP.parse().unwrap()]);
    config.timing.idle = Some(Duration::from_millis(200));
    config.timing.frame = Duration::from_millis(300);
    let (host, mut events) = start(config, secret(23)).await;
    let (mut streams, _running) = raw_streams(&host, Protocol::Order, 2).await;
    streams[1].write_all(&[0, 0]).await.unwrap();
    streams[1].flush().await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..2 {
        errors.push(within(inbound(&mut events).await.next()).await.unwrap_err());
    }
    let idle = |error: &FrameError| matches!(error, FrameError::Idle { .. });
    let slow = |error: &FrameError| matches!(error, FrameError::SlowFrame { .. });
    assert!(
        errors.iter().any(idle) && errors.iter().any(slow),
        "{errors:?}"
    );
    let (_, _, kind) = misbehaviour(&mut events).await;
    assert_eq!(
        kind,
        Misbehaviour::SlowFrame {
            protocol: Protocol::Order
        }
    );
}

#[tokio::test]
async fn garbage_on_the_sockets_does_no_harm() {
    let listen = vec![TCP.parse().unwrap(), QUIC.parse().unwrap()];
    let (host, mut events) = start(Config::serving("regtest", listen), secret(24)).await;
    let mut sent = 0;
    for address in host.local_addresses() {
        let text = address.to_string();
        let port: u16 = text.split('/').nth(4).unwrap().parse().unwrap();
        if text.contains("/tcp/") {
            for junk in [&[0xff; 4096][..], b"GET / HTTP/1.1\r\n\r\n", b""] {
                let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .unwrap();
                let _ = socket.write_all(junk).await;
                let _ = socket.shutdown().await;
                let mut answer = Vec::new();
                // Closed by the other side, whatever it says before.
                let _ = within(socket.read_to_end(&mut answer)).await;
                sent += 1;
            }
        } else {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for byte in 0..50u8 {
                socket
                    .send_to(&[byte; 1200], ("127.0.0.1", port))
                    .await
                    .unwrap();
            }
        }
    }
    let mut status = host.status();
    within(status.wait_for(|status| status.failed_inbound >= sent))
        .await
        .unwrap();
    still_serves(&host, &mut events).await;
}

/// One line of the protocol negotiation (multistream-select): its length and itself.
fn line(text: &str) -> Vec<u8> {
    let mut line = vec![text.len() as u8 + 1];
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
}

#[tokio::test]
async fn garbage_after_the_handshake_is_reported_with_the_peers_id() {
    let (host, mut events) = server(25, TCP).await;
    let key = identity::Keypair::generate_ed25519();
    let options = DialOptions {
        role: libp2p::core::Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let mut transport = tcp::tokio::Transport::default();
    let address = host.local_addresses().remove(0);
    let socket = within(transport.dial(address, options).unwrap())
        .await
        .unwrap();
    let mut secure = handshake(socket, &key).await;
    let asked = [line("/multistream/1.0.0"), line("/yamux/1.0.0")].concat();
    secure.write_all(&asked).await.unwrap();
    secure.write_all(&[0xff; 64]).await.unwrap();
    secure.flush().await.unwrap();
    let (peer, _, kind) = misbehaviour(&mut events).await;
    assert_eq!(peer, key.public().to_peer_id());
    assert!(matches!(kind, Misbehaviour::Garbage { .. }), "{kind:?}");
    still_serves(&host, &mut events).await;
}

/// What a peer gets rid of on four streams that are taken and not read: on each, and in all.
async fn sent_unread(listen: &str, number: u8) -> (usize, usize) {
    let (host, mut events) = server(number, listen).await;
    let (streams, running) = raw_streams(&host, Protocol::Order, 4).await;
    let mut taken = Vec::new();
    let mut sent = Vec::new();
    for mut stream in streams {
        let count = Arc::new(AtomicUsize::new(0));
        sent.push(count.clone());
        tokio::spawn(async move {
            while let Ok(written) = stream.write(&[1; 16 << 10]).await {
                let _ = stream.flush().now_or_never();
                count.fetch_add(written, Ordering::Relaxed);
            }
        });
        taken.push(inbound(&mut events).await);
    }
    let all = || sent.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    let mut before: usize = 0;
    within(async {
        // Until nothing more is taken for a while.
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if before > 0 && all() == before {
                break;
            }
            before = all();
        }
    })
    .await;
    let most = sent.iter().map(|count| count.load(Ordering::Relaxed)).max();
    running.abort();
    (most.unwrap(), before)
}

#[tokio::test]
async fn bytes_that_nobody_reads_are_a_window_a_stream_and_two_a_connection() {
    let slack = 64 << 10;
    let (stream, all) = sent_unread(QUIC, 26).await;
    assert!(stream <= QUIC_STREAM_WINDOW as usize + slack, "{stream}");
    assert!(all <= QUIC_CONNECTION_WINDOW as usize + slack, "{all}");
    assert!(all > QUIC_STREAM_WINDOW as usize, "{all}");
    let (stream, all) = sent_unread(TCP, 27).await;
    assert!(stream <= (256 << 10) + slack, "{stream}");
    assert!(all > 512 << 10, "{all}");
}

#[tokio::test]
async fn streams_beyond_those_that_begin_and_few_more_are_reset() {
    let (host, _events) = server(28, TCP).await;
    let socket = connection_from([127, 0, 0, 1], &host).await;
    let config = ::yamux::Config::default();
    let mut connection = ::yamux::Connection::new(socket, config, ::yamux::Mode::Client);
    let mut open = Vec::new();
    const MORE: usize = 20;
    for _ in 0..NEGOTIATING_STREAMS + WAITING_STREAMS + MORE {
        let stream = std::future::poll_fn(|cx| connection.poll_new_outbound(cx)).await;
        open.push(stream.unwrap());
    }
    tokio::spawn(async move {
        while std::future::poll_fn(|cx| connection.poll_next_inbound(cx))
            .await
            .is_some()
        {}
    });
    // None of them says which protocol it is.
    for stream in &mut open {
        within(stream.write_all(b"\x13/multi")).await.unwrap();
        // Those that come too late may be gone by now.
        let _ = within(stream.flush()).await;
    }
    let is_reset = |stream: &mut ::yamux::Stream| {
        let read = stream.read(&mut [0; 8]).now_or_never();
        !matches!(read, None | Some(Ok(1..)))
    };
    let mut reset = 0;
    within(async {
        while reset < MORE {
            tokio::task::yield_now().await;
            reset = open
                .iter_mut()
                .filter_map(|s| is_reset(s).then_some(()))
                .count();
        }
    })
    .await;
    assert_eq!(reset, MORE);
    // The first are those that are kept.
    let kept = open.len() - MORE;
    assert!(!open[..kept].iter_mut().any(is_reset));
}
