//! Every kernel at every instruction level against the others and the reference.

use super::buffer::Arena;
use super::linear::{Input, Product, linear};
use super::q8::rows::Keep;
use super::weights::{Matrix, PackError, Packed};
use super::{attention, norm, reference, rope};
use crate::cpu::{Simd, SimdLevel};
use crate::gguf::TensorType;
use crate::pool::Pool;
use ::half::f16;
use ndarray::{Array2, ArrayView1};
use proptest::prelude::*;

const LEVELS: [SimdLevel; 3] = [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512Vnni];
/// Every type that matrices may have.
const TYPES: [TensorType; 15] = [
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::F16,
    TensorType::BF16,
    TensorType::F32,
    TensorType::Q4_0,
    TensorType::MXFP4,
    TensorType::IQ4_NL,
    TensorType::IQ4_XS,
    TensorType::Q5_0,
    TensorType::Q4_1,
    TensorType::Q5_1,
    TensorType::Q3_K,
];

/// Where a block's f16 scales are: the scale itself and a minimum.
fn scales(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q6_K => &[208],
        TensorType::Q3_K => &[108],
        TensorType::MXFP4 => &[],
        _ => &[0],
    }
}

/// Elements that share an activation scale, by NUMERICS.md; 0 where activations stay
/// f32.
fn activation_block(ty: TensorType) -> usize {
    match ty {
        TensorType::Q8_0
        | TensorType::Q4_0
        | TensorType::Q4_1
        | TensorType::Q5_0
        | TensorType::Q5_1
        | TensorType::MXFP4
        | TensorType::IQ4_NL => 32,
        TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K | TensorType::IQ4_XS => 256,
        _ => 0,
    }
}

/// One position's key and value.
type KeyValue = (Vec<f32>, Vec<f32>);

/// Deterministic numbers that look like a trained model's: mostly small, with
/// outliers a hundred times as large, and exact zeros.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 33
    }

    fn real(&mut self) -> f32 {
        let x = self.bits() as f32 / (1u64 << 31) as f32 * 2.0 - 1.0;
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

    fn weights(&mut self, ty: TensorType, n: usize) -> Vec<u8> {
        match ty {
            TensorType::F16 => (0..n)
                .flat_map(|_| f16::from_f32(self.real()).to_le_bytes())
                .collect(),
            TensorType::BF16 => (0..n)
                .flat_map(|_| ((self.real().to_bits() >> 16) as u16).to_le_bytes())
                .collect(),
            TensorType::F32 => (0..n).flat_map(|_| self.real().to_le_bytes()).collect(),
            _ => {
                let blocks = n / ty.block_len() as usize;
                (0..blocks).flat_map(|_| self.block(ty)).collect()
            }
        }
    }
}

impl Numbers {
    /// All codes, even those that quantisers do not write, under scales of both signs,
    /// some below the normal range of f16.
    fn block(&mut self, ty: TensorType) -> Vec<u8> {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| self.bits() as u8).collect();
        for at in scales(ty) {
            let d = f16::from_f32(self.real() * 0.01).to_le_bytes();
            block[*at..at + 2].copy_from_slice(&d);
        }
        if ty == TensorType::MXFP4 {
            block[0] = 120 + block[0] % 8;
        }
        block
    }
}

fn product(simd: Simd, pool: &Pool, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / matrix.k * matrix.rows];
    let mut products = [Product {
        matrix,
        out: &mut out,
    }];
    linear(
        simd,
        pool,
        &mut Input::default(),
        x,
        matrix.k,
        &mut products,
    );
    out
}

/// Magnitudes of the minima that are subtracted apart from the codes: what remains of
/// the weights when their scales are zero.
fn minima(ty: TensorType, bytes: &[u8], k: usize) -> Array2<f64> {
    let mut bytes = bytes.to_vec();
    if let (Some(at), true) = (scales(ty).first(), ty.block_len() > 1) {
        for block in bytes.chunks_mut(ty.block_bytes() as usize) {
            block[*at..at + 2].fill(0);
        }
        return reference::matrix(ty, &bytes, k).mapv(f64::abs);
    }
    Array2::zeros((
        bytes.len() / ty.block_bytes() as usize * ty.block_len() as usize / k,
        k,
    ))
}

