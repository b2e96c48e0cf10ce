//! Which addresses mean the same to everybody.
//!
//! An address of a private network, of this machine or of a link means another machine to each
//! who reads it: told to others it leads nowhere, and dialled on a stranger's word it probes the
//! dialler's own network. So listings hold none ([`is_global`]), and a swarm dials none
//! ([`GlobalOnly`]) unless it is configured to, below the resolver, so that a name does not lead
//! there either. Networks for tests (regtest) live on such addresses.

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Suffixes of names that no public resolver answers (RFC 6761, 6762, 8375, 9476).
const LOCAL_NAMES: [&str; 7] = [
    "localhost",
    "local",
    "internal",
    "home.arpa",
    "lan",
    "test",
    "invalid",
];

/// Whether an address leads to the same machine from everywhere, as far as it can be told from the
/// address. A name is taken at its word here; what it resolves to is checked when it is dialled.
pub fn is_global(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => is_global_v4(ip),
        Some(Protocol::Ip6(ip)) => is_global_v6(ip),
        Some(
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name),
        ) => is_global_name(&name),
        Some(Protocol::Onion3(_)) => true,
        _ => false,
    }
}

fn is_global_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let local = |suffix: &&str| {
        name.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // A name of one label is resolved within somebody's own domain.
    name.contains('.') && !LOCAL_NAMES.iter().any(local)
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        // This network, shared (RFC 6598), IETF, benchmarks, reserved.
        (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) | (240..=255, ..)
    );
    !(special
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast())
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return is_global_v4(ip);
    }
    // Global unicast is 2000::/3, less documentation, and less what carries an IPv4 address to a
    // translator of the reader's own (6to4, Teredo).
    let [a, b, ..] = ip.segments();
    let carries = a == 0x2002 || (a, b) == (0x2001, 0);
    let documentation = (a, b) == (0x2001, 0xdb8) || (a == 0x3fff && b < 0x1000);
    a & 0xe000 == 0x2000 && !documentation && !carries
}

/// Dials only addresses that are global, and those of this machine's own configuration.
pub(super) struct GlobalOnly<T> {
    inner: T,
    /// Whose addresses the operator wrote down.
    configured: Arc<BTreeSet<IpAddr>>,
}

impl<T> GlobalOnly<T> {
    pub(super) fn new(inner: T, configured: &[Multiaddr]) -> Self {
        let configured = configured.iter().filter_map(first_ip).collect();
        Self {
            inner,
            configured: Arc::new(configured),
        }
    }
}

fn first_ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

impl<T: Transport + Unpin> Transport for GlobalOnly<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
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
        let configured = first_ip(&address).is_some_and(|ip| self.configured.contains(&ip));
        if !configured && !is_global(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(text: &str) -> bool {
        is_global(&text.parse().unwrap())
    }

    #[test]
    fn addresses_that_lead_elsewhere_for_each_reader_are_not_global() {
        for local in [
            "/ip4/127.0.0.1/tcp/9",
            "/ip4/10.1.2.3/tcp/9",
            "/ip4/172.17.0.1/udp/9/quic-v1",
            "/ip4/192.168.1.5/tcp/9",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/100.64.0.1/tcp/9",
            "/ip4/0.0.0.0/tcp/9",
            "/ip4/255.255.255.255/tcp/9",
            "/ip4/224.0.0.1/tcp/9",
            "/ip4/198.51.100.7/tcp/9",
            "/ip6/::1/tcp/9",
            "/ip6/::/tcp/9",
            "/ip6/fe80::1/tcp/9",
            "/ip6/fd00::1/tcp/9",
            "/ip6/2001:db8::1/tcp/9",
            "/ip6/::ffff:10.0.0.1/tcp/9",
            "/ip6/2002:a00:1::1/tcp/9",
            "/ip6/64:ff9b::a00:1/tcp/9",
            "/dns4/localhost/tcp/9",
            "/dns4/router/tcp/9",
            "/dns4/printer.local/tcp/9",
            "/dns/metadata.google.internal./tcp/9",
            "/memory/7",
        ] {
            assert!(!global(local), "{local}");
        }
    }

    #[test]
    fn public_addresses_names_and_onions_are_global() {
        let onion = format!("/onion3/{}:9", "a".repeat(56));
        for public in [
            "/ip4/8.8.8.8/tcp/9",
            "/ip4/100.128.0.1/tcp/9",
            "/ip6/2600::1/udp/9/quic-v1",
            "/ip6/::ffff:8.8.8.8/tcp/9",
            "/dns4/host.example.org/tcp/9",
            "/dns4/mylocal.example/tcp/9",
            &onion,
        ] {
            assert!(global(public), "{public}");
        }
    }
}
