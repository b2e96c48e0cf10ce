//! NVIDIA's run-time compiler, where it is installed.
//!
//! Loaded at run time; needs no device and no driver. Makes the shipped PTX, checks the
//! sources for other architectures, and specialises for the device at hand. Called by
//! `driver` and the binary `ptx`.

use super::ptx::{Module, OPTIONS};
use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;
use std::ffi::{CString, c_char};

/// What a compilation gives.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// PTX text for a virtual architecture (`compute_80`), machine code for a real one
    /// (`sm_90`).
    pub code: Vec<u8>,
    /// What the compiler said: warnings; registers and spills for a real architecture.
    pub log: String,
}

/// The compiler's version, such as `12.1`; `None` where there is none.
pub fn version() -> Option<String> {
    // SAFETY: it only tries to open the library, and holds nothing.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places to write to, alive for the call.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().is_ok().then(|| format!("{major}.{minor}"))
}

/// Compile a module for an architecture. The error is what the compiler said.
/// Panics where [`version`] is `None`.
pub fn compile(module: &Module, architecture: &str) -> Result<Compiled, String> {
    let source = CString::new(module.source()).map_err(|e| e.to_string())?;
    let name = CString::new(format!("{}.cu", module.name)).map_err(|e| e.to_string())?;
    let program = Program(result::create_program(&source, Some(&name)).map_err(said)?);
    let machine = architecture.starts_with("sm_");
    let mut options: Vec<String> = OPTIONS.iter().map(|o| (*o).to_owned()).collect();
    options.push(format!("--gpu-architecture={architecture}"));
    if machine {
        options.push("--ptxas-options=-v".to_owned());
    }
    // SAFETY: `program` is alive: created above, destroyed when dropped.
    let outcome = unsafe { result::compile_program(program.0, &options) };
    // SAFETY: as above.
    let log = unsafe { result::get_program_log(program.0) }.map_err(said)?;
    let log = text(&log);
    outcome.map_err(|e| format!("{}.cu for {architecture}: {}\n{log}", module.name, said(e)))?;
    let code = match machine {
        true => program.machine_code().map_err(said)?,
        false => {
            // SAFETY: as above; the compilation has succeeded.
            let ptx = unsafe { result::get_ptx(program.0) }.map_err(said)?;
            text(&ptx).into_bytes()
        }
    };
    Ok(Compiled { code, log })
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn machine_code(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive and compiled; `size` is alive for the call.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) }.result()?;
        let mut code = vec![0u8; size];
        // SAFETY: as above; `code` has the length that the compiler asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()) }.result()?;
        Ok(code)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by the compiler, destroyed once. Nothing can be done about an
        // error here.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn said(error: NvrtcError) -> String {
    format!("NVRTC: {:?}", error.0)
}

/// Text that may end in zeros.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes)
        .trim_end_matches('\0')
        .to_owned()
}
