//! Answers that must have a form: JSON, a JSON schema, an expression, a grammar.
//!
//! The crate `llguidance` follows the grammar over the model's own vocabulary and
//! says which tokens may come next; here are its bounds. A mask is a function of
//! grammar, vocabulary and tokens so far (its limits count work, not time), so a
//! replay with the same grammar allows the same tokens. Called by `runtime`, where
//! its tests are, too.

use super::{TokenKind, Tokenizer};
use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Longest grammar or schema: the largest published schemas fit.
const MAX_BYTES: usize = 256 << 10;
/// Deepest nesting of brackets: compilers of grammars recurse.
const MAX_DEPTH: usize = 64;
/// Most lines of a grammar that may define something: definitions can be nested in
/// each other, and the grammar of a programming language has a few hundred.
const MAX_DEFINITIONS: usize = 512;
/// Stack of the thread that compiles: room for the deepest nesting within these bounds.
const STACK: usize = 64 << 20;

/// A grammar, schema or expression that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be constrained: {reason}; change the grammar or schema")]
pub struct GrammarError {
    /// What is wrong with it.
    pub reason: String,
}

/// What the text of an answer must be. Text, so that an order can carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// Any JSON object.
    Json,
    /// JSON that satisfies this JSON schema.
    JsonSchema(String),
    /// A match of this regular expression (syntax of the crate `regex`).
    Regex(String),
    /// A sentence of this grammar (Lark syntax, as `llguidance` reads it).
    Lark(String),
}

impl Grammar {
    fn compile(&self) -> Result<TopLevelGrammar, GrammarError> {
        let text = match self {
            Self::Json => r#"{"type": "object"}"#,
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text,
        };
        if text.len() > MAX_BYTES {
            return Err(bad(format!(
                "it is {} bytes long, and at most {MAX_BYTES} are allowed",
                text.len()
            )));
        }
        if depth(text) > MAX_DEPTH {
            return Err(bad(format!(
                "its brackets are nested more than {MAX_DEPTH} deep"
            )));
        }
        let defines = |line: &&str| line.contains(':');
        if matches!(self, Self::Lark(_)) && text.lines().filter(defines).count() > MAX_DEFINITIONS {
            return Err(bad(format!(
                "it has more than {MAX_DEFINITIONS} definitions"
            )));
        }
        Ok(match self {
            Self::Json | Self::JsonSchema(_) => TopLevelGrammar::from_json_schema(
                serde_json::from_str(text).map_err(|e| bad(format!("it is not JSON ({e})")))?,
            ),
            Self::Regex(_) => TopLevelGrammar::from_regex(text),
            Self::Lark(_) => TopLevelGrammar::from_lark(text.to_owned()),
        })
    }
}

fn bad(reason: String) -> GrammarError {
    GrammarError { reason }
}

/// Most brackets open at once, quoted ones included.
fn depth(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// A vocabulary as the grammar's crate wants it: made once a model.
pub(super) struct Grammars(ParserFactory);

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammars")
    }
}

impl Grammars {
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let Some(first) = tokenizer.stops().first() else {
            return Err(bad("the model has no token that ends an answer".to_owned()));
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.len() as u32)
            .map(|id| word(tokenizer, id))
            .collect();
        let info = TokRxInfo::new(words.len() as u32, *first);
        let made = catch_unwind(AssertUnwindSafe(|| {
            let trie = TokTrie::from(&info, &words).with_eos_tokens(tokenizer.stops());
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[])?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(Self(factory))
        }));
        made.map_err(|e| bad(first_line(&e.to_string())))
    }
}

/// Bytes that a token adds to a text. Control tokens get a first byte that no text
/// has, fillers nothing at all, so that neither is ever text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.bytes(id);
    match tokenizer.kind(id) {
        Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => bytes.to_vec(),
        Some(TokenKind::Control) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        _ => Vec::new(),
    }
}

/// A grammar on its way through one answer.
pub(crate) struct Constraint {
    matcher: Matcher,
    stops: Vec<u32>,
}

impl Constraint {
    pub fn new(tokenizer: &Tokenizer, grammar: &Grammar) -> Result<Self, GrammarError> {
        let grammar = grammar.compile()?;
        let factory = &tokenizer.grammars()?.0;
        let compile = || {
            let parser = catch_unwind(AssertUnwindSafe(|| factory.create_parser(grammar)));
            Matcher::new(parser)
        };
        let matcher = on_a_large_stack(compile)?;
        match matcher.get_error() {
            Some(error) => Err(bad(first_line(&error))),
            None => Ok(Self {
                matcher,
                stops: tokenizer.stops().to_vec(),
            }),
        }
    }

    /// Set the logits of all tokens that may not come next to minus infinity. Where
    /// the grammar cannot go on, because it has ended or reached its limits, only the
    /// end of the answer is left.
    pub fn mask(&mut self, logits: &mut [f32]) {
        let mask = self.matcher.compute_mask_or_eos().ok();
        let mask = mask.filter(|m| !m.is_zero()).unwrap_or_else(|| {
            let mut ends = SimpleVob::alloc(logits.len());
            self.stops.iter().for_each(|id| ends.allow_token(*id));
            ends
        });
        for (id, l) in logits.iter_mut().enumerate() {
            if id >= mask.len() || !mask.is_allowed(id as u32) {
                *l = f32::NEG_INFINITY;
            }
        }
    }

    /// Go on behind this token. One that was not allowed (a replay may meet one) ends
    /// the grammar.
    pub fn accept(&mut self, token: u32) {
        if !self.matcher.is_stopped() {
            // The matcher remembers its error.
            let _ = self.matcher.consume_token(token);
        }
    }
}

/// Compilers of grammars recurse as deep as definitions are nested.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, GrammarError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|e| bad(format!("no thread to compile it on ({e})")))?;
        let panicked = |_| bad("compiling it failed".to_owned());
        thread.join().map_err(panicked)
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
