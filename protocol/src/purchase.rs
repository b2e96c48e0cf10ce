//! One wish of a client: money set aside, a host chosen and agreed to, and an order with it.
//!
//! Not budgets (Payment sets money aside and refuses what breaks a cap), not ranking (Discovery
//! and Reputation do), and not the order itself: that is a leg ([`crate::order::buyer`]). A
//! purchase has one leg at a time. A part of the inference machine, which owns it.
//!
//! # States
//! `Reserving → Finding → [Confirming →] Ordering → Over`; while nothing was paid, a host that
//! refuses (whatever its reason), cannot be reached or cannot be paid is followed by the next
//! candidate.
//!
//! # Invariants
//! - The next host is asked only once every payment of the one before is known to have failed.
//! - Once a word was delivered, no other host is asked: its answer would be spliced to it.
//! - The money is set free when the purchase is over, and not before.

mod choice;

use crate::ids::{EffectId, OrderId, StreamId};
use crate::message::discovery::Candidate;
use crate::message::inference::{BuyRequest, BuyerEvent, InputCount, Query};
use crate::message::sibling::Message;
use crate::money::{Meter, Msat};
use crate::order::breach::Breach;
use crate::order::buyer::terms::most_input;
use crate::order::buyer::{Ask, End, Leg};
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::time::Tick;
use crate::wire::manifest::Role;
use crate::wire::order::{Frame, Receipt, Status};
use choice::Choice;

/// A host that takes longer to say no has cost an attempt. Milliseconds.
const QUICK_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Payment sets the money aside.
    Reserving,
    /// Discovery looks for hosts.
    Finding,
    /// The client looks at the choice.
    Confirming,
    /// A leg is under way.
    Ordering,
    /// Nothing more to do.
    Over,
}

/// One wish of a client.
#[derive(Debug)]
pub(crate) struct Purchase {
    /// What the client wants.
    request: BuyRequest,
    /// Where it stands.
    state: State,
    /// When [`Purchase::expire`] must run; of a leg, the leg says.
    deadline: Tick,
    /// The hosts to ask, and why those before did not serve.
    choice: Choice,
    /// The order under way.
    leg: Option<Leg>,
}

/// Units of that meter that a job may be delivered.
fn units(request: &BuyRequest, meter: Meter) -> u64 {
    match request.job.meter() == meter {
        true => request.job.most_delivered(),
        false => 0,
    }
}

