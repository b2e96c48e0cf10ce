//! The compute port: one batching engine per model, paced by allowances.
//!
//! Never on an arbiter. An engine computes all orders of its model together; each
//! order has a thread that only waits and hands on (`order`). A job produces only up
//! to the tokens allowed so far, so that credit is spent without a round trip and
//! never overdrawn; meanwhile the others go on. Replays are work that waits for
//! everybody else. What a runner serves (`ports::runner`) is passed on to it.

mod embed;
pub(in crate::ports) mod job;
mod order;
#[cfg(test)]
pub(crate) mod tests;

use super::runner::Runners;
use job::{check, encode, sampling, steering};
pub use kernels::CancelFlag;
use kernels::gguf::Head;
use kernels::{BACKGROUND, Engine, EngineError, EngineOptions, Load, Model};
use order::Steering;
pub(super) use order::piece;
use parking_lot::Mutex;
use protocol::ids::{Digest, ModelDigest, NodeKey, OrderId};
use protocol::message::inference::{InputCount, InputFacts, PromptFacts};
use protocol::message::validator::Replay;
use protocol::refusal::{Code, Refusal};
use protocol::wire::attached::{Attached, vector_digest};
use protocol::wire::chain::{ChainedToken, Piece};
use protocol::wire::order::{Finish, prompt_digest};
use protocol::work::{Job, Work};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest sleep between two attempts to get into a full engine.
const RETRY: Duration = Duration::from_secs(1);

/// What a job produced.
#[derive(Debug, Clone)]
pub enum Output {
    /// Tokens, and the end if it is one.
    Tokens {
        /// Tokens with their logit digests and their bytes.
        tokens: Vec<ChainedToken>,
        /// Why it ended.
        finish: Option<Finish>,
        /// Probabilities or embeddings, where the job asks for them.
        attached: Attached,
    },
    /// The engine gave up.
    Failed(String),
}

/// Who an order belongs to, as far as the engine must know: owners take turns, and
/// only orders of one owner find each other's prompts computed.
pub type Owner = [u8; 32];

/// The owner of a buyer's orders.
pub fn owner_of(buyer: &NodeKey) -> Owner {
    blake3::derive_key("freehold engine 2026-11 buyer", &buyer.0)
}

/// The models of this node and the jobs that run on them; clones share both.
#[derive(Debug, Clone, Default)]
pub struct Compute {
    models: Arc<Mutex<BTreeMap<ModelDigest, Model>>>,
    engines: Arc<Mutex<BTreeMap<ModelDigest, Arc<Engine>>>>,
    jobs: Arc<Mutex<BTreeMap<OrderId, Arc<Steering>>>>,
    options: EngineOptions,
    pace: Option<Duration>,
    other_words: bool,
    extra_input: u64,
    runners: Runners,
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

    /// Shows other words than those that the tokens stand for: for demonstrations of how
    /// that is found out.
    pub fn with_other_words(mut self, cheat: bool) -> Self {
        self.other_words = cheat;
        self
    }

    /// Counts so many prompt tokens that are not there: for demonstrations of how that is found
    /// out.
    pub fn with_extra_input(mut self, tokens: u64) -> Self {
        self.extra_input = tokens;
        self
    }

