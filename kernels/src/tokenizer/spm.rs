//! SentencePiece's merging by score (`tokenizer.ggml.model = llama`).
//!
//! A text is its characters, spaces written as U+2581; two neighbours whose joint
//! text is a token may merge, the highest score first, the leftmost among equals.
//! What is no token at the end becomes byte tokens. A heap and a linked list keep n
//! characters at O(n log n).

use super::memory::{block, table};
use std::collections::{BinaryHeap, HashMap};

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '\u{2581}';

/// The pieces and their scores.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Text to (token, place in the order of merging: higher scores first).
    pub pieces: HashMap<Box<str>, (u32, u32)>,
    /// Bytes of the longest piece.
    pub longest: usize,
    /// Tokens of bytes, for text that is no piece.
    pub bytes: [Option<u32>; 256],
    /// For bytes without a token.
    pub unknown: Option<u32>,
}

#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 when merged away.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A candidate, best first: (order, left, bytes of the joint text).
type Heap = BinaryHeap<std::cmp::Reverse<(u32, usize, usize)>>;

impl Pieces {
    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        let texts: usize = self.pieces.keys().map(|text| block(text.len())).sum();
        size_of::<Self>() + table(&self.pieces) + texts
    }

    /// Append the tokens of a text in which spaces are already [`SPACE`].
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.checked_sub(1).unwrap_or(NONE),
                next: i + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut heap = Heap::new();
        for left in 0..symbols.len() {
            self.propose(text, &symbols, left, &mut heap);
        }
        while let Some(std::cmp::Reverse((_, left, bytes))) = heap.pop() {
            self.merge(text, &mut symbols, left, bytes, &mut heap);
        }
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = symbols[at];
            self.emit(&text[symbol.start..symbol.start + symbol.len], out);
            at = symbol.next;
        }
    }

    /// The order of merging, by token id.
    pub fn hash(&self, hash: &mut blake3::Hasher) {
        let mut ranks: Vec<(u32, u32)> = self.pieces.values().copied().collect();
        ranks.sort_unstable();
        for (id, rank) in ranks {
            hash.update(&id.to_le_bytes());
            hash.update(&rank.to_le_bytes());
        }
    }

    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, heap: &mut Heap) {
        let symbol = symbols[left];
        if symbol.next == NONE {
            return;
        }
        let bytes = symbol.len + symbols[symbol.next].len;
        if bytes > self.longest {
            return;
        }
        if let Some((_, order)) = self.pieces.get(&text[symbol.start..symbol.start + bytes]) {
            heap.push(std::cmp::Reverse((*order, left, bytes)));
        }
    }

    /// Apply one candidate, unless its symbols have changed since it was proposed.
    fn merge(
        &self,
        text: &str,
        symbols: &mut [Symbol],
        left: usize,
        bytes: usize,
        heap: &mut Heap,
    ) {
        let symbol = symbols[left];
        if symbol.len == 0 || symbol.next == NONE {
            return;
        }
        let right = symbols[symbol.next];
        if symbol.len + right.len != bytes {
            return;
        }
        symbols[symbol.next].len = 0;
        symbols[left].len = bytes;
        symbols[left].next = right.next;
        if right.next != NONE {
            symbols[right.next].prev = left;
        }
        self.propose(text, symbols, left, heap);
        if symbol.prev != NONE {
            self.propose(text, symbols, symbol.prev, heap);
        }
    }

    fn emit(&self, piece: &str, out: &mut Vec<u32>) {
        match self.pieces.get(piece) {
            Some((id, _)) => out.push(*id),
            None => out.extend(
                piece
                    .bytes()
                    .filter_map(|b| self.bytes[usize::from(b)].or(self.unknown)),
            ),
        }
    }
}
