//! Frames over scripted streams: any cut of the bytes, and every way to go wrong.

use super::super::bounds::AUDIT_ASSEMBLY_BYTES;
use super::super::{Misbehaviour, NetworkEvent, Outlet};
use super::reader::{CHUNK, Part};
use super::*;
use futures::{AsyncRead, AsyncWrite};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

const IDLE: Duration = Duration::from_millis(60);
const FRAME: Duration = Duration::from_millis(70);
const WRITE: Duration = Duration::from_millis(80);

/// Reads the given pieces, then ends or stays silent; keeps what is written.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    silent_at_end: bool,
    takes: usize,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.silent_at_end {
                Poll::Pending
            } else {
                Poll::Ready(Ok(0))
            };
        };
        let count = piece.len().min(target.len());
        target[..count].copy_from_slice(&piece[..count]);
        let rest = piece.split_off(count);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.takes == 0 {
            return Poll::Pending;
        }
        let count = source.len().min(self.takes);
        self.takes -= count;
        self.written.lock().extend_from_slice(&source[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Events = (mpsc::Sender<NetworkEvent>, mpsc::Receiver<NetworkEvent>);

fn framed(script: Script, protocol: Protocol) -> (FramedStream, Events) {
    framed_in(&Registry::default(), script, protocol)
}

fn framed_in(registry: &Registry, script: Script, protocol: Protocol) -> (FramedStream, Events) {
    let (sender, receiver) = mpsc::channel(8);
    let outlet = Outlet {
        sender: sender.downgrade(),
        dropped: Arc::default(),
    };
    let reporter = Reporter {
        outlet,
        peer: PeerId::random(),
    };
    let timing = Timing {
        idle: Some(IDLE),
        frame: FRAME,
        write: WRITE,
        ..Timing::default()
    };
    let stream = FramedStream::new(
        Box::new(script),
        protocol,
        &timing,
        reporter,
        registry,
        None,
    );
    (stream, (sender, receiver))
}

fn wire_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for frame in frames {
        wire.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        wire.extend_from_slice(frame);
    }
    wire
}

fn reading(wire: &[u8]) -> Script {
    Script {
        pieces: [wire.to_vec()].into(),
        ..Script::default()
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn frames_arrive_whole_however_the_bytes_are_cut(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..8),
        cuts in prop::collection::vec(1usize..50, 0..80),
    ) {
        let mut rest = wire_of(&frames);
        rest.extend_from_slice(&[0; HEADER]);
        let mut pieces = VecDeque::new();
        for cut in cuts {
            let tail = rest.split_off(cut.min(rest.len()));
            pieces.push_back(std::mem::replace(&mut rest, tail));
        }
        pieces.push_back(rest);
        pieces.retain(|piece| !piece.is_empty());
        let read = run(async {
            let script = Script { pieces, ..Script::default() };
            let (mut stream, _events) = framed(script, Protocol::Order);
            let mut read = Vec::new();
            while let Some(frame) = stream.next().await.unwrap() {
                read.push(frame);
            }
            read
        });
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn no_bytes_from_a_peer_panic_or_exceed_the_limit(wire in prop::collection::vec(any::<u8>(), 0..300)) {
        run(async {
            let (mut stream, _events) = framed(reading(&wire), Protocol::Quote);
            while let Ok(Some(frame)) = stream.next().await {
                assert!(frame.len() <= Protocol::Quote.frame_limit());
            }
        });
    }

    #[test]
    fn what_is_written_is_what_is_read(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40_000), 0..5)) {
        let written = Arc::new(Mutex::new(Vec::new()));
        run(async {
            let script = Script { takes: usize::MAX, written: written.clone(), ..Script::default() };
            let (mut stream, _events) = framed(script, Protocol::Order);
            for frame in &frames {
                stream.send(frame).await.unwrap();
            }
            stream.finish().await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(stream.send(b"more").await, Err(FrameError::Finished));
        });
        let mut expected = wire_of(&frames);
        expected.extend_from_slice(&[0; HEADER]);
        prop_assert_eq!(&*written.lock(), &expected);
    }
}

