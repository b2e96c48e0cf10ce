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
    /// An error after which the driver refuses everything: nothing runs on this device any
    /// more until the process starts again.
    #[error(
        "the GPU is lost ({operation}: {cause}): start the node again; if it comes back, look for hardware faults in the system's log"
    )]
    Lost {
        /// What was asked of it when this was noticed.
        operation: &'static str,
        /// Its answer.
        cause: String,
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

impl CudaError {
    /// Whether nothing runs on the device any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// What the driver answered to `operation`, by the error's name.
    pub(super) fn of_driver(operation: &'static str, name: &str) -> Self {
        let hint = match name {
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" => {
                ": the driver is older than CUDA 12.1; update it"
            }
            "CUDA_ERROR_OUT_OF_MEMORY" => {
                ": something else took memory meanwhile; close other programs, or allow the model less"
            }
            _ => "",
        };
        let cause = format!("{name}{hint}");
        match STICKY.contains(&name) {
            true => Self::Lost { operation, cause },
            false => Self::Driver { operation, cause },
        }
    }
}

/// Errors that leave the context "in an inconsistent state" (CUDA driver API, `CUresult`):
/// every later call gives the same one.
const STICKY: [&str; 16] = [
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_UNKNOWN",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_every_later_call_repeats_are_told_from_those_that_pass() {
        let of = |name| CudaError::of_driver("waiting for kernels", name);
        assert!(of("CUDA_ERROR_ILLEGAL_ADDRESS").is_lost());
        assert!(of("CUDA_ERROR_ECC_UNCORRECTABLE").is_lost());
        assert!(!of("CUDA_ERROR_OUT_OF_MEMORY").is_lost());
        assert!(!of("CUDA_ERROR_INVALID_VALUE").is_lost());
    }
}
