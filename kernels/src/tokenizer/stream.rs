//! Text from a stream of tokens, in whole characters.

use super::Tokenizer;

/// Holds back the bytes of an unfinished UTF-8 character until it is whole.
/// Bytes that can never become a character turn into U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// At most three bytes between calls: the longest unfinished character.
    pending: Vec<u8>,
    /// The next text loses one leading space.
    strip_space: bool,
}

impl TextStream {
    /// At the beginning of a whole text, whose first space was added by encoding it.
    pub(super) fn whole(strip_space: bool) -> Self {
        Self {
            pending: Vec::new(),
            strip_space,
        }
    }

    /// Add a token and take the text that is now complete. Control tokens have
    /// no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        if !tokenizer.is_text(token) {
            return String::new();
        }
        let mut bytes = tokenizer.bytes(token);
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        self.complete(false)
    }

    /// The end of the stream: what is left, an unfinished character as U+FFFD.
    pub fn finish(&mut self) -> String {
        self.complete(true)
    }

    fn complete(&mut self, last: bool) -> String {
        let mut out = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(good));
                    rest = bad;
                    match error.error_len() {
                        Some(n) => rest = &rest[n..],
                        None if last => rest = &[],
                        None => break,
                    }
                    out.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        self.pending = rest.to_vec();
        out
    }
}
