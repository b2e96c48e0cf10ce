//! CUDA devices, where there is a driver, and models on them.
//!
//! ```text
//! model ──► pass ──► steps, linear, sample ──► record ──► backend ──► driver (libcuda) | emulated (tests)
//! ```
//! The driver library is loaded at run time; a machine without one gets an empty list
//! and the reason. Kernels are in `kernels/cuda`; they follow NUMERICS.md, so that an
//! answer has the same bits as on a CPU. Called by the capability profiler and `model`.

mod activations;
mod backend;
mod driver;
mod driver_graph;
#[cfg(test)]
mod emulated;
mod error;
mod frame;
mod linear;
mod model;
pub mod nvrtc;
mod pack;
mod pages;
mod pass;
pub mod ptx;
mod record;
mod sample;
mod specialise;
mod split;
mod steps;
mod upload;
mod work;

pub use error::CudaError;

pub(crate) use driver::Driver;
pub(crate) use model::DeviceModel;
pub(crate) use pages::{DeviceCache, Page as DevicePage};
pub(crate) use sample::{Found, Rule, TOP};
pub(crate) use work::Work as DeviceWork;

use cudarc::driver::result;
use cudarc::driver::sys;

/// One CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number (`cuda:N`).
    pub ordinal: u32,
    /// The name that the driver gives it.
    pub name: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
}

/// The devices of this machine, and why there are none where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// In the driver's order.
    pub devices: Vec<Device>,
    /// Set exactly when `devices` is empty.
    pub reason: Option<String>,
}

/// List the CUDA devices.
pub fn devices() -> Devices {
    // SAFETY: it only tries to open the driver library, and holds nothing.
    if !unsafe { sys::is_culib_present() } {
        return none("no NVIDIA driver (libcuda) on this machine");
    }
    let listed = result::init().and_then(|()| result::device::get_count());
    match listed {
        Err(error) => none(&format!("the NVIDIA driver does not start: {error:?}")),
        Ok(0) => none("the NVIDIA driver sees no device"),
        Ok(count) => {
            let devices: Vec<Device> = (0..count).filter_map(|i| device(i).ok()).collect();
            match devices.is_empty() {
                true => none("the NVIDIA driver cannot describe its devices"),
                false => Devices {
                    devices,
                    reason: None,
                },
            }
        }
    }
}

fn none(reason: &str) -> Devices {
    Devices {
        devices: Vec::new(),
        reason: Some(reason.to_owned()),
    }
}

fn device(ordinal: i32) -> Result<Device, result::DriverError> {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let handle = result::device::get(ordinal)?;
    // SAFETY: `handle` came from the driver just now and devices do not go away.
    let (memory, major, minor) = unsafe {
        (
            result::device::total_mem(handle)?,
            result::device::get_attribute(handle, MAJOR)?,
            result::device::get_attribute(handle, MINOR)?,
        )
    };
    Ok(Device {
        ordinal: ordinal.unsigned_abs(),
        name: result::device::get_name(handle)?,
        memory: memory as u64,
        capability: (major.unsigned_abs(), minor.unsigned_abs()),
    })
}

#[cfg(test)]
mod tests;
