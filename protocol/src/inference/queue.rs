//! Orders that wait for a place of their model, and the load that the network is told.

use super::admit::not_admitted;
use super::{HostOrder, HostState, Inference};
use crate::ids::ModelDigest;
use crate::limits;
use crate::machine::Outbox;
use crate::message::inference::Effect;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::time::Now;

impl Inference {
    /// Puts orders that may begin in line, and keeps their nonces: from here on an order has
    /// effects. Those without a payment may fill half of the table.
    pub(super) fn enqueue(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let waiting = |order: &HostOrder| order.state == HostState::Queued;
        let hosts = self.hosts.iter().filter(|(_, order)| waiting(order));
        let mut new: Vec<_> = hosts
            .filter(|(id, _)| !self.queue.contains(id))
            .map(|(id, order)| (order.accepted(), *id))
            .collect();
        new.sort();
        for (_, id) in new {
            self.with(now, out, |parts, ctx| {
                let Some(order) = parts.hosts.get_mut(&id) else {
                    return;
                };
                let most = match order.paid() {
                    Msat::ZERO => limits::MAX_NONCES / 2,
                    _ => limits::MAX_NONCES,
                };
                match parts.replay.admit(order.envelope(), most, ctx.now.wall) {
                    Ok(nonce) => ctx.persist(vec![nonce]),
                    Err(error) => order.fail(not_admitted(error), ctx),
                }
            });
            let stands = self.hosts.get(&id);
            if stands.is_some_and(|order| order.state == HostState::Queued) {
                self.queue.push_back(id);
            }
        }
    }

    pub(super) fn running(&self, model: &ModelDigest) -> u32 {
        let running =
            |order: &&HostOrder| order.model() == *model && order.state == HostState::Running;
        u32::try_from(self.hosts.values().filter(running).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn start_queued(&mut self, now: Now, out: &mut Outbox<Effect>) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else {
                break;
            };
            let Some(model) = self.hosts.get(&id).map(HostOrder::model) else {
                continue;
            };
            let slots = self
                .served
                .get(&model)
                .map_or(0, |served| served.limits.concurrent_orders);
            if self.running(&model) >= slots {
                self.queue.push_back(id);
                continue;
            }
            self.with(now, out, |parts, ctx| {
                if let Some(order) = parts.hosts.get_mut(&id) {
                    order.start(ctx);
                }
            });
        }
    }

    pub(super) fn report_load(&mut self, out: &mut Outbox<Effect>) {
        for (model, served) in &self.served {
            let running = self.running(model);
            let of_model = self
                .hosts
                .values()
                .filter(|order| order.model() == *model && !order.is_unpaid())
                .count();
            let queued = u32::try_from(of_model)
                .unwrap_or(u32::MAX)
                .saturating_sub(running);
            if self.loads.get(model) != Some(&(running, queued)) {
                self.loads.insert(*model, (running, queued));
                out.push(Effect::Tell(Message::LoadChanged {
                    model: *model,
                    running,
                    queued,
                    slots: served.limits.concurrent_orders,
                }));
            }
        }
    }
}
