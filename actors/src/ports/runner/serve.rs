//! One order at a runner: asks the server, reads as far as the buyer has paid, counts.
//!
//! Nothing is read while nothing is paid for: the connection's buffers fill and hold the
//! server back. Dropping the connection ends its work.

use super::Runner;
use super::client::{CallError, Events};
use super::count::Counter;
use super::orders::Gate;
use super::stops::Stops;
use super::tally::Tally;
use super::wire::{self, Chunk, Thoughts, Usage};
use crate::ports::compute::Output;
use protocol::wire::attached::Attached;
use protocol::wire::order::Finish;
use protocol::work::Job;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long a server may be silent in the middle of an answer. Below a buyer's patience.
const IDLE: Duration = Duration::from_secs(60);
/// How long its totals may take after the end of an answer.
const GRACE: Duration = Duration::from_secs(5);
/// How long an order waits in all for a server that is busy: its buyer paid for the
/// prompt already.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of an answer: for each token ordered (an event is a few hundred bytes, more
/// with a server's own fields), and beside them.
const BYTES_PER_TOKEN: usize = 4 << 10;
const BYTES_BESIDE: usize = 1 << 20;
/// Most text in one event. Bytes. No token is as long, and a chunk must take it.
const MAX_DELTA: usize = 32 << 10;

/// Runs a job to its end, or until it is cancelled.
pub(super) async fn serve(
    runner: &Arc<Runner>,
    job: &Job,
    mut gate: watch::Receiver<Gate>,
    pace: Option<Duration>,
    out: &mpsc::Sender<Output>,
) -> Result<(), CallError> {
    let mut cancel = gate.clone();
    let run = async {
        let events = ask(runner, job).await?;
        Answer {
            runner,
            job,
            events,
            tally: Tally::new(Counter::new(runner.vocabulary.as_ref()), job.max_output),
            thoughts: Thoughts::default(),
            stops: Stops::new(&job.stop),
            usage: None,
            finish: None,
        }
        .run(&mut gate, pace, out)
        .await
    };
    tokio::select! {
        result = run => result,
        // The other side is gone where the gate is.
        _ = cancel.wait_for(|gate| gate.cancelled) => Ok(()),
    }
}

/// Begins the answer; waits while the server is busy.
async fn ask(runner: &Runner, job: &Job) -> Result<Events, CallError> {
    let Some(path) = wire::path(&job.work) else {
        return Err(CallError::Broken("it has no such work".to_owned()));
    };
    let limit = BYTES_BESIDE + BYTES_PER_TOKEN * job.max_output as usize;
    let end = Instant::now() + PATIENCE;
    loop {
        let plain = runner.is_plain();
        let body = wire::request(&runner.model, job, plain);
        match runner.client.answer(path, &body, limit).await {
            Err(CallError::Busy { after }) if Instant::now() + after < end => {
                runner.busy(after);
                tokio::time::sleep(after).await;
            }
            Err(error) if error.is_bad_request() && !plain && wire::has_extras(job) => {
                tracing::warn!(runner = %runner.model, %error,
                    "the server takes no top_k, min_p or repetition penalty: they are left out");
                runner.be_plain();
            }
            other => return other,
        }
    }
}

struct Answer<'a> {
    runner: &'a Arc<Runner>,
    job: &'a Job,
    events: Events,
    tally: Tally,
    thoughts: Thoughts,
    stops: Stops,
    usage: Option<Usage>,
    finish: Option<Finish>,
}

impl Answer<'_> {
    async fn run(
        mut self,
        gate: &mut watch::Receiver<Gate>,
        pace: Option<Duration>,
        out: &mpsc::Sender<Output>,
    ) -> Result<(), CallError> {
        let mut silent = Instant::now() + IDLE;
        loop {
            let allowed = gate.borrow_and_update().total;
            while let Some(batch) = self.tally.take(allowed) {
                let (made, finish) = (batch.tokens.len(), batch.finish);
                let output = Output::Tokens {
                    tokens: batch.tokens,
                    finish,
                    attached: Attached::default(),
                };
                if out.send(output).await.is_err() || finish.is_some() {
                    return Ok(());
                }
                if let Some(pace) = pace {
                    tokio::time::sleep(pace * u32::try_from(made).unwrap_or(u32::MAX)).await;
                }
                silent = Instant::now() + IDLE;
            }
            if self.tally.is_beyond() {
                self.end(Finish::Length);
            } else if self.tally.is_full(allowed) {
                if gate.changed().await.is_err() {
                    return Ok(());
                }
                silent = Instant::now() + IDLE;
            } else {
                tokio::select! {
                    event = self.events.next() => {
                        self.take(event)?;
                        let patience = if self.finish.is_some() { GRACE } else { IDLE };
                        silent = Instant::now() + patience;
                    }
                    changed = gate.changed() => if changed.is_err() { return Ok(()) },
                    () = tokio::time::sleep_until(silent) => match self.finish {
                        Some(finish) => self.end(finish),
                        None => return Err(CallError::Broken("it fell silent".to_owned())),
                    },
                }
            }
        }
    }

    /// Takes an event and those that came with it.
    fn take(&mut self, event: Result<Option<String>, CallError>) -> Result<(), CallError> {
        let mut event = event;
        loop {
            match event? {
                Some(data) if data.trim() == "[DONE]" => return self.over(true),
                Some(data) => self.chunk(&data)?,
                None => return self.over(false),
            }
            // At a stop string the answer is over, whatever the server goes on to say.
            if self.tally.is_ended() {
                return Ok(());
            }
            event = match self.events.ready() {
                Ok(None) => return Ok(()),
                other => other,
            };
        }
    }

    fn chunk(&mut self, data: &str) -> Result<(), CallError> {
        let chunk = Chunk::parse(data).map_err(CallError::Broken)?;
        self.usage = chunk.usage.or(self.usage);
        let text = self.thoughts.text(&chunk);
        if text.len() > MAX_DELTA {
            let what = "it sent more text at once than a token can be";
            return Err(CallError::Broken(what.to_owned()));
        }
        let shown = self.stops.push(&text);
        self.tally.push(&shown);
        if self.stops.is_hit() {
            self.end(Finish::Stop);
            return Ok(());
        }
        if let Some(finish) = chunk.finish() {
            self.finish = Some(finish);
        }
        Ok(())
    }

    /// The stream ended; `said`: with the mark of an end, which is one, reason or not.
    fn over(&mut self, said: bool) -> Result<(), CallError> {
        match self.finish {
            Some(finish) => self.end(finish),
            None if said => self.end(Finish::Stop),
            None => {
                return Err(CallError::Broken(
                    "it ended in the middle of an answer".to_owned(),
                ));
            }
        }
        Ok(())
    }

    fn end(&mut self, finish: Finish) {
        let mut rest = self.stops.rest();
        rest.push_str(self.thoughts.close());
        self.tally.push(&rest);
        let (ours, theirs) = self.tally.end(finish, self.usage);
        self.runner.compare("output", ours, theirs);
        if let Some(usage) = self.usage {
            let (runner, job) = (self.runner.clone(), self.job.clone());
            // Counting a long prompt again takes a moment, and nobody waits for it.
            tokio::task::spawn_blocking(move || runner.learn(&job, usage.prompt_tokens));
        }
    }
}
