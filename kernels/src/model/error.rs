//! Why a model cannot be loaded.

use crate::gguf::{GgufError, TensorType};
use crate::tokenizer::TokenizerError;

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file itself is damaged or not GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The GPU asked for cannot run it.
    #[error(transparent)]
    Device(#[from] crate::cuda::CudaError),
    /// An architecture without a graph.
    #[error(
        "architecture {architecture:?} is not supported ({} supported)",
        super::arch::KNOWN
    )]
    Architecture {
        /// Its name in the file.
        architecture: String,
    },
    /// A size that no model has.
    #[error("{key} is {value}; it must be {allowed}")]
    Hyperparameter {
        /// The metadata key.
        key: String,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A tensor is missing.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has other dimensions than the hyperparameters say.
    #[error("tensor {name:?} is {found:?}; the model's sizes demand {wanted:?}")]
    Shape {
        /// Its name.
        name: String,
        /// In the file.
        found: Vec<u64>,
        /// By the hyperparameters.
        wanted: Vec<u64>,
    },
    /// A storage type without kernels.
    #[error(
        "tensor {name:?} is stored as {ty}, which is not supported yet: use a Q8_0, F16 or F32 file of this model"
    )]
    Quantisation {
        /// Its name.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A weight that is infinite or not a number.
    #[error("tensor {name:?} holds weights that are not finite numbers: the file is damaged")]
    NotFinite {
        /// Its name.
        name: String,
    },
    /// Somebody wrote to the file.
    #[error("the file changed while it was loaded: load it again when it is complete")]
    Changed,
    /// The vocabulary and the embedding disagree.
    #[error("the vocabulary has {tokens} tokens but the embedding has {rows} rows")]
    Vocabulary {
        /// Tokens in the vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: u64,
    },
}
