//! The bounded, durable store of verdicts.
//!
//! Not a judge. Keeps (order, validator) → verdict; the oldest go first.

use crate::bundle::Verdict;
use crate::codec;
use crate::ids::{NodeKey, OrderId};
use crate::machine::{Record, Table};
use crate::time::WallTime;
use std::collections::BTreeMap;

/// Longest stored verdict. Bytes. A few digests and two short texts.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// Index of the stored verdicts: key and age, not the contents.
#[derive(Debug)]
pub struct Store {
    max: usize,
    known: BTreeMap<(OrderId, NodeKey), WallTime>,
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
        if let Ok(verdict) = codec::decode::<Verdict>(value, MAX_RECORD_BYTES) {
            self.known
                .insert((verdict.id, verdict.validator), verdict.time);
        }
    }

    /// Keeps a verdict; returns what to persist, deletions included.
    pub fn keep(&mut self, verdict: &Verdict) -> Vec<Record> {
        let key = (verdict.id, verdict.validator);
        let mut records = vec![Record {
            table: Table::Verdicts,
            key: storage_key(&key),
            value: Some(codec::encode(verdict)),
        }];
        self.known.insert(key, verdict.time);
        while self.known.len() > self.max {
            let oldest = self
                .known
                .iter()
                .filter(|(known, _)| **known != key)
                .min_by_key(|(known, time)| (**time, **known))
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

fn storage_key((order, validator): &(OrderId, NodeKey)) -> Vec<u8> {
    [order.0.as_slice(), validator.0.as_slice()].concat()
}
