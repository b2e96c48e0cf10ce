//! What one peer, one address and all strangers together may have of an honest node for nothing.
//!
//! A part of `strangers-bounded`. Who opened a stream is what the world says when it opens it,
//! whatever a machine makes of it. Two spans of counting touch any minute, and in each there may
//! be one less than the bound of what ended unpaid, and what is open at once beside it. A quota of
//! an hour is full at the begin of an hour at most, and refills once in it.

use super::{Facts, Seen};
use crate::event::NodeIx;
use crate::node::{AnyEffect, NETWORK};
use protocol::ids::{Caller, Digest, StreamId};
use protocol::limits;
use protocol::message::inference::{Effect, Input};
use protocol::message::validator::{Effect as CheckEffect, Input as CheckInput};
use protocol::route::Delivery;
use protocol::validator::Config;
use protocol::wire::bundle::AuditFrame;
use protocol::wire::order::{Frame, Terms};
use std::collections::{BTreeMap, VecDeque};

const HOUR_MS: u64 = 3_600_000;

/// What is counted, and who it is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Counted([u8; 16]),
    Offered([u8; 16]),
    Lent([u8; 16]),
    LentToAll,
    CheckedOfPeer([u8; 16]),
    CheckedOfAddress([u8; 16]),
    CheckedOfAll,
}

/// When something happened, and with which order.
type Times = VecDeque<(u64, Option<Digest>)>;

/// The counts.
#[derive(Default)]
pub struct Callers {
    /// By the end at the node that was called.
    callers: BTreeMap<StreamId, Caller>,
    /// The stream on which a node was last handed an order.
    ordered: BTreeMap<NodeIx, StreamId>,
    happened: BTreeMap<(NodeIx, What), Times>,
}

/// What may happen in a minute of which so many end unpaid in a span, and so many are open at once.
fn in_a_minute(void: u32, open: usize) -> usize {
    2 * (void as usize - 1 + open)
}

/// Whether nothing was paid for an order, nor ever by its key at that host.
fn unpaid(facts: &Facts, digest: &Digest) -> bool {
    facts.index.orders.get(digest).is_none_or(|book| {
        let key = facts.index.keys.get(&(book.host, book.key));
        book.settled == 0 && key.is_none_or(|key| key.paid == 0)
    })
}

