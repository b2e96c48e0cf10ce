//! The OpenAI chat request: read, checked, turned into an order.
//!
//! What would change the answer and is not supported is an error that names the
//! field; what changes nothing (`user`, `metadata`, …) is ignored. Pure: no node
//! is needed to read a request.

use super::errors::ApiError;
use crate::control::BuyOrder;
use protocol::ids::NodeKey;
use protocol::limits;
use protocol::message::inference::ModelSelector;
use protocol::money::Msat;
use protocol::work::{ChatMessage, Constraint, Sampling, Steering, TokenBias, Work};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The model's name by which clients ask for the best offer of any model.
pub const ANY: &str = "auto";

/// Body of `POST /v1/chat/completions`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatRequest {
    /// Model name or digest; `auto` for the best offer of any model.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Of the stream.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    frequency_penalty: Option<f64>,
    #[serde(default)]
    presence_penalty: Option<f64>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    logit_bias: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(default)]
    freehold: Option<Extra>,
    /// Everything else, to find what must be refused.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Options of a stream.
#[derive(Debug, Clone, Deserialize)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// What only this gateway knows; `extra_body={"freehold": {…}}` in the Python client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Extra {
    /// Cap on this request.
    pub max_cost_msat: Option<Msat>,
    /// Buy from this host or not at all.
    pub host: Option<NodeKey>,
    /// Have the answer checked by recomputation.
    pub audit: bool,
    /// Sign with a key of this order alone, which the host cannot link to others.
    pub private: bool,
    /// A regular expression that the whole answer matches.
    pub regex: Option<String>,
    /// A grammar (Lark, as llguidance reads it) that the answer follows.
    pub grammar: Option<String>,
}

/// The form of the answer.
#[derive(Debug, Clone, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    json_schema: Option<NamedSchema>,
}

/// A schema as the OpenAI API wraps it; `name` and `strict` change nothing here: it is
/// always kept to.
#[derive(Debug, Clone, Deserialize)]
struct NamedSchema {
    #[serde(default)]
    schema: Option<Value>,
}

/// One message.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Value>,
    #[serde(default)]
    function_call: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
    /// Neither, to name it in an error.
    Other(Value),
}

#[derive(Debug, Clone, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
    /// Neither, to name it in an error.
    Other(Value),
}

/// Fields that would change the answer, with what to do instead.
const REFUSED: [(&str, &str); 8] = [
    ("tools", "leave it out: hosts return text, not tool calls"),
    (
        "tool_choice",
        "leave it out: hosts return text, not tool calls",
    ),
    (
        "functions",
        "leave it out: hosts return text, not function calls",
    ),
    (
        "function_call",
        "leave it out: hosts return text, not function calls",
    ),
    ("audio", "leave it out: only text is offered"),
    ("modalities", "leave it out: only text is offered"),
    ("web_search_options", "leave it out: hosts do not search"),
    ("prediction", "leave it out"),
];

