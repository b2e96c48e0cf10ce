//! A recipe of a golden vector, and the GGUF file that follows from it.
//!
//! The rule is described in `tests/thirdparty/long/weights.py`; nothing here is
//! shared with the engine but the names and sizes of storage types.

use half::{bf16, f16};
use kernels::gguf::TensorType;
use kernels::tokenizer::byte_char;
use serde_json::Value;

/// Tensor data starts at and is padded to this (the format's default).
const ALIGNMENT: usize = 32;
/// What makes the words of scales others than those of codes.
const SCALES: u64 = 0x5c_a1e5;

/// Logits after one token.
pub struct Golden {
    pub after: usize,
    pub row: Vec<f32>,
}

pub struct Recipe {
    pub name: String,
    pub tokens: Vec<u32>,
    pub logits: Vec<Golden>,
    seed: u64,
    vocabulary: usize,
    metadata: Vec<Value>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    exponent: i32,
    centre: f64,
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn list<T>(value: &Value, each: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(each).collect()
}

impl Recipe {
    pub fn read(json: &str) -> Self {
        let value: Value = serde_json::from_str(json).expect("JSON");
        Self {
            name: text(&value["name"]),
            tokens: list(&value["tokens"], |x| number(x) as u32),
            logits: list(&value["logits"], |x| Golden {
                after: number(&x["after"]) as usize,
                row: list(&x["row"], |x| x.as_f64().expect("a number") as f32),
            }),
            seed: number(&value["seed"]),
            vocabulary: number(&value["vocabulary"]) as usize,
            metadata: list(&value["metadata"], Value::clone),
            tensors: list(&value["tensors"], Tensor::read),
        }
    }

    /// The storage type of its matrices.
    pub fn storage(&self) -> &'static str {
        let ty = |name: &str| self.tensors.iter().find(|t| t.name == name);
        ty("blk.0.attn_q.weight").map_or("F32", |tensor| tensor.ty.name())
    }

    /// The whole GGUF file.
    pub fn file(&self) -> Vec<u8> {
        let mut metadata = Metadata::default();
        for entry in &self.metadata {
            metadata.json(&text(&entry[0]), &text(&entry[1]), &entry[2]);
        }
        metadata.vocabulary(self.vocabulary);
        let (mut directory, mut data) = (Vec::new(), Vec::new());
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
            string(&mut directory, &tensor.name);
            directory.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor
                .dims
                .iter()
                .for_each(|d| directory.extend(d.to_le_bytes()));
            directory.extend(tensor.ty.id().to_le_bytes());
            directory.extend((data.len() as u64).to_le_bytes());
            data.extend(tensor.bytes(self.seed));
        }
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(metadata.entries.to_le_bytes());
        out.extend(metadata.bytes);
        out.extend(directory);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(data);
        out
    }
}

impl Tensor {
    fn read(value: &Value) -> Self {
        let ty = text(&value["type"]);
        Self {
            name: text(&value["name"]),
            dims: list(&value["dims"], number),
            ty: (0..64)
                .filter_map(TensorType::from_id)
                .find(|known| known.name() == ty)
                .expect("a storage type"),
            exponent: value["exponent"].as_i64().expect("an exponent") as i32,
            centre: value["centre"].as_f64().expect("a centre"),
        }
    }

    fn bytes(&self, seed: u64) -> Vec<u8> {
        let n = self.dims.iter().product::<u64>();
        let state = seed ^ fnv1a(&self.name);
        let spread = |word: u64| {
            let parts = (0..4).map(|i| (word >> (16 * i)) & 0xffff);
            parts.sum::<u64>() as i64 - 131_070
        };
        let k = words(state).take(n as usize).map(spread);
        let power = |more: i32| 2f64.powi(self.exponent + more);
        match self.ty {
            TensorType::F32 => k
                .flat_map(|k| ((self.centre + k as f64 * power(0)) as f32).to_le_bytes())
                .collect(),
            TensorType::F16 => k
                .flat_map(|k| f16::from_f32(((k >> 7) as f64 * power(7)) as f32).to_le_bytes())
                .collect(),
            TensorType::BF16 => k
                .flat_map(|k| bf16::from_f32(((k >> 10) as f64 * power(10)) as f32).to_le_bytes())
                .collect(),
            _ => self.blocks(state, n),
        }
    }

