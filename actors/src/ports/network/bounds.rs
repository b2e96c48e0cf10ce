//! Every bound of the network port in one place: unit, value and reason.
//!
//! Not the bounds of the machines (those live in `protocol`). The ones that an
//! operator or a test may want to change are the defaults of [`Bounds`] and
//! [`Timing`]; the others are fixed.

use std::time::Duration;

/// Connections in all. A host talks to a few dozen buyers and to its overlay
/// neighbours; 256 leaves room and costs at most some 256 file descriptors.
pub const CONNECTIONS: u32 = 256;
/// Connections in one direction. Below [`CONNECTIONS`], so that strangers who
/// dial in cannot take the slots that our own dials need (eclipse attacks). Where
/// as many have dialled in, one without an order gives way: see `admission`.
pub const CONNECTIONS_ONE_WAY: u32 = 192;
/// Connections to one peer: a TCP and a QUIC one in each direction, which
/// happens when both sides dial at the same moment.
pub const CONNECTIONS_PER_PEER: u32 = 4;
/// Dials under way. Each may hold several sockets for up to the connect timeout.
pub const PENDING_DIALS: u32 = 32;
/// Inbound connections that have not proved their key yet, of all addresses. A socket and a few
/// kilobytes each, for [`Timing::connect`] at most. Beyond it the oldest gives way to the newest: an
/// honest one needs some round trips, a silent one all the time that it gets.
pub const PENDING_INBOUND: u32 = 256;
/// The same from one address (or /64 of IPv6, and twice as many from a /48): silent connections of
/// one machine must not shut out the others, and as many buyers may well come at once through one
/// router.
pub const PENDING_INBOUND_PER_ORIGIN: u32 = 16;
/// Connections from one address (or /64 of IPv6, and twice as many from a /48): an office behind one
/// router, and an eighth of all.
pub const CONNECTIONS_PER_ORIGIN: u32 = 32;
/// Inbound streams of one peer, of orders, and as many of audits and transfers: a buyer needs one
/// per order; an agent a few.
pub const INBOUND_STREAMS_PER_PEER: usize = 16;
/// Inbound streams of orders (and quotes) of all peers. What each may make us hold is a receive
/// window (256 KiB at first with yamux, which lets it grow where the peer's bytes are read) and what
/// the budgets below allow. Twice the orders that nobody paid for yet (`MAX_UNPAID`): among these
/// the machine makes room, and a stream that is not taken would never come to it.
pub const INBOUND_STREAMS: usize = 512;
/// The same of one address, or /48 of IPv6: four full peers, and an eighth of all.
pub const INBOUND_STREAMS_PER_ORIGIN: usize = 64;
/// Inbound streams of audits and of transfers of files, of all peers: what is asked for nothing has
/// no place of an order.
pub const INBOUND_SIDE_STREAMS: usize = 64;
/// The same of one address: eight audits wait at most, and two transfers.
pub const INBOUND_SIDE_STREAMS_PER_ORIGIN: usize = 16;
/// Streams beyond the bounds above that are told so instead of being reset: in all ...
pub const REFUSALS: usize = 64;
/// ... of one address ...
pub const REFUSALS_PER_ORIGIN: usize = 32;
/// ... and of one peer.
pub const REFUSALS_PER_PEER: usize = 16;
/// Our streams to one peer at once: fewer than it takes, for it learns of an end later than we do.
/// More wait for one to end.
pub const OUTBOUND_STREAMS_PER_PEER: usize = 12;
/// How long an open waits for one of them to end, before it is given up as our own doing.
pub const OUTBOUND_WAIT: Duration = Duration::from_secs(5);

/// Bytes of unfinished frames of all order streams beyond 64 KiB each: 64 of the largest.
pub const ORDER_ASSEMBLY_BYTES: usize = 64 << 20;
/// The same for audit streams: eight of the largest.
pub const AUDIT_ASSEMBLY_BYTES: usize = 64 << 20;
/// The same for all other streams.
pub const OTHER_ASSEMBLY_BYTES: usize = 32 << 20;
/// Opens that wait for a connection to one peer.
pub const PENDING_OPENS_PER_PEER: usize = 32;
/// Opens that wait for a connection, in all.
pub const PENDING_OPENS: usize = 256;
/// Events that wait for the consumer. Beyond it streams are refused and gossip
/// is dropped (and counted), since waiting would stall every other peer.
pub const EVENTS: usize = 256;
/// Commands that wait for the swarm; callers wait beyond it.
pub const COMMANDS: usize = 64;

