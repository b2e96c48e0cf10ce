//! Activations on a device, in the forms that matrices read them.

use super::CudaError;
use super::backend::Arg::Pointer;
use super::backend::{Arg, Backend, Buffer};
use super::pack::{BLOCK, SUPER};
use std::sync::Arc;

/// Elements whose codes are summed for K-quants.
const SUMMED: usize = 16;

/// The forms of activations that a stack of matrices reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// f32.
    pub plain: bool,
    /// Eight bits per block of 32.
    pub q8: bool,
    /// Eight bits per block of 256.
    pub k: bool,
}

impl Needs {
    /// The forms of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            plain: self.plain || other.plain,
            q8: self.q8 || other.q8,
            k: self.k || other.k,
        }
    }
}

/// Rows of activations; only the forms asked for are ever filled.
pub(crate) struct Activations {
    pub plain: Buffer<f32>,
    pub q8: Quantised,
    pub k: Quantised,
    /// Of `k`, the sum of each sixteen codes.
    pub sums: Buffer<i16>,
}

/// Codes and scales.
pub(crate) struct Quantised {
    pub codes: Buffer<i8>,
    pub scales: Buffer<f32>,
}

impl Activations {
    pub fn new(device: &Arc<dyn Backend>) -> Result<Self, CudaError> {
        let quantised = || {
            Ok(Quantised {
                codes: Buffer::new(device, 0)?,
                scales: Buffer::new(device, 0)?,
            })
        };
        Ok(Self {
            plain: Buffer::new(device, 0)?,
            q8: quantised()?,
            k: quantised()?,
            sums: Buffer::new(device, 0)?,
        })
    }

    /// Room for `n` elements in the forms needed.
    pub fn grow(&mut self, n: usize, needs: Needs) -> Result<(), CudaError> {
        if needs.plain {
            self.plain.grow(n)?;
        }
        if needs.q8 {
            self.q8.codes.grow(n)?;
            self.q8.scales.grow(n.div_ceil(BLOCK))?;
        }
        if needs.k {
            self.k.codes.grow(n)?;
            self.k.scales.grow(n.div_ceil(SUPER))?;
            self.sums.grow(n.div_ceil(SUMMED))?;
        }
        Ok(())
    }

    /// Where the buffers lie.
    pub fn addresses(&self) -> [u64; 6] {
        let [a, b] = [&self.q8, &self.k].map(|q| (q.codes.address(), q.scales.address()));
        let (plain, sums) = (self.plain.address(), self.sums.address());
        [plain, a.0, a.1, b.0, b.1, sums]
    }

    /// Panic unless there are `rows` rows of `n` elements in the forms needed, and rows
    /// are whole blocks.
    pub fn check(&self, rows: usize, n: usize, needs: Needs) {
        let all = rows * n;
        assert!(rows > 0);
        assert!(!needs.plain || self.plain.len() >= all);
        assert!(!needs.q8 || self.q8.holds(all, BLOCK) && n.is_multiple_of(BLOCK));
        let sums = self.sums.len() * SUMMED >= all;
        assert!(!needs.k || self.k.holds(all, SUPER) && sums && n.is_multiple_of(SUPER));
    }

    /// The pointers of the forms wanted, in the order that kernels declare them.
    pub fn outputs(&self, needs: Needs) -> [Arg; 6] {
        let or_none = |wanted, arg| if wanted { arg } else { Pointer(0) };
        [
            or_none(needs.plain, self.plain.arg()),
            or_none(needs.q8, self.q8.codes.arg()),
            or_none(needs.q8, self.q8.scales.arg()),
            or_none(needs.k, self.k.codes.arg()),
            or_none(needs.k, self.k.scales.arg()),
            or_none(needs.k, self.sums.arg()),
        ]
    }
}

impl Quantised {
    fn holds(&self, n: usize, block: usize) -> bool {
        self.codes.len() >= n && self.scales.len() * block >= n
    }
}
