//! What one node's machines were given and what they wanted done, turn by turn.
//!
//! For shell conformance: the same machines under the real driver, given the same
//! turns, must have the same effects carried out in the same order. Not the trace,
//! which is a hash of the whole world.

use crate::event::NodeIx;
use crate::node::{AnyEffect, Machines};
use protocol::route::{Actor, Delivery};
use protocol::time::Now;

/// Turns kept of one node: a busy hour is some thousands.
const MAX_TURNS: usize = 1 << 20;

/// One turn of one machine.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Whose.
    pub actor: Actor,
    /// What both clocks of the node showed.
    pub now: Now,
    /// What came in; `None` where only what was due ran.
    pub input: Option<Delivery>,
    /// What the machine wanted done, in order.
    pub effects: Vec<AnyEffect>,
}

/// One run of a node, from a start to a crash or the end of the world.
pub struct Life {
    /// When it started.
    pub start: Now,
    /// The five as they were before the first turn.
    pub machines: Machines,
    /// Every turn, in the order of the world. The first of each machine is its start.
    pub turns: Vec<Turn>,
}

/// Writes down the turns of one node.
pub struct Recorder {
    node: NodeIx,
    lives: Vec<Life>,
    kept: usize,
}

impl Recorder {
    /// Records `node`.
    pub fn new(node: NodeIx) -> Self {
        Recorder {
            node,
            lives: Vec::new(),
            kept: 0,
        }
    }

    /// The node that is recorded.
    pub fn node(&self) -> NodeIx {
        self.node
    }

    /// A run begins; `machines` equal those that run.
    pub fn start(&mut self, start: Now, machines: Machines) {
        self.lives.push(Life {
            start,
            machines,
            turns: Vec::new(),
        });
    }

    /// A turn of any node; others are passed over.
    pub fn turn(
        &mut self,
        node: NodeIx,
        actor: Actor,
        now: Now,
        input: Option<Delivery>,
        effects: &[AnyEffect],
    ) {
        let Some(life) = self.lives.last_mut().filter(|_| node == self.node) else {
            return;
        };
        assert!(self.kept < MAX_TURNS, "record a shorter world");
        self.kept += 1;
        life.turns.push(Turn {
            actor,
            now,
            input,
            effects: effects.to_vec(),
        });
    }

    /// The runs.
    pub fn lives(self) -> Vec<Life> {
        self.lives
    }
}
