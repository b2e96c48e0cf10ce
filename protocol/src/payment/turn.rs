//! One turn of the payment machine: what it writes, then what it does; and its timers.
//!
//! Not a driver. Collecting the records of a turn into one `Persist` at its
//! front is what makes "write, then act" hold for every step at once.

use crate::codec::{self, CodecError};
use crate::ids::{EffectId, PaymentHash};
use crate::machine::{Outbox, Record, Table};
use crate::message::payment::Effect;
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::time::{Now, Tick};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// First byte of every value this machine stores.
pub(super) const VERSION: u8 = 1;

/// Largest value this machine stores. Bytes. An entry is under 1 KiB with its note.
const MAX_VALUE_BYTES: usize = 16 << 10;

/// Why a stored record is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later release, or not by this program.
    #[error("its version is {found:?}, and this release reads {VERSION}")]
    Version {
        /// The version byte, if there is one.
        found: Option<u8>,
    },
    /// The key is not one of this table.
    #[error("its key of {bytes} bytes is not one of this table")]
    Key {
        /// Length of the key.
        bytes: usize,
    },
    /// The value does not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Decodes a stored value.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    match value.split_first() {
        Some((&VERSION, body)) => Ok(codec::decode(body, MAX_VALUE_BYTES)?),
        other => Err(RecordError::Version {
            found: other.map(|(version, _)| *version),
        }),
    }
}

/// What is stored under an open payment or invoice besides its ledger row.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Extra {
    /// Its row in the ledger, which is the authority.
    pub row: u64,
    /// Fee limit of a payment; nothing of an invoice.
    pub msat: Msat,
}

/// Reads an [`Extra`] into `into`.
pub(super) fn load_extra(
    key: &[u8],
    value: &[u8],
    into: &mut BTreeMap<PaymentHash, Msat>,
) -> Result<(), RecordError> {
    let hash = <[u8; 32]>::try_from(key).map_err(|_| RecordError::Key { bytes: key.len() })?;
    let extra: Extra = decode(value)?;
    into.insert(PaymentHash(hash), extra.msat);
    Ok(())
}

/// The writes and effects of one turn.
pub(super) struct Turn {
    /// Both clocks.
    pub now: Now,
    records: Vec<Record>,
    after: Vec<Effect>,
}

impl Turn {
    /// Begins a turn.
    pub fn new(now: Now) -> Self {
        Turn {
            now,
            records: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Writes a record.
    pub fn put<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) {
        let mut bytes = vec![VERSION];
        bytes.extend(codec::encode(value));
        self.records.push(Record {
            table,
            key: key.to_vec(),
            value: Some(bytes),
        });
    }

    /// Deletes a record.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.records.push(Record {
            table,
            key: key.to_vec(),
            value: None,
        });
    }

    /// Does something once the records are durable.
    pub fn then(&mut self, effect: Effect) {
        self.after.push(effect);
    }

    /// Tells a sibling once the records are durable.
    pub fn tell(&mut self, message: Message) {
        self.then(Effect::Tell(message));
    }

    /// Hands everything to the driver: the records first.
    pub fn finish(self, out: &mut Outbox<Effect>) {
        if !self.records.is_empty() {
            out.push(Effect::Persist(self.records));
        }
        for effect in self.after {
            out.push(effect);
        }
    }
}

/// Something to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// Ask after a payment of ours.
    Outgoing(PaymentHash),
    /// Ask after an invoice of ours.
    Incoming(PaymentHash),
    /// Give up waiting for a balance.
    Balance(EffectId),
    /// Give up waiting for an invoice.
    Invoice(EffectId),
}

/// At most one time per job.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Tick, TimerKind)>,
    times: BTreeMap<TimerKind, Tick>,
}

impl Timers {
    /// Sets or moves a job.
    pub fn set(&mut self, job: TimerKind, at: Tick) {
        self.clear(job);
        self.queue.insert((at, job));
        self.times.insert(job, at);
    }

    /// Forgets a job.
    pub fn clear(&mut self, job: TimerKind) {
        if let Some(at) = self.times.remove(&job) {
            self.queue.remove(&(at, job));
        }
    }

    /// Returns when the next job is due.
    pub fn next(&self) -> Option<Tick> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes every job due at `now`, earliest first.
    pub fn due(&mut self, now: Tick) -> Vec<TimerKind> {
        let mut jobs = Vec::new();
        while let Some((at, job)) = self.queue.first().copied() {
            if at > now {
                break;
            }
            self.clear(job);
            jobs.push(job);
        }
        jobs
    }
}
