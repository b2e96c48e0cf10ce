//! The buffers of one caller's batches, and the launches kept for them.
//!
//! Buffers grow to the largest batch and stay; kept launches name their addresses, so
//! they are dropped when one moves. One [`Work`] serves one model.

use super::CudaError;
use super::activations::{Activations, Needs};
use super::backend::{Backend, Buffer};
use super::frame::{Frame, Likeness};
use super::linear::Stack;
use super::pages::Pages;
use super::record::Kept;
use super::sample::Picks;
use super::split::Split;
use std::sync::Arc;

/// Elements per row of a model's buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub width: usize,
    pub vocab: usize,
    /// Of what a stack reads, the longest row (of all choices of a row together, where it
    /// has experts), and the forms of all.
    pub k: usize,
    pub input: Needs,
    /// Of what the first matrices of a part give.
    pub wide: usize,
    /// Most query heads of a layer.
    pub heads: usize,
    /// Experts, those that a row takes, and what they give.
    pub experts: usize,
    pub used: usize,
    pub made: usize,
}

/// Which launches are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Layers(Likeness),
    /// Rows, and whether tokens are picked.
    Logits(usize, bool),
}

/// Buffers of one caller.
pub(crate) struct Work {
    /// First, so that it goes before the buffers and the device.
    kept: Kept<Key>,
    /// Those of the model that it serves.
    pub(super) pages: Arc<Pages>,
    pub(super) frame: Buffer<u32>,
    /// The residual stream.
    pub(super) x: Buffer<f32>,
    pub(super) input: Activations,
    pub(super) wide: Buffer<f32>,
    pub(super) out: Buffer<f32>,
    /// Of mixtures: router logits, experts and weights of each choice, what they made.
    pub(super) router: Buffer<f32>,
    pub(super) chosen: Buffer<u32>,
    pub(super) weights: Buffer<f32>,
    pub(super) made: Buffer<f32>,
    pub(super) split: Split,
    pub(super) finite: Buffer<u32>,
    /// Rows whose logits are wanted.
    pub(super) wanted: Buffer<u32>,
    pub(super) logits: Buffer<f32>,
    pub(super) picks: Picks,
    /// Of each row of the last batch, whether it is finite; empty where that failed.
    pub computed: Vec<bool>,
}

impl Sizes {
    /// Take in what a stack reads, `times` times for each row.
    pub fn reads(&mut self, stack: &Stack, times: usize) {
        self.k = self.k.max(stack.k * times);
        self.input = self.input.and(stack.needs());
    }
}

impl Work {
    pub(super) fn new(device: &Arc<dyn Backend>, pages: &Arc<Pages>) -> Result<Self, CudaError> {
        Ok(Self {
            pages: Arc::clone(pages),
            kept: Kept::default(),
            frame: Buffer::new(device, 0)?,
            x: Buffer::new(device, 0)?,
            input: Activations::new(device)?,
            wide: Buffer::new(device, 0)?,
            out: Buffer::new(device, 0)?,
            router: Buffer::new(device, 0)?,
            chosen: Buffer::new(device, 0)?,
            weights: Buffer::new(device, 0)?,
            made: Buffer::new(device, 0)?,
            split: Split::new(device)?,
            finite: Buffer::new(device, 0)?,
            wanted: Buffer::new(device, 0)?,
            logits: Buffer::new(device, 0)?,
            picks: Picks::new(device)?,
            computed: Vec::new(),
        })
    }

    /// Room for a batch.
    pub(super) fn fit(&mut self, sizes: &Sizes, frame: &Frame) -> Result<(), CudaError> {
        let (rows, before) = (frame.rows, self.addresses());
        self.frame.grow(frame.words.len())?;
        self.x.grow(rows * sizes.width)?;
        self.input.grow(rows * sizes.k, sizes.input)?;
        self.wide.grow(rows * sizes.wide)?;
        self.out.grow(rows * sizes.width)?;
        self.router.grow(rows * sizes.experts)?;
        self.chosen.grow(rows * sizes.used)?;
        self.weights.grow(rows * sizes.used)?;
        self.made.grow(rows * sizes.made)?;
        self.split.fit(frame, sizes.heads)?;
        self.finite.grow(rows)?;
        self.forget_moved(&before);
        Ok(())
    }

    /// Room for the logits of some rows of the last batch.
    pub(super) fn fit_logits(&mut self, rows: usize, sizes: &Sizes) -> Result<(), CudaError> {
        let before = self.addresses();
        self.input.grow(rows * sizes.k, sizes.input)?;
        self.wanted.grow(rows)?;
        self.logits.grow(rows * sizes.vocab)?;
        self.picks.fit(rows, sizes.vocab)?;
        self.forget_moved(&before);
        Ok(())
    }

    fn forget_moved(&mut self, before: &[u64]) {
        if self.addresses() != before {
            self.kept.forget();
        }
    }

    fn addresses(&self) -> Vec<u64> {
        let floats = [&self.x, &self.wide, &self.out, &self.logits];
        let mixed = [&self.router, &self.weights, &self.made];
        let words = [&self.frame, &self.finite, &self.wanted, &self.chosen];
        let mut all = self.picks.addresses().to_vec();
        all.extend(floats.map(Buffer::address));
        all.extend(self.split.addresses());
        all.extend(mixed.map(Buffer::address));
        all.extend(words.map(Buffer::address));
        all.extend(self.input.addresses());
        all
    }

    /// Start launches, kept ones where there are some.
    ///
    /// # Safety
    /// As for [`Kept::run`]; until [`Self::fit`] or [`Self::fit_logits`] move a buffer.
    pub(super) unsafe fn run(
        &mut self,
        device: &Arc<dyn Backend>,
        key: Option<Key>,
        record: impl FnOnce(&Arc<dyn Backend>, &mut Self) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let mut kept = std::mem::take(&mut self.kept);
        // SAFETY: the caller's promise.
        let result = unsafe { kept.run(device, key, |recorder| record(recorder, self)) };
        self.kept = kept;
        result
    }
}
