//! One payment per hash, ever; and what is unknown is never treated as failed or replaced.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{Digest, OrderId, PaymentHash};
use protocol::message::payment::Effect;
use protocol::message::sibling::Message;
use protocol::refusal::Code;
use std::collections::{BTreeMap, BTreeSet};

/// The judge of double payments.
#[derive(Default)]
pub struct Once {
    asked: BTreeSet<(NodeIx, PaymentHash)>,
}

impl Checker for Once {
    fn name(&self) -> &'static str {
        "paid-once"
    }

    fn see(&mut self, _facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Payment(Effect::Pay { hash, .. }),
            ..
        } = seen
        else {
            return None;
        };
        let again = !self.asked.insert((*node, *hash));
        again.then(|| format!("node {node} asks its wallet twice to pay {}", hash.short()))
    }
}

/// The judge of unknown fates.
#[derive(Default)]
pub struct Unknown {
    asked: BTreeMap<PaymentHash, NodeIx>,
    by_invoice: BTreeMap<(NodeIx, Digest, u32), PaymentHash>,
    by_id: BTreeMap<(NodeIx, OrderId, u32), PaymentHash>,
}

impl Checker for Unknown {
    fn name(&self) -> &'static str {
        "unknown-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Performed {
                node,
                effect: AnyEffect::Payment(Effect::Pay { hash, .. }),
                ..
            } => {
                self.asked.insert(*hash, *node);
                let (order, seq) = facts.index.hashes.get(hash)?;
                let id = facts.index.orders.get(order)?.id;
                self.by_id.insert((*node, id, *seq), *hash);
                let before = self.by_invoice.insert((*node, *order, *seq), *hash)?;
                let open = before != *hash && !facts.index.failed.contains(&before);
                open.then(|| {
                    format!(
                        "node {node} pays invoice {seq} of order {} by a second hash",
                        id.short()
                    )
                })
            }
            Seen::Emitted { node, effect, .. } => {
                let Some(Message::NotSettled {
                    order,
                    seq,
                    refusal,
                }) = effect.tell()
                else {
                    return None;
                };
                let hash = self.by_id.get(&(*node, *order, *seq))?;
                let open = self.asked.contains_key(hash) && !facts.index.failed.contains(hash);
                (refusal.code == Code::PaymentFailed && open).then(|| {
                    format!(
                        "node {node} takes payment {} for failed, and it is not",
                        hash.short()
                    )
                })
            }
            _ => None,
        }
    }
}
