//! Vocabularies, merges and text that does not survive carelessness.

use super::*;
use crate::gguf::{Gguf, TensorType};
use crate::synthetic::{Shape, qwen3};
use proptest::prelude::*;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = Gguf::from_bytes(qwen3(&Shape::tiny(), TensorType::Q8_0, 1)).unwrap();
    Tokenizer::from_gguf(&file).unwrap()
});

fn merges() -> &'static Merges {
    match &TOKENIZER.algorithm {
        Algorithm::Bpe { merges, .. } => merges,
        other => panic!("{other:?}"),
    }
}

fn byte_ids() -> [u32; 256] {
    match &merges().alphabet {
        bpe::Alphabet::Bytes(ids) => *ids,
        other => panic!("{other:?}"),
    }
}

fn names(text: &str, special: bool) -> Vec<String> {
    let tokens = TOKENIZER.encode(text, special);
    tokens
        .iter()
        .map(|t| String::from_utf8_lossy(TOKENIZER.bytes(*t)).into_owned())
        .collect()
}

/// The obvious quadratic algorithm: merge the lowest-ranked pair, leftmost first.
fn slow_bpe(piece: &[u8]) -> Vec<u32> {
    let (merges, byte_ids) = (merges(), byte_ids());
    let mut ids: Vec<u32> = piece.iter().map(|b| byte_ids[usize::from(*b)]).collect();
    loop {
        let best = (1..ids.len())
            .filter_map(|i| {
                merges
                    .rules
                    .get(&(ids[i - 1], ids[i]))
                    .map(|r| (r.0, i, r.1))
            })
            .min();
        let Some((_, i, merged)) = best else {
            return ids;
        };
        ids[i - 1] = merged;
        ids.remove(i);
    }
}

#[test]
fn merges_apply_in_rank_order() {
    assert_eq!(names("the hell", false), ["the", " ", "hell"]);
    assert_eq!(names(" the", false), [" the"]);
    assert_eq!(names("thin", false), ["th", "in"]);
}

#[test]
fn special_tokens_are_plain_text_unless_asked_for() {
    assert_eq!(names("<|im_end|>", true), ["<|im_end|>"]);
    assert!(names("<|im_end|>", false).len() > 5);
    assert_eq!(names("a<|im_end|>b", true), ["a", "<|im_end|>", "b"]);
    let end = TOKENIZER.encode("<|im_end|>", true)[0];
    assert!(TOKENIZER.is_stop(end));
    assert_eq!(TOKENIZER.eos(), Some(end));
}

#[test]
fn a_stream_never_breaks_a_character_and_marks_bytes_that_cannot_be_text() {
    let mut stream = TOKENIZER.stream();
    let parts: Vec<String> = TOKENIZER
        .encode("🦀é", false)
        .iter()
        .map(|t| stream.push(&TOKENIZER, *t))
        .collect();
    assert_eq!(parts, ["", "", "", "🦀", "", "é"]);
    let byte = |b: u8| byte_ids()[usize::from(b)];
    assert_eq!(stream.push(&TOKENIZER, byte(0xf0)), "");
    assert_eq!(stream.push(&TOKENIZER, byte(b'a')), "\u{fffd}a");
    assert_eq!(stream.push(&TOKENIZER, byte(0xe2)), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_megabyte_of_one_letter_is_encoded_at_once() {
    let text = "th".repeat(500_000);
    assert_eq!(TOKENIZER.encode(&text, true).len(), 500_000);
}

proptest! {
    #[test]
    fn text_comes_back_from_its_tokens(text in "\\PC{0,60}|[a-z the\n]{0,80}") {
        for special in [false, true] {
            let tokens = TOKENIZER.encode(&text, special);
            prop_assert_eq!(TOKENIZER.decode(&tokens), text.as_bytes());
            let mut stream = TOKENIZER.stream();
            let mut streamed: String =
                tokens.iter().map(|t| stream.push(&TOKENIZER, *t)).collect();
            streamed += &stream.finish();
            if !special || !text.contains("<|") {
                prop_assert_eq!(&streamed, &text);
            }
        }
    }

    #[test]
    fn the_heap_merges_as_the_obvious_algorithm_does(piece in "[theinaroul]{1,40}") {
        let mut fast = Vec::new();
        merges().encode(&piece, &mut fast);
        prop_assert_eq!(fast, slow_bpe(piece.as_bytes()));
    }
}
