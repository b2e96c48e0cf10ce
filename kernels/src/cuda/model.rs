//! A model on a device: its weights, its cache pages, and one forward pass.
//!
//! Follows `model::forward` operation by operation. Embeddings, rope angles and other
//! things that depend on a position alone come from the CPU (a few kilobytes per
//! token); everything else stays on the device. Several callers may compute at once, each
//! with its own [`Work`]: the device takes their launches in turn.

use super::backend::Backend;
use super::frame::Frame;
use super::pages::{DeviceCache, Pages};
use super::pass::Pass;
use super::sample::{Found, Rule};
use super::steps;
use super::upload::{self, DeviceFeedForward, DeviceLayer, Output};
use super::work::{Key, Sizes, Work};
use super::{CudaError, Driver};
use crate::gguf::Gguf;
use crate::model::{DeviceChoice, Graph, Placement, Row};
use std::sync::Arc;

/// Device memory kept for buffers of a batch and for the driver itself; an eighth of
/// what may be used, where that is less.
const RESERVE: u64 = 768 << 20;
/// Contexts of pages that are allocated at most: more sequences than one card serves.
const MOST_CONTEXTS: usize = 256;
/// Most rows of logits whose launches are kept; engines ask for fewer at a time.
const MOST_KEPT: usize = 64;