    /// Bounds each model's engine: memory for keys and values, streams, queue.
    pub fn with_engines(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// The models that other servers run; they are asked where there is one of a digest.
    pub fn runners(&self) -> &Runners {
        &self.runners
    }

    /// The context of a model here, in tokens: what the model takes and the memory for keys
    /// and values holds. 0 where there is no such model.
    pub fn context(&self, model: &ModelDigest) -> u32 {
        match self.runners.of(model) {
            Some(runner) => runner.info().context,
            None => self
                .model(model)
                .map_or(0, |model| context_within(&model, &self.options)),
        }
    }

    /// Makes a model available. Its engine starts with its first job.
    pub fn add(&self, model: Model) -> ModelDigest {
        let digest = ModelDigest(model.digest());
        self.models.lock().insert(digest, model);
        // Of the same file, but perhaps opened with other options.
        let before = self.engines.lock().remove(&digest);
        drop(before);
        digest
    }

    /// What the engines that have started have to do.
    pub fn loads(&self) -> BTreeMap<ModelDigest, Load> {
        let engines = self.engines.lock();
        engines
            .iter()
            .map(|(model, e)| (*model, e.load()))
            .collect()
    }

    fn engine(&self, digest: &ModelDigest) -> Result<Arc<Engine>, String> {
        let Some(model) = self.model(digest) else {
            return Err(format!("the model {} is not on this node", digest.short()));
        };
        let mut engines = self.engines.lock();
        if let Some(engine) = engines.get(digest) {
            return Ok(engine.clone());
        }
        let engine = Engine::new(&model, self.options.clone())
            .map_err(|error| format!("the engine's thread does not start: {error}"))?;
        let engine = Arc::new(engine);
        engines.insert(*digest, engine.clone());
        Ok(engine)
    }

    /// Returns a model.
    pub fn model(&self, digest: &ModelDigest) -> Option<Model> {
        self.models.lock().get(digest).cloned()
    }

    /// Returns the models, in the order of their digests.
    pub fn models(&self) -> Vec<Model> {
        self.models.lock().values().cloned().collect()
    }

    /// What a model's file holds before its weights, where it is here. The first call may
    /// read it.
    pub fn head(&self, model: &ModelDigest) -> Option<Arc<Head>> {
        match self.runners.of(model) {
            Some(runner) => runner.head(),
            None => self.model(model)?.head(),
        }
    }

    /// Counts a prompt that this node buys an answer to, where the model is here as well.
    /// Blocks: call it from a blocking thread.
    pub fn count_own(&self, model: &ModelDigest, job: &Job) -> Option<InputCount> {
        let model = self.model(model)?;
        Some(match encode(&model, job) {
            Ok(sequences) => InputCount::Counted(InputFacts {
                tokens: sequences.iter().map(|tokens| tokens.len() as u64).sum(),
                tokenizer: Digest(model.info().tokenizer_digest),
                template: Digest(model.info().template_digest),
                numerics: model.info().numerics.clone(),
            }),
            Err(_) => InputCount::Unknown,
        })
    }

    /// The first of these tokens of an answer whose piece is not what the model has for it, where
    /// the model is here.
    pub fn wrong_piece(
        &self,
        model: &ModelDigest,
        tokens: &[ChainedToken],
    ) -> Option<Option<usize>> {
        let model = self.model(model)?;
        let tokenizer = model.tokenizer();
        let differs = |token: &ChainedToken| piece(tokenizer, token.id) != token.piece;
        Some(tokens.iter().position(differs))
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
        self.count_for(&Owner::default(), model, job, salt)
    }

    /// [`Self::count`] for somebody whose earlier prompts may still be there.
    ///
    /// # Errors
    /// A refusal for the buyer.
    pub fn count_for(
        &self,
        owner: &Owner,
        model: &ModelDigest,
        job: &Job,
        salt: &[u8; 16],
    ) -> Result<PromptFacts, Refusal> {
        if let Some(runner) = self.runners.of(model) {
            return runner.count(job, salt);
        }
        let found = self
            .model(model)
            .ok_or_else(|| Refusal::new(Code::UnknownModel, "this model is not loaded"))?;
        if let Some(broken) = self.broken(model) {
            return Err(Refusal::new(Code::EngineFailed, broken));
        }
        let running = self.engines.lock().get(model).cloned();
        check(&found, job).map_err(|reason| Refusal::new(Code::BadOrder, reason))?;
        let sequences = encode(&found, job)?;
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        self.check_memory(&found, job, longest)?;
        let cached = match (running, sequences.as_slice()) {
            (Some(engine), [prompt]) if !found.is_encoder() => engine.cached(owner, prompt),
            _ => 0,
        };
        let tokens = sequences.concat();
        Ok(PromptFacts {
            tokens: tokens.len() as u64 + self.extra_input,
            cached: cached as u64,
            longest: longest as u64,
            digest: prompt_digest(salt, &tokens),
        })
    }

    /// Why a model here answers nothing any more, until the node is started again.
    pub fn broken(&self, model: &ModelDigest) -> Option<String> {
        let running = self.engines.lock().get(model).cloned();
        let reason = match running {
            Some(engine) => engine.broken(),
            None => {
                let changed = self.model(model).is_some_and(|model| model.is_changed());
                changed.then_some(EngineError::FileChanged)
            }
        };
        reason.map(|reason| reason.to_string())
    }

    /// Refuses what the engine's memory never holds: nothing may be paid for it.
    fn check_memory(&self, model: &Model, job: &Job, longest: usize) -> Result<(), Refusal> {
        let output = match job.work {
            Work::Embed { .. } => 0,
            _ => job.max_output as usize,
        };
        let most = Engine::most_tokens_of(model, &self.options);
        if longest.saturating_add(output) <= most {
            return Ok(());
        }
        Err(Refusal::new(
            Code::TooLong,
            format!(
                "{longest} tokens and {output} of output; the memory of this host holds {most} together"
            ),
        ))
    }

    /// Starts a job; its output comes on the receiver. The order is its own owner.
    pub fn start(
        &self,
        order: OrderId,
        model: &ModelDigest,
        job: Job,
        allowed: u64,
    ) -> mpsc::Receiver<Output> {
        let owner = blake3::derive_key("freehold engine 2026-11 order", &order.0);
        self.start_for(owner, order, model, job, allowed)
    }

    /// [`Self::start`] for somebody who may have several orders.
    pub fn start_for(
        &self,
        owner: Owner,
        order: OrderId,
        model: &ModelDigest,
        job: Job,
        allowed: u64,
    ) -> mpsc::Receiver<Output> {
        if let Some(runner) = self.runners.of(model) {
            return self.runners.start(order, runner, job, allowed, self.pace);
        }
        // Two batches: a reader that falls behind holds its own job, not memory.
        let (out, receiver) = mpsc::channel(2);
        let steering = Arc::new(Steering::new(allowed, self.pace.is_some()));
        self.jobs.lock().insert(order, steering.clone());
        let (compute, model) = (self.clone(), *model);
        let listed = Listed {
            jobs: self.jobs.clone(),
            order,
        };
        let run = move || {
            let _listed = listed;
            #[cfg(test)]
            tests::planted(&job);
            let result = compute.engine(&model).and_then(|engine| match job.work {
                Work::Embed { .. } => embed::serve(&engine, owner, &job, &steering, &out),
                _ => {
                    let manner = order::Manner {
                        pace: compute.pace,
                        other_words: compute.other_words,
                    };
                    order::serve(&engine, owner, &job, &steering, manner, &out)
                }
            });
            if let Err(reason) = result
                && !steering.is_cancelled()
            {
                // The receiver may be gone: then nobody wants to know.
                let _ = out.blocking_send(Output::Failed(reason));
            }
        };
        // What does not start is dropped, and its entry with it.
        let started = std::thread::Builder::new()
            .name("order".to_owned())
            .spawn(run);
        if let Err(error) = started {
            tracing::error!(%error, "no thread for an order");
        }
        receiver
    }

    /// Raises a job's allowance to `total` output tokens.
    pub fn allow(&self, order: &OrderId, total: u64) {
        if let Some(job) = self.jobs.lock().get(order) {
            job.allow(total);
        }
        self.runners.allow(order, total);
    }

    /// Ends a job within one step.
    pub fn cancel(&self, order: &OrderId) {
        if let Some(job) = self.jobs.lock().get(order) {
            job.cancel();
        }
        self.runners.cancel(order);
    }

    /// Whether any job runs.
    pub fn is_busy(&self) -> bool {
        !self.jobs.lock().is_empty() || self.runners.is_busy()
    }

    /// Ends every job.
    pub fn cancel_all(&self) {
        for job in self.jobs.lock().values() {
            job.cancel();
        }
        self.runners.cancel_all();
    }

    /// Recomputes an answer from its tokens. Blocks, until it is cancelled at most: call it
    /// from a blocking thread.
    ///
    /// # Errors
    /// Why this node cannot.
    pub fn replay(
        &self,
        model: &ModelDigest,
        job: &Job,
        salt: &[u8; 16],
        tokens: &[ChainedToken],
        cancel: &CancelFlag,
    ) -> Result<Replay, String> {
        let engine = self.engine(model)?;
        let model = engine.model();
        let sequences = encode(model, job).map_err(|refusal| refusal.message)?;
        if let Work::Embed { .. } = job.work {
            return embed_again(&engine, &sequences, salt, tokens, cancel);
        }
        let prompt = sequences.concat();
        let answer: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let (sampling, steering) = (sampling(job), steering(job));
        let replayed = insist(|| {
            let wanted = !cancel.is_cancelled();
            let attempt =
                || engine.replay_steered(&prompt, &answer, sampling, &steering, job.seed, cancel);
            wanted.then(attempt)
        });
        let replayed = replayed
            .unwrap_or(Err(EngineError::Cancelled))
            .map_err(|error| error.to_string())?;
        Ok(Replay {
            prompt_tokens: prompt.len() as u64,
            prompt: prompt_digest(salt, &prompt),
            expected: replayed
                .into_iter()
                .map(|token| ChainedToken {
                    id: token.expected_token,
                    logits: Digest(token.logit_digest),
                    piece: piece(model.tokenizer(), token.expected_token),
                })
                .collect(),
            numerics: model.info().numerics.clone(),
        })
    }
}

/// An order among the jobs, until its thread ends, however it ends.
pub(in crate::ports) struct Listed<T> {
    pub jobs: Arc<Mutex<BTreeMap<OrderId, T>>>,
    pub order: OrderId,
}

impl<T> Drop for Listed<T> {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.order);
    }
}

