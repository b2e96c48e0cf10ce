//! The device without hardware: kernels compiled by the system's C++ compiler, one
//! fiber per thread (`kernels/cuda/emulation.h`). Tests only.
//!
//! Steps outside of memory, barriers that not all threads reach, and arguments of the
//! wrong kind are errors with the kernel's name. Threads and blocks run in the order
//! given, so that a result that depends on it shows.

use super::CudaError;
use super::backend::{Arg, Backend, Launch, Memory, Prepared, Recorded};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Bytes that the device says it has.
const MEMORY: u64 = 1 << 30;

/// One device; all share a library that runs one launch at a time.
pub(crate) struct Emulated {
    order: u32,
    free: Mutex<u64>,
    /// Whether [`Backend::prepare`] fails.
    refuses: bool,
    /// How often it was asked.
    prepared: AtomicUsize,
    read: AtomicUsize,
    /// Refuses everything, as a device does after an error that lasts.
    lost: AtomicBool,
}

type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    *mut *mut c_void,
    *const u32,
    u32,
    u32,
    u32,
) -> *const c_char;

struct Kernels {
    signature: unsafe extern "C" fn(*const c_char) -> *const c_char,
    launch: LaunchFn,
    alloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, usize),
    _library: Library,
}

impl Emulated {
    /// A device whose threads run in an order: 0 ascending, 1 descending, otherwise
    /// shuffled by that seed.
    pub fn device(order: u32) -> Arc<dyn Backend> {
        Self::refusing(order, false)
    }

    /// [`Self::device`], one that may refuse to prepare lists of launches.
    pub fn refusing(order: u32, refuses: bool) -> Arc<Self> {
        Arc::new(Self {
            order,
            free: Mutex::new(MEMORY),
            refuses,
            prepared: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        })
    }

    /// From now on every copy and launch fails.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    fn works(&self, operation: &'static str) -> Result<(), CudaError> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(CudaError::of_driver(
                operation,
                "CUDA_ERROR_ILLEGAL_ADDRESS",
            )),
            false => Ok(()),
        }
    }

    /// How often lists of launches were to be prepared.
    pub fn prepared(&self) -> usize {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Bytes copied from the device so far.
    pub fn bytes_read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }
}

impl Backend for Emulated {
    fn name(&self) -> String {
        "emulation on the CPU".to_owned()
    }

