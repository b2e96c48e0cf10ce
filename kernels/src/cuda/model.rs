//! A model on a device: its weights, its cache pages, and one forward pass.
//!
//! Follows `model::forward` operation by operation. Embeddings, rope angles and other
//! things that depend on a position alone come from the CPU (a few kilobytes per
//! token); everything else stays on the device until the residual stream goes back.
//! One batch at a time.

use super::activations::{Activations, Needs};
use super::backend::{Backend, Buffer};
use super::frame::Frame;
use super::linear::Stack;
use super::pages::{DeviceCache, Pages};
use super::steps::{self, Batch};
use super::upload::{self, DeviceAttention, DeviceLayer, DeviceMlp, DeviceNorms, Output};
use super::{CudaError, Driver};
use crate::gguf::Gguf;
use crate::model::graph::Layer;
use crate::model::{DeviceChoice, Graph, Placement, Row};
use std::sync::{Arc, Mutex, PoisonError};

/// Device memory kept for buffers of a batch and for the driver itself; an eighth of
/// what may be used, where that is less.
const RESERVE: u64 = 768 << 20;
/// Contexts of pages that are allocated at most: more sequences than one card serves.
const MOST_CONTEXTS: usize = 256;

/// One model on one device.
pub(crate) struct DeviceModel {
    device: Arc<dyn Backend>,
    layers: Vec<DeviceLayer>,
    output: Output,
    pages: Arc<Pages>,
    work: Mutex<Work>,
}

/// Buffers of a batch; they grow and stay.
struct Work {
    frame: Buffer<u32>,
    x: Buffer<f32>,
    input: Activations,
    wide: Buffer<f32>,
    out: Buffer<f32>,
}

impl DeviceModel {
    /// The model on the device chosen; none on the CPU. With [`DeviceChoice::Auto`],
    /// also why the CPU it is.
    pub fn choose(
        file: &Gguf,
        graph: &Graph,
        placement: &Placement,
    ) -> Result<(Option<Self>, Option<CudaError>), CudaError> {
        let open = |ordinal| Self::upload(&Driver::open(ordinal)?, file, graph, placement.memory);
        match placement.device {
            DeviceChoice::Cpu => Ok((None, None)),
            DeviceChoice::Cuda(ordinal) => Ok((Some(open(ordinal)?), None)),
            DeviceChoice::Auto => match open(0) {
                Ok(model) => Ok((Some(model), None)),
                Err(reason) => {
                    tracing::warn!("computing on the CPU: {reason}");
                    Ok((None, Some(reason)))
                }
            },
        }
    }

    /// Upload a graph's weights and allocate pages within `budget` bytes (all that is
    /// free, where there is none).
    pub fn upload(
        device: &Arc<dyn Backend>,
        file: &Gguf,
        graph: &Graph,
        budget: Option<u64>,
    ) -> Result<Self, CudaError> {
        upload::check(graph)?;
        let before = device.memory()?.free;
        let limit = budget.map_or(before, |b| b.min(before));
        let reserve = RESERVE.min(limit / 8);
        let page = (graph.page_len() * 2) as u64;
        let needed = upload::bytes(file, graph) + page + reserve;
        if needed > limit {
            return Err(CudaError::Memory {
                needed,
                free: limit,
            });
        }
        let layers = graph.layers.iter().map(|l| upload::layer(device, file, l));
        let layers = layers.collect::<Result<Vec<_>, CudaError>>()?;
        let output = upload::output(device, file, graph)?;
        let spent = before.saturating_sub(device.memory()?.free);
        let left = limit.saturating_sub(spent + reserve);
        let most = MOST_CONTEXTS * (graph.context as usize).div_ceil(64);
        let count = usize::try_from(left / page).unwrap_or(most).clamp(1, most);
        Ok(Self {
            device: Arc::clone(device),
            layers,
            output,
            pages: Pages::new(device, graph.page_len(), count)?,
            work: Mutex::new(Work::new(device)?),
        })
    }

    /// What it runs on.
    pub fn device(&self) -> String {
        self.device.name()
    }

    /// The pages for keys and values.
    pub fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Number of cache pages that no sequence holds.
    #[cfg(test)]
    pub fn free_pages(&self) -> usize {
        self.pages.free()
    }

