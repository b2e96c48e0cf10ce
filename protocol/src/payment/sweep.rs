//! Lets the wallet forget what ended long ago, so that its own store has an end.
//!
//! The books keep every row. What is asked of the wallet is written down first, so an
//! entry is swept once; one that a crash comes between stays in the wallet, which is harmless.
//! Invoices that nobody paid go as soon as the wallet lets them go: strangers cause them
//! for free. Those may be named again when their row comes of age.

use super::Payment;
use super::budget::DAY_MS;
use super::ledger::MAX_HASHES;
use super::turn::{self, Extra, RecordError, Turn};
use crate::ids::PaymentHash;
use crate::machine::Table;
use crate::message::payment::{Effect, EntryState, LedgerEntry, Side};
use crate::money::Msat;
use crate::time::{Now, Tick, WallTime};
use std::collections::{BTreeSet, VecDeque};

/// Most payments in one effect: some 10 KB of hashes, and a short transaction for the wallet.
const MAX_SWEPT: usize = 256;

/// Pause between two sweeps. Milliseconds.
const SWEEP_MS: u64 = 3_600_000;

/// Pause after a sweep that was full. Milliseconds. It outruns 25 strangers a second.
const FULL_SWEEP_MS: u64 = 10_000;

/// How long after it was made a wallet keeps an invoice that nobody pays, at most. Milliseconds.
/// Lightning nodes go by the time of blocks, up to two hours behind, and no invoice of ours is
/// good for more than an hour.
pub const UNPAID_KEPT_MS: u64 = 3 * 3_600_000;

/// How much later than it was asked for an invoice may be made, by the wallet's clock. Milliseconds.
const MAKING_MS: u64 = 60_000;

/// Key in [`Table::Outgoing`] of how far the sweep has come.
pub(super) const SWEPT: &[u8] = b"swept";

/// The same of unpaid invoices, which are swept by time.
pub(super) const SWEPT_UNPAID: &[u8] = b"unpaid";

/// Entries that the wallet still knows.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Row, when it was written, hash; oldest first, as many as there are hashes in memory.
    waiting: VecDeque<(u64, WallTime, PaymentHash)>,
    /// When the wallet may forget it, and hash, of invoices that nobody paid.
    unpaid: BTreeSet<(WallTime, PaymentHash)>,
    /// Rows before it were swept.
    from: u64,
    /// Unpaid invoices that the wallet could forget until then were swept.
    unpaid_until: WallTime,
    /// When the next one may be.
    next: Tick,
}

impl Sweep {
    /// A row was appended or loaded.
    pub fn add(&mut self, row: u64, entry: &LedgerEntry) {
        // Before it: for one too many the queue would double.
        if self.waiting.len() >= MAX_HASHES {
            self.waiting.pop_front();
        }
        self.waiting.push_back((row, entry.created, entry.hash));
        if (entry.side, entry.state) == (Side::Host, EntryState::Expired) {
            self.expired(entry);
        }
    }

    /// Nobody paid this invoice.
    pub fn expired(&mut self, entry: &LedgerEntry) {
        let kept = UNPAID_KEPT_MS.saturating_add(MAKING_MS);
        self.add_unpaid(entry.created.after_ms(kept), entry.hash);
    }

    /// The wallet may forget this unpaid invoice from `free` on.
    pub fn add_unpaid(&mut self, free: WallTime, hash: PaymentHash) {
        self.unpaid.insert((free, hash));
        if self.unpaid.len() > MAX_HASHES {
            self.unpaid.pop_first();
        }
    }

    /// Loads how far it has come.
    pub fn load(&mut self, value: &[u8]) -> Result<(), RecordError> {
        self.from = turn::decode::<Extra>(value)?.row;
        Ok(())
    }

    /// Loads until when unpaid invoices were swept.
    pub fn load_unpaid(&mut self, value: &[u8]) -> Result<(), RecordError> {
        self.unpaid_until = WallTime(turn::decode::<Extra>(value)?.row);
        Ok(())
    }

    /// Everything is loaded: drops what was swept before.
    pub fn begin(&mut self) {
        let until = self.unpaid_until;
        self.unpaid.retain(|(free, _)| *free > until);
        let swept = self.waiting.partition_point(|(row, ..)| *row < self.from);
        self.waiting.drain(..swept);
    }
}

