//! The real device: NVIDIA's driver, through `cudarc`.
//!
//! One context (the device's primary one), one stream: work runs in the order given.
//! Not run on hardware yet; `kernels/cuda/README.md` says how to do so first.

use super::backend::{Arg, Backend, Launch, Memory, Prepared, Recorded, SHARED_BYTES};
use super::driver_graph::Graph;
use super::ptx::{MODULES, Module};
use super::{CudaError, Device, devices, specialise};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// The first architecture that the shipped PTX is made for.
const OLDEST: (u32, u32) = (8, 0);

/// One opened device.
pub(crate) struct Driver {
    device: Device,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    kernels: HashMap<&'static str, sys::CUfunction>,
}

// SAFETY: the handles are the driver's, which may be used from any thread; every call
// makes the context current first. The maps are not changed after `open`.
unsafe impl Send for Driver {}
// SAFETY: as above; the driver serialises what runs on one stream.
unsafe impl Sync for Driver {}

impl Driver {
    /// Open a device by number and load the kernels.
    pub fn open(ordinal: u32) -> Result<Arc<dyn Backend>, CudaError> {
        let found = devices();
        if let Some(reason) = found.reason {
            return Err(CudaError::NoDevice { reason });
        }
        let last = found.devices.last().map_or(0, |d| d.ordinal);
        let device = found
            .devices
            .into_iter()
            .find(|d| d.ordinal == ordinal)
            .ok_or(CudaError::Ordinal { ordinal, last })?;
        let (major, minor) = device.capability;
        if device.capability < OLDEST {
            return Err(CudaError::Capability {
                name: device.name,
                major,
                minor,
            });
        }
        let handle =
            result::device::get(ordinal as i32).map_err(|e| failed("opening a device", e))?;
        // SAFETY: the driver has just given this handle.
        let context = unsafe { result::primary_ctx::retain(handle) }
            .map_err(|e| failed("opening a context", e))?;
        let mut driver = Self {
            device,
            handle,
            context,
            stream: std::ptr::null_mut(),
            modules: Vec::new(),
            kernels: HashMap::new(),
        };
        driver.enter()?;
        driver.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("opening a stream", e))?;
        for module in MODULES {
            driver.load(module)?;
        }
        Ok(Arc::new(driver))
    }

    fn load(&mut self, module: &Module) -> Result<(), CudaError> {
        let (major, minor) = self.device.capability;
        let own = specialise::machine_code(module, &format!("sm_{major}{minor}"));
        let loaded = match own.as_deref().map(load_image) {
            Some(Ok(loaded)) => loaded,
            // None, or one that this driver does not take: the PTX is there for all.
            _ => {
                let ptx = CString::new(module.ptx).unwrap_or_default();
                load_image(ptx.as_bytes_with_nul()).map_err(|e| failed("loading kernels", e))?
            }
        };
        self.modules.push(loaded);
        for name in module.kernels {
            let c_name = CString::new(*name).unwrap_or_default();
            // SAFETY: the module was loaded just now and is unloaded by `drop` only.
            let kernel = unsafe { result::module::get_function(loaded, c_name) }
                .map_err(|e| failed("finding a kernel", e))?;
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the kernel was found just now.
            unsafe {
                result::function::set_function_attribute(kernel, attribute, SHARED_BYTES as i32)
            }
            .map_err(|e| failed("asking for shared memory", e))?;
            self.kernels.insert(name, kernel);
        }
        Ok(())
    }

    /// Make the context current on this thread.
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: retained in `open`, released in `drop`.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|e| failed("entering the context", e))
    }

    fn kernel(&self, name: &str) -> Result<sys::CUfunction, CudaError> {
        self.kernels.get(name).copied().ok_or(CudaError::Driver {
            operation: "launching a kernel",
            cause: format!("{name} is not loaded"),
        })
    }

    fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: created in `open`, destroyed in `drop`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| failed("waiting for kernels", e))
    }
}

impl Backend for Driver {
    fn name(&self) -> String {
        let (major, minor) = self.device.capability;
        let Device { ordinal, name, .. } = &self.device;
        format!("cuda:{ordinal} ({name}, {major}.{minor})")
    }

    fn memory(&self) -> Result<Memory, CudaError> {
        self.enter()?;
        let (free, total) =
            result::mem_get_info().map_err(|e| failed("asking for free memory", e))?;
        Ok(Memory {
            free: free as u64,
            total: total as u64,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: the context is current.
        unsafe { result::malloc_sync(bytes) }.map_err(|e| failed("allocating memory", e))
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        if self.enter().is_ok() && self.wait().is_ok() {
            // SAFETY: by the caller's promise it came from `allocate` and is not used
            // again; kernels that use it have ended. Nothing can be done about an error.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn write(&self, address: u64, from: &[u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: within one allocation, by the caller's promise; `from` is borrowed until
        // the copy has been waited for.
        unsafe { result::memcpy_htod_async(address, from, self.stream) }
            .map_err(|e| failed("copying to the device", e))?;
        self.wait()
    }

    unsafe fn read(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: as for `write`.
        unsafe { result::memcpy_dtoh_async(to, address, self.stream) }
            .map_err(|e| failed("copying from the device", e))?;
        self.wait()
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), CudaError> {
        self.enter()?;
        let kernel = self.kernel(launch.kernel)?;
        let mut values: Vec<u64> = args.iter().map(Arg::word).collect();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|v| std::ptr::from_mut(v).cast())
            .collect();
        let [x, y] = launch.grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        // SAFETY: the kernel is loaded; each pointer leads to a value of its parameter's
        // size, copied by the driver during the call; what the kernel touches is the
        // caller's promise.
        unsafe {
            result::launch_kernel(
                kernel,
                (x, y, 1),
                (launch.threads, 1, 1),
                launch.shared as u32,
                self.stream,
                &mut pointers,
            )
        }
        .map_err(|e| failed(launch.kernel, e))
    }

    unsafe fn prepare(&self, list: &[Recorded]) -> Result<Box<dyn Prepared>, CudaError> {
        self.enter()?;
        let mut graph = Graph::new(self.context, self.stream)?;
        for Recorded { launch, args } in list {
            let kernel = self.kernel(launch.kernel)?;
            // SAFETY: the kernel is loaded; what it touches is the caller's promise.
            unsafe { graph.add(kernel, launch, args) }?;
        }
        Ok(Box::new(graph.finish()?))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Errors of a driver that goes away cannot be helped.
        if !self.stream.is_null() {
            let _ = self.wait();
            // SAFETY: created in `open`, not used again.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        for module in &self.modules {
            // SAFETY: loaded in `load`, its kernels are not used again.
            let _ = unsafe { result::module::unload(*module) };
        }
        // SAFETY: retained in `open`, once.
        let _ = unsafe { result::primary_ctx::release(self.handle) };
    }
}

fn load_image(image: &[u8]) -> Result<sys::CUmodule, DriverError> {
    // SAFETY: PTX that ends in zero, or machine code with its own lengths; alive for the
    // call.
    unsafe { result::module::load_data(image.as_ptr().cast()) }
}

pub(super) fn failed(operation: &'static str, error: DriverError) -> CudaError {
    let name = error.error_name().map_or_else(
        |_| format!("{:?}", error.0),
        |n| n.to_string_lossy().into_owned(),
    );
    CudaError::of_driver(operation, &name)
}
