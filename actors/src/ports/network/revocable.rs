//! Inbound connections that can be given up before they have proved a key.
//!
//! The swarm itself can only refuse the newest. [`super::admission`] decides which one goes; this
//! is what lets it.

use super::Multiaddr;
use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, Aborted, Map};
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What gives up the connection that came last: the swarm asks about it before it takes another.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest(Arc<Mutex<Option<(Multiaddr, AbortHandle)>>>);

impl Latest {
    pub(super) fn put(&self, from: &Multiaddr, handle: AbortHandle) {
        *self.0.lock() = Some((from.clone(), handle));
    }

    /// That of the connection from this address, if it came last.
    pub(super) fn take(&self, from: &Multiaddr) -> Option<AbortHandle> {
        let latest = self.0.lock().take();
        latest
            .filter(|(came, _)| came == from)
            .map(|(_, handle)| handle)
    }
}

/// See the head of the file.
pub(super) struct Revocable<T> {
    inner: T,
    latest: Latest,
}

impl<T> Revocable<T> {
    pub(super) fn new(inner: T, latest: Latest) -> Self {
        Self { inner, latest }
    }
}

type Upgraded<O> = Result<io::Result<O>, Aborted>;
type Upgrade<T> = Map<
    Abortable<<T as Transport>::ListenerUpgrade>,
    fn(Upgraded<<T as Transport>::Output>) -> io::Result<<T as Transport>::Output>,
>;

fn given_up<O>(upgraded: Upgraded<O>) -> io::Result<O> {
    upgraded.unwrap_or_else(|Aborted| Err(io::Error::other("it gave way to a newer connection")))
}

impl<T: Transport<Error = io::Error> + Unpin> Transport for Revocable<T> {
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade<T>;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let this = &mut *self;
        let latest = &this.latest;
        let give_up: fn(Upgraded<T::Output>) -> io::Result<T::Output> = given_up;
        Pin::new(&mut this.inner).poll(cx).map(|event| {
            let from = match &event {
                TransportEvent::Incoming { send_back_addr, .. } => Some(send_back_addr.clone()),
                _ => None,
            };
            event.map_upgrade(|upgrade| {
                let (handle, registration) = AbortHandle::new_pair();
                if let Some(from) = from {
                    latest.put(&from, handle);
                }
                Abortable::new(upgrade, registration).map(give_up)
            })
        })
    }
}
