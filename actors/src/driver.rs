//! The generic driver: one actix actor around one machine.
//!
//! Each turn it reads the clocks once, runs what is due, feeds one input, and
//! carries out the effects in order. It decides nothing. Effects that must be
//! durable hold back everything behind them until they are; neighbours among them
//! are one write.
//!
//! Nothing happens before [`Begin`]: what arrives earlier waits, so that whatever a
//! recovered machine has to tell its siblings finds their mailboxes connected. A driver
//! that ends without [`Halt`], by a panic in its machine for one, stops the node.
//!
//! Facts about actix that shaped it: `do_send` ignores the mailbox bound (so it
//! is not used), the mailbox drains before timers fire (so deadlines are checked
//! on every message), and an arbiter is a thread (so nothing blocks here).
//!
//! [`scripted`] drives a machine by this same driver under a clock of the test's,
//! to hold it against what the simulator did.

pub mod scripted;

use crate::clock::{Clock, SystemClock};
use actix::{
    Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle,
    WrapFuture,
};
use futures::future::LocalBoxFuture;
use protocol::machine::{Machine, Outbox, Record};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Inputs that may wait for one actor. What comes from outside waits for room beyond it
/// ([`Room`]); siblings do not, and a full mailbox among siblings stops the node (it
/// recovers from storage), because a lost message between siblings is a lost
/// decision. At one input per token this is minutes of work.
pub const MAILBOX: usize = 16_384;

/// Effects behind a write to disk beyond which nothing more is taken from outside. A disk that
/// flushes in 5 ms needs seconds for as many, if each were a write of its own.
const PENDING_MARK: usize = 4_096;

/// Effects behind a write to disk at which the node stops: siblings and timers alone made them, and
/// memory is finite.
const MAX_PENDING_EFFECTS: usize = 1 << 20;

/// How often whoever waits for room looks whether the actor is gone.
const ROOM_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Records in one write, where neighbouring writes are joined. Bounds what one batch holds.
pub const JOINED_RECORDS_MAX: usize = 1_024;

/// What became of an effect.
pub enum Performed {
    /// Carried out, or under way; what follows need not wait.
    Done,
    /// What follows waits for this. An error stops the node.
    Wait(LocalBoxFuture<'static, Result<(), Fatal>>),
    /// The node must stop.
    Stop(Fatal),
}

/// Moves `later` behind `earlier` and says so, unless one write would hold too many records then.
pub fn join_records(earlier: &mut Vec<Record>, later: &mut Vec<Record>) -> bool {
    let fits = earlier.len() + later.len() <= JOINED_RECORDS_MAX;
    if fits {
        earlier.append(later);
    }
    fits
}

/// Why a node cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {fix}")]
pub struct Fatal {
    /// What happened.
    pub what: String,
    /// What a person can do.
    pub fix: String,
}

/// What a machine's effects need of the world.
pub trait Ports<M: Machine>: Unpin + 'static {
    /// Carries out one effect.
    fn perform(&mut self, effect: M::Effect) -> Performed;
    /// The node must stop; called at most once.
    fn fatal(&mut self, fatal: Fatal);
    /// Makes one write of two that are neighbours; gives `next` back where they are not both
    /// writes, or too long together.
    fn join(earlier: &mut M::Effect, next: M::Effect) -> Option<M::Effect> {
        let _ = earlier;
        Some(next)
    }
    /// Who waits to give this driver an input.
    fn room(&self) -> Option<&Room> {
        None
    }
}

/// Whether an actor takes inputs from outside, and who waits until it does.
///
/// An actix mailbox does not wake whom it turned away (0.13.5: a send that is polled while the
/// mailbox is full registers no waker), so senders wait here.
#[derive(Debug, Default)]
pub struct Room {
    pending: AtomicUsize,
    changed: Notify,
}

