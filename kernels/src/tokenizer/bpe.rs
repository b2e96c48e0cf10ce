//! Byte-pair merging of one piece of text.
//!
//! Merges apply lowest rank first, leftmost first among equals. A heap over
//! candidate pairs and a linked list of symbols keep a piece of n bytes at
//! O(n log n), so that a hostile text without spaces costs no more than prose.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The merge rules and the tokens of single bytes.
#[derive(Debug)]
pub(super) struct Merges {
    /// (left, right) to (rank, merged).
    pub rules: HashMap<(u32, u32), (u32, u32)>,
    /// Token of each byte.
    pub byte_ids: [u32; 256],
    /// Pieces that are whole tokens and skip the merging (`llama-bpe`).
    pub whole: Option<HashMap<Box<[u8]>, u32>>,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// End of the linked list, and the mark of a symbol merged away.
const NONE: u32 = u32::MAX;

impl Merges {
    /// Append the tokens of one piece.
    pub fn encode(&self, piece: &[u8], out: &mut Vec<u32>) {
        if let Some(id) = self.whole.as_ref().and_then(|w| w.get(piece)) {
            out.push(*id);
            return;
        }
        if let [byte] = piece {
            out.push(self.byte_ids[usize::from(*byte)]);
            return;
        }
        let mut symbols: Vec<Symbol> = piece
            .iter()
            .enumerate()
            .map(|(i, byte)| Symbol {
                id: self.byte_ids[usize::from(*byte)],
                prev: if i == 0 { NONE } else { i as u32 - 1 },
                next: if i + 1 == piece.len() {
                    NONE
                } else {
                    i as u32 + 1
                },
            })
            .collect();
        let mut heap = BinaryHeap::new();
        for i in 0..symbols.len() as u32 {
            self.propose(&symbols, i, &mut heap);
        }
        while let Some(Reverse((_, left, left_id, right_id))) = heap.pop() {
            self.merge(&mut symbols, left, left_id, right_id, &mut heap);
        }
        // The first symbol is never merged away: merging keeps the left one.
        let mut i = 0;
        while i != NONE && !symbols.is_empty() {
            out.push(symbols[i as usize].id);
            i = symbols[i as usize].next;
        }
    }

    fn propose(&self, symbols: &[Symbol], left: u32, heap: &mut Heap) {
        let symbol = symbols[left as usize];
        if symbol.next == NONE {
            return;
        }
        let right = symbols[symbol.next as usize].id;
        if let Some((rank, _)) = self.rules.get(&(symbol.id, right)) {
            heap.push(Reverse((*rank, left, symbol.id, right)));
        }
    }

    /// Apply one candidate, unless its symbols have changed since it was proposed.
    fn merge(&self, symbols: &mut [Symbol], left: u32, l: u32, r: u32, heap: &mut Heap) {
        let symbol = symbols[left as usize];
        if symbol.id != l || symbol.next == NONE || symbols[symbol.next as usize].id != r {
            return;
        }
        let Some((_, merged)) = self.rules.get(&(l, r)) else {
            return;
        };
        let gone = symbol.next as usize;
        let next = symbols[gone].next;
        // An id that no rule knows, so that stale candidates at this place fail.
        symbols[gone] = Symbol {
            id: NONE,
            prev: NONE,
            next: NONE,
        };
        symbols[left as usize].id = *merged;
        symbols[left as usize].next = next;
        if next != NONE {
            symbols[next as usize].prev = left;
        }
        self.propose(symbols, left, heap);
        if symbol.prev != NONE {
            self.propose(symbols, symbol.prev, heap);
        }
    }
}

type Heap = BinaryHeap<Reverse<(u32, u32, u32, u32)>>;
