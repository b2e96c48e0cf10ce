//! One order: from its job to batches of tokens on a channel.
//!
//! The first token is handed on at once, then whatever was made within `BATCH`, and
//! whatever there is when the order waits for credit.

use super::{Output, Owner, encode, insist, sampling};
use kernels::{Control, Engine, EngineError, Next, Request, Step, Stream};
use parking_lot::Mutex;
use protocol::chain::ChainedToken;
use protocol::ids::Digest;
use protocol::order::wire::Finish;
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
pub(super) struct Steering(Mutex<State>);

#[derive(Default)]
struct State {
    /// Tokens paid for.
    total: u64,
    /// Tokens that the pace lets out so far, where there is one.
    paced: Option<u64>,
    cancelled: bool,
    control: Option<Control>,
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.lock();
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
        Self(Mutex::new(State {
            total,
            paced: paced.then_some(1),
            ..State::default()
        }))
    }

    /// Raise what is paid for.
    pub fn allow(&self, total: u64) {
        let mut state = self.0.lock();
        state.total = state.total.max(total);
        state.pass_on();
    }

    pub fn cancel(&self) {
        let mut state = self.0.lock();
        state.cancelled = true;
        if let Some(control) = &state.control {
            control.cancel();
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.lock().cancelled
    }

    /// Let one token more out, where there is a pace.
    fn let_out(&self, made: u64) {
        let mut state = self.0.lock();
        if state.paced.is_some() {
            state.paced = Some(made + 1);
            state.pass_on();
        }
    }

    /// Whether the next token is not paid for yet.
    fn is_spent(&self, made: u64) -> bool {
        self.0.lock().total <= made
    }

    /// Ask the engine, with what is allowed by now; `None` once cancelled.
    fn submit(&self, engine: &Engine, request: &Request) -> Option<Result<Stream, EngineError>> {
        let mut state = self.0.lock();
        if state.cancelled {
            return None;
        }
        let mut request = request.clone();
        request.allowance = state.allowance();
        let stream = engine.submit(request);
        if let Ok(stream) = &stream {
            state.control = Some(stream.control());
        }
        Some(stream)
    }
}

/// Runs a job to its end. Blocks.
pub(super) fn serve(
    engine: &Engine,
    owner: Owner,
    job: &Job,
    steering: &Steering,
    pace: Option<Duration>,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let [a, b, c, d, e, f, g, h, ..] = owner;
    let request = Request {
        prompt: encode(engine.model(), job)?,
        sampling: sampling(job),
        seed: job.seed,
        max_output: job.max_output,
        stop: job.stop.clone(),
        owner: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        scope: owner,
        allowance: 0,
    };
    match insist(|| steering.submit(engine, &request)) {
        None => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(stream)) => hand_on(stream, steering, pace, out),
    }
}

fn hand_on(
    mut stream: Stream,
    steering: &Steering,
    pace: Option<Duration>,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let mut batch = Batch::default();
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

#[derive(Default)]
struct Batch {
    tokens: Vec<ChainedToken>,
    text: String,
    since: Option<Instant>,
}

impl Batch {
    fn push(&mut self, step: Step) {
        self.tokens.push(ChainedToken {
            id: step.token,
            logits: Digest(step.logit_digest),
        });
        self.text.push_str(&step.text);
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
            text: std::mem::take(&mut self.text),
            finish,
        })
        .map_err(|_| "nobody takes the output".to_owned())
    }
}
