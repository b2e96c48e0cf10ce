//! One order: from its job to batches of tokens on a channel.
//!
//! The first token is handed on at once, then whatever was made within `BATCH`, and
//! whatever there is when the order waits for credit.

use super::job::{encode, sampling, steering as asked};
use super::{Output, Owner, insist};
use kernels::{CancelFlag, Control, Engine, EngineError, Next, Request, Step, Stream, Tokenizer};
use parking_lot::{Condvar, Mutex};
use protocol::ids::Digest;
use protocol::limits;
use protocol::wire::attached::{Attached, TokenLogprob, TokenLogprobs};
use protocol::wire::chain::{ChainedToken, Piece};
use protocol::wire::order::Finish;
use protocol::work::Job;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Longest time that finished tokens wait for more, so that a chunk is worth its frame.
const BATCH: Duration = Duration::from_millis(25);
/// Most tokens in one batch.
const BATCH_TOKENS: usize = 32;
/// Wait for the next token with nothing in hand: the engine ends it.
const LONG: Duration = Duration::from_secs(3600);

/// What is asked of a job from outside while it runs.
#[derive(Default)]
pub(super) struct Steering {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Tokens paid for.
    total: u64,
    /// Tokens that the pace lets out so far, where there is one.
    paced: Option<u64>,
    cancelled: bool,
    control: Option<Control>,
    /// What else a cancellation ends.
    flag: Option<CancelFlag>,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Steering")
            .field("total", &state.total)
            .field("cancelled", &state.cancelled)
            .finish_non_exhaustive()
    }
}

impl State {
    fn allowance(&self) -> u64 {
        self.paced.map_or(self.total, |paced| paced.min(self.total))
    }

    fn pass_on(&self) {
        if let Some(control) = &self.control {
            control.allow(self.allowance());
        }
    }
}

impl Steering {
    pub fn new(total: u64, paced: bool) -> Self {
        let state = State {
            total,
            paced: paced.then_some(1),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Also set this flag when the order is cancelled.
    pub fn cancels(&self, flag: &CancelFlag) {
        let mut state = self.state.lock();
        if state.cancelled {
            flag.cancel();
        }
        state.flag = Some(flag.clone());
    }

    /// Wait until unit `index`, counted from 0, is paid for. False once cancelled.
    pub fn wait_for(&self, index: u64) -> bool {
        let mut state = self.state.lock();
        while !state.cancelled && state.total <= index {
            self.changed.wait(&mut state);
        }
        !state.cancelled
    }

    /// Raise what is paid for.
    pub fn allow(&self, total: u64) {
        let mut state = self.state.lock();
        state.total = state.total.max(total);
        state.pass_on();
        self.changed.notify_all();
    }

    pub fn cancel(&self) {
        let mut state = self.state.lock();
        state.cancelled = true;
        if let Some(control) = &state.control {
            control.cancel();
        }
        if let Some(flag) = &state.flag {
            flag.cancel();
        }
        self.changed.notify_all();
    }

    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    /// Let one token more out, where there is a pace.
    fn let_out(&self, made: u64) {
        let mut state = self.state.lock();
        if state.paced.is_some() {
            state.paced = Some(made + 1);
            state.pass_on();
        }
    }

    /// Whether the next token is not paid for yet.
    pub fn is_spent(&self, made: u64) -> bool {
        self.state.lock().total <= made
    }

    /// Ask the engine, with what is allowed by now; `None` once cancelled.
    fn submit(
        &self,
        engine: &Engine,
        request: &Request,
        steering: &kernels::Steering,
    ) -> Option<Result<Stream, EngineError>> {
        let mut state = self.state.lock();
        if state.cancelled {
            return None;
        }
        let mut request = request.clone();
        request.allowance = state.allowance();
        let stream = engine.submit_steered(request, steering);
        if let Ok(stream) = &stream {
            state.control = Some(stream.control());
        }
        Some(stream)
    }
}

/// How an answer is handed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Least time between two tokens.
    pub pace: Option<Duration>,
    /// Show other words than the tokens stand for.
    pub other_words: bool,
}

/// Runs a job to its end. Blocks.
pub(super) fn serve(
    engine: &Engine,
    owner: Owner,
    job: &Job,
    steering: &Steering,
    manner: Manner,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let request = Request {
        prompt: encode(engine.model(), job)
            .map_err(|refusal| refusal.message)?
            .into_iter()
            .flatten()
            .collect(),
        sampling: sampling(job),
        seed: job.seed,
        max_output: job.max_output,
        stop: job.stop.clone(),
        owner: turn(&owner),
        scope: owner,
        allowance: 0,
    };
    let asked = asked(job);
    match insist(|| steering.submit(engine, &request, &asked)) {
        None => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(stream)) => {
            let mut batch = Batch::new(engine.model().tokenizer());
            batch.other_words = manner.other_words;
            hand_on(stream, batch, steering, manner.pace, out)
        }
    }
}

