//! How far a buyer is trusted: the credit window, and what it owes.
//!
//! Not an order's running account: Inference spends the window without asking.
//! Called by [`super::Payment`] alone.
//!
//! # Rules
//! - A stranger has no window and prepays ([`Config::free_quota`] aside).
//! - The first settlement opens two quanta; each further one doubles the window up
//!   to [`Config::window_cap`]; a late one halves it, to two quanta at least, since
//!   less carries no stream.
//! - The window halves with each day without a settlement. Below two quanta the
//!   buyer is a stranger again.
//! - Open orders of one buyer share its window; one that finds less than two quanta
//!   of it prepays.
//! - A debt goes into the next orders, one quantum of it into each, and shrinks only by being
//!   paid. More than [`Config::tolerated_debt`] makes the buyer a stranger.

use super::Config;
use super::budget::DAY_MS;
use super::io::OrderAccount;
use super::turn::{self, RecordError, Turn};
use crate::ids::{NodeKey, OrderId};
use crate::limits;
use crate::machine::Table;
use crate::money::Msat;
use crate::route::Message;
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Buyers remembered: about 10 MB. Beyond it the one that owes least and paid longest ago
/// goes. Without a free quota each of them has paid, so nobody fills the table for free.
pub(super) const MAX_BUYERS: usize = 65_536;

/// An order without a sign of life for this long no longer holds a part of the window. Milliseconds.
/// Invoices live for minutes; an hour is past all of them.
const FORGOTTEN_MS: u64 = 3_600_000;

/// What is remembered of a buyer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    window: Msat,
    debt: Msat,
    settlements: u64,
    last: WallTime,
}

impl Standing {
    /// The window today: halved for each whole day since the last settlement.
    fn window_at(&self, wall: WallTime) -> Msat {
        let days = wall.ms_since(self.last) / DAY_MS;
        let shift = u32::try_from(days).unwrap_or(u32::MAX);
        Msat(self.window.0.checked_shr(shift).unwrap_or(0))
    }
}

/// An order that is open on the host side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OpenOrder {
    buyer: NodeKey,
    quantum: Msat,
    /// Debt that this order was told to collect.
    carried: Msat,
    /// What of it is not yet paid.
    carried_left: Msat,
    /// Its part of the buyer's window.
    lent: Msat,
    touched: WallTime,
}

/// How soon an invoice was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Punctuality {
    OnTime,
    Late,
    /// Found by a look-up: nobody knows when.
    Unclear,
}

/// An invoice that was paid.
#[derive(Debug)]
pub(super) struct Settlement {
    pub order: OrderId,
    pub buyer: Option<NodeKey>,
    pub quantum: Msat,
    pub msat: Msat,
    pub punctuality: Punctuality,
    /// The order was closed before this payment came, so that its amount was booked as a debt.
    pub closed: bool,
}

/// All buyers and open orders.
#[derive(Debug, Default)]
pub(super) struct Credits {
    buyers: BTreeMap<NodeKey, Standing>,
    orders: BTreeMap<OrderId, OpenOrder>,
    /// Orders that ended with nothing delivered and are not in the books.
    void: VecDeque<OrderId>,
}

impl Credits {
    /// Says how far the buyer of a new order is trusted.
    pub fn open(
        &mut self,
        turn: &mut Turn,
        config: &Config,
        order: OrderId,
        buyer: NodeKey,
        quantum: Msat,
    ) {
        let wall = turn.now.wall;
        self.make_room(turn, wall);
        if let Some(open) = self.orders.get(&order) {
            // Ids are drawn by buyers: a second use of one changes nothing and is trusted with nothing.
            let same = open.buyer == buyer;
            let (window, debt) = if same {
                (open.lent, open.carried)
            } else {
                Default::default()
            };
            return opened(turn, order, window, debt);
        }
        let known = self.buyers.get(&buyer).copied();
        let standing = known.unwrap_or_default();
        let elsewhere = self.of_buyer(&buyer, &order);
        let carried_elsewhere = sum(elsewhere.iter().map(|open| open.carried_left));
        let lent_elsewhere = sum(elsewhere.iter().map(|open| open.lent));
        // One quantum at a time: a buyer whose node crashed owes up to a window, knows of
        // none of it, and takes no more than a remainder for an honest claim.
        let debt = standing.debt.saturating_sub(carried_elsewhere).min(quantum);
        let free = standing.window_at(wall).saturating_sub(lent_elsewhere);
        let trusted = free >= two(quantum) && standing.debt <= config.tolerated_debt;
        let quota = known.is_none() && elsewhere.is_empty() && config.free_quota > Msat::ZERO;
        let lent = match (trusted, quota) {
            (true, _) => free,
            (false, true) => config.free_quota,
            (false, false) => Msat::ZERO,
        };
        let open = OpenOrder {
            buyer,
            quantum,
            carried: debt,
            carried_left: debt,
            lent,
            touched: wall,
        };
        self.orders.insert(order, open);
        if debt > Msat::ZERO {
            turn.put(Table::Credit, &order_key(&order), &open);
        }
        opened(turn, order, lent, debt);
    }

