//! Attention of a batch: which rows see which tiles.
//!
//! One chunk of work per run of rows and KV head; the heads of a group share its
//! tiles. Tiles that no row of a run sees, because a window has passed them, are
//! not read.

use super::{Row, Scratch};
use crate::model::Inner;
use crate::model::graph::Attention;
use crate::ops::attention::{Queries, Rules, Seen, TILE};
use crate::pool::SendPtr;
use crate::runtime::Cache;
use std::cell::RefCell;

/// Rows of one sequence that share a tile of keys and values.
const QUERY_ROWS: usize = 16;

/// Rows `from .. to` of a batch, of one sequence; where a position sees all others,
/// `end` is the end of the sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    from: usize,
    to: usize,
    end: Option<usize>,
}

/// Cut the batch into runs of at most [`QUERY_ROWS`] rows of one sequence.
pub(super) fn cut(rows: &[Row], causal: bool, runs: &mut Vec<Run>) {
    runs.clear();
    let mut from = 0;
    let mut first_of_sequence = 0;
    for i in 1..=rows.len() {
        let ends = i == rows.len() || rows[i].sequence != rows[from].sequence;
        if ends || i - from == QUERY_ROWS {
            runs.push(Run {
                from,
                to: i,
                end: None,
            });
            from = i;
        }
        if ends && !causal {
            let end = rows[i - 1].position as usize + 1;
            runs[first_of_sequence..]
                .iter_mut()
                .for_each(|run| run.end = Some(end));
            first_of_sequence = runs.len();
        }
    }
}

thread_local! {
    /// Each computing thread's queries in hand: kept, so that decoding allocates
    /// nothing.
    static QUERIES: RefCell<Queries> = RefCell::default();
}

impl Inner {
    /// Attention of all rows in one layer, from `s.q` into `out`.
    pub(super) fn attend(
        &self,
        layer: usize,
        a: &Attention,
        rows: &[Row],
        caches: &[&mut Cache],
        s: &Scratch,
        out: &mut [f32],
    ) {
        let kv_heads = a.shape.kv_heads;
        let out = SendPtr(out.as_mut_ptr());
        self.pool.run(s.runs.len() * kv_heads, &|chunk| {
            let (run, head) = (s.runs[chunk / kv_heads], chunk % kv_heads);
            let cache = &*caches[rows[run.from].sequence];
            QUERIES.with_borrow_mut(|queries| {
                self.attend_run(layer, a, rows, run, head, cache, &s.q, queries);
                let (dim, group) = (a.shape.head_dim, a.shape.heads / kv_heads);
                for n in 0..(run.to - run.from) * group {
                    let row = run.from + n / group;
                    let at = (row * a.shape.heads + head * group + n % group) * dim;
                    // SAFETY: lifetime: `out` is borrowed for this whole function. Bounds: a
                    // row of the batch and a head below `heads` of a buffer of rows x heads x
                    // dim. Each (row, head) belongs to one chunk. Alignment: f32 in f32.
                    let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), dim) };
                    queries.finish(n, out);
                }
            });
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn attend_run(
        &self,
        layer: usize,
        a: &Attention,
        rows: &[Row],
        run: Run,
        head: usize,
        cache: &Cache,
        q: &[f32],
        queries: &mut Queries,
    ) {
        let shape = &a.shape;
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let len = group * dim;
        let buffer = queries.start(dim, (run.to - run.from) * group);
        for (i, to) in buffer.chunks_exact_mut(len).enumerate() {
            let at = (run.from + i) * shape.query_len() + head * len;
            to.copy_from_slice(&q[at..at + len]);
        }
        if let Some(sinks) = &a.sinks {
            for n in 0..(run.to - run.from) * group {
                queries.sink(n, sinks[head * group + n % group]);
            }
        }
        let rows = &rows[run.from..run.to];
        // The positions that a row sees.
        let sight = |row: &Row| {
            let end = run.end.unwrap_or(row.position as usize + 1);
            let window = shape.window.map_or(end, |w| w as usize);
            ((row.position as usize + 1).saturating_sub(window), end)
        };
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return;
        };
        let rules = Rules {
            scale: shape.scale,
            cap: shape.cap,
        };
        for tile in sight(first).0 / TILE..sight(last).1.div_ceil(TILE) {
            for (row, seen) in rows.iter().zip(queries.seen().chunks_exact_mut(group)) {
                let (from, to) = sight(row);
                seen.fill(Seen::of(from, to, tile));
            }
            let tile = cache.tile(&self.graph, layer, head, tile);
            queries.attend(self.simd, tile, rules);
        }
    }
}
