//! A host acts upon an order once, also across a crash.
//!
//! An order begins when its engine does. What was neither paid for nor accepted on credit has
//! no effect, and may come again.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::ids::OrderId;
use protocol::inference::io::Effect;
use std::collections::BTreeSet;

/// The judge.
#[derive(Default)]
pub struct Replays {
    acted: BTreeSet<(NodeIx, OrderId)>,
}

impl Checker for Replays {
    fn name(&self) -> &'static str {
        "no-replay"
    }

    fn see(&mut self, _facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Inference(Effect::StartEngine { order, .. }),
            ..
        } = seen
        else {
            return None;
        };
        let again = !self.acted.insert((*node, *order));
        again.then(|| format!("host {node} acts twice upon the same signed order"))
    }
}
