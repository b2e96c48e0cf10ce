//! The hash of everything that happened, by which two runs of a seed are compared.

use protocol::machine::Record;

/// A running hash.
#[derive(Debug, Default)]
pub struct Trace(blake3::Hasher);

impl Trace {
    /// Adds numbers.
    pub fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.0.update(bytes);
    }

    /// Adds what was written to a disk.
    pub fn records(&mut self, records: &[Record]) {
        for record in records {
            self.bytes(record.table.name().as_bytes());
            self.bytes(&record.key);
            self.bytes(record.value.as_deref().unwrap_or(b"-"));
        }
    }

    /// The hash so far, as hex.
    pub fn hash(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
