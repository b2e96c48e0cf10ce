//! One batch through the layers, launch by launch, as `model::forward` computes it.
//!
//! Buffers have been made large enough before ([`Work::fit`]): launches that are recorded
//! here start later, so nothing may move between them. Called by `model`.

use super::CudaError;
use super::backend::Backend;
use super::frame::Frame;
use super::linear::{Choices, Stack};
use super::model::DeviceModel;
use super::split::Split;
use super::steps::{self, Batch};
use super::upload::{DeviceAttention, DeviceExperts, DeviceFeedForward, DeviceMlp, DeviceNorms};
use super::work::Work;
use crate::model::Graph;
use crate::model::graph::Layer;
use std::sync::Arc;

/// One batch on its way through the layers.
pub(super) struct Pass<'a> {
    /// What takes the launches.
    pub device: &'a Arc<dyn Backend>,
    pub model: &'a DeviceModel,
    pub g: &'a Graph,
    pub frame: &'a Frame,
}

impl Pass<'_> {
    /// All layers, and whether their result is finite.
    pub fn layers(&self, work: &mut Work) -> Result<(), CudaError> {
        for (layer, there) in self.g.layers.iter().zip(&self.model.layers) {
            self.attention(layer, &there.attention, work)?;
            match &there.feed_forward {
                DeviceFeedForward::Dense(mlp) => self.feed_forward(mlp, work)?,
                DeviceFeedForward::Experts(experts) => self.experts(experts, work)?,
            }
        }
        let (rows, width) = (self.frame.rows, self.g.width);
        steps::all_finite(self.device, &work.x, (rows, width), &mut work.finite)
    }

    fn attention(
        &self,
        layer: &Layer,
        there: &DeviceAttention,
        work: &mut Work,
    ) -> Result<(), CudaError> {
        let (device, rows, shape) = (self.device, self.frame.rows, &layer.attention.shape);
        self.before(&there.norms, &there.qkv, work)?;
        let pages = steps::Pages {
            all: &self.model.pages.data,
            page_len: self.model.pages.page_len,
        };
        let batch = Batch {
            frame: self.frame,
            words: &work.frame,
        };
        let (qkv, heads) = (&mut work.wide, &there.heads);
        steps::heads(device, shape, heads, self.g.epsilon, qkv, &pages, &batch)?;
        let (n, needs) = (shape.query_len(), there.output.needs());
        // Attention writes plain rows; they are quantised from there.
        let out = &mut work.input.plain;
        match Split::suits(self.frame, self.model.heads()) {
            true => {
                let split = &work.split;
                split.attention(device, shape, heads, qkv, &pages, &batch, out)?;
            }
            false => steps::attention(device, shape, heads, qkv, &pages, &batch, out)?,
        }
        steps::quantise(device, &mut work.input, (rows, n), needs)?;
        self.after(&there.norms, &there.output, work)
    }

    fn feed_forward(&self, there: &DeviceMlp, work: &mut Work) -> Result<(), CudaError> {
        self.before(&there.norms, &there.gate_up, work)?;
        let (needs, size) = (there.down.needs(), (self.frame.rows, there.down.k));
        let into = (&mut work.input, needs);
        steps::gated(self.device, there.activation, &work.wide, size, into)?;
        self.after(&there.norms, &there.down, work)
    }

    /// As `model::forward::experts`, each choice by itself.
    fn experts(&self, e: &DeviceExperts, work: &mut Work) -> Result<(), CudaError> {
        let (device, rows, width) = (self.device, self.frame.rows, self.g.width);
        let needs = e.router.needs().and(e.gate_up.needs());
        let into = (&mut work.input, needs);
        steps::rms_norm(device, &work.x, rows, &e.norms.before, self.g.epsilon, into)?;
        e.router
            .product(device, &work.input, rows, &mut work.router)?;
        let (size, into) = (
            (rows, e.count, e.used),
            (&mut work.chosen, &mut work.weights),
        );
        steps::route(device, &work.router, size, e.scale, into)?;
        // `route` chooses among `e.count` experts, which is what the stacks hold.
        let choices = |sharing| Choices {
            chosen: &work.chosen,
            count: rows * e.used,
            sharing,
        };
        let wide = &mut work.wide;
        e.gate_up
            .product_of_chosen(device, &work.input, &choices(e.used), wide)?;
        let (needs, size) = (e.down.needs(), (rows * e.used, e.down.k));
        steps::gated(device, e.activation, wide, size, (&mut work.input, needs))?;
        let made = &mut work.made;
        e.down
            .product_of_chosen(device, &work.input, &choices(1), made)?;
        steps::combine(
            device,
            made,
            &work.weights,
            (rows, e.used, width),
            &mut work.out,
        )?;
        self.finish(&e.norms, work)
    }

    /// The norm of the residual stream through a part's first matrices, into `wide`.
    fn before(&self, norms: &DeviceNorms, stack: &Stack, work: &mut Work) -> Result<(), CudaError> {
        let (device, rows, needs) = (self.device, self.frame.rows, stack.needs());
        let into = (&mut work.input, needs);
        steps::rms_norm(device, &work.x, rows, &norms.before, self.g.epsilon, into)?;
        stack.product(device, &work.input, rows, &mut work.wide)
    }

    /// A part's last matrix, and its result into the residual stream.
    fn after(&self, norms: &DeviceNorms, stack: &Stack, work: &mut Work) -> Result<(), CudaError> {
        stack.product(self.device, &work.input, self.frame.rows, &mut work.out)?;
        self.finish(norms, work)
    }

    /// A part's result, in `out`, into the residual stream.
    fn finish(&self, norms: &DeviceNorms, work: &mut Work) -> Result<(), CudaError> {
        let (device, rows, width) = (self.device, self.frame.rows, self.g.width);
        if let Some(weight) = &norms.after {
            steps::rms_norm_in_place(device, &mut work.out, rows, weight, self.g.epsilon)?;
        }
        steps::residual(device, &mut work.x, &work.out, rows * width)
    }
}
