//! Streams of orders: fresh ones that peers opened, and to which order the others belong.
//!
//! What comes on a stream that is not known is dropped.

use super::{Inference, Parts};
use crate::ids::{AddressTag, Caller, EffectId, OrderId, PeerTag, RequestId, StreamId};
use crate::machine::Outbox;
use crate::message::inference::Effect;
use crate::message::sibling::Message;
use crate::offence::{Offence, OffenceKind};
use crate::order::context::Ctx;
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick};
use crate::wire::order::{Countersigned, Frame, Paid};
use std::collections::BTreeMap;

/// How long a fresh inbound stream may stay silent. Milliseconds. An order fits one round trip.
const FRESH_STREAM_MS: u64 = 15_000;
/// Fresh inbound streams kept at once; beyond it one of the peer that has most of them is
/// closed.
const MAX_FRESH_STREAMS: usize = 64;

/// To whom a stream belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Purchase(RequestId),
    Host(OrderId),
}

/// An inbound stream on which nothing came yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fresh {
    pub until: Tick,
    pub caller: Caller,
}

impl Inference {
    pub(super) fn on_inbound(
        &mut self,
        stream: StreamId,
        caller: Caller,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        if self.fresh.len() >= MAX_FRESH_STREAMS {
            // Whoever opens many streams loses its own: of the address with most, the newest of
            // the peer with most.
            let mut addresses: BTreeMap<AddressTag, u32> = BTreeMap::new();
            let mut peers: BTreeMap<PeerTag, u32> = BTreeMap::new();
            for Fresh { caller, .. } in self.fresh.values() {
                *addresses.entry(caller.address).or_default() += 1;
                *peers.entry(caller.peer).or_default() += 1;
            }
            let newest = self.fresh.iter().max_by_key(|(id, Fresh { caller, .. })| {
                let Caller { peer, address } = caller;
                let of_address = (addresses.get(address), *address);
                (of_address, (peers.get(peer), *peer), **id)
            });
            if let Some(newest) = newest.map(|(id, _)| *id) {
                self.fresh.remove(&newest);
                out.push(Effect::Close { stream: newest });
            }
        }
        let until = now.tick.after_ms(FRESH_STREAM_MS);
        self.fresh.insert(stream, Fresh { until, caller });
    }
}

impl Parts<'_> {
    pub(super) fn on_stream_opened(&mut self, id: EffectId, stream: StreamId, ctx: &mut Ctx<'_>) {
        let dialing = self
            .purchases
            .iter_mut()
            .find(|(_, purchase)| purchase.dialing() == Some(id));
        match dialing {
            Some((request, purchase)) => {
                self.streams.insert(stream, Use::Purchase(*request));
                purchase.on_stream_opened(stream, ctx);
            }
            // The purchase gave up while the dial went on.
            None => ctx.close(stream),
        }
    }

    pub(super) fn on_frame(&mut self, stream: StreamId, frame: Frame, ctx: &mut Ctx<'_>) {
        if let Some(fresh) = self.fresh.remove(&stream) {
            if let Frame::Order(signed) = frame {
                return self.on_order(stream, fresh.caller, signed, ctx);
            }
            let message = format!("a stream begins with an order, not with {}", frame.name());
            return self.refuse(stream, Refusal::new(Code::ProtocolViolation, message), ctx);
        }
        match self.streams.get(&stream).copied() {
            Some(Use::Purchase(request)) => self.on_purchase_frame(request, stream, frame, ctx),
            Some(Use::Host(order)) => self.on_host_frame(order, frame, ctx),
            None => {}
        }
    }

    pub(super) fn on_purchase_frame(
        &mut self,
        request: RequestId,
        stream: StreamId,
        frame: Frame,
        ctx: &mut Ctx<'_>,
    ) {
        // A stream of an earlier attempt of the same purchase is history.
        self.purchase(request, |purchase| {
            if purchase.stream() == Some(stream) {
                purchase.on_frame(frame, ctx);
            }
        });
    }

    pub(super) fn on_host_frame(&mut self, order: OrderId, frame: Frame, ctx: &mut Ctx<'_>) {
        let Some(host) = self.hosts.get_mut(&order) else {
            return;
        };
        match frame {
            Frame::Accept(terms) => host.on_accept(terms, ctx),
            Frame::Paid(signed) => {
                match signed.open::<Paid>(
                    ctx.crypto,
                    ctx.config.network,
                    &ctx.crypto.key(),
                    ctx.now.wall,
                ) {
                    Ok(paid) => host.on_paid(signed, &paid, ctx),
                    Err(error) => {
                        host.fail(Refusal::new(Code::BadEnvelope, error.to_string()), ctx)
                    }
                }
            }
            Frame::Countersigned(signed) => {
                match signed.open::<Countersigned>(
                    ctx.crypto,
                    ctx.config.network,
                    &ctx.crypto.key(),
                    ctx.now.wall,
                ) {
                    Ok(opened) => {
                        host.on_countersigned(
                            signed,
                            &opened.body.receipt,
                            &opened.envelope.from,
                            ctx,
                        );
                    }
                    Err(error) => {
                        host.fail(Refusal::new(Code::BadEnvelope, error.to_string()), ctx)
                    }
                }
            }
            Frame::Stop => host.on_stop(ctx),
            Frame::Cancel => host.abandon(Code::Cancelled, ctx),
            other => {
                let message = format!("a buyer does not send a {} frame now", other.name());
                ctx.offence(host.buyer(), order, OffenceKind::UnexpectedFrame, &message);
                host.fail(Refusal::new(Code::ProtocolViolation, message), ctx);
            }
        }
    }

    /// Refuses what came first on a stream.
    pub(super) fn refuse(&mut self, stream: StreamId, refusal: Refusal, ctx: &mut Ctx<'_>) {
        ctx.send(stream, Frame::Refusal(refusal));
        ctx.close(stream);
    }

    pub(super) fn on_malformed_frame(
        &mut self,
        stream: StreamId,
        detail: String,
        ctx: &mut Ctx<'_>,
    ) {
        if self.fresh.remove(&stream).is_some() {
            return self.refuse(stream, Refusal::new(Code::ProtocolViolation, detail), ctx);
        }
        match self.streams.get(&stream).copied() {
            Some(Use::Purchase(request)) => self.purchase(request, |purchase| {
                // The host of an earlier attempt says nothing of the one that is asked now.
                if purchase.stream() == Some(stream) {
                    purchase.on_malformed_frame(detail, ctx);
                }
            }),
            Some(Use::Host(order)) => self.host(order, |host| {
                ctx.tell(Message::Offended(Offence {
                    by: host.buyer(),
                    order: Some(order),
                    kind: OffenceKind::MalformedFrame,
                    detail: detail.clone(),
                }));
                host.fail(Refusal::new(Code::ProtocolViolation, detail), ctx);
            }),
            None => {}
        }
    }

    pub(super) fn on_stream_closed(&mut self, stream: StreamId, ctx: &mut Ctx<'_>) {
        self.fresh.remove(&stream);
        match self.streams.remove(&stream) {
            Some(Use::Purchase(request)) => self.purchase(request, |purchase| {
                if purchase.stream() == Some(stream) {
                    purchase.on_stream_closed(ctx);
                }
            }),
            Some(Use::Host(order)) => self.host(order, |host| {
                host.stream = None;
                host.abandon(Code::Disconnected, ctx);
            }),
            None => {}
        }
    }
}
