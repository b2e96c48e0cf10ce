//! The bounded book of histories, and its durable form.
//!
//! Not judgement: `machine` decides what is entered. Both maps are ordered, so
//! every run walks them alike.

use super::history::{History, HostHistory};
use crate::codec;
use crate::ids::{ModelDigest, NodeKey};
use crate::machine::{Record, Table};
use crate::time::WallTime;
use std::collections::BTreeMap;

/// Longest stored history. Bytes. A sentence of detail and a dozen numbers.
const MAX_RECORD_BYTES: usize = 4 << 10;

/// Histories per (host, model) and per host.
#[derive(Debug, Default)]
pub struct Book {
    max: usize,
    models: BTreeMap<(NodeKey, ModelDigest), History>,
    hosts: BTreeMap<NodeKey, HostHistory>,
}

impl Book {
    /// An empty book of at most `max` entries of each kind.
    pub fn new(max: usize) -> Self {
        Book {
            max: max.max(1),
            ..Book::default()
        }
    }

    /// Takes back stored records.
    pub fn restore(&mut self, record: &Record) {
        let Some(value) = &record.value else { return };
        if record.table != Table::History {
            return;
        }
        let Some(host) = key_at(&record.key, 0) else {
            return;
        };
        if record.key.len() == 32 && self.hosts.len() < self.max {
            if let Ok(history) = codec::decode(value, MAX_RECORD_BYTES) {
                self.hosts.insert(NodeKey(host), history);
            }
        } else if record.key.len() == 64 && self.models.len() < self.max {
            let (Some(model), Ok(history)) = (
                key_at(&record.key, 32),
                codec::decode(value, MAX_RECORD_BYTES),
            ) else {
                return;
            };
            self.models
                .insert((NodeKey(host), ModelDigest(model)), history);
        }
    }

    /// What is known of a model at a host, decayed.
    pub fn model(
        &self,
        host: NodeKey,
        model: ModelDigest,
        now: WallTime,
        half_life_ms: u64,
    ) -> History {
        let fresh = || History {
            at: now,
            ..History::default()
        };
        let mut history = self
            .models
            .get(&(host, model))
            .cloned()
            .unwrap_or_else(fresh);
        history.decay(now, half_life_ms);
        history
    }

    /// What is known of a host, decayed.
    pub fn host(&self, host: NodeKey, now: WallTime, half_life_ms: u64) -> HostHistory {
        let fresh = || HostHistory {
            at: now,
            ..HostHistory::default()
        };
        let mut history = self.hosts.get(&host).cloned().unwrap_or_else(fresh);
        history.decay(now, half_life_ms);
        history
    }

    /// Enters a history; returns what to persist, evictions included. Hosts that served
    /// this node are forgotten last.
    pub fn set_model(
        &mut self,
        host: NodeKey,
        model: ModelDigest,
        history: History,
    ) -> Vec<Record> {
        let mut records = vec![record(model_key(&host, &model), Some(&history))];
        self.models.insert((host, model), history);
        if self.models.len() > self.max {
            let oldest = self
                .models
                .iter()
                .filter(|(key, _)| **key != (host, model))
                .min_by_key(|(key, history)| (history.served(), history.at, **key))
                .map(|(key, _)| *key);
            if let Some(key) = oldest {
                self.models.remove(&key);
                records.push(record::<History>(model_key(&key.0, &key.1), None));
            }
        }
        records
    }

    /// Enters a host's history. Convictions over orders of this node are forgotten last,
    /// those over bundles of strangers first: anybody can make hosts that contradict themselves.
    pub fn set_host(&mut self, host: NodeKey, history: HostHistory) -> Vec<Record> {
        let mut records = vec![record(host.0.to_vec(), Some(&history))];
        self.hosts.insert(host, history);
        if self.hosts.len() > self.max {
            let oldest = self
                .hosts
                .iter()
                .filter(|(key, _)| **key != host)
                .min_by_key(|(key, history)| (history.weight(), history.at, **key))
                .map(|(key, _)| *key);
            if let Some(key) = oldest {
                self.hosts.remove(&key);
                records.push(record::<HostHistory>(key.0.to_vec(), None));
            }
        }
        records
    }

    /// Returns whether a host served this node within the last weeks, whatever the model.
    pub fn served(&self, host: NodeKey, now: WallTime, half_life_ms: u64) -> bool {
        let first = (host, ModelDigest([0; 32]));
        let last = (host, ModelDigest([u8::MAX; 32]));
        self.models.range(first..=last).any(|(_, history)| {
            let mut history = history.clone();
            history.decay(now, half_life_ms);
            history.served()
        })
    }

    /// Returns whether a host-level history is kept.
    pub fn knows_host(&self, host: &NodeKey) -> bool {
        self.hosts.contains_key(host)
    }

    /// Returns how many histories of (host, model) and of hosts are kept.
    pub fn len(&self) -> (usize, usize) {
        (self.models.len(), self.hosts.len())
    }

    /// Returns whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.hosts.is_empty()
    }
}

fn key_at(key: &[u8], at: usize) -> Option<[u8; 32]> {
    key.get(at..at + 32)?.try_into().ok()
}

fn model_key(host: &NodeKey, model: &ModelDigest) -> Vec<u8> {
    [host.0.as_slice(), model.0.as_slice()].concat()
}

fn record<T: serde::Serialize>(key: Vec<u8>, value: Option<&T>) -> Record {
    Record {
        table: Table::History,
        key,
        value: value.map(codec::encode),
    }
}