/// Bytes of a file.
struct Kept(Vec<u8>);

impl Keep for Kept {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, part: &[u8]) {
        assert!(self.0.as_ptr_range().contains(&part.as_ptr()));
    }
}

/// All levels, thread counts and batches agree bit for bit; the reference agrees
/// to rounding.
fn check_linear(ty: TensorType, k: usize, rows: usize, tokens: usize, seed: u64) {
    let mut numbers = Numbers(seed);
    let bytes = numbers.weights(ty, k * rows);
    let x = numbers.reals(k * tokens);
    let one = Pool::new(1);
    let matrix = Matrix::pack(&one, ty, &bytes, k, rows).unwrap();
    let expected = product(Simd::at_most(SimdLevel::Portable), &one, &matrix, &x);
    let bits = |y: &[f32]| -> Vec<u32> { y.iter().map(|y| y.to_bits()).collect() };
    let three = Pool::new(3);
    let agrees = |matrix: &Matrix, how: &str| {
        for level in LEVELS {
            let simd = Simd::at_most(level);
            for pool in [&one, &three] {
                let found = product(simd, pool, matrix, &x);
                assert!(
                    bits(&found) == bits(&expected),
                    "{ty} {how} {level:?} {k}x{rows} m={tokens}"
                );
            }
            for t in [0, tokens / 2, tokens - 1] {
                let alone = product(simd, &one, matrix, &x[t * k..(t + 1) * k]);
                assert!(
                    bits(&alone) == bits(&expected[t * rows..(t + 1) * rows]),
                    "{ty} {how} {level:?} {k}x{rows}"
                );
            }
        }
    };
    agrees(&matrix, "packed");
    let kept = Box::new(Kept(bytes.clone()));
    if let Some(waiting) = Matrix::later(&three, ty, kept, k) {
        let waiting = waiting.unwrap();
        agrees(&waiting, "as stored");
        let Packed::Rows(later) = &waiting.data else {
            unreachable!("rows that wait")
        };
        later.pack(&Arena::default()).unwrap();
        assert!(later.packed().is_some());
        agrees(&waiting, "packed later");
    } else {
        assert!(ty != TensorType::Q8_0);
    }
    let w = reference::matrix(ty, &bytes, k);
    let w_size = w.mapv(f64::abs) + minima(ty, &bytes, k) * 2.0;
    for t in [0, tokens - 1] {
        let row = &x[t * k..(t + 1) * k];
        let seen = match activation_block(ty) {
            0 => row.iter().map(|x| f64::from(*x)).collect(),
            block => reference::quantised(row, block),
        };
        let truth = w.dot(&seen);
        let size = w_size.dot(&seen.mapv(f64::abs));
        for r in 0..rows {
            // K sums, each rounded relative to a partial sum within `size`.
            let bound = size[r] * k as f64 * f64::from(f32::EPSILON) + 1e-30;
            let error = (f64::from(expected[t * rows + r]) - truth[r]).abs();
            assert!(error <= bound, "{ty} {k}x{rows} row {r}: {error} > {bound}");
        }
    }
}

#[test]
fn linear_layers_agree_bit_for_bit_and_with_the_reference() {
    for ty in TYPES {
        let whole = |k: usize| k.next_multiple_of(ty.block_len() as usize);
        for tokens in [1, 4, 8, 23] {
            for (k, rows) in [(32, 1), (96, 16), (256, 17), (1024, 40), (3072, 16)] {
                check_linear(ty, whole(k), rows, tokens, 1);
            }
        }
        check_linear(ty, whole(128), 48, 512, 2);
    }
    // Float weights do not come in blocks.
    check_linear(TensorType::F32, 33, 5, 9, 3);
    check_linear(TensorType::F16, 65, 31, 2, 4);
}

