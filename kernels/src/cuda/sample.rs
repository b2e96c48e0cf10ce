//! From logits on a device to tokens: what comes back of a row is its 64 largest logits
//! and, where asked for, one token and one sum, not the row.
//!
//! Exact for every rule that [`Rule`] can express; `runtime::pick` decides which requests
//! these are, and asks for the row where they are not.

use super::CudaError;
use super::backend::Arg::U32;
use super::backend::{Backend, Buffer, Launch};
use std::sync::Arc;

/// Largest logits of a row: those that the digest takes.
pub(crate) const TOP: usize = 64;
/// Keys that one block of threads sorts, and logits that one weighs: as in `sample.cu`.
const SORTED: usize = 1024;
const WEIGHED: usize = 4096;
/// Words of a rule, and of what comes back for a row.
const RULE: usize = 8;
const FOUND: usize = 4 + 2 * TOP;

/// What is asked of a row beside its largest logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// The token with the largest logit plus noise.
    pub noise: bool,
    /// The sum of exp64(logit - largest).
    pub sum: bool,
    /// Logits are divided by this first.
    pub temperature: f32,
    /// Tokens further than this from the largest logit do not count: 0 or less.
    pub floor: f64,
    pub seed: u64,
    pub position: u32,
}

impl Rule {
    /// Nothing beside the largest logits.
    pub const NONE: Self = Self {
        noise: false,
        sum: false,
        temperature: 1.0,
        floor: f64::NEG_INFINITY,
        seed: 0,
        position: 0,
    };
}

/// What came back of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Whether every logit is finite; nothing else holds where not.
    pub finite: bool,
    /// The largest logits, in the order of the digest; all, where there are fewer.
    pub top: Vec<(u32, f32)>,
    /// [`Rule::noise`].
    pub token: u32,
    /// [`Rule::sum`], added in no order in particular.
    pub sum: f64,
}

/// Buffers, for as many rows as [`Picks::fit`] was told.
pub(crate) struct Picks {
    pub rules: Buffer<u32>,
    keys: [Buffer<u64>; 2],
    bests: Buffer<f64>,
    sums: Buffer<f64>,
    ids: Buffer<u32>,
    found: Buffer<u32>,
}

impl Picks {
    pub fn new(device: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        Ok(Self {
            rules: Buffer::new(device, 0)?,
            keys: [Buffer::new(device, 0)?, Buffer::new(device, 0)?],
            bests: Buffer::new(device, 0)?,
            sums: Buffer::new(device, 0)?,
            ids: Buffer::new(device, 0)?,
            found: Buffer::new(device, 0)?,
        })
    }

    /// Room for `rows` rows of `vocab` logits.
    pub fn fit(&mut self, rows: usize, vocab: usize) -> Result<(), CudaError> {
        let parts = rows * vocab.div_ceil(WEIGHED);
        self.rules.grow(rows * RULE)?;
        self.keys[0].grow(rows * vocab.div_ceil(SORTED) * TOP)?;
        self.keys[1].grow(rows * (vocab.div_ceil(SORTED) * TOP).div_ceil(SORTED) * TOP)?;
        self.bests.grow(parts)?;
        self.sums.grow(parts)?;
        self.ids.grow(parts)?;
        self.found.grow(rows * FOUND)
    }

    /// Where the buffers lie.
    pub fn addresses(&self) -> [u64; 7] {
        let [a, b] = &self.keys;
        let [c, d] = [&self.bests, &self.sums].map(Buffer::address);
        let [e, f, g] = [&self.ids, &self.found, &self.rules].map(Buffer::address);
        [a.address(), b.address(), c, d, e, f, g]
    }

    /// Write the rules of rows, before [`Self::pick`] runs.
    pub fn ask(&mut self, rules: &[Rule]) -> Result<(), CudaError> {
        self.rules
            .write(&rules.iter().flat_map(words).collect::<Vec<u32>>())
    }

