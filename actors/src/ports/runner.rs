//! Runners: models that an OpenAI-compatible server (Ollama, llama-server, vLLM) runs,
//! behind the same port as the engine.
//!
//! `client` speaks HTTP, `events` cuts server-sent events, `wire` is the dialect,
//! `vocabulary` what the model's file says, `count` turns text into counted tokens,
//! `stops` ends it at stop strings, `tally` holds tokens to what is paid, `serve` runs one order of those in `orders`,
//! `health` sees whether the server is there. Not the engine: nothing
//! here can be computed again, and listings say so (`numerics: None`).
//!
//! # What is counted
//! Output, with the model's file: the tokens of the text by the model's vocabulary. The
//! server's own count is compared; beyond `TOLERANCE_PPM` it is logged, and the smaller
//! number is billed, as far as the difference is not delivered yet. Without the file: a
//! token for each piece of text that the server sends, at most, and never more than it
//! says it made, with the same limit. What is billed is never taken back.
//!
//! Prompts, with the file: rendered and counted as the engine does it. Without: one token
//! for four bytes of text, nothing for the template; each order's count by the server moves
//! that a little, down or up, within bounds. A buyer bounds both by the size of what it sent.
//!
//! Reasoning that a server sends apart is handed on between `<think>` and `</think>`.

mod client;
mod count;
mod events;
mod health;
mod orders;
mod serve;
mod stops;
mod tally;
#[cfg(test)]
mod tests;
mod vocabulary;
mod wire;

pub use orders::Runners;
pub use vocabulary::{Vocabulary, VocabularyError};

use client::Client;
use kernels::gguf::Head;
use parking_lot::Mutex;
use protocol::codec;
use protocol::ids::{Digest, ModelDigest};
use protocol::message::inference::PromptFacts;
use protocol::refusal::{Code, Refusal};
use protocol::wire::manifest::{RUNNER, UNKNOWN_DIGEST, named_model};
use protocol::wire::order::prompt_digest;
use protocol::work::{Job, Work};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// A difference between two counts that is worth a line: three in a hundred, and some
/// tokens for what ends an answer or marks a turn.
const TOLERANCE_PPM: u64 = 30_000;
const TOLERANCE: u64 = 8;
/// Prompt tokens for a million bytes of text where no vocabulary counts them: four bytes a token, to
/// begin with.
const PROMPT_PPM: u64 = 250_000;
/// The fewest and the most that servers' own counts can bring that to. Some leave out what they had
/// cached, and a prompt of blanks is a few tokens.
const PROMPT_PPM_MIN: u64 = 100_000;
/// See [`PROMPT_PPM_MIN`]. A token is a byte at least, and a buyer bounds what it pays by bytes.
const PROMPT_PPM_MAX: u64 = 500_000;
/// How much one order's count moves the estimate: no single prompt decides what the others pay.
const PROMPT_PPM_WEIGHT: u64 = 16;
/// Prompts shorter than this say more of the template than of the text. Bytes.
const LEARNT_BYTES_MIN: u64 = 200;

/// What a runner is made of.
#[derive(Clone)]
pub struct RunnerOptions {
    /// Base address, mostly ending in `/v1`.
    pub url: String,
    /// The model, as the server calls it.
    pub model: String,
    /// What the server asks for as `Authorization: Bearer`.
    pub key: Option<String>,
    /// The model's file, where it is here.
    pub vocabulary: Option<Arc<Vocabulary>>,
    /// Context in tokens that the server is set to; `None`: as the file says.
    pub context: Option<u32>,
}

/// What a listing says of a runner's model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerInfo {
    /// Digest of the file, or of the name.
    pub digest: ModelDigest,
    /// Digest of the tokenizer, where it is known.
    pub tokenizer: Digest,
    /// Digest of the template, where it is known.
    pub template: Digest,
    /// Name: the file's own, or the server's.
    pub name: String,
    /// Architecture.
    pub architecture: String,
    /// Quantisation, marked as a runner's.
    pub quantisation: String,
    /// Number of weights; 0 where it is not known.
    pub parameters: u64,
    /// Context in tokens.
    pub context: u32,
}

/// A key that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("the runner at {url} cannot be used: its key has characters that no header may have")]
pub struct RunnerError {
    /// The base address.
    pub url: String,
}

/// One model at one server.
#[derive(Debug)]
pub struct Runner {
    client: Client,
    model: String,
    info: RunnerInfo,
    vocabulary: Option<Arc<Vocabulary>>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Why it cannot be used, where it cannot.
    away: Option<String>,
    /// It said it was busy, until then.
    busy: Option<Instant>,
    /// It takes nothing that OpenAI does not know.
    plain: bool,
    /// Prompt tokens for a million bytes.
    prompt_ppm: u64,
}

impl Runner {
    /// Looks at a server, and goes on looking at it for as long as the runner lives. One
    /// that is away is taken all the same: orders are refused until it answers.
    ///
    /// # Errors
    /// Where the key cannot be sent.
    pub async fn start(options: RunnerOptions) -> Result<Arc<Self>, RunnerError> {
        let client =
            Client::new(&options.url, options.key.as_deref()).ok_or_else(|| RunnerError {
                url: options.url.clone(),
            })?;
        let runner = Arc::new(Runner {
            client,
            info: info(&options),
            model: options.model,
            vocabulary: options.vocabulary,
            runtime: Handle::current(),
            state: Mutex::new(State {
                away: None,
                busy: None,
                plain: false,
                prompt_ppm: PROMPT_PPM,
            }),
        });
        runner.look().await;
        tokio::spawn(health::watch_over(Arc::downgrade(&runner)));
        Ok(runner)
    }

