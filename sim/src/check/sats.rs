//! Sats are neither made nor lost: channels, fees and amounts under way have one sum.

use super::{Checker, Facts, Seen};

/// The judge.
pub struct Sats;

impl Checker for Sats {
    fn name(&self) -> &'static str {
        "sats-conserved"
    }

    fn see(&mut self, _facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Total { now, before } if now != before => Some(format!(
                "all wallets held {before} msat together, now {now}"
            )),
            _ => None,
        }
    }
}
