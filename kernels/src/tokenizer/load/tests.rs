//! Small vocabularies of each kind, and hostile ones.

use super::{MAX_MERGES, MAX_TEXT, MAX_TOKEN_BYTES, MAX_TOKENS};
use crate::gguf::Gguf;
use crate::gguf::write::{Value, Writer};
use crate::tokenizer::{Piece, Tokenizer, TokenizerError, byte_char};
use proptest::prelude::*;

fn texts(list: &[&str]) -> Value {
    Value::Texts(list.iter().map(|s| (*s).to_owned()).collect())
}

fn load(keys: Vec<(&str, Value)>) -> Result<Tokenizer, TokenizerError> {
    let mut writer = Writer::new("none");
    for (key, value) in keys {
        writer.key(&format!("tokenizer.ggml.{key}"), value);
    }
    let file = Gguf::from_bytes(writer.finish()).expect("a file of our own");
    Tokenizer::from_gguf(&file)
}

/// Tokens, then kinds, for `<unk>`, `<s>`, `</s>`, all bytes and some pieces.
fn sentence_pieces(pieces: &[&str]) -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    kinds.resize(tokens.len(), 6);
    tokens.extend(pieces.iter().map(|s| (*s).to_owned()));
    kinds.resize(tokens.len(), 1);
    (tokens, kinds)
}

fn gemma(pieces: &[&str], merges: &[&str]) -> Result<Tokenizer, TokenizerError> {
    let (tokens, kinds) = sentence_pieces(pieces);
    load(vec![
        ("model", Value::Text("gemma4".into())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::I32s(kinds)),
        ("merges", texts(merges)),
    ])
}

fn names(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let name = |id: &u32| String::from_utf8_lossy(tokenizer.bytes(*id)).into_owned();
    ids.iter().map(name).collect()
}

#[test]
fn gemma_merges_characters_and_spells_the_rest_in_bytes() {
    let pieces = ["▁", "a", "b", "ab", "▁ab", "\n", "\n\n"];
    let tokenizer = gemma(&pieces, &["a b", "▁ ab"]).unwrap();
    let ids = tokenizer.encode(" ab\n\nbéa", false);
    assert_eq!(tokenizer.decode(&ids), " ab\n\nbéa".as_bytes());
    assert_eq!(names(&tokenizer, &ids[..3]), [" ab", "\n\n", "b"]);
    assert_eq!(ids.len(), 6, "two bytes for é");
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = ids.iter().map(|t| stream.push(&tokenizer, *t)).collect();
    assert_eq!(parts, [" ab", "\n\n", "b", "", "é", "a"]);
    // The text of a control token stays text, and the text of a byte token, too.
    for text in ["<s>", "<0x41>"] {
        let ids = tokenizer.encode(text, false);
        assert_eq!(ids.len(), text.len());
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }
    assert_eq!(tokenizer.encode("<s>a", true)[0], 1);
    assert!(tokenizer.add_bos());
}

fn sentence_piece(pieces: &[(&str, f32)], space: bool) -> Result<Tokenizer, TokenizerError> {
    let texts: Vec<&str> = pieces.iter().map(|(text, _)| *text).collect();
    let (tokens, kinds) = sentence_pieces(&texts);
    let mut scores = vec![0.0; tokens.len() - pieces.len()];
    scores.extend(pieces.iter().map(|(_, score)| score));
    load(vec![
        ("model", Value::Text("llama".into())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::I32s(kinds)),
        ("scores", Value::F32s(scores)),
        ("add_space_prefix", Value::Bool(space)),
    ])
}

/// A byte-level vocabulary: the 256 bytes, then these tokens with their kinds.
fn byte_level(more: &[(&str, i32)], keys: Vec<(&str, Value)>) -> Result<Tokenizer, TokenizerError> {
    let mut tokens: Vec<String> = (0..=255).map(|b| byte_char(b).to_string()).collect();
    let mut kinds = vec![1; 256];
    tokens.extend(more.iter().map(|(text, _)| (*text).to_owned()));
    kinds.extend(more.iter().map(|(_, kind)| kind));
    let mut all = vec![
        ("model", Value::Text("gpt2".into())),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::I32s(kinds)),
        ("merges", texts(&[])),
    ];
    all.extend(keys);
    load(all)
}

fn piece(control: bool, bytes: &[u8]) -> Piece {
    let bytes = bytes.to_vec();
    Piece { control, bytes }
}

