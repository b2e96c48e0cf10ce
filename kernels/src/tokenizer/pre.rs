//! Pre-tokenisers: text to the pieces inside which merging happens.
//!
//! A pre-tokeniser is a list of expressions. The first cuts the text into its
//! matches and the gaps between them, the second cuts each of these, and so on.
//! Each expression is a hand-written scanner (`scan`, `deepseek`), linear in the
//! text and without failure, where a backtracking engine gives up on long runs; the
//! tests compare every one with the expression it stands for on random text.

use super::{deepseek, scan};

/// What a scanner finds at the beginning of a text that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A match of this many bytes.
    Take(usize),
    /// No match begins within this many bytes.
    Skip(usize),
}

/// A scanner for one expression.
pub(super) type Scanner = fn(&str) -> Cut;

/// Which expressions split text (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pre {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's: digits in threes, whole pieces that are tokens stay whole.
    LlamaBpe,
    /// Llama 3's expression, merged like any other.
    Dbrx,
    /// Llama 3's, without a BOS token of its own.
    Glm4,
    /// Qwen 2 and 3: single digits.
    Qwen2,
    /// Qwen 3.5: combining marks belong to words.
    Qwen35,
    /// Single digits, then GPT-2's.
    Starcoder,
    /// Punctuation, GPT-2's, then digits in threes.
    Falcon,
    /// Punctuation, GPT-2's, numbers, then digits in threes: llama.cpp's where a file
    /// does not say.
    Default,
    /// DeepSeek's first.
    DeepseekLlm,
    /// DeepSeek Coder's.
    DeepseekCoder,
    /// DeepSeek V3's and R1's.
    DeepseekV3,
    /// GPT-4o's and gpt-oss's: words end where the case changes.
    Gpt4o,
    /// Mistral's Tekken: as GPT-4o's, single digits, no contractions.
    Tekken,
    /// Gemma 4: lines, with spaces inside.
    Gemma4,
}

/// Every name in files that we claim, with what it means.
const NAMES: [(&str, Pre); 62] = [
    ("gpt-2", Pre::Gpt2),
    ("phi-2", Pre::Gpt2),
    ("jina-es", Pre::Gpt2),
    ("jina-de", Pre::Gpt2),
    ("gigachat", Pre::Gpt2),
    ("a.x-4.0", Pre::Gpt2),
    ("mellum", Pre::Gpt2),
    ("exaone4", Pre::Gpt2),
    ("mpt", Pre::Gpt2),
    ("olmo", Pre::Gpt2),
    ("jais", Pre::Gpt2),
    ("trillion", Pre::Gpt2),
    ("granite-docling", Pre::Gpt2),
    ("roberta-bpe", Pre::Gpt2),
    ("llama-bpe", Pre::LlamaBpe),
    ("llama3", Pre::LlamaBpe),
    ("llama-v3", Pre::LlamaBpe),
    ("falcon3", Pre::LlamaBpe),
    ("falcon-h1", Pre::LlamaBpe),
    ("pixtral", Pre::LlamaBpe),
    ("midm-2.0", Pre::LlamaBpe),
    ("lfm2", Pre::LlamaBpe),
    ("jina-v5-nano", Pre::LlamaBpe),
    ("dbrx", Pre::Dbrx),
    ("smaug-bpe", Pre::Dbrx),
    ("chatglm-bpe", Pre::Dbrx),
    ("glm4", Pre::Glm4),
    ("glm5", Pre::Glm4),
    ("qwen2", Pre::Qwen2),
    ("deepseek-r1-qwen", Pre::Qwen2),
    ("kormo", Pre::Qwen2),
    ("f2llmv2", Pre::Qwen2),
    ("megrez", Pre::Qwen2),
    ("stablelm2", Pre::Qwen2),
    ("hunyuan", Pre::Qwen2),
    ("solar-open", Pre::Qwen2),
    ("grok-2", Pre::Qwen2),
    ("qwen35", Pre::Qwen35),
    ("starcoder", Pre::Starcoder),
    ("refact", Pre::Starcoder),
    ("command-r", Pre::Starcoder),
    ("smollm", Pre::Starcoder),
    ("codeshell", Pre::Starcoder),
    ("exaone", Pre::Starcoder),
    ("minerva-7b", Pre::Starcoder),
    ("mellum2", Pre::Starcoder),
    ("falcon", Pre::Falcon),
    ("default", Pre::Default),
    ("deepseek-llm", Pre::DeepseekLlm),
    ("deepseek-coder", Pre::DeepseekCoder),
    ("deepseek-v3", Pre::DeepseekV3),
    ("hunyuan-dense", Pre::DeepseekV3),
    ("joyai-llm", Pre::DeepseekV3),
    ("hy_v4", Pre::DeepseekV3),
    ("gpt-4o", Pre::Gpt4o),
    ("llama4", Pre::Gpt4o),
    ("kanana2", Pre::Gpt4o),
    ("talkie", Pre::Gpt4o),
    ("minimax-m2", Pre::Gpt4o),
    ("tekken", Pre::Tekken),
    ("gemma4", Pre::Gemma4),
    ("granite-embed-multi-311m", Pre::Gemma4),
];

