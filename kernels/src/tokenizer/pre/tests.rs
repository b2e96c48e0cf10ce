//! Every scanner against the expression it stands for.

use super::*;
use crate::tokenizer::deepseek::CASED_LIST;
use fancy_regex::Regex;
use proptest::prelude::*;
use std::sync::LazyLock;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CJK: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

fn expressions(pre: Pre) -> Vec<String> {
    let cased = format!(r"\s?[{}]+", CASED_LIST.concat());
    let signs = r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+";
    let list: &[&str] = match pre {
        Pre::Gpt2 => &[GPT2],
        Pre::LlamaBpe | Pre::Dbrx | Pre::Glm4 => &[LLAMA],
        Pre::Qwen2 => &[QWEN2],
        Pre::Qwen35 => &[QWEN35],
        Pre::Starcoder => &[r"\p{N}", GPT2],
        Pre::Falcon => &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        Pre::Default => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        Pre::DeepseekLlm => &[r"[\r\n]", &cased, signs, r"\s+$", CJK, r"\p{N}+"],
        Pre::DeepseekCoder => &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
        Pre::DeepseekV3 => &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", V3],
        Pre::Gpt4o => &[GPT4O],
        Pre::Tekken => &[TEKKEN],
        Pre::Gemma4 => &[r"[^\n]+|[\n]+"],
    };
    list.iter().map(|s| (*s).to_owned()).collect()
}

const ALL: [Pre; 15] = [
    Pre::Gpt2,
    Pre::LlamaBpe,
    Pre::Dbrx,
    Pre::Glm4,
    Pre::Qwen2,
    Pre::Qwen35,
    Pre::Starcoder,
    Pre::Falcon,
    Pre::Default,
    Pre::DeepseekLlm,
    Pre::DeepseekCoder,
    Pre::DeepseekV3,
    Pre::Gpt4o,
    Pre::Tekken,
    Pre::Gemma4,
];

/// The matches of each expression and the gaps between them, one after the other.
fn slow<'a>(text: &'a str, expressions: &[Regex]) -> Vec<&'a str> {
    let mut pieces = vec![text];
    for expression in expressions {
        let mut next = Vec::new();
        for piece in pieces {
            let mut at = 0;
            for found in expression.find_iter(piece) {
                let found = found.expect("within limits");
                next.extend([&piece[at..found.start()], found.as_str()]);
                at = found.end();
            }
            next.push(&piece[at..]);
        }
        next.retain(|p| !p.is_empty());
        pieces = next;
    }
    pieces
}

fn all(text: &str) {
    static REGEXES: LazyLock<Vec<(Pre, Vec<Regex>)>> = LazyLock::new(|| {
        ALL.iter()
            .map(|pre| {
                let list = expressions(*pre);
                let compiled = list.iter().map(|e| Regex::new(e).expect("constant"));
                (*pre, compiled.collect())
            })
            .collect()
    });
    for (pre, expressions) in REGEXES.iter() {
        let mine: Vec<&str> = pre.split(text).collect();
        assert_eq!(mine, slow(text, expressions), "{pre:?} on {text:?}");
        assert_eq!(mine.concat(), text);
    }
}

#[test]
fn the_scanners_split_prose_code_and_scripts_as_their_expressions_do() {
    for text in [
        "Hello world, it's 12345 o'clock; I'LL be 'ſo WE'VE they'Re",
        "a  b   c\n\n d \r\n\t e\u{a0}f  ",
        "    def f(x):\n\treturn x**2  # done\n\n\n",
        "…—«éàü» ñandú 東京は 日本 🦀🦀 ½ Ⅷ ١٢٣",
        "'",
        "''",
        "'l",
        " '",
        "\n'",
        "   ",
        "\u{2028}x\u{85}",
        "e\u{301}a \u{301}A\u{301}B \u{301}",
        "'s's",
        " !!\n\n x //\n/ https://x.y/Z",
        "camelCaseXMLHttp漢字ABC漢a HTTPServer's ÉCOLEé ǅa ʰAB",
        "한국어 ਪੰਜਾਬੀ ไทย кириллица\u{0} 12.345,67€",
    ] {
        all(text);
    }
}

#[test]
fn a_very_long_run_takes_linear_time() {
    for unit in [
        " ", "a", "A", "\n", "'", "1", "é", " \n", "漢", "A漢", "\u{301}", "/", "\0",
    ] {
        let text = unit.repeat(100_000);
        for pre in ALL {
            assert_eq!(pre.split(&text).map(str::len).sum::<usize>(), text.len());
        }
    }
}

#[test]
fn every_name_is_found_and_no_name_is_there_twice() {
    for (i, (name, pre)) in NAMES.iter().enumerate() {
        assert_eq!(Pre::from_name(name), Some(*pre));
        assert!(NAMES[..i].iter().all(|(n, _)| n != name), "{name}");
        assert_eq!(Pre::from_name(pre.name()), Some(*pre));
    }
    assert_eq!(Pre::from_name("superbpe"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_scanners_agree_with_their_expressions_on_random_text(
        text in "([a-zA-Z']|[sStTmMdDlLrRvVeE]|'|[0-9]| |\r|\n|\t|[.,!#/+$]|\\PC|\u{a0}|\u{2028}|ſ|[\u{300}-\u{303}]|[漢字かﾊʰǅÉé，。]|\0){0,40}"
    ) {
        all(&text);
    }
}