#[test]
fn pieces_of_a_byte_level_vocabulary_are_its_bytes() {
    let more = [("Ġhé", 1), ("<|end|>", 3), ("<tool>", 4), ("<pad>", 5)];
    let tokenizer = byte_level(&more, vec![("pre", Value::Text("qwen2".into()))]).unwrap();
    assert_eq!(tokenizer.piece(0xff), piece(false, b"\xff"));
    assert_eq!(tokenizer.piece(256), piece(false, b" h\xe9"));
    assert_eq!(tokenizer.piece(257), piece(true, b"<|end|>"));
    assert_eq!(tokenizer.piece(258), piece(false, b"<tool>"));
    assert_eq!(tokenizer.piece(259), piece(true, b"<pad>"));
    assert_eq!(tokenizer.piece(260), piece(true, b""));
}

#[test]
fn tokens_of_equal_bytes_encode_the_same_at_every_load() {
    // As in llama.cpp, only what is written in the alphabet is a piece.
    for (written, more) in [(256, ["Ġa", " a", "中"]), (257, [" a", "Ġa", "中"])] {
        let more = more.map(|text| (text, 1));
        for pre in ["llama-bpe", "glm4", "tekken"].repeat(16) {
            let keys = vec![("pre", Value::Text(pre.into()))];
            let tokenizer = byte_level(&more, keys).unwrap();
            assert_eq!(tokenizer.bytes(256), tokenizer.bytes(257));
            assert_eq!(tokenizer.encode(" a", false), [written], "{pre}");
            assert_eq!(tokenizer.encode("中", false).len(), 3, "{pre}");
        }
    }
}

#[test]
fn pieces_of_sentencepiece_and_wordpiece_are_text_with_spaces() {
    let tokenizer = sentence_piece(&PIECES, true).unwrap();
    assert_eq!(tokenizer.piece(0), piece(true, b"<unk>"));
    assert_eq!(tokenizer.piece(2), piece(true, b"</s>"));
    assert_eq!(tokenizer.piece(3 + 0x0a), piece(false, b"\n"));
    assert_eq!(tokenizer.piece(259), piece(false, b" "));
    assert_eq!(tokenizer.piece(266), piece(false, b" ab"));
    let tokenizer = gemma(&["▁é"], &[]).unwrap();
    assert_eq!(tokenizer.piece(3 + 0xe9), piece(false, b"\xe9"));
    assert_eq!(tokenizer.piece(259), piece(false, " é".as_bytes()));
    let words = load(vec![
        ("model", Value::Text("bert".into())),
        ("tokens", texts(&["[UNK]", "▁a", "b"])),
        ("token_type", Value::I32s(vec![3, 1, 1])),
        ("unknown_token_id", Value::U32(0)),
    ])
    .unwrap();
    assert_eq!(words.piece(0), piece(true, b"[UNK]"));
    assert_eq!(words.piece(1), piece(false, b" a"));
    assert_eq!(words.piece(2), piece(false, b"b"));
}

#[test]
fn an_end_of_turn_of_the_wrong_type_ends_the_turn_and_is_no_text() {
    for kind in [1, 3, 4] {
        let more = [("<|im_end|>", kind), ("<|end", kind), ("<eos>", 3)];
        let keys = vec![
            ("pre", Value::Text("qwen2".into())),
            ("eos_token_id", Value::U32(258)),
        ];
        let tokenizer = byte_level(&more, keys).unwrap();
        assert_eq!(tokenizer.stops(), [256, 258], "type {kind}");
        assert_eq!(tokenizer.piece(256), piece(true, b"<|im_end|>"));
        assert_eq!(tokenizer.encode("<|im_end|>", true), [256]);
        assert_eq!(tokenizer.encode("<|im_end|>", false).len(), 10);
        assert_eq!(tokenizer.stream().push(&tokenizer, 256), "");
        // Only what is known to end turns.
        assert_eq!(tokenizer.piece(257).control, kind == 3);
    }
}

#[test]
fn a_byte_level_vocabulary_without_a_pre_tokeniser_loads_with_the_default_one() {
    let named = byte_level(&[], vec![("pre", Value::Text("default".into()))]).unwrap();
    let missing = byte_level(&[], Vec::new()).unwrap();
    assert_eq!((named.name(), missing.name()), ("default", "default"));
    assert_eq!(named.digest(), missing.digest());
    let text = "it's 12345 `x`\n\n y";
    assert_eq!(
        missing.decode(&missing.encode(text, false)),
        text.as_bytes()
    );
    assert!(byte_level(&[], vec![("pre", Value::U32(1))]).is_err());
}