impl Purchase {
    /// Begins a purchase: sets the money aside first.
    pub fn open(request: BuyRequest, ctx: &mut Ctx<'_>) -> Self {
        ctx.tell(Message::Reserve {
            request: request.request,
            budget: request.budget.clone(),
            max_cost: request.max_cost,
        });
        Purchase {
            request,
            state: State::Reserving,
            deadline: ctx.now.tick.after_ms(ctx.config.terms_timeout_ms),
            choice: Choice::default(),
            leg: None,
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// When [`Purchase::expire`] must run.
    pub fn deadline(&self) -> Option<Tick> {
        let own = self.deadline;
        let deadline = self.leg.as_ref().map_or(own, Leg::deadline);
        (!self.is_over()).then_some(deadline)
    }

    /// The order under way, if there is one.
    pub fn order(&self) -> Option<OrderId> {
        self.leg.as_ref().map(Leg::id)
    }

    /// The stream of the order under way.
    pub fn stream(&self) -> Option<StreamId> {
        self.leg.as_ref().and_then(Leg::stream)
    }

    /// The dial under way.
    pub fn dialing(&self) -> Option<EffectId> {
        self.leg.as_ref().and_then(Leg::dialing)
    }

    /// Whether it waits for that count of its prompt.
    pub fn awaits_count(&self, id: EffectId) -> bool {
        self.leg.as_ref().is_some_and(|leg| leg.awaits_count(id))
    }

    /// Payment set the money aside, or refused.
    pub fn on_reserved(&mut self, result: Result<(), Refusal>, ctx: &mut Ctx<'_>) {
        if self.state != State::Reserving {
            return;
        }
        if let Err(refusal) = result {
            return self.fail(refusal, ctx);
        }
        self.state = State::Finding;
        self.deadline = ctx.now.tick.after_ms(ctx.config.terms_timeout_ms);
        let request = &self.request;
        ctx.tell(Message::FindCandidates {
            request: request.request,
            query: Query {
                model: request.model.clone(),
                role: Role::Host,
                mode: request.mode,
                host: request.host,
                input_tokens: most_input(&request.job),
                input_bytes: request.job.text_bytes() as u64,
                output_tokens: units(request, Meter::OutputToken),
                items: units(request, Meter::Item),
            },
        });
    }

    /// Discovery answered.
    pub fn on_candidates(&mut self, hosts: Vec<Candidate>, ctx: &mut Ctx<'_>) {
        if self.state == State::Finding {
            self.choice.fill(hosts, ctx.config.max_quantum);
            self.next_candidate(ctx);
        }
    }

    fn next_candidate(&mut self, ctx: &mut Ctx<'_>) {
        self.leg = None;
        let Some(candidate) = self.choice.next(ctx.config.max_attempts).cloned() else {
            let refusal = self.choice.take_refusal(self.request.mode);
            return self.fail(refusal, ctx);
        };
        ctx.deliver(
            self.request.request,
            BuyerEvent::Chosen {
                candidate: Box::new(candidate),
                max_cost: self.request.max_cost,
                considered: self.choice.considered(),
            },
        );
        if self.request.confirm {
            self.state = State::Confirming;
            self.deadline = ctx.now.tick.after_ms(ctx.config.confirm_timeout_ms);
        } else {
            self.dial(ctx);
        }
    }

    /// The client agreed to the choice shown.
    pub fn on_confirm(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Confirming {
            self.dial(ctx);
        }
    }

    fn dial(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(candidate) = self.choice.take() {
            self.state = State::Ordering;
            self.leg = Some(Leg::dial(&self.request, candidate, ctx));
        }
    }

    /// Runs the leg, and does what its end calls for.
    fn with_leg(
        &mut self,
        ctx: &mut Ctx<'_>,
        run: impl FnOnce(&mut Leg, Ask<'_>, &mut Ctx<'_>) -> Result<(), End>,
    ) {
        let Some(leg) = self.leg.as_mut() else { return };
        let ask = Ask {
            request: &self.request,
            others: self.choice.others(),
        };
        match run(leg, ask, ctx) {
            Ok(()) => {}
            Err(End::Finished(receipt)) => self.finish(receipt, ctx),
            Err(End::Breach(breach)) => self.on_breach(&breach, ctx),
            Err(End::Unserved(refusal)) => self.give_up(refusal, ctx),
            Err(End::Unpayable(refusal)) => {
                let refusal = self.choice.unpayable(refusal);
                self.give_up(refusal, ctx);
            }
            Err(End::Failed(refusal)) => self.fail(refusal, ctx),
        }
    }

    /// The stream is open.
    pub fn on_stream_opened(&mut self, stream: StreamId, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, ask, ctx| {
            leg.on_stream_opened(stream, ask, ctx);
            Ok(())
        });
    }

    /// The host could not be reached. `ours`: this node did not try, for want of a stream of
    /// its own, and the host has no part in it.
    pub fn on_dial_failed(&mut self, reason: &str, ours: bool, ctx: &mut Ctx<'_>) {
        self.with_leg(
            ctx,
            |leg, _, ctx| Err(leg.on_dial_failed(reason, ours, ctx)),
        );
    }

    /// Our own count of the prompt is there, or cannot be.
    pub fn on_input_counted(&mut self, count: InputCount, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, ask, ctx| leg.on_input_counted(count, ask, ctx));
    }