    /// Remembers for a while that an order ended without a trace in the books.
    pub fn close_void(&mut self, order: OrderId) {
        self.void.push_back(order);
        if self.void.len() > limits::MAX_ORDERS {
            self.void.pop_front();
        }
    }

    /// Returns whether the order ended that way.
    pub fn is_void(&self, order: &OrderId) -> bool {
        self.void.contains(order)
    }

    /// Returns an order's buyer and quantum; an order nobody asked about has the invoice's amount.
    pub fn of(&self, order: &OrderId, msat: Msat) -> (Option<NodeKey>, Msat) {
        match self.orders.get(order) {
            Some(open) => (Some(open.buyer), open.quantum),
            None => (None, msat),
        }
    }

    /// The order shows a sign of life.
    pub fn touch(&mut self, now: Now, order: &OrderId) {
        if let Some(open) = self.orders.get_mut(order) {
            open.touched = now.wall;
        }
    }

    /// An invoice was paid: returns the window of its order from now on.
    pub fn settled(&mut self, turn: &mut Turn, config: &Config, paid: &Settlement) -> Msat {
        let Some(buyer) = paid.buyer else {
            return Msat::ZERO;
        };
        let wall = turn.now.wall;
        let mut standing = self.buyers.get(&buyer).copied().unwrap_or_default();
        standing.window = grown(config, &standing, wall, paid);
        standing.settlements = standing.settlements.saturating_add(1);
        standing.last = wall;
        let window = match self.orders.get_mut(&paid.order) {
            Some(open) => {
                let part = open.carried_left.min(paid.msat);
                open.carried_left = open.carried_left.saturating_sub(part);
                open.touched = wall;
                standing.debt = standing.debt.saturating_sub(part);
                if open.carried > Msat::ZERO {
                    turn.put(Table::Credit, &order_key(&paid.order), open);
                }
                let others = self.of_buyer(&buyer, &paid.order);
                let lent = sum(others.iter().map(|open| open.lent));
                let free = standing.window.saturating_sub(lent);
                free.max(two(paid.quantum))
            }
            None if paid.closed => {
                standing.debt = standing.debt.saturating_sub(paid.msat);
                standing.window
            }
            // From before a restart, and not yet closed: closing it will count what was received.
            None => standing.window,
        };
        if let Some(open) = self.orders.get_mut(&paid.order) {
            open.lent = window;
        }
        self.remember(turn, buyer, standing);
        window
    }

    /// The order is over: what is unpaid becomes the buyer's debt.
    ///
    /// `received` is what the books say was paid for it, so that a payment booked after
    /// Inference last wrote is not claimed twice.
    pub fn close(
        &mut self,
        turn: &mut Turn,
        config: &Config,
        account: &OrderAccount,
        unpaid: Msat,
        received: Msat,
    ) {
        let open = self.orders.remove(&account.order);
        let (carried, left) = open.map_or((Msat::ZERO, Msat::ZERO), |open| {
            (open.carried, open.carried_left)
        });
        if carried > Msat::ZERO {
            turn.delete(Table::Credit, &order_key(&account.order));
        }
        let most = account
            .cost
            .saturating_add(carried)
            .saturating_sub(received);
        let unpaid = unpaid.min(most);
        let buyer = account.counterparty;
        let known = self.buyers.get(&buyer).copied();
        let mut standing = known.unwrap_or_default();
        standing.debt = standing.debt.saturating_sub(left).saturating_add(unpaid);
        if standing.debt > config.tolerated_debt {
            standing.window = Msat::ZERO;
        }
        // A free quota is given once, so its use is remembered too.
        let used = unpaid > Msat::ZERO || open.is_some_and(|open| open.lent > Msat::ZERO);
        if known != Some(standing) && (known.is_some() || used) {
            self.remember(turn, buyer, standing);
        }
    }

