//! Chat templates: the Jinja that model files carry.
//!
//! Templates come from untrusted files. Instructions are bounded by fuel, output by
//! length, and nothing of the system is reachable; but one instruction can ask for any
//! amount of memory, or nest a value so deep that dropping it overflows the stack, and
//! nothing in the language stops it. A node therefore renders in child processes with
//! limits ([`ChildRenderer`], `child`), where a fault ends one request. Without
//! [`set_renderer`] templates render in this process: for tools and tests, which choose
//! their files. The date is given by the caller, so that a prompt is a function of its
//! inputs.

mod child;
mod pool;

pub use child::serve_renders;
pub use pool::ChildRenderer;

use crate::tokenizer::Tokenizer;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Instructions a template may execute: real templates with long conversations
/// need some tens of thousands.
const FUEL: u64 = 5_000_000;
/// Longest prompt a template may write: above any context length in text.
const MAX_OUTPUT: usize = 32 << 20;
/// Longest template source: ten times the longest known.
const MAX_SOURCE: usize = 1 << 20;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant` (templates may know others).
    pub role: String,
    /// Its text.
    pub content: String,
}

/// Everything that a prompt depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenderRequest<'a> {
    /// The template's text.
    pub source: Cow<'a, str>,
    /// Name of the BOS token.
    pub bos: Cow<'a, str>,
    /// Name of the EOS token.
    pub eos: Cow<'a, str>,
    /// The conversation.
    pub messages: Cow<'a, [ChatMessage]>,
    /// `YYYY-MM-DD`.
    pub date: Cow<'a, str>,
}

/// Where templates are rendered.
pub trait Renderer: Send + Sync {
    /// Returns the prompt's text. Blocks.
    ///
    /// # Errors
    /// Why there is none.
    fn render(&self, request: &RenderRequest<'_>) -> Result<String, TemplateError>;
}

static RENDERER: OnceLock<Box<dyn Renderer>> = OnceLock::new();

/// Renders every template of this process with `renderer` from now on, of files and of
/// vocabularies alike. False where another one was set before: that one stays.
pub fn set_renderer(renderer: Box<dyn Renderer>) -> bool {
    RENDERER.set(renderer).is_ok()
}

/// Why no prompt could be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TemplateError {
    /// The model file has no template.
    #[error("the model file has no chat template; send a plain prompt")]
    Missing,
    /// The template refused, or is broken.
    #[error("the model's chat template failed: {reason}")]
    Failed {
        /// What the template engine says.
        reason: String,
    },
    /// The source or the result is too long.
    #[error("the chat template's {what} is {bytes} bytes long; at most {limit} are allowed")]
    TooLong {
        /// Source or result.
        what: String,
        /// Length (at least).
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A date that is not `YYYY-MM-DD`.
    #[error("{date:?} is not a date of the form YYYY-MM-DD")]
    Date {
        /// As given.
        date: String,
    },
    /// The template met a limit of memory, time or depth. Another machine, or another
    /// release, may render it: nothing follows from it about who did.
    #[error("the model's chat template met a limit: {reason}")]
    Limit {
        /// Which one.
        reason: String,
    },
    /// Every renderer is taken.
    #[error("too many chat templates are being rendered: try again in a moment")]
    Busy,
}

impl TemplateError {
    /// Whether a limit was met, so that the same request may succeed elsewhere or later.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. } | Self::TooLong { .. } | Self::Busy)
    }
}

pub(super) fn render(
    source: &str,
    tokenizer: &Tokenizer,
    messages: &[ChatMessage],
    date: &str,
) -> Result<String, TemplateError> {
    let token = |id: Option<u32>| {
        id.map_or(String::new(), |id| {
            String::from_utf8_lossy(tokenizer.bytes(id)).into_owned()
        })
    };
    let (bos, eos) = (token(tokenizer.bos()), token(tokenizer.eos()));
    render_template(source, &bos, &eos, messages, date)
}

/// The tokens of the prompt that a model's template makes of a conversation, special tokens
/// recognised, preceded by BOS where the model wants one and the template has not written it.
///
/// # Errors
/// Why there is no prompt.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    messages: &[ChatMessage],
    date: &str,
) -> Result<Vec<u32>, TemplateError> {
    let source = template.ok_or(TemplateError::Missing)?;
    let text = render(source, tokenizer, messages, date)?;
    let mut tokens = tokenizer.encode(&text, true);
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos())
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}

/// The prompt that a template makes of a conversation, for a vocabulary whose BOS and
/// EOS tokens have these names. `date` is `YYYY-MM-DD`. Renders where [`set_renderer`]
/// says.
pub fn render_template(
    source: &str,
    bos: &str,
    eos: &str,
    messages: &[ChatMessage],
    date: &str,
) -> Result<String, TemplateError> {
    let Some(renderer) = RENDERER.get() else {
        return render_here(source, bos, eos, messages, date);
    };
    renderer.render(&RenderRequest {
        source: source.into(),
        bos: bos.into(),
        eos: eos.into(),
        messages: messages.into(),
        date: date.into(),
    })
}

/// [`render_template`] in this process.
fn render_here(
    source: &str,
    bos: &str,
    eos: &str,
    messages: &[ChatMessage],
    date: &str,
) -> Result<String, TemplateError> {
    if source.len() > MAX_SOURCE {
        let (bytes, limit) = (source.len(), MAX_SOURCE);
        return Err(TemplateError::TooLong {
            what: "source".to_owned(),
            bytes,
            limit,
        });
    }
    let date_text = date;
    let date = Date::parse(date).ok_or_else(|| TemplateError::Date {
        date: date.to_owned(),
    })?;
    let failed = |e: Error| {
        let reason = format!("{e:#}");
        match e.kind() {
            ErrorKind::OutOfFuel => TemplateError::Limit { reason },
            _ => TemplateError::Failed { reason },
        }
    };
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_keep_trailing_newline(true);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", to_json);
    // As in Jinja2, where they differ: `none` cannot be iterated, what is undefined is
    // empty.
    env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    env.add_function("strftime_now", move |format: &str| date.format(format));
    let source = without_generation_marks(source);
    env.add_template("chat", &source).map_err(failed)?;
    let template = env.get_template("chat").map_err(failed)?;
    let mut out = Bounded(Vec::new());
    let context = context! {
        messages,
        add_generation_prompt => true,
        bos_token => bos,
        eos_token => eos,
        // The Transformers library always passes these two; Firefunction's template
        // adds up the two behind them without looking.
        tools => Value::from(()),
        documents => Value::from(()),
        functions => "[]",
        datetime => date_text,
    };
    let result = template.render_captured_to(context, &mut out).map(|_| ());
    if out.0.len() >= MAX_OUTPUT {
        let (bytes, limit) = (out.0.len(), MAX_OUTPUT);
        return Err(TemplateError::TooLong {
            what: "result".to_owned(),
            bytes,
            limit,
        });
    }
    result.map_err(failed)?;
    String::from_utf8(out.0).map_err(|e| TemplateError::Failed {
        reason: e.to_string(),
    })
}

/// The source without `{% generation %}` and `{% endgeneration %}`, which mark for a
/// trainer what the model wrote and say nothing about the text.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // The tag's own sign may not be a part of its end: `{%}` is no tag.
        let Some(len) = rest[start + 2..].find("%}").map(|at| at + 2) else {
            break;
        };
        let tag = &rest[start..start + len + 2];
        let inside = tag[2..len].trim_matches(['-', '+']);
        out.push_str(&rest[..start]);
        rest = &rest[start + tag.len()..];
        match inside.trim() {
            // An empty comment trims white space and the line's end as the tag would.
            "generation" | "endgeneration" => {
                out.push_str(if tag.starts_with("{%-") { "{#-" } else { "{#" });
                out.push_str(if tag.ends_with("-%}") { "-#}" } else { "#}" });
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// Refuses to grow beyond [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(MAX_OUTPUT - self.0.len());
        self.0.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(n) => Ok(n),
        None if value.is_undefined() => Ok(0),
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("cannot calculate length of value of type {}", value.kind()),
        )),
    }
}

/// `tojson` as Python's `json.dumps`: `indent`, `ensure_ascii` (off unless asked, as
/// in the Transformers library), separators `", "` and `": "`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: bool = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let bad = |e: String| Error::new(ErrorKind::BadSerialization, e);
    let json = serde_json::to_value(value).map_err(|e| bad(e.to_string()))?;
    let (item, colon) = match separators.as_deref() {
        Some([item, colon]) => (item.clone(), colon.clone()),
        Some(_) => return Err(bad("separators must be a pair".to_owned())),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        indent: indent.map(|n| n.min(16)),
        ascii,
        item,
        colon,
    };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

struct Style {
    indent: Option<usize>,
    ascii: bool,
    item: String,
    colon: String,
}

impl Style {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        use serde_json::Value::{Array, Object, String as Text};
        match value {
            Array(list) if !list.is_empty() => {
                out.push('[');
                for (i, item) in list.iter().enumerate() {
                    self.next(i, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Object(map) if !map.is_empty() => {
                out.push('{');
                for (i, (key, item)) in map.iter().enumerate() {
                    self.next(i, depth + 1, out);
                    self.text(key, out);
                    out.push_str(&self.colon);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            Text(text) => self.text(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn next(&self, i: usize, depth: usize, out: &mut String) {
        if i > 0 {
            out.push_str(&self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        for c in quoted.chars() {
            if self.ascii && !c.is_ascii() {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(c);
            }
        }
    }
}

/// A calendar date.
#[derive(Clone, Copy)]
struct Date {
    year: u32,
    month: u32,
    day: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Date {
    fn parse(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| -> Option<u32> {
            let digits = text.get(range)?;
            digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| digits.parse().ok())?
        };
        let separators = text.len() == 10 && text.get(4..5)? == "-" && text.get(7..8)? == "-";
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let good = separators && (1..=12).contains(&month) && (1..=31).contains(&day);
        good.then_some(Self { year, month, day })
    }

    /// Day of the week from Sunday = 0 (Sakamoto).
    fn weekday(self) -> usize {
        const OFFSETS: [u32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = if self.month < 3 {
            self.year.saturating_sub(1)
        } else {
            self.year
        };
        let offset = OFFSETS[self.month as usize - 1];
        ((year + year / 4 - year / 100 + year / 400 + offset + self.day) % 7) as usize
    }

    /// The codes of `strftime` that templates use; the time of day is midnight.
    fn format(self, format: &str) -> String {
        let (month, weekday) = (MONTHS[self.month as usize - 1], DAYS[self.weekday()]);
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('Y') => out.push_str(&format!("{:04}", self.year)),
                Some('y') => out.push_str(&format!("{:02}", self.year % 100)),
                Some('m') => out.push_str(&format!("{:02}", self.month)),
                Some('d') => out.push_str(&format!("{:02}", self.day)),
                Some('e') => out.push_str(&format!("{:2}", self.day)),
                Some('B') => out.push_str(month),
                Some('b') => out.push_str(&month[..3]),
                Some('A') => out.push_str(weekday),
                Some('a') => out.push_str(&weekday[..3]),
                Some('F') => {
                    out.push_str(&format!(
                        "{:04}-{:02}-{:02}",
                        self.year, self.month, self.day
                    ));
                }
                Some('H' | 'M' | 'S') => out.push_str("00"),
                Some('%') => out.push('%'),
                Some(other) => out.extend(['%', other]),
                None => out.push('%'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, TensorType};
    use crate::synthetic::{Shape, qwen3};

    fn run(source: &str) -> Result<String, TemplateError> {
        let file = Gguf::from_bytes(qwen3(&Shape::tiny(), TensorType::Q8_0, 1)).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        let message = |role: &str, content: &str| ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        let messages = [
            message("system", "Be brief."),
            message("user", "  <Hé>\"?  "),
        ];
        render(source, &tokenizer, &messages, "2026-11-20")
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let source = "{%- for m in messages %}\n    {%- if m['role'].startswith('u') %}\n{{ m.content.strip() }}|{{ m.role.upper() }}\n    {% endif %}\n{% endfor %}\n{{ eos_token }}";
        assert_eq!(run(source).unwrap(), "<Hé>\"?|USER\n<|im_end|>");
    }

    #[test]
    fn helpers_do_what_python_does() {
        let json = run("{{ messages[1] | tojson }}").unwrap();
        assert_eq!(json, r#"{"role": "user", "content": "  <Hé>\"?  "}"#);
        let json = run("{{ [1, 'é'] | tojson(ensure_ascii=true, indent=2) }}").unwrap();
        assert_eq!(json, "[\n  1,\n  \"\\u00e9\"\n]");
        assert_eq!(
            run("{{ strftime_now('%d %b %Y %A %F') }}").unwrap(),
            "20 Nov 2026 Friday 2026-11-20"
        );
        let error = run("{{ raise_exception('system role not supported') }}").unwrap_err();
        assert!(
            error.to_string().contains("system role not supported"),
            "{error}"
        );
    }

    #[test]
    fn absent_tools_are_none_and_marks_for_trainers_leave_no_trace() {
        let tools = "{% if tools is iterable and tools|length > 0 %}a{% endif %}{% if tools is not none and tools|length > 0 %}b{% endif %}{{ nothing|length }}";
        assert_eq!(run(tools).unwrap(), "0");
        let marked = "x {%- generation -%}  y{% endgeneration %}\nz{% if true %}w{% endif %}";
        assert_eq!(run(marked).unwrap(), "xyzw");
    }

    #[test]
    fn a_hostile_template_is_stopped() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(matches!(run(endless), Err(TemplateError::Limit { .. })));
        let huge = "{% set x = 'a' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}";
        let result = run(huge);
        assert!(result.is_err(), "{} bytes", result.map_or(0, |s| s.len()));
        for broken in ["{% for %}", "{%}", "{%", "{%-%}"] {
            let result = run(broken);
            assert!(
                matches!(result, Err(TemplateError::Failed { .. })),
                "{broken}: {result:?}"
            );
        }
        assert!(matches!(
            run(&" ".repeat(MAX_SOURCE + 1)),
            Err(TemplateError::TooLong { .. })
        ));
    }
}
