//! Which instructions this processor has, and how kernels are compiled for them.
//!
//! Every kernel exists once as plain Rust and is compiled several times by
//! [`versions!`]; Rust never contracts or reorders float operations, so the
//! versions give the same bits. Only the integer dots have hand-written bodies.

/// An instruction level of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Whatever the target guarantees (SSE2 on x86-64).
    Portable,
    /// AVX2 with F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
}

impl SimdLevel {
    /// Its name, as the capability manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// What the kernels found on this processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// The level that the kernels use.
    pub simd: SimdLevel,
    /// Threads the system lets this process run at once.
    pub threads: usize,
}

/// The level chosen at run time and the number of usable threads.
pub fn cpu_features() -> CpuFeatures {
    CpuFeatures {
        simd: Simd::detect().level(),
        threads: default_threads(),
    }
}

/// A line of the system's account of memory (`MemTotal`, `MemAvailable`) in bytes, where
/// it gives one.
pub fn memory(line: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = text.lines().filter_map(|l| l.split_once(':'));
    let (_, value) = lines.find(|(name, _)| *name == line)?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A level that this processor certainly has: the proof that `versions!` and the
/// intrinsics need. Only [`Simd::detect`] and [`Simd::at_most`] make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Simd(SimdLevel);

impl Simd {
    /// The best level of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                return Self(SimdLevel::Avx512Vnni);
            }
            if avx2 {
                return Self(SimdLevel::Avx2);
            }
        }
        Self(SimdLevel::Portable)
    }

    /// Tokens that the linear kernels compute beside one in little more time, because
    /// memory is the bound: the rest of what they take at a time.
    pub fn beside_one(self) -> usize {
        match self.0 {
            SimdLevel::Portable => 0,
            SimdLevel::Avx2 => 3,
            SimdLevel::Avx512Vnni => 7,
        }
    }

    /// The best level of this processor that is not above `level`.
    pub fn at_most(level: SimdLevel) -> Self {
        Self(Self::detect().0.min(level))
    }

    /// The level.
    pub fn level(self) -> SimdLevel {
        self.0
    }
}

/// Compile one body for every level and choose at run time:
/// `versions! { pub(crate) fn name(args) = body; }` where `body` is an
/// `#[inline(always)]` function of the same arguments. The first argument of the
/// generated function is a [`Simd`].
macro_rules! versions {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path;) => {
        $(#[$doc])*
        $vis fn $name(simd: $crate::cpu::Simd, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,f16c")]
                fn avx2($($arg: $ty),*) { $body($($arg),*) }
                #[target_feature(
                    enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
                )]
                fn avx512($($arg: $ty),*) { $body($($arg),*) }
                match simd.level() {
                    // SAFETY: a `Simd` of this level exists only where the processor
                    // has the features; the bodies are safe code, so lifetime, bounds
                    // and alignment are the compiler's.
                    $crate::cpu::SimdLevel::Avx512Vnni => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::SimdLevel::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::SimdLevel::Portable => {}
                }
            }
            let _ = simd;
            $body($($arg),*)
        }
    };
}
pub(crate) use versions;
