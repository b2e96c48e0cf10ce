//! Memory that was freed: back to the system.
//!
//! Not an allocator. The C library keeps what a burst of work freed for the next one, in an area
//! of its own for each thread. How much is bounded by [`keep_little`], which a program calls as it
//! starts; what lies between pieces that stay goes back with [`trim`], which a long-running program
//! calls when it has grown.

/// Blocks of this size and more are the system's, and go back to it when they are freed; the free
/// end of an area goes back when it is as large. What the C library begins with. It would raise
/// both with the first large block that is freed (one frame of 8 MiB: every area keeps 16 MiB), and
/// no call takes an end from the area of another thread. Nothing that is computed once a token is
/// allocated for it, so streams pay nothing for this.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 128 << 10;

/// Keeps the C library from holding more the more is freed. Does nothing where it has no such call.
pub fn keep_little() {
    // SAFETY: they take no pointer, and lock what they change. Both are known to this C library.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives back every whole page that is free, but for the ends of other threads' areas. Takes some
/// milliseconds at most; does nothing where the C library has no such call.
pub fn trim() {
    // SAFETY: it takes no pointer, and locks what it looks at.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Resident memory of this process. KiB. Allocates nothing: what it freed would lie behind the
    /// pieces, which then were no end of an area.
    fn resident() -> usize {
        use std::io::Read;
        let mut text = [0; 128];
        let mut file = std::fs::File::open("/proc/self/statm").unwrap();
        let read = file.read(&mut text).unwrap();
        let text = std::str::from_utf8(&text[..read]).unwrap();
        let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        pages * 4
    }

    /// Memory that is written to, whatever the compiler thinks of it.
    fn block(bytes: usize) -> Vec<u8> {
        std::hint::black_box(vec![1u8; bytes])
    }

    #[test]
    fn what_a_thread_freed_behind_a_large_block_goes_back_to_the_system() {
        keep_little();
        let worker = || {
            // From which the C library would learn to keep twice as much.
            drop(block(24 << 20));
            let stays = block(1 << 10);
            let before = resident();
            let pieces: Vec<Vec<u8>> = (0..320).map(|_| block(100 << 10)).collect();
            let full = resident();
            drop(pieces);
            trim();
            let after = resident();
            drop(stays);
            (before, full, after)
        };
        let (before, full, after) = std::thread::spawn(worker).join().unwrap();
        assert!(full > before + (24 << 10), "{before} and {full} KiB");
        assert!(
            after < before + (8 << 10),
            "{before}, {full} and {after} KiB"
        );
    }
}
