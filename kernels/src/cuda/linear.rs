//! Weight matrices on a device, and their products with activations.
//!
//! Matrices that read the same activations (queries, keys and values; gate and up) are
//! stacked and computed by one launch per storage type. Bits: NUMERICS.md, as on a CPU.

use super::CudaError;
use super::activations::{Activations, Needs};
use super::backend::Arg::{Pointer, U32};
use super::backend::{Arg, Backend, Buffer, GRID_Y, Launch};
use super::pack::{self, BLOCK, KQuant, ROWS, SUPER, Small};
use crate::gguf::TensorType;
use crate::ops::dequant;
use std::sync::Arc;

/// Tokens that one block of threads takes, where there are several.
const TILE: usize = 8;
/// Tokens that a block of threads takes on tensor cores, where there are many, and its
/// groups of rows.
const TILES: (usize, usize) = (64, 4);
/// Tokens from which that is worth it: a few times [`TILE`], for a tile is computed
/// whole. A guess until it has been measured.
const MANY: usize = 24;

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
    /// Rows; of one expert, where there are several.
    rows: usize,
    weights: Weights,
    bias: Option<Buffer<f32>>,
}

/// Kernel, tokens and groups of rows it takes at a time, its weights, its activations.
type Choice = (&'static str, (usize, usize), Vec<Arg>, Vec<Arg>);

/// In the layouts of `pack`.
enum Weights {
    Small(Small, Buffer<i8>, Buffer<u16>),
    K(KQuant, Buffer<i8>, Buffer<u32>),
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    Bf16(Buffer<u16>),
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
            let part = Part::upload(device, k, first, &run)?;
            first += part.rows;
            parts.push(part);
        }
        Ok(Self {
            k,
            rows: first,
            parts,
        })
    }

    /// Matrices of experts: `tensors[i]` holds those of all experts, each of whose outputs
    /// stands below those of `tensors[i - 1]`. Rows of one are whole groups of sixteen.
    pub fn upload_experts(
        device: &Arc<dyn Backend>,
        k: usize,
        tensors: &[Vec<Tensor<'_>>],
    ) -> Result<Self, CudaError> {
        let (mut parts, mut first) = (Vec::new(), 0);
        for experts in tensors {
            let rows = experts[0].rows;
            assert!(rows.is_multiple_of(ROWS) && experts.iter().all(|e| e.rows == rows));
            let mut part = Part::upload(device, k, first, experts)?;
            part.rows = rows;
            first += rows;
            parts.push(part);
        }
        Ok(Self {
            k,
            rows: first,
            parts,
        })
    }

    /// What [`Self::product`] reads.
    pub fn needs(&self) -> Needs {
        let any = |kind: fn(&Weights) -> bool| self.parts.iter().any(|p| kind(&p.weights));
        Needs {
            plain: any(|w| matches!(w, Weights::F32(_) | Weights::F16(_) | Weights::Bf16(_))),
            q8: any(|w| matches!(w, Weights::Small(..))),
            k: any(|w| matches!(w, Weights::K(..))),
        }
    }

    /// `out[t] = matrix * x[t] + bias` for `tokens` rows of activations.
    pub fn product(
        &self,
        device: &Arc<dyn Backend>,
        x: &Activations,
        tokens: usize,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        x.check(tokens, self.k, self.needs());
        assert!(out.len() >= tokens * self.rows);
        for part in &self.parts {
            part.product(device, self, x, tokens, out, None)?;
        }
        Ok(())
    }

    /// `out[c] = matrix of expert * x[c / sharing] + its bias` for the experts of `choices`
    /// choices; `x` has a row for each `sharing` of them. The caller knows that all chosen
    /// are experts.
    pub fn product_of_chosen(
        &self,
        device: &Arc<dyn Backend>,
        x: &Activations,
        choices: &Choices<'_>,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let Choices {
            chosen,
            count,
            sharing,
        } = *choices;
        x.check(count.div_ceil(sharing), self.k, self.needs());
        assert!(out.len() >= count * self.rows && chosen.len() >= count);
        for part in &self.parts {
            part.product(device, self, x, count, out, Some(choices))?;
        }
        Ok(())
    }
}

/// Which experts are computed.
#[derive(Clone, Copy)]
pub(crate) struct Choices<'a> {
    /// An expert for each choice.
    pub chosen: &'a Buffer<u32>,
    pub count: usize,
    /// Choices that read the same row of activations.
    pub sharing: usize,
}