impl ChatRequest {
    /// Whether the answer is to be streamed.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether a last chunk with the usage is wanted.
    pub fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .and_then(|options| options.include_usage)
            .unwrap_or(false)
    }

    /// Turns the request into an order charged to `budget`.
    ///
    /// # Errors
    /// HTTP 400 that names the field.
    pub fn order(&self, budget: &str) -> Result<BuyOrder, ApiError> {
        self.refuse_unsupported()?;
        if self.messages.is_empty() {
            return Err(ApiError::parameter(
                "messages",
                "there is no message",
                "send at least one",
            ));
        }
        let messages = self
            .messages
            .iter()
            .enumerate()
            .map(|(index, message)| message.read(index));
        let work = Work::Chat {
            messages: messages.collect::<Result<_, _>>()?,
        };
        let extra = self.freehold.clone().unwrap_or_default();
        let mut order = BuyOrder::new(selector(&self.model)?, work, budget);
        order.max_output = self.max_output()?;
        order.sampling = self.sampling()?;
        order.steering = self.steering(&extra)?;
        // Any 64 bits are a seed.
        order.seed = self.seed.map(i64::cast_unsigned);
        order.stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
            Some(Stop::Other(value)) => {
                let what = kind_of(value);
                return Err(ApiError::parameter(
                    "stop",
                    format!("stop is {what}, neither a text nor a list of texts"),
                    "send a string, or an array of strings",
                ));
            }
        };
        if order.stop.iter().any(String::is_empty) {
            return Err(ApiError::parameter(
                "stop",
                "a stop string is empty",
                "leave it out",
            ));
        }
        order.max_cost = extra.max_cost_msat;
        order.host = extra.host;
        order.audit = extra.audit;
        order.private = extra.private;
        Ok(order)
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::parameter(
                "n",
                "only n = 1 is supported",
                "send the request several times",
            ));
        }
        for (name, fix) in REFUSED {
            if self
                .rest
                .get(name)
                .is_some_and(|value| means_something(name, value))
            {
                return Err(ApiError::parameter(
                    name,
                    format!("{name} is not supported"),
                    fix,
                ));
            }
        }
        Ok(())
    }

    fn max_output(&self) -> Result<Option<u32>, ApiError> {
        let Some(tokens) = self.max_completion_tokens.or(self.max_tokens) else {
            return Ok(None);
        };
        let most = limits::MAX_OUTPUT_TOKENS;
        match u32::try_from(tokens) {
            Ok(tokens) if (1..=most).contains(&tokens) => Ok(Some(tokens)),
            _ => Err(ApiError::parameter(
                "max_tokens",
                format!("max_tokens is {tokens}; it must be 1 to {most}"),
                "choose a number in that range",
            )),
        }
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let default = Sampling::default();
        Ok(Sampling {
            temperature_milli: milli("temperature", self.temperature, 2.0)?
                .unwrap_or(default.temperature_milli),
            top_p_milli: milli("top_p", self.top_p, 1.0)?
                .map_or(default.top_p_milli, |milli| milli.max(1)),
            presence_penalty_milli: penalty("presence_penalty", self.presence_penalty)?,
            frequency_penalty_milli: penalty("frequency_penalty", self.frequency_penalty)?,
            ..default
        })
    }

    fn steering(&self, extra: &Extra) -> Result<Steering, ApiError> {
        let constraint = match (self.response_format.as_ref(), extra.constraint()?) {
            (None, own) => own,
            (Some(format), own) => match (format.read()?, own) {
                (Some(_), Some(_)) => {
                    return Err(ApiError::parameter(
                        "response_format",
                        "the request names two forms of the answer",
                        "send response_format, or freehold.regex or freehold.grammar",
                    ));
                }
                (format, own) => format.or(own),
            },
        };
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                return Err(ApiError::parameter(
                    "top_logprobs",
                    "top_logprobs is set without logprobs",
                    "send logprobs: true",
                ));
            }
            (true, top) => Some(top.unwrap_or(0)),
        };
        if logprobs.is_some_and(|top| top > limits::MAX_LOGPROBS) {
            return Err(ApiError::parameter(
                "top_logprobs",
                format!("top_logprobs is over {}", limits::MAX_LOGPROBS),
                "ask for fewer",
            ));
        }
        Ok(Steering {
            bias: self.bias()?,
            constraint,
            logprobs,
        })
    }

    fn bias(&self) -> Result<Vec<TokenBias>, ApiError> {
        let wrong = |token: &str| {
            ApiError::parameter(
                "logit_bias",
                format!("logit_bias has `{token}`: keys are token ids, values from -100 to 100"),
                "send {\"1234\": -100}; `freehold tokenize` shows ids",
            )
        };
        let list = self.logit_bias.iter().flatten();
        let read = list.map(|(token, value)| match token.parse() {
            Ok(id) if (-100.0..=100.0).contains(value) => Ok(TokenBias {
                token: id,
                // In range, so the product fits.
                milli: (value * 1_000.0).round() as i32,
            }),
            _ => Err(wrong(token)),
        });
        read.collect()
    }
}

impl ResponseFormat {
    fn read(&self) -> Result<Option<Constraint>, ApiError> {
        let schema = self
            .json_schema
            .as_ref()
            .and_then(|named| named.schema.as_ref());
        match (self.kind.as_str(), schema) {
            ("text", _) => Ok(None),
            ("json_object", _) => Ok(Some(Constraint::Json)),
            ("json_schema", Some(schema)) => Ok(Some(Constraint::JsonSchema(schema.to_string()))),
            ("json_schema", None) => Err(ApiError::parameter(
                "response_format",
                "response_format has no json_schema.schema",
                "send {\"type\": \"json_schema\", \"json_schema\": {\"name\": …, \"schema\": {…}}}",
            )),
            (kind, _) => Err(ApiError::parameter(
                "response_format",
                format!("response_format has the type `{kind}`, which is not supported"),
                "use text, json_object or json_schema",
            )),
        }
    }
}

