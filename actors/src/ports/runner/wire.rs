//! The OpenAI dialect: what is asked of a server, and what its deltas say.
//!
//! Not the transport (`client`) and not the counting (`count`).

use protocol::wire::order::Finish;
use protocol::work::{Constraint, Job, Steering, Work};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Where a job goes, below the base address.
pub(super) fn path(work: &Work) -> Option<&'static str> {
    match work {
        Work::Chat { .. } => Some("chat/completions"),
        Work::Complete { .. } => Some("completions"),
        _ => None,
    }
}

/// The body of a request. `plain` leaves out what OpenAI itself does not know and some
/// servers therefore refuse.
pub(super) fn request(model: &str, job: &Job, plain: bool) -> Value {
    let part = |milli: u32| f64::from(milli) / 1_000.0;
    let sampling = &job.sampling;
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": job.max_output,
        "temperature": part(sampling.temperature_milli),
        "top_p": part(sampling.top_p_milli),
        // Some servers keep a seed in 32 bits.
        "seed": job.seed & 0x7fff_ffff,
    });
    match &job.work {
        Work::Chat { messages } => {
            let said = messages
                .iter()
                .map(|message| json!({"role": message.role, "content": message.content}));
            body["messages"] = said.collect();
        }
        Work::Complete { prompt } => body["prompt"] = json!(prompt),
        _ => {}
    }
    if !job.stop.is_empty() {
        body["stop"] = json!(job.stop);
    }
    for (name, milli) in [
        ("presence_penalty", sampling.presence_penalty_milli),
        ("frequency_penalty", sampling.frequency_penalty_milli),
    ] {
        if milli != 0 {
            body[name] = json!(f64::from(milli) / 1_000.0);
        }
    }
    if let Some(format) = format(&job.steering) {
        body["response_format"] = format;
    }
    if !plain {
        extras(job, &mut body);
    }
    body
}

/// The form of the answer in OpenAI's words.
fn format(steering: &Steering) -> Option<Value> {
    match &steering.constraint {
        Some(Constraint::Json) => Some(json!({"type": "json_object"})),
        Some(Constraint::JsonSchema(schema)) => {
            let schema: Value = serde_json::from_str(schema).ok()?;
            let named = json!({"name": "answer", "strict": true, "schema": schema});
            Some(json!({"type": "json_schema", "json_schema": named}))
        }
        _ => None,
    }
}

/// What other servers have no common word for, or report in no common form.
pub(super) fn unknown(steering: &Steering) -> Option<&'static str> {
    let formed = format(steering).is_some();
    if !steering.bias.is_empty() {
        Some("biased tokens: its vocabulary is its own")
    } else if steering.logprobs.is_some() {
        Some("probabilities")
    } else if steering.constraint.is_some() && !formed {
        Some("this form of the answer: only JSON and JSON schemas are understood")
    } else {
        None
    }
}

/// Whether a request has something that plain OpenAI does not know.
pub(super) fn has_extras(job: &Job) -> bool {
    let mut body = json!({});
    extras(job, &mut body);
    body.as_object().is_some_and(|body| !body.is_empty())
}

fn extras(job: &Job, body: &mut Value) {
    let sampling = &job.sampling;
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if sampling.min_p_milli > 0 {
        body["min_p"] = json!(f64::from(sampling.min_p_milli) / 1_000.0);
    }
    if sampling.repetition_penalty_milli != 1_000 {
        let penalty = f64::from(sampling.repetition_penalty_milli) / 1_000.0;
        // vLLM's name and llama-server's.
        body["repetition_penalty"] = json!(penalty);
        body["repeat_penalty"] = json!(penalty);
    }
}

/// One event of an answer. Servers differ: what is `null`, missing or of another kind than
/// OpenAI's says nothing, rather than breaking the answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    /// Totals, as the server counts.
    #[serde(default, deserialize_with = "lenient")]
    pub usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default, deserialize_with = "lenient")]
    index: Option<u32>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
}

/// What a delta says: text, or a list of parts (Mistral, and proxies before Anthropic's models).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Default, Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    /// Reasoning: text, or parts of its own.
    #[serde(default)]
    thinking: Option<Box<Content>>,
}

impl Content {
    /// The text in it, reasoning or other.
    fn whole(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().map(Part::whole).collect(),
        }
    }

    fn said(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => {
                let plain = parts.iter().filter(|part| part.thinking.is_none());
                plain.map(Part::whole).collect()
            }
        }
    }

    fn thought(&self) -> String {
        match self {
            Content::Text(_) => String::new(),
            Content::Parts(parts) => {
                let thinking = parts.iter().filter_map(|part| part.thinking.as_ref());
                thinking.map(|content| content.whole()).collect()
            }
        }
    }
}

