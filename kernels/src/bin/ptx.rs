//! Makes the PTX that ships with the engine, or checks the kernels with NVIDIA's
//! run-time compiler. For whoever changes a kernel; needs libnvrtc, but no GPU.
//!
//! ```text
//! ptx write        write kernels/cuda/ptx/ (use NVRTC 12.1, the oldest driver's match)
//! ptx compare      compare what `write` would write with what is there
//! ptx check ARCH…  compile for sm_80, sm_90 …; registers and spills of each kernel
//! ```

use kernels::cuda::nvrtc;
use kernels::cuda::ptx::{ARCHITECTURE, MODULES, OPTIONS};
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let compiler = nvrtc::version()
        .ok_or("libnvrtc is not installed: pip install nvidia-cuda-nvrtc-cu12, and name its folder in LD_LIBRARY_PATH")?;
    match arguments.split_first() {
        Some((command, [])) if command == "write" => write(&compiler),
        Some((command, [])) if command == "compare" => compare(&compiler),
        Some((command, architectures)) if command == "check" && !architectures.is_empty() => {
            check(&compiler, architectures)
        }
        _ => Err("usage: ptx write | ptx compare | ptx check sm_80 [sm_90 …]".into()),
    }
}

fn write(compiler: &str) -> Result<(), Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/ptx");
    let options = OPTIONS.join(" ");
    let mut manifest = format!(
        "# NVRTC {compiler}, {options} --gpu-architecture={ARCHITECTURE}\n# Module, BLAKE3 of source and options, BLAKE3 of the PTX. Written by the binary `ptx`.\n"
    );
    for module in MODULES {
        let compiled = nvrtc::compile(module, ARCHITECTURE)?;
        let ptx = String::from_utf8(compiled.code)?;
        manifest += &module.manifest_line(&ptx);
        manifest.push('\n');
        std::fs::write(folder.join(format!("{}.ptx", module.name)), ptx)?;
    }
    std::fs::write(folder.join("MANIFEST"), manifest)?;
    println!("{} modules written with NVRTC {compiler}", MODULES.len());
    Ok(())
}

fn compare(compiler: &str) -> Result<(), Failure> {
    for module in MODULES {
        let compiled = nvrtc::compile(module, ARCHITECTURE)?;
        if compiled.code != module.ptx.as_bytes() {
            let name = module.name;
            return Err(
                format!("{name}.ptx is not what NVRTC {compiler} makes of {name}.cu").into(),
            );
        }
    }
    println!("the shipped PTX is what NVRTC {compiler} makes of the sources");
    Ok(())
}

fn check(compiler: &str, architectures: &[String]) -> Result<(), Failure> {
    for architecture in architectures {
        for module in MODULES {
            let compiled = nvrtc::compile(module, architecture)?;
            println!(
                "{} {architecture}: {} bytes",
                module.name,
                compiled.code.len()
            );
            let facts = |line: &&str| {
                ["entry", "registers", "spill"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            compiled
                .log
                .lines()
                .filter(facts)
                .for_each(|line| println!("  {}", line.trim()));
            let spills = |line: &str| {
                line.contains("spill")
                    && !line.contains("0 bytes spill stores, 0 bytes spill loads")
            };
            if compiled.log.lines().any(spills) {
                return Err(format!("{} spills registers on {architecture}", module.name).into());
            }
        }
    }
    println!(
        "all kernels compile with NVRTC {compiler} for {}",
        architectures.join(", ")
    );
    Ok(())
}
