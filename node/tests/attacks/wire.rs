//! Connections, streams, frames and gossip.

use super::fitness::Range;
use super::stranger::{AUDIT, ORDER, Stranger, Target, send};
use super::{alone, free, long};
use anyhow::{Context, Result, ensure};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use protocol::codec;
use protocol::ids::Digest;
use protocol::wire::order::Frame;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Largest frame of an order stream, and of an audit stream.
const ORDER_FRAME: usize = 1 << 20;
const AUDIT_FRAME: usize = 8 << 20;
/// How long a flood waits for a stream that takes nothing.
pub const IMPATIENCE: Duration = Duration::from_millis(100);
/// The stream protocol of gossip.
const GOSSIP: &str = "/freehold/regtest/gossip/1.1.0";

/// One of several addresses of the attacker's.
pub fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, (number % 250) as u8 + 2)
}

/// So many strangers, from an address each.
async fn crowd(target: &Target, count: usize) -> Result<Vec<Stranger>> {
    let mut crowd = Vec::new();
    for number in 0..count {
        crowd.push(Stranger::from(address(number), target).await?);
    }
    Ok(crowd)
}

/// Three hundred and more streams, each dropped: untouched, behind a frame that is none, or in
/// the middle of one.
async fn opened_and_dropped(target: Target) -> Result<String> {
    let mut opened = 0;
    for stranger in &mut crowd(&target, 25).await? {
        for number in 0..24 {
            let protocol = [ORDER, AUDIT][number % 2];
            let mut stream = stranger.open(protocol).await?;
            match number % 3 {
                0 => {}
                1 => send(&mut stream, &[0xff; 9]).await?,
                _ => stream.write_all(&[0, 0, 1]).await?,
            }
            opened += 1;
        }
    }
    Ok(format!("{opened} streams opened and dropped"))
}

/// Every stream that the host takes is held by somebody who says nothing, and an honest order comes.
async fn held(target: Target, range: &Range) -> Result<String> {
    let mut crowd = crowd(&target, 24).await?;
    let mut held = Vec::new();
    for stranger in &mut crowd {
        for number in 0..16 {
            // Beyond the host's bounds some are turned away.
            let protocol = [ORDER, ORDER, AUDIT][number % 3];
            held.extend(stranger.open(protocol).await.ok());
        }
    }
    let served = range.serves_meanwhile().await?;
    tokio::time::sleep(long()).await;
    ensure!(held.len() >= 256, "only {} streams were held", held.len());
    Ok(format!("{} silent streams held, {served}", held.len()))
}

/// Frames of which the last byte is missing, over TCP.
async fn half_written(target: Target) -> Result<String> {
    begin_frames(crowd(&target, 16).await?).await
}

/// The same over QUIC.
async fn half_written_over_quic(target: Target) -> Result<String> {
    let mut crowd = Vec::new();
    for number in 0..16 {
        crowd.push(Stranger::over_quic(address(number), &target).await?);
    }
    begin_frames(crowd).await
}

/// Writes all but the last byte of the largest frame to as many streams as there are.
async fn begin_frames(mut crowd: Vec<Stranger>) -> Result<String> {
    let until = Instant::now() + long();
    let mut writers = JoinSet::new();
    for stranger in &mut crowd {
        for number in 0..12 {
            let (protocol, length) = [(ORDER, ORDER_FRAME), (AUDIT, AUDIT_FRAME)][number % 2];
            let Ok(mut stream) = stranger.open(protocol).await else {
                continue;
            };
            writers.spawn(async move {
                let written = async {
                    stream.write_all(&(length as u32).to_be_bytes()).await?;
                    let piece = vec![1; 64 << 10];
                    for _ in 0..length / piece.len() - 1 {
                        stream.write_all(&piece).await?;
                    }
                    stream.flush().await?;
                    std::future::pending::<std::io::Result<()>>().await
                };
                let _ = tokio::time::timeout_at(until.into(), written).await;
            });
        }
    }
    let streams = writers.len();
    ensure!(streams > 64, "only {streams} streams were opened");
    while writers.join_next().await.is_some() {}
    Ok(format!("{streams} streams with unfinished frames"))
}

