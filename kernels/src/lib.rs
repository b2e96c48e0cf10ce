//! The engine: open-weight models from GGUF files, on kernels of our own.
//!
//! ```text
//! gguf ──► tokenizer ──► model (graph per architecture) ──► runtime (Generation, replay)
//!                              │                                │
//!                              └──────► ops (kernels) ◄── pool ─┘
//! ```
//! [`Model::open`] loads a file; [`Engine`] makes many answers at once, [`Generation`]
//! one, token by token; [`replay`] recomputes one from its tokens. All give the same
//! bits on every machine: the rules are in NUMERICS.md beside this crate, their name
//! is [`NUMERICS`]. Knows nothing of peers or money. The only crate with unsafe code;
//! each block says lifetime, bounds and alignment.

pub mod bench;
mod cpu;
pub mod cuda;
pub mod gguf;
pub mod heap;
mod model;
mod ops;
pub mod pocket;
mod pool;
mod runtime;
pub mod synthetic;
pub mod tokenizer;
pub mod train;

pub use cpu::{CpuFeatures, SimdLevel, cpu_features, memory};
pub use model::{
    ChatMessage, Cheat, ChildRenderer, DeviceChoice, LoadError, Model, ModelInfo, NUMERICS,
    OpenOptions, Placement, RenderRequest, Renderer, TemplateError, encode_chat, render_template,
    serve_renders, set_renderer,
};
pub use runtime::{
    BACKGROUND, CancelFlag, Control, Engine, EngineError, EngineOptions, Finish, Generation, Load,
    Logprob, Logprobs, Next, Replayed, Request, Sampling, Steering, Step, Stream, replay,
    replay_steered,
};
pub use tokenizer::{Grammar, GrammarError, Piece, Tokenizer};
