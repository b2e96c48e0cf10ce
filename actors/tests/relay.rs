//! The Nostr port against real websocket relays.
//!
//! `exchange` holds for any relay: it runs against the lab's, or against the one named by
//! `FREEHOLD_RELAY_URL` (see `tests/thirdparty/nostr_relay.sh`). `faults` needs the lab
//! relay's switches, `hostile` a relay that is scripted line by line, `spam` what strangers leave on an
//! honest one; all are local.

#[path = "relay/exchange.rs"]
mod exchange;
#[path = "relay/faults.rs"]
mod faults;
#[path = "relay/hostile.rs"]
mod hostile;
#[path = "relay/spam.rs"]
mod spam;
#[path = "relay/support.rs"]
mod support;
