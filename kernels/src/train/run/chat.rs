//! Conversations as tokens: ChatML for training rows.
//!
//! Called by [`super`].

use super::Run;
use crate::train::corpus::Exchange;
use crate::train::net::pass::Row;
use crate::train::rng::Rng;

/// System messages that clients like to send.
pub(super) const SYSTEM: [&str; 3] = [
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly assistant.",
];

impl Run {
    /// A conversation cut to `tokens` tokens and one more.
    pub(super) fn draw_row(&mut self, stream: u64, tokens: usize, focused: bool) -> Row {
        let mut rng = Rng::new(self.plan.seed, stream);
        let mut row = Row::default();
        if rng.chance(15) {
            let text = SYSTEM[rng.below(SYSTEM.len())];
            self.message(&mut row, "system", text, false);
        }
        while row.tokens.len() <= tokens {
            let Exchange { question, answer } = match focused {
                true => self.corpus.focused(&mut rng),
                false => self.corpus.exchange(&mut rng),
            };
            self.message(&mut row, "user", &question, false);
            self.message(&mut row, "assistant", &answer, true);
        }
        row.tokens.truncate(tokens + 1);
        row.counts.truncate(tokens + 1);
        row
    }

    /// Appends one message in ChatML; with `learn`, its text and its end count as guesses.
    fn message(&mut self, row: &mut Row, role: &str, text: &str, learn: bool) {
        row.tokens.push(self.vocab.special(1));
        self.vocab.encode(&format!("{role}\n"), &mut row.tokens);
        row.counts.resize(row.tokens.len() - 1, false);
        self.vocab.encode(text, &mut row.tokens);
        row.tokens.push(self.vocab.special(2));
        row.counts.resize(row.tokens.len() - 1, learn);
        self.vocab.encode("\n", &mut row.tokens);
        row.counts.resize(row.tokens.len(), false);
    }

    /// Logits of the token after `tokens`, from the unrounded weights. Slow: for comparisons.
    pub fn next_logits(&mut self, tokens: &[u32]) -> Vec<f32> {
        self.workers[0].next_logits(&self.weights, tokens)
    }
}
