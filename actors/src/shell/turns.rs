//! Turns at work that strangers ask for: so many at once, one for each address, and of those that
//! wait first who paid before, then whoever's address had one longest ago.

use parking_lot::Mutex;
use protocol::ids::AddressTag;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Hands turns out; clones share them.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<Queue>>);

struct Queue {
    /// How many more may have a turn now.
    free: usize,
    /// Turns handed out so far.
    handed: u64,
    /// Addresses of those that wait or have a turn.
    addresses: BTreeMap<AddressTag, Address>,
    /// Those that wait, as they came.
    waiting: Vec<Waiting>,
}

struct Waiting {
    address: AddressTag,
    /// Who asks paid before, and goes before those who did not.
    payer: bool,
    sender: oneshot::Sender<Turn>,
}

#[derive(Default)]
struct Address {
    busy: bool,
    /// The number of its last turn.
    last: u64,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    address: AddressTag,
}

impl Turns {
    /// So many at once.
    pub fn new(at_once: usize) -> Self {
        Turns(Arc::new(Mutex::new(Queue {
            free: at_once,
            handed: 0,
            addresses: BTreeMap::new(),
            waiting: Vec::new(),
        })))
    }

    /// Waits in line; a wait that is dropped leaves the line. Whoever calls stands in it when
    /// this returns, before the future is polled.
    pub fn take(
        &self,
        address: AddressTag,
        payer: bool,
    ) -> impl Future<Output = Option<Turn>> + Send + 'static {
        let (sender, turn) = oneshot::channel();
        {
            let mut queue = self.0.lock();
            queue.addresses.entry(address).or_default();
            queue.waiting.push(Waiting {
                address,
                payer,
                sender,
            });
        }
        self.hand_out();
        async move { turn.await.ok() }
    }

    fn hand_out(&self) {
        loop {
            let next = self.0.lock().next();
            let Some(Waiting {
                address, sender, ..
            }) = next
            else {
                return;
            };
            let turns = self.clone();
            // Where nobody waits for it any more it is given back at once.
            drop(sender.send(Turn { turns, address }));
        }
    }
}

impl Queue {
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|one| !one.sender.is_closed());
        self.forget();
        if self.free == 0 {
            return None;
        }
        let ready = |address: &AddressTag| self.addresses.get(address).filter(|one| !one.busy);
        let (index, _) = self
            .waiting
            .iter()
            .enumerate()
            .filter_map(|(index, one)| Some((index, (!one.payer, ready(&one.address)?.last))))
            .min_by_key(|(index, rank)| (*rank, *index))?;
        let next = self.waiting.remove(index);
        self.free -= 1;
        self.handed += 1;
        let last = self.handed;
        let taken = Address { busy: true, last };
        self.addresses.insert(next.address, taken);
        Some(next)
    }

    /// Nothing is kept of an address that neither waits nor has a turn.
    fn forget(&mut self) {
        let waiting = &self.waiting;
        self.addresses
            .retain(|tag, one| one.busy || waiting.iter().any(|waits| waits.address == *tag));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut queue = self.turns.0.lock();
            queue.free += 1;
            if let Some(address) = queue.addresses.get_mut(&self.address) {
                address.busy = false;
            }
        }
        self.turns.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn address(n: u8) -> AddressTag {
        AddressTag([n; 16])
    }

    #[test]
    fn an_address_has_one_turn_at_a_time_and_others_do_not_wait_behind_it() {
        let turns = Turns::new(2);
        let mut ours: Vec<_> = (0..5)
            .map(|_| turns.take(address(1), false).boxed())
            .collect();
        let first = ours.remove(0).now_or_never().flatten().unwrap();
        assert!(ours.remove(0).now_or_never().is_none(), "one at a time");
        let other = turns
            .take(address(2), false)
            .now_or_never()
            .flatten()
            .unwrap();
        assert!(
            turns.take(address(3), false).now_or_never().is_none(),
            "two in all"
        );
        drop((first, other));
        assert!(ours.remove(0).now_or_never().flatten().is_some());
    }

    #[test]
    fn whoever_comes_later_goes_before_the_second_of_another_address() {
        let turns = Turns::new(1);
        let mut ours: Vec<_> = (0..16)
            .map(|_| turns.take(address(1), false).boxed())
            .collect();
        let other = turns.take(address(2), false);
        let first = ours.remove(0).now_or_never().flatten().unwrap();
        drop(first);
        let turn = other.now_or_never().flatten().unwrap();
        assert!(ours[0].as_mut().now_or_never().is_none());
        drop(turn);
        assert!(ours[0].as_mut().now_or_never().flatten().is_some());
    }

    #[test]
    fn who_paid_before_goes_before_strangers_that_came_earlier() {
        let turns = Turns::new(1);
        let first = turns.take(address(1), false);
        let strangers: Vec<_> = (2..100).map(|n| turns.take(address(n), false)).collect();
        // One from an address of its own, one from where a stranger waits.
        let payers: Vec<_> = [200, 99].map(|n| turns.take(address(n), true)).into();
        let mut turn = first.now_or_never().flatten().unwrap();
        for payer in payers {
            drop(turn);
            turn = payer.now_or_never().flatten().unwrap();
        }
        drop(turn);
        let mut turns = strangers
            .into_iter()
            .map(|one| one.now_or_never().flatten());
        assert!(
            turns.next().unwrap().is_some(),
            "then strangers, as they came"
        );
        assert!(turns.all(|turn| turn.is_some()), "to the last");
    }

    #[test]
    fn who_waits_no_longer_leaves_the_line_and_nothing_is_kept_of_it() {
        let turns = Turns::new(1);
        let first = turns
            .take(address(1), false)
            .now_or_never()
            .flatten()
            .unwrap();
        let gone: Vec<_> = (2..100).map(|n| turns.take(address(n), false)).collect();
        let last = turns.take(address(100), false);
        drop(gone);
        drop(first);
        drop(last.now_or_never().flatten().unwrap());
        let queue = turns.0.lock();
        assert_eq!((queue.free, queue.waiting.len()), (1, 0));
        assert!(queue.addresses.len() <= 1, "{}", queue.addresses.len());
    }
}
