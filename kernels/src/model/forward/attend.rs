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

/// One chunk of work: query heads `first .. first + heads`, which share KV head `kv`,
/// of one run.
#[derive(Clone, Copy)]
struct Job {
    run: Run,
    kv: usize,
    first: usize,
    heads: usize,
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
        let shape = &a.shape;
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let parts = self.parts(s.runs.len() * shape.kv_heads, group);
        let per_part = group.div_ceil(parts);
        let out = SendPtr(out.as_mut_ptr());
        let chunks = s.runs.len() * shape.kv_heads * parts;
        self.pool.run(chunks, &|chunk| {
            let (kv, part) = (chunk / parts % shape.kv_heads, chunk % parts);
            let from = (part * per_part).min(group);
            let job = Job {
                run: s.runs[chunk / parts / shape.kv_heads],
                kv,
                first: kv * group + from,
                heads: per_part.min(group - from),
            };
            if job.heads == 0 {
                return;
            }
            let cache = &*caches[rows[job.run.from].sequence];
            QUERIES.with_borrow_mut(|queries| {
                self.attend_job(layer, a, rows, job, cache, &s.q, queries);
                for n in 0..(job.run.to - job.run.from) * job.heads {
                    let row = job.run.from + n / job.heads;
                    let at = (row * shape.heads + job.first + n % job.heads) * dim;
                    // SAFETY: lifetime: `out` is borrowed for this whole function. Bounds: a
                    // row of the batch and a head below `heads` of a buffer of rows x heads x
                    // dim. Each (row, head) belongs to one chunk. Alignment: f32 in f32.
                    let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), dim) };
                    queries.finish(n, out);
                }
            });
        });
    }

    /// Into how many jobs a group of heads is cut. Each reads the keys and values
    /// again, so only where there would be fewer than two jobs a thread, and never
    /// into single heads. Heads do not touch each other: no bit changes.
    fn parts(&self, jobs: usize, group: usize) -> usize {
        (2 * self.pool.threads())
            .div_ceil(jobs.max(1))
            .min(group / 2)
            .max(1)
    }

    #[allow(clippy::too_many_arguments)]
    fn attend_job(
        &self,
        layer: usize,
        a: &Attention,
        rows: &[Row],
        job: Job,
        cache: &Cache,
        q: &[f32],
        queries: &mut Queries,
    ) {
        let (shape, run) = (&a.shape, job.run);
        let (dim, heads) = (shape.head_dim, job.heads);
        let buffer = queries.start(dim, (run.to - run.from) * heads);
        for (i, to) in buffer.chunks_exact_mut(heads * dim).enumerate() {
            let at = (run.from + i) * shape.query_len() + job.first * dim;
            to.copy_from_slice(&q[at..at + heads * dim]);
        }
        if let Some(sinks) = &a.sinks {
            for n in 0..(run.to - run.from) * heads {
                queries.sink(n, sinks[job.first + n % heads]);
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
        let end = sight(last).1.div_ceil(TILE);
        for tile in sight(first).0 / TILE..end {
            for (row, seen) in rows.iter().zip(queries.seen().chunks_exact_mut(heads)) {
                let (from, to) = sight(row);
                seen.fill(Seen::of(from, to, tile));
            }
            let read = |tile| cache.tile(&self.graph, layer, job.kv, tile);
            let next = (tile + 1 < end).then(|| read(tile + 1));
            queries.attend(self.simd, read(tile), next, rules);
        }
    }
}