impl Room {
    /// Delivers once there is room, and returns when the machine has taken it, or the actor is
    /// gone. One sender thus never has more than one input in the mailbox.
    pub async fn send<I: Send>(&self, actor: &Recipient<Deliver<I>>, input: I) {
        let (taken, done) = oneshot::channel();
        let mut message = Deliver {
            input,
            taken: Some(taken),
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed, whenever it comes.
            changed.as_mut().enable();
            if self.pending.load(Ordering::Acquire) < PENDING_MARK {
                message = match actor.try_send(message) {
                    Err(actix::dev::SendError::Full(message)) => message,
                    Ok(()) => break,
                    Err(actix::dev::SendError::Closed(_)) => return,
                };
            }
            // The end of an actor may come without a change.
            let _ = tokio::time::timeout(ROOM_POLL_INTERVAL, changed).await;
        }
        // Its end says that the machine has the input, or that the actor is gone.
        let _ = done.await;
    }

    /// Delivers if there is room now; else the input is gone.
    pub fn offer<I: Send>(&self, actor: &Recipient<Deliver<I>>, input: I) {
        if self.pending.load(Ordering::Acquire) < PENDING_MARK {
            // Full or gone: what is offered may be lost.
            let _ = actor.try_send(Deliver::new(input));
        }
    }

    /// Lets go of everybody who waits: to try again, or to learn that the actor is gone.
    fn set(&self, pending: usize) {
        self.pending.store(pending, Ordering::Release);
        if pending < PENDING_MARK {
            self.changed.notify_waiters();
        }
    }
}

/// The siblings are connected: recover, and take what is in the mailbox.
#[derive(Debug)]
pub struct Begin;

impl Message for Begin {
    type Result = ();
}

/// Answers once every effect so far is carried out.
#[derive(Debug)]
pub struct Flush(pub oneshot::Sender<()>);

impl Message for Flush {
    type Result = ();
}

/// Looks at the machine, between two turns.
pub struct Look<M, R>(pub fn(&M) -> R);

impl<M, R: 'static> Message for Look<M, R> {
    type Result = R;
}

/// An input for an actor.
#[derive(Debug)]
pub struct Deliver<I> {
    /// The input.
    pub input: I,
    /// Dropped once the machine has taken it.
    taken: Option<oneshot::Sender<()>>,
}

impl<I> Deliver<I> {
    /// Delivers, and nobody waits.
    pub fn new(input: I) -> Self {
        Deliver { input, taken: None }
    }
}

impl<I> Message for Deliver<I> {
    type Result = ();
}

/// Stop after what is in the mailbox.
#[derive(Debug)]
pub struct Halt;

impl Message for Halt {
    type Result = ();
}

/// What is due runs now; the timer's message.
#[derive(Debug)]
struct Wake;

impl Message for Wake {
    type Result = ();
}

/// One machine, its ports, and what is still to be carried out.
pub struct Driver<M: Machine, P: Ports<M>, C = SystemClock> {
    machine: M,
    ports: P,
    clock: C,
    outbox: Outbox<M::Effect>,
    pending: VecDeque<M::Effect>,
    /// What came before [`Begin`]; `None` after it.
    early: Option<Vec<M::Input>>,
    waiting: bool,
    /// Who waits until nothing is pending.
    flushes: Vec<oneshot::Sender<()>>,
    dead: bool,
    /// Told to end: then the end is no accident.
    halted: bool,
    timer: Option<SpawnHandle>,
}

impl<M: Machine, P: Ports<M>, C> Drop for Driver<M, P, C> {
    fn drop(&mut self) {
        if !self.dead && !self.halted {
            self.ports.fatal(Fatal {
                what: "a part of the node stopped by itself".to_owned(),
                fix: "restart the node; nothing that was agreed is lost. The log has the cause; \
                      please report it"
                    .to_owned(),
            });
        }
        // Whoever waits for room sees a closed mailbox instead.
        if let Some(room) = self.ports.room() {
            room.set(0);
        }
    }
}