/// Announces the largest frames and sends nothing of them.
async fn announced(target: Target) -> Result<String> {
    let mut crowd = crowd(&target, 16).await?;
    let mut held = Vec::new();
    for stranger in &mut crowd {
        for _ in 0..16 {
            let Ok(mut stream) = stranger.open(AUDIT).await else {
                continue;
            };
            stream
                .write_all(&(AUDIT_FRAME as u32).to_be_bytes())
                .await?;
            stream.flush().await?;
            held.push(stream);
        }
    }
    tokio::time::sleep(long()).await;
    Ok(format!("{} frames of 8 MiB announced", held.len()))
}

/// Frames without end, well-formed and not, whose answers nobody reads.
async fn flooded(target: Target) -> Result<String> {
    let until = Instant::now() + long();
    let sent = Arc::new(AtomicU64::new(0));
    let mut floods = JoinSet::new();
    for number in 0..8 {
        let (target, sent) = (target.clone(), sent.clone());
        let flood = async move {
            loop {
                // Whoever is cut off comes back.
                let _ =
                    flood_from(address(number), &target, [ORDER, AUDIT][number % 2], &sent).await;
            }
        };
        floods.spawn(async move {
            let _: Result<(), _> = tokio::time::timeout_at(until.into(), flood).await;
        });
    }
    while floods.join_next().await.is_some() {}
    let sent = sent.load(Relaxed);
    ensure!(sent > 100, "only {sent} frames were sent");
    Ok(format!("{sent} frames sent"))
}

async fn flood_from(
    from: Ipv4Addr,
    target: &Target,
    protocol: &'static str,
    sent: &AtomicU64,
) -> Result<()> {
    let frames = [
        codec::encode(&Frame::Cancel),
        codec::encode(&Frame::Accept(Digest([7; 32]))),
        vec![0xff; 300],
        vec![0; 60 << 10],
    ];
    let mut stranger = Stranger::from(from, target).await?;
    loop {
        let mut stream = stranger.open(protocol).await?;
        for frame in frames.iter().cycle().take(64) {
            // What the host does not take any more is no reason to stay.
            let sending = tokio::time::timeout(IMPATIENCE, send(&mut stream, frame)).await;
            if !matches!(sending, Ok(Ok(()))) {
                break;
            }
            sent.fetch_add(1, Relaxed);
        }
    }
}

/// Three hundred connections from one address that say nothing, and as many as the host lets in
/// that proved a key; and an honest order comes.
async fn connected(target: Target, range: &Range) -> Result<String> {
    let one = Ipv4Addr::new(127, 0, 2, 2);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, target.port));
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((one, 0)))?;
        silent.push(socket.connect(to).await?);
    }
    let other = Ipv4Addr::new(127, 0, 2, 3);
    let mut proved = Vec::new();
    for _ in 0..300 {
        let Ok(mut stranger) = Stranger::from(other, &target).await else {
            continue;
        };
        if stranger.open(ORDER).await.is_ok() {
            proved.push(stranger);
        }
    }
    let served = range.serves_meanwhile().await?;
    tokio::time::sleep(long()).await;
    ensure!(
        (1..=64).contains(&proved.len()),
        "{} connections of one address were taken",
        proved.len()
    );
    Ok(format!(
        "300 silent connections, {} of 300 with a key, {served}",
        proved.len()
    ))
}

/// An unsigned number as gossip writes it: seven bits a byte, the last without the high bit.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of a gossip message: its number and what it holds.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], varint(value.len()).as_slice(), value].concat()
}

/// A gossip frame that says that a topic is followed.
fn follows(topic: &str) -> Vec<u8> {
    let subscription = [vec![1 << 3, 1], field(2, topic.as_bytes())].concat();
    let rpc = field(1, &subscription);
    [varint(rpc.len()), rpc].concat()
}

