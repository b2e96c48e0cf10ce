//! What a person is shown of an answer: a pure function of the delivered pieces.
//!
//! Not a tokenizer: pieces arrive with their bytes, and the token chain commits to them
//! ([`crate::wire::chain`]). So whoever holds a signed head can say which text it stands for,
//! and two readers of the same pieces see the same text.
//!
//! # Rules
//! 1. Control pieces show nothing.
//! 2. The bytes of all other pieces are one stream of UTF-8. A character that is not whole
//!    yet is held back; what can no longer become one is shown as U+FFFD.
//! 3. The stop string of the job that is complete first ends the text before it (of two that
//!    end together the longer). What may yet become a stop string is held back.
//! 4. When the answer is over, whatever was held back is shown.

use crate::wire::chain::{ChainedToken, Piece};

/// Shows an answer piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Rendering {
    stop: Vec<String>,
    /// Bytes of a character that is not whole yet: at most three.
    bytes: Vec<u8>,
    /// Text that may yet become a stop string.
    held: String,
    stopped: bool,
}

impl Rendering {
    /// Begins an answer that these strings end.
    pub fn new(stop: &[String]) -> Self {
        Rendering {
            stop: stop.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ..Rendering::default()
        }
    }

    /// Takes a piece; returns the text that is certain by now.
    pub fn push(&mut self, piece: &Piece) -> String {
        if piece.control || self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(&piece.bytes);
        self.decode();
        self.release(false)
    }

    /// Ends the answer; returns what was held back.
    pub fn finish(&mut self) -> String {
        if !self.bytes.is_empty() && !self.stopped {
            self.bytes.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        self.release(true)
    }

    /// Whether a stop string was met.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Moves whole characters out of `bytes`.
    fn decode(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.held.push_str(text),
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    let Some(broken) = error.error_len() else {
                        self.bytes = bad.to_vec();
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = bad.get(broken..).unwrap_or_default();
                }
            }
        }
    }

    fn release(&mut self, all: bool) -> String {
        let met = |stop: &String| self.held.find(stop).map(|at| (at + stop.len(), at));
        if let Some((_, at)) = self.stop.iter().filter_map(met).min() {
            self.stopped = true;
            self.bytes.clear();
            let held = std::mem::take(&mut self.held);
            return held.get(..at).unwrap_or_default().to_owned();
        }
        let keep = if all { 0 } else { self.may_become_a_stop() };
        let certain = self.held.len() - keep;
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }

    /// Bytes at the end of `held` that a stop string begins with.
    fn may_become_a_stop(&self) -> usize {
        let begins = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most)
                .rev()
                .find(|n| {
                    let at = self.held.len() - n;
                    self.held.is_char_boundary(at)
                        && stop.as_bytes().starts_with(&self.held.as_bytes()[at..])
                })
                .unwrap_or(0)
        };
        self.stop.iter().map(begins).max().unwrap_or(0)
    }
}

/// The whole text of an answer that is over.
pub fn render<'a>(tokens: impl IntoIterator<Item = &'a ChainedToken>, stop: &[String]) -> String {
    let mut rendering = Rendering::new(stop);
    let mut text = String::new();
    for token in tokens {
        text.push_str(&rendering.push(&token.piece));
    }
    text.push_str(&rendering.finish());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(pieces: &[&[u8]], stop: &[&str]) -> (Vec<String>, String) {
        let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
        let mut rendering = Rendering::new(&stop);
        let parts = pieces
            .iter()
            .map(|bytes| rendering.push(&Piece::text(*bytes)))
            .collect();
        (parts, rendering.finish())
    }

    #[test]
    fn a_character_appears_when_it_is_whole() {
        let (parts, rest) = shown(&[b"5 \xe2\x82", b"\xac."], &[]);
        assert_eq!(
            (parts, rest),
            (vec!["5 ".into(), "€.".into()], String::new())
        );
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let (parts, rest) = shown(&[b"a\xffb", b"\xe2\x82"], &[]);
        assert_eq!(parts.concat() + &rest, "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn a_stop_string_ends_the_text_however_it_is_cut() {
        let (parts, rest) = shown(&[b"one E", b"N", b"D two", b"three"], &["END"]);
        assert_eq!(parts, ["one ", "", "", ""]);
        assert_eq!(rest, "");
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown() {
        let (parts, rest) = shown(&[b"E", b"N", b"d", b"EN"], &["END"]);
        assert_eq!(parts, ["", "", "ENd", ""]);
        assert_eq!(rest, "EN");
    }

    #[test]
    fn control_pieces_show_nothing() {
        let mut rendering = Rendering::new(&[]);
        let end = Piece {
            control: true,
            bytes: b"<|im_end|>".to_vec(),
        };
        assert_eq!(rendering.push(&end), "");
        assert_eq!(rendering.finish(), "");
    }

    proptest! {
        #[test]
        fn the_text_does_not_depend_on_where_it_was_cut(
            bytes in prop::collection::vec(prop::sample::select(b"aEND\xe2\x82\xac\xff".to_vec()), 0..40),
            cuts in prop::collection::vec(1usize..5, 0..40),
            stop in prop::collection::vec("[END]{1,3}", 0..3),
        ) {
            let token = |bytes: &[u8]| ChainedToken {
                id: 0,
                logits: crate::wire::chain::NO_LOGITS,
                piece: Piece::text(bytes),
            };
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(token(piece));
                rest = tail;
            }
            pieces.push(token(rest));
            prop_assert_eq!(render(&pieces, &stop), render(&[token(&bytes)], &stop));
        }
    }
}
