//! Payments of failed orders whose fate is open: who takes one for nothing after its order is
//! over is held to it like who takes it before.

use crate::ids::{NodeKey, OrderId};
use crate::money::Msat;
use std::collections::{BTreeMap, VecDeque};

/// Orders remembered; the oldest goes. A payment's fate is known within minutes, or hours where a
/// peer holds it back. Not kept over a restart.
const MAX_LATE: usize = 1_024;

/// A failed order with payments of open fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LateOrder {
    pub host: NodeKey,
    /// What the host can show that it delivered costs.
    pub owed: Msat,
    /// What was settled so far.
    pub settled: Msat,
    /// The invoices whose payments may still settle.
    pub open: BTreeMap<u32, Msat>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct LatePayments {
    orders: BTreeMap<OrderId, LateOrder>,
    sequence: VecDeque<OrderId>,
}

impl LatePayments {
    /// Remembers an order that failed, if a payment of it may still settle.
    pub fn remember(&mut self, id: OrderId, order: LateOrder) {
        if order.open.is_empty() || self.orders.insert(id, order).is_some() {
            return;
        }
        self.sequence.push_back(id);
        if self.sequence.len() > MAX_LATE
            && let Some(oldest) = self.sequence.pop_front()
        {
            self.orders.remove(&oldest);
        }
    }

    /// A payment settled after all. Returns the host that now has more than it is owed, once.
    pub fn settled(&mut self, id: &OrderId, seq: u32) -> Option<NodeKey> {
        let order = self.orders.get_mut(id)?;
        let msat = order.open.remove(&seq)?;
        let before = order.settled;
        order.settled = before.saturating_add(msat);
        let taken = before <= order.owed && order.settled > order.owed;
        let host = taken.then_some(order.host);
        self.forget_if_done(id);
        host
    }

    /// A payment was not made.
    pub fn failed(&mut self, id: &OrderId, seq: u32) {
        if let Some(order) = self.orders.get_mut(id) {
            order.open.remove(&seq);
            self.forget_if_done(id);
        }
    }

    fn forget_if_done(&mut self, id: &OrderId) {
        if self
            .orders
            .get(id)
            .is_some_and(|order| order.open.is_empty())
        {
            self.orders.remove(id);
            self.sequence.retain(|known| known != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> OrderId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        OrderId(id)
    }

    fn order(owed: u64, settled: u64, open: &[(u32, u64)]) -> LateOrder {
        LateOrder {
            host: NodeKey([1; 32]),
            owed: Msat(owed),
            settled: Msat(settled),
            open: open.iter().map(|(seq, msat)| (*seq, Msat(*msat))).collect(),
        }
    }

    #[test]
    fn a_host_is_named_once_and_only_when_it_has_more_than_it_is_owed() {
        let mut late = LatePayments::default();
        late.remember(id(1), order(1_000, 0, &[(0, 1_000), (1, 1), (2, 500)]));
        assert_eq!(late.settled(&id(1), 0), None, "owed");
        assert_eq!(late.settled(&id(1), 0), None, "said twice");
        assert_eq!(late.settled(&id(1), 1), Some(NodeKey([1; 32])));
        assert_eq!(late.settled(&id(1), 2), None, "once");
        assert!(late.orders.is_empty() && late.sequence.is_empty());
        // Counted when the order ended.
        late.remember(id(2), order(0, 800, &[(1, 1_000)]));
        assert_eq!(late.settled(&id(2), 1), None);
        late.remember(id(3), order(0, 0, &[(0, 1_000)]));
        late.failed(&id(3), 0);
        assert_eq!(late.settled(&id(3), 0), None);
        assert!(late.orders.is_empty() && late.sequence.is_empty());
    }

    #[test]
    fn so_many_orders_are_remembered_and_the_newest_stay() {
        let mut late = LatePayments::default();
        for n in 0..3 * MAX_LATE as u64 {
            late.remember(id(n), order(0, 0, &[(0, 1)]));
        }
        assert_eq!(
            (late.orders.len(), late.sequence.len()),
            (MAX_LATE, MAX_LATE)
        );
        assert!(late.settled(&id(3 * MAX_LATE as u64 - 1), 0).is_some());
        assert!(late.settled(&id(0), 0).is_none());
    }
}