#[test]
fn an_oversized_frame_is_an_error_an_offence_and_a_reset() {
    run(async {
        let length = Protocol::Order.frame_limit() + 1;
        let (mut stream, (_sender, mut events)) =
            framed(reading(&(length as u32).to_be_bytes()), Protocol::Order);
        let (protocol, limit) = (Protocol::Order, Protocol::Order.frame_limit());
        let expected = FrameError::Oversized {
            protocol,
            length,
            limit,
        };
        assert_eq!(stream.next().await, Err(expected));
        assert!(matches!(
            events.try_recv(),
            Ok(NetworkEvent::Misbehaved {
                kind: Misbehaviour::OversizedFrame { .. },
                ..
            })
        ));
        assert!(matches!(
            stream.send(b"x").await,
            Err(FrameError::Lost { .. })
        ));
        assert!(matches!(stream.next().await, Err(FrameError::Lost { .. })));
    });
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated_and_between_frames_is_lost() {
    run(async {
        let (mut stream, _events) = framed(reading(&[0, 0, 0, 9, 1, 2]), Protocol::Order);
        let truncated = FrameError::Truncated {
            received: 2,
            expected: 9,
        };
        assert_eq!(stream.next().await, Err(truncated));
        let (mut stream, _events) = framed(reading(&[0, 0]), Protocol::Order);
        let truncated = FrameError::Truncated {
            received: 2,
            expected: 4,
        };
        assert_eq!(stream.next().await, Err(truncated));
        let (mut stream, _events) = framed(reading(&[0, 0, 0, 1, 7]), Protocol::Order);
        assert_eq!(stream.next().await, Ok(Some(vec![7])));
        assert!(matches!(stream.next().await, Err(FrameError::Lost { .. })));
    });
}

#[test]
fn an_announced_length_costs_no_memory_before_bytes_arrive() {
    run(async {
        let limit = Protocol::Audit.frame_limit() as u32;
        let script = Script {
            silent_at_end: true,
            ..reading(&limit.to_be_bytes())
        };
        let (mut stream, _events) = framed(script, Protocol::Audit);
        assert!(matches!(
            stream.next().await,
            Err(FrameError::SlowFrame { .. })
        ));
        match &stream.reader.part {
            Part::Body { bytes, .. } => assert!(bytes.capacity() <= 2 * CHUNK),
            Part::Header { .. } => panic!("the header was read"),
        }
    });
}

#[test]
fn silence_ends_a_stream_after_the_idle_limit() {
    run(async {
        let script = Script {
            silent_at_end: true,
            ..Script::default()
        };
        let (mut stream, _events) = framed(script, Protocol::Order);
        let begun = Instant::now();
        let after = IDLE;
        assert_eq!(stream.next().await, Err(FrameError::Idle { after }));
        assert!(begun.elapsed() >= after);
    });
}

#[test]
fn a_peer_that_takes_nothing_ends_the_stream_after_the_write_limit() {
    run(async {
        let (mut stream, _events) = framed(
            Script {
                takes: 2,
                ..Script::default()
            },
            Protocol::Order,
        );
        let after = WRITE;
        assert_eq!(
            stream.send(b"frame").await,
            Err(FrameError::Stalled { after })
        );
    });
}

#[test]
fn an_abandoned_send_ends_the_stream_instead_of_corrupting_it() {
    run(async {
        let (mut stream, _events) = framed(
            Script {
                takes: 2,
                ..Script::default()
            },
            Protocol::Order,
        );
        let cut = tokio::time::timeout(Duration::from_millis(20), stream.send(b"frame")).await;
        assert!(cut.is_err());
        assert_eq!(stream.send(b"next").await, Err(FrameError::Abandoned));
    });
}

#[test]
fn a_frame_of_ones_own_that_is_too_large_or_empty_is_refused_and_the_stream_lives() {
    run(async {
        let script = Script {
            takes: usize::MAX,
            ..Script::default()
        };
        let (mut stream, _events) = framed(script, Protocol::Quote);
        let frame = vec![0; Protocol::Quote.frame_limit() + 1];
        assert!(matches!(
            stream.send(&frame).await,
            Err(FrameError::TooLarge { .. })
        ));
        assert_eq!(stream.send(&[]).await, Err(FrameError::Empty));
        assert_eq!(stream.send(&frame[1..]).await, Ok(()));
    });
}

#[test]
fn reading_can_be_cancelled_without_losing_bytes() {
    run(async {
        let script = Script {
            silent_at_end: true,
            ..reading(&[0, 0, 0, 2, 8])
        };
        let (stream, _events) = framed(script, Protocol::Order);
        let (mut reader, _writer) = stream.split();
        assert!(
            tokio::time::timeout(Duration::from_millis(20), reader.next())
                .await
                .is_err()
        );
        assert_eq!(reader.progress(), (1, 2));
    });
}

#[test]
fn closing_the_registry_ends_the_streams_alive_and_those_to_come() {
    run(async {
        let registry = Registry::default();
        let (sender, _receiver) = mpsc::channel(1);
        let outlet = Outlet {
            sender: sender.downgrade(),
            dropped: Arc::default(),
        };
        let make = || {
            let peer = PeerId::random();
            let outlet = outlet.clone();
            let reporter = Reporter { outlet, peer };
            let script = Box::new(Script {
                silent_at_end: true,
                ..Script::default()
            });
            let timing = Timing::default();
            FramedStream::new(script, Protocol::Order, &timing, reporter, &registry, None)
        };
        for _ in 0..100 {
            drop(make());
        }
        assert!(registry.0.lock().wires.len() < 10);
        let mut alive = make();
        let waiting = alive.next();
        let closing = async { registry.close() };
        let (outcome, ()) = tokio::join!(waiting, closing);
        assert!(matches!(outcome, Err(FrameError::Lost { .. })));
        assert!(matches!(
            make().send(b"x").await,
            Err(FrameError::Lost { .. })
        ));
    });
}

/// The first chunk and a byte more of the largest frame of `protocol`, and then silence.
fn begun(protocol: Protocol) -> Script {
    let mut wire = (protocol.frame_limit() as u32).to_be_bytes().to_vec();
    wire.resize(HEADER + CHUNK + 1, 7);
    Script {
        silent_at_end: true,
        ..reading(&wire)
    }
}

#[test]
fn unfinished_frames_share_a_bounded_memory_and_waiting_for_it_is_no_offence() {
    run(async {
        let registry = Registry::default();
        let room = registry.room(Protocol::Audit);
        let all = room.available_permits();
        assert_eq!(all * CHUNK, AUDIT_ASSEMBLY_BYTES);
        // One of the largest takes an eighth, all but its first chunk.
        let (mut stream, _events) = framed_in(&registry, begun(Protocol::Audit), Protocol::Audit);
        {
            let reading = stream.next();
            tokio::pin!(reading);
            assert!(futures::poll!(&mut reading).is_pending());
            assert_eq!(room.available_permits(), all - all / 8 + 1);
            let error = reading.await;
            assert!(matches!(error, Err(FrameError::SlowFrame { .. })));
        }
        assert_eq!(room.available_permits(), all);
        // Where nothing is left, the next is cut off when it is overdue, and nobody is blamed.
        let taken = room.clone().acquire_many_owned(all as u32).await.unwrap();
        let (mut stream, (_sender, mut events)) =
            framed_in(&registry, begun(Protocol::Audit), Protocol::Audit);
        let error = stream.next().await;
        assert!(matches!(error, Err(FrameError::Crowded { .. })));
        assert!(events.try_recv().is_err());
        // Other protocols have their own, short frames need none, and what was taken comes back.
        for (protocol, length) in [(Protocol::Order, 1 << 20), (Protocol::Audit, CHUNK)] {
            let whole = wire_of(&[vec![5; length]]);
            let (mut stream, _events) = framed_in(&registry, reading(&whole), protocol);
            assert!(stream.next().await.is_ok_and(|frame| frame.is_some()));
        }
        drop(taken);
        let whole = wire_of(&[vec![5; Protocol::Audit.frame_limit()]]);
        let (mut stream, _events) = framed_in(&registry, reading(&whole), Protocol::Audit);
        assert!(stream.next().await.is_ok_and(|frame| frame.is_some()));
    });
}

#[test]
fn a_writer_that_waits_learns_of_a_reset_by_the_reader() {
    run(async {
        let wire = [0xff; HEADER];
        let (stream, _events) = framed(reading(&wire), Protocol::Order);
        let (mut reader, mut writer) = stream.split();
        let (read, ()) = tokio::join!(reader.next(), writer.broken());
        assert!(matches!(read, Err(FrameError::Oversized { .. })));
    });
}
