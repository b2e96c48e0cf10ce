//! Weight matrices on a device, and their products with activations.
//!
//! Matrices that read the same activations (queries, keys and values; gate and up) are
//! stacked and computed by one launch per storage type. Bits: NUMERICS.md, as on a CPU.

use super::CudaError;
use super::backend::Arg::{Pointer, U32};
use super::backend::{Backend, Buffer, GRID_Y, Launch};
use crate::gguf::TensorType;
use std::sync::Arc;

/// Rows interleaved.
const ROWS: usize = 16;
/// Elements of a Q8_0 block.
const BLOCK: usize = 32;
/// Bytes of a Q8_0 block in a file: a scale and the codes.
const Q8_BYTES: usize = 34;
/// Tokens that one block of threads takes.
const TILE: usize = 8;

/// Rows of a tensor of a file: `rows` of the stack's `k` elements, and their bias.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a> {
    pub name: &'a str,
    pub ty: TensorType,
    pub bytes: &'a [u8],
    pub rows: usize,
    pub bias: Option<&'a [f32]>,
}

/// Matrices of rows of `k` elements, one below the other.
pub(crate) struct Stack {
    pub k: usize,
    pub rows: usize,
    parts: Vec<Part>,
}

struct Part {
    /// Rows above it.
    first: usize,
    rows: usize,
    weights: Weights,
    bias: Option<Buffer<f32>>,
}

enum Weights {
    /// Codes `[group][block][half][row][16]` and f16 scales `[group][block][row]`.
    Q8(Buffer<i8>, Buffer<u16>),
    /// `[group][k][row]`.
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    Bf16(Buffer<u16>),
}

/// Inputs of a stack: rows of `k` elements as they are and quantised; only what
/// [`Stack::needs`] says is ever filled.
pub(crate) struct Activations {
    pub plain: Buffer<f32>,
    pub codes: Buffer<i8>,
    pub scales: Buffer<f32>,
}

/// The forms of activations that a stack reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub plain: bool,
    pub q8: bool,
}

impl Activations {
    pub fn new(device: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        Ok(Self {
            plain: Buffer::new(device, 0)?,
            codes: Buffer::new(device, 0)?,
            scales: Buffer::new(device, 0)?,
        })
    }

    /// Room for `n` elements in the forms needed.
    pub fn grow(&mut self, n: usize, needs: Needs) -> Result<(), CudaError> {
        if needs.plain {
            self.plain.grow(n)?;
        }
        if needs.q8 {
            self.codes.grow(n)?;
            self.scales.grow(n.div_ceil(BLOCK))?;
        }
        Ok(())
    }
}

