//! Conversations as tokens: ChatML for training rows, and a greedy answer for a look.
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
    pub(super) fn draw_row(&mut self, stream: u64, tokens: usize) -> Row {
        let mut rng = Rng::new(self.plan.seed, stream);
        let mut row = Row::default();
        if rng.chance(15) {
            let text = SYSTEM[rng.below(SYSTEM.len())];
            self.message(&mut row, "system", text, false);
        }
        while row.tokens.len() <= tokens {
            let Exchange { question, answer } = self.corpus.exchange(&mut rng);
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

    /// The most likely answer to one question, at most `most` tokens, and their number. Slow:
    /// every token runs the whole text again.
    pub fn answer(&mut self, question: &str, most: usize) -> (String, usize) {
        let mut row = Row::default();
        self.message(&mut row, "user", question, false);
        let mut tokens = row.tokens;
        tokens.push(self.vocab.special(1));
        self.vocab.encode("assistant\n", &mut tokens);
        let start = tokens.len();
        let end = self.vocab.special(2);
        while tokens.len() - start < most && tokens.len() < self.shape.context {
            let logits = self.workers[0].next_logits(&self.weights, &tokens);
            let best =
                (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b }) as u32;
            if best == end {
                break;
            }
            tokens.push(best);
        }
        (self.vocab.decode(&tokens[start..]), tokens.len() - start)
    }
}
