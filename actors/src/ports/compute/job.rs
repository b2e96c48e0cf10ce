//! From the protocol's job to what the engine is asked.

use kernels::{ChatMessage, Grammar, Model, Sampling, TemplateError};
use protocol::refusal::{Code, Refusal};
use protocol::work::{ChatMessage as Message, Constraint, Job, Work};

/// How tokens are drawn.
pub(super) fn sampling(job: &Job) -> Sampling {
    let asked = &job.sampling;
    Sampling {
        temperature_milli: asked.temperature_milli,
        top_k: asked.top_k,
        top_p_milli: asked.top_p_milli,
        min_p_milli: asked.min_p_milli,
        repetition_penalty_milli: asked.repetition_penalty_milli,
        presence_penalty_milli: asked.presence_penalty_milli,
        frequency_penalty_milli: asked.frequency_penalty_milli,
    }
}

/// What is done to the logits beside.
pub(super) fn steering(job: &Job) -> kernels::Steering {
    let asked = &job.steering;
    kernels::Steering {
        bias: asked
            .bias
            .iter()
            .map(|bias| (bias.token, bias.milli))
            .collect(),
        grammar: asked
            .constraint
            .as_ref()
            .map(|constraint| match constraint {
                Constraint::Json => Grammar::Json,
                Constraint::JsonSchema(text) => Grammar::JsonSchema(text.clone()),
                Constraint::Regex(text) => Grammar::Regex(text.clone()),
                Constraint::Lark(text) => Grammar::Lark(text.clone()),
            }),
        logprobs: asked.logprobs,
    }
}

/// A chat as the engine takes it.
pub(in crate::ports) fn said(messages: &[Message]) -> Vec<ChatMessage> {
    let said = messages.iter().map(|message| ChatMessage {
        role: message.role.clone(),
        content: message.content.clone(),
    });
    said.collect()
}

/// The sequences to compute: one prompt, or each text to embed.
///
/// # Errors
/// A refusal for the buyer.
pub(super) fn encode(model: &Model, job: &Job) -> Result<Vec<Vec<u32>>, Refusal> {
    let name = &model.info().name;
    let bad = |reason: String| Err(Refusal::new(Code::BadOrder, reason));
    match (&job.work, model.is_encoder()) {
        (Work::Embed { texts }, true) => Ok(texts
            .iter()
            .map(|text| model.tokenizer().encode_whole(text, false))
            .collect()),
        (Work::Embed { .. }, false) => bad(format!(
            "{name} makes text, not embeddings: choose an embedding model"
        )),
        (_, true) => bad(format!(
            "{name} makes embeddings, not text: choose a language model"
        )),
        (Work::Chat { messages }, false) => {
            let prompt = model.encode_chat(&said(messages), &job.date);
            Ok(vec![prompt.map_err(|error| not_rendered(&error))?])
        }
        (Work::Complete { prompt }, false) => Ok(vec![model.tokenizer().encode(prompt, false)]),
    }
}

/// What a buyer is told whose conversation was not rendered: a template that meets a limit
/// here is no fault of the order.
pub(in crate::ports) fn not_rendered(error: &TemplateError) -> Refusal {
    let code = match error {
        TemplateError::Busy => Code::Busy,
        error if error.is_limit() => Code::EngineFailed,
        _ => Code::BadOrder,
    };
    Refusal::new(code, error.to_string())
}

/// Checks what can be checked before anything is paid: a grammar that does not compile is
/// refused with the order.
///
/// # Errors
/// A sentence for the buyer.
pub(super) fn check(model: &Model, job: &Job) -> Result<(), String> {
    let text = |error: kernels::EngineError| error.to_string();
    sampling(job).check().map_err(text)?;
    steering(job).check_whole(model.tokenizer()).map_err(text)
}
