//! Counting what peers do, so that a flood of offences is no flood of events.

use super::super::bounds::{GOSSIP_AUTHORS, GOSSIP_SEQUENCES, GOSSIP_WINDOW, REPORT_INTERVAL};
use super::{Misbehaviour, PeerId};
use libp2p::swarm::ConnectionError;
use rand::Rng;
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::mem::{Discriminant, discriminant};
use tokio::time::Instant;

/// Offenders remembered at once; beyond it the oldest reports are forgotten.
const OFFENDERS: usize = 1024;

/// See the head of the file.
#[derive(Default)]
pub(super) struct Policing {
    reported: HashMap<(PeerId, Discriminant<Misbehaviour>), Instant>,
    gossip: HashMap<PeerId, u32>,
    gossip_since: Option<Instant>,
    /// The highest number of each author on each topic.
    sequences: HashMap<(PeerId, String), u64>,
}

impl Policing {
    /// Whether this offence is worth an event now.
    pub(super) fn may_report(&mut self, peer: PeerId, kind: &Misbehaviour, now: Instant) -> bool {
        let key = (peer, discriminant(kind));
        if let Some(last) = self.reported.get(&key)
            && now.duration_since(*last) < REPORT_INTERVAL
        {
            return false;
        }
        if self.reported.len() >= OFFENDERS {
            self.reported
                .retain(|_, last| now.duration_since(*last) < REPORT_INTERVAL);
        }
        if self.reported.len() >= OFFENDERS {
            self.reported.clear();
        }
        self.reported.insert(key, now);
        true
    }

    /// Counts a message; returns how many its author signed in this window. Where as many authors
    /// are counted as can be, one of them, drawn by lot, is forgotten: keys are free, and many of
    /// them must not take away the word from everybody else.
    pub(super) fn count_gossip(&mut self, author: PeerId, now: Instant) -> u32 {
        let since = *self.gossip_since.get_or_insert(now);
        if now.duration_since(since) >= GOSSIP_WINDOW {
            self.gossip.clear();
            self.gossip_since = Some(now);
        }
        if self.gossip.len() >= GOSSIP_AUTHORS && !self.gossip.contains_key(&author) {
            let drawn = rand::thread_rng().gen_range(0..self.gossip.len());
            if let Some(author) = self.gossip.keys().nth(drawn).copied() {
                self.gossip.remove(&author);
            }
        }
        let count = self.gossip.entry(author).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    /// Whether `number` is above all that `author` gave on this topic; then it is remembered.
    pub(super) fn is_next(&mut self, author: PeerId, topic: &str, number: u64) -> bool {
        let key = (author, topic.to_owned());
        if let Some(last) = self.sequences.get_mut(&key) {
            let next = number > *last;
            *last = number.max(*last);
            return next;
        }
        if self.sequences.len() >= GOSSIP_SEQUENCES {
            self.forget_lower_half();
        }
        self.sequences.insert(key, number);
        true
    }

    /// Numbers are times, and old ones are stale by themselves: what is forgotten first is needed
    /// least.
    fn forget_lower_half(&mut self) {
        let mut numbers: Vec<u64> = self.sequences.values().copied().collect();
        let middle = numbers.len() / 2;
        let (_, middle, _) = numbers.select_nth_unstable(middle);
        let middle = *middle;
        self.sequences.retain(|_, number| *number > middle);
    }
}

/// What a connection's end says about its peer: bytes that do not decrypt or
/// are no multiplexer frames come from a peer whose key was proved before.
pub(super) fn garbage(cause: &ConnectionError) -> Option<String> {
    let ConnectionError::IO(error) = cause else {
        return None;
    };
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        let invalid = io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        let inner = io.and_then(io::Error::get_ref);
        let muxer = inner.and_then(|error| error.downcast_ref::<yamux::ConnectionError>());
        if invalid || matches!(muxer, Some(yamux::ConnectionError::Decode(_))) {
            return Some(error.to_string());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_same_offence_is_reported_once_in_the_interval() {
        let mut policing = Policing::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        let many = Misbehaviour::TooManyStreams { open: 1 };
        let more = Misbehaviour::TooManyStreams { open: 2 };
        assert!(policing.may_report(peer, &many, now));
        assert!(!policing.may_report(peer, &more, now));
        assert!(policing.may_report(PeerId::random(), &many, now));
        assert!(policing.may_report(peer, &Misbehaviour::GossipFlood { messages: 1 }, now));
        assert!(policing.may_report(peer, &more, now + REPORT_INTERVAL));
    }

    #[test]
    fn what_is_remembered_of_offenders_is_bounded() {
        let mut policing = Policing::default();
        let now = Instant::now();
        for _ in 0..3 * OFFENDERS {
            policing.may_report(
                PeerId::random(),
                &Misbehaviour::TooManyStreams { open: 1 },
                now,
            );
        }
        assert!(policing.reported.len() <= OFFENDERS);
    }

    #[test]
    fn gossip_is_counted_per_author_and_window() {
        let mut policing = Policing::default();
        let (author, now) = (PeerId::random(), Instant::now());
        assert_eq!(policing.count_gossip(author, now), 1);
        assert_eq!(policing.count_gossip(author, now), 2);
        assert_eq!(policing.count_gossip(PeerId::random(), now), 1);
        let later = now + GOSSIP_WINDOW + Duration::from_secs(1);
        assert_eq!(policing.count_gossip(author, later), 1);
    }

    #[test]
    fn authors_without_end_shut_no_author_out_and_reset_few_counts() {
        let mut policing = Policing::default();
        let now = Instant::now();
        let known: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for author in &known {
            assert_eq!(policing.count_gossip(*author, now), 1);
        }
        // As many as there is room for, and a tenth more.
        for _ in 0..GOSSIP_AUTHORS - 100 + GOSSIP_AUTHORS / 10 {
            assert_eq!(policing.count_gossip(PeerId::random(), now), 1);
            assert!(policing.gossip.len() <= GOSSIP_AUTHORS);
        }
        let counted = known
            .iter()
            .filter(|author| policing.count_gossip(**author, now) == 2);
        // Some 10 of 100 are drawn; 50 by one chance in 10^20.
        assert!(counted.count() > 50);
    }

    #[test]
    fn a_number_counts_once_for_each_author_and_topic_and_memory_is_bounded() {
        let mut policing = Policing::default();
        let author = PeerId::random();
        assert!(policing.is_next(author, "a", 5) && policing.is_next(author, "b", 5));
        assert!(!policing.is_next(author, "a", 5) && !policing.is_next(author, "a", 4));
        assert!(policing.is_next(author, "a", 1_000_000));
        for number in 0..2 * GOSSIP_SEQUENCES as u64 {
            policing.is_next(PeerId::random(), "a", number);
            assert!(policing.sequences.len() <= GOSSIP_SEQUENCES);
        }
        assert!(!policing.is_next(author, "a", 1_000_000));
    }
}
