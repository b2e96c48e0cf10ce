//! The hash of everything that happened, by which two runs of a seed are compared.

use protocol::machine::{Record, Table};

/// A quick hash, for what every node writes of every host.
fn short(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut sum = bytes.len() as u64;
    let mut mix =
        |word: u64| sum = (sum.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in &mut words {
        mix(word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    for byte in words.remainder() {
        mix(u64::from(*byte));
    }
    sum
}

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
            let value = record.value.as_deref().unwrap_or(b"-");
            match record.table {
                Table::Listings => self.numbers(&[short(value)]),
                _ => self.bytes(value),
            }
        }
    }

    /// The hash so far, as hex.
    pub fn hash(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
