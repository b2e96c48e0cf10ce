//! One relay's subscriptions: what is wanted, what is open there, what is due next.
//!
//! Not the socket: `session` sends what this table says is due and tells it what came
//! back. The table outlives connections, so that everything is asked again after a
//! reconnect.
//!
//! # Pages
//! A relay answers a filter without `limit` with as many stored events as it likes, the newest
//! first, and says nothing of the rest. So a subscription of one such filter is asked with a
//! limit, and what is older in pages (`until`) under a name of its own (`p…` beside `f…`), until
//! a page is not full or [`RelayLimits::max_stored_events`] are here. The caller hears of the end
//! of stored events after the last page. What is beyond the bound is passed over: strangers, not
//! the relay, wrote it.

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

/// Stored events asked for at once. Relays commonly give 500 and more.
const PAGE: usize = 500;

/// A page with fewer events than this was not cut short by the relay: none known gives fewer.
const FULL_PAGE: usize = 100;

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
    /// The newest ones are here; those up to this second are to be asked for.
    PageDue(u64),
    /// Older ones are coming.
    Paging,
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
    /// Stored events since it was last asked.
    stored: usize,
    /// Those of the present page, and the earliest second among them.
    page: usize,
    oldest: u64,
    /// The last second that the present page may hold.
    until: u64,
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
    /// Beyond the bound on stored events: passed over.
    Beyond,
    /// More stored events than asked for.
    Flood,
}

/// What the end of stored events leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Eose {
    /// Nothing: the name is not known, or older ones are asked for next.
    More,
    /// Everything stored is here.
    Done {
        /// The caller's name.
        id: Arc<str>,
        /// The name of the pages, to be closed.
        close: Option<String>,
    },
}

impl Subscription {
    fn is_open(&self) -> bool {
        matches!(
            self.state,
            State::Storing | State::PageDue(_) | State::Paging | State::Live
        )
    }

    /// Returns its name on the wire: short enough for any relay, telling nothing, and never
    /// used twice, so that late events of an old one cannot be taken for the new one's.
    pub fn wire_id(&self) -> String {
        format!("f{}", self.generation)
    }

    /// Judges an event that came under `wire_id` against the filters and counts it.
    pub fn judge(&mut self, wire_id: &str, event: &Event, limits: &RelayLimits) -> Fit {
        let older = wire_id.starts_with(PAGES);
        let stored = match self.state {
            State::Storing => !older,
            State::Paging => older,
            _ => false,
        };
        let options = MatchEventOptions::new();
        let matches = self.filters.iter().any(|f| f.match_event(event, options));
        if stored {
            self.stored += 1;
            self.page += 1;
            if let Some(asked) = self.asked()
                && self.stored > asked.saturating_add(STORED_SLACK)
            {
                return Fit::Flood;
            }
            if matches {
                self.oldest = self.oldest.min(event.created_at.as_secs());
            }
            if self.stored > limits.max_stored_events {
                return Fit::Beyond;
            }
        }
        match matches {
            true => Fit::Wanted,
            false => Fit::NotMatched,
        }
    }

    /// How many stored events the caller asked for, where it said so.
    fn asked(&self) -> Option<usize> {
        self.filters.iter().try_fold(0usize, |sum, filter| {
            Some(sum.saturating_add(filter.limit?))
        })
    }

    /// Whether older events are asked for in pages.
    fn is_paged(&self) -> bool {
        matches!(&*self.filters, [filter] if filter.limit.is_none())
    }

    /// What follows the end of a page.
    fn next_page(&mut self, limits: &RelayLimits, info: &RelayInfo) -> Option<u64> {
        let most = info.max_limit.and_then(|max| usize::try_from(max).ok());
        let full = self.page >= FULL_PAGE.min(most.unwrap_or(PAGE)).min(PAGE);
        if !self.is_paged() || !full || self.stored >= limits.max_stored_events {
            return None;
        }
        // A page that holds nothing but its last second leaves that second behind.
        let next = match self.oldest < self.until {
            true => self.oldest,
            false => self.until.min(self.oldest).checked_sub(1)?,
        };
        let from = self.filters.first().and_then(|filter| filter.since);
        (from.is_none_or(|from| from.as_secs() <= next)).then_some(next)
    }