    /// What a listing says of it.
    pub fn info(&self) -> &RunnerInfo {
        &self.info
    }

    /// What others may read of the model's file, where it is here.
    pub fn head(&self) -> Option<Arc<Head>> {
        self.vocabulary.as_ref()?.head.clone()
    }

    /// Its server's base address.
    pub fn url(&self) -> &str {
        self.client.base()
    }

    /// Why its server cannot be used, where it cannot.
    pub fn away(&self) -> Option<String> {
        self.state.lock().away.clone()
    }

    /// Counts a job's prompt, or refuses: the server is away or busy.
    ///
    /// # Errors
    /// A refusal for the buyer.
    pub fn count(&self, job: &Job, salt: &[u8; 16]) -> Result<PromptFacts, Refusal> {
        if wire::path(&job.work).is_none() {
            let what = "the server behind this listing answers chats and continues text";
            return Err(Refusal::new(Code::BadOrder, what));
        }
        if let Some(what) = wire::unknown(&job.steering) {
            let text = format!("the server behind this listing cannot be asked for {what}");
            return Err(Refusal::new(Code::BadOrder, text));
        }
        self.ready()?;
        let Some(vocabulary) = &self.vocabulary else {
            let text = codec::encode(&job.work);
            let bytes: Vec<u32> = text.into_iter().map(u32::from).collect();
            let tokens = self.estimate(job);
            return Ok(PromptFacts {
                tokens,
                cached: 0,
                longest: tokens,
                digest: prompt_digest(salt, &bytes),
            });
        };
        let tokens = vocabulary
            .prompt(job)
            .map_err(|reason| Refusal::new(Code::BadOrder, reason))?;
        Ok(PromptFacts {
            tokens: tokens.len() as u64,
            cached: 0,
            longest: tokens.len() as u64,
            digest: prompt_digest(salt, &tokens),
        })
    }

    fn estimate(&self, job: &Job) -> u64 {
        let ppm = self.state.lock().prompt_ppm;
        ((bytes(job) as u64).saturating_mul(ppm) / 1_000_000).max(1)
    }

    /// Takes note of the prompt tokens that the server counted.
    fn learn(&self, job: &Job, theirs: u64) {
        if theirs == 0 {
            return;
        }
        if let Some(vocabulary) = &self.vocabulary {
            let ours = vocabulary
                .prompt(job)
                .map_or(0, |tokens| tokens.len() as u64);
            return self.compare("prompt", ours, Some(theirs));
        }
        let bytes = bytes(job) as u64;
        if bytes < LEARNT_BYTES_MIN {
            return;
        }
        let seen = theirs.saturating_mul(1_000_000) / bytes;
        let seen = seen.clamp(PROMPT_PPM_MIN, PROMPT_PPM_MAX);
        let mut state = self.state.lock();
        let before = state.prompt_ppm;
        state.prompt_ppm = (before * (PROMPT_PPM_WEIGHT - 1) + seen) / PROMPT_PPM_WEIGHT;
    }

    /// Says where two counts are too far apart to be the same model's.
    fn compare(&self, what: &str, ours: u64, theirs: Option<u64>) {
        let Some(theirs) = theirs else { return };
        if ours.abs_diff(theirs) > TOLERANCE.max(ours * TOLERANCE_PPM / 1_000_000) {
            tracing::warn!(runner = %self.model, what, ours, theirs,
                "the server counts other tokens: is `tokenizer` the file of the model it runs?");
        }
    }

    fn is_plain(&self) -> bool {
        self.state.lock().plain
    }

    fn be_plain(&self) {
        self.state.lock().plain = true;
    }
}

fn bytes(job: &Job) -> usize {
    match &job.work {
        // What the buyer wrote, without the names of roles.
        Work::Chat { messages } => messages.iter().map(|message| message.content.len()).sum(),
        _ => job.text_bytes(),
    }
}

fn info(options: &RunnerOptions) -> RunnerInfo {
    let context = options.context;
    match &options.vocabulary {
        Some(vocabulary) => RunnerInfo {
            digest: vocabulary.digest,
            tokenizer: vocabulary.tokenizer_digest(),
            template: vocabulary.template_digest,
            name: vocabulary.name.clone().unwrap_or(options.model.clone()),
            architecture: vocabulary.architecture.clone(),
            quantisation: format!("{} ({RUNNER})", vocabulary.quantisation),
            parameters: vocabulary.parameters,
            context: context.unwrap_or(vocabulary.context),
        },
        None => RunnerInfo {
            digest: named_model(&options.model),
            tokenizer: UNKNOWN_DIGEST,
            template: UNKNOWN_DIGEST,
            name: options.model.clone(),
            architecture: "unknown".to_owned(),
            quantisation: RUNNER.to_owned(),
            parameters: 0,
            context: context.unwrap_or_default(),
        },
    }
}
