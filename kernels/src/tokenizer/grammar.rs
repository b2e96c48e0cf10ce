//! Answers that must have a form: JSON, a JSON schema, an expression, a grammar.
//!
//! The crate `llguidance` follows the grammar over the model's own vocabulary and
//! says which tokens may come next; here are its bounds. A mask is a function of
//! grammar, vocabulary and tokens so far (its limits count work, not time), so a
//! replay with the same grammar allows the same tokens. Called by `runtime`, where
//! its tests are, too.

use super::{TokenKind, Tokenizer, json_schema};
use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest grammar or schema: the largest published schemas fit.
const MAX_BYTES: usize = 256 << 10;
/// Deepest nesting of schemas, groups and brackets: compilers of grammars recurse.
pub(super) const MAX_DEPTH: usize = 64;
/// States of a grammar's lexer, 1 to 2 kB each: 40 MB for one answer. Part of the
/// numerics, as the next one is: where a limit is met, only the end is allowed.
const MAX_LEXER_STATES: usize = 20_000;
/// Work of the lexer for one mask: about 4 ms.
const STEP_LEXER_FUEL: u64 = 50_000;
/// Compiled grammars kept for the next answer with the same one: an order is checked
/// before it is paid, and compiled again when it runs.
const KEPT: usize = 16;
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
        let defines = |line: &&str| line.contains(':');
        if matches!(self, Self::Lark(_)) && text.lines().filter(defines).count() > MAX_DEFINITIONS {
            return Err(bad(format!(
                "it has more than {MAX_DEFINITIONS} definitions"
            )));
        }
        Ok(match self {
            Self::Json | Self::JsonSchema(_) => {
                TopLevelGrammar::from_json_schema(json_schema::prepare(text).map_err(bad)?)
            }
            Self::Regex(_) => {
                check_expression(text).map_err(bad)?;
                TopLevelGrammar::from_regex(text)
            }
            Self::Lark(_) if depth(text) > MAX_DEPTH => return Err(bad(too_deep())),
            // Its automaton is built in the order of a hash map: another one in each process, and
            // with it the work that counts against the limits.
            Self::Lark(_) if text.contains("%regex") => {
                return Err(bad("it has %regex, which is not supported".to_owned()));
            }
            Self::Lark(_) => TopLevelGrammar::from_lark(text.to_owned()),
        })
    }

    /// Names the grammar among all that compile.
    fn key(&self) -> [u8; 32] {
        let (kind, text) = match self {
            Self::Json => (0, ""),
            Self::JsonSchema(text) => (1, text.as_str()),
            Self::Regex(text) => (2, text.as_str()),
            Self::Lark(text) => (3, text.as_str()),
        };
        let mut hash = blake3::Hasher::new();
        hash.update(&[kind]);
        hash.update(text.as_bytes());
        hash.finalize().into()
    }
}

fn too_deep() -> String {
    format!("its brackets are nested more than {MAX_DEPTH} deep")
}

/// Refuses an expression that is nested too deep, or looks around. Whatever else may be
/// wrong with it is for the compiler to say.
pub(super) fn check_expression(text: &str) -> Result<(), String> {
    use regex_syntax::ast::ErrorKind;
    let mut parser = regex_syntax::ast::parse::ParserBuilder::new()
        .nest_limit(MAX_DEPTH as u32)
        .build();
    match parser.parse(text).map_err(|e| e.kind().clone()) {
        Ok(_) => Ok(()),
        Err(ErrorKind::NestLimitExceeded(_)) => Err(too_deep()),
        Err(error @ ErrorKind::UnsupportedLookAround) => Err(format!("{text:?}: {error}")),
        // Another dialect may have more to it than was parsed.
        Err(_) if depth(text) > MAX_DEPTH => Err(too_deep()),
        Err(_) => Ok(()),
    }
}

fn bad(reason: String) -> GrammarError {
    GrammarError { reason }
}

/// Most brackets open at once, quoted and escaped ones included.
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

/// A vocabulary as the grammar's crate wants it: made once a model. With the grammars
/// that were compiled last, none of which has seen a token.
pub(super) struct Grammars {
    factory: ParserFactory,
    compiled: Mutex<VecDeque<([u8; 32], Matcher)>>,
}

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
            let limits = factory.limits_mut();
            limits.verbose_errors = false;
            limits.max_lexer_states = MAX_LEXER_STATES;
            limits.step_lexer_fuel = STEP_LEXER_FUEL;
            Ok(Self {
                factory,
                compiled: Mutex::default(),
            })
        }));
        made.map_err(|e| bad(reason(&e.to_string())))
    }

    /// A grammar at its beginning.
    fn start(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let key = grammar.key();
        if let Some(matcher) = self.kept(&key) {
            return Ok(matcher);
        }
        let grammar = grammar.compile()?;
        let compile = || {
            let parser = catch_unwind(AssertUnwindSafe(|| self.factory.create_parser(grammar)));
            Matcher::new(parser)
        };
        let matcher = on_a_large_stack(compile)?;
        if let Some(error) = matcher.get_error() {
            return Err(bad(reason(&error)));
        }
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.truncate(KEPT - 1);
        compiled.push_front((key, matcher.deep_clone()));
        Ok(matcher)
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Matcher> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let at = compiled.iter().position(|(kept, _)| kept == key)?;
        let found = compiled.remove(at)?;
        // A copy shares nothing with it, or an answer's limits would depend on others.
        let matcher = found.1.deep_clone();
        compiled.push_front(found);
        Some(matcher)
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
        Ok(Self {
            matcher: tokenizer.grammars()?.start(grammar)?,
            stops: tokenizer.stops().to_vec(),
        })
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

/// What an account of an error comes to: its first line, and the last one where the first
/// only announces it.
fn reason(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default().trim_end();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    match last.filter(|last| first.ends_with(':') && *last != first) {
        Some(last) => format!("{first} {}", last.trim()),
        None => first.to_owned(),
    }
}
