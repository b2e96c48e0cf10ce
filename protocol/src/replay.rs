//! The replay window: remembers nonces for as long as their envelope could be accepted.
//!
//! Not a clock and not storage: it returns the record to persist, and is rebuilt
//! from the same records after a restart, so a restart opens no gap.

use crate::ids::NodeKey;
use crate::machine::{Record, Table};
use crate::time::WallTime;
use crate::wire::envelope::{Envelope, EnvelopeError};
use crate::{codec, limits};
use std::collections::BTreeMap;

/// Nonces seen within the window, by (signer, nonce), with the time they may be forgotten.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    seen: BTreeMap<(NodeKey, [u8; 16]), WallTime>,
}

impl ReplayWindow {
    /// Whether `envelope` was acted upon.
    pub fn knows(&self, envelope: &Envelope) -> bool {
        self.seen.contains_key(&(envelope.from, envelope.nonce))
    }

    /// Remembers `envelope`, and returns what must be durable before it is acted upon.
    ///
    /// # Errors
    /// When it was seen before, or when `most` are remembered.
    pub fn admit(
        &mut self,
        envelope: &Envelope,
        most: usize,
        now: WallTime,
    ) -> Result<Record, EnvelopeError> {
        let key = (envelope.from, envelope.nonce);
        if self.seen.contains_key(&key) {
            return Err(EnvelopeError::Replayed);
        }
        if self.seen.len() >= most {
            return Err(EnvelopeError::WindowFull);
        }
        // An envelope signed `window` in the future stays acceptable for two windows.
        let forget = now.after_ms(2 * limits::ENVELOPE_WINDOW_MS);
        self.seen.insert(key, forget);
        Ok(Record {
            table: Table::Nonces,
            key: storage_key(&key),
            value: Some(codec::encode(&forget)),
        })
    }

    /// Forgets what can no longer be accepted; returns the deletions to persist.
    pub fn prune(&mut self, now: WallTime) -> Vec<Record> {
        let due: Vec<_> = self
            .seen
            .iter()
            .filter(|(_, forget)| **forget < now)
            .map(|(key, _)| *key)
            .collect();
        due.into_iter()
            .map(|key| {
                self.seen.remove(&key);
                Record {
                    table: Table::Nonces,
                    key: storage_key(&key),
                    value: None,
                }
            })
            .collect()
    }

    /// Takes back one stored record.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) {
        let (Some(from), Some(nonce)) = (key.get(..32), key.get(32..48)) else {
            return;
        };
        let (Ok(from), Ok(nonce)) = (from.try_into(), nonce.try_into()) else {
            return;
        };
        if let Ok(forget) = codec::decode(value, 16) {
            self.seen.insert((NodeKey(from), nonce), forget);
        }
    }

    /// Returns how many nonces are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Returns whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

fn storage_key((from, nonce): &(NodeKey, [u8; 16])) -> Vec<u8> {
    [from.0.as_slice(), nonce.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::{MessageType, Network};

    const MOST: usize = limits::MAX_NONCES;

    fn envelope(nonce: u8) -> Envelope {
        Envelope {
            network: Network::Regtest,
            kind: MessageType::Order,
            version: 1,
            from: NodeKey([1; 32]),
            to: None,
            time: WallTime(0),
            nonce: [nonce; 16],
            body: Vec::new(),
            extensions: Vec::new(),
        }
    }

    #[test]
    fn a_nonce_is_refused_the_second_time_also_after_a_restart() {
        let mut window = ReplayWindow::default();
        let record = window.admit(&envelope(1), MOST, WallTime(0)).unwrap();
        assert_eq!(
            window.admit(&envelope(1), MOST, WallTime(0)),
            Err(EnvelopeError::Replayed)
        );
        let mut restarted = ReplayWindow::default();
        restarted.restore(&record.key, &record.value.unwrap());
        assert_eq!(
            restarted.admit(&envelope(1), MOST, WallTime(9)),
            Err(EnvelopeError::Replayed)
        );
        assert!(restarted.admit(&envelope(2), MOST, WallTime(9)).is_ok());
    }

    #[test]
    fn nonces_are_forgotten_only_when_their_envelope_is_too_old() {
        let mut window = ReplayWindow::default();
        window.admit(&envelope(1), MOST, WallTime(0)).unwrap();
        assert!(
            window
                .prune(WallTime(2 * limits::ENVELOPE_WINDOW_MS))
                .is_empty()
        );
        assert_eq!(
            window
                .prune(WallTime(2 * limits::ENVELOPE_WINDOW_MS + 1))
                .len(),
            1
        );
        assert!(window.is_empty());
    }
}
