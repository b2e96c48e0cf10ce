//! The steps between matrices, as safe calls: every length is compared with the
//! shapes before a kernel starts.

use super::CudaError;
use super::activations::{Activations, Needs};
use super::backend::Arg::{F32, Pointer, U32, U64};
use super::backend::{Arg, Backend, Buffer, GRID_Y, Launch, SHARED_BYTES};
use super::frame::{Frame, query_bytes};

use crate::model::graph::AttentionShape;
use crate::ops::norm::Activation;
use std::sync::Arc;

/// Experts, and those that a row takes, for which `experts.cu` has room.
pub(crate) const MOST_EXPERTS: usize = 2048;
pub(crate) const MOST_USED: usize = 64;

fn rows_launch(kernel: &'static str, rows: usize, shared: usize) -> Launch {
    Launch {
        kernel,
        grid: [rows, 1],
        threads: 256,
        shared,
    }
}

/// RMS norm of `rows` rows of `weight.len()` elements, in the forms needed.
pub(crate) fn rms_norm(
    device: &Arc<dyn Backend>,
    x: &Buffer<f32>,
    rows: usize,
    weight: &Buffer<f32>,
    epsilon: f32,
    (out, needs): (&mut Activations, Needs),
) -> Result<(), CudaError> {
    out.check(rows, weight.len(), needs);
    norm_into(
        device,
        (x, Pointer(0)),
        rows,
        weight,
        epsilon,
        out.outputs(needs),
    )
}

/// [`rms_norm`] of the rows of `x` that the first words of `from` name; the caller has
/// compared them with the rows there are.
pub(crate) fn rms_norm_of(
    device: &Arc<dyn Backend>,
    (x, from): (&Buffer<f32>, &Buffer<u32>),
    rows: usize,
    weight: &Buffer<f32>,
    epsilon: f32,
    (out, needs): (&mut Activations, Needs),
) -> Result<(), CudaError> {
    out.check(rows, weight.len(), needs);
    assert!(from.len() >= rows);
    norm_into(
        device,
        (x, from.arg()),
        rows,
        weight,
        epsilon,
        out.outputs(needs),
    )
}

/// [`rms_norm`] in place.
pub(crate) fn rms_norm_in_place(
    device: &Arc<dyn Backend>,
    x: &mut Buffer<f32>,
    rows: usize,
    weight: &Buffer<f32>,
    epsilon: f32,
) -> Result<(), CudaError> {
    let mut outputs = [Pointer(0); 6];
    outputs[0] = x.arg();
    norm_into(device, (x, Pointer(0)), rows, weight, epsilon, outputs)
}

fn norm_into(
    device: &Arc<dyn Backend>,
    (x, from): (&Buffer<f32>, Arg),
    rows: usize,
    weight: &Buffer<f32>,
    epsilon: f32,
    outputs: [Arg; 6],
) -> Result<(), CudaError> {
    let n = weight.len();
    let all = if from == Pointer(0) { rows } else { 1 };
    assert!(rows > 0 && x.len() >= all * n && 4 * n <= SHARED_BYTES);
    let (n_arg, epsilon) = (U32(n as u32), F32(epsilon));
    let head = [x.arg(), from, weight.arg(), n_arg, epsilon];
    let args = [&head[..], &outputs].concat();
    // SAFETY: the arguments of `rms_norm` in `norm.cu`, which touches `rows` rows of `n`
    // of each buffer that is not null, and 4 n bytes of shared memory: compared above
    // and by the callers.
    unsafe { device.launch(&rows_launch("rms_norm", rows, 4 * n), &args) }
}

/// `activation(gate, up)` of `rows` rows of n gates and n ups, in the forms needed.
pub(crate) fn gated(
    device: &Arc<dyn Backend>,
    activation: Activation,
    gate_up: &Buffer<f32>,
    (rows, n): (usize, usize),
    (out, needs): (&mut Activations, Needs),
) -> Result<(), CudaError> {
    assert!(gate_up.len() >= rows * 2 * n);
    out.check(rows, n, needs);
    let kind = match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
        Activation::SwigluClamped => 3,
    };
    let head = [gate_up.arg(), U32(n as u32), U32(kind)];
    let args = [&head[..], &out.outputs(needs)].concat();
    // SAFETY: the arguments of `gated` in `norm.cu`; lengths compared above.
    unsafe { device.launch(&rows_launch("gated", rows, 0), &args) }
}

