//! What this machine is, in coarse bands, and which roles suit it.
//!
//! Not a decision: nothing is enabled here. `measure` looks and runs the
//! kernels, [`roles`] is a pure table over the result. No serial numbers, no
//! names of the machine; raw figures only where they are asked for. Called by
//! `freehold profile`; a host's listing takes the bands.

use serde::Serialize;

pub mod measure;
pub mod roles;

pub use measure::measure;
pub use roles::{Advice, RoleAdvice, advise};

/// What was found and measured. A figure that could not be had is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Threads that this process may run at once.
    pub threads: usize,
    /// Instruction level of the kernels.
    pub simd: String,
    /// Memory of the machine, bytes.
    pub memory_bytes: Option<u64>,
    /// Memory free for this process, bytes.
    pub available_bytes: Option<u64>,
    /// Writing to the data folder, bytes a second.
    pub disk_write_bytes_per_s: Option<u64>,
    /// Memory of each GPU, bytes.
    pub gpu_memory_bytes: Vec<u64>,
    /// Why there is no GPU, where there is none.
    pub gpu_reason: Option<String>,
    /// Weights read by one-token products, bytes a second: what decoding is bound by.
    pub kernel_bytes_per_s: Option<u64>,
    /// Multiply-adds of many-token products a second: what prompts are bound by.
    pub kernel_operations_per_s: Option<u64>,
    /// Tokens a second of the pocket model, one stream.
    pub pocket_tokens_per_s: Option<u64>,
}

impl Facts {
    /// What can be known without measuring.
    pub fn quick() -> Self {
        measure::quick()
    }
}

/// Coarse bands, as a listing shows them.
pub fn bands(facts: &Facts) -> Vec<String> {
    const GIB: u64 = 1 << 30;
    let mut bands = vec![
        format!("cpu:{}", facts.simd),
        format!("threads:{}", band(facts.threads as u64)),
    ];
    if let Some(bytes) = facts.memory_bytes {
        // Firmware keeps some: 31.2 GiB is a machine of 32.
        bands.push(format!("ram-gib:{}", band((bytes + GIB) / GIB)));
    }
    for bytes in &facts.gpu_memory_bytes {
        bands.push(format!("gpu-gib:{}", band((bytes + GIB) / GIB)));
    }
    if let Some(bytes) = facts.kernel_bytes_per_s {
        bands.push(format!("kernel-gb-s:{}", band(bytes / 1_000_000_000)));
    }
    bands
}

/// The band between two powers of two that a number lies in: `16-31`.
fn band(number: u64) -> String {
    match number {
        0 => "0".to_owned(),
        1 => "1".to_owned(),
        number => {
            let low = 1u64 << number.ilog2();
            format!("{low}-{}", low.saturating_mul(2) - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_powers_of_two_and_name_no_machine() {
        let facts = Facts {
            threads: 6,
            simd: "avx2".to_owned(),
            memory_bytes: Some(33_500_000_000),
            ..Facts::default()
        };
        assert_eq!(bands(&facts), ["cpu:avx2", "threads:4-7", "ram-gib:32-63"]);
    }
}