impl Callers {
    /// Counts what is seen; says what is too much.
    pub fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Crashed { node } => {
                // What it counted in memory is gone with it.
                self.happened.retain(|(at, _), _| at != node);
                None
            }
            Seen::Handed { node, delivery } => {
                match delivery {
                    Delivery::Inference(Input::Inbound { stream, caller })
                    | Delivery::Validator(CheckInput::AuditAsked { stream, caller, .. }) => {
                        self.callers.insert(*stream, *caller);
                    }
                    Delivery::Inference(Input::Received { stream, frame })
                        if matches!(frame.as_ref(), Frame::Order(_)) =>
                    {
                        self.ordered.insert(*node, *stream);
                    }
                    _ => {}
                }
                None
            }
            Seen::Emitted {
                node,
                effect: AnyEffect::Inference(Effect::CountPrompt { .. }),
                ..
            } => self.counted(facts, *node),
            Seen::Performed {
                node,
                effect: AnyEffect::Inference(Effect::Send { stream, frame }),
                ..
            } => match frame.as_ref() {
                Frame::Terms(signed) => {
                    let terms = super::index::body::<Terms>(signed)?;
                    self.offered(facts, *node, *stream, &terms)
                }
                _ => None,
            },
            Seen::Performed {
                node,
                effect: AnyEffect::Validator(CheckEffect::Answer { stream, frame }),
                ..
            } => match frame.as_ref() {
                AuditFrame::Verdict(_) => self.checked(facts, *node, *stream),
                _ => None,
            },
            _ => None,
        }
    }

    /// Orders that a key without a payment may have on a free quota, beside the others, in a
    /// minute.
    fn free(facts: &Facts, node: NodeIx) -> Option<usize> {
        let participant = facts.participants.get(node).filter(|one| one.honest())?;
        let in_an_hour = limits::FREE_QUOTAS_PER_ADDRESS as usize;
        Some(match participant.limits.free_quota.0 {
            0 => 0,
            _ => in_an_hour + in_an_hour.div_ceil(60),
        })
    }

    /// A node had the prompt of an order counted.
    fn counted(&mut self, facts: &Facts, node: NodeIx) -> Option<String> {
        let free = Self::free(facts, node)?;
        let stream = *self.ordered.get(&node)?;
        let caller = *self.callers.get(&stream)?;
        let (digest, _) = facts.index.on(stream)?;
        let most = in_a_minute(limits::MAX_VOID_PER_MINUTE, limits::MAX_UNPAID_PER_PEER);
        let what = What::Counted(caller.peer.0);
        let text = "orders of one peer and minute that nobody paid for";
        self.at_most(facts, node, what, Some(*digest), (text, most + free))
    }

    /// A node offered terms.
    fn offered(
        &mut self,
        facts: &Facts,
        node: NodeIx,
        stream: StreamId,
        terms: &Terms,
    ) -> Option<String> {
        let free = Self::free(facts, node)?;
        let caller = *self.callers.get(&stream)?;
        let (digest, _) = facts.index.on(stream)?;
        if terms.entry.is_some() {
            let open = limits::MAX_UNPAID_PER_ADDRESS;
            let most = in_a_minute(limits::MAX_VOID_PER_ADDRESS, open) + free;
            let what = What::Offered(caller.address.0);
            let text = "entries offered to one address in a minute that nobody paid for";
            return self.at_most(facts, node, what, Some(*digest), (text, most));
        }
        if terms.window.0 == 0 || !unpaid(facts, digest) {
            return None;
        }
        let lent = [
            (
                What::Lent(caller.address.0),
                "free quotas of one address in an hour",
                limits::FREE_QUOTAS_PER_ADDRESS,
            ),
            (
                What::LentToAll,
                "free quotas in an hour",
                limits::FREE_QUOTAS,
            ),
        ];
        let most = |in_an_hour: u32| 2 * in_an_hour as usize;
        lent.into_iter()
            .map(|(what, text, bound)| self.at_most(facts, node, what, None, (text, most(bound))))
            .fold(None, Option::or)
    }

    /// A node judged a bundle for somebody.
    fn checked(&mut self, facts: &Facts, node: NodeIx, stream: StreamId) -> Option<String> {
        facts.participants.get(node).filter(|one| one.honest())?;
        let caller = self.callers.remove(&stream)?;
        let config = Config::new(NETWORK);
        let checks = [
            (
                What::CheckedOfPeer(caller.peer.0),
                "checks for one peer in an hour",
                config.free_checks_per_peer,
            ),
            (
                What::CheckedOfAddress(caller.address.0),
                "checks for one address in an hour",
                config.free_checks_per_address,
            ),
            (
                What::CheckedOfAll,
                "checks for strangers in an hour",
                config.free_checks,
            ),
        ];
        let most = |in_an_hour: u32| 2 * in_an_hour as usize;
        checks
            .into_iter()
            .map(|(what, text, bound)| self.at_most(facts, node, what, None, (text, most(bound))))
            .fold(None, Option::or)
    }

    /// One more; what is older than its span, or was paid for, does not count.
    fn at_most(
        &mut self,
        facts: &Facts,
        node: NodeIx,
        what: What,
        digest: Option<Digest>,
        (text, most): (&str, usize),
    ) -> Option<String> {
        let span = match what {
            What::Counted(_) | What::Offered(_) => limits::ORDER_SWEEP_MS,
            _ => HOUR_MS,
        };
        let happened = self.happened.entry((node, what)).or_default();
        happened.push_back((facts.now_ms, digest));
        while happened
            .front()
            .is_some_and(|(at, _)| at + span <= facts.now_ms)
        {
            happened.pop_front();
        }
        if happened.len() <= most {
            return None;
        }
        let free = happened
            .iter()
            .filter(|(_, digest)| digest.is_none_or(|digest| unpaid(facts, &digest)));
        let count = free.count();
        (count > most).then(|| format!("node {node} has {count} {text}, {most} at most"))
    }
}
