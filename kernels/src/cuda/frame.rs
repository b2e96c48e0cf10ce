//! What a batch is, as words that go to the device in one copy: rows, places in the
//! cache, runs, page tables, and what depends on a row's position.

use super::backend::SHARED_BYTES;
use crate::model::Graph;
use crate::model::graph::{AttentionShape, Temperature};
use crate::ops::attention::TILE;
use crate::ops::rope::Pairs;

/// Queries that share a tile in one block of threads: enough to use each value read
/// several times, few enough to leave shared memory for several blocks.
const QUERIES: usize = 16;

/// Bytes of shared memory that one query takes: itself, its result, weights, state.
pub(crate) fn query_bytes(dim: usize) -> usize {
    4 * (2 * dim + TILE + 3)
}

/// Most rows of a batch whose launches are kept: as many streams as an engine has by
/// default, four times.
const KEPT_ROWS: usize = 64;
/// Entries of the page tables of such a batch, at least: 1,024 positions.
const KEPT_TABLE: usize = 16;

/// What batches have in common whose launches are the same, argument by argument: the
/// numbers of rows and sequences, and the length of a page table.
pub(crate) type Likeness = (usize, usize, usize);

/// One batch.
pub(crate) struct Frame {
    pub rows: usize,
    /// Pages that there are.
    pub pages: usize,
    pub runs: usize,
    /// Rows of the longest run.
    pub run_len: usize,
    /// Sequences.
    tables: usize,
    /// Pages of the longest table, or a few more.
    pub table_len: usize,
    /// (page, slot) of every row begin here.
    pub places_at: usize,
    /// (first row, rows) of every run begin here.
    pub runs_at: usize,
    /// The page ids of every sequence begin here, `table_len` each.
    pub tables_at: usize,
    ropes: Vec<RopeAt>,
    temperatures: Vec<(Temperature, usize)>,
    /// (sequence, position) of every row, then the parts named above.
    pub words: Vec<u32>,
}

/// Where the angles of a rope begin, `turning` for every row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeAt {
    pub at: usize,
    pub turning: usize,
    pub neighbours: bool,
}

impl Frame {
    /// For rows of (sequence, position), and the page ids of each sequence: all below
    /// `pages`, and one for every position.
    pub fn new(g: &Graph, rows: &[(usize, u32)], tables: &[Vec<u32>], pages: usize) -> Self {
        let most = g
            .layers
            .iter()
            .map(|l| rows_at_once(&l.attention.shape))
            .min();
        let runs = runs(rows, most.unwrap_or(1));
        let mut frame = Self {
            rows: rows.len(),
            pages,
            runs: runs.len(),
            run_len: runs.iter().map(|(_, n)| *n).max().unwrap_or(1),
            tables: tables.len(),
            table_len: tables.iter().map(Vec::len).max().unwrap_or(0),
            places_at: 0,
            runs_at: 0,
            tables_at: 0,
            ropes: Vec::new(),
            temperatures: Vec::new(),
            words: rows.iter().flat_map(|(s, p)| [*s as u32, *p]).collect(),
        };
        if frame.is_kept() {
            frame.table_len = frame.table_len.next_power_of_two().max(KEPT_TABLE);
        }
        assert!(tables.iter().flatten().all(|page| (*page as usize) < pages));
        frame.places_at = frame.words.len();
        frame
            .words
            .extend(rows.iter().flat_map(|(sequence, position)| {
                let slot = *position as usize;
                [tables[*sequence][slot / TILE], (slot % TILE) as u32]
            }));
        frame.runs_at = frame.words.len();
        let words = runs
            .iter()
            .flat_map(|(first, n)| [*first as u32, *n as u32]);
        frame.words.extend(words);
        frame.tables_at = frame.words.len();
        for table in tables {
            frame.words.extend(table);
            let padding = frame.table_len - table.len();
            frame.words.extend(std::iter::repeat_n(0, padding));
        }
        frame.add_positions(g, rows);
        frame
    }

    /// Whether it decodes, one row for each sequence, as the next batches will.
    fn is_kept(&self) -> bool {
        self.runs == self.rows && self.rows <= KEPT_ROWS
    }

    /// Set where the launches are worth keeping. Everything that differs between batches
    /// alike is in `words`, and all parts of `words` lie where they lay.
    pub fn likeness(&self) -> Option<Likeness> {
        let tables = self.tables;
        self.is_kept()
            .then_some((self.rows, tables, self.table_len))
    }

    /// The angles of each rope, and the factors of each temperature.
    fn add_positions(&mut self, g: &Graph, rows: &[(usize, u32)]) {
        for rope in &g.ropes {
            self.ropes.push(RopeAt {
                at: self.words.len(),
                turning: rope.turning(),
                neighbours: rope.pairs() == Pairs::Neighbours,
            });
            let mut angles = vec![0.0; rope.turning()];
            for (_, position) in rows {
                rope.angles(*position, &mut angles);
                self.words.extend(angles.iter().map(|x| x.to_bits()));
            }
        }
        for layer in &g.layers {
            let Some(t) = layer.attention.shape.temperature else {
                continue;
            };
            if !self.temperatures.iter().any(|(known, _)| *known == t) {
                self.temperatures.push((t, self.words.len()));
                let factors = rows
                    .iter()
                    .map(|(_, position)| t.factor(*position).to_bits());
                self.words.extend(factors);
            }
        }
    }

    /// The rope of a layer.
    pub fn rope(&self, shape: &AttentionShape) -> Option<RopeAt> {
        shape.rope.map(|i| self.ropes[i])
    }

    /// Where the factors of a layer's queries begin.
    pub fn factors(&self, shape: &AttentionShape) -> Option<usize> {
        let wanted = shape.temperature?;
        let found = self.temperatures.iter().find(|(t, _)| *t == wanted);
        found.map(|(_, at)| *at)
    }
}

/// Rows whose queries of one KV head share a tile.
fn rows_at_once(shape: &AttentionShape) -> usize {
    let fit = SHARED_BYTES / query_bytes(shape.head_dim);
    (QUERIES.min(fit) / (shape.heads / shape.kv_heads)).max(1)
}

/// Cut rows into runs (first, number) of at most `most` adjacent ones of a sequence.
fn runs(rows: &[(usize, u32)], most: usize) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut from = 0;
    for i in 1..=rows.len() {
        if i == rows.len() || rows[i].0 != rows[from].0 || i - from == most {
            runs.push((from, i - from));
            from = i;
        }
    }
    runs
}
