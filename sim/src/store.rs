//! A node's disk: what was synced survives a crash, what was not does not.
//!
//! Not a database: the records of `protocol::machine` and nothing else.

use protocol::machine::{Record, Table};
use protocol::message::payment::LedgerEntry;
use protocol::payment::ledger::Row;
use std::collections::BTreeMap;

/// Durable records.
#[derive(Debug, Default)]
pub struct Store {
    records: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Store {
    /// Makes records durable.
    pub fn sync(&mut self, records: Vec<Record>) {
        for record in records {
            let key = (record.table, record.key);
            match record.value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }

    /// What a machine finds at start, in the order of the keys.
    pub fn load(&self, tables: &[Table]) -> Vec<Record> {
        self.records
            .iter()
            .filter(|((table, _), _)| tables.contains(table))
            .map(|((table, key), value)| Record {
                table: *table,
                key: key.clone(),
                value: Some(value.clone()),
            })
            .collect()
    }

    /// The entries of the books: the machine itself keeps only the newest in memory.
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.load(&[Table::Ledger])
            .iter()
            .filter_map(|record| Row::decode(record.value.as_deref()?).ok())
            .filter_map(|row| match row {
                Row::Entry { entry, .. } => Some(entry),
                _ => None,
            })
            .collect()
    }

    /// Records in a table whose keys begin differently in their first bytes: orders, not parts
    /// of them. For the checkers of bounds.
    pub fn distinct(&self, table: Table, bytes: usize) -> usize {
        let keys = self
            .records
            .range((table, Vec::new())..)
            .take_while(|((found, _), _)| *found == table);
        let starts: std::collections::BTreeSet<&[u8]> = keys
            .map(|((_, key), _)| key.get(..bytes).unwrap_or(key))
            .collect();
        starts.len()
    }

    /// Records in a table: for the checkers of bounds.
    pub fn count(&self, table: Table) -> usize {
        self.records
            .range((table, Vec::new())..)
            .take_while(|((found, _), _)| *found == table)
            .count()
    }
}