impl Part {
    fn whole(&self) -> String {
        let text = self.text.clone().unwrap_or_default();
        match &self.thinking {
            Some(thinking) => thinking.whole() + &text,
            None => text,
        }
    }
}

/// What a server says it counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    /// Prompt tokens; 0 where it does not say.
    #[serde(default, deserialize_with = "count")]
    pub prompt_tokens: u64,
    /// Output tokens; 0 where it does not say.
    #[serde(default, deserialize_with = "count")]
    pub completion_tokens: u64,
}

/// A value of the right kind, or none.
fn lenient<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).ok())
}

/// A whole number, however it is written (`5`, `5.0`, `"5"`, `null`).
fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    let number = match &value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64(),
    };
    // Whole and small enough to be exact.
    let float = value.as_f64().filter(|f| (0.0..=1e15).contains(f));
    Ok(number.or(float.map(|f| f as u64)).unwrap_or(0))
}

impl Chunk {
    /// Reads an event's data.
    pub fn parse(data: &str) -> Result<Self, String> {
        // Some keep a connection alive with events of no content.
        let data = data.trim();
        if data.is_empty() || data == "null" {
            return Ok(Chunk::default());
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|_| "it sent an event that is not of the OpenAI kind".to_owned())?;
        match chunk.error {
            Some(error) if !error.is_null() => Err("it gave up".to_owned()),
            _ => Ok(chunk),
        }
    }

    fn choice(&self) -> Option<&Choice> {
        let mut choices = self.choices.iter().flatten();
        choices.find(|choice| choice.index.unwrap_or(0) == 0)
    }

    /// Why output ended, where it did. What this node does not know ends it as well.
    pub fn finish(&self) -> Option<Finish> {
        match self.choice()?.finish_reason.as_deref()? {
            "" => None,
            "length" => Some(Finish::Length),
            _ => Some(Finish::Stop),
        }
    }
}

/// Puts reasoning, which some servers send in a field of its own, back where the model
/// wrote it: in front of the answer, between `<think>` and `</think>`.
#[derive(Debug, Default)]
pub(super) struct Thoughts {
    open: bool,
}

impl Thoughts {
    /// The text of a chunk.
    pub fn text(&mut self, chunk: &Chunk) -> String {
        let Some(choice) = chunk.choice() else {
            return String::new();
        };
        if let Some(text) = &choice.text {
            return text.clone();
        }
        let Some(delta) = &choice.delta else {
            return String::new();
        };
        let is_text = |text: &&String| !text.is_empty();
        let mut out = String::new();
        // Some servers send both names for the same text.
        let reasoning = delta.reasoning_content.as_ref().filter(is_text);
        let reasoning = reasoning.or(delta.reasoning.as_ref().filter(is_text));
        let thought = delta.content.as_ref().map(Content::thought);
        if let Some(text) = reasoning.or(thought.as_ref().filter(is_text)) {
            if !self.open {
                out.push_str("<think>");
                self.open = true;
            }
            out.push_str(text);
        }
        let said = delta.content.as_ref().map(Content::said);
        if let Some(text) = said.filter(|text| !text.is_empty()) {
            out.push_str(self.close());
            out.push_str(&text);
        }
        out
    }

    /// What is still owed when output ends.
    pub fn close(&mut self) -> &'static str {
        match std::mem::take(&mut self.open) {
            true => "</think>",
            false => "",
        }
    }
}

/// Names of the models in an answer to `GET models`; `None` where it is no such list.
pub(super) fn models(body: &[u8]) -> Option<Vec<String>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let list = body.get("data")?.as_array()?;
    let ids = list.iter().filter_map(|model| model.get("id")?.as_str());
    Some(ids.map(str::to_owned).collect())
}

