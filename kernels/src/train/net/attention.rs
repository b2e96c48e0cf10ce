//! Causal attention with grouped heads, norms on the heads, and rotary positions: forward and
//! backward.
//!
//! Queries are taken in blocks of 64 rows; a block looks at the keys up to its own end, so a
//! little more than half of the square is computed. Gradients of a key head add up over its
//! query heads and over the blocks, both ascending. Called by [`super::pass`].

use super::{LN_ROPE_BASE, NORM_EPS, Shape};
use crate::train::gemm::{Level, Scratch, View, gemm};
use crate::train::math;

/// Query rows that are worked on at a time.
const BLOCK: usize = 64;

/// Cosines and sines of all positions, half a head each.
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rope {
    /// The table for positions below `positions`.
    pub fn new(head_dim: usize, positions: usize) -> Self {
        let half = head_dim / 2;
        let mut rope = Self {
            cos: Vec::new(),
            sin: Vec::new(),
            half,
        };
        for p in 0..positions {
            for i in 0..half {
                let freq = math::exp(-LN_ROPE_BASE * (2 * i) as f32 / head_dim as f32);
                let (s, c) = math::sin_cos(p as f32 * freq);
                rope.cos.push(c);
                rope.sin.push(s);
            }
        }
        rope
    }

    /// Turns one head at position `p`, the two halves against each other (NEOX order);
    /// `sign` -1 turns back.
    fn turn(&self, head: &mut [f32], p: usize, sign: f32) {
        let table = p * self.half..(p + 1) * self.half;
        let (lo, hi) = head.split_at_mut(self.half);
        let angles = self.cos[table.clone()].iter().zip(&self.sin[table]);
        for ((x, y), (&c, &s)) in lo.iter_mut().zip(hi).zip(angles) {
            let (a, b) = (*x, *y);
            let s = s * sign;
            *x = a * c - b * s;
            *y = b * c + a * s;
        }
    }
}

/// `y = x / rms(x) * w`; returns 1 / rms(x).
pub fn norm(x: &[f32], w: &[f32], y: &mut [f32]) -> f32 {
    let inv = 1.0 / (math::dot(x, x) / x.len() as f32 + NORM_EPS).sqrt();
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = (x * inv) * w;
    }
    inv
}

/// Gradient of [`norm`]: adds to `dw` and to `dx`. `wdy` is room for one row.
pub fn norm_back(
    x: &[f32],
    w: &[f32],
    inv: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    wdy: &mut [f32],
) {
    for (((t, d), (&x, &w)), &dy) in wdy.iter_mut().zip(dw).zip(x.iter().zip(w)).zip(dy) {
        *t = w * dy;
        *d += dy * (x * inv);
    }
    let wdy = &wdy[..x.len()];
    let k = math::dot(wdy, x) / x.len() as f32 * (inv * inv);
    for ((dx, &t), &x) in dx.iter_mut().zip(wdy).zip(x) {
        *dx += inv * (t - x * k);
    }
}

/// Norm and rotation of every head of every position: `raw` to `out`.
pub fn heads(
    raw: &[f32],
    w: &[f32],
    rope: &Rope,
    per_row: usize,
    out: &mut [f32],
    inv: &mut [f32],
) {
    let hd = w.len();
    let all = raw.chunks_exact(hd).zip(out.chunks_exact_mut(hd)).zip(inv);
    for (i, ((raw, out), inv)) in all.enumerate() {
        *inv = norm(raw, w, out);
        rope.turn(out, i / per_row, 1.0);
    }
}

/// Gradient of [`heads`]: `d` comes in as the gradient of its output and leaves as that of `raw`.
pub fn heads_back(
    raw: &[f32],
    w: &[f32],
    rope: &Rope,
    per_row: usize,
    inv: &[f32],
    d: &mut [f32],
    dw: &mut [f32],
) {
    let hd = w.len();
    let (mut dy, mut room) = (vec![0.0; hd], vec![0.0; hd]);
    for (i, ((raw, d), &inv)) in raw
        .chunks_exact(hd)
        .zip(d.chunks_exact_mut(hd))
        .zip(inv)
        .enumerate()
    {
        rope.turn(d, i / per_row, -1.0);
        dy.copy_from_slice(d);
        d.fill(0.0);
        norm_back(raw, w, inv, &dy, d, dw, &mut room);
    }
}

