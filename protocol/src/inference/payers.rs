//! Keys that paid this host since it started, and how much each: their orders stand apart from
//! those of strangers from the first byte on, before anybody asks Payment.
//!
//! Not credit: what a key may leave unpaid is Payment's to say.

use crate::ids::NodeKey;
use crate::money::Msat;
use std::collections::BTreeMap;

/// Keys that are remembered. The one that paid longest ago is forgotten first.
const MAX_PAYERS: usize = 8_192;

#[derive(Debug, Default)]
struct Paid {
    sum: Msat,
    /// The number of its last payment.
    last: u64,
}

/// What keys paid in this run.
#[derive(Debug, Default)]
pub(crate) struct Payers {
    keys: BTreeMap<NodeKey, Paid>,
    /// Keys by the number of their last payment.
    order: BTreeMap<u64, NodeKey>,
    payments: u64,
}

impl Payers {
    /// A payment of a key was settled.
    pub fn paid(&mut self, key: NodeKey, msat: Msat) {
        if msat == Msat::ZERO {
            return;
        }
        self.payments = self.payments.saturating_add(1);
        let paid = self.keys.entry(key).or_default();
        self.order.remove(&paid.last);
        paid.sum = paid.sum.saturating_add(msat);
        paid.last = self.payments;
        self.order.insert(self.payments, key);
        if self.keys.len() > MAX_PAYERS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.keys.remove(&oldest);
        }
    }

    /// Whether a key paid a step for each of so many orders.
    pub fn covers(&self, key: &NodeKey, orders: usize, step: Msat) -> bool {
        let each = step.max(Msat(1));
        let paid = self.keys.get(key).map_or(0, |paid| paid.sum.0);
        (paid / each.0) >= orders as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> NodeKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        NodeKey(key)
    }

    #[test]
    fn a_key_stands_for_as_many_orders_as_it_paid_steps() {
        let mut payers = Payers::default();
        assert!(!payers.covers(&key(1), 1, Msat(1_000)));
        payers.paid(key(1), Msat(999));
        assert!(!payers.covers(&key(1), 1, Msat(1_000)));
        payers.paid(key(1), Msat(1_001));
        let covers = |orders| payers.covers(&key(1), orders, Msat(1_000));
        assert_eq!([1, 2, 3].map(covers), [true, true, false]);
        assert!(!payers.covers(&key(2), 1, Msat::ZERO));
    }

    #[test]
    fn the_key_that_paid_longest_ago_is_forgotten_first() {
        let mut payers = Payers::default();
        let most = MAX_PAYERS as u64;
        for number in 0..most {
            payers.paid(key(number), Msat(1));
        }
        payers.paid(key(0), Msat(1));
        payers.paid(key(most), Msat(0));
        payers.paid(key(most + 1), Msat(1));
        let known = |number| payers.covers(&key(number), 1, Msat(1));
        let asked = [0, 1, 2, most, most + 1];
        assert_eq!(asked.map(known), [true, false, true, false, true]);
        assert_eq!(
            (payers.keys.len(), payers.order.len()),
            (MAX_PAYERS, MAX_PAYERS)
        );
    }
}
