//! Counting what peers do, so that a flood of offences is no flood of events.

use super::super::bounds::{GOSSIP_AUTHORS, GOSSIP_WINDOW, REPORT_INTERVAL};
use super::{Misbehaviour, PeerId};
use libp2p::swarm::ConnectionError;
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

    /// Counts a message; returns how many its author signed in this window.
    pub(super) fn count_gossip(&mut self, author: PeerId, now: Instant) -> u32 {
        let since = *self.gossip_since.get_or_insert(now);
        let over = now.duration_since(since) >= GOSSIP_WINDOW;
        if over || self.gossip.len() >= GOSSIP_AUTHORS {
            self.gossip.clear();
            self.gossip_since = Some(now);
        }
        let count = self.gossip.entry(author).or_insert(0);
        *count = count.saturating_add(1);
        *count
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
        let text = error.to_string();
        let invalid = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        // The multiplexer's own error type is not exported.
        if invalid || text.starts_with("decode error") {
            return Some(text);
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
}