    fn begin_page(&mut self, until: u64) {
        (self.page, self.oldest, self.until) = (0, u64::MAX, until);
    }

    /// Builds the filters to send: after a gap only what may have been missed.
    fn request(&self, until: Option<u64>, limits: &RelayLimits, info: &RelayInfo) -> Vec<Filter> {
        let mut filters = self.filters.to_vec();
        if let Some(complete) = self.complete_until {
            let from = complete.saturating_sub(limits.resume_overlap_secs);
            for filter in &mut filters {
                let since = filter.since.map_or(0, |since| since.as_secs());
                filter.since = Some(from.max(since).into());
            }
        }
        if self.is_paged() {
            for filter in &mut filters {
                filter.limit = Some(PAGE.min(limits.max_stored_events));
                filter.until = match until {
                    Some(until) => Some(until.into()),
                    None => filter.until,
                };
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
            page: 0,
            oldest: u64::MAX,
            until: u64::MAX,
            retries: 0,
            complete_until: None,
        };
        self.table.insert(generation, subscription);
    }

    /// Removes the one called `id`; returns its wire name if the relay has it open.
    pub fn remove(&mut self, id: &str) -> Option<String> {
        let found = self.table.values().find(|s| *s.id == *id)?.generation;
        let removed = self.table.remove(&found)?;
        removed.is_open().then(|| removed.wire_id())
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
        let paged = self
            .table
            .values_mut()
            .find_map(|subscription| match subscription.state {
                State::PageDue(until) => Some((subscription, until)),
                _ => None,
            });
        if let Some((subscription, until)) = paged {
            subscription.state = State::Paging;
            subscription.begin_page(until);
            return Some(Request {
                wire_id: format!("{PAGES}{}", subscription.generation),
                filters: subscription.request(Some(until), limits, info),
            });
        }
        let open = self.table.values().filter(|s| s.is_open()).count() as u64;
        if info.max_subscriptions.is_some_and(|max| open >= max) {
            return None;
        }
        let due = |s: &&mut Subscription| matches!(s.state, State::Due(at) if at <= now);
        let subscription = self.table.values_mut().find(due)?;
        subscription.state = State::Storing;
        subscription.stored = 0;
        subscription.begin_page(u64::MAX);
        Some(Request {
            wire_id: subscription.wire_id(),
            filters: subscription.request(None, limits, info),
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

    /// Notes the end of stored events, or of a page of older ones.
    pub fn eose(&mut self, wire_id: &str, limits: &RelayLimits, info: &RelayInfo) -> Eose {
        let older = wire_id.starts_with(PAGES);
        let Some(subscription) = self.by_wire_id(wire_id) else {
            return Eose::More;
        };
        let awaited = match subscription.state {
            State::Storing => !older,
            State::Paging => older,
            _ => false,
        };
        if !awaited {
            return Eose::More;
        }
        subscription.retries = 0;
        if let Some(until) = subscription.next_page(limits, info) {
            subscription.state = State::PageDue(until);
            return Eose::More;
        }
        subscription.state = State::Live;
        Eose::Done {
            id: subscription.id.clone(),
            close: older.then(|| wire_id.to_owned()),
        }
    }

    /// Notes that the relay gives no more pages; returns the caller's name.
    pub fn page_closed(&mut self, wire_id: &str) -> Option<Arc<str>> {
        let subscription = self.by_wire_id(wire_id)?;
        if subscription.state != State::Paging {
            return None;
        }
        subscription.state = State::Live;
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

/// What the name of the pages of a subscription begins with.
const PAGES: char = 'p';

/// Whether a name is one of pages.
pub fn is_pages(wire_id: &str) -> bool {
    wire_id.starts_with(PAGES)
}

fn parse_wire_id(wire_id: &str) -> Option<u64> {
    wire_id.strip_prefix(['f', PAGES])?.parse().ok()
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

        let done = table.eose("f7", &RelayLimits::default(), &RelayInfo::default());
        let id = "listings".into();
        assert_eq!(done, Eose::Done { id, close: None });
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
