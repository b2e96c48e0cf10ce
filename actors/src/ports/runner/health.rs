//! Whether a runner's server is there: looked at now and then, and after every failure.
//!
//! A server that is away or busy makes orders be refused, with a time; the log says so
//! once, and once when it is back.

use super::client::CallError;
use super::{Runner, wire};
use protocol::refusal::{Code, Refusal};
use std::sync::Weak;
use std::time::{Duration, Instant};

/// How often a server is looked at that answered, and one that did not.
const LOOK: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Runner {
    pub(super) fn ready(&self) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let refuse = |what: &str, after: Duration| Refusal {
            retry_after_ms: u64::try_from(after.as_millis()).ok(),
            ..Refusal::new(
                Code::Busy,
                format!("the server behind this listing is {what}"),
            )
        };
        if state.away.is_some() {
            return Err(refuse("away", LOOK_AGAIN));
        }
        match state.busy.map(|until| until.saturating_duration_since(now)) {
            Some(left) if !left.is_zero() => Err(refuse("busy", left)),
            _ => {
                state.busy = None;
                Ok(())
            }
        }
    }

    pub(super) fn busy(&self, after: Duration) {
        self.state.lock().busy = Some(Instant::now() + after);
    }

    /// Takes note of a call that failed.
    pub(super) fn failed(&self, error: &CallError) {
        match error {
            CallError::Busy { after } => self.busy(*after),
            error if error.is_away() => self.set_away(Some(error.to_string())),
            _ => {}
        }
        tracing::warn!(runner = %self.model, server = self.url(), %error, "an order failed at the runner");
    }

    pub(super) async fn look(&self) {
        let away = match self.client.models().await {
            Err(CallError::Busy { after }) => {
                self.busy(after);
                None
            }
            Err(error) => Some(error.to_string()),
            Ok(body) => self.missing(&body.and_then(|body| wire::models(&body))),
        };
        self.set_away(away);
    }

    fn missing(&self, listed: &Option<Vec<String>>) -> Option<String> {
        let listed = listed.as_ref()?;
        if listed.iter().any(|id| wire::is_named(id, &self.model)) {
            return None;
        }
        let names: Vec<&str> = listed.iter().take(8).map(String::as_str).collect();
        Some(format!(
            "it does not have the model: correct `runner_model`; it lists {}",
            names.join(", ")
        ))
    }

    fn set_away(&self, away: Option<String>) {
        let before = std::mem::replace(&mut self.state.lock().away, away.clone());
        if before == away {
            return;
        }
        match away {
            Some(why) => tracing::warn!(runner = %self.model, server = self.url(), %why,
                "the runner's server is away: its orders are refused until it is back"),
            None => {
                tracing::info!(runner = %self.model, server = self.url(), "the runner's server is back")
            }
        }
    }
}

/// Looks at a server for as long as its runner lives.
pub(super) async fn watch_over(runner: Weak<Runner>) {
    loop {
        let pause = match runner.upgrade() {
            None => return,
            Some(runner) if runner.away().is_some() => LOOK_AGAIN,
            Some(_) => LOOK,
        };
        tokio::time::sleep(pause).await;
        let Some(runner) = runner.upgrade() else {
            return;
        };
        runner.look().await;
    }
}
