//! How far a buyer is trusted: the credit window, and what it owes.
//!
//! Not an order's running account: Inference spends the window without asking.
//! Called by [`super::Payment`] alone.
//!
//! # Rules
//! - A stranger has no window and prepays, [`Config::free_quota`] aside: once for each key, and
//!   for so many keys an hour of a peer, of an address, and in all.
//! - A window grows by what was paid on time, each settlement by its own amount at most. It
//!   exceeds neither what its key paid this host in all nor [`Config::window_cap`]. A late
//!   payment halves it, and so does each day without a settlement.
//! - Open orders of one buyer share its window. One that finds less of it than a quantum
//!   prepays. Once something was paid for an order it has a quantum at least, since less
//!   carries no stream, and the key has paid for it.
//! - A debt goes into the next orders, one quantum of it into each. It shrinks by being paid, and
//!   with time: it halves each day, and then what is no more than [`Config::tolerated_debt`]
//!   is written off, so that two books that disagree do not part a pair for ever. More than
//!   that makes the buyer a stranger.
//! - A payment that comes after its order was closed lowers the debt, and with it what open
//!   orders are still to collect: nothing is claimed twice.
//! - What is written off counts as never paid.
//!
//! # What a buyer can take and leave
//! What a key owes, what it may still take in open orders, and what was written off of its
//! debts are together never more than what it paid in all (and the free quota, once): `backing`
//! below. So leaving wins at most what was paid before, with one key or with many.

use super::Config;
use super::budget::DAY_MS;
use super::turn::{self, RecordError, Turn};
use crate::ids::{Caller, NodeKey, OrderId};
use crate::limits;
use crate::machine::Table;
use crate::message::inference::OrderAccount;
use crate::message::payment::Credit;
use crate::money::Msat;
use crate::quota::Quota;
use crate::refusal::{Code, Refusal};
use crate::time::{Now, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Buyers remembered: about 10 MB. Beyond it the one that owes least and paid longest ago
/// goes. Without a free quota each of them has paid, so nobody fills the table for free.
pub(super) const MAX_BUYERS: usize = 65_536;

/// Orders remembered that ended void: those of three minutes, an entry invoice's life, at 90 a
/// second. About 1 MB.
const MAX_VOID: usize = 16_384;

/// An order without a sign of life for this long no longer holds a part of the window. Milliseconds.
/// The longest answer, 131,072 tokens at ten a second, takes 3.6 hours.
const FORGOTTEN_MS: u64 = 4 * 3_600_000;

/// What is remembered of a buyer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    /// As of the last settlement.
    window: Msat,
    debt: Msat,
    settlements: u64,
    /// Time of the last settlement.
    last: WallTime,
    /// What the key paid in all, less what was written off; a free quota that it used up
    /// counts too.
    backing: Msat,
    /// When the debt last changed or was halved.
    owed_since: WallTime,
}

impl Standing {
    /// The window today: halved for each whole day since the last settlement.
    fn window_at(&self, wall: WallTime) -> Msat {
        halved(self.window, wall.ms_since(self.last) / DAY_MS)
    }

    /// The same with what is written off by now.
    fn aged(mut self, config: &Config, wall: WallTime) -> Standing {
        let days = wall.ms_since(self.owed_since) / DAY_MS;
        if self.debt == Msat::ZERO || days == 0 {
            return self;
        }
        let left = halved(self.debt, days);
        let left = match left <= config.tolerated_debt {
            true => Msat::ZERO,
            false => left,
        };
        let written_off = self.debt.saturating_sub(left);
        self.backing = self.backing.saturating_sub(written_off);
        self.window = self.window.min(self.backing);
        self.debt = left;
        self.owed_since = self.owed_since.after_ms(days.saturating_mul(DAY_MS));
        self
    }

    fn owe(&mut self, debt: Msat, wall: WallTime) {
        if self.debt != debt {
            self.owed_since = wall;
        }
        self.debt = debt;
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
    /// The most that it may still leave unpaid by its part of the buyer's window.
    lent: Msat,
    /// Its free quota, on top of that.
    quota: Msat,
    touched: WallTime,
}

impl OpenOrder {
    /// What it keeps from other orders of its buyer.
    fn committed(&self) -> Msat {
        self.lent.max(self.carried_left)
    }
}

/// How soon an invoice was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Punctuality {
    OnTime,
    Late,
    /// Found by a look-up: nobody knows when. It opens a window, and widens none.
    Unclear,
}