impl Payment {
    /// Asks the wallet to forget what is due, if an hour has passed since it was last asked.
    pub(super) fn sweep(&mut self, turn: &mut Turn) {
        let kept_ms = self.config.retention_days.saturating_mul(DAY_MS);
        if turn.now.tick < self.sweep.next {
            return;
        }
        let mut hashes = Vec::new();
        self.sweep_unpaid(turn, &mut hashes);
        if kept_ms > 0 {
            self.sweep_old(turn, kept_ms, &mut hashes);
        }
        let pause = match hashes.len() < MAX_SWEPT {
            true => SWEEP_MS,
            false => FULL_SWEEP_MS,
        };
        self.sweep.next = turn.now.tick.after_ms(pause);
        if !hashes.is_empty() {
            turn.then(Effect::ForgetPayments { hashes });
        }
    }

    /// The wallet still needs the record of a payment, for so long.
    pub(super) fn still_needed(&mut self, now: Now, hash: PaymentHash, wait_ms: u64) {
        let entry = self.ledger.find(Side::Host, &hash);
        if entry.is_some_and(|(_, entry, _)| entry.state == EntryState::Expired) {
            let wait_ms = wait_ms.clamp(1_000, UNPAID_KEPT_MS);
            self.sweep.add_unpaid(now.wall.after_ms(wait_ms), hash);
        }
    }

    fn sweep_unpaid(&mut self, turn: &mut Turn, hashes: &mut Vec<PaymentHash>) {
        let before = self.sweep.unpaid_until;
        while let Some((free, hash)) = self.sweep.unpaid.first().copied()
            && hashes.len() < MAX_SWEPT
            && free < turn.now.wall
        {
            self.sweep.unpaid.pop_first();
            self.sweep.unpaid_until = free.max(self.sweep.unpaid_until);
            // Paid late: kept like any other payment.
            let entry = self.ledger.find(Side::Host, &hash);
            if entry.is_none_or(|(_, entry, _)| entry.state != EntryState::Settled) {
                hashes.push(hash);
            }
        }
        if self.sweep.unpaid_until != before {
            let row = self.sweep.unpaid_until.0;
            let msat = Msat::ZERO;
            turn.put(Table::Outgoing, SWEPT_UNPAID, &Extra { row, msat });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OrderId;

    fn entry(number: u64, side: Side, state: EntryState) -> LedgerEntry {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        LedgerEntry {
            order: OrderId([0; 16]),
            seq: 0,
            side,
            counterparty: None,
            hash: PaymentHash(hash),
            msat: Msat(1),
            fee: Msat::ZERO,
            state,
            preimage: None,
            created: WallTime(number),
            changed: WallTime(number),
            expires: WallTime(number),
            note: String::new(),
        }
    }

    #[test]
    fn of_what_waits_the_oldest_leave_first_where_there_is_too_much() {
        let mut sweep = Sweep::default();
        let most = MAX_HASHES as u64;
        for row in 0..most + 3 {
            let entry = entry(row, Side::Host, EntryState::Expired);
            sweep.add(row, &entry);
        }
        assert_eq!(sweep.waiting.len(), MAX_HASHES);
        assert_eq!(sweep.waiting.front().map(|(row, ..)| *row), Some(3));
        assert_eq!(sweep.unpaid.len(), MAX_HASHES);
        let kept = UNPAID_KEPT_MS + MAKING_MS;
        let first = sweep.unpaid.first().map(|(free, _)| *free);
        assert_eq!(first, Some(WallTime(3 + kept)));
    }

    #[test]
    fn invoices_that_nobody_paid_wait_apart_and_nothing_else_does() {
        let mut sweep = Sweep::default();
        for (side, state) in [
            (Side::Host, EntryState::Settled),
            (Side::Host, EntryState::Invoiced),
            (Side::Buyer, EntryState::Failed),
            (Side::Host, EntryState::Expired),
        ] {
            let row = sweep.waiting.len() as u64;
            sweep.add(row, &entry(row, side, state));
        }
        assert_eq!((sweep.waiting.len(), sweep.unpaid.len()), (4, 1));
    }

    #[test]
    fn what_was_swept_before_a_start_waits_no_more() {
        let mut sweep = Sweep::default();
        for row in 0..4 {
            let entry = entry(row, Side::Host, EntryState::Expired);
            sweep.add(row, &entry);
        }
        let kept = UNPAID_KEPT_MS + MAKING_MS;
        (sweep.from, sweep.unpaid_until) = (2, WallTime(kept + 1));
        sweep.begin();
        let rows: Vec<_> = sweep.waiting.iter().map(|(row, ..)| *row).collect();
        assert_eq!(rows, [2, 3]);
        let free: Vec<_> = sweep.unpaid.iter().map(|(free, _)| free.0 - kept).collect();
        assert_eq!(free, [2, 3]);
    }
}
