//! The kernels as text: sources, and the PTX made of them that ships with the engine.
//!
//! Users have a driver, rarely a compiler; the driver turns PTX into its device's code
//! when a model is loaded. `cuda/ptx/MANIFEST` records of which source each PTX file was
//! made; a test compares. Called by `driver` and the binary `ptx`.

/// Options of every compilation. No contraction, no flushing of denormals, correctly
/// rounded division and square root: NUMERICS.md depends on them.
pub const OPTIONS: [&str; 5] = [
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
];
/// What the shipped PTX is made for: everything from Ampere on can run it.
pub const ARCHITECTURE: &str = "compute_80";

const COMMON: &str = include_str!("../../cuda/common.cuh");
const BLOCKS: &str = include_str!("../../cuda/blocks.cuh");

/// One `.cu` file.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its name, without ending.
    pub name: &'static str,
    text: &'static str,
    /// The PTX made of it.
    pub ptx: &'static str,
    /// The kernels that the engine calls.
    pub kernels: &'static [&'static str],
}

macro_rules! modules {
    ($($name:literal: $($kernel:literal),*;)*) => {
        /// All of them.
        pub const MODULES: &[Module] = &[$(Module {
            name: $name,
            text: include_str!(concat!("../../cuda/", $name, ".cu")),
            ptx: include_str!(concat!("../../cuda/ptx/", $name, ".ptx")),
            kernels: &[$($kernel),*],
        }),*];
    };
}

modules! {
    "attention": "attention", "attention_scores", "attention_weights", "attention_values";
    "experts": "route", "combine";
    "heads": "heads";
    "linear_blocks": "linear_q8_one", "linear_q8_eight", "linear_q4_one", "linear_q4_eight",
        "linear_mx_one", "linear_mx_eight", "linear_nl_one", "linear_nl_eight",
        "linear_q4_min_one", "linear_q4_min_eight", "linear_q5_min_one", "linear_q5_min_eight";
    "linear_float": "linear_f32", "linear_f16", "linear_bf16";
    "linear_k": "linear_q4_k_one", "linear_q4_k_eight", "linear_q5_k_one",
        "linear_q5_k_eight", "linear_q6_k_one", "linear_q6_k_eight", "linear_iq4_xs_one",
        "linear_iq4_xs_eight";
    "linear_tiles": "linear_q8_tiles", "linear_q4_tiles", "linear_mx_tiles", "linear_nl_tiles",
        "linear_q4_min_tiles", "linear_q5_min_tiles";
    "norm": "rms_norm", "gated", "quantise", "residual", "cap";
    "sample": "top_of_logits", "top_of_keys", "weigh", "settle", "all_finite";
}

/// What was recorded when the PTX was made.
pub const MANIFEST: &str = include_str!("../../cuda/ptx/MANIFEST");

impl Module {
    /// The whole source in one piece, as compilers get it.
    pub fn source(&self) -> String {
        self.text
            .replace("#include \"common.cuh\"", COMMON)
            .replace("#include \"blocks.cuh\"", BLOCKS)
    }

    /// Its line of the manifest: name, hash of source and options, hash of the PTX.
    pub fn manifest_line(&self, ptx: &str) -> String {
        let mut source = blake3::Hasher::new();
        source.update(self.source().as_bytes());
        source.update(OPTIONS.join(" ").as_bytes());
        source.update(ARCHITECTURE.as_bytes());
        let ptx = blake3::hash(ptx.as_bytes());
        format!("{} {} {}", self.name, source.finalize(), ptx)
    }

    /// A key for what a compiler made of it.
    pub(crate) fn cache_key(&self, compiler: &str, architecture: &str) -> String {
        let mut hash = blake3::Hasher::new();
        let source = self.source();
        let options = OPTIONS.join(" ");
        for part in [source.as_str(), options.as_str(), compiler, architecture] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_ptx_was_made_of_these_sources() {
        let lines: Vec<&str> = MANIFEST.lines().filter(|l| !l.starts_with('#')).collect();
        let expected: Vec<String> = MODULES.iter().map(|m| m.manifest_line(m.ptx)).collect();
        assert!(
            lines == expected,
            "a kernel changed: make its PTX again (kernels/cuda/README.md, \"PTX\")"
        );
    }

    #[test]
    fn the_shipped_ptx_has_every_kernel_and_nothing_inexact() {
        for module in MODULES {
            for kernel in module.kernels {
                assert!(
                    module.ptx.contains(&format!(".entry {kernel}(")),
                    "{kernel}"
                );
            }
            for banned in [
                ".extern .func",
                "fma.rn",
                "mad.f",
                ".ftz",
                ".approx",
                "div.full",
                "mul.f",
                "add.f",
                "sub.f",
            ] {
                assert!(
                    !module.ptx.contains(banned),
                    "{banned} in {}.ptx",
                    module.name
                );
            }
            assert!(module.ptx.contains(".target sm_80"));
        }
    }
}