/// Yamux streams of one connection: our streams in both directions plus a dozen
/// for the overlay protocols. A peer that opens more loses the connection.
pub const MUXED_STREAMS: usize = 128;
/// Inbound streams of one connection still agreeing on a protocol; they reach
/// no limit above before they have, and more wait. Twice what an honest
/// peer opens at once ([`OUTBOUND_STREAMS_PER_PEER`]), for the overlay's are among them.
pub const NEGOTIATING_STREAMS: usize = 32;
/// Streams of one TCP connection that wait to begin that, beyond those. Each may have come with a
/// window of 256 KiB.
pub const WAITING_STREAMS: usize = 4;
/// Bytes by which the windows of one TCP connection may grow together beyond 256 KiB a stream: a
/// stream that is read at once gets 12 MB/s at 100 ms.
pub const YAMUX_WINDOW_GROWTH: usize = 1 << 20;
/// Bytes of one QUIC stream in flight, which are what a peer makes us hold where its bytes are not
/// read: 10 MB/s at 100 ms. Frames are read in pieces and may be larger.
pub const QUIC_STREAM_WINDOW: u32 = 1 << 20;
/// Bytes of one QUIC connection in flight: two streams at full window. All connections of an address
/// make 64 MiB.
pub const QUIC_CONNECTION_WINDOW: u32 = 2 << 20;

/// Addresses taken from one peer's word, and from one `open`.
pub const ADDRESSES_PER_PEER: usize = 16;
/// Keys that this node announces: models and roles, not content.
pub const PROVIDED_KEYS: usize = 256;
/// Bytes of a key in the table (digests are 32).
pub const KEY_BYTES: usize = 64;
/// Keys kept on behalf of other peers.
pub const STORED_KEYS: usize = 4096;
/// Lookups under way; each holds a few streams for up to [`LOOKUP_TIMEOUT`].
pub const LOOKUPS: usize = 32;
/// Providers that one lookup returns at most.
pub const PROVIDERS: usize = 64;

/// Bytes of a gossip message with its envelope: a pulse is a few hundred.
pub const GOSSIP_BYTES: usize = 16 << 10;
/// Topics that this node follows.
pub const TOPICS: usize = 64;
/// Bytes of a topic's name.
pub const TOPIC_BYTES: usize = 128;
/// Topics that a neighbour may follow; more are ignored.
pub const TOPICS_PER_PEER: usize = 128;
/// Messages of one author in [`GOSSIP_WINDOW`]: a pulse a minute on each of a
/// host's models, and changes in between.
pub const GOSSIP_PER_AUTHOR: u32 = 120;
/// The span over which [`GOSSIP_PER_AUTHOR`] counts.
pub const GOSSIP_WINDOW: Duration = Duration::from_secs(60);
/// Authors whose messages are counted at once; beyond it one, drawn by lot, is forgotten.
pub const GOSSIP_AUTHORS: usize = 4096;
/// Pairs of author and topic whose last number is remembered; beyond it the lowest numbers go.
pub const GOSSIP_SEQUENCES: usize = 16_384;

/// One report of the same offence by the same peer in this span, so that a
/// flood of offences is no flood of events.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Agreeing on a protocol over an open connection: a few round trips over Tor.
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(20);
/// One lookup or announcement in the table.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Provider records are repeated this often, and ...
pub const PROVIDER_INTERVAL: Duration = Duration::from_secs(20 * 60);
/// ... die after this long: a host that left is forgotten within the hour.
pub const PROVIDER_TTL: Duration = Duration::from_secs(60 * 60);
/// How often a node without any connection dials its bootstrap peers again.
pub const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(20);
/// How long a connection without streams is kept.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// Pings tell a silent peer from a dead one; a round trip over Tor may take
/// many seconds.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// See [`PING_INTERVAL`].
pub const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long `start` waits for a listening socket.
pub const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `shutdown` waits for peers to take the last bytes.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks whether a closed socket is free again.
pub const PORT_PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// The bounds that an operator (or a test) may change.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// See [`CONNECTIONS`].
    pub connections: u32,
    /// See [`CONNECTIONS_PER_PEER`].
    pub connections_per_peer: u32,
    /// See [`CONNECTIONS_PER_ORIGIN`].
    pub connections_per_origin: u32,
    /// See [`PENDING_INBOUND_PER_ORIGIN`].
    pub pending_inbound_per_origin: u32,
    /// See [`PENDING_DIALS`].
    pub pending_dials: u32,
    /// See [`INBOUND_STREAMS`].
    pub inbound_streams: usize,
    /// See [`INBOUND_STREAMS_PER_PEER`].
    pub inbound_streams_per_peer: usize,
    /// See [`EVENTS`].
    pub events: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            connections_per_peer: CONNECTIONS_PER_PEER,
            connections_per_origin: CONNECTIONS_PER_ORIGIN,
            pending_inbound_per_origin: PENDING_INBOUND_PER_ORIGIN,
            pending_dials: PENDING_DIALS,
            inbound_streams: INBOUND_STREAMS,
            inbound_streams_per_peer: INBOUND_STREAMS_PER_PEER,
            events: EVENTS,
        }
    }
}

/// The time limits that an operator (or a test) may change.
#[derive(Debug, Clone)]
pub struct Timing {
    /// From the first packet to a proved key. Raise it to 60 s over Tor.
    pub connect: Duration,
    /// A stream on which nothing moves either way for this long is reset.
    /// `None`: never.
    pub idle: Option<Duration>,
    /// From the first byte of a frame to its last, when reading.
    pub frame: Duration,
    /// The same when writing: a peer that does not take a frame in this time
    /// is gone or hostile.
    pub write: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Some(Duration::from_secs(180)),
            frame: Duration::from_secs(120),
            write: Duration::from_secs(60),
        }
    }
}