/// Whether a tensor can be one part with those above it.
fn joins(run: &[Tensor<'_>], tensor: &Tensor<'_>) -> bool {
    let whole = run.iter().all(|t| t.rows % ROWS == 0);
    whole && run[0].ty == tensor.ty && run[0].bias.is_some() == tensor.bias.is_some()
}

impl Part {
    fn upload(
        device: &Arc<dyn Backend>,
        k: usize,
        first: usize,
        run: &[Tensor<'_>],
    ) -> Result<Self, CudaError> {
        let rows: usize = run.iter().map(|t| t.rows).sum();
        let joined: Vec<u8>;
        let bytes = match run {
            [one] => one.bytes,
            many => {
                joined = many.iter().flat_map(|t| t.bytes).copied().collect();
                &joined
            }
        };
        let weights = Weights::upload(device, run[0].ty, bytes, k, rows)?;
        let weights = weights.ok_or_else(|| CudaError::Quantisation {
            name: run[0].name.to_owned(),
            ty: run[0].ty,
        })?;
        let biases: Option<Vec<&[f32]>> = run.iter().map(|t| t.bias).collect();
        let bias = biases
            .map(|b| Buffer::of(device, &b.concat()))
            .transpose()?;
        Ok(Self {
            first,
            rows,
            weights,
            bias,
        })
    }

    fn product(
        &self,
        device: &Arc<dyn Backend>,
        stack: &Stack,
        x: &Activations,
        tokens: usize,
        out: &Buffer<f32>,
        choices: Option<&Choices<'_>>,
    ) -> Result<(), CudaError> {
        // Choices are computed one by one: each may have another matrix.
        let at_once = if choices.is_some() { 1 } else { tokens };
        let (kernel, (tile, groups), weights, inputs) = self.weights.kernel(x, at_once);
        let tile = if choices.is_some() { 1 } else { tile };
        let block = match self.weights {
            Weights::Small(..) => BLOCK,
            Weights::K(..) => SUPER,
            _ => 1,
        };
        let mut args = weights;
        args.extend([U32(self.rows as u32), U32((stack.k / block) as u32)]);
        args.extend(inputs);
        args.push(U32(tokens as u32));
        args.push(self.bias.as_ref().map_or(Pointer(0), Buffer::arg));
        args.extend([out.arg_at(self.first), U32(stack.rows as u32)]);
        if groups == 1 {
            let chosen = choices.map_or(Pointer(0), |c| c.chosen.arg());
            args.extend([chosen, U32(choices.map_or(1, |c| c.sharing as u32))]);
        }
        let launch = Launch {
            kernel,
            grid: [self.rows.div_ceil(ROWS * groups), tokens.div_ceil(tile)],
            threads: 128,
            shared: 0,
        };
        assert!(launch.grid[1] <= GRID_Y);
        // SAFETY: the arguments are those of the kernels in `linear_blocks.cu`,
        // `linear_tiles.cu`, `linear_k.cu` and `linear_float.cu`. They read the groups of
        // this part, which `pack` made whole, its bias, and `tokens` rows of activations, and write `tokens` rows
        // below `first + rows`: lengths compared in `Stack::product`; of experts, the
        // groups and biases of those chosen, compared in `product_of_chosen`. All buffers
        // outlive the launch: freeing waits for it.
        unsafe { device.launch(&launch, &args) }
    }
}

impl Weights {
    /// None, where there is no kernel for the type.
    fn upload(
        device: &Arc<dyn Backend>,
        ty: TensorType,
        bytes: &[u8],
        k: usize,
        rows: usize,
    ) -> Result<Option<Self>, CudaError> {
        let groups = rows.div_ceil(ROWS);
        let halves = || {
            let all = bytes.as_chunks::<2>().0;
            Buffer::of(
                device,
                &pack::interleave(k, rows, |i| u16::from_le_bytes(all[i])),
            )
        };
        Ok(Some(match ty {
            TensorType::F32 => {
                let all = bytes.as_chunks::<4>().0;
                let packed = pack::interleave(k, rows, |i| f32::from_le_bytes(all[i]));
                Self::F32(Buffer::of(device, &packed)?)
            }
            TensorType::F16 => Self::F16(halves()?),
            TensorType::BF16 => Self::Bf16(halves()?),
            ty => match (Small::of(ty), KQuant::of(ty)) {
                (Some(kind), _) => {
                    let (codes, scales) = pack::small(ty, kind, bytes, k / BLOCK, groups);
                    Self::Small(
                        kind,
                        Buffer::of(device, &codes)?,
                        Buffer::of(device, &scales)?,
                    )
                }
                (None, Some(kind)) => {
                    let (pieces, d) = kind.pack(bytes, k / SUPER, groups);
                    Self::K(kind, Buffer::of(device, &pieces)?, Buffer::of(device, &d)?)
                }
                (None, None) if dequant::reads(ty) => {
                    let mut all = vec![0.0; k * rows];
                    dequant::row(ty, bytes, &mut all);
                    Self::F32(Buffer::of(device, &pack::interleave(k, rows, |i| all[i]))?)
                }
                (None, None) => return Ok(None),
            },
        }))
    }

    /// How to compute so many tokens.
    fn kernel(&self, x: &Activations, tokens: usize) -> Choice {
        let choose = |[one, several]: [&'static str; 2]| match tokens {
            1 => (one, (1, 1)),
            _ => (several, (TILE, 1)),
        };
        let floats = |name, w| (name, (TILE, 1), vec![w], vec![x.plain.arg()]);
        match self {
            Self::Small(kind, codes, scales) => {
                let [one, eight, many] = kind.kernels();
                let (name, tile) = match tokens {
                    MANY.. => (many, TILES),
                    _ => choose([one, eight]),
                };
                let inputs = vec![x.q8.codes.arg(), x.q8.scales.arg()];
                (name, tile, vec![codes.arg(), scales.arg()], inputs)
            }
            Self::K(kind, pieces, d) => {
                let (name, tile) = choose(kind.kernels());
                let inputs = vec![x.k.codes.arg(), x.k.scales.arg(), x.sums.arg()];
                (name, tile, vec![pieces.arg(), d.arg()], inputs)
            }
            Self::F32(w) => floats("linear_f32", w.arg()),
            Self::F16(w) => floats("linear_f16", w.arg()),
            Self::Bf16(w) => floats("linear_bf16", w.arg()),
        }
    }
}
