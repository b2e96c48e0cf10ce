//! Every matrix kernel on ragged shapes: against the CPU's operations, and for K-quants
//! against NUMERICS.md written out, too.

use super::*;
use crate::cpu::Simd;
use crate::cuda::activations::{Activations, Needs};
use crate::cuda::linear::{Choices, Stack, Tensor};
use crate::cuda::steps;
use crate::ops::dequant::IQ4;
use crate::ops::dequant::k::{iq4_xs_code, iq4_xs_scale, q4_code, q5_code, q6_code, scale_min};
use crate::ops::linear::{Input, Product, linear};
use crate::ops::weights::Matrix;
use crate::pool::Pool;
use half::f16;

/// Numbers like a model's: mostly small, with outliers, tiny ones and zeros.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as u32
    }

    fn real(&mut self) -> f32 {
        let x = self.bits() as f32 / 2f32.powi(30) - 1.0;
        match self.bits() % 64 {
            0 => x * 100.0,
            1 => 0.0,
            2 => x * 1e-20,
            _ => x,
        }
    }

    fn reals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.real()).collect()
    }

    fn half(&mut self, size: f32) -> [u8; 2] {
        f16::from_f32(self.real() * size).to_le_bytes()
    }

    /// File bytes of `n` weights: every code and scale that the format has.
    fn weights(&mut self, ty: TensorType, n: usize) -> Vec<u8> {
        let (block, size) = (ty.block_len() as usize, ty.block_bytes() as usize);
        let mut bytes: Vec<u8> = (0..n / block * size).map(|_| self.bits() as u8).collect();
        for block in bytes.chunks_exact_mut(size) {
            match ty {
                TensorType::F32 => block.copy_from_slice(&self.real().to_le_bytes()),
                TensorType::F16 => block.copy_from_slice(&self.half(1.0)),
                TensorType::BF16 => block.copy_from_slice(&self.real().to_le_bytes()[2..]),
                TensorType::Q6_K => block[208..].copy_from_slice(&self.half(0.001)),
                TensorType::Q8_0 | TensorType::Q4_0 | TensorType::Q5_0 | TensorType::IQ4_NL => {
                    block[..2].copy_from_slice(&self.half(0.01));
                }
                // Every exponent but the one that is no number, most of them small.
                TensorType::MXFP4 => {
                    block[0] = (self.bits() % 255).min(120 + self.bits() % 8) as u8
                }
                _ => {
                    block[..2].copy_from_slice(&self.half(0.001));
                    block[2..4].copy_from_slice(&self.half(0.001));
                }
            }
        }
        bytes
    }
}

