//! Prompt lookup: guesses of the next tokens from what the sequence already says.
//!
//! Answers repeat their prompts and themselves: names, code, quotations. Where the last
//! tokens occurred before, what followed them then is a guess that costs no second
//! model. One step computes the guessed tokens beside the next one, which where memory
//! is the bound takes little more time, and each is kept only if it is the token that
//! would have been chosen anyway: the answer has the same bits (Saxena, "Prompt Lookup
//! Decoding", 2023; Leviathan et al., "Fast Inference from Transformers via Speculative
//! Decoding", 2023).

/// Last tokens that must have occurred before: more of them are better evidence.
const MATCH: [usize; 2] = [3, 2];
/// Tokens looked back on: what the search takes stays far below a step's time.
const BACK: usize = 8192;
/// Length of a guess after wrong ones.
const LEAST: usize = 2;
/// Most steps without a guess after wrong ones.
const PATIENCE: u32 = 32;

/// How well guesses went for one sequence: the next one is as long as the last ones
/// were right, and after wrong ones comes a pause that doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    /// Most tokens of a guess.
    most: usize,
    length: usize,
    pause: u32,
    waiting: u32,
}

impl Lookup {
    /// Guesses of at most `most` tokens: with the one that is computed anyway, as many
    /// as a step computes while it waits for memory.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            length: LEAST.min(most),
            pause: 1,
            waiting: 0,
        }
    }

    /// Tokens that may follow, at most `most`.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        if self.waiting > 0 {
            self.waiting -= 1;
            return Vec::new();
        }
        continuation(tokens, most.min(self.length))
    }

    /// Of so many guessed tokens so many were right.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if right == 0 {
            self.length = LEAST.min(self.most);
            self.waiting = self.pause;
            self.pause = (2 * self.pause).min(PATIENCE);
        } else {
            self.pause = 1;
            self.length = match right == guessed {
                true => (2 * self.length).min(self.most),
                false => right.max(LEAST.min(self.most)),
            };
        }
    }
}

/// What followed the last occurrence of the last tokens; goes round where it runs into
/// the end, as in a text that repeats itself.
fn continuation(tokens: &[u32], most: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(BACK)..];
    let found = MATCH.into_iter().find_map(|n| {
        let before = tokens.get(..tokens.len().checked_sub(1)?)?;
        let tail = &tokens[tokens.len().checked_sub(n)?..];
        Some(before.windows(n).rposition(|seen| seen == tail)? + n)
    });
    let Some(from) = found else {
        return Vec::new();
    };
    let period = tokens.len() - from;
    (0..most).map(|i| tokens[from + i % period]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_last_time_is_guessed() {
        assert_eq!(continuation(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        // The later of two occurrences.
        assert_eq!(continuation(&[7, 8, 1, 7, 8, 2, 7, 8], 1), [2]);
        // Three tokens are better than two.
        assert_eq!(continuation(&[5, 7, 8, 1, 6, 7, 8, 2, 5, 7, 8], 1), [1]);
        // A text that goes round.
        assert_eq!(continuation(&[4, 9, 9, 9], 3), [9, 9, 9]);
        assert_eq!(continuation(&[1, 2, 1, 2, 1], 4), [2, 1, 2, 1]);
        for short in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4]] {
            assert!(continuation(short, 3).is_empty(), "{short:?}");
        }
        assert!(continuation(&[1, 2, 3, 1, 2, 3], 0).is_empty());
    }

    #[test]
    fn right_guesses_grow_and_wrong_ones_make_way() {
        let mut lookup = Lookup::new(7);
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3];
        for expected in [2, 4, 7, 7] {
            let guess = lookup.guess(&text, 100);
            assert_eq!(guess.len(), expected);
            lookup.learn(guess.len(), guess.len());
        }
        lookup.learn(7, 3);
        assert_eq!(lookup.guess(&text, 100).len(), 3);
        assert_eq!(lookup.guess(&text, 1).len(), 1);
        let mut guesses = 0;
        for _ in 0..1000 {
            let guess = lookup.guess(&text, 100);
            if !guess.is_empty() {
                guesses += 1;
                lookup.learn(guess.len(), 0);
            }
        }
        // 1, 2, 4, 8, 16, then one in 33.
        assert!((30..=36).contains(&guesses), "{guesses}");
        lookup.learn(2, 1);
        assert!(lookup.guess(&text, 100).is_empty());
        let mut never = Lookup::new(0);
        assert!((0..9).all(|_| never.guess(&text, 100).is_empty()));
    }
}
