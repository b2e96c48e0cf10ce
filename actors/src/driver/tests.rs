//! The driver around a toy machine: order, joined writes, waiting, and an end by accident.

use super::*;
use crate::clock::SystemClock;
use parking_lot::Mutex;
use protocol::machine::{Machine, Secrets, Table};
use protocol::time::{Now, Tick};
use std::sync::Arc;

/// What the toy is told.
enum Say {
    /// Do these, in order.
    Effects(Vec<Do>),
    Panic,
}

/// What it does.
#[derive(Debug, Clone, PartialEq)]
enum Do {
    Write(Vec<u8>),
    Note(u8),
}

/// Writes its keys at its recovery.
struct Toy {
    recovered: bool,
}

impl Machine for Toy {
    type Input = Say;
    type Effect = Do;
    type Config = ();

    const TABLES: &'static [Table] = &[];

    fn recover((): (), _: Secrets, _: impl Iterator<Item = Record>, _: Now) -> Self {
        Toy { recovered: false }
    }

    fn handle(&mut self, _: Now, input: Say, out: &mut Outbox<Do>) {
        match input {
            Say::Effects(effects) => effects.into_iter().for_each(|effect| out.push(effect)),
            Say::Panic => panic!("planted"),
        }
    }

    fn expire(&mut self, _: Now, out: &mut Outbox<Do>) {
        if !std::mem::replace(&mut self.recovered, true) {
            out.push(Do::Note(0));
        }
    }

    fn deadline(&self) -> Option<Tick> {
        None
    }
}

/// What became of it all.
#[derive(Default)]
struct Seen {
    done: Mutex<Vec<Do>>,
    fatal: Mutex<Option<Fatal>>,
    /// Writes wait for it.
    disk: Notify,
    room: Room,
}

struct ToyPorts(Arc<Seen>);

impl Ports<Toy> for ToyPorts {
    fn perform(&mut self, effect: Do) -> Performed {
        let write = matches!(effect, Do::Write(_));
        self.0.done.lock().push(effect);
        if !write {
            return Performed::Done;
        }
        let seen = self.0.clone();
        Performed::Wait(Box::pin(async move {
            seen.disk.notified().await;
            Ok(())
        }))
    }

    fn fatal(&mut self, fatal: Fatal) {
        *self.0.fatal.lock() = Some(fatal);
    }

    fn join(earlier: &mut Do, next: Do) -> Option<Do> {
        match (earlier, next) {
            (Do::Write(earlier), Do::Write(later)) => {
                earlier.extend(later);
                None
            }
            (_, next) => Some(next),
        }
    }

    fn room(&self) -> Option<&Room> {
        Some(&self.0.room)
    }
}

/// Runs `test` in an actix system beside a toy.
fn with<F: Future<Output = ()>>(
    test: impl FnOnce(actix::Addr<Driver<Toy, ToyPorts>>, Arc<Seen>) -> F,
) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let ports = ToyPorts(seen.clone());
    actix::System::new().block_on(async {
        let toy = Toy { recovered: false };
        let actor = Driver::new(toy, ports, SystemClock::start()).start();
        test(actor, seen.clone()).await;
    });
    seen
}

async fn flush(actor: &actix::Addr<Driver<Toy, ToyPorts>>) {
    let (done, flushed) = oneshot::channel();
    actor.send(Flush(done)).await.unwrap();
    flushed.await.unwrap();
}

#[test]
fn what_comes_before_the_beginning_waits_for_it() {
    let seen = with(|actor, seen| async move {
        let early = Deliver::new(Say::Effects(vec![Do::Note(1)]));
        actor.send(early).await.unwrap();
        assert!(seen.done.lock().is_empty());
        actor.send(Begin).await.unwrap();
        actor.send(Begin).await.unwrap();
        let recovered = actor.send(Look(|toy: &Toy| toy.recovered)).await;
        assert_eq!(recovered, Ok(true));
        actor.send(Halt).await.unwrap();
    });
    assert_eq!(*seen.done.lock(), [Do::Note(0), Do::Note(1)]);
    assert!(seen.fatal.lock().is_none());
}

