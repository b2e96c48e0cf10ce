//! The bounded, durable store of verdicts.
//!
//! Not a judge. Keeps (order, validator) → verdict. Verdicts on bundles that strangers
//! brought are apart from those on our own orders: they have half of the places at most,
//! go first, and replace none of ours, whatever order they name. Of ours the oldest go
//! first, and those that convict last.

use crate::codec;
use crate::ids::{NodeKey, OrderId};
use crate::machine::{Record, Table};
use crate::time::WallTime;
use crate::wire::bundle::Verdict;
use std::collections::BTreeMap;

/// Longest stored verdict. Bytes. A few digests and two short texts.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// Length of the storage key of a verdict on our own order.
const OUR_KEY_BYTES: usize = 48;

/// Who brought the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// A peer, on an audit stream.
    Strangers,
    /// This node or its operator.
    Ours,
}

type Key = (Whose, OrderId, NodeKey);

/// Index of the stored verdicts: key, whether it convicts, and age; not the contents.
#[derive(Debug)]
pub struct Store {
    max: usize,
    known: BTreeMap<Key, (bool, WallTime)>,
}

impl Store {
    /// An empty store of at most `max` verdicts.
    pub fn new(max: usize) -> Self {
        Store {
            max: max.max(1),
            known: BTreeMap::new(),
        }
    }

    /// Takes back a stored record.
    pub fn restore(&mut self, record: &Record) {
        let (Table::Verdicts, Some(value)) = (record.table, &record.value) else {
            return;
        };
        let whose = match record.key.len() {
            OUR_KEY_BYTES => Whose::Ours,
            _ => Whose::Strangers,
        };
        if let Ok(verdict) = codec::decode::<Verdict>(value, MAX_RECORD_BYTES) {
            self.known
                .insert((whose, verdict.id, verdict.validator), entry(&verdict));
        }
    }

    /// Keeps a verdict; returns what to persist, deletions included.
    pub fn keep(&mut self, whose: Whose, verdict: &Verdict) -> Vec<Record> {
        let key = (whose, verdict.id, verdict.validator);
        let mut records = vec![Record {
            table: Table::Verdicts,
            key: storage_key(&key),
            value: Some(codec::encode(verdict)),
        }];
        self.known.insert(key, entry(verdict));
        let first = (Whose::Ours, OrderId([0; 16]), NodeKey([0; 32]));
        while self.known.len() > self.max
            || self.known.range(..first).count() > self.max.div_ceil(2)
        {
            let oldest = self
                .known
                .iter()
                .filter(|(known, _)| **known != key)
                .min_by_key(|(known, entry)| (known.0, **entry, **known))
                .map(|(known, _)| *known);
            let Some(oldest) = oldest else { break };
            self.known.remove(&oldest);
            records.push(Record {
                table: Table::Verdicts,
                key: storage_key(&oldest),
                value: None,
            });
        }
        records
    }

    /// Returns how many verdicts are kept.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

fn entry(verdict: &Verdict) -> (bool, WallTime) {
    (verdict.finding.convicts(), verdict.time)
}

/// Strangers' keys are a byte longer.
fn storage_key((whose, order, validator): &Key) -> Vec<u8> {
    let mut key = [order.0.as_slice(), validator.0.as_slice()].concat();
    if *whose == Whose::Strangers {
        key.push(0);
    }
    key
}