impl Stack {
    /// Pack and upload. Neighbours of one type become one part where the upper one
    /// ends with a whole group of sixteen rows.
    pub fn upload(
        device: &Arc<dyn Backend>,
        k: usize,
        tensors: &[Tensor<'_>],
    ) -> Result<Self, CudaError> {
        let mut runs: Vec<Vec<Tensor<'_>>> = Vec::new();
        for tensor in tensors {
            match runs.last_mut() {
                Some(run) if joins(run, tensor) => run.push(*tensor),
                _ => runs.push(vec![*tensor]),
            }
        }
        let (mut parts, mut first) = (Vec::new(), 0);
        for run in runs {
            let rows: usize = run.iter().map(|t| t.rows).sum();
            let bias: Option<Vec<f32>> = run
                .iter()
                .map(|t| t.bias)
                .collect::<Option<Vec<_>>>()
                .map(|b| b.concat());
            parts.push(Part {
                first,
                rows,
                weights: upload(device, k, rows, &run)?,
                bias: bias.map(|b| Buffer::of(device, &b)).transpose()?,
            });
            first += rows;
        }
        Ok(Self {
            k,
            rows: first,
            parts,
        })
    }

    /// What [`Self::product`] reads.
    pub fn needs(&self) -> Needs {
        let q8 = |p: &Part| matches!(p.weights, Weights::Q8(..));
        Needs {
            plain: self.parts.iter().any(|p| !q8(p)),
            q8: self.parts.iter().any(q8),
        }
    }

    /// `out[t] = matrix * x[t]` for `tokens` rows of activations.
    pub fn product(
        &self,
        device: &Arc<dyn Backend>,
        x: &Activations,
        tokens: usize,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let (n, needs) = (tokens * self.k, self.needs());
        assert!(tokens > 0 && out.len() >= tokens * self.rows);
        assert!(!needs.plain || x.plain.len() >= n);
        assert!(!needs.q8 || (x.codes.len() >= n && x.scales.len() * BLOCK >= n));
        for part in &self.parts {
            part.product(device, self, x, tokens, out)?;
        }
        Ok(())
    }
}

/// Whether a tensor can be one part with those above it.
fn joins(run: &[Tensor<'_>], tensor: &Tensor<'_>) -> bool {
    let whole = run.iter().all(|t| t.rows % ROWS == 0);
    whole && run[0].ty == tensor.ty && run[0].bias.is_some() == tensor.bias.is_some()
}

impl Part {
    fn product(
        &self,
        device: &Arc<dyn Backend>,
        stack: &Stack,
        x: &Activations,
        tokens: usize,
        out: &Buffer<f32>,
    ) -> Result<(), CudaError> {
        let tail = |k: usize| (U32(self.rows as u32), U32(k as u32));
        let (tokens_arg, stride) = (U32(tokens as u32), U32(stack.rows as u32));
        let bias = self.bias.as_ref().map_or(Pointer(0), Buffer::arg);
        let out = out.arg_at(self.first);
        let floats = |name, weights| {
            let (rows, k) = tail(stack.k);
            let args = vec![
                weights,
                rows,
                k,
                x.plain.arg(),
                tokens_arg,
                bias,
                out,
                stride,
            ];
            (name, TILE, args)
        };
        let (kernel, tile, args) = match &self.weights {
            Weights::Q8(codes, scales) => {
                let (rows, blocks) = tail(stack.k / BLOCK);
                let (name, tile) = match tokens {
                    1 => ("linear_q8_one", 1),
                    _ => ("linear_q8_eight", TILE),
                };
                let (x, s) = (x.codes.arg(), x.scales.arg());
                let head = [codes.arg(), scales.arg(), rows, blocks, x, s];
                (
                    name,
                    tile,
                    [&head[..], &[tokens_arg, bias, out, stride]].concat(),
                )
            }
            Weights::F32(w) => floats("linear_f32", w.arg()),
            Weights::F16(w) => floats("linear_f16", w.arg()),
            Weights::Bf16(w) => floats("linear_bf16", w.arg()),
        };
        let launch = Launch {
            kernel,
            grid: [self.rows.div_ceil(ROWS), tokens.div_ceil(tile)],
            threads: 128,
            shared: 0,
        };
        assert!(launch.grid[1] <= GRID_Y);
        // SAFETY: the arguments are those of the kernels in `linear_q8.cu` and
        // `linear_float.cu`. They read the groups of this part, which `upload` packed
        // whole, and `tokens` rows of activations, and write `tokens` rows below
        // `first + rows`: lengths compared in `Stack::product`. All buffers outlive the
        // launch: freeing waits for it.
        unsafe { device.launch(&launch, &args) }
    }
}

fn upload(
    device: &Arc<dyn Backend>,
    k: usize,
    rows: usize,
    run: &[Tensor<'_>],
) -> Result<Weights, CudaError> {
    let bytes: Vec<u8>;
    let all = match run {
        [one] => one.bytes,
        many => {
            bytes = many.iter().flat_map(|t| t.bytes.iter().copied()).collect();
            &bytes
        }
    };
    let half = |i: usize| {
        all.as_chunks::<2>()
            .0
            .get(i)
            .map_or(0, |b| u16::from_le_bytes(*b))
    };
    match run[0].ty {
        TensorType::Q8_0 => {
            let (codes, scales) = pack_q8(all, k / BLOCK, rows.div_ceil(ROWS));
            Ok(Weights::Q8(
                Buffer::of(device, &codes)?,
                Buffer::of(device, &scales)?,
            ))
        }
        TensorType::F32 => {
            let float = |i: usize| {
                all.as_chunks::<4>()
                    .0
                    .get(i)
                    .map_or(0.0, |b| f32::from_le_bytes(*b))
            };
            let packed = interleave(k, rows, float);
            Ok(Weights::F32(Buffer::of(device, &packed)?))
        }
        TensorType::F16 => Ok(Weights::F16(Buffer::of(
            device,
            &interleave(k, rows, half),
        )?)),
        TensorType::BF16 => Ok(Weights::Bf16(Buffer::of(
            device,
            &interleave(k, rows, half),
        )?)),
        ty => Err(CudaError::Quantisation {
            name: run[0].name.to_owned(),
            ty,
        }),
    }
}

/// Rows beyond the last are zero.
fn pack_q8(bytes: &[u8], blocks: usize, groups: usize) -> (Vec<i8>, Vec<u16>) {
    let mut codes = vec![0i8; groups * blocks * ROWS * BLOCK];
    let mut scales = vec![0u16; groups * blocks * ROWS];
    for (i, source) in bytes.as_chunks::<Q8_BYTES>().0.iter().enumerate() {
        let (row, block) = (i / blocks, i % blocks);
        let at = row / ROWS * blocks + block;
        scales[at * ROWS + row % ROWS] = u16::from_le_bytes([source[0], source[1]]);
        for (half, sixteen) in source[2..].as_chunks::<16>().0.iter().enumerate() {
            let to = (at * 2 + half) * ROWS + row % ROWS;
            codes[to * 16..to * 16 + 16].copy_from_slice(&sixteen.map(|b| b as i8));
        }
    }
    (codes, scales)
}

fn interleave<T: Copy + Default>(k: usize, rows: usize, at: impl Fn(usize) -> T) -> Vec<T> {
    let mut out = vec![T::default(); rows.div_ceil(ROWS) * k * ROWS];
    for row in 0..rows {
        for i in 0..k {
            out[(row / ROWS * k + i) * ROWS + row % ROWS] = at(row * k + i);
        }
    }
    out
}
