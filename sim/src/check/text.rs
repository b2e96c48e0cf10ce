//! What a user reads: what the host signed, all of it, and no more than its tokens can be.

use super::{Checker, Facts, Seen};
use crate::engine::word_of;
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::crypto::tagged_hash;
use protocol::ids::{Digest, OrderId, RequestId};
use protocol::message::inference::{BuyerEvent, Effect};
use protocol::message::sibling::Message;
use protocol::wire::chain::ChainedToken;
use protocol::wire::order::Frame;
use std::collections::BTreeMap;

/// Most bytes of text that a token may be.
const BYTES_PER_TOKEN: usize = 4 << 10;
/// Pieces of output without a token: the end of an answer.
const EMPTY: usize = 2;

fn shown<'a>(seen: &Seen<'a>) -> Option<(NodeIx, RequestId, &'a BuyerEvent)> {
    match seen {
        Seen::Emitted {
            node,
            effect: AnyEffect::Inference(Effect::Deliver { request, event }),
            ..
        } => Some((*node, *request, event)),
        _ => None,
    }
}

/// An order as it came over the wire.
#[derive(Default)]
struct Came {
    head: [u8; 32],
    text: Vec<u8>,
    units: u64,
    shown: Vec<u8>,
}

impl Came {
    /// The chain of tokens, computed here again.
    fn push(&mut self, token: &ChainedToken) {
        self.head = tagged_hash(
            "freehold/chain/n",
            &[
                &self.head,
                &token.id.to_le_bytes(),
                &token.logits.0,
                &[u8::from(token.piece.control)],
                &token.piece.bytes,
            ],
        )
        .0;
        self.units += 1;
        if !token.piece.control {
            self.text.extend_from_slice(&token.piece.bytes);
        }
    }
}

/// The judge of what is shown.
#[derive(Default)]
pub struct Shown {
    requests: BTreeMap<(NodeIx, RequestId), OrderId>,
    came: BTreeMap<(NodeIx, OrderId), Came>,
}

impl Shown {
    fn output(&mut self, node: NodeIx, id: OrderId, text: &str) -> Option<String> {
        let came = self.came.get_mut(&(node, id))?;
        came.shown.extend_from_slice(text.as_bytes());
        // What is no text is shown as a mark in its place.
        let plain = came.text.is_ascii();
        (plain && !came.text.starts_with(&came.shown)).then(|| {
            format!(
                "node {node} shows other words than came for order {}",
                id.short()
            )
        })
    }

    fn arrived(
        &mut self,
        facts: &Facts,
        (from, to): (NodeIx, NodeIx),
        (order, id): (Digest, OrderId),
        frame: &Frame,
    ) -> Option<String> {
        let came = self.came.entry((to, id)).or_default();
        match frame {
            Frame::Terms(signed) => {
                let terms = signed.digest();
                came.head = tagged_hash("freehold/chain/0", &[&order.0, &terms.0]).0;
                None
            }
            Frame::Chunk(chunk) => {
                chunk.tokens.iter().for_each(|token| came.push(token));
                let spoken = |token: &&ChainedToken| {
                    let bytes = &token.piece.bytes;
                    !bytes.is_empty() && *bytes != word_of(token.id).into_bytes()
                };
                let honest = facts.participants.get(from)?.honest();
                let other = chunk.tokens.iter().find(spoken).filter(|_| honest)?;
                Some(format!(
                    "honest host {from} says {:?} for token {}",
                    String::from_utf8_lossy(&other.piece.bytes),
                    other.id
                ))
            }
            _ => None,
        }
    }
}

impl Checker for Shown {
    fn name(&self) -> &'static str {
        "text-true"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Arrived {
                from,
                to,
                stream,
                frame,
                ..
            } => {
                let (order, book) = facts.index.on(*stream)?;
                let (order, id) = (*order, book.id);
                return self.arrived(facts, (*from, *to), (order, id), frame);
            }
            Seen::Emitted { node, effect, .. } => {
                if let Some(Message::Bind { request, order, .. }) = effect.tell() {
                    self.requests.insert((*node, *request), *order);
                    return None;
                }
            }
            _ => return None,
        }
        let (node, request, event) = shown(seen)?;
        let id = *self.requests.get(&(node, request))?;
        if !facts.participants.get(node)?.honest() {
            return None;
        }
        match event {
            BuyerEvent::Output { text, .. } => self.output(node, id, text),
            BuyerEvent::Finished { receipt, .. } => {
                let came = self.came.get(&(node, id))?;
                let what = if came.text.is_ascii() && came.text != came.shown {
                    "not all that came is shown"
                } else if receipt.head.0 != came.head {
                    "the receipt is signed under other tokens or text"
                } else if receipt.counts.delivered() != came.units {
                    "the receipt counts other tokens"
                } else {
                    return None;
                };
                Some(format!("node {node}, order {}: {what}", id.short()))
            }
            _ => None,
        }
    }
}

/// The judge of how much is shown.
#[derive(Default)]
pub struct Bounded {
    sums: BTreeMap<(NodeIx, RequestId), (usize, usize, usize)>,
}

impl Checker for Bounded {
    fn name(&self) -> &'static str {
        "text-bounded"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let (node, request, event) = shown(seen)?;
        let BuyerEvent::Output { text, tokens, .. } = event else {
            return None;
        };
        let (bytes, units, empty) = self.sums.entry((node, request)).or_default();
        *bytes += text.len();
        *units += tokens.len();
        *empty += usize::from(tokens.is_empty());
        let over = *bytes > *units * BYTES_PER_TOKEN || *empty > EMPTY;
        let honest = facts.participants.get(node)?.honest();
        (over && honest).then(|| {
            format!("node {node} takes {bytes} bytes of text and {empty} empty pieces for {units} tokens")
        })
    }
}