    /// Random codes, then the scales of each block.
    fn blocks(&self, state: u64, n: u64) -> Vec<u8> {
        let size = self.ty.block_bytes() as usize;
        let total = (n / self.ty.block_len()) as usize * size;
        let mut bytes: Vec<u8> = words(state)
            .take(total.div_ceil(8))
            .flat_map(u64::to_le_bytes)
            .collect();
        bytes.truncate(total);
        for (block, word) in bytes.chunks_exact_mut(size).zip(words(state ^ SCALES)) {
            if self.ty == TensorType::MXFP4 {
                block[0] = (self.exponent + (word & 1) as i32) as u8;
                continue;
            }
            for (i, (at, more, sign)) in scales(self.ty).iter().enumerate() {
                let field = (self.exponent + more) as u16;
                let mantissa = (word >> (10 * i)) as u16 & 0x3ff;
                let scale = sign << 15 | field << 10 | mantissa;
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }
}

/// Byte of each scale in a block, what is added to its exponent, and its sign.
fn scales(ty: TensorType) -> &'static [(usize, i32, u16)] {
    match ty {
        TensorType::Q6_K => &[(208, 0, 0)],
        TensorType::Q4_1 => &[(0, 0, 0), (2, 3, 1)],
        TensorType::Q5_1 => &[(0, 0, 0), (2, 4, 1)],
        TensorType::Q4_K => &[(0, 0, 0), (2, 3, 0)],
        TensorType::Q5_K => &[(0, 0, 0), (2, 4, 0)],
        _ => &[(0, 0, 0)],
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn words(state: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let mut z = state.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// GGUF metadata under construction.
#[derive(Default)]
struct Metadata {
    entries: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn entry(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.entries += 1;
        string(&mut self.bytes, key);
        self.bytes.extend(ty.to_le_bytes());
        self.bytes.extend(value);
    }

    fn json(&mut self, key: &str, kind: &str, value: &Value) {
        match kind {
            "u32" => self.entry(key, 4, &(number(value) as u32).to_le_bytes()),
            "f32" => {
                let value = value.as_f64().expect("a number") as f32;
                self.entry(key, 6, &value.to_le_bytes());
            }
            "str" => self.text(key, &text(value)),
            other => panic!("recipes have no metadata of type {other}"),
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        string(&mut bytes, value);
        self.entry(key, 8, &bytes);
    }

    fn array(&mut self, key: &str, ty: u32, len: usize, elements: &[u8]) {
        let mut bytes = ty.to_le_bytes().to_vec();
        bytes.extend((len as u64).to_le_bytes());
        bytes.extend(elements);
        self.entry(key, 9, &bytes);
    }

    /// Byte tokens, one merge, an end token, fillers.
    fn vocabulary(&mut self, size: usize) {
        let mut texts: Vec<String> = (0..=255u8).map(|b| byte_char(b).to_string()).collect();
        texts.extend(["th".to_owned(), "<|end|>".to_owned()]);
        texts.extend((texts.len()..size).map(|i| format!("[PAD{i}]")));
        let kinds = (0..size).map(|i| match i {
            0..257 => 1i32,
            257 => 3,
            _ => 5,
        });
        let kinds: Vec<u8> = kinds.flat_map(i32::to_le_bytes).collect();
        let mut strings = Vec::new();
        texts.iter().for_each(|text| string(&mut strings, text));
        let mut merge = Vec::new();
        string(&mut merge, "t h");
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "qwen2");
        self.array("tokenizer.ggml.tokens", 8, size, &strings);
        self.array("tokenizer.ggml.token_type", 5, size, &kinds);
        self.array("tokenizer.ggml.merges", 8, 1, &merge);
        self.entry("tokenizer.ggml.eos_token_id", 4, &257u32.to_le_bytes());
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
