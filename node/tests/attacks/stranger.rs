//! A peer that knows no more of a host than its address and its listing: raw libp2p, and frames
//! written byte by byte. None of the node's own network code is in it.
//!
//! The bench of refused orders (`benches/flood.rs`) includes this file as well.
#![allow(dead_code, reason = "each of the two uses a part")]

use anyhow::{Context as _, Result, bail};
use futures::future::{self, BoxFuture};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{
    Boxed, DialOpts as DialOptions, ListenerId, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{Config, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Transport, identity, noise, quic, tcp, yamux};
use libp2p_stream as raw;
use protocol::codec;
use protocol::crypto::Secp;
use protocol::ids::{ModelDigest, NodeKey};
use protocol::money::Msat;
use protocol::time::WallTime;
use protocol::wire::envelope::{Network, Signed};
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Frame, Handling, Order, Path, Retention};
use protocol::work::{ChatMessage, Job, Sampling, Steering, Work};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// Streams of orders.
pub const ORDER: &str = "/freehold/order/1";
/// Streams of audits.
pub const AUDIT: &str = "/freehold/audit/1";
/// Streams of transfers of files.
pub const BLOB: &str = "/freehold/blob/1";
/// What no single step of a stranger takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest frame that a stranger reads.
const FRAME: usize = 1 << 20;

/// What a listing says of a host, and nothing else.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens (TCP), without the peer id.
    pub address: Multiaddr,
    /// The same for QUIC.
    pub quic: Option<Multiaddr>,
    /// Its peer id, from the same address.
    pub peer: PeerId,
    /// Its TCP port.
    pub port: u16,
    /// Its node key.
    pub node: NodeKey,
    /// A model that it sells.
    pub model: ModelDigest,
}

impl Target {
    /// Reads the addresses of a listing.
    pub fn listed(addresses: &[String], node: NodeKey, model: ModelDigest) -> Result<Self> {
        let tcp = addresses.iter().find(|text| text.contains("/tcp/"));
        let whole = tcp.context("no TCP address is listed")?;
        let (address, peer) = whole.rsplit_once("/p2p/").context("no peer id is listed")?;
        let port = address.rsplit('/').next().unwrap_or_default();
        let quic = addresses.iter().find(|text| text.contains("/quic-v1"));
        let quic = quic.and_then(|text| text.split("/p2p/").next());
        Ok(Target {
            address: address.parse()?,
            quic: quic.map(str::parse).transpose()?,
            peer: peer.parse()?,
            port: port.parse()?,
            node,
            model,
        })
    }
}

/// TCP that dials from one address of this machine. libp2p's own binds the port alone, and all of
/// loopback would be one address.
struct FromAddress(Ipv4Addr);

impl Transport for FromAddress {
    type Output = tcp::tokio::TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = future::Pending<io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        _: DialOptions,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let mut parts = address.iter();
        let (Some(Part::Ip4(ip)), Some(Part::Tcp(port))) = (parts.next(), parts.next()) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let from = SocketAddr::from((self.0, 0));
        Ok(Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(from)?;
            let connected = socket.connect(SocketAddr::from((ip, port))).await?;
            connected.set_nodelay(true)?;
            Ok(tcp::tokio::TcpStream(connected))
        }))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

/// A connection of a peer id that nobody saw before; dropping it closes it.
pub struct Stranger {
    opener: Opener,
    running: JoinHandle<()>,
}

/// Opens streams over a stranger's connection.
#[derive(Clone)]
pub struct Opener {
    control: raw::Control,
    host: PeerId,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Stranger {
    /// Connects from an address of this machine's loopback network.
    pub async fn from(address: Ipv4Addr, target: &Target) -> Result<Self> {
        Ok(Self::taking(ORDER, address, target).await?.0)
    }

    /// The same over QUIC.
    pub async fn over_quic(address: Ipv4Addr, target: &Target) -> Result<Self> {
        let to = target.quic.clone().context("no QUIC address is listed")?;
        // Connections go out from where one listens.
        let from = Some(format!("/ip4/{address}/udp/0/quic-v1"));
        let make = |key: &identity::Keypair| {
            let transport = quic::tokio::Transport::new(quic::Config::new(key));
            Ok(transport
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .boxed())
        };
        let connecting = Self::connect(ORDER, make, from, to, target.peer);
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(connected) => Ok(connected?.0),
            Err(_) => bail!("no connection in time"),
        }
    }

