//! Since when each channel can be used, and in earlier runs could not.
//!
//! What an earlier run may have begun to pay is known not to be under way only when the
//! channels say so that it could have gone through. A channel whose peer was away before the
//! payment began, and until that run ended, is none of them: a peer that never comes back
//! must not keep every other payment in doubt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ldk_node::ChannelDetails;
use parking_lot::Mutex;

use super::now_ms;
use super::store::Store;
use crate::ports::wallet::WalletError;

/// See the head of the file.
pub(super) struct Usable {
    store: Store,
    /// When this run began.
    opened: Instant,
    /// As the runs before left them: since when it could not be used; none, it could.
    before: HashMap<u128, Option<u64>>,
    /// Those that can be used now; the others as none.
    now: Mutex<HashMap<u128, Option<Instant>>>,
}

impl Usable {
    pub fn open(store: Store) -> Result<Self, WalletError> {
        Ok(Self {
            before: store.load_channels()?,
            now: Mutex::default(),
            opened: Instant::now(),
            store,
        })
    }

    /// Takes a look at the channels, and writes down what changed. Blocks.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn look(&self, channels: &[ChannelDetails]) -> Result<(), WalletError> {
        let one = |channel: &ChannelDetails| (channel.user_channel_id.0, channel.is_usable);
        self.look_at(&channels.iter().map(one).collect())
    }

    fn look_at(&self, channels: &HashMap<u128, bool>) -> Result<(), WalletError> {
        let mut now = self.now.lock();
        for (number, usable) in channels {
            let was = now.get(number).map(Option::is_some);
            if was == Some(*usable) {
                continue;
            }
            // What the last run wrote of a channel that is still away is the earlier time.
            let away = matches!(self.before.get(number), Some(Some(_)));
            if !(was.is_none() && !usable && away) {
                let away_ms = (!usable).then(now_ms);
                self.store.write_channel(*number, away_ms)?;
            }
            now.insert(*number, usable.then(Instant::now));
        }
        let closed = now.keys().filter(|number| !channels.contains_key(number));
        for number in closed.copied().collect::<Vec<_>>() {
            self.store.remove_channel(number)?;
            now.remove(&number);
        }
        Ok(())
    }

    /// Whether a payment that an earlier run began then may have gone through this channel.
    pub fn mattered(&self, channel: &ChannelDetails, began_ms: u64) -> bool {
        self.was_there(channel.user_channel_id.0, began_ms)
    }

    fn was_there(&self, number: u128, began_ms: u64) -> bool {
        !matches!(self.before.get(&number), Some(Some(away_ms)) if *away_ms < began_ms)
    }

    /// Whether this run is as old as that: what is to be said of closed channels comes by then.
    pub fn is_open_for(&self, span: Duration) -> bool {
        self.opened.elapsed() >= span
    }

    /// Whether a channel has been usable for that long without a break.
    pub fn is_for(&self, channel: &ChannelDetails, span: Duration) -> bool {
        let now = self.now.lock();
        let since = now.get(&channel.user_channel_id.0).copied().flatten();
        since.is_some_and(|since| since.elapsed() >= span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_whose_peer_was_away_before_a_payment_began_says_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Usable::open(Store::open(dir.path()).unwrap()).unwrap();
        let (mut early, mut late) = (0, 0);
        {
            let usable = open();
            usable.look_at(&[(1, true), (2, true)].into()).unwrap();
            early = early.max(now_ms());
            std::thread::sleep(Duration::from_millis(5));
            // The peer of the second one goes for good; then something is paid.
            usable.look_at(&[(1, true), (2, false)].into()).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            late = late.max(now_ms());
        }
        for _ in 0..2 {
            let usable = open();
            assert!(usable.was_there(1, late) && !usable.was_there(2, late));
            assert!(usable.was_there(2, early), "it could have gone through it");
            assert!(usable.was_there(3, late), "nothing is known of it");
            // Still away in this run, which changes nothing of what was.
            usable.look_at(&[(1, true), (2, false)].into()).unwrap();
        }
        // It comes back for a moment: what began meanwhile may have gone through it.
        open().look_at(&[(1, true), (2, true)].into()).unwrap();
        assert!(open().was_there(2, now_ms()));
        // Closed ones are forgotten.
        let usable = open();
        usable.look_at(&[(1, true), (2, true)].into()).unwrap();
        usable.look_at(&[(1, true)].into()).unwrap();
        assert_eq!(usable.store.load_channels().unwrap().len(), 1);
    }
}
