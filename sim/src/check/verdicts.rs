//! Honest validators convict no honest host, and acquit no lie that they replayed.
//!
//! And honest nodes blame no honest node for what only a dishonest one does.

use super::{Checker, Facts, Seen};
use crate::node::AnyEffect;
use protocol::ids::OrderId;
use protocol::message::sibling::Message;
use protocol::message::validator::Effect;
use protocol::offence::OffenceKind;
use protocol::wire::bundle::{AuditFrame, Tier, Verdict};
use protocol::wire::order::{Finish, Frame, Receipt};
use std::collections::{BTreeMap, BTreeSet};

/// How an answer is cut.
const CUT: &str = "the host ends the answer early";

/// The cap has no room for one unit more: an answer that is cut there, by a receipt that says so,
/// has ended anyway.
fn is_spent(facts: &Facts, order: OrderId) -> bool {
    let book = facts.index.of_id(order).next();
    book.is_some_and(|(_, book)| book.cost(book.delivered + 1) + book.carried > book.max_cost)
}

/// The judge of verdicts.
#[derive(Default)]
pub struct Verdicts {
    lies: BTreeMap<OrderId, u64>,
    forged: BTreeMap<OrderId, &'static str>,
    /// Why output ended, as the receipt says that reached the buyer.
    ends: BTreeMap<OrderId, Finish>,
    /// Countersigned.
    receipts: BTreeSet<OrderId>,
}

impl Verdicts {
    /// Without a receipt that the buyer took, there is no evidence that the cut answer was all.
    fn is_proved(&self, facts: &Facts, order: OrderId) -> bool {
        let spent = self.ends.get(&order) == Some(&Finish::Budget) && is_spent(facts, order);
        self.receipts.contains(&order) && !spent
    }

    fn judge(&self, facts: &Facts, verdict: &Verdict) -> Option<String> {
        let order = verdict.id;
        if verdict.finding.convicts() {
            let host = facts.by_key(&verdict.host)?;
            let honest = facts.participants.get(host)?.honest();
            return honest.then(|| {
                format!(
                    "honest host {host} is convicted over order {}: {:?}",
                    order.short(),
                    verdict.finding
                )
            });
        }
        let replayed = verdict.tier == Tier::ExactReplay && verdict.tokens > 0;
        if let Some(how) = self.forged.get(&order)
            && replayed
            && (*how != CUT || self.is_proved(facts, order))
            && verdict.finding == protocol::wire::bundle::Finding::Honest
        {
            return Some(format!(
                "{how} in order {} and a replay called it honest",
                order.short()
            ));
        }
        let from = self.lies.get(&order)?;
        let seen = verdict.tier == Tier::ExactReplay && verdict.tokens > *from;
        let honest = verdict.finding == protocol::wire::bundle::Finding::Honest;
        (seen && honest).then(|| {
            format!(
                "order {} lies from token {from} on and a replay called it honest",
                order.short()
            )
        })
    }
}

impl Checker for Verdicts {
    fn name(&self) -> &'static str {
        "fair-verdicts"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Lies { order, from } => {
                self.lies.insert(*order, *from);
                None
            }
            Seen::Forged { order } => {
                self.forged.insert(*order, "the host shows other text");
                None
            }
            Seen::Cut { order } => {
                self.forged.insert(*order, CUT);
                None
            }
            Seen::Arrived {
                stream,
                frame: Frame::Receipt(signed),
                ..
            } => {
                let (_, book) = facts.index.on(*stream)?;
                let receipt = super::index::body::<Receipt>(signed)?;
                self.ends.insert(book.id, receipt.finish);
                None
            }
            Seen::Arrived {
                stream,
                frame: Frame::Countersigned(_),
                ..
            } => {
                let (_, book) = facts.index.on(*stream)?;
                self.receipts.insert(book.id);
                None
            }
            Seen::Emitted {
                node,
                effect: AnyEffect::Validator(effect),
                ..
            } => {
                let own = facts.participants.get(*node).filter(|own| own.honest())?;
                match effect {
                    // Another's verdict is shown as another's.
                    Effect::Report {
                        result: Ok(verdict),
                        ..
                    } if verdict.validator == own.key => self.judge(facts, verdict),
                    Effect::Reply { verdict, .. } => self.judge(facts, verdict),
                    Effect::Answer { frame, .. } => match frame.as_ref() {
                        AuditFrame::Verdict(signed) => {
                            self.judge(facts, &super::index::body::<Verdict>(signed)?)
                        }
                        _ => None,
                    },
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The judge of accusations.
pub struct Blame;

impl Checker for Blame {
    fn name(&self) -> &'static str {
        "fair-blame"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Emitted { node, effect, .. } = seen else {
            return None;
        };
        let Some(Message::Offended(offence)) = effect.tell() else {
            return None;
        };
        let proof = matches!(
            offence.kind,
            OffenceKind::WrongAnswer
                | OffenceKind::WrongReceipt
                | OffenceKind::WrongCount
                | OffenceKind::FalseInput
                | OffenceKind::FalseText
                | OffenceKind::WrongInvoice
        );
        let accused = facts.by_key(&offence.by)?;
        let fair =
            !facts.participants.get(*node)?.honest() || !facts.participants.get(accused)?.honest();
        (proof && !fair).then(|| {
            format!(
                "honest node {node} holds {:?} against honest node {accused}: {}",
                offence.kind, offence.detail
            )
        })
    }
}
