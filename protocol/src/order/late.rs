//! Payments of failed orders whose fate is open: who takes one for nothing after its order is
//! over is held to it like who takes it before, also where this node was stopped meanwhile.

use crate::codec;
use crate::ids::{NodeKey, OrderId};
use crate::machine::{Record, Table};
use crate::money::Msat;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Orders remembered, in memory and on disk; the oldest goes. A payment's fate is known within
/// minutes, or hours where a peer holds it back.
const MAX_LATE: usize = 1_024;
/// Most bytes of one of them on disk.
const MAX_RECORD_BYTES: usize = 1_024;

/// A failed order with payments of open fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LateOrder {
    /// When it was over.
    pub ended: WallTime,
    pub host: NodeKey,
    /// What the host can show that it delivered costs.
    pub owed: Msat,
    /// What was settled so far.
    pub settled: Msat,
    /// The invoices whose payments may still settle.
    pub open: BTreeMap<u32, Msat>,
}

/// See the head of the file. What changes it returns what to write.
#[derive(Debug, Default)]
pub(crate) struct LatePayments {
    orders: BTreeMap<OrderId, LateOrder>,
}

impl LatePayments {
    /// Takes back one row of [`Table::Late`].
    pub fn restore(&mut self, key: &[u8], value: &[u8]) {
        let order = codec::decode::<LateOrder>(value, MAX_RECORD_BYTES);
        if let (Ok(id), Ok(order)) = (key.try_into(), order) {
            self.orders.insert(OrderId(id), order);
        }
    }

    /// Remembers an order that failed, if a payment of it may still settle.
    pub fn remember(&mut self, id: OrderId, order: LateOrder) -> Vec<Record> {
        if order.open.is_empty() || self.orders.contains_key(&id) {
            return Vec::new();
        }
        self.orders.insert(id, order);
        let mut records = vec![self.row(&id)];
        if self.orders.len() > MAX_LATE {
            let others = self.orders.iter().filter(|(other, _)| **other != id);
            let oldest = others.min_by_key(|(other, order)| (order.ended, **other));
            if let Some(oldest) = oldest.map(|(oldest, _)| *oldest) {
                self.orders.remove(&oldest);
                records.push(self.row(&oldest));
            }
        }
        records
    }

    /// A payment settled after all. Returns the host that now has more than it is owed, once.
    pub fn settled(&mut self, id: &OrderId, seq: u32) -> (Option<NodeKey>, Vec<Record>) {
        let Some(order) = self.orders.get_mut(id) else {
            return (None, Vec::new());
        };
        let Some(msat) = order.open.remove(&seq) else {
            return (None, Vec::new());
        };
        let before = order.settled;
        order.settled = before.saturating_add(msat);
        let taken = before <= order.owed && order.settled > order.owed;
        let host = taken.then_some(order.host);
        (host, self.changed(id))
    }

    /// A payment was not made.
    pub fn failed(&mut self, id: &OrderId, seq: u32) -> Vec<Record> {
        let order = self.orders.get_mut(id);
        match order.and_then(|order| order.open.remove(&seq)) {
            Some(_) => self.changed(id),
            None => Vec::new(),
        }
    }

    /// Forgets an order of which nothing is open any more.
    fn changed(&mut self, id: &OrderId) -> Vec<Record> {
        self.orders
            .retain(|known, order| known != id || !order.open.is_empty());
        vec![self.row(id)]
    }

    fn row(&self, id: &OrderId) -> Record {
        Record {
            table: Table::Late,
            key: id.0.to_vec(),
            value: self.orders.get(id).map(codec::encode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    fn id(n: u64) -> OrderId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        OrderId(id)
    }

    fn order(owed: u64, settled: u64, open: &[(u32, u64)]) -> LateOrder {
        LateOrder {
            ended: WallTime(0),
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
        assert_eq!(late.settled(&id(1), 0).0, None, "owed");
        assert_eq!(late.settled(&id(1), 0), (None, vec![]), "said twice");
        assert_eq!(late.settled(&id(1), 1).0, Some(NodeKey([1; 32])));
        assert_eq!(late.settled(&id(1), 2).0, None, "once");
        assert!(late.orders.is_empty());
        // Counted when the order ended.
        late.remember(id(2), order(0, 800, &[(1, 1_000)]));
        assert_eq!(late.settled(&id(2), 1).0, None);
        late.remember(id(3), order(0, 0, &[(0, 1_000)]));
        late.failed(&id(3), 0);
        assert_eq!(late.settled(&id(3), 0).0, None);
        assert!(late.orders.is_empty());
    }

    #[test]
    fn so_many_orders_are_remembered_and_the_newest_stay() {
        let mut late = LatePayments::default();
        let mut disk = BTreeMap::new();
        for n in 0..3 * MAX_LATE as u64 {
            let order = LateOrder {
                ended: WallTime(n),
                ..order(0, 0, &[(0, 1)])
            };
            // Ids are drawn: their order says nothing of age.
            for row in late.remember(id(n ^ 0x5a5), order) {
                match row.value {
                    Some(value) => disk.insert(row.key, value),
                    None => disk.remove(&row.key),
                };
            }
        }
        assert_eq!((late.orders.len(), disk.len()), (MAX_LATE, MAX_LATE));
        let mut read = LatePayments::default();
        disk.iter()
            .for_each(|(key, value)| read.restore(key, value));
        assert_eq!(read.orders, late.orders);
        let newest = 3 * MAX_LATE as u64 - 1;
        assert!(late.settled(&id(newest ^ 0x5a5), 0).0.is_some());
        assert!(late.settled(&id(0x5a5), 0).0.is_none());
    }

    #[test]
    fn the_largest_order_fits_its_row() {
        let open =
            (0..limits::MAX_PAYMENTS_IN_FLIGHT as u32).map(|n| (u32::MAX - n, Msat(u64::MAX)));
        let largest = LateOrder {
            ended: WallTime(u64::MAX),
            owed: Msat(u64::MAX),
            settled: Msat(u64::MAX),
            open: open.collect(),
            ..order(0, 0, &[])
        };
        assert!(codec::encode(&largest).len() <= MAX_RECORD_BYTES);
    }
}
