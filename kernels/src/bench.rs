//! A short, bounded benchmark of the real kernels, for the capability profiler.
//!
//! Times vary with the machine's load; nothing here decides anything. For numbers
//! that are compared with peers see the `benches` package.

mod bandwidth;
mod streams;

pub use bandwidth::bandwidth;
pub use streams::{Plan, Speed, streams};

use crate::cpu::{Simd, SimdLevel, default_threads};
use crate::gguf::TensorType;
use crate::model::{LoadError, Model, OpenOptions};
use crate::ops::linear::{Input, Product, linear};
use crate::ops::weights::Matrix;
use crate::pool::Pool;
use crate::runtime::{CancelFlag, EngineError, Generation, Sampling};
use crate::synthetic::{Shape, qwen3, weights};
use std::time::{Duration, Instant};

/// What to measure and for how long.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Threads; 0 means all that the system gives.
    pub threads: usize,
    /// Use at most this instruction level.
    pub simd: Option<SimdLevel>,
    /// Time for each of the measurements.
    pub budget: Duration,
    /// How the weights are stored: any type that matrices may have.
    pub ty: TensorType,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            simd: None,
            budget: Duration::from_millis(500),
            ty: TensorType::Q8_0,
        }
    }
}

/// Speed of the linear kernel on weights that do not fit into a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelSpeed {
    /// Bytes of weights, as stored in a file, read per second by one-token products.
    pub gemv_bytes_per_second: f64,
    /// Multiply and add operations per second of many-token products.
    pub gemm_operations_per_second: f64,
    /// The level used.
    pub simd: SimdLevel,
    /// Threads used.
    pub threads: usize,
}

/// Speed of a whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelSpeed {
    /// Prompt tokens per second.
    pub prefill_tokens_per_second: f64,
    /// Generated tokens per second, one stream.
    pub decode_tokens_per_second: f64,
    /// Prompt tokens measured with.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
}

/// Measure the linear kernel on 64 Mi weights.
///
/// # Panics
/// For a type that matrices cannot have.
pub fn kernels(options: &BenchOptions) -> KernelSpeed {
    const K: usize = 1024;
    const ROWS: usize = 64 << 10;
    const TOKENS: usize = 64;
    let threads = if options.threads == 0 {
        default_threads()
    } else {
        options.threads
    };
    let simd = options.simd.map_or_else(Simd::detect, Simd::at_most);
    let pool = Pool::new(threads);
    let bytes = weights(options.ty, K, ROWS, 1);
    let Ok(matrix) = Matrix::pack(&pool, options.ty, &bytes, K, ROWS) else {
        panic!("matrices cannot be stored as {}", options.ty)
    };
    let x: Vec<f32> = (0..K * TOKENS)
        .map(|i| ((i * 37) % 101) as f32 - 50.0)
        .collect();
    let mut out = vec![0.0; ROWS * TOKENS];
    let mut input = Input::default();
    let mut measure = |tokens: usize| {
        let mut once = || {
            let mut products = [Product {
                matrix: &matrix,
                out: &mut out[..ROWS * tokens],
            }];
            linear(simd, &pool, &mut input, &x[..K * tokens], K, &mut products);
        };
        once();
        let start = Instant::now();
        let mut turns = 0;
        while turns == 0 || start.elapsed() < options.budget {
            once();
            turns += 1;
        }
        f64::from(turns) / start.elapsed().as_secs_f64()
    };
    KernelSpeed {
        gemv_bytes_per_second: measure(1) * bytes.len() as f64,
        gemm_operations_per_second: measure(TOKENS) * (2 * ROWS * K * TOKENS) as f64,
        simd: simd.level(),
        threads: pool.threads(),
    }
}

/// Measure a loaded model: a prompt of `prompt` tokens, then greedy decoding until
/// the budget is spent or `generate` tokens are made.
pub fn model(
    model: &Model,
    prompt: usize,
    generate: usize,
    budget: Duration,
) -> Result<ModelSpeed, EngineError> {
    model.settle();
    let vocab = model.info().vocab.min(256);
    let tokens: Vec<u32> = (0..prompt.max(1) as u32)
        .map(|i| (i * 31 + 7) % vocab)
        .collect();
    let output = generate.max(1) as u32;
    let mut generation = Generation::new(model, &tokens, Sampling::default(), 0, output, &[])?;
    let start = Instant::now();
    generation.prefill(&CancelFlag::new())?;
    let prefill = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut made = 0;
    while made == 0 || (made < generate && start.elapsed() < budget) {
        let step = generation.step()?;
        made += 1;
        if step.finish.is_some() {
            break;
        }
    }
    Ok(ModelSpeed {
        prefill_tokens_per_second: tokens.len() as f64 / prefill,
        decode_tokens_per_second: made as f64 / start.elapsed().as_secs_f64(),
        prompt_tokens: tokens.len(),
        generated_tokens: made,
    })
}

/// Measure a random model of a shape. Building it takes a few seconds per
/// gigabyte and twice its size in memory.
pub fn shape(shape: &Shape, options: &BenchOptions) -> Result<ModelSpeed, BenchError> {
    let open = OpenOptions {
        threads: options.threads,
        simd: options.simd,
        ..OpenOptions::default()
    };
    let loaded = Model::from_bytes(qwen3(shape, options.ty, 1), &open)?;
    Ok(model(&loaded, 64, 256, options.budget)?)
}

/// Why a shape could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The shape is not loadable.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The shape cannot be computed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
