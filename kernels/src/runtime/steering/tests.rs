//! Grammars over a vocabulary of bytes and a few merges.

use super::*;
use crate::gguf::{Gguf, TensorType};
use crate::runtime::Sampling;
use crate::synthetic::{Shape, qwen3};
use proptest::prelude::*;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = Gguf::from_bytes(qwen3(&Shape::tiny(), TensorType::Q8_0, 1)).unwrap();
    Tokenizer::from_gguf(&file).unwrap()
});

fn steering(grammar: Grammar) -> Steering {
    Steering {
        grammar: Some(grammar),
        ..Steering::default()
    }
}

/// Text drawn at random under a grammar, and whether it ended by itself.
fn draw(grammar: &Grammar, seed: u64, most: usize) -> (String, bool) {
    let mut steer = steering(grammar.clone())
        .start(&TOKENIZER)
        .unwrap()
        .unwrap();
    let sampling = Sampling {
        temperature_milli: 1000,
        ..Sampling::default()
    };
    let mut tokens = vec![0];
    while tokens.len() <= most {
        let mut logits = vec![0.0; TOKENIZER.len()];
        let token = sampling.sample(&mut logits, &tokens, seed, Some(&mut steer));
        steer.accept(token);
        if TOKENIZER.is_stop(token) {
            let text = String::from_utf8(TOKENIZER.decode(&tokens[1..])).expect("whole characters");
            return (text, true);
        }
        tokens.push(token);
    }
    (
        String::from_utf8_lossy(&TOKENIZER.decode(&tokens[1..])).into_owned(),
        false,
    )
}

#[test]
fn random_answers_have_the_form_that_was_asked_for() {
    let schema = r#"{"type": "object", "properties": {"a": {"type": "integer"},
        "b": {"enum": ["x", "yy"]}}, "required": ["a", "b"], "additionalProperties": false}"#;
    for seed in 0..20 {
        let (text, ended) = draw(&Grammar::JsonSchema(schema.to_owned()), seed, 400);
        if ended {
            let value: serde_json::Value = serde_json::from_str(&text).expect(&text);
            assert!(
                value["a"].is_i64() || value["a"].is_u64() || value["a"].is_f64(),
                "{text}"
            );
            assert!(
                ["x", "yy"].contains(&value["b"].as_str().unwrap()),
                "{text}"
            );
        }
        let (text, ended) = draw(&Grammar::Regex("(ab|cd){2}[0-9]{3}".to_owned()), seed, 50);
        assert!(ended);
        assert_eq!(text.len(), 7);
        let lark = "start: \"yes\" | \"no\" | \"maybe \" start";
        let (text, _) = draw(&Grammar::Lark(lark.to_owned()), seed, 50);
        assert!(text.starts_with('y') || text.starts_with('n') || text.starts_with("maybe"));
        let (text, _) = draw(&Grammar::Json, seed, 50);
        assert!(text.trim_start().starts_with('{'), "{text:?}");
    }
}

#[test]
fn the_same_grammar_and_seed_give_the_same_text() {
    for seed in 0..5 {
        let grammar = Grammar::Json;
        assert_eq!(draw(&grammar, seed, 60), draw(&grammar, seed, 60));
    }
}

#[test]
fn a_token_that_was_not_allowed_leaves_only_the_end() {
    let mut constraint = Constraint::new(&TOKENIZER, &Grammar::Regex("a+".to_owned())).unwrap();
    let b = TOKENIZER.encode("b", false)[0];
    let allowed = |constraint: &mut Constraint| {
        let mut logits = vec![0.0; TOKENIZER.len()];
        constraint.mask(&mut logits);
        (0..logits.len() as u32)
            .filter(|id| logits[*id as usize] == 0.0)
            .collect::<Vec<_>>()
    };
    let first = allowed(&mut constraint);
    assert!(!first.is_empty() && !first.contains(&b));
    constraint.accept(b);
    assert_eq!(allowed(&mut constraint), TOKENIZER.stops());
}