/// An invoice that was paid.
#[derive(Debug)]
pub(super) struct Settlement {
    pub order: OrderId,
    pub buyer: Option<NodeKey>,
    pub msat: Msat,
    pub punctuality: Punctuality,
    /// The order was closed before this payment came, so that its amount was booked as a debt.
    pub closed: bool,
}

/// All buyers and open orders.
#[derive(Debug)]
pub(super) struct Credits {
    buyers: BTreeMap<NodeKey, Standing>,
    orders: BTreeMap<OrderId, OpenOrder>,
    /// Orders that ended with nothing delivered and are not in the books, and their sequence.
    void: BTreeSet<OrderId>,
    voided: VecDeque<OrderId>,
    /// Free quotas given in this hour. Not kept over a restart.
    free: Quota,
}

impl Default for Credits {
    fn default() -> Self {
        Credits {
            buyers: BTreeMap::new(),
            orders: BTreeMap::new(),
            void: BTreeSet::new(),
            voided: VecDeque::new(),
            free: Quota::new(
                limits::FREE_QUOTAS_PER_ADDRESS,
                limits::FREE_QUOTAS_PER_ADDRESS,
                limits::FREE_QUOTAS,
            ),
        }
    }
}

impl Credits {
    /// Says how far the buyer of a new order is trusted.
    pub fn open(
        &mut self,
        turn: &mut Turn,
        config: &Config,
        order: OrderId,
        buyer: NodeKey,
        caller: &Caller,
        quantum: Msat,
    ) -> Result<Credit, Refusal> {
        let wall = turn.now.wall;
        self.forget_silent(turn, wall);
        if self.orders.len() >= limits::MAX_ORDERS {
            let text = format!("{} orders are open, which is the most", limits::MAX_ORDERS);
            return Err(Refusal::new(Code::Busy, text));
        }
        let known = self.standing(config, wall, &buyer);
        let standing = known.unwrap_or_default();
        let others = self.others(&buyer, &order);
        // One quantum at a time: a buyer whose node crashed owes up to a window, knows of
        // none of it, and takes no more than a remainder for an honest claim.
        let uncarried = standing.debt.saturating_sub(others.carried);
        let debt = uncarried.min(quantum);
        let free = standing
            .window_at(wall)
            .saturating_sub(others.committed)
            .min(others.room(&standing, uncarried.saturating_sub(debt)));
        let trusted = free >= quantum && standing.debt <= config.tolerated_debt;
        let lent = if trusted { free } else { Msat::ZERO };
        let quota = match known {
            None if others.count == 0 => self.free_quota(config, caller, turn.now),
            _ => Msat::ZERO,
        };
        let open = OpenOrder {
            buyer,
            quantum,
            carried: debt,
            carried_left: debt,
            lent,
            quota,
            touched: wall,
        };
        self.orders.insert(order, open);
        if debt > Msat::ZERO {
            turn.put(Table::Credit, &order_key(&order), &open);
        }
        let window = lent.saturating_add(quota);
        Ok(Credit {
            window,
            prepay: window == Msat::ZERO,
            debt,
        })
    }

    /// What a new key may use before it pays, as long as its caller, its address and all new keys
    /// had no more of it than they get in an hour.
    fn free_quota(&mut self, config: &Config, caller: &Caller, now: Now) -> Msat {
        let spent = || self.free.wait_ms(caller, 1, now.tick) > 0;
        if config.free_quota == Msat::ZERO || spent() {
            return Msat::ZERO;
        }
        self.free.take(caller, 1, now.tick);
        config.free_quota
    }

    /// Returns whether the order is open, or ended without a trace a while ago.
    pub fn knows(&self, order: &OrderId) -> bool {
        self.is_open(order) || self.is_void(order)
    }

    /// Returns whether the order is open.
    pub fn is_open(&self, order: &OrderId) -> bool {
        self.orders.contains_key(order)
    }

    /// Remembers for a while that an order ended without a trace in the books.
    pub fn close_void(&mut self, order: OrderId) {
        if self.void.insert(order) {
            self.voided.push_back(order);
        }
        if self.voided.len() > MAX_VOID
            && let Some(oldest) = self.voided.pop_front()
        {
            self.void.remove(&oldest);
        }
    }

    /// Returns whether the order ended that way.
    pub fn is_void(&self, order: &OrderId) -> bool {
        self.void.contains(order)
    }

    /// Returns whether a buyer paid us as much as a default quantum in all.
    pub fn paid_before(&self, config: &Config, buyer: &NodeKey) -> bool {
        self.buyers.get(buyer).is_some_and(|standing| {
            standing.settlements > 0 && standing.backing >= config.tolerated_debt
        })
    }

