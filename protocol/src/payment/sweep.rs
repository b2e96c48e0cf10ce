//! Lets the wallet forget what ended long ago, so that its own store has an end.
//!
//! The books keep every row. What is asked of the wallet is written down first, so an
//! entry is swept once; one that a crash comes between stays in the wallet, which is harmless.
//! Invoices that nobody paid go as soon as nobody can pay them any more: strangers cause them
//! for free. Those may be named again when their row comes of age.

use super::Payment;
use super::budget::DAY_MS;
use super::io::{Effect, EntryState, LedgerEntry, Side};
use super::ledger::MAX_HASHES;
use super::turn::{self, Extra, RecordError, Turn};
use crate::ids::PaymentHash;
use crate::machine::Table;
use crate::money::Msat;
use crate::time::{Tick, WallTime};
use std::collections::VecDeque;

/// Most payments in one effect: some 10 KB of hashes, and a short transaction for the wallet.
const MAX_SWEPT: usize = 256;

/// Pause between two sweeps. Milliseconds.
const SWEEP_MS: u64 = 3_600_000;

/// Pause after a sweep that was full. Milliseconds. At 256 a minute it outruns four strangers
/// a second.
const FULL_SWEEP_MS: u64 = 60_000;

/// Key in [`Table::Outgoing`] of how far the sweep has come.
pub(super) const SWEPT: &[u8] = b"swept";

/// Entries that the wallet still knows.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Row, when it was written, hash; oldest first, as many as there are hashes in memory.
    waiting: VecDeque<(u64, WallTime, PaymentHash)>,
    /// When it is past being paid, and hash, of invoices that nobody paid in this run.
    unpaid: VecDeque<(WallTime, PaymentHash)>,
    /// Rows before it were swept.
    from: u64,
    /// When the next one may be.
    next: Tick,
}

impl Sweep {
    /// A row was appended or loaded.
    pub fn add(&mut self, row: u64, entry: &LedgerEntry) {
        self.waiting.push_back((row, entry.created, entry.hash));
        if self.waiting.len() > MAX_HASHES {
            self.waiting.pop_front();
        }
    }

    /// An invoice was not paid, and cannot be after `dead`.
    pub fn add_unpaid(&mut self, dead: WallTime, hash: PaymentHash) {
        self.unpaid.push_back((dead, hash));
        if self.unpaid.len() > MAX_HASHES {
            self.unpaid.pop_front();
        }
    }

    /// Loads how far it has come.
    pub fn load(&mut self, value: &[u8]) -> Result<(), RecordError> {
        self.from = turn::decode::<Extra>(value)?.row;
        Ok(())
    }

    /// Everything is loaded: drops what was swept before.
    pub fn begin(&mut self) {
        let swept = self.waiting.partition_point(|(row, ..)| *row < self.from);
        self.waiting.drain(..swept);
    }
}

impl Payment {
    /// Asks the wallet to forget what is due, if an hour has passed since it was last asked.
    pub(super) fn sweep(&mut self, turn: &mut Turn) {
        let kept_ms = self.config.retention_days.saturating_mul(DAY_MS);
        if kept_ms == 0 || turn.now.tick < self.sweep.next {
            return;
        }
        let mut hashes = Vec::new();
        self.sweep_unpaid(turn.now.wall, &mut hashes);
        self.sweep_old(turn, kept_ms, &mut hashes);
        let pause = match hashes.len() < MAX_SWEPT {
            true => SWEEP_MS,
            false => FULL_SWEEP_MS,
        };
        self.sweep.next = turn.now.tick.after_ms(pause);
        if !hashes.is_empty() {
            turn.then(Effect::ForgetPayments { hashes });
        }
    }

    fn sweep_unpaid(&mut self, wall: WallTime, hashes: &mut Vec<PaymentHash>) {
        while let Some((dead, hash)) = self.sweep.unpaid.front().copied()
            && hashes.len() < MAX_SWEPT
            && dead < wall
        {
            self.sweep.unpaid.pop_front();
            // Paid late: kept like any other payment.
            let entry = self.ledger.find(Side::Host, &hash);
            if entry.is_none_or(|(_, entry, _)| entry.state != EntryState::Settled) {
                hashes.push(hash);
            }
        }
    }

    fn sweep_old(&mut self, turn: &mut Turn, kept_ms: u64, hashes: &mut Vec<PaymentHash>) {
        let before = self.sweep.from;
        while let Some((row, created, hash)) = self.sweep.waiting.front().copied()
            && hashes.len() < MAX_SWEPT
            && turn.now.wall.ms_since(created) >= kept_ms
        {
            self.sweep.waiting.pop_front();
            self.sweep.from = row.saturating_add(1);
            // Of open fate after so long: asked after for as long as it takes.
            if !self.sagas.contains_key(&hash) && !self.invoices.contains_key(&hash) {
                hashes.push(hash);
            }
        }
        if self.sweep.from != before {
            let row = self.sweep.from;
            let msat = Msat::ZERO;
            turn.put(Table::Outgoing, SWEPT, &Extra { row, msat });
        }
    }
}