#[test]
fn bad_and_boundless_grammars_are_refused() {
    for grammar in [
        Grammar::JsonSchema("{".to_owned()),
        Grammar::JsonSchema("[1]".to_owned()),
        Grammar::JsonSchema(r#"{"$ref": "http://127.0.0.1:9/x"}"#.to_owned()),
        Grammar::Regex("(".to_owned()),
        Grammar::Regex("(".repeat(1000)),
        Grammar::Lark("start: nothing".to_owned()),
        Grammar::Lark(" ".repeat(300 << 10)),
        Grammar::Lark("start: A\nA: %regex {\"substring_chars\": \"abc\"}".to_owned()),
    ] {
        let refused = steering(grammar.clone()).start(&TOKENIZER);
        assert!(
            matches!(refused, Err(EngineError::Grammar(_))),
            "{grammar:?}"
        );
    }
}

/// Whether a grammar is taken, and what is said where it is not.
fn taken(grammar: Grammar) -> Result<(), String> {
    let started = steering(grammar).start(&TOKENIZER);
    started.map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn white_space_in_json_is_bounded() {
    let schema = r#"{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}},
        "required": ["a", "b"], "additionalProperties": false}"#;
    let space: Vec<u32> = [" ", "\n", "\t"]
        .iter()
        .flat_map(|text| TOKENIZER.encode(text, false))
        .collect();
    for grammar in [Grammar::Json, Grammar::JsonSchema(schema.to_owned())] {
        let mut constraint = Constraint::new(&TOKENIZER, &grammar).unwrap();
        // A model that writes white space wherever it may.
        let (mut run, mut longest) = (0, 0);
        for _ in 0..200 {
            let mut logits = vec![0.0; TOKENIZER.len()];
            constraint.mask(&mut logits);
            let allowed = |id: &u32| logits[*id as usize] == 0.0;
            let blank = space.iter().copied().find(allowed);
            run = if blank.is_some() { run + 1 } else { 0 };
            longest = longest.max(run);
            let any = (0..logits.len() as u32).find(allowed);
            let token = blank.or(any).unwrap();
            constraint.accept(token);
            // Inside a name anything may follow.
            if grammar == Grammar::Json && TOKENIZER.bytes(token).contains(&b'"') {
                break;
            }
        }
        assert!((1..=36).contains(&longest), "{grammar:?} {longest}");
    }
    // As people and models write it.
    for text in [
        "{\"a\": 1, \"b\": null}",
        "{\n  \"a\": 1,\r\n\t\"b\":null\n}",
        "{\"a\":1,\"b\":null}",
    ] {
        let grammar = Grammar::JsonSchema(schema.to_owned());
        let mut constraint = Constraint::new(&TOKENIZER, &grammar).unwrap();
        for token in TOKENIZER.encode(text, false) {
            let mut logits = vec![0.0; TOKENIZER.len()];
            constraint.mask(&mut logits);
            assert_eq!(logits[token as usize], 0.0, "{text:?}");
            constraint.accept(token);
        }
    }
}

#[test]
fn brackets_in_the_strings_of_a_schema_are_not_nesting() {
    let fields = |pattern: &str| {
        let field = |i: usize| format!(r#""f{i}": {{"type": "string", "pattern": {pattern:?}}}"#);
        let fields: Vec<String> = (0..40).map(field).collect();
        Grammar::JsonSchema(format!(
            r#"{{"type": "object", "properties": {{{}}}}}"#,
            fields.join(", ")
        ))
    };
    assert_eq!(taken(fields(r"^[^\[\(]{0,3}$")), Ok(()));
    let text = "0 (if case ".repeat(70);
    let described = format!(r#"{{"type": "string", "description": "{text}"}}"#);
    assert_eq!(taken(Grammar::JsonSchema(described)), Ok(()));
    let deep = format!("{}a{}", "(".repeat(70), ")".repeat(70));
    for grammar in [
        fields(&deep),
        Grammar::Regex(deep),
        Grammar::JsonSchema(format!(
            "{}{{}}{}",
            r#"{"items":"#.repeat(70),
            "}".repeat(70)
        )),
    ] {
        let error = taken(grammar).unwrap_err();
        assert!(error.contains("nested more than 64 deep"), "{error}");
    }
}

#[test]
fn formats_are_annotations_and_lookaheads_are_refused_by_name() {
    for format in [
        "password",
        "binary",
        "path",
        "uri-reference",
        "regex",
        "uuid",
    ] {
        let schema = format!(r#"{{"type": "string", "format": "{format}"}}"#);
        assert_eq!(taken(Grammar::JsonSchema(schema)), Ok(()), "{format}");
    }
    for grammar in [
        Grammar::JsonSchema(r#"{"type": "string", "pattern": "(?=a)b"}"#.to_owned()),
        Grammar::Regex("(?=a)b".to_owned()),
    ] {
        let error = taken(grammar).unwrap_err();
        assert!(error.contains("look-around"), "{error}");
    }
    let error = taken(Grammar::Regex("a{3,1}".to_owned())).unwrap_err();
    assert!(!error.contains(":;"), "{error}");
}

#[test]
fn a_grammar_from_the_cache_is_at_its_beginning() {
    for seed in 0..3 {
        // The first draw of a seed may compile, the second finds what the first left.
        let grammar = Grammar::Regex(format!("(ab|cd){{2}}[0-9]{{3}}x{seed}"));
        let drawn = draw(&grammar, seed, 50);
        assert!(drawn.1);
        assert_eq!(draw(&grammar, seed, 50), drawn);
    }
}

#[test]
fn a_grammar_that_needs_many_states_ends_the_answer_at_the_limit() {
    // The 18th letter from the end is an a: two to the power of 18 states.
    let grammar = Grammar::Regex("[ab]*a[ab]{18}".to_owned());
    let mut constraint = Constraint::new(&TOKENIZER, &grammar).unwrap();
    let letters = ["a", "b"].map(|letter| TOKENIZER.encode(letter, false)[0]);
    let mut bits = 0x9e37_79b9_7f4a_7c15u64;
    let mut ended = false;
    for _ in 0..100_000 {
        let mut logits = vec![0.0; TOKENIZER.len()];
        constraint.mask(&mut logits);
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let letter = letters[(bits >> 63) as usize];
        if logits[letter as usize] != 0.0 {
            ended = true;
            break;
        }
        constraint.accept(letter);
    }
    assert!(ended, "the states have a limit");
}

#[test]
fn long_chains_of_definitions_are_followed_or_refused() {
    let chain = |n: usize| {
        let mut text = "start: T0\n".to_owned();
        (0..n).for_each(|i| text += &format!("T{i}: \"a\" | \"b\" T{}\n", i + 1));
        Grammar::Lark(text + &format!("T{n}: \"c\"\n"))
    };
    let mut constraint = Constraint::new(&TOKENIZER, &chain(400)).unwrap();
    constraint.mask(&mut vec![0.0; TOKENIZER.len()]);
    assert!(Constraint::new(&TOKENIZER, &chain(5000)).is_err());
    let references: Vec<String> = (0..2000)
        .map(|i| format!(r##""d{i}": {{"$ref": "#/$defs/d{}"}}"##, i + 1))
        .collect();
    let schema = format!(
        r##"{{"$ref": "#/$defs/d0", "$defs": {{{}, "d2000": {{"type": "null"}}}}}}"##,
        references.join(", ")
    );
    if let Ok(mut constraint) = Constraint::new(&TOKENIZER, &Grammar::JsonSchema(schema)) {
        constraint.mask(&mut vec![0.0; TOKENIZER.len()]);
    }
}

#[test]
fn biases_and_probabilities_are_bounded() {
    let bias = |bias: Vec<(u32, i32)>| Steering {
        bias,
        ..Steering::default()
    };
    assert!(
        bias(vec![(1, 100_000), (2, -100_000)])
            .check(&TOKENIZER)
            .is_ok()
    );
    for wrong in [
        vec![(1, 100_001)],
        vec![(1, 1), (1, 2)],
        vec![(u32::MAX, 1)],
    ] {
        assert!(bias(wrong).check(&TOKENIZER).is_err());
    }
    let logprobs = |n| Steering {
        logprobs: Some(n),
        ..Steering::default()
    };
    assert!(logprobs(20).check(&TOKENIZER).is_ok());
    assert!(logprobs(21).check(&TOKENIZER).is_err());
    let mut steer = bias(vec![(2, 1500)]).start(&TOKENIZER).unwrap().unwrap();
    let mut logits = [1.0, 0.0, 0.0];
    assert_eq!(
        Sampling::default().sample(&mut logits, &[0], 1, Some(&mut steer)),
        2
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_grammar_panics(text in "[a-z:\"|/()\\[\\]{}*+?\\\\ \n0-9.,~%-]{0,60}") {
        for grammar in [
            Grammar::Lark(text.clone()),
            Grammar::Lark(format!("start: {text}")),
            Grammar::Regex(text.clone()),
            Grammar::JsonSchema(text.clone()),
        ] {
            if let Ok(mut constraint) = Constraint::new(&TOKENIZER, &grammar) {
                constraint.mask(&mut vec![0.0; TOKENIZER.len()]);
                constraint.accept(5);
            }
        }
    }
}
