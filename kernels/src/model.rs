//! A loaded model: weights laid out for the kernels, vocabulary, template, identity.
//!
//! [`Model`] is cheap to clone and may be used from several threads; its kernels
//! run on one pool, one operation at a time. It holds no sequence: that is
//! `runtime::Generation`.

mod arch;
mod backing;
mod error;
mod forward;
pub(crate) mod graph;
mod loader;
mod packing;
mod template;

pub use error::LoadError;
pub use template::{
    ChatMessage, ChildRenderer, RenderRequest, Renderer, TemplateError, encode_chat,
    render_template, serve_renders, set_renderer,
};

pub(crate) use forward::{Row, Scratch};
pub(crate) use graph::{Graph, Head, Pooling};

use crate::cpu::{Simd, SimdLevel};
use crate::cuda::{CudaError, DeviceModel};
use crate::gguf::{Gguf, Head as FileHead};
use crate::pool::Pool;
use crate::tokenizer::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// The numerics of every model this crate runs today: NUMERICS.md. Two engines
/// that name the same numerics give the same bits.
pub const NUMERICS: &str = "freehold/exact/3";

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Threads to compute on; 0 means all that the system gives.
    pub threads: usize,
    /// Use at most this instruction level (for tests and comparisons).
    pub simd: Option<SimdLevel>,
    /// Damage the model on purpose (for the demonstration of audits).
    pub cheat: Option<Cheat>,
    /// Pack all weights and hash the file in one pass, on all threads, before anything is
    /// computed: for who serves for long. Otherwise a large file may answer first.
    pub at_once: bool,
    /// Take a file whose vocabulary cannot be used, or that has none: its tokens have no
    /// text, and only [`Model::logits`] and the like make sense of it.
    pub any_vocabulary: bool,
}

/// Where to compute, and with how much of it. The default is the processor.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Most bytes of GPU memory to use, for weights and cache; all that is free where
    /// there is no number. Nothing to the CPU.
    pub memory: Option<u64>,
}

/// Where to compute. The bits of an answer do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// This CUDA device, or fail.
    Cuda(u32),
    /// The first CUDA device that takes the model, otherwise the processor.
    Auto,
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().map(Self::Cuda);
        match s {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "auto" => Some(Self::Auto),
            other => other.strip_prefix("cuda:").and_then(number),
        }
        .ok_or_else(|| format!("device {s:?} is none of cpu, cuda, cuda:0 (1, 2, …) and auto"))
    }
}

/// A deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Flip the sign of one weight after loading. The file, and so every digest,
    /// stays that of the honest model.
    AlterWeight,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// `general.name`, or the architecture where the file has no name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// The storage type of most weights, such as `Q8_0`.
    pub quantisation: String,
    /// Context length in tokens.
    pub context: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Number of weights.
    pub parameters: u64,
    /// BLAKE3 of the vocabulary ([`Tokenizer::digest`]).
    pub tokenizer_digest: [u8; 32],
    /// BLAKE3 of the chat template's text (of no bytes where there is none).
    pub template_digest: [u8; 32],
    /// Name of the numerics, where answers can be replayed.
    pub numerics: Option<String>,
}

/// A model ready to compute.
#[derive(Clone)]
pub struct Model(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub backing: Arc<backing::Backing>,
    pub graph: Graph,
    pub tokenizer: Tokenizer,
    pub template: Option<String>,
    pub info: ModelInfo,
    pub simd: Simd,
    pub pool: Pool,
    pub device: Option<DeviceModel>,
    pub fallback: Option<CudaError>,
    /// What goes on after loading.
    packing: Option<packing::Packing>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("info", &self.0.info)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Map and load a GGUF file, or a split model by its first part. Who writes to the files
    /// while something is still read from them makes this model useless, and harms nothing
    /// else; after [`Self::settle`] nothing is read from them, unless memory was short.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, LoadError> {
        Self::open_on(path, options, &Placement::default())
    }

    /// [`Self::open`], to compute on a chosen device.
    pub fn open_on(
        path: &Path,
        options: &OpenOptions,
        placement: &Placement,
    ) -> Result<Self, LoadError> {
        loader::load(Gguf::open(path)?, options, placement)
    }

    /// Load a GGUF file that is in memory.
    pub fn from_bytes(
        bytes: impl Into<Arc<[u8]>>,
        options: &OpenOptions,
    ) -> Result<Self, LoadError> {
        Self::from_bytes_on(bytes, options, &Placement::default())
    }

    /// [`Self::from_bytes`], to compute on a chosen device.
    pub fn from_bytes_on(
        bytes: impl Into<Arc<[u8]>>,
        options: &OpenOptions,
        placement: &Placement,
    ) -> Result<Self, LoadError> {
        loader::load(Gguf::from_bytes(bytes)?, options, placement)
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// BLAKE3 of the whole file; of a split model, of its parts' digests in order. Of a
    /// large file that was not read through for loading, the first call does it, at some
    /// gigabytes a second; what else computes waits meanwhile.
    pub fn digest(&self) -> [u8; 32] {
        self.0.backing.digest(&self.0.pool)
    }

    /// Whether the file changed while something was still to be read from it: nothing can be
    /// computed then, until it is opened again.
    pub fn is_changed(&self) -> bool {
        self.0.backing.is_changed()
    }

    /// What the file holds before its weights, for those who have not the model. `None` until
    /// [`Self::digest`] is known, and where the file has changed since it was loaded.
    pub fn head(&self) -> Option<Arc<FileHead>> {
        self.0.backing.head()
    }

    /// Wait until the weights lie as the kernels read them fastest and the file is no longer
    /// needed, or packing has given up for lack of memory. A large file's may still be packed in the background after
    /// loading; answers need not wait for it.
    pub fn settle(&self) {
        if let Some(packing) = &self.0.packing {
            packing.wait();
        }
    }

    /// Whether all weights lie as the kernels read them fastest.
    pub(crate) fn is_packed(&self) -> bool {
        self.0
            .packing
            .as_ref()
            .is_none_or(packing::Packing::is_complete)
    }

    /// Its vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.0.pool.threads()
    }

    /// What computes: `cpu`, or a GPU's number, name and compute capability.
    pub fn device(&self) -> String {
        let device = self.0.device.as_ref();
        device.map_or_else(|| "cpu".to_owned(), DeviceModel::device)
    }

    /// Why the processor computes although [`DeviceChoice::Auto`] was asked for.
    pub fn fallback(&self) -> Option<&CudaError> {
        self.0.fallback.as_ref()
    }

    /// The instruction level in use.
    pub fn simd(&self) -> SimdLevel {
        self.0.simd.level()
    }

    /// The prompt text that the model's chat template makes of a conversation, up
    /// to where the assistant's answer begins. `date` is `YYYY-MM-DD`, for
    /// templates that print today's date.
    pub fn render_chat(
        &self,
        messages: &[ChatMessage],
        date: &str,
    ) -> Result<String, TemplateError> {
        let source = self.0.template.as_deref().ok_or(TemplateError::Missing)?;
        template::render(source, &self.0.tokenizer, messages, date)
    }

    /// The tokens of [`Self::render_chat`], special tokens recognised, preceded by
    /// BOS where the model wants one and the template has not written it.
    pub fn encode_chat(
        &self,
        messages: &[ChatMessage],
        date: &str,
    ) -> Result<Vec<u32>, TemplateError> {
        encode_chat(
            &self.0.tokenizer,
            self.0.template.as_deref(),
            messages,
            date,
        )
    }
}

#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod zoo;
