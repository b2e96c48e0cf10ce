//! Switches that turn an honest relay into a bad one.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::watch;

/// What a forging relay serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forgery {
    /// Nothing but the truth.
    #[default]
    None,
    /// Every event with a wrong signature; id and content as sent.
    BrokenSignature,
    /// Every event with other content under the same id and signature.
    AlteredContent,
    /// Before the true answer one validly signed event that no filter of the
    /// subscription asked for; live events go to all subscriptions.
    OffFilter,
}

const FORGERIES: [Forgery; 4] = [
    Forgery::None,
    Forgery::BrokenSignature,
    Forgery::AlteredContent,
    Forgery::OffFilter,
];

/// The switches of one relay; all off at start.
#[derive(Debug, Default)]
pub struct Faults {
    drop_events: AtomicBool,
    forgery: AtomicU8,
    silent_after_eose: AtomicBool,
    refuse_connections: AtomicBool,
    hangups: watch::Sender<u64>,
}

impl Faults {
    /// Answers every EVENT with OK true and forgets it.
    pub fn set_drop_events(&self, on: bool) {
        self.drop_events.store(on, Ordering::Relaxed);
    }

    /// Lies in what it serves, stored and live.
    pub fn set_forgery(&self, forgery: Forgery) {
        self.forgery.store(forgery as u8, Ordering::Relaxed);
    }

    /// After a connection's first EOSE says nothing more on it (it still reads).
    pub fn set_silent_after_eose(&self, on: bool) {
        self.silent_after_eose.store(on, Ordering::Relaxed);
    }

    /// Answers new connections with HTTP 503.
    pub fn set_refuse_connections(&self, on: bool) {
        self.refuse_connections.store(on, Ordering::Relaxed);
    }

    /// Cuts all open connections now, without a closing handshake.
    pub fn close_connections(&self) {
        self.hangups.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn drops_events(&self) -> bool {
        self.drop_events.load(Ordering::Relaxed)
    }

    pub(super) fn forgery(&self) -> Forgery {
        let number = usize::from(self.forgery.load(Ordering::Relaxed));
        FORGERIES.get(number).copied().unwrap_or_default()
    }

    pub(super) fn is_silent_after_eose(&self) -> bool {
        self.silent_after_eose.load(Ordering::Relaxed)
    }

    pub(super) fn refuses_connections(&self) -> bool {
        self.refuse_connections.load(Ordering::Relaxed)
    }

    pub(super) fn hangups(&self) -> watch::Receiver<u64> {
        self.hangups.subscribe()
    }
}
