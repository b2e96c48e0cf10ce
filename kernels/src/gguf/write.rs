//! Writes GGUF version 3 files: metadata, then tensors in blocks of the format's own layouts.
//!
//! The format is that of ggml's `gguf.h`: little-endian, strings with a u64 length, the tensor
//! data at the next multiple of 32 behind the directory. Nothing here reads a file. Called by
//! the trainer and by tests.

use half::f16;

/// Alignment of the tensor data and of each tensor in it; the default of the format.
const ALIGNMENT: usize = 32;

/// Weights in a block of Q8_0.
const Q8_0_BLOCK: usize = 32;

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Type 4.
    U32(u32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9 of type 8.
    Texts(Vec<String>),
    /// Type 9 of type 5.
    I32s(Vec<i32>),
    /// Type 9 of type 6.
    F32s(Vec<f32>),
    /// Type 9 of type 7.
    Bools(Vec<bool>),
}

/// How the weights of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Type 0: plain floats.
    F32,
    /// Type 8: blocks of 32 weights, an f16 scale and 32 signed bytes. Rows must be a
    /// multiple of 32 long.
    Q8_0,
}

struct Tensor {
    name: String,
    dims: Vec<u64>,
    encoding: Encoding,
    offset: u64,
}

/// A file under construction.
#[derive(Default)]
pub struct Writer {
    keys: Vec<u8>,
    n_keys: u64,
    tensors: Vec<Tensor>,
    data: Vec<u8>,
}

impl Writer {
    /// A file whose `general.architecture` is `architecture`.
    pub fn new(architecture: &str) -> Self {
        let mut w = Self::default();
        w.key("general.architecture", Value::Text(architecture.into()));
        w
    }

    /// Adds a metadata entry.
    pub fn key(&mut self, name: &str, value: Value) {
        text(&mut self.keys, name);
        self.n_keys += 1;
        let out = &mut self.keys;
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        match value {
            Value::U32(x) => {
                put(&4u32.to_le_bytes());
                put(&x.to_le_bytes());
            }
            Value::F32(x) => {
                put(&6u32.to_le_bytes());
                put(&x.to_le_bytes());
            }
            Value::Bool(x) => {
                put(&7u32.to_le_bytes());
                put(&[x as u8]);
            }
            Value::Text(x) => {
                put(&8u32.to_le_bytes());
                text(out, &x);
            }
            Value::Texts(list) => {
                put(&9u32.to_le_bytes());
                put(&8u32.to_le_bytes());
                put(&(list.len() as u64).to_le_bytes());
                list.iter().for_each(|x| text(out, x));
            }
            Value::F32s(list) => {
                put(&9u32.to_le_bytes());
                put(&6u32.to_le_bytes());
                put(&(list.len() as u64).to_le_bytes());
                list.iter()
                    .for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
            }
            Value::I32s(list) => {
                put(&9u32.to_le_bytes());
                put(&5u32.to_le_bytes());
                put(&(list.len() as u64).to_le_bytes());
                list.iter()
                    .for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
            }
            Value::Bools(list) => {
                put(&9u32.to_le_bytes());
                put(&7u32.to_le_bytes());
                put(&(list.len() as u64).to_le_bytes());
                list.iter().for_each(|x| out.push(u8::from(*x)));
            }
        }
    }

    /// Adds a tensor; `dims[0]` is the length of a contiguous row.
    pub fn tensor(&mut self, name: &str, dims: &[usize], weights: &[f32], encoding: Encoding) {
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        self.tensors.push(Tensor {
            name: name.into(),
            dims: dims.iter().map(|&d| d as u64).collect(),
            encoding,
            offset: self.data.len() as u64,
        });
        match encoding {
            Encoding::F32 => weights
                .iter()
                .for_each(|x| self.data.extend_from_slice(&x.to_le_bytes())),
            Encoding::Q8_0 => weights
                .chunks(Q8_0_BLOCK)
                .for_each(|b| q8_0(b, &mut self.data)),
        }
    }

    /// The bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.keys.len() + self.data.len() + 4096);
        out.extend_from_slice(b"GGUF");
        out.extend_from_slice(&3u32.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.n_keys.to_le_bytes());
        out.extend_from_slice(&self.keys);
        for t in &self.tensors {
            text(&mut out, &t.name);
            out.extend_from_slice(&(t.dims.len() as u32).to_le_bytes());
            t.dims
                .iter()
                .for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
            let id: u32 = match t.encoding {
                Encoding::F32 => 0,
                Encoding::Q8_0 => 8,
            };
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend_from_slice(&self.data);
        out
    }
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

/// One block: scale amax / 127, bytes rounded half away from zero against the unrounded scale,
/// as ggml's reference does.
fn q8_0(block: &[f32], out: &mut Vec<u8>) {
    let amax = block
        .iter()
        .fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    let d = amax / 127.0;
    let inv = if d > 0.0 { 1.0 / d } else { 0.0 };
    out.extend_from_slice(&f16::from_f32(d).to_le_bytes());
    for i in 0..Q8_0_BLOCK {
        let x = block.get(i).copied().unwrap_or(0.0);
        out.push(((x * inv).round() as i8) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_q8_0_is_34_bytes_and_close_to_its_weights() {
        let x: Vec<f32> = (0..32).map(|i| (i as f32 - 15.5) * 0.01).collect();
        let mut out = Vec::new();
        q8_0(&x, &mut out);
        assert_eq!(out.len(), 34);
        let d = f16::from_le_bytes([out[0], out[1]]).to_f32();
        for (x, q) in x.iter().zip(&out[2..]) {
            assert!((x - d * (*q as i8) as f32).abs() < 0.001);
        }
    }

    #[test]
    fn tensor_data_is_aligned_and_the_header_counts_what_follows() {
        let mut w = Writer::new("qwen3");
        w.key("a.b", Value::U32(7));
        w.tensor("x", &[3], &[1.0, 2.0, 3.0], Encoding::F32);
        w.tensor("y", &[32, 2], &[1.0; 64], Encoding::Q8_0);
        let bytes = w.finish();
        assert_eq!(&bytes[..4], b"GGUF");
        assert_eq!(bytes[8], 2);
        assert_eq!(bytes[16], 2);
        assert_eq!((bytes.len() - 32 - 68) % 32, 0);
        assert_eq!(bytes[bytes.len() - 68 - 32..][..4], 1.0f32.to_le_bytes());
    }
}
