//! The owner's limits hold: per day and per key, routing fees included.
//!
//! A payment counts against the day on which its node planned it.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::{OrderId, PaymentHash, RequestId};
use protocol::message::payment::{Effect, Input};
use protocol::route::Delivery;
use std::collections::BTreeMap;

const DAY_MS: u64 = 86_400_000;

/// The judge.
#[derive(Default)]
pub struct Budgets {
    requests: BTreeMap<(NodeIx, RequestId), String>,
    orders: BTreeMap<(NodeIx, OrderId), String>,
    planned: BTreeMap<PaymentHash, (u64, String)>,
    spent: BTreeMap<(NodeIx, u64, String), u64>,
}

impl Budgets {
    fn settled(
        &mut self,
        facts: &Facts,
        node: NodeIx,
        hash: &PaymentHash,
        msat: u64,
    ) -> Option<String> {
        let (day, key) = self.planned.get(hash)?.clone();
        *self.spent.entry((node, day, key.clone())).or_default() += msat;
        let limits = &facts.participants.get(node)?.limits;
        let of_day = self
            .spent
            .iter()
            .filter(|((who, when, _), _)| *who == node && *when == day);
        let whole: u64 = of_day.map(|(_, sum)| sum).sum();
        if whole > limits.per_day.0 {
            return Some(format!(
                "node {node} spent {whole} msat in a day, its limit is {}",
                limits.per_day.0
            ));
        }
        let of_key = self
            .spent
            .get(&(node, day, key.clone()))
            .copied()
            .unwrap_or(0);
        let limit = limits.per_key.get(&key)?.0;
        (of_key > limit).then(|| {
            format!("node {node} spent {of_key} msat of budget {key}, its limit is {limit}")
        })
    }
}

impl Checker for Budgets {
    fn name(&self) -> &'static str {
        "budgets-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Handed {
                node,
                delivery: Delivery::Payment(input),
            } => {
                match input {
                    Input::Reserve {
                        request, budget, ..
                    } => {
                        self.requests.insert((*node, *request), budget.clone());
                    }
                    Input::Bind { request, order, .. } => {
                        let key = self
                            .requests
                            .get(&(*node, *request))
                            .cloned()
                            .unwrap_or_default();
                        self.orders.insert((*node, *order), key);
                    }
                    _ => {}
                }
                None
            }
            Seen::Emitted {
                node,
                wall,
                effect: AnyEffect::Payment(Effect::Pay { hash, .. }),
            } => {
                let (_, book) = facts.index.paid_by(hash)?;
                let key = self
                    .orders
                    .get(&(*node, book.id))
                    .cloned()
                    .unwrap_or_default();
                self.planned.insert(*hash, (wall.0 / DAY_MS, key));
                None
            }
            Seen::Settled {
                payer,
                hash,
                msat,
                fee,
                ..
            } => self.settled(facts, *payer, hash, msat + fee),
            _ => None,
        }
    }
}
