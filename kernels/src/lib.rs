//! The engine: open-weight models from GGUF files, on kernels of our own.
//!
//! `gguf` reads files, `tokenizer` turns text into ids and back. Knows nothing of
//! peers or money. The only crate with unsafe code; each block says lifetime,
//! bounds and alignment.

pub mod gguf;
pub mod pocket;
pub mod synthetic;
pub mod tokenizer;
pub mod train;
