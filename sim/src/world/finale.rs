//! What the checkers are shown of whole nodes: disks from time to time, books and lists in the end.

use super::{Via, World};
use crate::check::Seen;
use crate::event::NodeIx;
use crate::node::Node;
use crate::relay::share_relay;
use protocol::ids::{EffectId, NodeKey};
use protocol::message;
use protocol::route::Delivery;

impl World {
    /// Shows the checkers every disk.
    pub(super) fn survey(&mut self) {
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let invoices = self.wallets.payable(node, self.now);
                let store = std::mem::take(&mut self.nodes[node].store);
                self.see(Seen::Stored {
                    node,
                    store: &store,
                    invoices,
                });
                self.nodes[node].store = store;
            }
        }
    }

    /// The books and the lists are asked for.
    pub(super) fn audit(&mut self) {
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let id = EffectId(u64::MAX);
                self.post(
                    node,
                    Via::User,
                    Delivery::Payment(message::payment::Input::Report { id }),
                    0,
                );
                self.post(
                    node,
                    Via::User,
                    Delivery::Discovery(message::discovery::Input::List { id }),
                    0,
                );
            }
        }
    }

    /// What only the end shows.
    pub(super) fn close(&mut self) {
        let purchases = std::mem::take(&mut self.purchases);
        for ((node, request), purchase) in &purchases {
            self.see(Seen::Bought {
                node: *node,
                request: *request,
                purchase,
            });
        }
        for node in 0..self.nodes.len() {
            if self.up(node) {
                let result = self.answered.get(&node).cloned();
                let result = result.unwrap_or_else(|| Err("nothing was asked".to_owned()));
                let why = result.clone().err().unwrap_or_default();
                self.see(Seen::Served {
                    node,
                    answered: result.is_ok(),
                    why: &why,
                });
            }
        }
        self.watch_total();
    }

    pub(crate) fn watch_total(&mut self) {
        let (now, before) = (self.wallets.total(), self.total);
        self.see(Seen::Total { now, before });
    }

    /// Author keys of all listings that a node ought to know now.
    pub(crate) fn expected_hosts(&self, by: NodeIx) -> Vec<NodeKey> {
        let relays = self.relays.len();
        let listed = |(index, node): &(NodeIx, &Node)| {
            let lists = node.machines.is_some() && !node.withdrawn && node.participant.sells();
            lists && share_relay(by, *index, relays)
        };
        let hosts = self.nodes.iter().enumerate().filter(listed);
        hosts.map(|(_, node)| node.participant.key).collect()
    }
}
