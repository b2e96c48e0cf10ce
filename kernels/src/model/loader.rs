//! From a checked file to a [`Model`]: hyperparameters within bounds, tensors of
//! the demanded shapes, weights packed.
//!
//! Because every tensor must have exactly the shape that the hyperparameters
//! demand, and all of them lie in the file, no hyperparameter can make us allocate
//! more than a small multiple of the file.

use super::{Cheat, Graph, Inner, LoadError, Model, ModelInfo, NUMERICS, OpenOptions, qwen3};
use crate::cpu::{Simd, default_threads};
use crate::gguf::{Gguf, TensorType, Value};
use crate::ops::weights::{Matrix, PackError};
use crate::pool::Pool;
use crate::tokenizer::Tokenizer;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Bounds of sizes: about four times the largest models known.
pub(super) const WIDTH: Bound = Bound(1..=1 << 18, "from 1 to 262144");
pub(super) const LAYERS: Bound = Bound(1..=1024, "from 1 to 1024");
pub(super) const HEADS: Bound = Bound(1..=2048, "from 1 to 2048");
pub(super) const HEAD_DIM: Bound = Bound(2..=1024, "from 2 to 1024");
/// Positions below 2^20: NUMERICS.md states the accuracy of angles up to there.
pub(super) const CONTEXT: Bound = Bound(1..=1 << 20, "from 1 to 1048576");

pub(super) struct Bound(RangeInclusive<u64>, &'static str);

/// Reads one model's parts by name.
pub(super) struct Loader<'a> {
    pub file: &'a Gguf,
    architecture: String,
    pool: &'a Pool,
    tokens: usize,
}

pub(super) fn load(file: Gguf, options: &OpenOptions) -> Result<Model, LoadError> {
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let threads = if options.threads == 0 {
        default_threads()
    } else {
        options.threads
    };
    let pool = Pool::new(threads);
    let architecture = file.str("general.architecture")?.to_owned();
    let loader = Loader {
        file: &file,
        architecture,
        pool: &pool,
        tokens: tokenizer.len(),
    };
    let mut graph = match loader.architecture.as_str() {
        "qwen3" => qwen3::build(&loader)?,
        _ => {
            return Err(LoadError::Architecture {
                architecture: loader.architecture,
            });
        }
    };
    if options.cheat == Some(Cheat::AlterWeight) {
        alter(&mut graph);
    }
    let template = file
        .get("tokenizer.chat_template")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let info = info(
        &file,
        &graph,
        &tokenizer,
        template.as_deref(),
        loader.architecture,
    );
    let simd = options.simd.map_or_else(Simd::detect, Simd::at_most);
    Ok(Model(Arc::new(Inner {
        file,
        graph,
        tokenizer,
        template,
        info,
        simd,
        pool,
    })))
}

fn info(
    file: &Gguf,
    graph: &Graph,
    tokenizer: &Tokenizer,
    template: Option<&str>,
    architecture: String,
) -> ModelInfo {
    let mut by_type: HashMap<TensorType, u64> = HashMap::new();
    for tensor in file.tensors() {
        *by_type.entry(tensor.ty).or_default() += tensor.elements();
    }
    let most = by_type
        .iter()
        .max_by_key(|(ty, n)| (**n, ty.id()))
        .map(|(ty, _)| ty.name());
    ModelInfo {
        name: file
            .str("general.name")
            .map_or_else(|_| architecture.clone(), str::to_owned),
        architecture,
        quantisation: most.unwrap_or("none").to_owned(),
        context: graph.context,
        vocab: graph.vocab as u32,
        parameters: file
            .tensors()
            .iter()
            .map(crate::gguf::Tensor::elements)
            .sum(),
        digest: blake3::hash(file.file()).into(),
        tokenizer_digest: tokenizer.digest(),
        template_digest: blake3::hash(template.unwrap_or_default().as_bytes()).into(),
        numerics: Some(NUMERICS.to_owned()),
    }
}

/// Flip the sign of the largest weight of the last norm: every logit of every
/// token contains it.
fn alter(graph: &mut Graph) {
    let largest = graph
        .norm
        .iter_mut()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()));
    if let Some(weight) = largest {
        *weight = -*weight;
    }
}

