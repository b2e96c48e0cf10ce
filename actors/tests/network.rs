//! The libp2p port over real sockets on loopback: streams, hostile peers,
//! lookup, gossip, start and end.
//!
//! Nothing here sleeps: every wait is for a condition and has a bound.

#[path = "network/hostile.rs"]
mod hostile;
#[path = "network/overlay.rs"]
mod overlay;
#[path = "network/strangers.rs"]
mod strangers;
#[path = "network/streams.rs"]
mod streams;

use actors::ports::network::{
    Config, FramedStream, Identity, Multiaddr, Network, NetworkEvent, NetworkHandle, Protocol,
};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Far above what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

type Events = Receiver<NetworkEvent>;

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("the wait has a bound")
}

fn secret(number: u8) -> Identity {
    Identity::from_secret([number; 32]).unwrap()
}

async fn start(config: Config, identity: Identity) -> (NetworkHandle, Events) {
    within(Network::start(config, identity)).await.unwrap()
}

async fn server(number: u8, listen: &str) -> (NetworkHandle, Events) {
    let config = Config::serving("regtest", vec![listen.parse().unwrap()]);
    start(config, secret(number)).await
}

async fn client() -> (NetworkHandle, Events) {
    start(Config::client("regtest"), Identity::ephemeral()).await
}

async fn open(from: &NetworkHandle, to: &NetworkHandle, protocol: Protocol) -> FramedStream {
    from.open(protocol, to.local_addresses(), PATIENCE)
        .await
        .unwrap()
}

/// The next event for which `pick` has an answer.
async fn event<T>(events: &mut Events, mut pick: impl FnMut(NetworkEvent) -> Option<T>) -> T {
    within(async {
        loop {
            let event = events.recv().await.expect("the network runs");
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    })
    .await
}

async fn inbound(events: &mut Events) -> FramedStream {
    event(events, |event| match event {
        NetworkEvent::Stream(stream) => Some(stream),
        _ => None,
    })
    .await
}

/// Sends every frame of every stream back until the peer has finished.
fn echo(mut events: Events) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let NetworkEvent::Stream(mut stream) = event {
                tokio::spawn(async move {
                    while let Ok(Some(frame)) = stream.next().await {
                        if stream.send(&frame).await.is_err() {
                            return;
                        }
                    }
                    let _ = stream.finish().await;
                });
            }
        }
    })
}

fn bootstrap_at(handle: &NetworkHandle) -> Vec<Multiaddr> {
    handle.local_addresses()
}
