//! From a checked file to a [`Model`]: hyperparameters within bounds, tensors of
//! the demanded shapes, weights packed.
//!
//! Because every tensor must have exactly the shape that the hyperparameters
//! demand, and all of them lie in the file, no hyperparameter can make us allocate
//! more than a small multiple of the file.

use super::backing::Backing;
use super::graph::{Head, Linear, Norm};
use super::packing::Packing;
use super::{
    Cheat, Graph, Inner, LoadError, Model, ModelInfo, NUMERICS, OpenOptions, Placement, arch,
};
use crate::cpu::{Simd, default_threads};
use crate::cuda::DeviceModel;
use crate::gguf::{Digester, Gguf, Span, Tensor, TensorType, Value};
use crate::ops::buffer::Arena;
use crate::ops::dequant;
use crate::ops::q8::rows::Rows;
use crate::ops::weights::{Matrix, PackError, Packed, Source, Stored};
use crate::pool::Pool;
use crate::tokenizer::Tokenizer;
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a file from which it is worth a thread to pack some of it after loading.
const LARGE: usize = 64 << 20;

/// Bounds of sizes: about four times the largest models known; from below such that
/// matrices padded to groups of sixteen rows stay a small multiple of the file.
pub(super) const WIDTH: Bound = Bound(16..=1 << 18, "from 16 to 262144");
pub(super) const LAYERS: Bound = Bound(1..=1024, "from 1 to 1024");
pub(super) const HEADS: Bound = Bound(1..=2048, "from 1 to 2048");
pub(super) const HEAD_DIM: Bound = Bound(8..=1024, "from 8 to 1024");
pub(super) const EXPERTS: Bound = Bound(1..=2048, "from 1 to 2048");
/// Positions below 2^20: NUMERICS.md states the accuracy of angles up to there.
pub(super) const CONTEXT: Bound = Bound(1..=1 << 20, "from 1 to 1048576");

pub(super) struct Bound(RangeInclusive<u64>, &'static str);

/// Reads one model's parts by name.
pub(super) struct Loader<'a> {
    pub file: &'a Arc<Gguf>,
    /// Hashes what is packed; none where the file is hashed when somebody asks.
    digester: Option<Digester<'a>>,
    pub architecture: String,
    pool: &'a Pool,
    arena: Arena,
    tokens: usize,
    /// Rows to be packed after loading; none where everything is packed at once.
    later: Option<Mutex<Vec<Weak<Rows>>>>,
}

/// Load. What a large file has in Q8_0, if that is most of it, is packed afterwards.
pub(super) fn load(
    file: Gguf,
    options: &OpenOptions,
    placement: &Placement,
) -> Result<Model, LoadError> {
    let len: usize = file.parts().map(<[u8]>::len).sum();
    let can_wait = file.tensors().iter().filter(|t| Matrix::can_wait(t.ty));
    let waiting: usize = can_wait.map(|t| t.len).sum();
    let later = !options.at_once && waiting >= LARGE.max(len / 2);
    load_how(file, options, placement, later)
}