/// The device's product of two stacked matrices with quantised rows of `x`.
fn there(device: &Arc<dyn Backend>, k: usize, tensors: &[Tensor<'_>], x: &[f32]) -> Vec<f32> {
    let stack = Stack::upload(device, k, tensors).unwrap();
    let tokens = x.len() / k;
    let input = filled(device, k, stack.needs(), x);
    let mut out = Buffer::of(device, &vec![f32::NAN; tokens * stack.rows]).unwrap();
    stack.product(device, &input, tokens, &mut out).unwrap();
    let mut found = vec![0.0; out.len()];
    out.read(0..found.len(), &mut found).unwrap();
    found
}

/// Rows of `x`, in the forms needed.
fn filled(device: &Arc<dyn Backend>, k: usize, needs: Needs, x: &[f32]) -> Activations {
    let mut input = Activations::new(device).unwrap();
    input
        .grow(
            x.len(),
            Needs {
                plain: true,
                ..needs
            },
        )
        .unwrap();
    input.plain.write(x).unwrap();
    steps::quantise(device, &mut input, (x.len() / k, k), needs).unwrap();
    input
}

/// The CPU's, row by row of the stack.
fn here(k: usize, tensors: &[Tensor<'_>], x: &[f32]) -> Vec<f32> {
    let (tokens, pool) = (x.len() / k, Pool::new(1));
    let all: usize = tensors.iter().map(|t| t.rows).sum();
    let (mut found, mut first) = (vec![0.0; tokens * all], 0);
    for t in tensors {
        let matrix = Matrix::pack(&pool, t.ty, t.bytes, k, t.rows).unwrap();
        let mut out = vec![0.0; tokens * t.rows];
        let mut products = [Product {
            matrix: &matrix,
            out: &mut out,
        }];
        linear(
            Simd::detect(),
            &pool,
            &mut Input::default(),
            x,
            k,
            &mut products,
        );
        for (token, out) in out.chunks_exact(t.rows).enumerate() {
            for (row, y) in out.iter().enumerate() {
                let bias = t.bias.map(|b| b[row]);
                found[token * all + first + row] = bias.map_or(*y, |b| y + b);
            }
        }
        first += t.rows;
    }
    found
}

fn check(ty: TensorType, k: usize, rows: [usize; 2], tokens: usize, seed: u64) {
    check_on(&Emulated::device(seed as u32), ty, k, rows, tokens, seed);
}

fn check_on(
    device: &Arc<dyn Backend>,
    ty: TensorType,
    k: usize,
    rows: [usize; 2],
    tokens: usize,
    seed: u64,
) {
    let mut numbers = Numbers(seed);
    let bytes = rows.map(|rows| numbers.weights(ty, k * rows));
    let bias = numbers.reals(rows[1]);
    let tensor = |i: usize, bias| Tensor {
        name: "tested",
        ty,
        bytes: &bytes[i],
        rows: rows[i],
        bias,
    };
    let tensors = [tensor(0, None), tensor(1, Some(&*bias))];
    let x = numbers.reals(tokens * k);
    let expected = here(k, &tensors, &x);
    let found = there(device, k, &tensors, &x);
    let what = format!("{ty} {k} x {rows:?}, {tokens} tokens");
    assert!(bits(&found) == bits(&expected), "{what}");
    if K_QUANTS.contains(&ty) {
        assert!(
            bits(&found) == bits(&written_out(k, &tensors, &x)),
            "{what}"
        );
    }
}

const K_QUANTS: [TensorType; 4] = [
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_XS,
];

/// A few shapes of every type.
pub(super) fn check_types(device: &Arc<dyn Backend>) {
    let plain = [
        TensorType::Q8_0,
        TensorType::F16,
        TensorType::BF16,
        TensorType::F32,
        TensorType::Q4_0,
        TensorType::MXFP4,
        TensorType::IQ4_NL,
        TensorType::Q5_0,
        TensorType::Q4_1,
        TensorType::Q5_1,
    ];
    for ty in plain.into_iter().chain(K_QUANTS) {
        for tokens in [1, 8, 70] {
            check_on(device, ty, 768, [48, 19], tokens, tokens as u64);
        }
    }
}

#[test]
fn matrices_of_any_shape_have_the_same_bits_as_on_the_cpu() {
    let types = [
        TensorType::Q8_0,
        TensorType::F16,
        TensorType::BF16,
        TensorType::F32,
        TensorType::Q4_0,
        TensorType::MXFP4,
        TensorType::IQ4_NL,
        TensorType::Q5_0,
        TensorType::Q4_1,
        TensorType::Q5_1,
    ];
    for (i, ty) in types.into_iter().enumerate() {
        for (k, rows) in [(32, [1, 1]), (96, [16, 17]), (544, [40, 3])] {
            for tokens in [1, 4, 8, 23] {
                check(ty, k, rows, tokens, (i + tokens) as u64);
            }
        }
    }
    // Tensor cores take whole tiles of 64 tokens and 64 rows, and four blocks at a time.
    for (k, rows, tokens) in [(32, [1, 5], 24), (160, [16, 50], 64), (288, [64, 3], 70)] {
        for ty in [
            TensorType::Q8_0,
            TensorType::Q4_0,
            TensorType::MXFP4,
            TensorType::IQ4_NL,
            TensorType::Q4_1,
            TensorType::Q5_1,
        ] {
            check(ty, k, rows, tokens, tokens as u64);
        }
    }
    check(TensorType::F32, 33, [5, 18], 9, 3);
    check(TensorType::F16, 65, [31, 2], 2, 4);
}

#[test]
fn k_quants_have_the_bits_that_the_specification_writes() {
    for (i, ty) in K_QUANTS.into_iter().enumerate() {
        for (k, rows) in [(256, [1, 1]), (768, [16, 17]), (2304, [40, 3])] {
            for tokens in [1, 4, 8, 11] {
                check(ty, k, rows, tokens, (i + tokens) as u64);
            }
        }
    }
}

#[test]
fn experts_of_any_type_are_chosen_one_by_one() {
    let chosen = [2u32, 0, 2, 1];
    let types = [
        TensorType::Q8_0,
        TensorType::MXFP4,
        TensorType::Q4_0,
        TensorType::F32,
        TensorType::BF16,
        TensorType::Q4_K,
        TensorType::Q6_K,
        TensorType::IQ4_XS,
        TensorType::Q5_1,
    ];
    for (i, ty) in types.into_iter().enumerate() {
        let (k, device, mut numbers) = (512, Emulated::device(i as u32), Numbers(i as u64));
        let x = numbers.reals(2 * k);
        // Two stacked matrices of each expert, as gate and up are.
        let bytes: Vec<[Vec<u8>; 2]> = (0..3)
            .map(|_| [32, 48].map(|rows| numbers.weights(ty, k * rows)))
            .collect();
        let bias: Vec<Vec<f32>> = (0..3).map(|_| numbers.reals(48)).collect();
        let tensor = |expert: usize, part: usize| Tensor {
            name: "tested",
            ty,
            bytes: &bytes[expert][part],
            rows: [32, 48][part],
            bias: (part == 1).then_some(&*bias[expert]),
        };
        let of_part = |part| (0..3).map(|expert| tensor(expert, part)).collect();
        let stack = Stack::upload_experts(&device, k, &[of_part(0), of_part(1)]).unwrap();
        let input = filled(&device, k, stack.needs(), &x);
        let ids = Buffer::of(&device, &chosen).unwrap();
        let choices = Choices {
            chosen: &ids,
            count: 4,
            sharing: 2,
        };
        let mut out = Buffer::of(&device, &[f32::NAN; 4 * 80]).unwrap();
        stack
            .product_of_chosen(&device, &input, &choices, &mut out)
            .unwrap();
        let mut found = vec![0.0; out.len()];
        out.read(0..found.len(), &mut found).unwrap();
        for (c, found) in found.chunks_exact(80).enumerate() {
            let expert = chosen[c] as usize;
            let x = &x[c / 2 * k..(c / 2 + 1) * k];
            let expected = here(k, &[tensor(expert, 0), tensor(expert, 1)], x);
            assert!(bits(found) == bits(&expected), "{ty}, choice {c}");
        }
    }
}

/// NUMERICS.md, one number at a time.
fn written_out(k: usize, tensors: &[Tensor<'_>], x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        for t in tensors {
            let row = t.bytes.len() / t.rows;
            for (i, bytes) in t.bytes.chunks_exact(row).enumerate() {
                let blocks = bytes.chunks_exact(t.ty.block_bytes() as usize);
                let mut acc = 0f32;
                for (block, x) in blocks.zip(x.chunks_exact(256)) {
                    acc += term(t.ty, block, x);
                }
                out.push(t.bias.map_or(acc, |b| acc + b[i]));
            }
        }
    }
    out
}

/// One super-block with 256 activations.
fn term(ty: TensorType, b: &[u8], x: &[f32]) -> f32 {
    let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
    let tiny = largest < 1e-30;
    let (s, inverse) = if tiny {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    };
    let c: Vec<i32> = x
        .iter()
        .map(|x| (x * inverse).round_ties_even() as i32)
        .collect();
    let half = |i: usize| f16::from_le_bytes([b[i], b[i + 1]]).to_f32();
    if ty == TensorType::Q6_K {
        let dot: i32 = (0..256)
            .map(|i| i32::from(b[192 + i / 16] as i8) * (i32::from(q6_code(b, i)) - 32) * c[i])
            .sum();
        return dot as f32 * (half(208) * s);
    }
    if ty == TensorType::IQ4_XS {
        let value = |i| i32::from(IQ4[usize::from(iq4_xs_code(b, i))]);
        let dot: i32 = (0..256)
            .map(|i| i32::from(iq4_xs_scale(b, i / 32)) * value(i) * c[i])
            .sum();
        return dot as f32 * (half(0) * s);
    }
    let code = |i| match ty {
        TensorType::Q4_K => q4_code(&b[16..], i),
        _ => q5_code(b, i),
    };
    let (mut dot, mut minimum) = (0, 0);
    for (i, c) in c.iter().enumerate() {
        let (scale, m) = scale_min(&b[4..16], i / 32);
        dot += i32::from(scale) * i32::from(code(i)) * c;
        minimum += i32::from(m) * c;
    }
    dot as f32 * (half(0) * s) - minimum as f32 * (half(2) * s)
}
