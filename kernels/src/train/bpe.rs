//! A byte-level BPE vocabulary learned from text: GPT-2's byte alphabet, qwen2's splitting.
//!
//! Training counts pairs inside words (pieces of the pre-tokeniser) and merges the most
//! frequent pair; among equals the one whose two texts sort first, so that the result is a
//! function of the text. The encoder here serves training; the engine's own tokenizer reads
//! the same vocabulary back from the GGUF file. Called by [`super::run`].

use std::collections::{BTreeMap, HashMap};

use crate::tokenizer::Pre;

/// The control tokens, in the order of their ids at the end of the vocabulary.
pub const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// A trained vocabulary.
pub struct Vocab {
    /// Texts of the tokens in the byte alphabet, without the control tokens.
    tokens: Vec<String>,
    merges: Vec<(u32, u32)>,
    ranks: HashMap<(u32, u32), u32>,
    cache: HashMap<String, Vec<u32>>,
}

/// The printable character that stands for a byte in GPT-2's vocabulary files.
pub fn byte_char(b: u8) -> char {
    let own = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if own(b) {
        return b as char;
    }
    let before = (0..b).filter(|&c| !own(c)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

/// The ids of single bytes: GPT-2 orders the alphabet by the characters of the printable
/// bytes first, then the rest.
fn alphabet() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_by_key(|&b| byte_char(b));
    bytes
}

impl Vocab {
    /// Learns merges from `texts` until the vocabulary, with its control tokens, has `size`
    /// entries. `size` must be at least 259; fewer result when the text has no more pairs.
    pub fn train(texts: &[String], size: usize) -> Self {
        let mut ids = [0u32; 256];
        let mut tokens = Vec::new();
        for (i, b) in alphabet().into_iter().enumerate() {
            ids[b as usize] = i as u32;
            tokens.push(byte_char(b).to_string());
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for text in texts {
            for piece in Pre::Qwen2.split(text) {
                *counts.entry(piece.to_string()).or_default() += 1;
            }
        }
        let mut words: Vec<(Vec<u32>, usize)> = counts
            .into_iter()
            .map(|(w, n)| (w.bytes().map(|b| ids[b as usize]).collect(), n))
            .collect();
        let mut merges = Vec::new();
        while tokens.len() + SPECIALS.len() < size {
            let mut pairs: HashMap<(u32, u32), usize> = HashMap::new();
            for (word, n) in &words {
                for p in word.windows(2) {
                    *pairs.entry((p[0], p[1])).or_default() += n;
                }
            }
            let text = |p: (u32, u32)| (&tokens[p.0 as usize], &tokens[p.1 as usize]);
            let best = pairs
                .into_iter()
                .max_by(|a, b| a.1.cmp(&b.1).then_with(|| text(b.0).cmp(&text(a.0))));
            let Some((pair, _)) = best else { break };
            let new = tokens.len() as u32;
            tokens.push(format!(
                "{}{}",
                tokens[pair.0 as usize], tokens[pair.1 as usize]
            ));
            merges.push(pair);
            for (word, _) in &mut words {
                join(word, pair, new);
            }
        }
        let ranks = merges
            .iter()
            .enumerate()
            .map(|(i, &p)| (p, i as u32))
            .collect();
        Self {
            tokens,
            merges,
            ranks,
            cache: HashMap::new(),
        }
    }

    /// Number of tokens with the control tokens.
    pub fn len(&self) -> usize {
        self.tokens.len() + SPECIALS.len()
    }

    /// Whether there are no tokens; never the case.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Id of a control token by its place in [`SPECIALS`].
    pub fn special(&self, i: usize) -> u32 {
        (self.tokens.len() + i) as u32
    }

    /// Texts of all tokens as they stand in a GGUF file, control tokens last.
    pub fn texts(&self) -> Vec<String> {
        self.tokens
            .iter()
            .cloned()
            .chain(SPECIALS.map(String::from))
            .collect()
    }

    /// Merges as they stand in a GGUF file: two token texts with a space between them.
    pub fn merge_texts(&self) -> Vec<String> {
        let text = |i: u32| &self.tokens[i as usize];
        self.merges
            .iter()
            .map(|&(a, b)| format!("{} {}", text(a), text(b)))
            .collect()
    }

    /// Tokens of a plain text (control tokens in it are not recognised).
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        for piece in Pre::Qwen2.split(text) {
            if let Some(known) = self.cache.get(piece) {
                out.extend(known);
                continue;
            }
            let mut word: Vec<u32> = piece.bytes().map(|b| self.byte_id(b)).collect();
            while let Some((pair, rank)) = word
                .windows(2)
                .filter_map(|p| self.ranks.get(&(p[0], p[1])).map(|&r| ((p[0], p[1]), r)))
                .min_by_key(|&(_, r)| r)
            {
                join(&mut word, pair, 256 + rank);
            }
            out.extend(&word);
            self.cache.insert(piece.to_string(), word);
        }
    }

    fn byte_id(&self, b: u8) -> u32 {
        let c = byte_char(b);
        // The alphabet is sorted by character, so the first 256 tokens can be searched.
        self.tokens[..256].partition_point(|t| t.chars().next() < Some(c)) as u32
    }

    /// Text of tokens; control tokens are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let of: HashMap<char, u8> = (0..=255).map(|b| (byte_char(b), b)).collect();
        let chars = ids
            .iter()
            .filter_map(|&i| self.tokens.get(i as usize))
            .flat_map(|t| t.chars());
        let bytes: Vec<u8> = chars.filter_map(|c| of.get(&c).copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Replaces every `pair` in `word`, from the left, by `new`.
fn join(word: &mut Vec<u32>, pair: (u32, u32), new: u32) {
    let mut i = 0;
    while i + 1 < word.len() {
        if (word[i], word[i + 1]) == pair {
            word[i] = new;
            word.remove(i + 1);
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_that_of_gpt2() {
        assert_eq!(byte_char(b'!'), '!');
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
        assert_eq!(byte_char(0x7f), 'ġ');
        assert_eq!(byte_char(0xad), 'Ń');
        assert_eq!(alphabet()[0], b'!');
    }

    #[test]
    fn any_text_survives_encoding_and_frequent_words_become_one_token() {
        let texts = vec!["the relay and the host and the buyer ".repeat(20)];
        let mut v = Vocab::train(&texts, 290);
        let mut ids = Vec::new();
        v.encode(" the", &mut ids);
        assert_eq!(ids.len(), 1);
        for text in [
            "the host's relay\n\n  42 sats",
            "größe 東京 \u{1f600}\t",
            "",
        ] {
            let mut ids = Vec::new();
            v.encode(text, &mut ids);
            assert_eq!(v.decode(&ids), text);
        }
    }

    #[test]
    fn training_twice_gives_the_same_vocabulary() {
        let texts = vec!["a receipt is a record of a relay, a sat is a coin".to_string()];
        let (a, b) = (Vocab::train(&texts, 300), Vocab::train(&texts, 300));
        assert_eq!(a.merge_texts(), b.merge_texts());
    }
}
