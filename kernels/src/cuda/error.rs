//! What can go wrong on a device.

use crate::gguf::TensorType;

/// Why a model cannot run, or go on, on a CUDA device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no device to run on.
    #[error("no usable GPU: {reason}; use --device cpu")]
    NoDevice {
        /// Why.
        reason: String,
    },
    /// There are devices, but not this one.
    #[error("cuda:{ordinal} does not exist: this machine has cuda:0 to cuda:{last}")]
    Ordinal {
        /// The number asked for.
        ordinal: u32,
        /// The last number there is.
        last: u32,
    },
    /// A device older than the kernels.
    #[error(
        "{name} has compute capability {major}.{minor}; the kernels need 8.0 or later: use --device cpu"
    )]
    Capability {
        /// The device.
        name: String,
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// A part of a graph that only the CPU runs.
    #[error("{part} do not run on GPUs yet: use --device cpu")]
    Part {
        /// Which part, in plural.
        part: &'static str,
    },
    /// A storage type that only the CPU computes with.
    #[error("tensor {name:?} is {ty}, for which there is no GPU kernel yet: use --device cpu")]
    Quantisation {
        /// The tensor.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A size beyond what the kernels' shared memory holds.
    #[error("{what} is {size}; the GPU kernels take at most {most}: use --device cpu")]
    Size {
        /// Which size.
        what: &'static str,
        /// Its value.
        size: usize,
        /// The limit.
        most: usize,
    },
    /// Weights and the smallest cache do not fit.
    #[error(
        "the model needs {needed_mib} MiB of GPU memory and {free_mib} MiB may be used: close other programs, allow it more, choose another GPU (cuda:1, …) or a smaller model, or use --device cpu",
        needed_mib = .needed.div_ceil(1 << 20),
        free_mib = .free >> 20
    )]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes that may be used.
        free: u64,
    },
    /// Every page of the cache belongs to some sequence.
    #[error("all {pages} cache pages of the GPU are in use: run fewer or shorter sequences")]
    Pages {
        /// Number of pages.
        pages: usize,
    },
    /// The driver refused or failed.
    #[error("{operation} failed on the GPU: {cause}")]
    Driver {
        /// What was asked of it.
        operation: &'static str,
        /// Its answer.
        cause: String,
    },
}
