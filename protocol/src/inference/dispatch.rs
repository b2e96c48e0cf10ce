//! Which purchase or which order an input is for.

use super::{HostOrder, HostState, Parts};
use crate::ids::{OrderId, RequestId};
use crate::message::inference::Input;
use crate::message::sibling::Message;
use crate::offence::OffenceKind;
use crate::order::buyer;
use crate::order::context::Ctx;
use crate::purchase::Purchase;
use crate::refusal::Code;

impl Parts<'_> {
    pub(super) fn buyer_of(&mut self, order: OrderId) -> Option<&mut Purchase> {
        self.buyers
            .values_mut()
            .find(|buyer| buyer.order() == Some(order))
    }

    pub(super) fn dispatch(&mut self, input: Input, ctx: &mut Ctx<'_>) {
        match input {
            Input::Confirm(request) => self.buyer(request, |buyer| buyer.on_confirm(ctx)),
            Input::Stop(request) => self.buyer(request, |buyer| buyer.on_stop(ctx)),
            Input::Cancel(request) => self.buyer(request, |buyer| buyer.on_cancel(ctx)),
            Input::CandidatesFound { request, hosts } => {
                self.buyer(request, |buyer| buyer.on_candidates(hosts, ctx))
            }
            Input::Reserved { request, result } => {
                self.buyer(request, |buyer| buyer.on_reserved(result, ctx))
            }
            Input::Opened { id, stream } => self.opened(id, stream, ctx),
            Input::OpenFailed { id, reason, ours } => {
                if let Some(buyer) = self
                    .buyers
                    .values_mut()
                    .find(|buyer| buyer.dialing() == Some(id))
                {
                    buyer.on_dial_failed(&reason, ours, ctx);
                }
            }
            Input::InputCounted { id, count } => {
                let mut buyers = self.buyers.values_mut();
                if let Some(buyer) = buyers.find(|buyer| buyer.awaits_count(id)) {
                    buyer.on_input_counted(count, ctx);
                }
            }
            Input::WrongPiece {
                order,
                host,
                position,
            } => match self.buyer_of(order) {
                Some(buyer) => buyer.on_wrong_piece(position, ctx),
                // It came with the end of the order.
                None => {
                    let detail = buyer::wrong_piece(position);
                    ctx.offence(host, order, OffenceKind::FalseText, &detail);
                }
            },
            Input::Received { stream, frame } => self.received(stream, *frame, ctx),
            Input::Garbled { stream, detail } => self.garbled(stream, detail, ctx),
            Input::Closed { stream } => self.closed(stream, ctx),
            Input::Settled {
                order,
                seq,
                fee,
                ms,
                ..
            } => {
                if let Some(buyer) = self.buyer_of(order) {
                    buyer.on_payment_settled(seq, fee, ms, ctx);
                } else {
                    let (taken, records) = ctx.late.settled(&order, seq);
                    ctx.persist(records);
                    if let Some(host) = taken {
                        ctx.tell(Message::PaymentTaken { host });
                    }
                }
            }
            Input::NotSettled {
                order,
                seq,
                refusal,
            } => {
                if let Some(buyer) = self.buyer_of(order) {
                    buyer.on_payment_failed(seq, refusal, ctx);
                } else if refusal.code != Code::PaymentUnknown {
                    let records = ctx.late.failed(&order, seq);
                    ctx.persist(records);
                }
            }
            other => self.dispatch_host(other, ctx),
        }
    }

    pub(super) fn dispatch_host(&mut self, input: Input, ctx: &mut Ctx<'_>) {
        match input {
            Input::Counted { id, result } => {
                let counting = |order: &&mut HostOrder| order.state == HostState::Counting(id);
                if let Some(order) = self.hosts.values_mut().find(counting) {
                    let limit = self
                        .served
                        .get(&order.model())
                        .map_or(0, |served| served.limits.prompt_tokens);
                    order.counted(result, limit, ctx);
                }
            }
            Input::Produced {
                order,
                tokens,
                finish,
                attached,
            } => {
                self.host(order, |host| host.produced(tokens, finish, attached, ctx));
            }
            Input::EngineFailed { order, reason } => {
                self.host(order, |host| host.engine_failed(&reason, ctx))
            }
            Input::CreditOpened { order, result } => {
                let wait = self.starts_within(&order, ctx.now.tick);
                let result = result.and_then(|credit| self.worth_an_offer(&order, credit));
                self.host(order, |host| host.credit_opened(result, wait, ctx));
                self.one_gratis(order, ctx);
            }
            Input::InvoiceMade { order, seq, result } => {
                self.host(order, |host| host.invoice_made(seq, result, ctx));
            }
            Input::CreditGranted {
                order,
                seq,
                msat,
                window,
                ..
            } => {
                if let Some(host) = self.hosts.get_mut(&order) {
                    self.payers.paid(host.buyer(), msat);
                    host.credited(seq, msat, window, ctx);
                }
            }
            _ => {}
        }
    }

    pub(super) fn buyer(&mut self, request: RequestId, run: impl FnOnce(&mut Purchase)) {
        if let Some(buyer) = self.buyers.get_mut(&request) {
            run(buyer);
        }
    }

    pub(super) fn host(&mut self, order: OrderId, run: impl FnOnce(&mut HostOrder)) {
        if let Some(host) = self.hosts.get_mut(&order) {
            run(host);
        }
    }
}