/// Tokens, prompt and answer, that a model takes and that an engine with these bounds holds.
pub fn context_within(model: &Model, options: &EngineOptions) -> u32 {
    let most = Engine::most_tokens_of(model, options);
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    model.info().context.min(most)
}

/// Embeds the texts of an order again, as many as were delivered.
fn embed_again(
    engine: &Engine,
    texts: &[Vec<u32>],
    salt: &[u8; 16],
    tokens: &[ChainedToken],
    cancel: &CancelFlag,
) -> Result<Replay, String> {
    let again = |(text, id): (&Vec<u32>, u32)| {
        let wanted = || !cancel.is_cancelled();
        let vector = insist(|| wanted().then(|| engine.embed(BACKGROUND, text, cancel)));
        let vector = vector
            .unwrap_or(Err(EngineError::Cancelled))
            .map_err(|error| error.to_string())?;
        Ok(ChainedToken {
            id,
            logits: vector_digest(&embed::bytes(&vector)),
            piece: Piece::default(),
        })
    };
    let prompt = texts.concat();
    Ok(Replay {
        prompt_tokens: prompt.len() as u64,
        prompt: prompt_digest(salt, &prompt),
        expected: texts
            .iter()
            .zip(0..)
            .take(tokens.len())
            .map(again)
            .collect::<Result<_, String>>()?,
        numerics: engine.model().info().numerics.clone(),
    })
}

/// Tries until the engine is not too busy, or there is nothing left to try for.
fn insist<T>(
    mut attempt: impl FnMut() -> Option<Result<T, EngineError>>,
) -> Option<Result<T, EngineError>> {
    loop {
        match attempt()? {
            Err(EngineError::Busy { retry_ms }) => {
                std::thread::sleep(Duration::from_millis(retry_ms).min(RETRY));
            }
            other => return Some(other),
        }
    }
}
