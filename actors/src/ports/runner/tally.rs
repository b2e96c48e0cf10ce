//! One answer between the server's text and the buyer's tokens: what is counted, what
//! was handed on, what is paid for.

use super::count::Counter;
use super::wire::Usage;
use protocol::limits::MAX_PIECE_BYTES;
use protocol::wire::chain::ChainedToken;
use protocol::wire::order::Finish;
use std::collections::VecDeque;

/// Counted tokens that stay here until more follow or the answer ends: as far as they
/// reach, a smaller count by the server still stands.
const HOLD: u64 = 2;
/// Most tokens in one batch.
const BATCH_TOKENS: usize = 32;
/// Most text in one batch. Bytes. A chunk takes 64 KiB.
const BATCH_BYTES: usize = 16 << 10;

/// What goes to the buyer at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub tokens: Vec<ChainedToken>,
    pub finish: Option<Finish>,
}

/// The state of one answer.
#[derive(Debug)]
pub(super) struct Tally {
    counter: Counter,
    waiting: VecDeque<ChainedToken>,
    shown: u64,
    most: u64,
    finish: Option<Finish>,
}

impl Tally {
    /// An answer of at most `most` tokens.
    pub fn new(counter: Counter, most: u32) -> Self {
        Tally {
            counter,
            waiting: VecDeque::new(),
            shown: 0,
            most: u64::from(most),
            finish: None,
        }
    }

    /// Takes text from the server.
    pub fn push(&mut self, text: &str) {
        self.waiting.extend(self.counter.push(text));
    }

    /// Whether nothing more should be read: the buyer has not paid for what is here, or
    /// the order is at its end.
    pub fn is_full(&self, allowed: u64) -> bool {
        let here = self.shown + self.waiting.len() as u64;
        self.finish.is_some() || here >= allowed.saturating_add(HOLD) || self.is_beyond()
    }

    /// Whether the end is here.
    pub fn is_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// Whether there is more than was ordered, by our count.
    pub fn is_beyond(&self) -> bool {
        self.finish.is_none() && self.shown + self.waiting.len() as u64 > self.most + HOLD
    }

    /// The answer ended; the server's count and ours, where they are known.
    pub fn end(&mut self, finish: Finish, usage: Option<Usage>) -> (u64, Option<u64>) {
        let (last, rest, whole) = self.counter.finish();
        self.waiting.extend(last);
        let ours = self.shown + self.waiting.len() as u64;
        let theirs = usage
            .map(|usage| usage.completion_tokens)
            .filter(|n| *n > 0);
        let billed = ours
            .min(whole.unwrap_or(u64::MAX))
            .min(theirs.unwrap_or(u64::MAX))
            .min(self.most);
        // All text is delivered: what no token is billed for goes with the one before it, as far
        // as a piece takes it.
        if let Some(last) = self.waiting.back_mut() {
            last.piece.bytes.extend(rest.into_bytes());
        }
        while self.shown + self.waiting.len() as u64 > billed && self.waiting.len() > 1 {
            let Some(last) = self.waiting.pop_back() else {
                break;
            };
            match self.waiting.back_mut() {
                Some(before)
                    if before.piece.bytes.len() + last.piece.bytes.len() <= MAX_PIECE_BYTES =>
                {
                    before.piece.bytes.extend(last.piece.bytes);
                }
                _ => {
                    self.waiting.push_back(last);
                    break;
                }
            }
        }
        self.finish = Some(finish);
        (ours, theirs)
    }

