//! One relay's subscriptions: what is wanted, what is open there, what is due next.
//!
//! Not the socket: `session` sends what this table says is due and tells it what came
//! back. The table outlives connections, so that everything is asked again after a
//! reconnect.

use super::config::RelayLimits;
use super::info::RelayInfo;
use nostr::event::Event;
use nostr::filter::{Filter, MatchEventOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Live events that may slip in among the stored ones without counting as a flood.
const STORED_SLACK: usize = 64;

/// First wait after a relay closed a subscription for a passing reason; doubles each time.
const RETRY_FIRST: Duration = Duration::from_secs(5);

/// Longest such wait.
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// Where a subscription stands on this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be sent, not before the instant.
    Due(Instant),
    /// Sent; stored events are coming.
    Storing,
    /// EOSE was seen; events are new ones.
    Live,
    /// Closed until AUTH succeeds.
    NeedsAuth,
    /// Closed for good on this connection.
    Closed,
}

/// One subscription.
#[derive(Debug)]
pub struct Subscription {
    /// The caller's name for it.
    pub id: Arc<str>,
    /// Its number, unique in the pool; part of the name on the wire.
    pub generation: u64,
    filters: Arc<[Filter]>,
    state: State,
    stored: usize,
    retries: u32,
    /// Unix seconds up to which everything was received, once EOSE was seen.
    complete_until: Option<u64>,
}

/// What an event means to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It may be handed on once verified.
    Wanted,
    /// It matches none of the filters.
    NotMatched,
    /// More stored events than asked for or allowed.
    Flood,
}

impl Subscription {
    /// Returns its name on the wire: short enough for any relay, telling nothing, and never
    /// used twice, so that late events of an old one cannot be taken for the new one's.
    pub fn wire_id(&self) -> String {
        format!("f{}", self.generation)
    }

    /// Judges an event against the filters and counts it.
    pub fn judge(&mut self, event: &Event, limits: &RelayLimits) -> Fit {
        if self.state == State::Storing {
            self.stored += 1;
            if self.stored > self.expected(limits) {
                return Fit::Flood;
            }
        }
        let options = MatchEventOptions::new();
        if self.filters.iter().any(|f| f.match_event(event, options)) {
            Fit::Wanted
        } else {
            Fit::NotMatched
        }
    }

    fn expected(&self, limits: &RelayLimits) -> usize {
        let asked = self.filters.iter().try_fold(0usize, |sum, filter| {
            Some(sum.saturating_add(filter.limit?))
        });
        asked
            .map_or(limits.max_stored_events, |asked| {
                asked.saturating_add(STORED_SLACK)
            })
            .min(limits.max_stored_events)
    }

    /// Builds the filters to send: after a gap only what may have been missed.
    fn request(&self, limits: &RelayLimits, info: &RelayInfo) -> Vec<Filter> {
        let mut filters = self.filters.to_vec();
        if let Some(complete) = self.complete_until {
            let from = complete.saturating_sub(limits.resume_overlap_secs);
            for filter in &mut filters {
                let since = filter.since.map_or(0, |since| since.as_secs());
                filter.since = Some(from.max(since).into());
            }
        }
        info.clamp(&mut filters);
        filters
    }
}

/// A subscription to send now.
#[derive(Debug)]
pub struct Request {
    /// Name on the wire.
    pub wire_id: String,
    /// Filters, `since` adjusted.
    pub filters: Vec<Filter>,
}

/// All subscriptions of one relay, by generation.
#[derive(Debug, Default)]
pub struct Subscriptions {
    table: BTreeMap<u64, Subscription>,
    newest: u64,
}

impl Subscriptions {
    /// Adds one, due at once.
    pub fn add(&mut self, id: Arc<str>, generation: u64, filters: Arc<[Filter]>, now: Instant) {
        self.newest = self.newest.max(generation);
        let subscription = Subscription {
            id,
            generation,
            filters,
            state: State::Due(now),
            stored: 0,
            retries: 0,
            complete_until: None,
        };
        self.table.insert(generation, subscription);
    }

    /// Removes the one called `id`; returns its wire name if the relay has it open.
    pub fn remove(&mut self, id: &str) -> Option<String> {
        let found = self.table.values().find(|s| *s.id == *id)?.generation;
        let removed = self.table.remove(&found)?;
        matches!(removed.state, State::Storing | State::Live).then(|| removed.wire_id())
    }

    /// Finds a subscription by its wire name.
    pub fn by_wire_id(&mut self, wire_id: &str) -> Option<&mut Subscription> {
        let generation = parse_wire_id(wire_id)?;
        self.table.get_mut(&generation)
    }

    /// Reports whether `wire_id` was ever ours: frames for it may still be under way.
    pub fn was_ours(&self, wire_id: &str) -> bool {
        parse_wire_id(wire_id).is_some_and(|generation| generation <= self.newest)
    }

    /// Makes everything due: a new connection knows nothing.
    pub fn connection_opened(&mut self, now: Instant) {
        for subscription in self.table.values_mut() {
            subscription.state = State::Due(now);
            subscription.retries = 0;
        }
    }

    /// Notes up to when the live ones are complete.
    pub fn connection_lost(&mut self, last_heard_secs: u64) {
        for subscription in self.table.values_mut() {
            if subscription.state == State::Live {
                subscription.complete_until = Some(last_heard_secs);
            }
        }
    }

