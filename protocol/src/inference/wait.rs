//! How soon an order that is paid for now would begin: what terms announce.
//!
//! Not the queue: the inference machine gives places, in the order of payment. What is
//! announced is what is to be expected. But nobody knows when an answer ends before its last
//! token, and a buyer that has paid leaves after twice what was announced and
//! [`limits::FIRST_TOKEN_MS`]; so as much is announced as makes it wait for the longest that
//! the answers ahead may take, and an eighth more. Who does not wait so long is told so before it pays.

use crate::ids::{ModelDigest, OrderId};
use crate::limits;
use crate::order::host::{HostOrder, State};
use crate::time::{Now, Tick};
use std::collections::BTreeMap;

/// The part by which an answer may take longer than by the speed that is measured.
const MARGIN: u64 = 8;
/// What an order takes before any was served. Milliseconds.
const TYPICAL_ORDER_MS: u64 = 10_000;

/// How orders of a model went here, slowly averaged.
#[derive(Debug, Clone, Copy)]
struct Pace {
    order_ms: u64,
    /// Microseconds for a unit of output; 0: no order had any.
    unit_us: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            order_ms: TYPICAL_ORDER_MS,
            unit_us: 0,
        }
    }
}

fn averaged(known: u64, new: u64) -> u64 {
    known.saturating_mul(7).saturating_add(new) / 8
}

/// How long orders take, by model.
#[derive(Debug, Default)]
pub(super) struct Waits {
    paces: BTreeMap<ModelDigest, Pace>,
}

/// How much longer an order may hold its place. Milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    expected: u64,
    longest: u64,
}

impl Waits {
    /// Learns from the orders that no longer run.
    pub fn learn(&mut self, hosts: &mut BTreeMap<OrderId, HostOrder>, now: Now) {
        for order in hosts.values_mut() {
            let Some(took) = order.took_ms(now.tick) else {
                continue;
            };
            let pace = self.paces.entry(order.model()).or_default();
            pace.order_ms = averaged(pace.order_ms, took);
            if let Some(us) = took.saturating_mul(1_000).checked_div(order.delivered()) {
                pace.unit_us = match pace.unit_us {
                    0 => us,
                    known => averaged(known, us),
                };
            }
        }
    }

    /// Forgets models that are no longer served.
    pub fn keep(&mut self, served: impl Fn(&ModelDigest) -> bool) {
        self.paces.retain(|model, _| served(model));
    }

    /// How soon an order of `model` would begin behind those that run and those that paid, on
    /// `slots` places. Milliseconds.
    pub fn starts_within(
        &self,
        hosts: &BTreeMap<OrderId, HostOrder>,
        model: &ModelDigest,
        slots: u32,
        now: Tick,
    ) -> u64 {
        let pace = self.paces.get(model).copied().unwrap_or_default();
        let ahead = |state| {
            let orders = hosts.values();
            orders.filter(move |one| one.model() == *model && one.state == state)
        };
        let mut places: Vec<Left> = ahead(State::Running)
            .map(|order| left(pace, order, now))
            .collect();
        places.resize(places.len().max(slots.max(1) as usize), Left::default());
        for order in ahead(State::Queued) {
            let left = left(pace, order, now);
            next(&mut places, |place| &mut place.expected, left.expected);
            next(&mut places, |place| &mut place.longest, left.longest);
        }
        let soonest = |of: fn(&Left) -> u64| places.iter().map(of).min().unwrap_or(0);
        let longest = soonest(|place| place.longest);
        let longest = longest.saturating_add(longest / MARGIN);
        let patience = longest.saturating_sub(limits::FIRST_TOKEN_MS).div_ceil(2);
        soonest(|place| place.expected).max(patience)
    }
}

fn left(pace: Pace, order: &HostOrder, now: Tick) -> Left {
    let ran = order.ran_ms(now);
    let own_us = ran.saturating_mul(1_000).checked_div(order.delivered());
    let unit_us = own_us.unwrap_or(0).max(pace.unit_us);
    // An order that took longer than others do is expected to take as long again.
    let usual = match pace.order_ms.checked_sub(ran) {
        Some(left) if left > 0 => left,
        _ => ran,
    };
    match unit_us {
        0 => Left {
            expected: usual,
            longest: usual,
        },
        us => {
            let longest = order.left().saturating_mul(us) / 1_000;
            Left {
                expected: usual.min(longest),
                longest,
            }
        }
    }
}

/// Puts `more` behind what is over first.
fn next(places: &mut [Left], of: fn(&mut Left) -> &mut u64, more: u64) {
    if let Some(place) = places.iter_mut().map(of).min_by_key(|ms| **ms) {
        *place = place.saturating_add(more);
    }
}