    /// Returns the sum of all debts to us.
    pub fn owed(&self) -> Msat {
        sum(self.buyers.values().map(|standing| standing.debt))
    }

    /// Loads one stored record.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let wrong = RecordError::Key { bytes: key.len() };
        match key.split_first() {
            Some((b'b', id)) => {
                let id = <[u8; 32]>::try_from(id).map_err(|_| wrong)?;
                self.buyers.insert(NodeKey(id), turn::decode(value)?);
            }
            Some((b'o', id)) => {
                let id = <[u8; 16]>::try_from(id).map_err(|_| wrong)?;
                self.orders.insert(OrderId(id), turn::decode(value)?);
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    fn of_buyer(&self, buyer: &NodeKey, except: &OrderId) -> Vec<OpenOrder> {
        self.orders
            .iter()
            .filter(|(id, open)| open.buyer == *buyer && *id != except)
            .map(|(_, open)| *open)
            .collect()
    }

    fn remember(&mut self, turn: &mut Turn, buyer: NodeKey, standing: Standing) {
        turn.put(Table::Credit, &buyer_key(&buyer), &standing);
        self.buyers.insert(buyer, standing);
        while self.buyers.len() > MAX_BUYERS {
            let oldest = self
                .buyers
                .iter()
                .filter(|(key, _)| **key != buyer)
                .min_by_key(|(_, standing)| (standing.debt, standing.last))
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.buyers.remove(&oldest);
            turn.delete(Table::Credit, &buyer_key(&oldest));
        }
    }

    /// Drops orders that nobody closed: the silent ones, and the oldest beyond the bound.
    fn make_room(&mut self, turn: &mut Turn, wall: WallTime) {
        let mut dead: Vec<OrderId> = self
            .orders
            .iter()
            .filter(|(_, open)| wall.ms_since(open.touched) > FORGOTTEN_MS)
            .map(|(id, _)| *id)
            .collect();
        if dead.is_empty() && self.orders.len() >= limits::MAX_ORDERS {
            dead.extend(
                self.orders
                    .iter()
                    .min_by_key(|(_, open)| open.touched)
                    .map(|(id, _)| *id),
            );
        }
        for id in dead {
            if self
                .orders
                .remove(&id)
                .is_some_and(|open| open.carried > Msat::ZERO)
            {
                turn.delete(Table::Credit, &order_key(&id));
            }
        }
    }
}

fn opened(turn: &mut Turn, order: OrderId, window: Msat, debt: Msat) {
    turn.tell(Message::CreditOpened {
        order,
        window,
        prepay: window == Msat::ZERO,
        debt,
    });
}

/// The window after a settlement.
fn grown(config: &Config, standing: &Standing, wall: WallTime, paid: &Settlement) -> Msat {
    let least = two(paid.quantum);
    let most = config.window_cap.max(least);
    let window = standing.window_at(wall);
    let grown = match paid.punctuality {
        _ if window < least => least,
        Punctuality::OnTime => window.saturating_add(window),
        Punctuality::Late => Msat(window.0 / 2),
        Punctuality::Unclear => window,
    };
    grown.min(most).max(least)
}

fn two(quantum: Msat) -> Msat {
    quantum.saturating_add(quantum)
}

fn sum(parts: impl Iterator<Item = Msat>) -> Msat {
    parts.fold(Msat::ZERO, Msat::saturating_add)
}

fn buyer_key(buyer: &NodeKey) -> Vec<u8> {
    [b"b".as_slice(), buyer.as_bytes().as_slice()].concat()
}

fn order_key(order: &OrderId) -> Vec<u8> {
    [b"o".as_slice(), order.as_bytes().as_slice()].concat()
}
