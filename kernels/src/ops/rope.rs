//! Rotary position embedding, and the stretching of it for long contexts.
//!
//! A [`Rope`] is one table of angles per step of the position, computed once in
//! f64; layers that turn alike share it. Sources: RoFormer (Su et al. 2021), YaRN
//! (Peng et al. 2023).

use super::math::{exp64, ln64, sin_cos64};

/// Which elements of a head turn together, `n` of them turning at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// `i` with `i + n/2` (GPT-NeoX).
    Halves,
    /// `2i` with `2i + 1` (Llama, as converted to GGUF).
    Neighbours,
}

/// How positions are stretched beyond the training context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Positions as they are.
    None,
    /// Positions divided by a factor.
    Linear { factor: f32 },
    /// Slow pairs divided, fast pairs kept, a ramp between them.
    Yarn(Yarn),
}

/// The parameters of YaRN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub factor: f32,
    /// Context length before stretching.
    pub original: u32,
    /// Pairs that turn more often than this within `original` are kept.
    pub fast: f32,
    /// Pairs that turn less often than this are divided by `factor`.
    pub slow: f32,
    /// 0, or the multiplier of the logarithm in the magnitude's denominator.
    pub log_multiplier: f32,
}

/// What a table of angles is made from.
#[derive(Clone, Debug)]
pub(crate) struct RopeSpec<'a> {
    pub pairs: Pairs,
    /// Elements of a head that turn, an even number; the rest stay.
    pub turning: usize,
    pub base: f32,
    pub scaling: Scaling,
    /// Each pair's frequency is divided by its factor.
    pub factors: Option<&'a [f32]>,
    /// The turned elements are multiplied by this, too.
    pub magnitude: f32,
}

/// Angles per position step, one per pair.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    pairs: Pairs,
    frequencies: Vec<f64>,
    magnitude: f64,
}

impl Rope {
    /// Compute the table.
    pub fn new(spec: &RopeSpec<'_>) -> Self {
        let n = spec.turning as f64;
        let ln = ln64(f64::from(spec.base));
        let frequency = |i: usize| {
            let plain = exp64(-(2.0 * i as f64 / n) * ln);
            let factor = spec.factors.map_or(1.0, |f| f64::from(f[i]));
            stretch(&spec.scaling, plain / factor, i, n, ln)
        };
        Self {
            pairs: spec.pairs,
            frequencies: (0..spec.turning / 2).map(frequency).collect(),
            magnitude: f64::from(spec.magnitude) * magnitude(&spec.scaling),
        }
    }

    /// Which elements turn together.
    pub fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// Elements of a head that turn.
    pub fn turning(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// The largest angle of a step: at most about 1 in any real model.
    pub fn fastest(&self) -> f64 {
        self.frequencies.iter().copied().fold(0.0, f64::max)
    }

    /// Cosines, then sines, of one position: [`Self::turning`] numbers, multiplied
    /// by the magnitude, rounded to f32 last.
    pub fn angles(&self, position: u32, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (s, c) = sin_cos64(f64::from(position) * frequency);
            cos[i] = (c * self.magnitude) as f32;
            sin[i] = (s * self.magnitude) as f32;
        }
    }

    /// Turn every head (of `dim` elements) of a row by the angles of its position:
    /// `(a, b) = (a cos - b sin, b cos + a sin)`, each product rounded.
    pub fn rotate(&self, heads: &mut [f32], dim: usize, angles: &[f32]) {
        let half = self.frequencies.len();
        let (cos, sin) = angles.split_at(half);
        for head in heads.chunks_exact_mut(dim) {
            match self.pairs {
                Pairs::Halves => {
                    let (a, b) = head[..2 * half].split_at_mut(half);
                    for i in 0..half {
                        (a[i], b[i]) = turn(a[i], b[i], cos[i], sin[i]);
                    }
                }
                Pairs::Neighbours => {
                    for (i, [a, b]) in head.as_chunks_mut::<2>().0[..half].iter_mut().enumerate() {
                        (*a, *b) = turn(*a, *b, cos[i], sin[i]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

fn stretch(scaling: &Scaling, plain: f64, i: usize, n: f64, ln_base: f64) -> f64 {
    match scaling {
        Scaling::None => plain,
        Scaling::Linear { factor } => plain / f64::from(*factor),
        Scaling::Yarn(yarn) => {
            // The pair that turns `turns` times within the original context.
            let pair = |turns: f32| {
                let length = f64::from(yarn.original) / (f64::from(turns) * std::f64::consts::TAU);
                n * ln64(length) / (2.0 * ln_base)
            };
            let low = pair(yarn.fast).floor().max(0.0);
            let high = pair(yarn.slow).ceil().min(n - 1.0);
            let ramp = (i as f64 - low) / (high - low).max(0.001);
            let keep = 1.0 - ramp.clamp(0.0, 1.0);
            (plain / f64::from(yarn.factor)) * (1.0 - keep) + plain * keep
        }
    }
}

fn magnitude(scaling: &Scaling) -> f64 {
    let Scaling::Yarn(yarn) = scaling else {
        return 1.0;
    };
    let grown = |multiplier: f64| match yarn.factor > 1.0 {
        true => 0.1 * multiplier * ln64(f64::from(yarn.factor)) + 1.0,
        false => 1.0,
    };
    match yarn.log_multiplier == 0.0 {
        true => grown(1.0),
        false => grown(1.0) / grown(f64::from(yarn.log_multiplier)),
    }
}