impl Loader<'_> {
    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.architecture)
    }

    pub fn has(&self, part: &str) -> bool {
        self.file.get(&self.key(part)).is_some()
    }

    /// An integer hyperparameter within bounds.
    pub fn size(&self, part: &str, bound: Bound) -> Result<usize, LoadError> {
        let value = self.file.uint(&self.key(part))?;
        self.within(part, value, bound)
    }

    /// A computed hyperparameter within bounds.
    pub fn within(&self, part: &str, value: u64, bound: Bound) -> Result<usize, LoadError> {
        self.require(part, bound.0.contains(&value), value, bound.1)?;
        Ok(value as usize)
    }

    /// A float hyperparameter above zero.
    pub fn positive(&self, part: &str) -> Result<f32, LoadError> {
        let value = self.file.float(&self.key(part))?;
        self.require(
            part,
            value.is_normal() && value > 0.0,
            value,
            "a positive number",
        )?;
        Ok(value)
    }

    pub fn require(
        &self,
        part: &str,
        good: bool,
        value: impl ToString,
        allowed: &'static str,
    ) -> Result<(), LoadError> {
        match good {
            true => Ok(()),
            false => Err(LoadError::Hyperparameter {
                key: self.key(part),
                value: value.to_string(),
                allowed,
            }),
        }
    }

    /// Refuse rope scaling, which no graph here computes.
    pub fn plain_rope(&self) -> Result<(), LoadError> {
        let part = "rope.scaling.type";
        match self.file.get(&self.key(part)) {
            None => Ok(()),
            Some(value) => {
                let found = value.as_str().unwrap_or("not a string");
                self.require(
                    part,
                    found == "none",
                    found,
                    "\"none\" (no rope scaling yet)",
                )
            }
        }
    }

    /// Check the embedding against width and vocabulary; the number of tokens.
    pub fn vocabulary(&self, name: &str, width: usize) -> Result<usize, LoadError> {
        let tensor = self.tensor(name)?;
        let rows = *tensor.dims.get(1).unwrap_or(&0);
        if rows != self.tokens as u64 {
            return Err(LoadError::Vocabulary {
                tokens: self.tokens,
                rows,
            });
        }
        self.shaped(name, &[width, self.tokens])?;
        // Rows are read from the file as they are, so its type must be one of ours.
        match tensor.ty {
            TensorType::F32 | TensorType::F16 | TensorType::Q8_0 => Ok(self.tokens),
            ty => Err(LoadError::Quantisation {
                name: name.to_owned(),
                ty,
            }),
        }
    }

    /// A vector of f32 (norm weights).
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.shaped(name, &[n])?;
        if tensor.ty != TensorType::F32 {
            return Err(LoadError::Quantisation {
                name: name.to_owned(),
                ty: tensor.ty,
            });
        }
        let bytes = self.file.bytes(tensor).as_chunks::<4>().0;
        let vector: Vec<f32> = bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match vector.iter().all(|x| x.is_finite()) {
            true => Ok(vector),
            false => Err(LoadError::NotFinite {
                name: name.to_owned(),
            }),
        }
    }

    /// A matrix of `rows` rows of `k` elements, packed.
    pub fn matrix(&self, name: &str, k: usize, rows: usize) -> Result<Matrix, LoadError> {
        let tensor = self.shaped(name, &[k, rows])?;
        Matrix::pack(self.pool, tensor.ty, self.file.bytes(tensor), k, rows).map_err(|e| match e {
            PackError::Type => LoadError::Quantisation {
                name: name.to_owned(),
                ty: tensor.ty,
            },
            PackError::NotFinite => LoadError::NotFinite {
                name: name.to_owned(),
            },
        })
    }

    fn tensor(&self, name: &str) -> Result<&crate::gguf::Tensor, LoadError> {
        self.file
            .tensor(name)
            .ok_or_else(|| LoadError::MissingTensor {
                name: name.to_owned(),
            })
    }

    fn shaped(&self, name: &str, dims: &[usize]) -> Result<&crate::gguf::Tensor, LoadError> {
        let tensor = self.tensor(name)?;
        let wanted: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        // Trailing dimensions of one say nothing.
        let trim = |d: &[u64]| d.iter().rposition(|x| *x != 1).map_or(0, |i| i + 1);
        if tensor.dims[..trim(&tensor.dims)] == wanted[..trim(&wanted)] {
            Ok(tensor)
        } else {
            Err(LoadError::Shape {
                name: name.to_owned(),
                found: tensor.dims.clone(),
                wanted,
            })
        }
    }
}