impl Pre {
    /// By its name in the file.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, pre)| *pre)
    }

    /// Its name: the first of those that files use.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, pre)| *pre == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether a piece that is a token is not merged.
    pub(super) fn keeps_whole_tokens(self) -> bool {
        matches!(self, Self::LlamaBpe | Self::Glm4 | Self::Tekken)
    }

    /// Whether prompts start with BOS where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Self::LlamaBpe | Self::Tekken | Self::Gemma4)
    }

    fn scanners(self) -> &'static [Scanner] {
        match self {
            Self::Gpt2 => &[scan::gpt2],
            Self::LlamaBpe | Self::Dbrx | Self::Glm4 => &[scan::llama],
            Self::Qwen2 => &[scan::qwen2],
            Self::Qwen35 => &[scan::qwen35],
            Self::Starcoder => &[scan::digit, scan::gpt2],
            Self::Falcon => &[scan::falcon_signs, scan::gpt2, scan::ascii_digits_3],
            Self::Default => &[
                scan::default_signs,
                scan::gpt2,
                scan::numbers,
                scan::ascii_digits_3,
            ],
            Self::DeepseekLlm => &deepseek::LLM,
            Self::DeepseekCoder => &deepseek::CODER,
            Self::DeepseekV3 => &deepseek::V3,
            Self::Gpt4o => &[scan::gpt4o],
            Self::Tekken => &[scan::tekken],
            Self::Gemma4 => &[scan::lines],
        }
    }

    /// Split a text into pieces whose concatenation is the text.
    pub fn split(self, text: &str) -> impl Iterator<Item = &str> {
        Pieces {
            scanners: self.scanners(),
            waiting: vec![(text, 0)],
        }
    }
}

/// Texts still to be cut, the next one last, each with the first scanner that has
/// not seen it: at most two per scanner.
struct Pieces<'a> {
    scanners: &'static [Scanner],
    waiting: Vec<(&'a str, usize)>,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let (text, stage) = self.waiting.pop()?;
            if text.is_empty() {
                continue;
            }
            let Some(scanner) = self.scanners.get(stage) else {
                return Some(text);
            };
            let (gap, taken) = search(*scanner, text);
            let (gap, rest) = text.split_at(gap);
            let (found, rest) = rest.split_at(taken);
            self.waiting.push((rest, stage));
            self.waiting.push((found, stage + 1));
            self.waiting.push((gap, stage + 1));
        }
    }
}

/// Where the first match begins, and its length (0 where there is none).
fn search(scanner: Scanner, text: &str) -> (usize, usize) {
    let mut at = 0;
    while at < text.len() {
        match scanner(&text[at..]) {
            Cut::Take(len) => return (at, len),
            Cut::Skip(len) => at += len,
        }
    }
    (text.len(), 0)
}

#[cfg(test)]
mod tests;