/// One model on one device.
pub(crate) struct DeviceModel {
    device: Arc<dyn Backend>,
    pub(super) layers: Vec<DeviceLayer>,
    output: Output,
    pub(super) pages: Arc<Pages>,
    sizes: Sizes,
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
            DeviceChoice::Auto => match first_that_takes(open) {
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
        let sizes = sizes(graph, &layers, &output);
        let spent = before.saturating_sub(device.memory()?.free);
        let left = limit.saturating_sub(spent + reserve);
        let most = MOST_CONTEXTS * (graph.context as usize).div_ceil(64);
        let count = usize::try_from(left / page).unwrap_or(most).clamp(1, most);
        Ok(Self {
            device: Arc::clone(device),
            layers,
            output,
            pages: Pages::new(device, graph.page_len(), count)?,
            sizes,
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

    /// Most query heads of a layer.
    pub(super) fn heads(&self) -> usize {
        self.sizes.heads
    }

    /// Buffers for batches of this model.
    pub fn work(&self) -> Result<Work, CudaError> {
        Work::new(&self.device, &self.pages)
    }

    /// As `Inner::forward`: `x` holds the embeddings of `rows`; the residual stream stays
    /// in `work`. `caches` get pages where they have none yet.
    pub fn forward(
        &self,
        g: &Graph,
        rows: &[Row],
        caches: &mut [&mut DeviceCache],
        x: &[f32],
        work: &mut Work,
    ) -> Result<(), CudaError> {
        work.computed.clear();
        assert!(Arc::ptr_eq(&work.pages, &self.pages));
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            caches[row.sequence].reserve(&self.pages, row.position as usize + 1)?;
        }
        let tables: Vec<Vec<u32>> = caches.iter().map(|c| c.ids()).collect();
        let places: Vec<(usize, u32)> = rows.iter().map(|r| (r.sequence, r.position)).collect();
        let frame = Frame::new(g, &places, &tables, self.pages.count());
        work.fit(&self.sizes, &frame)?;
        work.frame.write(&frame.words)?;
        work.x.write(x)?;
        let key = frame.likeness().map(Key::Layers);
        // SAFETY: launches depend on the likeness of the frame, on this model, which `work`
        // serves alone, and on where the buffers lie: `fit` drops all lists when one moves.
        unsafe {
            work.run(&self.device, key, |device, work| {
                let (model, frame) = (self, &frame);
                let pass = Pass {
                    device,
                    model,
                    g,
                    frame,
                };
                pass.layers(work)
            })
        }?;
        let mut finite = vec![0; rows.len()];
        work.finite.read(0..rows.len(), &mut finite)?;
        work.computed.extend(finite.iter().map(|x| *x == 1));
        Ok(())
    }

    /// Logits of some rows of the last batch, where `rules` are given with what they ask;
    /// [`Self::read`] gives whole rows.
    pub fn logits(
        &self,
        g: &Graph,
        rows: &[usize],
        rules: Option<&[Rule]>,
        work: &mut Work,
    ) -> Result<Vec<Found>, CudaError> {
        let n = rows.len();
        assert!(Arc::ptr_eq(&work.pages, &self.pages));
        assert!(rows.iter().all(|row| *row < work.computed.len()));
        if n == 0 {
            return Ok(Vec::new());
        }
        work.fit_logits(n, &self.sizes)?;
        let wanted: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        work.wanted.write(&wanted)?;
        if let Some(rules) = rules {
            assert_eq!(rules.len(), n);
            work.picks.ask(rules)?;
        }
        let key = (n <= MOST_KEPT).then_some(Key::Logits(n, rules.is_some()));
        // SAFETY: as in `forward`; these launches depend on the number of rows.
        unsafe {
            work.run(&self.device, key, |device, work| {
                self.output(device, g, n, work)?;
                match rules {
                    Some(_) => work.picks.pick(device, &work.logits, n, g.vocab),
                    None => Ok(()),
                }
            })
        }?;
        match rules {
            Some(_) => work.picks.found(n, g.vocab),
            None => Ok(Vec::new()),
        }
    }

    /// Row `index` of the last [`Self::logits`].
    pub fn read(&self, index: usize, work: &Work, out: &mut [f32]) -> Result<(), CudaError> {
        let n = out.len();
        work.logits.read(index * n..(index + 1) * n, out)
    }

    fn output(
        &self,
        device: &Arc<dyn Backend>,
        g: &Graph,
        n: usize,
        work: &mut Work,
    ) -> Result<(), CudaError> {
        let (stack, needs) = (&self.output.stack, self.output.stack.needs());
        let (from, into) = ((&work.x, &work.wanted), (&mut work.input, needs));
        steps::rms_norm_of(device, from, n, &self.output.norm, g.epsilon, into)?;
        stack.product(device, &work.input, n, &mut work.logits)?;
        match self.output.cap {
            Some(cap) => steps::cap(device, &mut work.logits, cap, n * g.vocab),
            None => Ok(()),
        }
    }
}

/// The model on the first device that takes it; why the first does not, where none does.
fn first_that_takes<T>(open: impl Fn(u32) -> Result<T, CudaError>) -> Result<T, CudaError> {
    let others = super::devices().devices.into_iter().skip(1);
    open(0).or_else(|reason| {
        let mut taken = others.filter_map(|device| open(device.ordinal).ok());
        taken.next().ok_or(reason)
    })
}

/// What the buffers of one row must hold.
fn sizes(g: &Graph, layers: &[DeviceLayer], output: &Output) -> Sizes {
    let mut sizes = Sizes {
        width: g.width,
        heads: g
            .layers
            .iter()
            .map(|l| l.attention.shape.heads)
            .max()
            .unwrap_or(0),
        vocab: output.stack.rows,
        ..Sizes::default()
    };
    sizes.reads(&output.stack, 1);
    for layer in layers {
        let attention = &layer.attention;
        sizes.reads(&attention.qkv, 1);
        sizes.reads(&attention.output, 1);
        sizes.wide = sizes.wide.max(attention.qkv.rows);
        match &layer.feed_forward {
            DeviceFeedForward::Dense(mlp) => {
                sizes.reads(&mlp.gate_up, 1);
                sizes.reads(&mlp.down, 1);
                sizes.wide = sizes.wide.max(mlp.gate_up.rows);
            }
            DeviceFeedForward::Experts(e) => {
                sizes.reads(&e.router, 1);
                sizes.reads(&e.gate_up, 1);
                sizes.reads(&e.down, e.used);
                sizes.wide = sizes.wide.max(e.used * e.gate_up.rows);
                sizes.experts = sizes.experts.max(e.count);
                sizes.used = sizes.used.max(e.used);
                sizes.made = sizes.made.max(e.used * e.down.rows);
            }
        }
        // Attention writes plain rows.
        sizes.input.plain = true;
    }
    sizes
}
