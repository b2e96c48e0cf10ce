//! The place of the onion transport: arti behind non-generic functions.
//!
//! Empty so far, with the feature `tor` and without it: a node cannot yet listen
//! on or dial an onion address. The network port is ready for it: it takes a
//! further transport (`Network::start_with`) and can leave TCP and QUIC out.