    /// A frame of the host arrived.
    pub fn on_frame(&mut self, frame: Frame, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, ask, ctx| leg.on_frame(frame, ask, ctx));
    }

    /// Bytes that are no frame.
    pub fn on_malformed_frame(&mut self, detail: String, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, _, _| Err(leg.on_malformed_frame(detail)));
    }

    /// A token that the host sent stands for something else than it says.
    pub fn on_wrong_piece(&mut self, position: u64, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, _, _| Err(leg.on_wrong_piece(position)));
    }

    /// Payment settled an invoice.
    pub fn on_payment_settled(&mut self, seq: u32, fee: Msat, ms: u64, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, ask, ctx| {
            leg.on_payment_settled(seq, fee, ms, ask, ctx)
        });
    }

    /// Payment did not settle an invoice.
    pub fn on_payment_failed(&mut self, seq: u32, refusal: Refusal, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, _, ctx| leg.on_payment_failed(seq, refusal, ctx));
    }

    /// The stream ended.
    pub fn on_stream_closed(&mut self, ctx: &mut Ctx<'_>) {
        self.with_leg(ctx, |leg, ask, ctx| leg.on_stream_closed(ask, ctx));
    }

    /// The client wants no more output.
    pub fn on_stop(&mut self, ctx: &mut Ctx<'_>) {
        let mut stopped = false;
        self.with_leg(ctx, |leg, ask, ctx| {
            stopped = leg.on_stop(ask, ctx);
            Ok(())
        });
        if !stopped {
            let refusal = Refusal::new(Code::Cancelled, "stopped before output began");
            self.fail(refusal, ctx);
        }
    }

    /// The client wants nothing more at all.
    pub fn on_cancel(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(leg) = &self.leg {
            leg.cancel(ctx);
        }
        self.fail(Refusal::new(Code::Cancelled, "cancelled"), ctx);
    }

    /// Runs what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        if self
            .deadline()
            .is_none_or(|deadline| deadline > ctx.now.tick)
        {
            return;
        }
        let what = match self.state {
            State::Reserving => "the wallet did not answer in time",
            State::Finding => "no candidates were found in time",
            State::Confirming => "nobody agreed to the choice in time",
            State::Ordering | State::Over => {
                return self.with_leg(ctx, |leg, ask, ctx| leg.expire(ask, ctx));
            }
        };
        self.fail(Refusal::new(Code::Timeout, what), ctx);
    }

    /// The host broke a rule: it is reported, and the order given up.
    fn on_breach(&mut self, breach: &Breach, ctx: &mut Ctx<'_>) {
        if let Some(leg) = self.leg.as_mut() {
            leg.report(breach, ctx);
        }
        let text = format!("the host broke the protocol: {}", breach.detail);
        self.give_up(Refusal::new(Code::ProtocolViolation, text), ctx);
    }

    /// Ends the leg. While no money moved and no word was delivered, any reason means "not
    /// here": the next candidate is tried.
    fn give_up(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        // Once a word was delivered, another host's answer would be spliced to it.
        let Some(leg) = self.leg.as_ref().filter(|leg| leg.is_untouched()) else {
            return self.fail(refusal, ctx);
        };
        if leg.waited_ms(ctx.now.tick) >= QUICK_MS {
            self.choice.lost_time();
        }
        self.close_leg(Status::Failed(refusal.code), ctx);
        self.choice.note(refusal);
        self.next_candidate(ctx);
    }

    fn close_leg(&mut self, status: Status, ctx: &mut Ctx<'_>) {
        if let Some(mut leg) = self.leg.take() {
            let ask = Ask {
                request: &self.request,
                others: self.choice.others(),
            };
            leg.close(status, ask, ctx);
        }
    }

    /// The purchase is over: its leg's books are closed, and the money is free.
    fn end(&mut self, status: Status, event: BuyerEvent, ctx: &mut Ctx<'_>) {
        self.close_leg(status, ctx);
        self.state = State::Over;
        let request = self.request.request;
        ctx.tell(Message::Release { request });
        ctx.deliver(request, event);
    }

    fn finish(&mut self, receipt: Box<Receipt>, ctx: &mut Ctx<'_>) {
        let (finish, status) = (receipt.finish, receipt.status);
        self.end(status, BuyerEvent::Finished { finish, receipt }, ctx);
    }

    fn fail(&mut self, refusal: Refusal, ctx: &mut Ctx<'_>) {
        if self.state != State::Over {
            let status = Status::Failed(refusal.code);
            self.end(status, BuyerEvent::Failed(refusal), ctx);
        }
    }
}