/// Quantise `rows` rows of n elements that are in `out.plain`, where needed.
pub(crate) fn quantise(
    device: &Arc<dyn Backend>,
    out: &mut Activations,
    (rows, n): (usize, usize),
    needs: Needs,
) -> Result<(), CudaError> {
    if !needs.q8 && !needs.k {
        return Ok(());
    }
    out.check(
        rows,
        n,
        Needs {
            plain: true,
            ..needs
        },
    );
    let mut args = vec![out.plain.arg(), U32(n as u32)];
    args.extend(&out.outputs(needs)[1..]);
    // SAFETY: the arguments of `quantise` in `norm.cu`; lengths compared above.
    unsafe { device.launch(&rows_launch("quantise", rows, 0), &args) }
}

/// `x = x + y` for the first `n` elements.
pub(crate) fn residual(
    device: &Arc<dyn Backend>,
    x: &mut Buffer<f32>,
    y: &Buffer<f32>,
    n: usize,
) -> Result<(), CudaError> {
    assert!(n > 0 && x.len() >= n && y.len() >= n);
    let args = [x.arg(), y.arg(), U32(n as u32)];
    // SAFETY: the arguments of `residual` in `norm.cu`; lengths compared above.
    unsafe { device.launch(&rows_launch("residual", n.div_ceil(256), 0), &args) }
}

/// Of every row of n elements, 1 where all are finite, otherwise 0.
pub(crate) fn all_finite(
    device: &Arc<dyn Backend>,
    x: &Buffer<f32>,
    (rows, n): (usize, usize),
    out: &mut Buffer<u32>,
) -> Result<(), CudaError> {
    assert!(rows > 0 && x.len() >= rows * n && out.len() >= rows);
    let args = [x.arg(), U32(n as u32), out.arg()];
    // SAFETY: the arguments of `all_finite` in `sample.cu`; lengths compared above.
    unsafe { device.launch(&rows_launch("all_finite", rows, 0), &args) }
}

/// `x = cap * tanh(x / cap)` for the first `n` elements.
pub(crate) fn cap(
    device: &Arc<dyn Backend>,
    x: &mut Buffer<f32>,
    cap: f32,
    n: usize,
) -> Result<(), CudaError> {
    assert!(n > 0 && x.len() >= n);
    let args = [x.arg(), F32(cap), U32(n as u32)];
    // SAFETY: the arguments of `cap` in `norm.cu`; lengths compared above.
    unsafe { device.launch(&rows_launch("cap", n.div_ceil(256), 0), &args) }
}

/// The experts of every row from its router logits, and their weights.
pub(crate) fn route(
    device: &Arc<dyn Backend>,
    router: &Buffer<f32>,
    (rows, count, used): (usize, usize, usize),
    scale: Option<f32>,
    (chosen, weights): (&mut Buffer<u32>, &mut Buffer<f32>),
) -> Result<(), CudaError> {
    assert!(rows > 0 && (1..=MOST_EXPERTS).contains(&count) && router.len() >= rows * count);
    assert!((1..=MOST_USED.min(count)).contains(&used));
    assert!(chosen.len() >= rows * used && weights.len() >= rows * used);
    let args = [
        router.arg(),
        U32(count as u32),
        U32(used as u32),
        F32(scale.unwrap_or(0.0)),
        chosen.arg(),
        weights.arg(),
    ];
    let launch = Launch {
        threads: 32,
        ..rows_launch("route", rows, 0)
    };
    // SAFETY: the arguments of `route` in `experts.cu`; lengths compared above.
    unsafe { device.launch(&launch, &args) }
}

/// Rows of `width` elements from those of their `used` choices, weighted.
pub(crate) fn combine(
    device: &Arc<dyn Backend>,
    made: &Buffer<f32>,
    weights: &Buffer<f32>,
    (rows, used, width): (usize, usize, usize),
    out: &mut Buffer<f32>,
) -> Result<(), CudaError> {
    assert!(rows > 0 && made.len() >= rows * used * width && out.len() >= rows * width);
    assert!(weights.len() >= rows * used && width.div_ceil(256) <= GRID_Y);
    let (used, n) = (U32(used as u32), U32(width as u32));
    let args = [made.arg(), weights.arg(), used, n, out.arg()];
    let launch = Launch {
        grid: [rows, width.div_ceil(256)],
        ..rows_launch("combine", rows, 0)
    };
    // SAFETY: the arguments of `combine` in `experts.cu`; lengths compared above.
    unsafe { device.launch(&launch, &args) }
}

/// All cache pages of a device.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'a> {
    pub all: &'a Buffer<u16>,
    /// f16 numbers of one page.
    pub page_len: usize,
}

/// A batch, and its words on the device.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub frame: &'a Frame,
    pub words: &'a Buffer<u32>,
}

