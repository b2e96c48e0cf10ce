//! What the owner of a pool holds: subscribe, publish, look, stop.
//!
//! Not the relays' tasks; it only sends them commands and collects answers.

use super::config::RelayLimits;
use super::outbox::{Outcome, Publish};
use super::reason::Reason;
use super::status::RelayStatus;
use super::task::{Command, Link};
use super::{Event, Filter, RelayError};
use nostr::message::ClientMessage;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Which relays took an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// Relays that have it.
    pub accepted: Vec<String>,
    /// Relays that refused it, or whose limits forbid to send it, with the reason.
    pub refused: Vec<(String, Reason)>,
    /// Relays that did not answer in time; they may still take it.
    pub timed_out: Vec<String>,
}

impl PublishReport {
    /// Reports whether the event is published: one relay is enough.
    pub fn is_published(&self) -> bool {
        !self.accepted.is_empty()
    }
}

/// A pool's remote control; clones share the pool.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    links: Arc<[Link]>,
    limits: RelayLimits,
    subscriptions: Arc<Mutex<BTreeSet<String>>>,
    generation: Arc<AtomicU64>,
    stop: Arc<watch::Sender<bool>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl RelayHandle {
    pub(super) fn new(
        spawned: Vec<(Link, JoinHandle<()>)>,
        limits: RelayLimits,
        stop: watch::Sender<bool>,
    ) -> Self {
        let (links, tasks): (Vec<_>, Vec<_>) = spawned.into_iter().unzip();
        Self {
            links: links.into(),
            limits,
            subscriptions: Arc::default(),
            generation: Arc::new(AtomicU64::new(1)),
            stop: Arc::new(stop),
            tasks: Arc::new(Mutex::new(tasks)),
        }
    }

    /// Asks every relay for what matches any of `filters`, stored and new. The same `id`
    /// again replaces the earlier subscription, and stored events come again.
    pub async fn subscribe(
        &self,
        id: impl Into<String>,
        filters: Vec<Filter>,
    ) -> Result<(), RelayError> {
        let id = id.into();
        self.admit(&id, filters.len())?;
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let (id, filters): (Arc<str>, Arc<[Filter]>) = (id.into(), filters.into());
        for link in self.links.iter() {
            let command = Command::Subscribe {
                id: id.clone(),
                generation,
                filters: filters.clone(),
            };
            let sent = link.commands.send(command).await;
            sent.map_err(|_| RelayError::Stopped)?;
        }
        Ok(())
    }

    /// Ends a subscription on every relay; an unknown one is no error.
    pub async fn unsubscribe(&self, id: &str) -> Result<(), RelayError> {
        if !self.subscriptions.lock().remove(id) {
            return Ok(());
        }
        for link in self.links.iter() {
            let sent = link
                .commands
                .send(Command::Unsubscribe { id: id.into() })
                .await;
            sent.map_err(|_| RelayError::Stopped)?;
        }
        Ok(())
    }

    /// Offers an event to every relay. Returns when all answered, `publish_grace` after the
    /// first one took it, or after `publish_timeout`. A relay that is just connecting gets
    /// it once it is connected, if that is in time.
    pub async fn publish(&self, event: Event) -> PublishReport {
        let now = Instant::now();
        let mut deadline = now + self.limits.publish_timeout;
        let (reply, mut answers) = mpsc::channel(self.links.len().max(1));
        let message = ClientMessage::Event(Cow::Borrowed(&event)).as_json();
        let (message, event): (Arc<str>, _) = (message.into(), Arc::new(event));
        let mut outcomes: Vec<Option<Outcome>> = vec![None; self.links.len()];
        for (relay, (link, outcome)) in self.links.iter().zip(&mut outcomes).enumerate() {
            let publish = Publish {
                event: event.clone(),
                message: message.clone(),
                deadline,
                relay,
                reply: reply.clone(),
            };
            if link.commands.try_send(Command::Publish(publish)).is_err() {
                let reason = Reason::local("the relay's queue is full or shut down");
                *outcome = Some(Outcome::Refused(reason));
            }
        }
        drop(reply);
        while outcomes.iter().any(Option::is_none) {
            let Ok(Some((relay, outcome))) = timeout_at(deadline, answers.recv()).await else {
                break;
            };
            if outcome == Outcome::Accepted {
                deadline = deadline.min(Instant::now() + self.limits.publish_grace);
            }
            if let Some(place) = outcomes.get_mut(relay) {
                *place = Some(outcome);
            }
        }
        self.report(outcomes)
    }

    /// Returns how each relay has been doing, in the order of the config.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.links
            .iter()
            .map(|link| link.status.lock().clone())
            .collect()
    }

    /// Closes every connection and waits for the tasks to end.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = task.await;
        }
    }

    fn admit(&self, id: &str, filters: usize) -> Result<(), RelayError> {
        if filters == 0 {
            return Err(RelayError::NoFilters);
        }
        let max = self.limits.max_filters;
        if filters > max {
            return Err(RelayError::TooManyFilters { have: filters, max });
        }
        let mut subscriptions = self.subscriptions.lock();
        let max = self.limits.max_subscriptions;
        if subscriptions.len() >= max && !subscriptions.contains(id) {
            return Err(RelayError::TooManySubscriptions { max });
        }
        subscriptions.insert(id.to_owned());
        Ok(())
    }

    fn report(&self, outcomes: Vec<Option<Outcome>>) -> PublishReport {
        let mut report = PublishReport::default();
        for (link, outcome) in self.links.iter().zip(outcomes) {
            let url = link.url.to_string();
            match outcome {
                Some(Outcome::Accepted) => report.accepted.push(url),
                Some(Outcome::Refused(reason)) => report.refused.push((url, reason)),
                None => report.timed_out.push(url),
            }
        }
        report
    }
}