    /// Returns the buyer of an open order.
    pub fn buyer_of(&self, order: &OrderId) -> Option<NodeKey> {
        self.orders.get(order).map(|open| open.buyer)
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
        let known = self.standing(config, wall, &buyer);
        let mut standing = known.unwrap_or_default();
        standing.backing = standing.backing.saturating_add(paid.msat);
        standing.window = grown(config, &standing, wall, paid);
        standing.settlements = standing.settlements.saturating_add(1);
        standing.last = wall;
        let others = self.others(&buyer, &paid.order);
        let window = match self.orders.get_mut(&paid.order) {
            Some(open) => {
                let part = open.carried_left.min(paid.msat);
                open.carried_left = open.carried_left.saturating_sub(part);
                open.touched = wall;
                standing.owe(standing.debt.saturating_sub(part), wall);
                let elsewhere = others.carried.saturating_add(open.carried_left);
                let uncarried = standing.debt.saturating_sub(elsewhere);
                let room = others.room(&standing, uncarried);
                let free = standing.window.saturating_sub(others.committed).min(room);
                let window = free.max(open.quantum.min(room));
                // What it was allowed before may have been delivered already.
                open.lent = window.max(open.lent.saturating_sub(paid.msat));
                if open.carried > Msat::ZERO {
                    turn.put(Table::Credit, &order_key(&paid.order), open);
                }
                window.saturating_add(open.quota)
            }
            None if paid.closed => {
                standing.owe(standing.debt.saturating_sub(paid.msat), wall);
                self.collect_at_most(turn, &buyer, standing.debt);
                standing.window
            }
            // From before a restart, and not yet closed: closing it will count what was received.
            None => standing.window,
        };
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
        let wall = turn.now.wall;
        let buyer = account.counterparty;
        let known = self.buyers.get(&buyer).copied();
        let aged = self.standing(config, wall, &buyer);
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
        // Whatever broke the order off, our own crash too: what it had to collect for others is owed.
        let unpaid = unpaid.min(most).max(left);
        let mut standing = aged.unwrap_or_default();
        let debt = standing.debt.saturating_sub(left).saturating_add(unpaid);
        standing.owe(debt, wall);
        if let Some(open) = open {
            let by_quota = unpaid.min(open.quota);
            standing.backing = standing.backing.saturating_add(by_quota);
        }
        if standing.debt > config.tolerated_debt {
            standing.window = Msat::ZERO;
        }
        // A free quota is given once, so its use is remembered too.
        let lent = |open: OpenOrder| open.lent.saturating_add(open.quota) > Msat::ZERO;
        let used = unpaid > Msat::ZERO || open.is_some_and(lent);
        if known != Some(standing) && (known.is_some() || used) {
            self.remember(turn, buyer, standing);
        }
    }

    /// Returns the sum of all debts to us.
    pub fn owed(&self, config: &Config, wall: WallTime) -> Msat {
        let standings = self.buyers.values();
        sum(standings.map(|standing| standing.aged(config, wall).debt))
    }

