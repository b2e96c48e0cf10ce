//! Looking at the machine and timing the real kernels; a few seconds in all.
//!
//! Each step is bounded in time and size. Nothing is sent anywhere.

use super::Facts;
use kernels::bench::{self, BenchOptions};
use kernels::{Model, OpenOptions, cpu_features};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes written to learn the disk's speed: beyond small write caches, and soon done.
const DISK_BYTES: usize = 64 << 20;
/// Longest disk test.
const DISK_TIME: Duration = Duration::from_secs(3);

/// What can be known without measuring.
pub fn quick() -> Facts {
    let cpu = cpu_features();
    let gpus = kernels::cuda::devices();
    let [memory_bytes, available_bytes] = ["MemTotal", "MemAvailable"].map(kernels::memory);
    Facts {
        threads: cpu.threads,
        simd: cpu.simd.name().to_owned(),
        memory_bytes,
        available_bytes,
        gpu_memory_bytes: gpus.devices.iter().map(|device| device.memory).collect(),
        gpu_reason: gpus.reason,
        ..Facts::default()
    }
}

/// Looks and measures; `say` is told each step. Blocks for some seconds.
pub fn measure(dir: &Path, say: &mut dyn FnMut(&str)) -> Facts {
    let mut facts = quick();
    say("writing 64 MiB to the data folder");
    facts.disk_write_bytes_per_s = disk(dir);
    say("running the kernels on 64 MiB of weights");
    let kernels = bench::kernels(&BenchOptions::default());
    facts.kernel_bytes_per_s = Some(kernels.gemv_bytes_per_second as u64);
    facts.kernel_operations_per_s = Some(kernels.gemm_operations_per_second as u64);
    say("running the pocket model");
    facts.pocket_tokens_per_s = pocket();
    facts
}

fn pocket() -> Option<u64> {
    let model = Model::from_bytes(kernels::pocket::pocket(), &OpenOptions::default()).ok()?;
    let speed = bench::model(&model, 64, 256, Duration::from_millis(500)).ok()?;
    Some(speed.decode_tokens_per_second as u64)
}

/// Writes and syncs a file, at most [`DISK_BYTES`] and [`DISK_TIME`], and removes it.
fn disk(dir: &Path) -> Option<u64> {
    let path = dir.join("profile.tmp");
    let speed = write(&path);
    // It may never have been made.
    let _ = std::fs::remove_file(&path);
    speed
}

fn write(path: &Path) -> Option<u64> {
    let block = vec![0x5a; 1 << 20];
    let mut file = std::fs::File::create(path).ok()?;
    let (start, mut written) = (Instant::now(), 0u64);
    while written < DISK_BYTES as u64 && start.elapsed() < DISK_TIME {
        file.write_all(&block).ok()?;
        written += block.len() as u64;
    }
    file.sync_all().ok()?;
    let seconds = start.elapsed().as_secs_f64();
    (seconds > 0.0).then(|| (written as f64 / seconds) as u64)
}