    fn memory(&self) -> Result<Memory, CudaError> {
        Ok(Memory {
            free: *self.free.lock().unwrap(),
            total: MEMORY,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let mut free = self.free.lock().unwrap();
        if bytes as u64 > *free {
            return Err(driver("allocate", "out of memory"));
        }
        *free -= bytes as u64;
        // SAFETY: it maps fresh memory and returns null where it cannot.
        let memory = unsafe { (kernels().alloc)(bytes) };
        assert!(!memory.is_null(), "no memory for the emulation");
        Ok(memory as u64)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        *self.free.lock().unwrap() += bytes as u64;
        // SAFETY: by the caller's promise it came from `alloc` with this length.
        unsafe { (kernels().free)(address as *mut c_void, bytes) }
    }

    unsafe fn write(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        self.works("copying to the device")?;
        // SAFETY: within one allocation, by the caller's promise; bytes need no alignment.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), address as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn read(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.works("copying from the device")?;
        self.read.fetch_add(to.len(), Ordering::Relaxed);
        // SAFETY: as for `write`.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), CudaError> {
        self.works("launching a kernel")?;
        // SAFETY: the caller's promise.
        unsafe { run(self.order, launch, args) }
    }

    unsafe fn prepare(&self, list: &[Recorded]) -> Result<Box<dyn Prepared>, CudaError> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        match self.refuses {
            true => Err(driver("prepare", "refused for a test")),
            false => Ok(Box::new(Again(self.order, list.to_vec()))),
        }
    }
}

/// Launches and the order of their threads.
struct Again(u32, Vec<Recorded>);

impl Prepared for Again {
    unsafe fn start(&self) -> Result<(), CudaError> {
        let Self(order, list) = self;
        // SAFETY: the caller's promise.
        let mut each = list
            .iter()
            .map(|r| unsafe { run(*order, &r.launch, &r.args) });
        each.try_for_each(|result| result)
    }
}

/// # Safety
/// As for [`Backend::launch`].
unsafe fn run(order: u32, launch: &Launch, args: &[Arg]) -> Result<(), CudaError> {
    let kernels = kernels();
    let name = CString::new(launch.kernel).unwrap();
    // SAFETY: a string that ends in zero; the answer is static or null.
    let signature = unsafe { text((kernels.signature)(name.as_ptr())) };
    let given: String = args.iter().map(Arg::letter).collect();
    assert_eq!(signature.as_deref(), Some(&*given), "{}", launch.kernel);
    let mut values: Vec<u64> = args.iter().map(Arg::word).collect();
    let mut pointers: Vec<*mut c_void> = values
        .iter_mut()
        .map(|v| std::ptr::from_mut(v).cast())
        .collect();
    let grid = [launch.grid[0] as u32, launch.grid[1] as u32, 1];
    // SAFETY: one pointer per parameter, of its kind, as just compared; they live for
    // the call. What the kernel touches is the caller's promise, and checked.
    let wrong = unsafe {
        text((kernels.launch)(
            name.as_ptr(),
            pointers.as_mut_ptr(),
            grid.as_ptr(),
            launch.threads,
            launch.shared as u32,
            order,
        ))
    };
    match wrong {
        None => Ok(()),
        Some(cause) => Err(driver("launch", &cause)),
    }
}

impl Arg {
    fn letter(&self) -> char {
        match self {
            Self::Pointer(_) => 'p',
            Self::U32(_) => 'u',
            Self::U64(_) => 'l',
            Self::F32(_) => 'f',
        }
    }
}

fn driver(operation: &'static str, cause: &str) -> CudaError {
    CudaError::Driver {
        operation,
        cause: cause.to_owned(),
    }
}

/// # Safety
/// Null or a string that ends in zero.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by the caller's promise.
    (!pointer.is_null()).then(|| {
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned()
    })
}

/// The library, compiled at the first call; locked, for it has one set of fibers.
fn kernels() -> MutexGuard<'static, Kernels> {
    static KERNELS: OnceLock<Mutex<Kernels>> = OnceLock::new();
    let kernels = KERNELS.get_or_init(|| Mutex::new(compile()));
    kernels
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn compile() -> Kernels {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/emulated.cpp");
    let folder = std::env::temp_dir().join(format!("freehold-emulated-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    let library = folder.join("emulated.so");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-DEMULATION", "-shared", "-fPIC"])
        .args(["-Wall", "-Wextra", "-Wno-unknown-pragmas"])
        .arg(source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap_or_else(|e| {
            panic!("the kernels are tested with a C++17 compiler, and {compiler:?} does not start ({e}): install one (Debian: build-essential) or name one in CXX")
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{compiler:?} refuses the kernels:\n{said}"
    );
    assert!(said.is_empty(), "{compiler:?} warns:\n{said}");
    let loaded = load(&library).expect("the compiled kernels load");
    std::fs::remove_dir_all(&folder).expect("the temporary folder can be removed");
    loaded
}

fn load(path: &Path) -> Result<Kernels, libloading::Error> {
    // SAFETY: our own library has no constructors; each symbol has the type that
    // `emulated.cpp` gives it; the library stays loaded as long as they do.
    unsafe {
        let library = Library::new(path)?;
        Ok(Kernels {
            signature: *library.get(b"emulated_signature")?,
            launch: *library.get(b"emulated_launch")?,
            alloc: *library.get(b"emulated_alloc")?,
            free: *library.get(b"emulated_free")?,
            _library: library,
        })
    }
}
