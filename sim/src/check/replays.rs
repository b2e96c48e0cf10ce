//! A host acts upon an order once, also across a crash.
//!
//! Every order has a salt of its own, and the first thing that a host does with
//! one that it admitted is to have its prompt counted under that salt.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::inference::io::Effect;
use std::collections::BTreeSet;

/// The judge.
#[derive(Default)]
pub struct Replays {
    acted: BTreeSet<(NodeIx, [u8; 16])>,
}

impl Checker for Replays {
    fn name(&self) -> &'static str {
        "no-replay"
    }

    fn see(&mut self, _facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Inference(Effect::CountPrompt { salt, .. }),
            ..
        } = seen
        else {
            return None;
        };
        let again = !self.acted.insert((*node, *salt));
        again.then(|| format!("host {node} acts twice upon the same signed order"))
    }
}