    /// Launch what makes [`Found`] of `rows` rows of logits.
    pub fn pick(
        &self,
        device: &Arc<dyn Backend>,
        logits: &Buffer<f32>,
        rows: usize,
        vocab: usize,
    ) -> Result<(), CudaError> {
        let parts = vocab.div_ceil(WEIGHED);
        assert!(rows > 0 && logits.len() >= rows * vocab && self.rules.len() >= rows * RULE);
        assert!(self.bests.len() >= rows * parts && self.found.len() >= rows * FOUND);
        let keys = self.sort(device, logits, rows, vocab)?;
        let n = U32(vocab as u32);
        let [bests, sums] = [&self.bests, &self.sums].map(Buffer::arg);
        let head = [logits.arg(), n, keys.arg(), self.rules.arg()];
        let args = [&head[..], &[bests, sums, self.ids.arg()]].concat();
        let weigh = launch("weigh", [parts, rows], 256);
        // SAFETY: the arguments of `weigh` in `sample.cu`: `rows` rows of `vocab` logits, of
        // 64 keys and of one rule, whose ids are below `vocab`; it writes `parts` of each of
        // three buffers per row. Lengths: compared above and in `sort`.
        unsafe { device.launch(&weigh, &args) }?;
        let tail = [
            bests,
            sums,
            self.ids.arg(),
            U32(parts as u32),
            self.found.arg(),
        ];
        let args = [&head[..], &tail].concat();
        // SAFETY: the arguments of `settle`, which reads what `weigh` read and wrote, and
        // writes 132 words per row.
        unsafe { device.launch(&launch("settle", [rows, 1], 64), &args) }
    }

    /// The 64 first keys of each row.
    fn sort(
        &self,
        device: &Arc<dyn Backend>,
        logits: &Buffer<f32>,
        rows: usize,
        vocab: usize,
    ) -> Result<&Buffer<u64>, CudaError> {
        let [mut to, mut other] = [&self.keys[0], &self.keys[1]];
        let mut parts = vocab.div_ceil(SORTED);
        assert!(to.len() >= rows * parts * TOP);
        let args = [logits.arg(), U32(vocab as u32), to.arg()];
        // SAFETY: the arguments of `top_of_logits` in `sample.cu`, which reads `rows` rows of
        // `vocab` logits and writes 64 keys for each part: compared above and by `pick`.
        unsafe { device.launch(&launch("top_of_logits", [parts, rows], 256), &args) }?;
        while parts > 1 {
            let from = parts * TOP;
            parts = from.div_ceil(SORTED);
            assert!(to.len() >= rows * from && other.len() >= rows * parts * TOP);
            let args = [to.arg(), U32(from as u32), other.arg()];
            // SAFETY: the arguments of `top_of_keys`, which reads `from` keys a row and
            // writes 64 for each part, into another buffer: compared above.
            unsafe { device.launch(&launch("top_of_keys", [parts, rows], 256), &args) }?;
            std::mem::swap(&mut to, &mut other);
        }
        Ok(to)
    }

    /// What came of the first `rows` rows.
    pub fn found(&self, rows: usize, vocab: usize) -> Result<Vec<Found>, CudaError> {
        let mut words = vec![0; rows * FOUND];
        self.found.read(0..words.len(), &mut words)?;
        Ok(words
            .as_chunks::<FOUND>()
            .0
            .iter()
            .map(|w| found(w, vocab))
            .collect())
    }
}

fn launch(kernel: &'static str, grid: [usize; 2], threads: u32) -> Launch {
    Launch {
        kernel,
        grid,
        threads,
        shared: 0,
    }
}

fn words(rule: &Rule) -> [u32; RULE] {
    let floor = rule.floor.to_bits();
    [
        u32::from(rule.noise),
        u32::from(rule.sum),
        rule.temperature.to_bits(),
        floor as u32,
        (floor >> 32) as u32,
        rule.seed as u32,
        (rule.seed >> 32) as u32,
        rule.position,
    ]
}

fn found(words: &[u32; FOUND], vocab: usize) -> Found {
    let pairs = words[4..].as_chunks::<2>().0;
    Found {
        finite: words[0] == 1,
        top: pairs[..TOP.min(vocab)]
            .iter()
            .map(|[id, bits]| (*id, f32::from_bits(*bits)))
            .collect(),
        token: words[1],
        sum: f64::from_bits(u64::from(words[2]) | u64::from(words[3]) << 32),
    }
}