/// Probabilities `p` (heads x rows x rows) and their mixture of values, `ctx`.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    shape: &Shape,
    (level, scratch): (Level, &mut Scratch),
    rows: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    p: &mut [f32],
    ctx: &mut [f32],
) {
    let (qw, kw, hd) = (shape.q_width(), shape.kv_width(), shape.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    for h in 0..shape.heads {
        let g = h / (shape.heads / shape.kv_heads) * hd;
        for i in (0..rows).step_by(BLOCK) {
            let (m, n) = (BLOCK.min(rows - i), rows.min(i + BLOCK));
            let p = &mut p[(h * rows + i) * rows..(h * rows + i + m) * rows];
            let (qv, kv) = (
                View::rows(&q[i * qw + h * hd..], qw),
                View::rows(&k[g..], kw),
            );
            gemm(level, scratch, (m, n, hd), qv, kv.t(), p, rows, false);
            for (r, row) in p.chunks_exact_mut(rows).enumerate() {
                let (seen, rest) = row.split_at_mut(i + r + 1);
                for x in seen.iter_mut() {
                    *x *= scale;
                }
                math::softmax(seen);
                rest.fill(0.0);
            }
            let vv = View::rows(&v[g..], kw);
            gemm(
                level,
                scratch,
                (m, hd, n),
                View::rows(p, rows),
                vv,
                &mut ctx[i * qw + h * hd..],
                qw,
                false,
            );
        }
    }
}

/// Gradient of [`forward`]. `dq`, `dk`, `dv` must come in as zeros; `ds` is room for
/// 64 x rows.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    shape: &Shape,
    (level, scratch): (Level, &mut Scratch),
    rows: usize,
    (q, k, v, p): (&[f32], &[f32], &[f32], &[f32]),
    dctx: &[f32],
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
    ds: &mut [f32],
) {
    let (qw, kw, hd) = (shape.q_width(), shape.kv_width(), shape.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    for h in 0..shape.heads {
        let g = h / (shape.heads / shape.kv_heads) * hd;
        for i in (0..rows).step_by(BLOCK) {
            let (m, n) = (BLOCK.min(rows - i), rows.min(i + BLOCK));
            let at = i * qw + h * hd;
            let p = &p[(h * rows + i) * rows..(h * rows + i + m) * rows];
            let dc = View::rows(&dctx[at..], qw);
            gemm(
                level,
                scratch,
                (m, n, hd),
                dc,
                View::rows(&v[g..], kw).t(),
                ds,
                rows,
                false,
            );
            gemm(
                level,
                scratch,
                (n, hd, m),
                View::rows(p, rows).t(),
                dc,
                &mut dv[g..],
                kw,
                true,
            );
            for (r, (ds, p)) in ds
                .chunks_exact_mut(rows)
                .zip(p.chunks_exact(rows))
                .enumerate()
            {
                let seen = i + r + 1;
                let mean = math::dot(&ds[..seen], &p[..seen]);
                for (d, &p) in ds[..seen].iter_mut().zip(p) {
                    *d = p * (*d - mean) * scale;
                }
                ds[seen..].fill(0.0);
            }
            let dsv = View::rows(ds, rows);
            gemm(
                level,
                scratch,
                (m, hd, n),
                dsv,
                View::rows(&k[g..], kw),
                &mut dq[at..],
                qw,
                false,
            );
            gemm(
                level,
                scratch,
                (n, hd, m),
                dsv.t(),
                View::rows(&q[at..], qw),
                &mut dk[g..],
                kw,
                true,
            );
        }
    }
}