#[test]
fn a_packed_row_is_the_files() {
    let (k, rows) = (96, 37);
    let pool = Pool::new(1);
    let agrees = |matrix: &Matrix, ty, bytes: &[u8]| {
        assert!(matrix.has_rows());
        let mut out = vec![0.0; k];
        for (row, bytes) in bytes.chunks_exact(bytes.len() / rows).enumerate() {
            let mut expected = vec![0.0; k];
            super::dequant::row(ty, bytes, &mut expected);
            matrix.row(row, &mut out);
            assert_eq!(out, expected, "{ty} row {row}");
        }
    };
    for ty in [
        TensorType::Q8_0,
        TensorType::F16,
        TensorType::BF16,
        TensorType::F32,
    ] {
        let bytes = Numbers(7).weights(ty, k * rows);
        let mut at_once = Matrix::pack(&pool, ty, &bytes, k, rows).unwrap();
        agrees(&at_once, ty, &bytes);
        at_once.forget();
        assert!(!at_once.has_rows());
        let Some(later) = Matrix::later(&pool, ty, Box::new(Kept(bytes.clone())), k) else {
            continue;
        };
        let later = later.unwrap();
        agrees(&later, ty, &bytes);
        if let Packed::Rows(rows) = &later.data {
            rows.pack(&Arena::default()).unwrap();
        }
        agrees(&later, ty, &bytes);
    }
}

#[test]
fn eight_bit_activations_cost_little_accuracy() {
    let mut numbers = Numbers(9);
    let (k, rows) = (1024, 64);
    let bytes = numbers.weights(TensorType::Q8_0, k * rows);
    // A bell curve without outliers, as after a norm.
    let x: Vec<f32> = (0..k)
        .map(|_| {
            (0..6)
                .map(|_| numbers.bits() as f32 / 2f32.powi(31) - 0.5)
                .sum()
        })
        .collect();
    let pool = Pool::new(1);
    let matrix = Matrix::pack(&pool, TensorType::Q8_0, &bytes, k, rows).unwrap();
    let found = product(Simd::detect(), &pool, &matrix, &x);
    let wide: ndarray::Array1<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let truth = reference::matrix(TensorType::Q8_0, &bytes, k).dot(&wide);
    let error = reference::nmse(truth.into_iter(), found.iter().map(|x| f64::from(*x)));
    assert!(error < 1e-4, "{error}");
}