    /// As `Inner::forward`: `x` holds the embeddings of `rows` and gets the residual
    /// stream; `caches` get pages where they have none yet.
    pub fn forward(
        &self,
        g: &Graph,
        rows: &[Row],
        caches: &mut [&mut DeviceCache],
        x: &mut [f32],
    ) -> Result<(), CudaError> {
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            caches[row.sequence].reserve(&self.pages, row.position as usize + 1)?;
        }
        let tables: Vec<Vec<u32>> = caches.iter().map(|c| c.ids()).collect();
        let places: Vec<(usize, u32)> = rows.iter().map(|r| (r.sequence, r.position)).collect();
        let frame = Frame::new(g, &places, &tables, self.pages.count());
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = &mut *work;
        work.frame.grow(frame.words.len())?;
        work.frame.write(&frame.words)?;
        work.x.grow(x.len())?;
        work.x.write(x)?;
        let run = Pass {
            model: self,
            g,
            frame: &frame,
        };
        for (layer, there) in g.layers.iter().zip(&self.layers) {
            run.attention(layer, &there.attention, work)?;
            run.feed_forward(&there.feed_forward, work)?;
        }
        work.x.read(0..x.len(), x)
    }

    /// Logits of rows of the residual stream.
    pub fn logits(&self, g: &Graph, x: &[f32], logits: &mut [f32]) -> Result<(), CudaError> {
        let rows = x.len() / g.width;
        if rows == 0 {
            return Ok(());
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = &mut *work;
        work.x.grow(x.len())?;
        work.x.write(x)?;
        let (stack, needs) = (&self.output.stack, self.output.stack.needs());
        work.input.grow(x.len(), needs)?;
        let into = (&mut work.input, needs);
        steps::rms_norm(
            &self.device,
            &work.x,
            rows,
            &self.output.norm,
            g.epsilon,
            into,
        )?;
        work.out.grow(logits.len())?;
        stack.product(&self.device, &work.input, rows, &mut work.out)?;
        if let Some(cap) = self.output.cap {
            steps::cap(&self.device, &mut work.out, cap, logits.len())?;
        }
        work.out.read(0..logits.len(), logits)
    }
}

/// One batch on its way through the layers.
struct Pass<'a> {
    model: &'a DeviceModel,
    g: &'a Graph,
    frame: &'a Frame,
}

impl Pass<'_> {
    fn attention(
        &self,
        layer: &Layer,
        there: &DeviceAttention,
        work: &mut Work,
    ) -> Result<(), CudaError> {
        let (device, rows, shape) = (&self.model.device, self.frame.rows, &layer.attention.shape);
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
        work.input.grow(
            rows * n,
            Needs {
                plain: true,
                ..needs
            },
        )?;
        let out = &mut work.input.plain;
        steps::attention(device, shape, heads, qkv, &pages, &batch, out)?;
        steps::quantise(device, &mut work.input, (rows, n), needs)?;
        self.after(&there.norms, &there.output, work)
    }

    fn feed_forward(&self, there: &DeviceMlp, work: &mut Work) -> Result<(), CudaError> {
        self.before(&there.norms, &there.gate_up, work)?;
        let (needs, size) = (there.down.needs(), (self.frame.rows, there.down.k));
        work.input.grow(size.0 * size.1, needs)?;
        let into = (&mut work.input, needs);
        steps::gated(&self.model.device, there.activation, &work.wide, size, into)?;
        self.after(&there.norms, &there.down, work)
    }

    /// The norm of the residual stream through a part's first matrices, into `wide`.
    fn before(&self, norms: &DeviceNorms, stack: &Stack, work: &mut Work) -> Result<(), CudaError> {
        let (device, rows, needs) = (&self.model.device, self.frame.rows, stack.needs());
        work.input.grow(rows * self.g.width, needs)?;
        let into = (&mut work.input, needs);
        steps::rms_norm(device, &work.x, rows, &norms.before, self.g.epsilon, into)?;
        work.wide.grow(rows * stack.rows)?;
        stack.product(device, &work.input, rows, &mut work.wide)
    }

    /// A part's last matrix, and its result into the residual stream.
    fn after(&self, norms: &DeviceNorms, stack: &Stack, work: &mut Work) -> Result<(), CudaError> {
        let (device, rows, width) = (&self.model.device, self.frame.rows, self.g.width);
        work.out.grow(rows * width)?;
        stack.product(device, &work.input, rows, &mut work.out)?;
        if let Some(weight) = &norms.after {
            steps::rms_norm_in_place(device, &mut work.out, rows, weight, self.g.epsilon)?;
        }
        steps::residual(device, &mut work.x, &work.out, rows * width)
    }
}

impl Work {
    fn new(device: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        Ok(Self {
            frame: Buffer::new(device, 0)?,
            x: Buffer::new(device, 0)?,
            input: Activations::new(device)?,
            wide: Buffer::new(device, 0)?,
            out: Buffer::new(device, 0)?,
        })
    }
}
