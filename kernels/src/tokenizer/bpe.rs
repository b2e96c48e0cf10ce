//! Byte-pair merging of one piece of text.
//!
//! Merges apply lowest rank first, leftmost first among equals. A heap over
//! candidate pairs and a linked list of symbols keep a piece of n bytes at
//! O(n log n), so that a hostile text without spaces costs no more than prose.

use super::memory::{block, table};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The merge rules and the tokens that pieces are made of at first.
#[derive(Debug)]
pub(super) struct Merges {
    /// (left, right) to (rank, merged).
    pub rules: HashMap<(u32, u32), (u32, u32)>,
    pub alphabet: Alphabet,
    /// Pieces that are whole tokens and skip the merging.
    pub whole: HashMap<Box<[u8]>, u32>,
}

/// What a piece is made of before the first merge.
#[derive(Debug)]
pub(super) enum Alphabet {
    /// Bytes, each with its token. One without ([`UNKNOWN`]; Falcon has some) is lost.
    Bytes([u32; 256]),
    /// Characters; one without a token becomes its bytes.
    Chars {
        ids: HashMap<char, u32>,
        bytes: [u32; 256],
    },
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
    /// Where it begins in the piece.
    at: u32,
}

/// End of the linked list, and the mark of a symbol merged away.
const NONE: u32 = u32::MAX;
/// A character or byte without a token: no rule knows it.
pub(super) const UNKNOWN: u32 = u32::MAX - 1;

/// Longest text merged at once: positions are u32. Longer ones are cut here, far
/// above any prompt that fits a context.
const MAX_PIECE: usize = 1 << 30;

impl Merges {
    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        let chars = match &self.alphabet {
            Alphabet::Bytes(_) => 0,
            Alphabet::Chars { ids, .. } => table(ids),
        };
        let texts: usize = self.whole.keys().map(|text| block(text.len())).sum();
        size_of::<Self>() + table(&self.rules) + chars + table(&self.whole) + texts
    }

    /// Append the tokens of one piece.
    pub fn encode(&self, piece: &str, out: &mut Vec<u32>) {
        if let Some(id) = self.whole.get(piece.as_bytes()) {
            out.push(*id);
            return;
        }
        let mut rest = piece;
        while !rest.is_empty() {
            let mut cut = rest.len().min(MAX_PIECE);
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            self.merge_all(&rest[..cut], out);
            rest = &rest[cut..];
        }
    }

    fn merge_all(&self, piece: &str, out: &mut Vec<u32>) {
        let mut symbols = self.alphabet.symbols(piece);
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
            let symbol = symbols[i as usize];
            match symbol.id {
                UNKNOWN => self.alphabet.spell(piece, symbol.at as usize, out),
                id => out.push(id),
            }
            i = symbol.next;
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
        let gone = &mut symbols[symbol.next as usize];
        let next = gone.next;
        // An id that no rule knows, so that stale candidates at this place fail.
        gone.id = NONE;
        gone.next = NONE;
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

impl Alphabet {
    fn symbols(&self, piece: &str) -> Vec<Symbol> {
        let symbol = |(at, id)| Symbol {
            id,
            prev: NONE,
            next: NONE,
            at: at as u32,
        };
        let mut symbols: Vec<Symbol> = match self {
            Self::Bytes(ids) => {
                let ids = piece.bytes().map(|b| ids[usize::from(b)]);
                ids.enumerate().map(symbol).collect()
            }
            Self::Chars { ids, .. } => {
                let id = |c| ids.get(&c).copied().unwrap_or(UNKNOWN);
                let chars = piece.char_indices().map(|(at, c)| (at, id(c)));
                chars.map(symbol).collect()
            }
        };
        for i in 1..symbols.len() {
            symbols[i].prev = i as u32 - 1;
            symbols[i - 1].next = i as u32;
        }
        symbols
    }

    /// What stands for the symbol at `at`, which has no token.
    fn spell(&self, piece: &str, at: usize, out: &mut Vec<u32>) {
        if let Self::Chars { bytes, .. } = self {
            let len = piece[at..].chars().next().map_or(0, char::len_utf8);
            let spelled = piece.as_bytes()[at..at + len].iter();
            out.extend(spelled.map(|b| bytes[usize::from(*b)]));
        }
    }
}