#[test]
fn a_scale_that_is_not_finite_is_refused() {
    let (k, rows) = (256, 3);
    for ty in TYPES {
        for at in scales(ty) {
            let mut bytes = Numbers(4).weights(ty, k * rows);
            let last = bytes.len() - ty.block_bytes() as usize;
            // The f16 infinity, also as a whole element; bf16's and f32's below.
            bytes[last + at..last + at + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
            match ty {
                TensorType::BF16 => bytes[last..].copy_from_slice(&[0x80, 0x7f]),
                TensorType::F32 => bytes[last..].copy_from_slice(&[0, 0, 0x80, 0xff]),
                _ => {}
            }
            let packed = Matrix::pack(&Pool::new(2), ty, &bytes, k, rows).map(|m| m.rows);
            assert_eq!(packed, Err(PackError::NotFinite), "{ty} at {at}");
            let later = Matrix::later(&Pool::new(2), ty, Box::new(Kept(bytes)), k);
            assert_eq!(later.is_some(), Matrix::can_wait(ty));
            if let Some(later) = later.map(|m| m.map(|m| m.rows)) {
                assert_eq!(later, Err(PackError::NotFinite), "{ty} at {at}");
            }
        }
    }
    let mut bytes = Numbers(4).weights(TensorType::MXFP4, k * rows);
    bytes[17] = 255;
    let packed = Matrix::pack(&Pool::new(2), TensorType::MXFP4, &bytes, k, rows).map(|m| m.rows);
    assert_eq!(packed, Err(PackError::NotFinite));
    let packed = Matrix::pack(&Pool::new(2), TensorType::IQ1_S, &[0; 150], k, rows).map(|m| m.rows);
    assert_eq!(packed, Err(PackError::Type));
}

#[test]
fn an_activation_that_is_not_finite_stays_not_finite_at_every_level() {
    let mut numbers = Numbers(5);
    let pool = Pool::new(1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for ty in TYPES {
            let bytes = numbers.weights(ty, 256 * 16);
            let matrix = Matrix::pack(&pool, ty, &bytes, 256, 16).unwrap();
            let mut x = numbers.reals(256);
            x[40] = bad;
            for level in LEVELS {
                let found = product(Simd::at_most(level), &pool, &matrix, &x);
                // A zero weight times infinity is NaN; a Q8_0 scale is never skipped.
                assert!(
                    found.iter().all(|y| !y.is_finite()),
                    "{ty} {level:?} {found:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn linear_layers_agree_on_any_shape(
        ty in prop::sample::select(TYPES.to_vec()),
        blocks in 1usize..12,
        rows in 1usize..70,
        tokens in 1usize..30,
        seed in any::<u64>(),
    ) {
        let k = (blocks * 32).next_multiple_of(ty.block_len() as usize);
        check_linear(ty, k, rows, tokens, seed);
    }

    #[test]
    fn norms_agree_bit_for_bit_and_with_the_reference(n in 1usize..300, seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        let (x, w) = (numbers.reals(2 * n), numbers.reals(n));
        let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|x| f64::from(*x)).collect() };
        let mut expected = vec![0.0; 2 * n];
        norm::rms_norm(Simd::at_most(SimdLevel::Portable), &x, &w, 1e-6, &mut expected);
        for level in LEVELS {
            let simd = Simd::at_most(level);
            let mut out = vec![0.0; 2 * n];
            norm::rms_norm(simd, &x, &w, 1e-6, &mut out);
            prop_assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
            let mut place = x.clone();
            norm::rms_norm_in_place(simd, &mut place, &w, 1e-6);
            prop_assert_eq!(&place, &expected);
        }
        let truth = reference::rms_norm(ArrayView1::from(&wide(&x[..n])), &wide(&w), 1e-6);
        for (t, f) in truth.iter().zip(&expected) {
            prop_assert!((t - f64::from(*f)).abs() <= 1e-5 * t.abs() + 1e-30);
        }
    }

    #[test]
    fn the_activation_agrees_bit_for_bit_and_with_the_reference(seed in any::<u64>(), n in 1usize..70) {
        let mut numbers = Numbers(seed);
        let (gate, up) = (numbers.reals(n), numbers.reals(n));
        let mut expected = gate.clone();
        norm::Activation::Silu.gated(Simd::at_most(SimdLevel::Portable), &mut expected, &up);
        for level in LEVELS {
            let mut out = gate.clone();
            norm::Activation::Silu.gated(Simd::at_most(level), &mut out, &up);
            prop_assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        for i in 0..n {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let truth = g / (1.0 + (-g).exp()) * u;
            prop_assert!((truth - f64::from(expected[i])).abs() <= 1e-5 * truth.abs() + 1e-30);
        }
    }

    #[test]
    fn attention_agrees_bit_for_bit_and_with_the_reference(
        half in 1usize..70, positions in 1usize..200, seed in any::<u64>(), many in any::<bool>(),
        window in prop::option::of(1usize..150), cap in prop::option::of(1.0f32..60.0),
        sink in prop::option::of(-5.0f32..5.0),
    ) {
        let dim = 2 * half;
        let mut numbers = Numbers(seed);
        // Five (or twenty) queries at the last positions, as in a batch; the last one is
        // checked against the reference, each of them against a batch of its own.
        let n = positions.min(if many { 20 } else { 5 });
        let query = numbers.reals(n * dim);
        let rows: Vec<KeyValue> = (0..positions)
            .map(|_| (numbers.reals(dim), numbers.reals(dim)))
            .collect();
        let mut tiles =
            vec![vec![0u16; 2 * dim * attention::TILE]; positions.div_ceil(attention::TILE)];
        for (p, (k, v)) in rows.iter().enumerate() {
            attention::store(&mut tiles[p / attention::TILE], p % attention::TILE, k, v);
        }
        let first = |end: usize| window.map_or(0, |w| end.saturating_sub(w));
        let rules = attention::Rules { scale: 1.0 / (dim as f32).sqrt(), cap };
        let run = |simd: Simd, from: usize, to: usize| {
            let mut queries = attention::Queries::default();
            queries.start(dim, to - from).copy_from_slice(&query[from * dim..to * dim]);
            for q in 0..to - from {
                sink.into_iter().for_each(|sink| queries.sink(q, sink));
            }
            for (i, tile) in tiles.iter().enumerate() {
                for (seen, q) in queries.seen().iter_mut().zip(from..to) {
                    let end = positions - n + q + 1;
                    *seen = attention::Seen::of(first(end), end, i);
                }
                queries.attend(simd, tile, tiles.get(i + 1).map(Vec::as_slice), rules);
            }
            let mut out = vec![0.0; (to - from) * dim];
            for (q, out) in out.chunks_mut(dim).enumerate() {
                queries.finish(q, out);
            }
            out
        };
        let expected = run(Simd::at_most(SimdLevel::Portable), 0, n);
        for level in LEVELS {
            let out = run(Simd::at_most(level), 0, n);
            prop_assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
            for q in 0..n {
                let alone = run(Simd::at_most(level), q, q + 1);
                let batch = &expected[q * dim..(q + 1) * dim];
                prop_assert!(alone.iter().zip(batch).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
        let (query, expected) = (&query[(n - 1) * dim..], &expected[(n - 1) * dim..]);
        let stored = |x: &f32| f64::from(f16::from_f32(*x));
        let matrix = |pick: fn(&KeyValue) -> &Vec<f32>| {
            let all: Vec<f64> = rows.iter().flat_map(|r| pick(r).iter().map(stored)).collect();
            Array2::from_shape_vec((positions, dim), all).unwrap()
        };
        let wide: Vec<f64> = query.iter().map(|x| f64::from(*x)).collect();
        let truth = reference::attend(
            ArrayView1::from(&wide),
            &matrix(|r| &r.0),
            &matrix(|r| &r.1),
            &reference::Softmax {
                scale: 1.0 / (dim as f64).sqrt(),
                first: first(positions),
                cap: cap.map(f64::from),
                sink: sink.map(f64::from),
            },
        );
        let error = reference::nmse(truth.iter().copied(), expected.iter().map(|x| f64::from(*x)));
        prop_assert!(error < 1e-6, "{error}");
    }
}

#[test]
fn rope_turns_pairs_by_their_angle() {
    for pairs in [rope::Pairs::Halves, rope::Pairs::Neighbours] {
        let rope = rope::Rope::new(&rope::RopeSpec {
            pairs,
            turning: 8,
            base: 10_000.0,
            scaling: rope::Scaling::None,
            factors: None,
            magnitude: 1.0,
        });
        for position in [0, 1, 77, 40_000] {
            let mut angles = [0.0; 8];
            rope.angles(position, &mut angles);
            // Two elements more than turn.
            let mut head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
            let before = head;
            rope.rotate(&mut head, 10, &angles);
            assert_eq!(head[8..], before[8..]);
            for i in 0..4 {
                let angle = f64::from(position) * 10_000f64.powf(-(i as f64) / 4.0);
                let (one, two) = match pairs {
                    rope::Pairs::Halves => (i, i + 4),
                    rope::Pairs::Neighbours => (2 * i, 2 * i + 1),
                };
                let (a, b) = (f64::from(before[one]), f64::from(before[two]));
                assert!((f64::from(head[one]) - (a * angle.cos() - b * angle.sin())).abs() < 2e-6);
                assert!((f64::from(head[two]) - (b * angle.cos() + a * angle.sin())).abs() < 2e-6);
            }
        }
    }
}