#[test]
fn neighbouring_writes_are_one_and_what_is_behind_waits_for_it() {
    let seen = with(|actor, seen| async move {
        actor.send(Begin).await.unwrap();
        let effects = [1, 2, 3].map(|key| Do::Write(vec![key]));
        let effects = [&effects[..], &[Do::Note(4), Do::Write(vec![5])]].concat();
        actor
            .send(Deliver::new(Say::Effects(effects)))
            .await
            .unwrap();
        let later = Deliver::new(Say::Effects(vec![Do::Write(vec![6]), Do::Note(7)]));
        actor.send(later).await.unwrap();
        assert_eq!(*seen.done.lock(), [Do::Note(0), Do::Write(vec![1, 2, 3])]);
        seen.disk.notify_one();
        seen.disk.notify_one();
        let disk = seen.clone();
        let flushed = async {
            flush(&actor).await;
        };
        // The second write ends only once it has begun.
        let disk = async move {
            while disk.done.lock().len() < 4 {
                tokio::task::yield_now().await;
            }
            disk.disk.notify_one();
        };
        tokio::join!(flushed, disk);
        actor.send(Halt).await.unwrap();
    });
    let expected = [
        Do::Note(0),
        Do::Write(vec![1, 2, 3]),
        Do::Note(4),
        Do::Write(vec![5, 6]),
        Do::Note(7),
    ];
    assert_eq!(*seen.done.lock(), expected);
}

#[test]
fn a_slow_disk_holds_back_what_comes_from_outside_and_stops_nothing() {
    let seen = with(|actor, seen| async move {
        actor.send(Begin).await.unwrap();
        let mailbox = actor.clone().recipient::<Deliver<Say>>();
        let mut many = vec![Do::Write(vec![1])];
        many.resize(PENDING_MARK + 2, Do::Note(2));
        seen.room.send(&mailbox, Say::Effects(many)).await;
        let next = Say::Effects(vec![Do::Note(3)]);
        let sending = seen.room.send(&mailbox, next);
        tokio::pin!(sending);
        let waits = futures::poll!(&mut sending).is_pending();
        actor.send(Look(|_: &Toy| ())).await.unwrap();
        assert!(waits && !seen.done.lock().contains(&Do::Note(3)));
        seen.disk.notify_one();
        sending.await;
        assert!(seen.done.lock().contains(&Do::Note(3)));
        actor.send(Halt).await.unwrap();
    });
    assert!(seen.fatal.lock().is_none());
}

#[test]
fn a_full_mailbox_makes_its_senders_wait_and_loses_nothing() {
    let seen = Arc::new(Seen::default());
    let ports = ToyPorts(seen.clone());
    actix::System::new().block_on(async {
        let actor = Driver::create(|ctx| {
            ctx.set_mailbox_capacity(1);
            let toy = Toy { recovered: false };
            Driver::new(toy, ports, SystemClock::start())
        });
        let mailbox = actor.clone().recipient::<Deliver<Say>>();
        let say = |n| Say::Effects(vec![Do::Note(n)]);
        let sending = (1..=8).map(|n| seen.room.send(&mailbox, say(n)));
        let sending = futures::future::join_all(sending);
        tokio::pin!(sending);
        // The actor has not run yet.
        assert!(futures::poll!(&mut sending).is_pending());
        let full = mailbox.try_send(Deliver::new(say(9)));
        assert!(matches!(full, Err(actix::dev::SendError::Full(_))));
        let (begun, _) = tokio::join!(actor.send(Begin), sending);
        begun.unwrap();
        actor.send(Halt).await.unwrap();
    });
    let mut done = seen.done.lock().clone();
    done.sort_by_key(|effect| match effect {
        Do::Note(n) => *n,
        _ => 99,
    });
    assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 7, 8].map(Do::Note));
}

#[test]
fn a_panic_in_a_machine_stops_the_node_and_lets_go_of_who_waits() {
    let seen = with(|actor, seen| async move {
        actor.send(Begin).await.unwrap();
        let mailbox = actor.recipient::<Deliver<Say>>();
        seen.room.send(&mailbox, Say::Panic).await;
        seen.room.send(&mailbox, Say::Effects(Vec::new())).await;
    });
    let fatal = seen.fatal.lock().take().expect("the node stops");
    assert!(fatal.what.contains("stopped by itself"), "{fatal}");
}

#[test]
fn records_are_joined_up_to_a_bound() {
    let record = Record {
        table: Table::Nonces,
        key: vec![1],
        value: None,
    };
    let mut first = vec![record.clone(); JOINED_RECORDS_MAX - 1];
    let mut later = vec![record.clone()];
    assert!(join_records(&mut first, &mut later));
    assert!(later.is_empty());
    later.push(record);
    assert!(!join_records(&mut first, &mut later));
    assert_eq!(later.len(), 1);
    assert_eq!(first.len(), JOINED_RECORDS_MAX);
}
