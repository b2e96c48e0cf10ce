//! A CUDA graph: kernels in a row, started together.
//!
//! Built node by node from recorded launches, each after the one before; nothing is
//! captured. Not run on hardware yet.

use super::CudaError;
use super::backend::{Arg, Launch, Prepared};
use super::driver::failed;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// A graph that is being built, then one that can be started.
pub(super) struct Graph {
    context: sys::CUcontext,
    stream: sys::CUstream,
    graph: sys::CUgraph,
    last: Option<sys::CUgraphNode>,
    started: sys::CUgraphExec,
}

// SAFETY: the handles are the driver's, which may be used from any thread; `start` makes
// the context current first, and nothing else is called before `drop`.
unsafe impl Send for Graph {}
// SAFETY: as above; the driver serialises what runs on one stream.
unsafe impl Sync for Graph {}

impl Graph {
    /// An empty one, for the context that is current and a stream of it; both outlive it.
    pub fn new(context: sys::CUcontext, stream: sys::CUstream) -> Result<Self, CudaError> {
        let mut graph = null_mut();
        // SAFETY: a place to write to, alive for the call.
        let made = unsafe { sys::cuGraphCreate(&mut graph, 0) };
        checked("making a graph", made)?;
        Ok(Self {
            context,
            stream,
            graph,
            last: None,
            started: null_mut(),
        })
    }

    /// Add a launch.
    ///
    /// # Safety
    /// As for `Backend::launch`, each time the graph is started.
    pub unsafe fn add(
        &mut self,
        kernel: sys::CUfunction,
        launch: &Launch,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        let mut values: Vec<u64> = args.iter().map(Arg::word).collect();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|v| std::ptr::from_mut(v).cast())
            .collect();
        let [x, y] = launch.grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let node = sys::CUDA_KERNEL_NODE_PARAMS {
            func: kernel,
            gridDimX: x,
            gridDimY: y,
            gridDimZ: 1,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared as u32,
            kernelParams: pointers.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: self.context,
        };
        let (before, count) = match &self.last {
            Some(last) => (std::ptr::from_ref(last), 1),
            None => (null(), 0),
        };
        let mut added = null_mut();
        // SAFETY: the graph is alive and so is the node it follows; arguments are copied by
        // the driver during the call.
        let result =
            unsafe { sys::cuGraphAddKernelNode_v2(&mut added, self.graph, before, count, &node) };
        checked("adding to a graph", result)?;
        self.last = Some(added);
        Ok(())
    }

    /// Make it ready to start.
    pub fn finish(mut self) -> Result<Self, CudaError> {
        // SAFETY: a place to write to, alive for the call; the graph is alive.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&mut self.started, self.graph, 0) };
        checked("preparing a graph", made)?;
        Ok(self)
    }
}

impl Prepared for Graph {
    unsafe fn start(&self) -> Result<(), CudaError> {
        // SAFETY: the context and the stream outlive this, by the promise to
        // `Backend::prepare`; the graph was made by `finish`.
        unsafe {
            result::ctx::set_current(self.context)
                .and_then(|()| result::graph::launch(self.started, self.stream))
        }
        .map_err(|e| failed("starting a graph", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: as in `start`. The driver lets a graph that is running end first. Errors
        // of a driver that goes away cannot be helped.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if !self.started.is_null() {
                let _ = result::graph::exec_destroy(self.started);
            }
            let _ = result::graph::destroy(self.graph);
        }
    }
}

fn checked(operation: &'static str, result: sys::CUresult) -> Result<(), CudaError> {
    result
        .result()
        .map_err(|e: DriverError| failed(operation, e))
}
