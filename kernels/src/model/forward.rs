//! Running a graph over a batch of rows.
//!
//! A row is one token at one position of one sequence. Rows of several sequences
//! may share a batch: every operation computes each row as if it were alone, so
//! the batch never changes a bit. Caches must already have a page for every
//! position of the batch.

use super::Inner;
use super::graph::Layer;
use crate::gguf::TensorType;
use crate::ops::attention::{self, Queries, TILE, Wide};
use crate::ops::half::widen_one;
use crate::ops::linear::{Input, Product, linear};
use crate::ops::{norm, rope};
use crate::pool::{Pool, SendPtr};
use crate::runtime::Cache;

/// Rows of one sequence that share a widened tile of keys and values.
const QUERY_ROWS: usize = 16;

/// One token at one position of sequence `sequence` of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub sequence: usize,
    pub position: u32,
    pub token: u32,
}

/// Buffers reused from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual stream: after `forward`, the last norm's input, row by row.
    pub x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    angles: Vec<f32>,
    input: Input,
    pub logits: Vec<f32>,
}

impl Inner {
    /// Compute a batch up to the last norm's input, filling the caches.
    /// Tokens are below the vocabulary size, positions below the context length,
    /// rows of one sequence adjacent and in order.
    pub fn forward(&self, rows: &[Row], caches: &mut [&mut Cache], s: &mut Scratch) {
        let g = &self.graph;
        s.x.resize(rows.len() * g.width, 0.0);
        s.angles.resize(rows.len() * g.head_dim, 0.0);
        for (row, (x, angles)) in rows.iter().zip(
            s.x.chunks_exact_mut(g.width)
                .zip(s.angles.chunks_exact_mut(g.head_dim)),
        ) {
            self.embed(row.token, x);
            g.rope.angles(row.position, angles);
        }
        for (i, layer) in g.layers.iter().enumerate() {
            self.attention(i, layer, rows, caches, s);
            self.feed_forward(layer, s);
        }
    }

