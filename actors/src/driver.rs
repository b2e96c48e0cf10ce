//! The generic driver: one actix actor around one machine.
//!
//! Each turn it reads the clocks once, runs what is due, feeds one input, and
//! carries out the effects in order. It decides nothing. Effects that must be
//! durable hold back everything behind them until they are.
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
    Actor, ActorContext, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use futures::future::LocalBoxFuture;
use protocol::machine::{Machine, Outbox};
use std::collections::VecDeque;
use std::time::Duration;

/// Inputs that may wait for one actor. Network readers wait for room beyond it;
/// siblings do not, and a full mailbox among siblings stops the node (it
/// recovers from storage), because a lost message between siblings is a lost
/// decision. At one input per token this is minutes of work.
pub const MAILBOX: usize = 16_384;

/// Effects that may wait behind a write to disk.
const MAX_PENDING_EFFECTS: usize = 65_536;

/// What became of an effect.
pub enum Performed {
    /// Carried out, or under way; what follows need not wait.
    Done,
    /// What follows waits for this. An error stops the node.
    Wait(LocalBoxFuture<'static, Result<(), Fatal>>),
    /// The node must stop.
    Stop(Fatal),
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
}

/// An input for an actor.
#[derive(Debug)]
pub struct Deliver<I>(pub I);

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
pub struct Driver<M: Machine, P, C = SystemClock> {
    machine: M,
    ports: P,
    clock: C,
    outbox: Outbox<M::Effect>,
    pending: VecDeque<M::Effect>,
    waiting: bool,
    dead: bool,
    timer: Option<SpawnHandle>,
}

impl<M, P, C> Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: 'static,
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
            waiting: false,
            dead: false,
            timer: None,
        }
    }

    /// One turn: what is due, then `input`, then the effects, then the timer.
    fn turn(&mut self, input: Option<M::Input>, ctx: &mut Context<Self>) {
        if self.dead {
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
        while !self.waiting && !self.dead {
            let Some(effect) = self.pending.pop_front() else {
                return;
            };
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
    M::Input: 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        // A recovered machine may have something to do at once.
        let now = self.clock.now();
        self.machine.expire(now, &mut self.outbox);
        self.turn(None, ctx);
    }
}

impl<M, P, C> Handler<Deliver<M::Input>> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, message: Deliver<M::Input>, ctx: &mut Context<Self>) {
        self.turn(Some(message.0), ctx);
    }
}

impl<M, P, C> Handler<Wake> for Driver<M, P, C>
where
    M: Machine + Unpin + 'static,
    M::Input: 'static,
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
    M::Input: 'static,
    M::Effect: Unpin + 'static,
    P: Ports<M>,
    C: Clock,
{
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Context<Self>) {
        // What is behind a write still gets its chance: the context ends only
        // when nothing is pending.
        if self.waiting {
            ctx.notify_later(Halt, Duration::from_millis(5));
        } else {
            ctx.stop();
        }
    }
}
