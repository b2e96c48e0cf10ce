//! A host acts upon an order once, also across a crash.
//!
//! An order begins when its engine does. One that began is not even counted again: every order
//! has a salt of its own, under which its host has the prompt counted. What was neither paid for
//! nor accepted on credit has no effect, and may come again.

use super::{Checker, Facts, Seen};
use crate::event::NodeIx;
use crate::node::AnyEffect;
use protocol::message::inference::Effect;
use std::collections::BTreeSet;

/// The judge.
#[derive(Default)]
pub struct Replays {
    began: BTreeSet<(NodeIx, [u8; 16])>,
}

impl Checker for Replays {
    fn name(&self) -> &'static str {
        "no-replay"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Performed {
            node,
            effect: AnyEffect::Inference(effect),
            ..
        } = seen
        else {
            return None;
        };
        let again = match effect {
            Effect::CountPrompt { salt, .. } => self.began.contains(&(*node, *salt)),
            Effect::StartEngine { order, .. } => {
                let salt = facts.index.at(*node, order)?.salt;
                !self.began.insert((*node, salt))
            }
            _ => return None,
        };
        again.then(|| format!("host {node} acts twice upon the same signed order"))
    }
}
