//! Text to counted tokens, while it streams.
//!
//! With the model's vocabulary the tokens are those of the whole answer, found piece by
//! piece: text is encoded again from the last place where every tokenizer cuts
//! ([`Vocabulary::boundary`]), and tokens are handed out once such a place lies behind
//! them. Where none comes for a while (no spaces: Chinese, long numbers), tokens are
//! handed out when `KEEP` more follow; should a later reading of the same stretch need
//! fewer, the next ones are held back until the counts agree again. At the end the whole
//! text is encoded once, and the smaller number stands as far as it is not delivered.
//!
//! Without a vocabulary a piece of text that the server sent is one token, unless it is
//! longer than a piece may be.

use super::vocabulary::Vocabulary;
use protocol::limits::MAX_PIECE_BYTES;
use protocol::wire::chain::{ChainedToken, NO_LOGITS, Piece, UNKNOWN_TOKEN};
use std::sync::Arc;

/// Tokens behind the last sure place at which some are handed out all the same: a
/// sentence in Chinese should not wait for its end.
const WAIT: usize = 12;
/// Tokens that stay behind then: a merge seldom reaches further back.
const KEEP: usize = 4;
/// Longest stretch that is encoded again and again. Bytes.
const MAX_TAIL: usize = 2 << 10;

/// A counted token with the text that goes with it.
fn token(id: u32, text: &str) -> ChainedToken {
    ChainedToken {
        id,
        logits: NO_LOGITS,
        piece: Piece::text(text),
    }
}

/// How text is counted.
#[derive(Debug)]
pub(super) enum Counter {
    /// By the model's vocabulary.
    Known(Known),
    /// By the pieces that the server sends.
    Unknown,
}

impl Counter {
    pub fn new(vocabulary: Option<&Arc<Vocabulary>>) -> Self {
        match vocabulary {
            Some(vocabulary) => Counter::Known(Known::new(vocabulary.clone())),
            None => Counter::Unknown,
        }
    }

    /// Adds text; the tokens that are sure by now.
    pub fn push(&mut self, text: &str) -> Vec<ChainedToken> {
        if text.is_empty() {
            return Vec::new();
        }
        match self {
            Counter::Known(known) => known.push(text),
            Counter::Unknown => {
                let (mut out, mut rest) = (Vec::new(), text);
                while !rest.is_empty() {
                    let (piece, left) = rest.split_at(floor(rest, MAX_PIECE_BYTES));
                    out.push(token(UNKNOWN_TOKEN, piece));
                    rest = left;
                }
                out
            }
        }
    }

    /// The end: the tokens left over, text that has none, and the tokens of the whole.
    pub fn finish(&mut self) -> (Vec<ChainedToken>, String, Option<u64>) {
        match self {
            Counter::Known(known) => known.finish(),
            Counter::Unknown => (Vec::new(), String::new(), None),
        }
    }
}

/// The state of counting by a vocabulary.
#[derive(Debug)]
pub(super) struct Known {
    vocabulary: Arc<Vocabulary>,
    whole: String,
    /// Where the stretch begins that is encoded again.
    tail: usize,
    /// Tokens of that stretch that were handed out.
    done: usize,
    /// Up to where text was handed out.
    shown: usize,
    /// Tokens handed out behind `shown`: they end inside a character.
    inside: usize,
}

impl Known {
    fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Known {
            vocabulary,
            whole: String::new(),
            tail: 0,
            done: 0,
            shown: 0,
            inside: 0,
        }
    }

    fn from(&self, at: usize) -> &str {
        self.whole.get(at..).unwrap_or_default()
    }

    fn push(&mut self, text: &str) -> Vec<ChainedToken> {
        self.whole.push_str(text);
        let mut out = Vec::new();
        if let Some(cut) = self.vocabulary.boundary(self.from(self.tail)) {
            let end = self.tail + cut;
            let ids = self.encode(end);
            self.hand_out(&ids, ids.len(), end, &mut out);
            self.done = self.done.saturating_sub(ids.len());
            self.tail = end;
        }
        let end = self.whole.len();
        let ids = self.encode(end);
        if ids.len() >= self.done + WAIT {
            self.hand_out(&ids, ids.len() - KEEP, end, &mut out);
        }
        if end - self.tail > MAX_TAIL {
            (self.tail, self.done) = (self.shown, self.inside);
        }
        out
    }

    /// The tokens from the last sure place to `end`.
    fn encode(&self, end: usize) -> Vec<u32> {
        let text = self.whole.get(self.tail..end).unwrap_or_default();
        self.vocabulary.encode(text, self.tail == 0)
    }

    /// Hands out the tokens `done..until` of the stretch that ends at `end`, with the
    /// text up to the end of each; the last of all takes the rest.
    fn hand_out(&mut self, ids: &[u32], until: usize, end: usize, out: &mut Vec<ChainedToken>) {
        // The space that encoding puts in front of an answer is in no text.
        let lead = usize::from(self.vocabulary.leads() && self.tail == 0);
        let mut read = 0;
        for (at, id) in ids.iter().enumerate().take(until) {
            read += self.vocabulary.bytes(*id);
            if at < self.done {
                continue;
            }
            let stop = match at + 1 == ids.len() {
                true => end,
                false => (self.tail + read)
                    .saturating_sub(lead)
                    .clamp(self.shown, end),
            };
            self.inside = match self.whole.is_char_boundary(stop) {
                true => 0,
                false => self.inside + 1,
            };
            let stop = floor(&self.whole, stop);
            let text = self.whole.get(self.shown..stop).unwrap_or_default();
            out.push(token(*id, text));
            self.shown = self.shown.max(stop);
        }
        self.done = self.done.max(until);
    }

    fn finish(&mut self) -> (Vec<ChainedToken>, String, Option<u64>) {
        let (mut out, end) = (Vec::new(), self.whole.len());
        let ids = self.encode(end);
        self.hand_out(&ids, ids.len(), end, &mut out);
        let rest = self.from(self.shown).to_owned();
        let whole = self.vocabulary.encode(&self.whole, true).len() as u64;
        (out, rest, Some(whole))
    }
}

/// The last place at or in front of `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
