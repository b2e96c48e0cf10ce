//! Memory that was freed: back to the system.
//!
//! Not an allocator. The C library keeps what a burst of work freed for the next one, in an area
//! of its own for each thread; a long-running program calls this when it has grown.

/// Gives back every whole page that is free. Takes some milliseconds at most; does nothing where
/// the C library has no such call.
pub fn trim() {
    // SAFETY: it takes no pointer, and locks what it looks at.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