/// Reads a gossip frame, its length included.
async fn gossip_frame(stream: &mut libp2p::Stream) -> Result<Vec<u8>> {
    let (mut head, mut length, mut shift) = (Vec::new(), 0usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        head.push(byte[0]);
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
        ensure!(shift < 28, "a gossip frame without end");
    }
    ensure!(length <= 1 << 20, "a gossip frame of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok([head, body].concat())
}

/// Records what the host publishes on the topic of its model, the pulses.
async fn eavesdrop(range: &Range) -> Result<Vec<u8>> {
    let target = &range.target;
    let topic = format!("/freehold/regtest/pulse/{}", target.model);
    let (mut spy, mut incoming) = Stranger::taking(GOSSIP, address(200), target).await?;
    let mut said = spy.open(GOSSIP).await?;
    said.write_all(&follows(&topic)).await?;
    said.flush().await?;
    let (_, mut heard) = incoming.next().await.context("the host speaks no gossip")?;
    let listening = async {
        loop {
            let frame = gossip_frame(&mut heard).await?;
            // A published message is field 2; subscriptions are field 1.
            let start = frame.iter().position(|byte| byte & 0x80 == 0).unwrap_or(0) + 1;
            if frame.get(start) == Some(&(2 << 3 | 2)) {
                return anyhow::Ok(frame);
            }
        }
    };
    // A host that becomes busy or idle says so, once a minute at most.
    let trading = async {
        loop {
            range.buy().await?;
        }
    };
    tokio::select! {
        frame = listening => frame,
        error = trading => error,
        () = tokio::time::sleep(super::fitness::BOUND * 2) => {
            anyhow::bail!("the host published nothing")
        }
    }
}

/// Publishes a host's own message again and again, and what is none, from several peers.
async fn replayed(target: Target, pulse: Vec<u8>) -> Result<String> {
    let mut altered = pulse.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    let junk = [varint(4_000), vec![0xee; 4_000]].concat();
    let mut sent = 0;
    let mut crowd = Vec::new();
    for number in 0..8 {
        // The host gives up on neighbours that take no gossip.
        crowd.push(Stranger::taking(GOSSIP, address(number), &target).await?);
    }
    let until = Instant::now() + long();
    while Instant::now() < until {
        for (stranger, _incoming) in &mut crowd {
            let Ok(mut stream) = stranger.open(GOSSIP).await else {
                continue;
            };
            for frame in [&pulse, &altered, &pulse, &junk] {
                for _ in 0..50 {
                    if stream.write_all(frame).await.is_err() {
                        break;
                    }
                    sent += 1;
                }
            }
            let _ = stream.flush().await;
        }
    }
    ensure!(sent > 1_000, "only {sent} messages were sent");
    Ok(format!(
        "{sent} messages of gossip, half of them the host's own"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_after_floods_of_connections_streams_frames_and_gossip() -> Result<()> {
    let _alone = alone().await;
    let range = Range::start().await?;
    range
        .survives("streams dropped", opened_and_dropped)
        .await?;
    let holding = |target| held(target, &range);
    range.survives("streams held", holding).await?;
    range.survives("frames half written", half_written).await?;
    let quic = half_written_over_quic;
    range.survives("frames half written, QUIC", quic).await?;
    range.survives("frames announced", announced).await?;
    range.survives("frames flooded", flooded).await?;
    let connecting = |target| connected(target, &range);
    range.survives("connections", connecting).await?;
    range.survives("files asked for", free::transfers).await?;
    let evidence = range.evidence().await?;
    let asking = |target| free::audits(target, evidence);
    range.survives("audits asked for", asking).await?;
    let pulse = eavesdrop(&range).await?;
    let replaying = |target| replayed(target, pulse);
    range.survives("gossip replayed", replaying).await?;
    range.end().await
}
