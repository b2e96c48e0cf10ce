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
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Store {
    /// Makes records durable.
    pub fn sync(&mut self, records: Vec<Record>) {
        for record in records {
            let table = self.tables.entry(record.table).or_default();
            match record.value {
                Some(value) => table.insert(record.key, value),
                None => table.remove(&record.key),
            };
        }
    }

    /// What a machine finds at start, in the order of the keys.
    pub fn load(&self, tables: &[Table]) -> Vec<Record> {
        let wanted = self
            .tables
            .iter()
            .filter(|(table, _)| tables.contains(table));
        let records = wanted.flat_map(|(table, rows)| {
            rows.iter().map(|(key, value)| Record {
                table: *table,
                key: key.clone(),
                value: Some(value.clone()),
            })
        });
        records.collect()
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
        let keys = self.tables.get(&table).into_iter().flatten();
        let starts: std::collections::BTreeSet<&[u8]> = keys
            .map(|(key, _)| key.get(..bytes).unwrap_or(key))
            .collect();
        starts.len()
    }

    /// Records in a table: for the checkers of bounds.
    pub fn count(&self, table: Table) -> usize {
        self.tables.get(&table).map_or(0, BTreeMap::len)
    }
}