/// What the engine tells owners apart by.
pub(super) fn turn(owner: &Owner) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *owner;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn hand_on(
    mut stream: Stream,
    mut batch: Batch<'_>,
    steering: &Steering,
    pace: Option<Duration>,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let mut made = 0;
    loop {
        match stream.next_within(batch.patience()) {
            Ok(Next::Step(step)) => {
                made += 1;
                let finish = step.finish.map(finish);
                batch.push(step);
                if finish.is_some() {
                    return batch.flush(finish, out);
                }
                // The first at once; and nothing waits while the engine waits for money.
                if made == 1 || batch.is_due() || steering.is_spent(made) {
                    batch.flush(None, out)?;
                }
                if let Some(pace) = pace {
                    std::thread::sleep(pace);
                    steering.let_out(made);
                }
            }
            Ok(Next::Pending) => batch.flush(None, out)?,
            // Nothing was asked for.
            Ok(Next::Ended) => return batch.flush(Some(Finish::Length), out),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn finish(finish: kernels::Finish) -> Finish {
    match finish {
        kernels::Finish::Stop => Finish::Stop,
        kernels::Finish::Length => Finish::Length,
    }
}

/// What a token stands for; one that ends answers is no text, whatever its type says.
pub(in crate::ports) fn piece(tokenizer: &Tokenizer, token: u32) -> Piece {
    let found = tokenizer.piece(token);
    Piece {
        control: found.control || tokenizer.is_stop(token),
        bytes: found.bytes,
    }
}

struct Batch<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<ChainedToken>,
    logprobs: Vec<TokenLogprobs>,
    since: Option<Instant>,
    other_words: bool,
}

impl<'a> Batch<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Batch {
            tokenizer,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            since: None,
            other_words: false,
        }
    }

    fn probabilities(&self, found: kernels::Logprobs) -> TokenLogprobs {
        let one = |logprob: kernels::Logprob| {
            let bytes = self.tokenizer.bytes(logprob.token);
            TokenLogprob {
                token: logprob.token,
                bytes: bytes
                    .iter()
                    .copied()
                    .take(limits::MAX_TOKEN_BYTES)
                    .collect(),
                micro: logprob.micro,
            }
        };
        TokenLogprobs {
            chosen: one(found.chosen),
            top: found.top.into_iter().map(one).collect(),
        }
    }

    fn push(&mut self, step: Step) {
        let mut piece = piece(self.tokenizer, step.token);
        if self.other_words && !piece.control {
            piece.bytes.make_ascii_uppercase();
        }
        self.tokens.push(ChainedToken {
            id: step.token,
            logits: Digest(step.logit_digest),
            piece,
        });
        if let Some(found) = step.logprobs {
            let found = self.probabilities(*found);
            self.logprobs.push(found);
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long what is in hand may still wait.
    fn patience(&self) -> Duration {
        self.since
            .map_or(LONG, |since| BATCH.saturating_sub(since.elapsed()))
    }

    fn is_due(&self) -> bool {
        self.tokens.len() >= BATCH_TOKENS || self.patience().is_zero()
    }

    fn flush(&mut self, finish: Option<Finish>, out: &mpsc::Sender<Output>) -> Result<(), String> {
        if self.tokens.is_empty() && finish.is_none() {
            return Ok(());
        }
        self.since = None;
        out.blocking_send(Output::Tokens {
            tokens: std::mem::take(&mut self.tokens),
            finish,
            attached: Attached {
                logprobs: std::mem::take(&mut self.logprobs),
                ..Attached::default()
            },
        })
        .map_err(|_| "nobody takes the output".to_owned())
    }
}