    /// What may go to the buyer now; `None` where nothing may.
    pub fn take(&mut self, allowed: u64) -> Option<Batch> {
        let mut batch = Batch::default();
        let ended = self.finish.is_some();
        let mut bytes = 0;
        while batch.tokens.len() < BATCH_TOKENS
            && bytes < BATCH_BYTES
            && self.shown < allowed
            // The last one comes with the end: the order is over with it.
            && (ended || self.waiting.len() as u64 > HOLD && self.shown + 1 < self.most)
        {
            let Some(token) = self.waiting.pop_front() else {
                break;
            };
            self.shown += 1;
            bytes += token.piece.bytes.len();
            batch.tokens.push(token);
        }
        if ended && self.waiting.is_empty() {
            batch.finish = self.finish;
        }
        (batch != Batch::default()).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(most: u32, texts: &[&str]) -> Tally {
        let mut tally = Tally::new(Counter::new(None), most);
        texts.iter().for_each(|text| tally.push(text));
        tally
    }

    fn usage(completion_tokens: u64) -> Option<Usage> {
        Some(Usage {
            prompt_tokens: 0,
            completion_tokens,
        })
    }

    fn of(batch: Option<Batch>) -> (usize, String, Option<Finish>) {
        let batch = batch.unwrap_or_default();
        let text = batch
            .tokens
            .iter()
            .flat_map(|token| token.piece.bytes.clone());
        let text = String::from_utf8(text.collect()).unwrap();
        (batch.tokens.len(), text, batch.finish)
    }

    #[test]
    fn nothing_goes_out_that_is_not_paid_for_and_nothing_is_read_beyond_it() {
        let mut tally = tally(10, &["a", "b", "c", "d", "e"]);
        assert!(tally.is_full(3) && !tally.is_full(4));
        assert_eq!(of(tally.take(2)), (2, "ab".to_owned(), None));
        assert_eq!(tally.take(2), None);
        assert_eq!(of(tally.take(9)), (1, "c".to_owned(), None));
        tally.end(Finish::Stop, None);
        assert_eq!(tally.take(3), None);
        assert_eq!(of(tally.take(4)), (1, "d".to_owned(), None));
        assert_eq!(of(tally.take(9)), (1, "e".to_owned(), Some(Finish::Stop)));
    }

    #[test]
    fn the_smaller_count_is_billed_and_all_text_is_delivered() {
        let mut tally = tally(10, &["a", "b", "c", "d"]);
        assert_eq!(of(tally.take(9)).0, 2);
        assert_eq!(tally.end(Finish::Stop, usage(3)), (4, Some(3)));
        assert_eq!(of(tally.take(9)), (1, "cd".to_owned(), Some(Finish::Stop)));
        // Less than was delivered cannot be taken back, and text needs a token to travel with;
        // a count of nothing is none.
        for (count, left) in [(1, 1), (0, 2), (99, 2)] {
            let mut tally = self::tally(10, &["a", "b", "c", "d"]);
            tally.take(9);
            tally.end(Finish::Stop, usage(count));
            assert_eq!(
                of(tally.take(9)),
                (left, "cd".to_owned(), Some(Finish::Stop))
            );
        }
    }

    #[test]
    fn never_more_than_ordered_and_the_last_token_comes_with_the_end() {
        let mut tally = tally(3, &["a", "b", "c", "d", "e", "f"]);
        assert!(tally.is_beyond());
        assert_eq!(of(tally.take(99)), (2, "ab".to_owned(), None));
        tally.end(Finish::Length, None);
        assert_eq!(
            of(tally.take(99)),
            (1, "cdef".to_owned(), Some(Finish::Length))
        );
    }

    #[test]
    fn an_answer_without_text_ends_all_the_same() {
        let mut tally = tally(3, &[]);
        assert_eq!(tally.take(9), None);
        tally.end(Finish::Stop, usage(1));
        assert_eq!(of(tally.take(0)), (0, String::new(), Some(Finish::Stop)));
    }

    #[test]
    fn batches_fit_into_a_chunk() {
        let long = "x".repeat(BATCH_BYTES - 1);
        let mut tally = tally(9, &[&long, &long, "y", "z"]);
        tally.end(Finish::Stop, usage(1));
        let (mut all, mut batches) = (String::new(), 0);
        while let Some(batch) = tally.take(9) {
            let (_, text, finish) = of(Some(batch));
            assert!(text.len() <= 2 * BATCH_BYTES);
            all.push_str(&text);
            batches += 1;
            if finish.is_some() {
                break;
            }
        }
        assert_eq!((all.len(), batches), (2 * long.len() + 2, 2));
    }
}
