//! How many invoices are unpaid, and whose they are.
//!
//! Not the invoices: those are `incoming`'s. Whoever opens an order gets one for nothing, so
//! those of strangers have bounds of their own, and cannot use up the room of buyers who paid.

use crate::ids::NodeKey;
use crate::limits;
use std::collections::BTreeMap;

/// Unpaid invoices of buyers who paid before, at once: as many as all orders can have under way.
pub(super) const MAX_KNOWN: usize = limits::MAX_ORDERS * limits::MAX_PAYMENTS_IN_FLIGHT;
/// Unpaid invoices of strangers at once: the entry payment of as many orders as there can be.
pub(super) const MAX_STRANGERS: usize = limits::MAX_ORDERS;
/// Of one buyer who paid before: sixteen orders with all payments under way.
pub(super) const MAX_OF_KNOWN: usize = 16 * limits::MAX_PAYMENTS_IN_FLIGHT;
/// Of one stranger: the entries of all orders that its peer may have unpaid, and one order with
/// all payments under way.
pub(super) const MAX_OF_STRANGER: usize =
    limits::MAX_UNPAID_PER_PEER + limits::MAX_PAYMENTS_IN_FLIGHT;

/// Whose an invoice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whose {
    /// The buyer, where it is known.
    pub buyer: Option<NodeKey>,
    /// It paid before.
    pub paid_before: bool,
}

/// Counts of unpaid invoices, those that the wallet still makes included.
#[derive(Debug, Default)]
pub(super) struct Unpaid {
    known: usize,
    strangers: usize,
    of: BTreeMap<(NodeKey, bool), usize>,
}

impl Unpaid {
    /// Returns why there is no room for one more, or `None` where there is.
    pub fn refuse(&self, whose: Whose) -> Option<String> {
        let (all, most, most_of_one, what) = match whose.paid_before {
            true => (self.known, MAX_KNOWN, MAX_OF_KNOWN, "buyers"),
            false => (self.strangers, MAX_STRANGERS, MAX_OF_STRANGER, "strangers"),
        };
        let key = whose.buyer.map(|buyer| (buyer, whose.paid_before));
        let of_one = key.and_then(|key| self.of.get(&key)).copied().unwrap_or(0);
        if of_one >= most_of_one {
            Some(format!(
                "{of_one} invoices of this buyer are unpaid, which is the most"
            ))
        } else if all >= most {
            Some(format!(
                "{all} invoices of {what} are unpaid, which is the most"
            ))
        } else {
            None
        }
    }

    /// One more.
    pub fn add(&mut self, whose: Whose) {
        match whose.paid_before {
            true => self.known += 1,
            false => self.strangers += 1,
        }
        if let Some(buyer) = whose.buyer {
            *self.of.entry((buyer, whose.paid_before)).or_default() += 1;
        }
    }

    /// One less: paid, dead, not made, or let go.
    pub fn remove(&mut self, whose: Whose) {
        match whose.paid_before {
            true => self.known = self.known.saturating_sub(1),
            false => self.strangers = self.strangers.saturating_sub(1),
        }
        let Some(key) = whose.buyer.map(|buyer| (buyer, whose.paid_before)) else {
            return;
        };
        if let Some(count) = self.of.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(buyer: Option<u8>, paid_before: bool) -> Whose {
        let buyer = buyer.map(|n| NodeKey([n; 32]));
        Whose { buyer, paid_before }
    }

    /// Adds until there is no room; returns how many that were.
    fn fill(unpaid: &mut Unpaid, whose: impl Fn(usize) -> Whose) -> usize {
        let mut count = 0;
        while unpaid.refuse(whose(count)).is_none() {
            unpaid.add(whose(count));
            count += 1;
        }
        count
    }

    #[test]
    fn each_buyer_and_each_kind_of_buyers_has_a_bound_of_its_own() {
        let mut unpaid = Unpaid::default();
        for (paid_before, of_one) in [(true, MAX_OF_KNOWN), (false, MAX_OF_STRANGER)] {
            for buyer in [1, 2] {
                let one = whose(Some(buyer), paid_before);
                assert_eq!(fill(&mut unpaid, |_| one), of_one);
                assert!(
                    unpaid
                        .refuse(one)
                        .is_some_and(|said| said.contains("this buyer"))
                );
            }
        }
        for (paid_before, all, of_one, what) in [
            (true, MAX_KNOWN, MAX_OF_KNOWN, "invoices of buyers"),
            (
                false,
                MAX_STRANGERS,
                MAX_OF_STRANGER,
                "invoices of strangers",
            ),
        ] {
            // Those of nobody known count in sum alone.
            let left = fill(&mut unpaid, |_| whose(None, paid_before));
            assert_eq!(left, all - 2 * of_one);
            let said = unpaid.refuse(whose(Some(3), paid_before));
            assert!(said.is_some_and(|said| said.contains(what)));
        }
    }

    #[test]
    fn one_less_makes_room_for_one_more_and_nothing_is_left_of_none() {
        for paid_before in [true, false] {
            let mut unpaid = Unpaid::default();
            let one = whose(Some(1), paid_before);
            let count = fill(&mut unpaid, |_| one);
            for _ in 0..3 {
                unpaid.remove(one);
            }
            assert_eq!(fill(&mut unpaid, |_| one), 3);
            for _ in 0..count {
                unpaid.remove(one);
            }
            assert_eq!((unpaid.known, unpaid.strangers), (0, 0));
            assert!(unpaid.of.is_empty());
        }
    }
}
