//! How a relay has been doing, for tables and for the choice of relays.
//!
//! Not a verdict on hosts, and nothing that decides about money. Written by a relay's own
//! task, read through the handle.

/// Where a relay's score starts: nothing is known.
const SCORE_START: u32 = 500;

/// The best score.
const SCORE_MAX: u32 = 1_000;

/// What is known of one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its address as configured.
    pub url: String,
    /// Whether a connection is open.
    pub connected: bool,
    /// 0 to 1000, starting at 500: rises with connections, answers and accepted events,
    /// falls with failures and, four times as fast, with offences.
    pub score: u32,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
    /// Round trip of the last ping, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Offences since the start.
    pub offences: u64,
    /// Events taken since the start, duplicates among relays not counted.
    pub events: u64,
}

/// What moves the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Connected.
    Connected,
    /// Answered a subscription to the end, or took an event.
    Served,
    /// A connection failed or broke.
    Failed,
    /// Misbehaved.
    Offended,
}

impl RelayStatus {
    /// Starts with nothing known.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connected: false,
            score: SCORE_START,
            last_error: None,
            latency_ms: None,
            offences: 0,
            events: 0,
        }
    }

    /// Counts a deed: good ones close a part of the distance to the top, bad ones take a
    /// part of what is there, so that the recent past weighs most.
    pub fn note(&mut self, deed: Deed) {
        let missing = SCORE_MAX.saturating_sub(self.score);
        self.score = match deed {
            Deed::Connected => self.score + missing / 16,
            Deed::Served => self.score + missing / 32,
            Deed::Failed => self.score - self.score / 16,
            Deed::Offended => self.score - self.score / 4,
        };
        if deed == Deed::Offended {
            self.offences += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_in_its_bounds_and_an_offence_outweighs_many_good_deeds() {
        let mut status = RelayStatus::new("wss://relay.example");
        for _ in 0..10_000 {
            status.note(Deed::Served);
        }
        assert!(status.score <= SCORE_MAX && status.score > 900);
        let before = status.score;
        status.note(Deed::Offended);
        (0..4).for_each(|_| status.note(Deed::Served));
        assert!(status.score < before);
        for _ in 0..10_000 {
            status.note(Deed::Failed);
            status.note(Deed::Offended);
        }
        assert!(status.score < 20);
    }
}
