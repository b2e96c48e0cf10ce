//! Attention for decoding, spread over the whole card: three launches in place of one.
//!
//! One launch has a block of threads for each KV head of a sequence, which keeps a large
//! card idle while a single stream reads a long cache. Scores need no order among tiles,
//! values none among the elements of a head; so both are cut, and the short chain between
//! them stays whole. The bits are those of the single launch. Called by `pass`.

use super::CudaError;
use super::backend::Arg::{F32, U32, U64};
use super::backend::{Backend, Buffer, GRID_Y, Launch, SHARED_BYTES};
use super::frame::Frame;
use super::steps::{Batch, HeadWeights, Pages, check_shapes, or_none};
use crate::model::graph::AttentionShape;
use crate::ops::attention::TILE;
use std::sync::Arc;

/// Scores of a batch at most, 64 MB: beyond, there is enough work for the single launch.
const MOST_SCORES: usize = 16 << 20;
/// Elements of a head that one block of threads takes.
const SLICE: usize = 32;

/// What a split attention keeps between its launches.
pub(crate) struct Split {
    scores: Buffer<f32>,
    /// Corrections of each tile, and what the result is multiplied by.
    turns: Buffer<f32>,
}

impl Split {
    pub fn new(device: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        Ok(Self {
            scores: Buffer::new(device, 0)?,
            turns: Buffer::new(device, 0)?,
        })
    }

    /// Whether a batch is computed this way, in layers of so many heads: the same for all
    /// batches alike.
    pub fn suits(frame: &Frame, heads: usize) -> bool {
        let scores = frame.rows * heads * frame.table_len * TILE;
        frame.likeness().is_some() && scores <= MOST_SCORES && frame.table_len <= GRID_Y
    }

    /// Room for a batch in layers of at most so many heads.
    pub fn fit(&mut self, frame: &Frame, heads: usize) -> Result<(), CudaError> {
        let all = frame.rows * heads;
        match Self::suits(frame, heads) {
            true => {
                self.scores.grow(all * frame.table_len * TILE)?;
                self.turns.grow(all * (frame.table_len + 1))
            }
            false => Ok(()),
        }
    }

    /// Where the buffers lie.
    pub fn addresses(&self) -> [u64; 2] {
        [&self.scores, &self.turns].map(Buffer::address)
    }

    /// As `steps::attention`, for a batch that suits.
    #[expect(clippy::too_many_arguments, reason = "those of `steps::attention`")]
    pub fn attention(
        &self,
        device: &Arc<dyn Backend>,
        shape: &AttentionShape,
        weights: &HeadWeights,
        qkv: &Buffer<f32>,
        pages: &Pages<'_>,
        batch: &Batch<'_>,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        check_shapes(shape, qkv, pages, batch);
        let (frame, words) = (batch.frame, batch.words);
        let (rows, tiles) = (frame.rows, frame.table_len);
        let (kv, dim) = (shape.kv_heads, shape.head_dim);
        assert!(Self::suits(frame, shape.heads) && out.len() >= rows * shape.query_len());
        assert!(self.scores.len() >= rows * shape.heads * tiles * TILE);
        assert!(self.turns.len() >= rows * shape.heads * (tiles + 1));
        let [heads_n, kv_n, dim_n] = [shape.heads, kv, dim].map(|n| U32(n as u32));
        let cache = [
            pages.all.arg(),
            U64(pages.page_len as u64),
            U64(shape.page_at as u64),
            words.arg(),
            words.arg_at(frame.tables_at),
            U32(tiles as u32),
        ];
        let window = U32(shape.window.unwrap_or(u32::MAX));
        let [scores, turns] = [self.scores.arg(), self.turns.arg()];
        let group_bytes = 4 * shape.heads / kv * dim;
        assert!(group_bytes <= SHARED_BYTES && shape.heads <= GRID_Y);
        let launch = |kernel, grid, threads, shared| Launch {
            kernel,
            grid,
            threads,
            shared,
        };
        let first = launch("attention_scores", [rows * kv, tiles], 128, group_bytes);
        let tail = [
            F32(shape.scale),
            window,
            F32(shape.cap.unwrap_or(0.0)),
            scores,
        ];
        let args = [&[qkv.arg(), heads_n, kv_n, dim_n][..], &cache, &tail].concat();
        // SAFETY: the arguments of `attention_scores` in `attention.cu`, which reads rows of
        // `qkv` and pages of the tables (compared in `Frame::new`) up to the position of
        // each row, for which a page exists, and writes 64 scores per tile: compared above.
        unsafe { device.launch(&first, &args) }?;
        let second = launch("attention_weights", [rows, shape.heads], 32, 0);
        let sinks = or_none(weights.sinks.as_ref(), shape.heads);
        let args = [
            heads_n,
            words.arg(),
            U32(tiles as u32),
            window,
            sinks,
            scores,
            turns,
        ];
        // SAFETY: the arguments of `attention_weights`, which stays within the scores just
        // written and as many turns: compared above.
        unsafe { device.launch(&second, &args) }?;
        let third = launch("attention_values", [rows * kv, dim.div_ceil(SLICE)], 128, 0);
        let tail = [window, scores, turns, out.arg()];
        let args = [&[heads_n, kv_n, dim_n][..], &cache, &tail].concat();
        // SAFETY: the arguments of `attention_values`, which reads the same pages and what
        // the other two wrote, and writes rows of `out`: compared above.
        unsafe { device.launch(&third, &args) }
    }
}
