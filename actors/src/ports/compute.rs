//! The compute port: generation on threads of its own, paced by an allowance.
//!
//! Never on an arbiter. A running job produces only up to the tokens allowed so
//! far and sleeps otherwise, so that credit is spent without a round trip and
//! never overdrawn. Output is handed on in small batches: the first token at
//! once, then whatever was made within `BATCH`.

use kernels::{CancelFlag, ChatMessage, EngineError, Generation, Model, Sampling};
use parking_lot::{Condvar, Mutex};
use protocol::chain::ChainedToken;
use protocol::ids::{Digest, ModelDigest, OrderId};
use protocol::inference::io::PromptFacts;
use protocol::order::wire::{Finish, prompt_digest};
use protocol::refusal::{Code, Refusal};
use protocol::validator::io::Replay;
use protocol::work::{Job, Work};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Longest time that finished tokens wait for more, so that a chunk is worth its frame.
const BATCH: Duration = Duration::from_millis(25);
/// Most tokens in one batch.
const BATCH_TOKENS: usize = 32;

/// What a job produced.
#[derive(Debug, Clone)]
pub enum Output {
    /// Tokens, the text they complete, and the end if it is one.
    Tokens {
        /// Tokens with their logit digests.
        tokens: Vec<ChainedToken>,
        /// Whole characters.
        text: String,
        /// Why it ended.
        finish: Option<Finish>,
    },
    /// The engine gave up.
    Failed(String),
}

#[derive(Debug)]
struct Allowance {
    total: Mutex<u64>,
    raised: Condvar,
    cancel: CancelFlag,
}

/// The models of this node and the jobs that run on them; clones share both.
#[derive(Debug, Clone, Default)]
pub struct Compute {
    models: Arc<Mutex<BTreeMap<ModelDigest, Model>>>,
    jobs: Arc<Mutex<BTreeMap<OrderId, Arc<Allowance>>>>,
    pace: Option<Duration>,
}

impl Compute {
    /// Makes a port without models.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spaces tokens at least `per_token` apart: for measurements and demonstrations.
    pub fn with_pace(mut self, per_token: Option<Duration>) -> Self {
        self.pace = per_token;
        self
    }

    /// Makes a model available.
    pub fn add(&self, model: Model) -> ModelDigest {
        let digest = ModelDigest(model.info().digest);
        self.models.lock().insert(digest, model);
        digest
    }

    /// Returns a model.
    pub fn model(&self, digest: &ModelDigest) -> Option<Model> {
        self.models.lock().get(digest).cloned()
    }

    /// Returns the models, in the order of their digests.
    pub fn models(&self) -> Vec<Model> {
        self.models.lock().values().cloned().collect()
    }

    /// Tokenizes a job's prompt. Blocks: call it from a blocking thread.
    ///
    /// # Errors
    /// A refusal for the buyer.
    pub fn count(
        &self,
        model: &ModelDigest,
        job: &Job,
        salt: &[u8; 16],
    ) -> Result<PromptFacts, Refusal> {
        let model = self
            .model(model)
            .ok_or_else(|| Refusal::new(Code::UnknownModel, "this model is not loaded"))?;
        let tokens = encode(&model, job).map_err(|reason| Refusal::new(Code::BadOrder, reason))?;
        Ok(PromptFacts {
            tokens: tokens.len() as u64,
            digest: prompt_digest(salt, &tokens),
        })
    }

    /// Starts a job on a thread of its own; its output comes on the receiver.
    pub fn start(
        &self,
        order: OrderId,
        model: &ModelDigest,
        job: Job,
        allowed: u64,
    ) -> mpsc::Receiver<Output> {
        // Two batches: a reader that falls behind holds the engine, not memory.
        let (out, receiver) = mpsc::channel(2);
        let allowance = Arc::new(Allowance {
            total: Mutex::new(allowed),
            raised: Condvar::new(),
            cancel: CancelFlag::new(),
        });
        self.jobs.lock().insert(order, allowance.clone());
        let (model, jobs, pace) = (self.model(model), self.jobs.clone(), self.pace);
        let run = move || {
            let result = match model {
                Some(model) => generate(&model, &job, &allowance, pace, &out),
                None => Err("this model is not loaded".to_owned()),
            };
            if let Err(reason) = result
                && !allowance.cancel.is_cancelled()
            {
                // The receiver may be gone: then nobody wants to know.
                let _ = out.blocking_send(Output::Failed(reason));
            }
            jobs.lock().remove(&order);
        };
        if std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(run)
            .is_err()
        {
            self.jobs.lock().remove(&order);
        }
        receiver
    }

    /// Raises a job's allowance to `total` output tokens.
    pub fn allow(&self, order: &OrderId, total: u64) {
        if let Some(job) = self.jobs.lock().get(order) {
            let mut now = job.total.lock();
            *now = total.max(*now);
            job.raised.notify_all();
        }
    }

    /// Ends a job within one step.
    pub fn cancel(&self, order: &OrderId) {
        if let Some(job) = self.jobs.lock().get(order) {
            job.cancel.cancel();
            job.raised.notify_all();
        }
    }

