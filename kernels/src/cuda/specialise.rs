//! Machine code for the device at hand, where a compiler is installed.
//!
//! The same sources and options as the shipped PTX, so the same bits; compiled once
//! and kept in the user's cache folder under a hash of source, options, compiler and
//! architecture. Everything here is optional: without it the driver compiles the PTX.

use super::nvrtc;
use super::ptx::Module;
use std::path::{Path, PathBuf};

/// Machine code of a module, from the cache or freshly compiled.
pub(crate) fn machine_code(module: &Module, architecture: &str) -> Option<Vec<u8>> {
    let compiler = nvrtc::version()?;
    let folder = folder();
    cached(folder.as_deref(), module, &compiler, architecture, || {
        nvrtc::compile(module, architecture)
            .map(|compiled| compiled.code)
            .inspect_err(|said| tracing::warn!("{said}"))
            .ok()
    })
}

fn folder() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(cache.join("freehold/kernels"))
}

fn cached(
    folder: Option<&Path>,
    module: &Module,
    compiler: &str,
    architecture: &str,
    compile: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let file = folder.map(|f| {
        f.join(format!(
            "{}.cubin",
            module.cache_key(compiler, architecture)
        ))
    });
    if let Some(code) = file.as_ref().and_then(|f| std::fs::read(f).ok()) {
        return Some(code);
    }
    let code = compile()?;
    // A cache that cannot be written costs time, nothing else. Written beside its place
    // and moved there, so that nobody reads half of it.
    if let (Some(folder), Some(file)) = (folder, file)
        && std::fs::create_dir_all(folder).is_ok()
    {
        let partial = file.with_extension(format!("{}.partial", std::process::id()));
        let kept = std::fs::write(&partial, &code).and_then(|()| std::fs::rename(&partial, &file));
        if let Err(error) = kept {
            tracing::debug!(%error, "compiled kernels were not kept");
        }
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::ptx::MODULES;

    #[test]
    fn compiled_kernels_are_kept_by_source_compiler_and_architecture() {
        let folder = std::env::temp_dir().join(format!("freehold-cubins-{}", std::process::id()));
        let get = |compiler: &str, arch: &str, made: Option<u8>| {
            cached(Some(&folder), &MODULES[0], compiler, arch, || {
                made.map(|x| vec![x])
            })
        };
        assert_eq!(get("12.1", "sm_90", Some(1)), Some(vec![1]));
        assert_eq!(get("12.1", "sm_90", Some(2)), Some(vec![1]));
        assert_eq!(get("12.1", "sm_80", Some(3)), Some(vec![3]));
        assert_eq!(get("12.2", "sm_90", None), None);
        assert_eq!(get("12.2", "sm_90", Some(4)), Some(vec![4]));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_cache_that_cannot_be_written_costs_nothing_but_time() {
        let code = || Some(vec![7]);
        assert_eq!(
            cached(None, &MODULES[0], "12.1", "sm_90", code),
            Some(vec![7])
        );
        let nowhere = Path::new("/dev/null/kernels");
        assert_eq!(
            cached(Some(nowhere), &MODULES[0], "12.1", "sm_90", code),
            Some(vec![7])
        );
    }
}