/// What an attention has of its own on the device.
#[derive(Default)]
pub(crate) struct HeadWeights {
    pub query_norm: Option<Buffer<f32>>,
    pub key_norm: Option<Buffer<f32>>,
    pub sinks: Option<Buffer<f32>>,
}

pub(super) fn or_none(buffer: Option<&Buffer<f32>>, len: usize) -> Arg {
    assert!(buffer.is_none_or(|b| b.len() == len));
    buffer.map_or(Pointer(0), Buffer::arg)
}

pub(super) fn check_shapes(
    shape: &AttentionShape,
    qkv: &Buffer<f32>,
    pages: &Pages<'_>,
    batch: &Batch<'_>,
) {
    let row = shape.query_len() + 2 * shape.kv_len();
    assert!(qkv.len() >= batch.frame.rows * row);
    assert!(batch.words.len() >= batch.frame.words.len());
    assert!(shape.page_at + shape.kv_heads * shape.tile_len() <= pages.page_len);
    assert!(pages.all.len() >= batch.frame.pages * pages.page_len);
}

/// Norms, rope, and keys and values into the cache.
pub(crate) fn heads(
    device: &Arc<dyn Backend>,
    shape: &AttentionShape,
    weights: &HeadWeights,
    epsilon: f32,
    qkv: &mut Buffer<f32>,
    pages: &Pages<'_>,
    batch: &Batch<'_>,
) -> Result<(), CudaError> {
    check_shapes(shape, qkv, pages, batch);
    let (frame, words) = (batch.frame, batch.words);
    let all = shape.heads + 2 * shape.kv_heads;
    assert!(all <= GRID_Y);
    let rope = frame.rope(shape);
    let (angles, turning, neighbours) = rope.map_or((Pointer(0), 0, 0), |r| {
        assert!(r.turning <= shape.head_dim);
        (
            words.arg_at(r.at),
            r.turning as u32,
            u32::from(r.neighbours),
        )
    });
    let factors = frame
        .factors(shape)
        .map_or(Pointer(0), |at| words.arg_at(at));
    let args = [
        qkv.arg(),
        U32(shape.heads as u32),
        U32(shape.kv_heads as u32),
        U32(shape.head_dim as u32),
        or_none(weights.query_norm.as_ref(), shape.head_dim),
        or_none(weights.key_norm.as_ref(), shape.head_dim),
        F32(epsilon),
        angles,
        U32(turning),
        U32(neighbours),
        factors,
        pages.all.arg(),
        U64(pages.page_len as u64),
        U64(shape.page_at as u64),
        words.arg_at(frame.places_at),
    ];
    let launch = Launch {
        kernel: "heads",
        grid: [frame.rows, all],
        threads: 128,
        shared: 4 * shape.head_dim,
    };
    // SAFETY: the arguments of `heads` in `heads.cu`, which touches `rows` rows of `qkv`,
    // angles and factors, one tile of each KV head in pages that `Frame::new` has
    // compared with their number, and 4 bytes of shared memory per element of a head:
    // compared above.
    unsafe { device.launch(&launch, &args) }
}

/// Attention of all rows in one layer; `out` gets rows of all query heads.
pub(crate) fn attention(
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
    let group = shape.heads / shape.kv_heads;
    let fit = SHARED_BYTES / query_bytes(shape.head_dim) / frame.run_len;
    let at_once = group.min(fit).max(1);
    let launch = Launch {
        kernel: "attention",
        grid: [frame.runs, shape.kv_heads * group.div_ceil(at_once)],
        threads: 128,
        shared: frame.run_len * at_once * query_bytes(shape.head_dim),
    };
    assert!(out.len() >= frame.rows * shape.query_len());
    assert!(launch.shared <= SHARED_BYTES && launch.grid[1] <= GRID_Y);
    let args = [
        qkv.arg(),
        U32(shape.heads as u32),
        U32(shape.kv_heads as u32),
        U32(shape.head_dim as u32),
        pages.all.arg(),
        U64(pages.page_len as u64),
        U64(shape.page_at as u64),
        words.arg(),
        words.arg_at(frame.runs_at),
        words.arg_at(frame.tables_at),
        U32(frame.table_len as u32),
        U32(at_once as u32),
        F32(shape.scale),
        U32(shape.window.unwrap_or(u32::MAX)),
        F32(shape.cap.unwrap_or(0.0)),
        or_none(weights.sinks.as_ref(), shape.heads),
        out.arg(),
    ];
    // SAFETY: the arguments of `attention` in `attention.cu`, which reads rows of `qkv`
    // and pages of the tables (compared in `Frame::new`) up to the position of each
    // row, for which a page exists, and writes rows of `out`: compared above.
    unsafe { device.launch(&launch, &args) }
}