    /// The same, by one who takes streams of a protocol from the first moment.
    pub async fn taking(
        protocol: &'static str,
        address: Ipv4Addr,
        target: &Target,
    ) -> Result<(Self, raw::IncomingStreams)> {
        let make = |key: &identity::Keypair| {
            Ok(FromAddress(address)
                .upgrade(Version::V1)
                .authenticate(noise::Config::new(key)?)
                .multiplex(yamux::Config::default())
                .boxed())
        };
        let connecting = Self::connect(protocol, make, None, target.address.clone(), target.peer);
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(connected) => connected,
            Err(_) => bail!("no connection in time"),
        }
    }

    async fn connect(
        protocol: &'static str,
        make: impl FnOnce(&identity::Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>>,
        from: Option<String>,
        to: Multiaddr,
        host: PeerId,
    ) -> Result<(Self, raw::IncomingStreams)> {
        let key = identity::Keypair::generate_ed25519();
        let transport = make(&key)?;
        let settings = Config::with_tokio_executor();
        let me = key.public().to_peer_id();
        let mut swarm = Swarm::new(transport, raw::Behaviour::new(), me, settings);
        let mut control = swarm.behaviour().new_control();
        let incoming = control.accept(StreamProtocol::new(protocol))?;
        if let Some(from) = from {
            swarm.listen_on(from.parse()?)?;
            while !matches!(
                swarm.select_next_some().await,
                SwarmEvent::NewListenAddr { .. }
            ) {}
        }
        let dial = DialOpts::peer_id(host).addresses(vec![to]).build();
        swarm.dial(dial)?;
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => bail!("{error}"),
                _ => {}
            }
        }
        let running = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        let opener = Opener { control, host };
        Ok((Stranger { opener, running }, incoming))
    }

    /// Who opens streams over it.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// Opens a stream.
    pub async fn open(&mut self, protocol: &'static str) -> Result<libp2p::Stream> {
        self.opener.open(protocol).await
    }
}

impl Opener {
    /// Opens a stream.
    pub async fn open(&mut self, protocol: &'static str) -> Result<libp2p::Stream> {
        let opening = self
            .control
            .open_stream(self.host, StreamProtocol::new(protocol));
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => bail!("{error}"),
            Err(_) => bail!("no stream in time"),
        }
    }
}

/// Writes a frame: its length in four bytes, then itself.
pub async fn send(stream: &mut libp2p::Stream, frame: &[u8]) -> Result<()> {
    let length = u32::try_from(frame.len())?.to_be_bytes();
    stream.write_all(&[&length, frame].concat()).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads the bytes of a frame; `None` at the end mark.
pub async fn receive_bytes(stream: &mut libp2p::Stream) -> Result<Option<Vec<u8>>> {
    let reading = async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Ok(None);
        }
        let mut frame = vec![0; length.min(FRAME)];
        stream.read_exact(&mut frame).await?;
        Ok(Some(frame))
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read,
        Err(_) => bail!("no answer in time"),
    }
}

/// Reads a frame of an order stream; `None` at the end mark.
pub async fn receive(stream: &mut libp2p::Stream) -> Result<Option<Frame>> {
    let frame = receive_bytes(stream).await?;
    Ok(frame.map(|frame| Frame::decode(&frame)).transpose()?)
}

/// A key that nobody saw before.
pub fn fresh_key() -> Secp {
    loop {
        // Not every number is a key.
        if let Some(key) = Secp::from_secret(&rand::random()) {
            return key;
        }
    }
}

/// A well-formed job of one message.
pub fn job(content: &str) -> Job {
    Job {
        work: Work::Chat {
            messages: vec![ChatMessage {
                role: "user".to_owned(),
                content: content.to_owned(),
            }],
        },
        max_output: 16,
        sampling: Sampling::default(),
        seed: 1,
        stop: Vec::new(),
        date: "2026-11-20".to_owned(),
        steering: Steering::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

/// A signed order for `job`, encoded as a frame.
pub fn order(key: &Secp, target: &Target, model: ModelDigest, job: Job) -> Vec<u8> {
    let order = Order {
        model,
        job,
        max_cost: Msat(100_000),
        mode: PaymentMode::Metered,
        payment_grain: Msat(1),
        path: Path::Fast,
        retention: Retention::Keep,
        handling: Handling::Plain,
        salt: rand::random(),
        via: None,
        authority: Vec::new(),
        extensions: Vec::new(),
    };
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = WallTime(since.as_millis() as u64);
    let to = Some(target.node);
    let signed = Signed::seal(key, Network::Regtest, to, now, rand::random(), &order);
    codec::encode(&Frame::Order(signed))
}