impl Extra {
    fn constraint(&self) -> Result<Option<Constraint>, ApiError> {
        match (&self.regex, &self.grammar) {
            (Some(_), Some(_)) => Err(ApiError::parameter(
                "freehold",
                "freehold has both regex and grammar",
                "send one of them",
            )),
            (Some(regex), None) => Ok(Some(Constraint::Regex(regex.clone()))),
            (None, Some(lark)) => Ok(Some(Constraint::Lark(lark.clone()))),
            (None, None) => Ok(None),
        }
    }
}

/// Thousandths of a penalty from -2 to 2.
fn penalty(name: &str, value: Option<f64>) -> Result<i32, ApiError> {
    match value {
        None => Ok(0),
        // In range, so the product fits.
        Some(value) if (-2.0..=2.0).contains(&value) => Ok((value * 1_000.0).round() as i32),
        Some(value) => Err(ApiError::parameter(
            name,
            format!("{name} is {value}; it must be between -2 and 2"),
            "choose a number in that range",
        )),
    }
}

/// Which model a name means: 64 hex digits are a digest, `auto` is any.
///
/// # Errors
/// Where the name is empty.
pub fn selector(model: &str) -> Result<ModelSelector, ApiError> {
    match model {
        "" => Err(ApiError::parameter(
            "model",
            "no model is named",
            "take one of /v1/models, or `auto`",
        )),
        ANY => Ok(ModelSelector::Any),
        name => Ok(name.parse().map_or_else(
            |_| ModelSelector::Name(name.to_owned()),
            ModelSelector::Digest,
        )),
    }
}

/// Thousandths of a fraction between 0 and `most`.
fn milli(name: &str, value: Option<f64>, most: f64) -> Result<Option<u32>, ApiError> {
    match value {
        None => Ok(None),
        // In range, so the product fits.
        Some(value) if (0.0..=most).contains(&value) => Ok(Some((value * 1_000.0).round() as u32)),
        Some(value) => Err(ApiError::parameter(
            name,
            format!("{name} is {value}; it must be between 0 and {most}"),
            "choose a number in that range",
        )),
    }
}

/// What a value is, for people.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list of something else",
        Value::Object(_) => "an object",
    }
}

/// Whether a value asks for anything beyond the default.
fn means_something(name: &str, value: &Value) -> bool {
    let default = match (name, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(list)) => {
            list.is_empty() || (name == "modalities" && *list == [Value::from("text")])
        }
        (_, Value::Object(fields)) => fields.is_empty(),
        ("tool_choice" | "function_call", Value::String(choice)) => {
            choice == "none" || choice == "auto"
        }
        _ => false,
    };
    !default
}

impl Message {
    fn read(&self, index: usize) -> Result<ChatMessage, ApiError> {
        let param = format!("messages[{index}]");
        let role = match self.role.as_str() {
            "developer" => "system",
            role @ ("system" | "user" | "assistant") => role,
            role => {
                let text = format!("{param} has the role `{role}`, which is not supported");
                return Err(ApiError::parameter(
                    &param,
                    text,
                    "use system, user or assistant",
                ));
            }
        };
        let set = |value: &Option<Value>| {
            value
                .as_ref()
                .is_some_and(|value| means_something("tool_calls", value))
        };
        if set(&self.tool_calls) || set(&self.function_call) {
            return Err(ApiError::parameter(
                &param,
                format!("{param} has tool calls, which are not supported"),
                "send text",
            ));
        }
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts
                .iter()
                .map(|part| part.read(&param))
                .collect::<Result<_, _>>()?,
            Some(Content::Other(value)) => {
                let what = kind_of(value);
                return Err(ApiError::parameter(
                    &param,
                    format!("the content of {param} is {what}, neither a text nor a list of parts"),
                    "send a string, or an array of {\"type\": \"text\", \"text\": …}",
                ));
            }
        };
        // Clients send an empty system message where none was typed in.
        if content.is_empty() && role == "user" {
            return Err(ApiError::parameter(
                &param,
                format!("{param} has no content"),
                "send text",
            ));
        }
        Ok(ChatMessage {
            role: role.to_owned(),
            content,
        })
    }
}

impl Part {
    fn read(&self, param: &str) -> Result<&str, ApiError> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            ("text", None) => Err(ApiError::parameter(
                param,
                format!("{param} has a part of type `text` without a text"),
                "send the text as `text`",
            )),
            (kind, _) => Err(ApiError::parameter(
                param,
                format!("{param} has a part of type `{kind}`, which is not supported"),
                "send parts of type text",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
