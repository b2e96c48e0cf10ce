//! What a device must be able to do: memory, copies, launches.
//!
//! Everything above (`linear`, `steps`, `model`) is written against [`Backend`], so
//! that a test can run the whole forward pass on a CPU: `driver` is the real one,
//! `emulated` (tests only) the other. Work on one backend runs in the order given.

use super::CudaError;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// One argument of a kernel, by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arg {
    /// An address on the device; 0 stands for "none".
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Arg {
    /// Its bytes, at the beginning of eight (little-endian machines only, as CUDA's are).
    pub fn word(&self) -> u64 {
        match *self {
            Self::Pointer(x) | Self::U64(x) => x,
            Self::U32(x) => u64::from(x),
            Self::F32(x) => u64::from(x.to_bits()),
        }
    }
}

/// Which kernel, and how many threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub kernel: &'static str,
    /// Blocks in x and y.
    pub grid: [usize; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared: usize,
}

/// Dynamic shared memory that every device of compute capability 8.0 or later gives
/// one block, less what kernels declare themselves: 99 KB is the least (8.6, 8.9, 12.0).
pub(crate) const SHARED_BYTES: usize = 80 << 10;
/// Largest y dimension of a grid.
pub(crate) const GRID_Y: usize = 65_535;

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub free: u64,
    pub total: u64,
}

/// A device with its compiled kernels.
pub(crate) trait Backend: Send + Sync {
    /// Name and kind, for people.
    fn name(&self) -> String;

    /// Memory as it is now.
    fn memory(&self) -> Result<Memory, CudaError>;

    /// Memory of at least one byte, aligned to 16 bytes; its content is anything.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Give memory back, after everything launched before has ended.
    ///
    /// # Safety
    /// `address` came from [`Self::allocate`] with `bytes`, and is not used again.
    unsafe fn free(&self, address: u64, bytes: usize);

    /// Copy to the device. Has happened on return.
    ///
    /// # Safety
    /// `from.len()` bytes at `address` lie within one allocation.
    unsafe fn write(&self, address: u64, from: &[u8]) -> Result<(), CudaError>;

    /// Copy from the device what everything launched before has left there.
    ///
    /// # Safety
    /// `to.len()` bytes at `address` lie within one allocation.
    unsafe fn read(&self, address: u64, to: &mut [u8]) -> Result<(), CudaError>;

    /// Start a kernel.
    ///
    /// # Safety
    /// `args` are what the kernel declares, and with them it stays within allocations
    /// that live until it has ended, and within `launch.shared`.
    unsafe fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), CudaError>;

    /// Make one thing of several launches, to be started again and again.
    ///
    /// # Safety
    /// As for [`Self::launch`], each time it is started; dropped before the backend.
    unsafe fn prepare(&self, list: &[Recorded]) -> Result<Box<dyn Prepared>, CudaError>;
}

/// A launch that can be made later.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub launch: Launch,
    pub args: Vec<Arg>,
}

/// Launches that are started together, each after the one before.
pub(crate) trait Prepared: Send + Sync {
    /// Start them.
    ///
    /// # Safety
    /// As promised to [`Backend::prepare`].
    unsafe fn start(&self) -> Result<(), CudaError>;
}

/// Types that are the same bytes here and there, any of which are a value.
///
/// # Safety
/// No padding and no invalid bit patterns.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and floats of fixed size.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}

/// `len` values on a device; freed when dropped.
pub(crate) struct Buffer<T> {
    device: Arc<dyn Backend>,
    address: u64,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Room for `len` values, of any content.
    pub fn new(device: &Arc<dyn Backend>, len: usize) -> Result<Self, CudaError> {
        Ok(Self {
            address: device.allocate(bytes_of::<T>(len))?,
            device: Arc::clone(device),
            len,
            values: PhantomData,
        })
    }

    /// These values.
    pub fn of(device: &Arc<dyn Backend>, values: &[T]) -> Result<Self, CudaError> {
        let mut buffer = Self::new(device, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// At least `len` values; the content is lost where it has to grow.
    pub fn grow(&mut self, len: usize) -> Result<(), CudaError> {
        if len > self.len {
            *self = Self::new(&Arc::clone(&self.device), len)?;
        }
        Ok(())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Write the first `values.len()` of them.
    pub fn write(&mut self, values: &[T]) -> Result<(), CudaError> {
        assert!(values.len() <= self.len);
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: lifetime: borrowed for the call. Bounds: the length of the slice in
        // bytes. Alignment: bytes have none; `T` is plain.
        let bytes =
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        // SAFETY: within this buffer's own allocation, as compared above.
        unsafe { self.device.write(self.address, bytes) }
    }

    /// Read the values `range`.
    pub fn read(&self, range: Range<usize>, out: &mut [T]) -> Result<(), CudaError> {
        assert!(range.end <= self.len && range.len() == out.len());
        if range.is_empty() {
            return Ok(());
        }
        let address = self.at(range.start);
        // SAFETY: lifetime: borrowed for the call. Bounds: the length of the slice in
        // bytes. Alignment: bytes have none; any bytes are values of a plain type.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size_of_val(out)) };
        // SAFETY: within this buffer's own allocation, as compared above.
        unsafe { self.device.read(address, bytes) }
    }

    /// Where it lies: changes when it grows.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its address as an argument.
    pub fn arg(&self) -> Arg {
        Arg::Pointer(self.address)
    }

    /// The address of value `index` as an argument.
    pub fn arg_at(&self, index: usize) -> Arg {
        assert!(index <= self.len);
        Arg::Pointer(self.at(index))
    }

    fn at(&self, index: usize) -> u64 {
        self.address + (index * size_of::<T>()) as u64
    }
}

fn bytes_of<T>(len: usize) -> usize {
    (len * size_of::<T>()).max(1)
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this length; nobody else has the address.
        unsafe { self.device.free(self.address, bytes_of::<T>(self.len)) }
    }
}