    /// Whether any job runs.
    pub fn is_busy(&self) -> bool {
        !self.jobs.lock().is_empty()
    }

    /// Ends every job.
    pub fn cancel_all(&self) {
        for job in self.jobs.lock().values() {
            job.cancel.cancel();
            job.raised.notify_all();
        }
    }

    /// Recomputes an answer from its tokens. Blocks: call it from a blocking thread.
    ///
    /// # Errors
    /// Why this node cannot.
    pub fn replay(
        &self,
        model: &ModelDigest,
        job: &Job,
        salt: &[u8; 16],
        tokens: &[ChainedToken],
    ) -> Result<Replay, String> {
        let model = self
            .model(model)
            .ok_or_else(|| format!("the model {} is not on this node", model.short()))?;
        let prompt = encode(&model, job)?;
        let answer: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let replayed = kernels::replay(
            &model,
            &prompt,
            &answer,
            sampling(job),
            job.seed,
            &CancelFlag::new(),
        )
        .map_err(|error| error.to_string())?;
        Ok(Replay {
            prompt_tokens: prompt.len() as u64,
            prompt: prompt_digest(salt, &prompt),
            expected: replayed
                .into_iter()
                .map(|token| ChainedToken {
                    id: token.expected_token,
                    logits: Digest(token.logit_digest),
                })
                .collect(),
            numerics: model.info().numerics.clone(),
        })
    }
}

fn sampling(job: &Job) -> Sampling {
    Sampling {
        temperature_milli: job.sampling.temperature_milli,
        top_k: job.sampling.top_k,
        top_p_milli: job.sampling.top_p_milli,
        min_p_milli: job.sampling.min_p_milli,
        repetition_penalty_milli: job.sampling.repetition_penalty_milli,
        ..Sampling::default()
    }
}

fn encode(model: &Model, job: &Job) -> Result<Vec<u32>, String> {
    match &job.work {
        Work::Chat { messages } => {
            let messages: Vec<ChatMessage> = messages
                .iter()
                .map(|message| ChatMessage {
                    role: message.role.clone(),
                    content: message.content.clone(),
                })
                .collect();
            model
                .encode_chat(&messages, &job.date)
                .map_err(|error| error.to_string())
        }
        Work::Complete { prompt } => Ok(model.tokenizer().encode(prompt, false)),
        Work::Embed { .. } => Err("this engine does not embed".to_owned()),
    }
}

/// Waits until one more token is allowed; false when the job was cancelled.
fn wait_for_credit(job: &Allowance, made: u64) -> bool {
    let mut total = job.total.lock();
    while *total <= made && !job.cancel.is_cancelled() {
        job.raised.wait_for(&mut total, Duration::from_millis(500));
    }
    !job.cancel.is_cancelled()
}

fn generate(
    model: &Model,
    job: &Job,
    allowance: &Allowance,
    pace: Option<Duration>,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let prompt = encode(model, job)?;
    let text = |error: EngineError| error.to_string();
    let mut generation = Generation::new(
        model,
        &prompt,
        sampling(job),
        job.seed,
        job.max_output,
        &job.stop,
    )
    .map_err(text)?;
    generation.prefill(&allowance.cancel).map_err(text)?;
    let mut batch = Batch::default();
    let mut made = 0;
    loop {
        // Nothing waits in the batch while the engine waits for money.
        if *allowance.total.lock() <= made {
            batch.flush(None, out)?;
        }
        if !wait_for_credit(allowance, made) {
            return Ok(());
        }
        let began = Instant::now();
        let step = generation.step().map_err(text)?;
        made += 1;
        batch.push(
            ChainedToken {
                id: step.token,
                logits: Digest(step.logit_digest),
            },
            &step.text,
        );
        let finish = step.finish.map(|finish| match finish {
            kernels::Finish::Stop => Finish::Stop,
            kernels::Finish::Length => Finish::Length,
        });
        if finish.is_some() {
            return batch.flush(finish, out);
        }
        if let Some(pace) = pace {
            std::thread::sleep(pace.saturating_sub(began.elapsed()));
        }
        if made == 1 || batch.is_due() {
            batch.flush(None, out)?;
        }
    }
}

#[derive(Default)]
struct Batch {
    tokens: Vec<ChainedToken>,
    text: String,
    since: Option<Instant>,
}

impl Batch {
    fn push(&mut self, token: ChainedToken, text: &str) {
        self.tokens.push(token);
        self.text.push_str(text);
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_due(&self) -> bool {
        self.tokens.len() >= BATCH_TOKENS
            || self.since.is_some_and(|since| since.elapsed() >= BATCH)
    }

    fn flush(&mut self, finish: Option<Finish>, out: &mpsc::Sender<Output>) -> Result<(), String> {
        if self.tokens.is_empty() && finish.is_none() {
            return Ok(());
        }
        self.since = None;
        out.blocking_send(Output::Tokens {
            tokens: std::mem::take(&mut self.tokens),
            text: std::mem::take(&mut self.text),
            finish,
        })
        .map_err(|_| "nobody takes the output".to_owned())
    }
}