    /// Loads one stored record.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let wrong = RecordError::Key { bytes: key.len() };
        match key.split_first() {
            Some((b'c', id)) => {
                let id = <[u8; 32]>::try_from(id).map_err(|_| wrong)?;
                self.buyers.insert(NodeKey(id), turn::decode(value)?);
            }
            // Written before windows were bounded by what was paid: nobody knows what that was.
            Some((b'b', _)) => {}
            Some((b'o', id)) => {
                let id = <[u8; 16]>::try_from(id).map_err(|_| wrong)?;
                self.orders.insert(OrderId(id), turn::decode(value)?);
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    /// A buyer's standing now. While an open order is to collect debt of it none is written off.
    fn standing(&self, config: &Config, wall: WallTime, buyer: &NodeKey) -> Option<Standing> {
        let standing = *self.buyers.get(buyer)?;
        let collects = |open: &OpenOrder| open.buyer == *buyer && open.carried_left > Msat::ZERO;
        match self.orders.values().any(collects) {
            true => Some(standing),
            false => Some(standing.aged(config, wall)),
        }
    }

    /// Lowers what open orders of a buyer are to collect to what it still owes.
    fn collect_at_most(&mut self, turn: &mut Turn, buyer: &NodeKey, debt: Msat) {
        let mut left = debt;
        for (id, open) in &mut self.orders {
            if open.buyer != *buyer || open.carried_left == Msat::ZERO {
                continue;
            }
            let forgiven = open.carried_left.saturating_sub(left);
            left = left.saturating_sub(open.carried_left);
            open.carried = open.carried.saturating_sub(forgiven);
            open.carried_left = open.carried_left.saturating_sub(forgiven);
            match open.carried {
                Msat::ZERO => turn.delete(Table::Credit, &order_key(id)),
                _ => turn.put(Table::Credit, &order_key(id), open),
            }
        }
    }

    /// The other open orders of a buyer, in sum.
    fn others(&self, buyer: &NodeKey, except: &OrderId) -> Others {
        let mut others = Others::default();
        for (id, open) in &self.orders {
            if open.buyer == *buyer && id != except {
                others.count += 1;
                others.carried = others.carried.saturating_add(open.carried_left);
                others.committed = others.committed.saturating_add(open.committed());
            }
        }
        others
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

    /// Drops orders that nobody closed and that have been silent for long.
    fn forget_silent(&mut self, turn: &mut Turn, wall: WallTime) {
        self.orders.retain(|id, open| {
            let keep = wall.ms_since(open.touched) <= FORGOTTEN_MS;
            if !keep && open.carried > Msat::ZERO {
                turn.delete(Table::Credit, &order_key(id));
            }
            keep
        });
    }
}

/// Open orders of a buyer, all but one.
#[derive(Debug, Default)]
struct Others {
    count: usize,
    /// Debts that they are to collect.
    carried: Msat,
    /// What they may leave unpaid.
    committed: Msat,
}

impl Others {
    /// What the buyer's payments leave for one more order, beside debts that no order collects.
    fn room(&self, standing: &Standing, uncarried: Msat) -> Msat {
        standing
            .backing
            .saturating_sub(uncarried)
            .saturating_sub(self.committed)
    }
}

/// The window after a settlement that is in the backing already.
fn grown(config: &Config, standing: &Standing, wall: WallTime, paid: &Settlement) -> Msat {
    let window = standing.window_at(wall);
    let grown = match paid.punctuality {
        Punctuality::OnTime => window.saturating_add(paid.msat),
        Punctuality::Late => halved(window, 1),
        Punctuality::Unclear => window.max(paid.msat),
    };
    grown.min(config.window_cap).min(standing.backing)
}

fn halved(msat: Msat, times: u64) -> Msat {
    let times = u32::try_from(times).unwrap_or(u32::MAX);
    Msat(msat.0.checked_shr(times).unwrap_or(0))
}

fn sum(parts: impl Iterator<Item = Msat>) -> Msat {
    parts.fold(Msat::ZERO, Msat::saturating_add)
}

fn buyer_key(buyer: &NodeKey) -> Vec<u8> {
    [b"c".as_slice(), buyer.as_bytes().as_slice()].concat()
}

fn order_key(order: &OrderId) -> Vec<u8> {
    [b"o".as_slice(), order.as_bytes().as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Tick;

    fn buyer(number: u64) -> NodeKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        NodeKey(key)
    }

    fn turn() -> Turn {
        Turn::new(Now {
            tick: Tick(0),
            wall: WallTime(0),
        })
    }

    #[test]
    fn beyond_a_number_the_buyer_that_owes_least_and_paid_longest_ago_is_forgotten() {
        let mut credits = Credits::default();
        let standing = |debt, last| Standing {
            debt: Msat(debt),
            last: WallTime(last),
            settlements: 1,
            ..Standing::default()
        };
        let most = MAX_BUYERS as u64;
        for number in 0..most {
            // The first owes, the second paid last.
            let last = if number == 1 { most } else { number };
            let standing = standing(u64::from(number == 0), last);
            credits.remember(&mut turn(), buyer(number), standing);
        }
        assert_eq!(credits.buyers.len(), MAX_BUYERS);
        // Who comes stays, though nobody paid longer ago.
        credits.remember(&mut turn(), buyer(most), standing(0, 0));
        let known = |number| credits.buyers.contains_key(&buyer(number));
        assert_eq!(credits.buyers.len(), MAX_BUYERS);
        assert_eq!(
            [0, 1, 2, 3, most].map(known),
            [true, true, false, true, true]
        );
    }

    #[test]
    fn orders_that_ended_void_are_remembered_for_a_while() {
        let mut credits = Credits::default();
        let order = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            OrderId(id)
        };
        let most = MAX_VOID as u64;
        for number in (0..most).chain(0..most) {
            credits.close_void(order(number));
        }
        assert!((0..most).all(|number| credits.is_void(&order(number))));
        credits.close_void(order(most));
        let known = |number| credits.is_void(&order(number));
        assert_eq!([0, 1, most].map(known), [false, true, true]);
        assert_eq!(credits.void.len(), credits.voided.len());
    }
}
