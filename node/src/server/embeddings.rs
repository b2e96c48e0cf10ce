//! `POST /v1/embeddings`: a vector for each text, bought or made here.

use super::App;
use super::errors::ApiError;
use super::guard::{ChargedTo, check_choice};
use super::openai::{Extra, selector};
use super::purchase::{Answer, Ending, Piece};
use crate::control::BuyOrder;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use base64::Engine;
use protocol::limits;
use protocol::refusal::{Code, Refusal};
use protocol::wire::attached::Vector;
use protocol::wire::order::Finish;
use protocol::work::Work;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Body of the request. Other fields (`user`) change nothing and are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct EmbeddingsRequest {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(default)]
    dimensions: Option<u32>,
    #[serde(default)]
    freehold: Option<Extra>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    /// Above all token ids, which are of one vocabulary only.
    Other(Value),
}

impl EmbeddingsRequest {
    /// Turns the request into an order charged to `budget`.
    ///
    /// # Errors
    /// HTTP 400 that names the field.
    pub fn order(&self, budget: &str) -> Result<BuyOrder, ApiError> {
        let texts = match &self.input {
            Input::Text(text) => vec![text.clone()],
            Input::Texts(texts) => texts.clone(),
            Input::Other(value) => {
                let what = match value.is_array() {
                    true => "has token ids, which mean something else to every model",
                    false => "is no text",
                };
                return Err(ApiError::parameter(
                    "input",
                    format!("input {what}"),
                    "send a text or a list of texts",
                ));
            }
        };
        let most = limits::MAX_EMBED_TEXTS;
        if texts.is_empty() || texts.len() > most || texts.iter().any(String::is_empty) {
            return Err(ApiError::parameter(
                "input",
                format!(
                    "input has {} texts; 1 to {most}, none of them empty, are taken",
                    texts.len()
                ),
                "send it in parts, or leave the empty ones out",
            ));
        }
        if self.dimensions.is_some() {
            return Err(ApiError::parameter(
                "dimensions",
                "dimensions is not supported: a vector has the length that its model gives",
                "leave it out",
            ));
        }
        self.encoding()?;
        let extra = self.freehold.clone().unwrap_or_default();
        let mut order = BuyOrder::new(selector(&self.model)?, Work::Embed { texts }, budget);
        order.max_cost = extra.max_cost_msat;
        order.host = extra.host;
        order.audit = extra.audit;
        order.private = extra.private;
        Ok(order)
    }

    fn encoding(&self) -> Result<Encoding, ApiError> {
        match self.encoding_format.as_deref() {
            None | Some("float") => Ok(Encoding::Float),
            Some("base64") => Ok(Encoding::Base64),
            Some(other) => Err(ApiError::parameter(
                "encoding_format",
                format!("encoding_format is `{other}`"),
                "use float or base64",
            )),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

impl Encoding {
    fn write(self, vector: &Vector) -> Value {
        match self {
            Encoding::Float => json!(elements(vector)),
            // Little-endian f32, as the OpenAI API sends it.
            Encoding::Base64 => json!(base64::engine::general_purpose::STANDARD.encode(&vector.0)),
        }
    }
}

fn elements(vector: &Vector) -> Vec<f32> {
    let (parts, _) = vector.0.as_chunks::<4>();
    parts.iter().map(|part| f32::from_le_bytes(*part)).collect()
}

/// Embeds.
///
/// # Errors
/// As HTTP status with an error object.
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(ChargedTo(budget)): Extension<ChargedTo>,
    body: Result<Json<EmbeddingsRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(request) = body?;
    let (order, encoding) = (request.order(&budget)?, request.encoding()?);
    check_choice(app.keys(), &order)?;
    let _permit = app.slot()?;
    let mut answer = Answer::start(&app, order).await?;
    let mut vectors = Vec::new();
    let ending = loop {
        match answer.next().await {
            Some(Piece::Text(_, attached)) => vectors.extend(attached.vectors),
            Some(Piece::End(ending)) => break ending,
            Some(Piece::Failed(refusal)) => return Err(app.refused(refusal).await),
            None => {
                let text = "the purchase ended without a word";
                return Err(Refusal::new(Code::Interrupted, text).into());
            }
        }
    };
    if ending.finish == Finish::Budget {
        return Err(super::completions::spent(&ending));
    }
    Ok(Json(whole(&request.model, &vectors, encoding, &ending)))
}

fn whole(model: &str, vectors: &[Vector], encoding: Encoding, ending: &Ending) -> Value {
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            json!({"object": "embedding", "index": index, "embedding": encoding.write(vector)})
        })
        .collect();
    let tokens = ending.counts.prompt();
    json!({
        "object": "list", "model": model, "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "freehold": super::answer::extension(ending),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: Value) -> Result<BuyOrder, ApiError> {
        serde_json::from_value::<EmbeddingsRequest>(body)
            .unwrap()
            .order("gateway")
    }

    #[test]
    fn one_text_or_many_become_an_order() {
        for (input, expected) in [(json!("a"), vec!["a"]), (json!(["a", "b"]), vec!["a", "b"])] {
            let order = order(json!({"model": "minilm", "input": input})).unwrap();
            let Work::Embed { texts } = order.work else {
                panic!("no embedding")
            };
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_name() {
        for (field, value) in [
            ("input", json!([1, 2])),
            ("input", json!([])),
            ("input", json!([""])),
            ("dimensions", json!(8)),
            ("encoding_format", json!("hex")),
        ] {
            let mut body = json!({"model": "minilm", "input": "a"});
            body[field] = value;
            let error = order(body).unwrap_err();
            assert_eq!(error.status, 400, "{field}");
            assert_eq!(error.body.error.param.as_deref(), Some(field));
        }
    }

    #[test]
    fn a_vector_is_written_as_numbers_or_as_their_bytes() {
        let vector = Vector(vec![0, 0, 128, 63, 0, 0, 0, 191]);
        assert_eq!(Encoding::Float.write(&vector), json!([1.0, -0.5]));
        assert_eq!(Encoding::Base64.write(&vector), json!("AACAPwAAAL8="));
    }
}