/// SentencePiece as its authors describe it: merge the best pair until none is left.
fn slow_pieces(pieces: &[(&str, f32)], text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    let score = |s: &str| pieces.iter().find(|(p, _)| *p == s).map(|(_, x)| *x);
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..symbols.len() {
            let joint = score(&(symbols[i - 1].clone() + &symbols[i]));
            if let Some(x) = joint.filter(|x| best.is_none_or(|(b, _)| *x > b)) {
                best = Some((x, i));
            }
        }
        let Some((_, i)) = best else { return symbols };
        let right = symbols.remove(i);
        symbols[i - 1].push_str(&right);
    }
}

const PIECES: [(&str, f32); 9] = [
    ("▁", -1.0),
    ("a", -2.0),
    ("b", -2.0),
    ("ab", -3.0),
    ("ba", -3.0),
    ("aab", -2.5),
    ("▁a", -3.5),
    ("▁ab", -0.5),
    ("bb", -9.0),
];

#[test]
fn sentence_pieces_put_a_space_in_front_and_take_it_away_again() {
    let tokenizer = sentence_piece(&PIECES, true).unwrap();
    assert_eq!(tokenizer.bos(), Some(1));
    assert_eq!(tokenizer.encode_whole("", false), [1]);
    let ids = tokenizer.encode("ab é</s>ab", true);
    assert_eq!(names(&tokenizer, &ids[..2]), [" ab", " "]);
    assert_eq!(names(&tokenizer, &ids[4..]), ["</s>", " ab"]);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(" ab é", false)),
        " ab é".as_bytes()
    );
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(&tokenizer, ids[0]), "ab");
    let mut later = crate::tokenizer::TextStream::default();
    assert_eq!(later.push(&tokenizer, ids[0]), " ab");
    assert!(sentence_piece(&[("a", f32::NAN)], true).is_err());
}

#[test]
fn wordpiece_cleans_words_and_covers_them_from_the_left() {
    let tokens = [
        "[UNK]", "[CLS]", "[SEP]", "▁cafe", "s", "▁!", "▁中", "▁a", "b",
    ];
    let tokenizer = load(vec![
        ("model", Value::Text("bert".into())),
        ("tokens", texts(&tokens)),
        ("token_type", Value::I32s(vec![3, 3, 3, 1, 1, 1, 1, 1, 1])),
        ("unknown_token_id", Value::U32(0)),
        ("cls_token_id", Value::U32(1)),
        ("seperator_token_id", Value::U32(2)),
    ])
    .unwrap();
    assert_eq!(
        tokenizer.encode("CAFÉS!\u{0} 中ab", false),
        [3, 4, 5, 6, 7, 8]
    );
    assert_eq!(tokenizer.encode("cafex abab", false), [0, 0]);
    assert_eq!(tokenizer.encode_whole("a", false), [1, 7, 2]);
    assert_eq!(tokenizer.decode(&[3, 4, 5]), b"cafes !");
    assert_eq!(tokenizer.encode("[CLS]", true), [1]);
}

#[test]
fn what_is_not_claimed_is_refused_by_name() {
    let with = |model: &str, pre: &str| {
        let keys = vec![
            ("model", Value::Text(model.into())),
            ("pre", Value::Text(pre.into())),
            ("tokens", texts(&["a"])),
            ("merges", texts(&[])),
        ];
        load(keys).unwrap_err().to_string()
    };
    assert!(with("t5", "").contains("\"t5\""));
    assert!(with("gpt2", "superbpe").contains("\"superbpe\""));
    assert!(with("gpt2", "qwen2").contains("byte 0x21"));
    assert!(with("llama", "").contains("1 tokens but 0 scores"));
    let long = vec![
        ("model", Value::Text("bert".into())),
        ("tokens", Value::Texts(vec!["a".repeat(5000)])),
    ];
    assert!(matches!(load(long), Err(TokenizerError::Long { .. })));
}

