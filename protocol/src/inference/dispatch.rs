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
    pub(super) fn purchase_of(&mut self, order: OrderId) -> Option<&mut Purchase> {
        self.purchases
            .values_mut()
            .find(|purchase| purchase.order() == Some(order))
    }

    pub(super) fn dispatch(&mut self, input: Input, ctx: &mut Ctx<'_>) {
        match input {
            Input::Confirm(request) => self.purchase(request, |purchase| purchase.on_confirm(ctx)),
            Input::Stop(request) => self.purchase(request, |purchase| purchase.on_stop(ctx)),
            Input::Cancel(request) => self.purchase(request, |purchase| purchase.on_cancel(ctx)),
            Input::CandidatesFound { request, hosts } => {
                self.purchase(request, |purchase| purchase.on_candidates(hosts, ctx))
            }
            Input::Reserved { request, result } => {
                self.purchase(request, |purchase| purchase.on_reserved(result, ctx))
            }
            Input::Opened { id, stream } => self.on_stream_opened(id, stream, ctx),
            Input::OpenFailed { id, reason, ours } => {
                if let Some(purchase) = self
                    .purchases
                    .values_mut()
                    .find(|purchase| purchase.dialing() == Some(id))
                {
                    purchase.on_dial_failed(&reason, ours, ctx);
                }
            }
            Input::InputCounted { id, count } => {
                let mut purchases = self.purchases.values_mut();
                if let Some(purchase) = purchases.find(|purchase| purchase.awaits_count(id)) {
                    purchase.on_input_counted(count, ctx);
                }
            }
            Input::WrongPiece {
                order,
                host,
                position,
            } => match self.purchase_of(order) {
                Some(purchase) => purchase.on_wrong_piece(position, ctx),
                // It came with the end of the order.
                None => {
                    let detail = buyer::wrong_piece(position);
                    ctx.offence(host, order, OffenceKind::FalseText, &detail);
                }
            },
            Input::Received { stream, frame } => self.on_frame(stream, *frame, ctx),
            Input::Garbled { stream, detail } => self.on_malformed_frame(stream, detail, ctx),
            Input::Closed { stream } => self.on_stream_closed(stream, ctx),
            Input::Settled {
                order,
                seq,
                fee,
                ms,
                ..
            } => {
                if let Some(purchase) = self.purchase_of(order) {
                    purchase.on_payment_settled(seq, fee, ms, ctx);
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
                if let Some(purchase) = self.purchase_of(order) {
                    purchase.on_payment_failed(seq, refusal, ctx);
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
                    order.on_prompt_counted(result, limit, ctx);
                }
            }
            Input::Produced {
                order,
                tokens,
                finish,
                attached,
            } => {
                self.host(order, |host| host.on_output(tokens, finish, attached, ctx));
            }
            Input::EngineFailed { order, reason } => {
                self.host(order, |host| host.on_engine_failed(&reason, ctx))
            }
            Input::CreditOpened { order, result } => {
                let wait = self.starts_within(&order, ctx.now.tick);
                let result = result.and_then(|credit| self.worth_an_offer(&order, credit));
                self.host(order, |host| host.on_credit_opened(result, wait, ctx));
                self.one_gratis(order, ctx);
            }
            Input::InvoiceMade { order, seq, result } => {
                self.host(order, |host| host.on_invoice_made(seq, result, ctx));
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
                    host.on_credit_granted(seq, msat, window, ctx);
                }
            }
            _ => {}
        }
    }

    pub(super) fn purchase(&mut self, request: RequestId, run: impl FnOnce(&mut Purchase)) {
        if let Some(purchase) = self.purchases.get_mut(&request) {
            run(purchase);
        }
    }

    pub(super) fn host(&mut self, order: OrderId, run: impl FnOnce(&mut HostOrder)) {
        if let Some(host) = self.hosts.get_mut(&order) {
            run(host);
        }
    }
}