    /// Marks what waited for AUTH as due.
    pub fn auth_succeeded(&mut self, now: Instant) {
        for subscription in self.table.values_mut() {
            if subscription.state == State::NeedsAuth {
                subscription.state = State::Due(now);
            }
        }
    }

    /// Closes what waited for AUTH; returns the names.
    pub fn auth_failed(&mut self) -> Vec<Arc<str>> {
        let waiting = self
            .table
            .values_mut()
            .filter(|s| s.state == State::NeedsAuth);
        waiting
            .map(|subscription| {
                subscription.state = State::Closed;
                subscription.id.clone()
            })
            .collect()
    }

    /// Takes the next one that is due, as far as the relay's limit on open ones allows.
    pub fn next_due(
        &mut self,
        now: Instant,
        limits: &RelayLimits,
        info: &RelayInfo,
    ) -> Option<Request> {
        let open = |s: &&Subscription| matches!(s.state, State::Storing | State::Live);
        let open = self.table.values().filter(open).count() as u64;
        if info.max_subscriptions.is_some_and(|max| open >= max) {
            return None;
        }
        let due = |s: &&mut Subscription| matches!(s.state, State::Due(at) if at <= now);
        let subscription = self.table.values_mut().find(due)?;
        subscription.state = State::Storing;
        subscription.stored = 0;
        Some(Request {
            wire_id: subscription.wire_id(),
            filters: subscription.request(limits, info),
        })
    }

    /// Returns when the next one becomes due. One that is due already but has no room at
    /// the relay waits for another to end, not for a time.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let due = self.table.values().filter_map(|s| match s.state {
            State::Due(at) if at > now => Some(at),
            _ => None,
        });
        due.min()
    }

    /// Notes the end of stored events; returns the caller's name.
    pub fn eose(&mut self, wire_id: &str) -> Option<Arc<str>> {
        let subscription = self.by_wire_id(wire_id)?;
        subscription.state = State::Live;
        subscription.retries = 0;
        Some(subscription.id.clone())
    }

    /// Notes that the relay closed it and how to go on; returns the caller's name.
    pub fn closed(&mut self, wire_id: &str, next: AfterClose, now: Instant) -> Option<Arc<str>> {
        let subscription = self.by_wire_id(wire_id)?;
        subscription.state = match next {
            AfterClose::NeedsAuth => State::NeedsAuth,
            AfterClose::GiveUp => State::Closed,
            AfterClose::Retry => {
                let factor = 1u32 << subscription.retries.min(16);
                subscription.retries = subscription.retries.saturating_add(1);
                State::Due(now + RETRY_FIRST.saturating_mul(factor).min(RETRY_LONGEST))
            }
        };
        Some(subscription.id.clone())
    }
}

/// How to go on after CLOSED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClose {
    /// Ask again once AUTH succeeded.
    NeedsAuth,
    /// Ask again after a while.
    Retry,
    /// Not again on this connection.
    GiveUp,
}

fn parse_wire_id(wire_id: &str) -> Option<u64> {
    wire_id.strip_prefix('f')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(filters: Vec<Filter>) -> Subscriptions {
        let mut table = Subscriptions::default();
        table.add("listings".into(), 7, filters.into(), Instant::now());
        table
    }

    fn next(table: &mut Subscriptions) -> Option<Request> {
        table.next_due(
            Instant::now(),
            &RelayLimits::default(),
            &RelayInfo::default(),
        )
    }

    #[test]
    fn after_a_gap_only_what_may_have_been_missed_is_asked_again() {
        let mut table = table(vec![Filter::new().since(5_000.into()), Filter::new()]);
        assert_eq!(next(&mut table).unwrap().filters[1].since, None);
        table.connection_lost(9_000);
        table.connection_opened(Instant::now());
        let again = next(&mut table).unwrap();
        assert_eq!(
            again.filters[1].since, None,
            "no EOSE yet: everything is asked again"
        );

        table.eose("f7").unwrap();
        table.connection_lost(9_000);
        table.connection_opened(Instant::now());
        let resumed = next(&mut table).unwrap().filters;
        assert!(resumed.iter().all(|f| f.since == Some(8_100.into())));
        assert!(next(&mut table).is_none());
    }

    #[test]
    fn a_passing_refusal_is_retried_later_and_later_and_a_final_one_never() {
        let mut table = table(vec![Filter::new()]);
        let now = Instant::now();
        next(&mut table).unwrap();
        table.closed("f7", AfterClose::Retry, now);
        assert_eq!(table.deadline(now), Some(now + RETRY_FIRST));
        table.closed("f7", AfterClose::Retry, now);
        assert_eq!(table.deadline(now), Some(now + RETRY_FIRST * 2));
        table.closed("f7", AfterClose::GiveUp, now);
        assert_eq!(table.deadline(now), None);
    }

    #[test]
    fn a_relays_limit_on_open_subscriptions_is_respected() {
        let mut table = table(vec![Filter::new()]);
        table.add(
            "second".into(),
            8,
            vec![Filter::new()].into(),
            Instant::now(),
        );
        let info = RelayInfo {
            max_subscriptions: Some(1),
            ..Default::default()
        };
        let limits = RelayLimits::default();
        assert!(table.next_due(Instant::now(), &limits, &info).is_some());
        assert!(table.next_due(Instant::now(), &limits, &info).is_none());
        assert_eq!(table.remove("listings").as_deref(), Some("f7"));
        assert!(table.next_due(Instant::now(), &limits, &info).is_some());
        assert!(table.was_ours("f7") && !table.was_ours("f9") && !table.was_ours("x"));
    }
}
