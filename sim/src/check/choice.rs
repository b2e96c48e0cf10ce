//! What is ordered is what was asked for, and not from who was found to lie.

use super::index::{body, envelope};
use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use protocol::ids::{ModelDigest, NodeKey, OrderId, RequestId};
use protocol::message::inference::{BuyRequest, ModelSelector};
use protocol::message::sibling::Message;
use protocol::wire::envelope::Signed;
use protocol::wire::order::{Frame, Order};
use std::collections::{BTreeMap, BTreeSet};

/// Order and signed frame of a buyer, as it leaves.
fn ordered<'a>(seen: &Seen<'a>) -> Option<(NodeIx, NodeIx, &'a Signed)> {
    match seen {
        Seen::Sent {
            from,
            to,
            frame: Frame::Order(signed),
            ..
        } => Some((*from, *to, signed)),
        _ => None,
    }
}

/// The judge of wishes.
#[derive(Default)]
pub struct Wishes {
    wishes: BTreeMap<(NodeIx, RequestId), BuyRequest>,
    orders: BTreeMap<(NodeIx, OrderId), RequestId>,
}

fn fits(wanted: &ModelSelector, model: &ModelDigest) -> bool {
    match wanted {
        ModelSelector::Any => true,
        ModelSelector::Digest(digest) => digest == model,
        ModelSelector::Name(name) => *name == format!("model-{}", model.short()),
    }
}

impl Checker for Wishes {
    fn name(&self) -> &'static str {
        "wish-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Wished { node, wish } => {
                self.wishes.insert((*node, wish.request), (*wish).clone());
                return None;
            }
            Seen::Emitted { node, effect, .. } => {
                if let Some(Message::Bind { request, order, .. }) = effect.tell() {
                    self.orders.insert((*node, *order), *request);
                }
                return None;
            }
            _ => {}
        }
        let (node, to, signed) = ordered(seen)?;
        let order = body::<Order>(signed)?;
        let request = self.orders.get(&(node, OrderId::of(&signed.digest())))?;
        let wish = self.wishes.get(&(node, *request))?;
        if !facts.participants.get(node)?.honest() {
            return None;
        }
        if !fits(&wish.model, &order.model) {
            return Some(format!(
                "node {node} orders another model of host {to} than was asked for"
            ));
        }
        if order.mode != wish.mode {
            return Some(format!(
                "node {node} orders in payment mode {:?} where {:?} was asked for",
                order.mode, wish.mode
            ));
        }
        if wish
            .host
            .is_some_and(|host| facts.by_key(&host) != Some(to))
        {
            return Some(format!(
                "node {node} orders from host {to}, another was asked for"
            ));
        }
        let (cap, wished) = (order.max_cost.0, wish.max_cost.0);
        (cap > wished).then(|| {
            format!("node {node} orders with a cap of {cap} msat where {wished} was asked for")
        })
    }
}

/// Choices made before a verdict came may still be under way so long after it. Milliseconds.
const UNDER_WAY_MS: u64 = 180_000;
/// What a node held against a host so shortly before a crash may be lost. Milliseconds.
const LOST_MS: u64 = 10_000;

/// The judge of trust in liars.
#[derive(Default)]
pub struct Shunned {
    held: BTreeMap<(NodeIx, NodeKey), u64>,
    /// Requests that name their host: who names a liar has it.
    named: BTreeSet<(NodeIx, RequestId)>,
    orders: BTreeSet<(NodeIx, OrderId)>,
}

impl Checker for Shunned {
    fn name(&self) -> &'static str {
        "liars-shunned"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Wished { node, wish } => {
                if wish.host.is_some() {
                    self.named.insert((*node, wish.request));
                }
                None
            }
            Seen::Emitted { node, effect, .. } => {
                let host = match effect.tell()? {
                    Message::Bind { request, order, .. } => {
                        if self.named.contains(&(*node, *request)) {
                            self.orders.insert((*node, *order));
                        }
                        return None;
                    }
                    Message::Offended(offence) if offence.kind.is_objective() => offence.by,
                    _ => return None,
                };
                facts.by_key(&host)?;
                self.held.entry((*node, host)).or_insert(facts.now_ms);
                None
            }
            Seen::Crashed { node } => {
                let lost = |at: u64| at + LOST_MS > facts.now_ms;
                self.held.retain(|(who, _), at| who != node || !lost(*at));
                None
            }
            _ => {
                let (node, to, signed) = ordered(seen)?;
                let order = OrderId::of(&signed.digest());
                if self.orders.contains(&(node, order)) {
                    return None;
                }
                // A node may list other keys than its own.
                let host = envelope(signed)?.to?;
                let since = self.held.get(&(node, host))?;
                let honest = facts.participants.get(node)?.honest();
                (honest && since + UNDER_WAY_MS < facts.now_ms).then(|| {
                    format!("node {node} orders of host {to}, which it found to lie at {since} ms")
                })
            }
        }
    }
}
