//! Just enough GGUF writing for random models. The writer that people's models
//! go through is `gguf::write`.

use crate::gguf::TensorType;
use crate::ops::dequant;
use half::f16;

/// Tensor data starts at and is padded to this (the format's default).
const ALIGNMENT: usize = 32;

#[derive(Default)]
pub(super) struct Builder {
    entries: u64,
    metadata: Vec<u8>,
    tensors: u64,
    directory: Vec<u8>,
    data: Vec<u8>,
}

impl Builder {
    fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.entries += 1;
        put_str(&mut self.metadata, key);
        self.metadata.extend(ty.to_le_bytes());
        self.metadata.extend(value);
    }

    pub fn u32(&mut self, key: &str, x: u32) {
        self.entry(key, 4, &x.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, x: f32) {
        self.entry(key, 6, &x.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, x: bool) {
        self.entry(key, 7, &[u8::from(x)]);
    }

    pub fn str(&mut self, key: &str, s: &str) {
        let mut value = Vec::new();
        put_str(&mut value, s);
        self.entry(key, 8, &value);
    }

    pub fn strings(&mut self, key: &str, list: &[String]) {
        let mut value = array_head(8, list.len());
        list.iter().for_each(|s| put_str(&mut value, s));
        self.entry(key, 9, &value);
    }

    pub fn i32s(&mut self, key: &str, list: &[i32]) {
        let mut value = array_head(5, list.len());
        value.extend(list.iter().flat_map(|x| x.to_le_bytes()));
        self.entry(key, 9, &value);
    }

    fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u32]) {
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        self.tensors += 1;
        put_str(&mut self.directory, name);
        self.directory.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|d| self.directory.extend(u64::from(*d).to_le_bytes()));
        self.directory.extend(ty.id().to_le_bytes());
        self.directory
            .extend((self.data.len() as u64).to_le_bytes());
    }

    /// A norm's weights: near one.
    pub fn norm(&mut self, name: &str, n: u32, rng: &mut u64) {
        self.tensor(name, TensorType::F32, &[n]);
        for _ in 0..n {
            self.data.extend((1.0 + 0.1 * spread(rng)).to_le_bytes());
        }
    }

    /// A matrix of `rows` rows of `k` elements with variance 1/k.
    pub fn random(&mut self, name: &str, ty: TensorType, k: u32, rows: u32, rng: &mut u64) {
        self.tensor(name, ty, &[k, rows]);
        let n = k as usize * rows as usize;
        let scale = 1.0 / (k as f32).sqrt();
        match ty {
            TensorType::F32 => {
                (0..n).for_each(|_| self.data.extend((spread(rng) * scale).to_le_bytes()));
            }
            TensorType::F16 => {
                let half = |x: f32| f16::from_f32(x * scale).to_le_bytes();
                (0..n).for_each(|_| self.data.extend(half(spread(rng))));
            }
            TensorType::Q8_0 => {
                for _ in 0..n / 32 {
                    // Uniform codes of a spread that varies by block, as trained
                    // weights have; 73.9 is the deviation of uniform codes.
                    let d = scale / 73.9 * (1.0 + 0.5 * spread(rng));
                    self.data.extend(f16::from_f32(d).to_le_bytes());
                    for _ in 0..4 {
                        self.data.extend(next(rng).to_le_bytes());
                    }
                }
            }
            other => self.blocks(other, scale, n / other.block_len() as usize, rng),
        }
    }

    /// Blocks of random codes, scaled so that elements have the deviation `scale`.
    fn blocks(&mut self, ty: TensorType, scale: f32, count: usize, rng: &mut u64) {
        let deviation = deviation(ty);
        for _ in 0..count {
            let d = scale / deviation * (1.0 + 0.5 * spread(rng));
            let block = random_block(ty, d, rng);
            self.data.extend(block);
        }
    }

    /// The data of the tensors alone.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    pub fn finish(self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(self.metadata);
        out.extend(self.directory);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(self.data);
        out
    }
}

/// Where a block's f16 scale is, where its minimum is, and how many times as large the
/// minimum must be for elements of mean zero.
fn fields(ty: TensorType) -> (usize, Option<(usize, f32)>) {
    match ty {
        TensorType::Q4_1 => (0, Some((2, -7.5))),
        TensorType::Q5_1 => (0, Some((2, -15.5))),
        TensorType::Q4_K => (0, Some((2, 7.5))),
        TensorType::Q5_K => (0, Some((2, 15.5))),
        TensorType::Q2_K => (80, Some((82, 1.5))),
        TensorType::Q3_K => (108, None),
        TensorType::Q6_K => (208, None),
        _ => (0, None),
    }
}

/// One block of random codes and sub-block scales under the scale `d`.
fn random_block(ty: TensorType, d: f32, rng: &mut u64) -> Vec<u8> {
    let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| next(rng) as u8).collect();
    let mut put = |at: usize, x: f32| match ty {
        // The nearest power of two: 2^(e - 128) of doubled codes.
        TensorType::MXFP4 => block[0] = (128.0 + x.abs().log2()).round() as u8,
        TensorType::BF16 => {
            let x = x * spread(rng);
            block.copy_from_slice(&((x.to_bits() >> 16) as u16).to_le_bytes());
        }
        _ => block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes()),
    };
    let (scale, minimum) = fields(ty);
    put(scale, d);
    if let Some((at, factor)) = minimum {
        put(at, d * factor);
    }
    block
}

/// Deviation of the elements of random blocks under the scale 1.
fn deviation(ty: TensorType) -> f32 {
    /// Enough for two digits.
    const BLOCKS: usize = 64;
    assert!(
        dequant::reads(ty),
        "synthetic models are not written as {ty}"
    );
    let mut rng = 1;
    let mut elements = vec![0.0; ty.block_len() as usize];
    let mut sum = 0.0;
    for _ in 0..BLOCKS {
        dequant::row(ty, &random_block(ty, 1.0, &mut rng), &mut elements);
        sum += elements.iter().map(|x| x * x).sum::<f32>() / elements.len() as f32;
    }
    (sum / BLOCKS as f32).sqrt()
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn array_head(ty: u32, len: usize) -> Vec<u8> {
    let mut out = ty.to_le_bytes().to_vec();
    out.extend((len as u64).to_le_bytes());
    out
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mean zero, deviation about one: the sum of four uniform 16-bit numbers.
fn spread(rng: &mut u64) -> f32 {
    let x = next(rng);
    let sum: u64 = (0..4).map(|i| (x >> (16 * i)) & 0xffff).sum();
    (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
}
