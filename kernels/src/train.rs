//! A small trainer for models of the qwen3 architecture: f32, on the CPU, and the same bits
//! everywhere.
//!
//! What it is: the whole way from text that the project generates itself ([`corpus`]), over a
//! byte-level BPE vocabulary ([`bpe`]), to trained weights ([`net`], [`adam`], [`run`]) and a
//! GGUF file. The pocket model that ships with the repository is made by it, and it is the
//! beginning of paid training.
//!
//! What it is not: fast by the standards of a GPU, or a general framework. One architecture,
//! one optimiser, gradients written by hand.
//!
//! Rules that make a run replayable: only f32 and integers; a product and a sum are two
//! roundings, never a fused one; every reduction has a written order (ascending, or sixteen
//! strided partial sums and a fixed tree); exp, ln, sin and cos are our own ([`math`]);
//! randomness is a function of (seed, stream, counter) ([`rng`]); the work is cut by rows of
//! the batch, never by threads, so the thread count does not show in the result.
//!
//! Called by the `pocket` binary and by tests.

pub mod adam;
pub mod bpe;
pub mod corpus;
pub mod gemm;
pub mod math;
pub mod net;
pub mod rng;
pub mod run;