impl<M, P, C> Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    /// Wraps a machine.
    pub fn new(machine: M, ports: P, clock: C) -> Self {
        Driver {
            machine,
            ports,
            clock,
            outbox: Outbox::default(),
            pending: VecDeque::new(),
            early: Some(Vec::new()),
            waiting: false,
            flushes: Vec::new(),
            dead: false,
            halted: false,
            timer: None,
        }
    }

    /// Recovers, then takes what came early.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        let Some(early) = self.early.take() else {
            return;
        };
        // A recovered machine may have something to do at once.
        let now = self.clock.now();
        self.machine.expire(now, &mut self.outbox);
        self.turn(None, ctx);
        for input in early {
            self.turn(Some(input), ctx);
        }
    }

    /// One turn: what is due, then `input`, then the effects, then the timer.
    fn turn(&mut self, input: Option<M::Input>, ctx: &mut Context<Self>) {
        if self.dead {
            return;
        }
        if let Some(early) = &mut self.early {
            early.extend(input);
            return;
        }
        let now = self.clock.now();
        if self.machine.deadline().is_some_and(|due| due <= now.tick) {
            self.machine.expire(now, &mut self.outbox);
        }
        if let Some(input) = input {
            self.machine.handle(now, input, &mut self.outbox);
        }
        self.pending.extend(self.outbox.drain());
        if self.pending.len() > MAX_PENDING_EFFECTS {
            return self.die(
                Fatal {
                    what: "the disk is too slow for the work taken on".to_owned(),
                    fix: "lower the limits of this host, or use a faster disk".to_owned(),
                },
                ctx,
            );
        }
        self.pump(ctx);
        self.arm(ctx);
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        self.perform_pending(ctx);
        if self.pending.is_empty() && !self.waiting {
            for flush in self.flushes.drain(..) {
                // Whoever asked may have given up.
                let _ = flush.send(());
            }
        }
        if let Some(room) = self.ports.room() {
            room.set(self.pending.len());
        }
    }

    fn perform_pending(&mut self, ctx: &mut Context<Self>) {
        while !self.waiting && !self.dead {
            let Some(mut effect) = self.pending.pop_front() else {
                return;
            };
            while let Some(next) = self.pending.pop_front() {
                if let Some(next) = P::join(&mut effect, next) {
                    self.pending.push_front(next);
                    break;
                }
            }
            match self.ports.perform(effect) {
                Performed::Done => {}
                Performed::Stop(fatal) => self.die(fatal, ctx),
                Performed::Wait(done) => {
                    self.waiting = true;
                    let resume = done.into_actor(self);
                    ctx.spawn(actix::fut::ActorFutureExt::map(
                        resume,
                        |result, act: &mut Self, ctx| {
                            act.waiting = false;
                            match result {
                                Ok(()) => act.pump(ctx),
                                Err(fatal) => act.die(fatal, ctx),
                            }
                        },
                    ));
                }
            }
        }
    }

    fn die(&mut self, fatal: Fatal, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.dead, true) {
            self.pending.clear();
            self.ports.fatal(fatal);
            ctx.stop();
        }
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(due) = self.machine.deadline() {
            let wait = Duration::from_nanos(due.0.saturating_sub(self.clock.now().tick.0));
            self.timer = Some(ctx.notify_later(Wake, wait));
        }
    }
}

impl<M, P, C> Actor for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl<M, P, C> Handler<Begin> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, _: Begin, ctx: &mut Context<Self>) {
        self.begin(ctx);
    }
}

impl<M, P, C> Handler<Flush> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, flush: Flush, ctx: &mut Context<Self>) {
        self.flushes.push(flush.0);
        self.pump(ctx);
    }
}

impl<M, P, C, R> Handler<Look<M, R>> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
    R: 'static,
{
    type Result = actix::MessageResult<Look<M, R>>;

    fn handle(&mut self, look: Look<M, R>, _: &mut Context<Self>) -> Self::Result {
        actix::MessageResult((look.0)(&self.machine))
    }
}

impl<M, P, C> Handler<Deliver<M::Input>> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, message: Deliver<M::Input>, ctx: &mut Context<Self>) {
        self.turn(Some(message.input), ctx);
        drop(message.taken);
    }
}

impl<M, P, C> Handler<Wake> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Context<Self>) {
        self.turn(None, ctx);
    }
}

impl<M, P, C> Handler<Halt> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: Unpin + 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Context<Self>) {
        self.halted = true;
        // What is behind a write still gets its chance: the context ends only
        // when nothing is pending.
        if self.waiting {
            ctx.notify_later(Halt, Duration::from_millis(5));
        } else {
            ctx.stop();
        }
    }
}

#[cfg(test)]
mod tests;