/// Whether a name in a list is the model meant: Ollama adds its default tag.
pub(super) fn is_named(id: &str, wanted: &str) -> bool {
    id == wanted || id.strip_suffix(":latest") == Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::runner::tests::job;

    fn chunk(value: Value) -> Chunk {
        Chunk::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn a_request_says_how_to_draw_and_only_when_needed_what_openai_does_not_know() {
        let mut job = job("hi", 9);
        job.seed = u64::MAX;
        job.sampling.temperature_milli = 250;
        job.stop = vec!["END".to_owned()];
        assert!(!has_extras(&job));
        let body = request("m", &job, false);
        assert_eq!(body["temperature"], 0.25);
        assert_eq!(body["max_tokens"], 9);
        assert_eq!(body["seed"], 0x7fff_ffff);
        assert_eq!(body["stop"], json!(["END"]));
        assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert!(body.get("top_k").is_none());
        job.sampling.top_k = 40;
        job.sampling.repetition_penalty_milli = 1_100;
        assert!(has_extras(&job));
        let body = request("m", &job, false);
        assert_eq!(
            (&body["top_k"], &body["repeat_penalty"]),
            (&json!(40), &json!(1.1))
        );
        assert!(request("m", &job, true).get("top_k").is_none());
    }

    #[test]
    fn reasoning_stands_between_tags_in_front_of_the_answer() {
        let mut thoughts = Thoughts::default();
        let mut say = |delta: Value| thoughts.text(&chunk(json!({"choices": [{"delta": delta}]})));
        let role = say(json!({"role": "assistant", "content": null}));
        let texts = [
            role,
            say(json!({"reasoning_content": "hm", "reasoning": "hm"})),
            say(json!({"reasoning": "m", "content": ""})),
            say(json!({"content": "Yes"})),
            say(json!({"content": "."})),
        ];
        assert_eq!(texts.concat(), "<think>hmm</think>Yes.");
        assert_eq!(thoughts.close(), "");
    }

    #[test]
    fn ends_totals_and_errors_are_read() {
        let last =
            chunk(json!({"choices": [{"index": 0, "text": "x", "finish_reason": "length"}]}));
        assert_eq!(last.finish(), Some(Finish::Length));
        assert_eq!(Thoughts::default().text(&last), "x");
        let odd = chunk(json!({"choices": [{"delta": {}, "finish_reason": "content_filter"}]}));
        assert_eq!(odd.finish(), Some(Finish::Stop));
        let usage =
            chunk(json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}));
        assert_eq!(usage.usage.unwrap().completion_tokens, 2);
        assert_eq!((usage.finish(), usage.choice().is_none()), (None, true));
        assert!(Chunk::parse("{\"error\": {\"message\": \"secret\"}}").is_err());
        assert!(Chunk::parse("<html>").is_err());
    }

    #[test]
    fn what_is_null_or_of_another_kind_says_nothing_and_breaks_nothing() {
        let usage =
            chunk(json!({"choices": null, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}));
        assert_eq!(usage.usage.unwrap().prompt_tokens, 3);
        for data in [
            "null",
            "",
            " ",
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[],"usage":null,"error":null}"#,
        ] {
            let empty = Chunk::parse(data).unwrap();
            assert_eq!((empty.usage, empty.finish()), (None, None), "{data}");
            assert_eq!(Thoughts::default().text(&empty), "", "{data}");
        }
        let holes = chunk(
            json!({"usage": {"prompt_tokens": null, "completion_tokens": 5.0, "total_tokens": "7"}}),
        );
        let expected = Usage {
            prompt_tokens: 0,
            completion_tokens: 5,
        };
        assert_eq!(holes.usage, Some(expected));
        assert_eq!(chunk(json!({"usage": "many"})).usage, None);
        let odd = chunk(json!({"choices": [{"index": null, "delta": {"content": "x"}}]}));
        assert_eq!(Thoughts::default().text(&odd), "x");
    }

    #[test]
    fn content_in_parts_is_text_and_thinking() {
        let mut thoughts = Thoughts::default();
        let mut say = |content: Value| {
            thoughts.text(&chunk(
                json!({"choices": [{"delta": {"content": content}}]}),
            ))
        };
        let texts = [
            say(json!([{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}])),
            say(json!([{"type": "thinking", "thinking": "m"}])),
            say(json!([{"type": "text", "text": "Yes"}, {"type": "text", "text": "!"}])),
            say(json!("?")),
        ];
        assert_eq!(texts.concat(), "<think>hm</think>Yes!?");
    }

    #[test]
    fn a_list_of_models_is_read_and_ollamas_default_tag_is_no_other_model() {
        let list = br#"{"object":"list","data":[{"id":"a:latest"},{"id":"b:7b"},{}]}"#;
        let names = models(list).unwrap();
        assert_eq!(names, ["a:latest", "b:7b"]);
        assert!(is_named("a:latest", "a") && !is_named("b:7b", "b"));
        assert_eq!(models(b"not found"), None);
    }
}
