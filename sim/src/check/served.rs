//! Nobody pays an honest host's entry and is then not served, where nothing broke on the way.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{Digest, OrderId, RequestId};
use protocol::message::inference::{BuyerEvent, Effect, Input};
use protocol::message::sibling::Message;
use protocol::refusal::Code;
use protocol::route::Delivery;
use protocol::wire::order::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// A payment that settles this late before the end need not be known to the host. Milliseconds.
const UNKNOWN_MS: u64 = 1_000;

/// The judge.
#[derive(Default)]
pub struct PaidServed {
    entries: BTreeMap<Digest, u64>,
    excused: BTreeSet<Digest>,
    requests: BTreeMap<(NodeIx, RequestId), OrderId>,
}

impl PaidServed {
    fn excuse(&mut self, facts: &Facts, node: NodeIx) {
        // Orders without output are the recent ones.
        let touched = facts
            .index
            .of_node(node)
            .filter(|(_, book)| book.chunks == 0);
        self.excused.extend(touched.map(|(digest, _)| *digest));
    }

    /// The order ended with nothing delivered.
    fn unserved(&self, facts: &Facts, digest: &Digest, who: &str) -> Option<String> {
        let paid = *self.entries.get(digest)?;
        let book = facts.index.orders.get(digest)?;
        let honest = |node: NodeIx| facts.participants.get(node).is_some_and(|one| one.honest());
        let fair = honest(book.host) && honest(book.buyer) && !self.excused.contains(digest);
        let known = paid + UNKNOWN_MS < facts.now_ms;
        (fair && known && book.chunks == 0).then(|| {
            format!(
                "{who} ends order {} between {} and {}, whose entry was paid {} ms before, with nothing served",
                book.id.short(),
                book.buyer,
                book.host,
                facts.now_ms - paid
            )
        })
    }
}

impl Checker for PaidServed {
    fn name(&self) -> &'static str {
        "paid-served"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Settled { hash, .. } => {
                let (digest, seq) = facts.index.hashes.get(hash)?;
                if *seq == 0 {
                    self.entries.insert(*digest, facts.now_ms);
                }
                None
            }
            Seen::Crashed { node } | Seen::CutOff { node } | Seen::ClockSet { node, .. } => {
                self.excuse(facts, *node);
                None
            }
            Seen::Broken { stream } => {
                self.excused.extend(facts.index.streams.get(stream));
                None
            }
            Seen::Handed {
                delivery: Delivery::Inference(Input::EngineFailed { order, .. }),
                ..
            } => {
                let failed = facts.index.of_id(*order);
                self.excused.extend(failed.map(|(digest, _)| *digest));
                None
            }
            Seen::Sent {
                stream,
                frame: Frame::Cancel | Frame::Stop,
                ..
            } => {
                self.excused.extend(facts.index.streams.get(stream));
                None
            }
            Seen::Sent {
                stream,
                frame: Frame::Refusal(refusal),
                ..
            } => {
                let (digest, _) = facts.index.on(*stream)?;
                let who = format!("the host ({refusal})");
                self.unserved(facts, digest, &who)
            }
            Seen::Emitted { node, effect, .. } => {
                if let Some(Message::Bind { request, order, .. }) = effect.tell() {
                    self.requests.insert((*node, *request), *order);
                }
                let AnyEffect::Inference(Effect::Deliver {
                    request,
                    event: BuyerEvent::Failed(refusal),
                }) = effect
                else {
                    return None;
                };
                if refusal.code == Code::Cancelled {
                    return None;
                }
                let id = self.requests.get(&(*node, *request))?;
                let mut orders = facts.index.of_id(*id);
                let (digest, _) = orders.find(|(_, book)| book.buyer == *node)?;
                let who = format!("the buyer ({refusal})");
                self.unserved(facts, digest, &who)
            }
            _ => None,
        }
    }
}
