//! Counting piece by piece gives the count of the whole, and loses no text.

use super::*;
use proptest::prelude::*;

fn vocabulary() -> Arc<Vocabulary> {
    Arc::new(Vocabulary::from_bytes(kernels::pocket::pocket()).unwrap())
}

/// Counts `text` cut at `cuts`: the pieces, the text without tokens, the whole's count.
fn count(
    vocabulary: &Arc<Vocabulary>,
    text: &str,
    cuts: &[usize],
) -> (Vec<ChainedToken>, String, u64) {
    let mut counter = Counter::new(Some(vocabulary));
    let (mut pieces, mut rest) = (Vec::new(), text);
    for cut in cuts {
        let (piece, left) = rest.split_at(floor(rest, *cut));
        pieces.extend(counter.push(piece));
        rest = left;
    }
    pieces.extend(counter.push(rest));
    let (last, trailing, whole) = counter.finish();
    pieces.extend(last);
    (pieces, trailing, whole.unwrap())
}

fn words() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-zA-Z]{1,9}",
        1 => "[0-9]{1,7}",
        1 => "[äöüßéΩжя]{1,6}",
        1 => Just("日本語".to_owned()),
        1 => Just("🙂".to_owned()),
    ];
    let gap = prop_oneof![
        6 => Just(" "), 1 => Just("  "), 1 => Just("\n"), 1 => Just("\n\n"),
        1 => Just(", "), 1 => Just("."), 1 => Just("("), 1 => Just("'s "), 1 => Just(""),
    ];
    proptest::collection::vec((word, gap), 0..40).prop_map(|list| {
        let parts = list.into_iter().map(|(word, gap)| word + gap);
        parts.collect::<String>()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_count_is_that_of_the_whole_text_wherever_the_server_cut(
        text in words(),
        cuts in proptest::collection::vec(1usize..12, 0..60),
    ) {
        let vocabulary = vocabulary();
        let (pieces, trailing, whole) = count(&vocabulary, &text, &cuts);
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        prop_assert_eq!(ids.len() as u64, whole);
        let shown: Vec<u8> = pieces.iter().flat_map(|token| token.piece.bytes.clone()).collect();
        let shown = String::from_utf8(shown).unwrap();
        prop_assert_eq!(shown + &trailing, text);
    }
}

#[test]
fn prose_comes_out_word_by_word_with_the_very_tokens_of_the_whole() {
    let vocabulary = vocabulary();
    let text =
        "A host lists a model and a buyer pays for every token of the answer while it streams.";
    let mut counter = Counter::new(Some(&vocabulary));
    let (mut ids, mut late) = (Vec::new(), 0);
    for (at, c) in text.char_indices() {
        ids.extend(
            counter
                .push(c.encode_utf8(&mut [0; 4]))
                .into_iter()
                .map(|p| p.id),
        );
        late = late.max(
            vocabulary
                .encode(&text[..at], true)
                .len()
                .saturating_sub(ids.len()),
        );
    }
    ids.extend(counter.finish().0.into_iter().map(|piece| piece.id));
    assert_eq!(ids, vocabulary.encode(text, true));
    assert!(late < WAIT, "{late} tokens late");
}

#[test]
fn text_without_spaces_does_not_wait_for_its_end() {
    let vocabulary = vocabulary();
    let text = "日本語の文章には空白がありません".repeat(60);
    let mut counter = Counter::new(Some(&vocabulary));
    let mut made = 0;
    for c in text.chars() {
        made += counter.push(c.encode_utf8(&mut [0; 4])).len();
    }
    let (last, trailing, whole) = counter.finish();
    assert!(last.len() < 2 * WAIT, "{} tokens at the end", last.len());
    assert_eq!(trailing, "");
    let (found, whole) = ((made + last.len()) as u64, whole.unwrap());
    // The stretch begins anew now and then; each time may cost a merge.
    assert!(
        found.abs_diff(whole) <= text.len() as u64 / MAX_TAIL as u64,
        "{found} for {whole}"
    );
}

#[test]
fn without_a_vocabulary_a_piece_is_a_token_and_the_chain_holds_its_text() {
    let mut counter = Counter::new(None);
    let mut pieces = counter.push("Hello wor");
    pieces.extend(counter.push(""));
    pieces.extend(counter.push("ld"));
    let (last, trailing, whole) = counter.finish();
    assert_eq!(
        (pieces.len(), last.len(), trailing.as_str(), whole),
        (2, 0, "", None)
    );
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|token| token.piece.bytes.clone())
        .collect();
    assert_eq!(bytes, b"Hello world");
    assert!(pieces.iter().all(|token| token.id == UNKNOWN_TOKEN));
}

#[test]
fn a_very_long_piece_is_cut_between_characters() {
    let text = "a".to_owned() + &"é".repeat(MAX_PIECE_BYTES);
    let pieces = Counter::new(None).push(&text);
    assert!(pieces.len() > 2);
    let whole: Vec<u8> = pieces
        .iter()
        .flat_map(|token| token.piece.bytes.clone())
        .collect();
    assert_eq!(whole, text.as_bytes());
    assert!(
        pieces
            .iter()
            .all(|token| token.piece.bytes.len() <= MAX_PIECE_BYTES
                && std::str::from_utf8(&token.piece.bytes).is_ok())
    );
}