/// [`load`], with packing (and the digest) left for later or not.
pub(super) fn load_how(
    file: Gguf,
    options: &OpenOptions,
    placement: &Placement,
    later: bool,
) -> Result<Model, LoadError> {
    let file = Arc::new(file);
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
        digester: (!later).then(|| file.digester()),
        architecture,
        pool: &pool,
        arena: Arena::default(),
        tokens: tokenizer.len(),
        later: later.then(Mutex::default),
    };
    let mut graph = arch::build(&loader)?.place();
    if options.cheat == Some(Cheat::AlterWeight) {
        alter(&mut graph);
    }
    let template = file
        .get("tokenizer.chat_template")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let digest = loader.digester.map(|d| d.finish(&pool));
    let info = info(
        &file,
        &graph,
        &tokenizer,
        template.as_deref(),
        loader.architecture,
    );
    let simd = options.simd.map_or_else(Simd::detect, Simd::at_most);
    let (device, fallback) = DeviceModel::choose(&file, &graph, placement)?;
    if device.is_some() {
        graph.forget_weights();
    }
    graph.keep_embedding(&file);
    let later = loader.later.map(Mutex::into_inner);
    let rows = later.map_or_else(Vec::new, |rows| {
        rows.unwrap_or_else(PoisonError::into_inner)
    });
    loader.arena.finish();
    let backing = Arc::new(Backing::new(file, digest));
    if backing.is_changed() {
        return Err(LoadError::Changed);
    }
    let packing = match rows.is_empty() {
        true => {
            backing.let_go();
            None
        }
        false => Some(Packing::start(rows, backing.clone())),
    };
    Ok(Model(Arc::new(Inner {
        backing,
        graph,
        tokenizer,
        template,
        info,
        simd,
        pool,
        device,
        fallback,
        packing,
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
        tokenizer_digest: tokenizer.digest(),
        template_digest: blake3::hash(template.unwrap_or_default().as_bytes()).into(),
        numerics: Some(NUMERICS.to_owned()),
    }
}

/// Flip the sign of the largest weight of the last norm: every logit of every
/// token contains it.
fn alter(graph: &mut Graph) {
    let last = match &mut graph.head {
        Head::Logits { norm, .. } => Some(norm),
        Head::Pooled(_) => graph
            .layers
            .last_mut()
            .and_then(|l| l.feed_forward_norms.sum.as_mut()),
    };
    let Some(Norm::Rms(weight) | Norm::Layer { weight, .. }) = last else {
        return;
    };
    let largest = weight.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    if let Some(weight) = largest {
        *weight = -*weight;
    }
}

impl Loader<'_> {
    pub fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.architecture)
    }

    pub fn has(&self, part: &str) -> bool {
        self.file.get(&self.key(part)).is_some()
    }

    pub fn has_tensor(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// An integer hyperparameter within bounds.
    pub fn size(&self, part: &str, bound: Bound) -> Result<usize, LoadError> {
        let value = self.file.uint(&self.key(part))?;
        self.within(part, value, bound)
    }

    /// An integer hyperparameter that may be missing.
    pub fn size_or(&self, part: &str, bound: Bound, or: usize) -> Result<usize, LoadError> {
        match self.has(part) {
            true => self.size(part, bound),
            false => self.within(part, or as u64, bound),
        }
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

    /// A float hyperparameter that is not there where it is missing or 0.
    pub fn optional(&self, part: &str) -> Result<Option<f32>, LoadError> {
        match self.has(part) && self.file.float(&self.key(part))? != 0.0 {
            true => self.positive(part).map(Some),
            false => Ok(None),
        }
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
        let tensor = self.shaped(name, &[width, self.tokens])?;
        self.readable(tensor)?;
        Ok(self.tokens)
    }

    /// Rows of any length, as f32.
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, LoadError> {
        let tensor = self.shaped(name, dims)?;
        self.readable(tensor)?;
        let mut out = vec![0.0; tensor.elements() as usize];
        let row = tensor.row_len();
        let bytes = self.file.bytes(tensor);
        for (out, bytes) in out
            .chunks_exact_mut(row)
            .zip(bytes.chunks_exact(bytes.len() / tensor.rows()))
        {
            dequant::row(tensor.ty, bytes, out);
        }
        match out.iter().all(|x| x.is_finite()) {
            true => Ok(out),
            false => Err(LoadError::NotFinite {
                name: name.to_owned(),
            }),
        }
    }

    /// A vector (weights of a norm, a bias).
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, LoadError> {
        self.floats(name, &[n])
    }

    /// A vector that may be missing.
    pub fn optional_vector(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>, LoadError> {
        match self.has_tensor(name) {
            true => self.vector(name, n).map(Some),
            false => Ok(None),
        }
    }

    /// A root-mean-square norm.
    pub fn rms(&self, name: &str, n: usize) -> Result<Norm, LoadError> {
        Ok(Norm::Rms(self.vector(&format!("{name}.weight"), n)?))
    }

    /// A norm by mean and variance, with its bias.
    pub fn layer_norm(&self, name: &str, n: usize) -> Result<Norm, LoadError> {
        Ok(Norm::Layer {
            weight: self.vector(&format!("{name}.weight"), n)?,
            bias: self.vector(&format!("{name}.bias"), n)?,
        })
    }

    /// A matrix of `rows` rows of `k` elements, with its bias where there is one.
    pub fn linear(&self, name: &str, k: usize, rows: usize) -> Result<Linear, LoadError> {
        Ok(Linear {
            matrix: self.matrix(&format!("{name}.weight"), k, rows)?,
            bias: self.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }

    /// The rows `from .. from + rows` of a matrix of `all` rows of `k` elements, with
    /// their biases where there are any: one of several matrices that a file joins.
    pub fn part(
        &self,
        name: &str,
        k: usize,
        all: usize,
        from: usize,
        rows: usize,
    ) -> Result<Linear, LoadError> {
        let tensor = self.shaped(&format!("{name}.weight"), &[k, all])?;
        let bias = self.optional_vector(&format!("{name}.bias"), all)?;
        Ok(Linear {
            matrix: self.pack(tensor, k, from, rows)?,
            bias: bias.map(|b| b[from..from + rows].to_vec()),
        })
    }

    /// `count` matrices of one shape in one tensor, with their biases in another
    /// where there are any.
    pub fn linears(
        &self,
        name: &str,
        k: usize,
        rows: usize,
        count: usize,
    ) -> Result<Vec<Linear>, LoadError> {
        let bias_name = format!("{name}.bias");
        let bias = match self.has_tensor(&bias_name) {
            true => Some(self.floats(&bias_name, &[rows, count])?),
            false => None,
        };
        let name = format!("{name}.weight");
        let tensor = self.shaped(&name, &[k, rows, count])?;
        let one = |i: usize| {
            let bias = bias.as_ref().map(|b| b[i * rows..(i + 1) * rows].to_vec());
            Ok(Linear {
                matrix: self.pack(tensor, k, i * rows, rows)?,
                bias,
            })
        };
        (0..count).map(one).collect()
    }

    /// A matrix of `rows` rows of `k` elements, packed.
    pub fn matrix(&self, name: &str, k: usize, rows: usize) -> Result<Matrix, LoadError> {
        self.pack(self.shaped(name, &[k, rows])?, k, 0, rows)
    }

    /// Pack the rows `from .. from + rows` of a tensor whose rows have `k` elements.
    fn pack(
        &self,
        tensor: &Tensor,
        k: usize,
        from: usize,
        rows: usize,
    ) -> Result<Matrix, LoadError> {
        let row = tensor.len / tensor.rows();
        let range = from * row..(from + rows) * row;
        let packed = match self.pack_later(tensor, range.clone(), k) {
            Some(packed) => packed,
            None => self.pack_now(tensor, range, k, rows),
        };
        let mut matrix = packed.map_err(|e| match e {
            PackError::Type => LoadError::Quantisation {
                name: tensor.name.clone(),
                ty: tensor.ty,
            },
            PackError::NotFinite => LoadError::NotFinite {
                name: tensor.name.clone(),
            },
        })?;
        matrix.source = Source {
            tensor: tensor.name.clone(),
            from,
        };
        Ok(matrix)
    }

    fn pack_now(
        &self,
        tensor: &Tensor,
        range: Range<usize>,
        k: usize,
        rows: usize,
    ) -> Result<Matrix, PackError> {
        let bytes = &self.file.bytes(tensor)[range];
        let stored = Stored {
            bytes,
            arena: &self.arena,
            begin: &|part| {
                if let Some(digester) = &self.digester {
                    digester.read(part);
                }
            },
            done: &|part| self.file.release(part),
        };
        let packed = Matrix::pack_stored(self.pool, tensor.ty, stored, k, rows);
        // With what neighbours have brought back in.
        self.file.release(bytes);
        packed
    }

    /// Leave the packing of these bytes of a tensor for later, where that is possible.
    fn pack_later(
        &self,
        tensor: &Tensor,
        range: Range<usize>,
        k: usize,
    ) -> Option<Result<Matrix, PackError>> {
        let later = self.later.as_ref()?;
        let kept = Box::new(Span::new(self.file, tensor, range));
        let matrix = Matrix::later(self.pool, tensor.ty, kept, k)?;
        if let Ok(Matrix {
            data: Packed::Rows(rows),
            ..
        }) = &matrix
        {
            let mut later = later.lock().unwrap_or_else(PoisonError::into_inner);
            later.push(Arc::downgrade(rows));
        }
        Some(matrix)
    }

    /// Refuse a tensor whose rows `dequant::row` cannot read.
    fn readable(&self, tensor: &Tensor) -> Result<(), LoadError> {
        match dequant::reads(tensor.ty) {
            true => Ok(()),
            false => Err(LoadError::Quantisation {
                name: tensor.name.clone(),
                ty: tensor.ty,
            }),
        }
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, LoadError> {
        self.file
            .tensor(name)
            .ok_or_else(|| LoadError::MissingTensor {
                name: name.to_owned(),
            })
    }

    fn shaped(&self, name: &str, dims: &[usize]) -> Result<&Tensor, LoadError> {
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
