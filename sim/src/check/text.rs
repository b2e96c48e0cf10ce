//! What a user reads: what the tokens say, all of it, and no more than they can be worth.

use super::{Checker, Facts, Seen};
use crate::engine::word_of;
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{NodeKey, RequestId};
use protocol::inference::io::{BuyerEvent, Effect};
use protocol::route::Message;
use std::collections::BTreeMap;

/// Most bytes of text that a token is worth.
const BYTES_PER_TOKEN: usize = 1 << 10;
/// Bytes beside them.
const BYTES: usize = 16 << 10;

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

/// The judge of what is shown: an honest host's words, whole and unaltered.
#[derive(Default)]
pub struct Shown {
    hosts: BTreeMap<(NodeIx, RequestId), NodeKey>,
    units: BTreeMap<(NodeIx, RequestId), u64>,
}

impl Checker for Shown {
    fn name(&self) -> &'static str {
        "text-true"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        if let Seen::Emitted { node, effect, .. } = seen
            && let Some(Message::Bind { request, host, .. }) = effect.tell()
        {
            self.hosts.insert((*node, *request), *host);
            self.units.remove(&(*node, *request));
            return None;
        }
        let (node, request, event) = shown(seen)?;
        let host = facts.by_key(self.hosts.get(&(node, request))?)?;
        let honest = facts.people.get(node)?.honest() && facts.people.get(host)?.honest();
        match event {
            BuyerEvent::Output {
                text,
                tokens,
                attached,
                ..
            } => {
                *self.units.entry((node, request)).or_default() += tokens.len() as u64;
                let words: String = match attached.vectors.is_empty() {
                    true => tokens.iter().map(|id| word_of(*id)).collect(),
                    false => String::new(),
                };
                (honest && *text != words).then(|| {
                    format!("node {node} shows other words than honest host {host}'s tokens say")
                })
            }
            BuyerEvent::Finished { receipt, .. } => {
                let units = self.units.get(&(node, request)).copied().unwrap_or(0);
                let signed = receipt.counts.delivered();
                (honest && units != signed).then(|| {
                    format!("node {node} shows {units} tokens of {signed} in honest host {host}'s receipt")
                })
            }
            _ => None,
        }
    }
}

/// The judge of how much is shown.
#[derive(Default)]
pub struct Bounded {
    sums: BTreeMap<(NodeIx, RequestId), (usize, usize)>,
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
        let (bytes, units) = self.sums.entry((node, request)).or_default();
        *bytes += text.len();
        *units += tokens.len();
        let most = BYTES + *units * BYTES_PER_TOKEN;
        let over = *bytes > most && facts.people.get(node)?.honest();
        over.then(|| format!("node {node} holds {bytes} bytes of text for {units} tokens"))
    }
}
