//! What tables take in memory, as the system's allocator and the standard library lay them out.

use std::collections::HashMap;

/// Bytes of a block on the heap of which `len` are used.
pub(super) fn block(len: usize) -> usize {
    // Glibc's: a word in front, in steps of two, and no less than four.
    const WORD: usize = 8;
    (len + WORD).next_multiple_of(2 * WORD).max(4 * WORD)
}

/// Bytes of a table, without what its entries own.
pub(super) fn table<K, V>(table: &HashMap<K, V>) -> usize {
    // A power of two of places, of which seven in eight are filled; a byte more for each.
    let places = (table.capacity() * 8 / 7).next_power_of_two();
    places * (size_of::<(K, V)>() + 1)
}