    /// Logits of the rows `from .. to` of the last `forward`, into `s.logits`.
    pub fn logits(&self, from: usize, to: usize, s: &mut Scratch) {
        let g = &self.graph;
        let x = &s.x[from * g.width..to * g.width];
        s.normed.resize(x.len(), 0.0);
        norm::rms_norm(self.simd, x, &g.norm, g.epsilon, &mut s.normed);
        s.logits.resize((to - from) * g.vocab, 0.0);
        let mut products = [Product {
            matrix: &g.output,
            out: &mut s.logits,
        }];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.normed,
            g.width,
            &mut products,
        );
    }

    fn attention(
        &self,
        index: usize,
        layer: &Layer,
        rows: &[Row],
        caches: &mut [&mut Cache],
        s: &mut Scratch,
    ) {
        let g = &self.graph;
        let (n, q_len, kv_len) = (rows.len(), g.heads * g.head_dim, g.kv_heads * g.head_dim);
        self.normed(&layer.attention_norm, s);
        s.q.resize(n * q_len, 0.0);
        s.k.resize(n * kv_len, 0.0);
        s.v.resize(n * kv_len, 0.0);
        let mut products = [
            Product {
                matrix: &layer.query,
                out: &mut s.q,
            },
            Product {
                matrix: &layer.key,
                out: &mut s.k,
            },
            Product {
                matrix: &layer.value,
                out: &mut s.v,
            },
        ];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.normed,
            g.width,
            &mut products,
        );
        self.turn(&mut s.q, q_len, layer.query_norm.as_deref(), &s.angles);
        self.turn(&mut s.k, kv_len, layer.key_norm.as_deref(), &s.angles);
        for (i, row) in rows.iter().enumerate() {
            let cache = &mut caches[row.sequence];
            for head in 0..g.kv_heads {
                let at = i * kv_len + head * g.head_dim;
                let tile = cache.tile_mut(g, index, head, row.position as usize / TILE);
                let (k, v) = (&s.k[at..at + g.head_dim], &s.v[at..at + g.head_dim]);
                attention::store(tile, row.position as usize % TILE, k, v);
            }
        }
        s.attended.resize(n * q_len, 0.0);
        self.attend(index, rows, caches, &s.q, &mut s.attended);
        s.out.resize(n * g.width, 0.0);
        let mut products = [Product {
            matrix: &layer.attention_output,
            out: &mut s.out,
        }];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.attended,
            q_len,
            &mut products,
        );
        self.add(s);
    }

    fn feed_forward(&self, layer: &Layer, s: &mut Scratch) {
        let g = &self.graph;
        let n = s.x.len() / g.width;
        self.normed(&layer.feed_forward_norm, s);
        s.gate.resize(n * g.feed_forward, 0.0);
        s.up.resize(n * g.feed_forward, 0.0);
        let mut products = [
            Product {
                matrix: &layer.gate,
                out: &mut s.gate,
            },
            Product {
                matrix: &layer.up,
                out: &mut s.up,
            },
        ];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.normed,
            g.width,
            &mut products,
        );
        let up = &s.up;
        // Elementwise, so any cut will do; one row is small enough for one thread.
        self.pool.pieces(&mut s.gate, g.feed_forward, |i, gate| {
            norm::swiglu(
                self.simd,
                gate,
                &up[i * g.feed_forward..(i + 1) * g.feed_forward],
            );
        });
        let mut products = [Product {
            matrix: &layer.down,
            out: &mut s.out,
        }];
        linear(
            self.simd,
            &self.pool,
            &mut s.input,
            &s.gate,
            g.feed_forward,
            &mut products,
        );
        self.add(s);
    }

    fn normed(&self, weight: &[f32], s: &mut Scratch) {
        s.normed.resize(s.x.len(), 0.0);
        let (x, width) = (&s.x, weight.len());
        self.pool.pieces(&mut s.normed, width, |i, out| {
            let row = &x[i * width..(i + 1) * width];
            norm::rms_norm(self.simd, row, weight, self.graph.epsilon, out);
        });
    }

    fn add(&self, s: &mut Scratch) {
        norm::add(self.simd, &mut s.x, &s.out);
    }

    /// Norm and rotate the heads of queries or keys.
    fn turn(&self, heads: &mut [f32], row_len: usize, weight: Option<&[f32]>, angles: &[f32]) {
        let dim = self.graph.head_dim;
        self.pool.pieces(heads, row_len, |i, heads| {
            if let Some(weight) = weight {
                norm::rms_norm_in_place(self.simd, heads, weight, self.graph.epsilon);
            }
            rope::rotate(heads, &angles[i * dim..(i + 1) * dim]);
        });
    }

    /// Attention of all rows in one layer: one chunk per run of rows and KV head.
    fn attend(
        &self,
        layer: usize,
        rows: &[Row],
        caches: &mut [&mut Cache],
        q: &[f32],
        out: &mut [f32],
    ) {
        let g = &self.graph;
        let runs = runs(rows);
        let caches: Vec<&Cache> = caches.iter().map(|c| &**c).collect();
        let out = SendPtr(out.as_mut_ptr());
        let (dim, group) = (g.head_dim, g.heads / g.kv_heads);
        let scale = 1.0 / (dim as f32).sqrt();
        pool_run(&self.pool, runs.len() * g.kv_heads, |chunk| {
            let (from, to) = runs[chunk / g.kv_heads];
            let head = chunk % g.kv_heads;
            let rows = &rows[from..to];
            let of = |row: usize, h: usize| ((from + row) * g.heads + head * group + h) * dim;
            let gathered = (0..rows.len())
                .flat_map(|row| q[of(row, 0)..of(row, 0) + group * dim].iter().copied());
            let mut queries = Queries::new(dim, gathered.collect());
            let mut wide = Wide::default();
            let mut seen = vec![0; rows.len() * group];
            let last = rows.last().map_or(0, |r| r.position as usize);
            for tile in 0..=last / TILE {
                wide.fill(
                    self.simd,
                    caches[rows[0].sequence].tile(g, layer, head, tile),
                );
                for (row, seen) in rows.iter().zip(seen.chunks_exact_mut(group)) {
                    let positions = row.position as usize + 1;
                    seen.fill(positions.saturating_sub(tile * TILE).min(TILE));
                }
                queries.attend(self.simd, &wide, scale, &seen);
            }
            for n in 0..rows.len() * group {
                let at = of(n / group, n % group);
                // SAFETY: lifetime: `out` is borrowed for this whole function. Bounds: a
                // row of the batch and a head below `heads` of a buffer of rows x heads x
                // dim. Each (row, head) belongs to one chunk. Alignment: f32 in f32.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), dim) };
                queries.finish(n, out);
            }
        });
    }

    /// One token's embedding, from the file's own layout.
    fn embed(&self, token: u32, out: &mut [f32]) {
        let Some(tensor) = self.file.tensor(&self.graph.embedding) else {
            return;
        };
        let bytes = self.file.bytes(tensor);
        let row = tensor.len / self.graph.vocab;
        let bytes = &bytes[token as usize * row..(token as usize + 1) * row];
        match tensor.ty {
            TensorType::F32 => {
                let from = bytes.as_chunks::<4>().0;
                out.iter_mut()
                    .zip(from)
                    .for_each(|(o, b)| *o = f32::from_le_bytes(*b));
            }
            TensorType::F16 => {
                let from = bytes.as_chunks::<2>().0;
                out.iter_mut()
                    .zip(from)
                    .for_each(|(o, b)| *o = widen_one(u16::from_le_bytes(*b)));
            }
            // `vocabulary` and `matrix` let only the three types through.
            _ => {
                for (out, block) in out.chunks_exact_mut(32).zip(bytes.as_chunks::<34>().0) {
                    let d = widen_one(u16::from_le_bytes([block[0], block[1]]));
                    for (o, code) in out.iter_mut().zip(&block[2..]) {
                        *o = d * f32::from(*code as i8);
                    }
                }
            }
        }
    }
}

fn pool_run(pool: &Pool, chunks: usize, run: impl Fn(usize) + Sync) {
    pool.run(chunks, &run);
}

/// Cut the batch into runs of at most [`QUERY_ROWS`] rows of one sequence.
fn runs(rows: &[Row]) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut from = 0;
    for i in 1..=rows.len() {
        let ends = i == rows.len() || rows[i].sequence != rows[from].sequence;
        if ends || i - from == QUERY_ROWS {
            runs.push((from, i));
            from = i;
        }
    }
    runs
}