#[test]
fn a_head_with_more_tokens_than_any_model_has_is_useless() {
    // 256 bytes, and so many more; with merges of the first two.
    let refused = |tokens: usize, merges: usize, text: &str| {
        let bytes = (0..=255).map(|b| byte_char(b).to_string());
        let tokens = bytes.chain(std::iter::repeat_n(text.to_owned(), tokens - 256));
        let mut writer = Writer::new("none");
        for (key, value) in [
            ("model", Value::Text("gpt2".into())),
            ("pre", Value::Text("llama-bpe".into())),
            ("tokens", Value::Texts(tokens.collect())),
            ("merges", Value::Texts(vec!["a b".into(); merges])),
        ] {
            writer.key(&format!("tokenizer.ggml.{key}"), value);
        }
        let head = Gguf::from_head(writer.finish()).unwrap();
        Tokenizer::from_gguf(&head).map(|tokenizer| tokenizer.len())
    };
    assert_eq!(refused(MAX_TOKENS, 0, "ab").unwrap(), MAX_TOKENS);
    let tokens = refused(MAX_TOKENS + 1, 0, "ab").unwrap_err();
    assert!(matches!(tokens, TokenizerError::Size { .. }), "{tokens}");
    assert_eq!(refused(257, MAX_MERGES, "ab").unwrap(), 257);
    let merges = refused(257, MAX_MERGES + 1, "ab").unwrap_err();
    assert!(matches!(merges, TokenizerError::Merges { .. }), "{merges}");
    let long = "a".repeat(MAX_TOKEN_BYTES);
    let text = refused(256 + MAX_TEXT / MAX_TOKEN_BYTES, 0, &long).unwrap_err();
    assert!(matches!(text, TokenizerError::Text { .. }), "{text}");
}

#[test]
fn the_memory_of_a_vocabulary_is_that_of_its_tables() {
    let of = |pre: &str, tokens: usize| {
        let names: Vec<String> = (0..tokens).map(|n| format!("{n:08}")).collect();
        let more: Vec<(&str, i32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let keys = vec![("pre", Value::Text(pre.into()))];
        byte_level(&more, keys).unwrap().memory()
    };
    // Text, its end and its kind; where whole pieces are looked up, these, too.
    let each = |pre| (of(pre, 8_000) - of(pre, 1_000)) / 7_000;
    assert_eq!(each("qwen2"), 8 + 8 + 1);
    assert!((60..120).contains(&each("llama-bpe")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_random_vocabulary_is_refused_or_works(
        pieces in prop::collection::vec("[ab▁é\n ]{0,4}|<0x4[0-9]>|<s>", 0..12),
        pairs in prop::collection::vec(("[ab▁é\n]{0,2}", "[ab▁é\n]{0,2}"), 0..6),
        model in prop::sample::select(vec!["gemma4", "gpt2", "bert", "llama"]),
        kinds in prop::collection::vec(0..8i32, 300),
        ids in prop::collection::vec(0..300u32, 4),
        text in "[ab▁é\n <>0x4s]{0,30}|\\PC{0,20}",
    ) {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (tokens, usual) = sentence_pieces(&pieces);
        let kinds: Vec<i32> = match ids[0] % 2 {
            0 => usual,
            _ => kinds[..tokens.len().min(300)].to_vec(),
        };
        let merges = pairs.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let scores = tokens.iter().map(|t| t.len() as f32 - 3.0).collect();
        let loaded = load(vec![
            ("model", Value::Text(model.into())),
            ("pre", Value::Text("qwen2".into())),
            ("tokens", Value::Texts(tokens)),
            ("token_type", Value::I32s(kinds)),
            ("merges", Value::Texts(merges)),
            ("scores", Value::F32s(scores)),
            ("bos_token_id", Value::U32(ids[1])),
            ("unknown_token_id", Value::U32(ids[2])),
            ("seperator_token_id", Value::U32(ids[3])),
        ]);
        if let Ok(tokenizer) = loaded {
            for special in [false, true] {
                let ids = tokenizer.encode_whole(&text, special);
                prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.len()));
                let mut stream = tokenizer.stream();
                for id in &ids {
                    stream.push(&tokenizer, *id);
                }
                stream.finish();
                tokenizer.decode(&ids);
            }
        }
    }

    #[test]
    fn pieces_merge_as_the_obvious_algorithm_does(text in "[ab▁]{0,20}", space: bool) {
        let tokenizer = sentence_piece(&PIECES, space).unwrap();
        let ids = tokenizer.encode(&text, false);
        let prefix = if space && !text.is_empty() { "▁" } else { "" };
        let slow = slow_pieces(&PIECES, &format!("{prefix}{text}"));
        let slow: Vec<String> = slow.iter().map(|s| s.replace('▁', " ")).collect();
        prop_assert_eq!(names(&tokenizer, &ids), slow);
    }

    #[test]
    fn text_comes_back_from_characters_and_bytes(text in "[ab\n é<>s]{0,30}|\\PC{0,20}") {
        let pieces = ["▁", "a", "b", "ab", "▁ab", "\n", "\n\n"];
        let tokenizer = gemma(&pieces, &["a b", "▁ ab"]).unwrap();
        // The tokenizer's own sign for a space comes back as a space.
        let text = text.replace('▁', " ");
        let ids = tokenizer.encode(&text, false);
        prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }
}
