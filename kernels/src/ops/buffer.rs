//! Memory for packed weights: zeroed, on huge pages where the system has them.
//!
//! The buffers of a model lie side by side in a few large mappings ([`Arena`]), whose
//! pages come into being where (and on the threads that) they are filled, two megabytes
//! at a time instead of four kilobytes. Streaming over them then also misses the
//! address cache less often: decoding is 10 to 20 % faster. Where a huge page is slow to
//! come (a virtual machine that gives free memory back to its host waits for all of it
//! again), small ones do if somebody waits, and the system may join them later. Not a
//! general allocator: nothing grows, and a mapping goes when its last buffer goes.

use memmap2::{MmapMut, MmapRaw};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

/// Bytes below which a buffer is a `Vec`: biases, small models, tests.
const SMALL: usize = 64 << 10;
/// Bytes of a mapping, unless a buffer is larger. What is not used of it is only
/// address space.
const REGION: usize = 64 << 20;
/// The huge page of x86-64, and of AArch64 with pages of four kilobytes.
const HUGE: usize = 2 << 20;
/// A huge page that takes longer to come is slow: clearing it takes 0.1 to 0.2 ms, and
/// 512 faults of a host about 2 ms.
#[cfg(target_os = "linux")]
const SLOW: Duration = Duration::from_micros(500);
/// Every buffer begins with a cache line.
const LINE: usize = 64;

/// Numbers, of which all bits zero is one.
///
/// # Safety
/// All bits zero must be a value of the type, and its alignment at most [`LINE`].
pub(crate) unsafe trait Zero: Copy + Send + Sync {}

// SAFETY: an integer.
unsafe impl Zero for u16 {}
// SAFETY: +0.
unsafe impl Zero for f32 {}
// SAFETY: its elements are.
unsafe impl<T: Zero, const N: usize> Zero for [T; N] {}

/// Where the buffers of one model are made.
#[derive(Default)]
pub(crate) struct Arena {
    regions: Mutex<Vec<Region>>,
    /// Huge pages however slow they come.
    patient: bool,
}

/// A mapping, in use up to `next`; of an arena's, all but the last are full.
struct Region {
    map: Arc<MmapRaw>,
    first: usize,
    next: usize,
}

/// A fixed number of elements.
pub(crate) struct Buffer<T>(Memory<T>);

enum Memory<T> {
    Small(Vec<T>),
    /// `len` elements from byte `start` of a mapping.
    Large {
        map: Arc<MmapRaw>,
        start: usize,
        len: usize,
    },
}

impl Arena {
    /// For whom nobody waits.
    pub fn patient() -> Self {
        Self {
            patient: true,
            ..Self::default()
        }
    }

    /// `len` elements, all bits zero.
    pub fn zeroed<T: Zero>(&self, len: usize) -> Buffer<T> {
        let bytes = len.saturating_mul(size_of::<T>());
        let place = match bytes {
            SMALL.. => self.place(bytes),
            _ => None,
        };
        Buffer(match place {
            Some((map, start)) => Memory::Large { map, start, len },
            None => Memory::Small(zeros(len)),
        })
    }

    /// Bytes that nobody else has, where the system gives a mapping.
    fn place(&self, bytes: usize) -> Option<(Arc<MmapRaw>, usize)> {
        let mut current = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |region: &Region| region.map.len() - region.next;
        if current.last().is_none_or(|region| left(region) < bytes) {
            let len = bytes.max(REGION);
            let region = Region::new(len, len)?;
            if !self.patient {
                region.try_huge();
            }
            current.push(region);
        }
        let region = current.last_mut()?;
        let start = region.next;
        region.next = (start + bytes).next_multiple_of(LINE).min(region.map.len());
        Some((region.map.clone(), start))
    }

    /// All buffers are made and filled: let the system join small pages when it likes.
    pub fn finish(self) {
        let regions = self.regions.into_inner();
        let regions = regions.unwrap_or_else(PoisonError::into_inner);
        for region in &regions {
            region.advise_huge(region.next - region.first);
        }
    }
}

impl Region {
    /// A mapping with room for `bytes` bytes behind `next`, a multiple of [`HUGE`], of
    /// which the first `huge` may lie on huge pages.
    fn new(bytes: usize, huge: usize) -> Option<Self> {
        let map = MmapRaw::from(MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?);
        let next = map.as_ptr().addr().next_multiple_of(HUGE) - map.as_ptr().addr();
        let region = Self {
            map: Arc::new(map),
            first: next,
            next,
        };
        region.advise_huge(huge);
        Some(region)
    }

    /// Huge pages for the first `bytes` bytes. A system without them (or with them
    /// everywhere) does as it likes.
    fn advise_huge(&self, bytes: usize) {
        #[cfg(target_os = "linux")]
        let _ = self
            .map
            .advise_range(memmap2::Advice::HugePage, self.first, bytes);
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }

    /// Go on with small pages if the first huge one is slow to come.
    fn try_huge(&self) {
        #[cfg(target_os = "linux")]
        {
            let start = Instant::now();
            // SAFETY: lifetime: the mapping is alive and no buffer lies in it yet. Bounds:
            // `first` is a byte of it, for `bytes` behind it are not zero. Alignment: of a
            // byte. Zero is what it already holds.
            unsafe { self.map.as_mut_ptr().add(self.first).write_volatile(0) };
            if start.elapsed() > SLOW {
                let rest = self.map.len() - self.first;
                let advice = memmap2::Advice::NoHugePage;
                let _ = self.map.advise_range(advice, self.first, rest);
            }
        }
    }
}

impl<T: Zero> Buffer<T> {
    /// `len` elements, all bits zero, in a mapping of their own if they fill a huge page.
    /// What does not fill one lies on small pages, so that no more memory is used than
    /// was asked for.
    pub fn alone(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        let whole = bytes / HUGE * HUGE;
        let region = match whole {
            0 => None,
            whole => Region::new(bytes, whole),
        };
        Self(match region {
            Some(Region {
                map, next: start, ..
            }) => Memory::Large { map, start, len },
            None => Memory::Small(zeros(len)),
        })
    }
}

fn zeros<T: Zero>(len: usize) -> Vec<T> {
    // SAFETY: `Zero` promises that this is a value; there is no lifetime, and the
    // alignment is the vector's.
    vec![unsafe { std::mem::zeroed() }; len]
}

impl<T: Zero> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Small(small) => small,
            // SAFETY: lifetime: the mapping is held by `self`. Bounds: `place` gave these
            // bytes, inside the mapping, to this buffer alone; all of them are zero or
            // written as `T`s. Alignment: the mapping begins with a page and `start` is a
            // multiple of `LINE`.
            Memory::Large { map, start, len } => unsafe {
                std::slice::from_raw_parts(map.as_ptr().add(*start).cast(), *len)
            },
        }
    }
}

impl<T: Zero> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Small(small) => small,
            // SAFETY: as in `deref`; nobody else reads or writes this buffer's bytes.
            Memory::Large { map, start, len } => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().add(*start).cast(), *len)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_aligned_and_apart_from_each_other() {
        let arena = Arena::default();
        let lengths = [0, 1, 1000, SMALL / 4, SMALL / 4 + 1, HUGE / 3, HUGE];
        let mut all: Vec<(usize, Buffer<f32>)> = lengths.map(|len| (len, arena.zeroed(len))).into();
        all.extend([HUGE / 8, HUGE, HUGE + 5].map(|len| (len, Buffer::alone(len))));
        // Larger than what is left of the mapping.
        all.push((REGION / 4, arena.zeroed(REGION / 4)));
        for (i, (len, buffer)) in all.iter_mut().enumerate() {
            assert!(buffer.len() == *len && buffer.iter().all(|x| x.to_bits() == 0));
            assert!(4 * *len < HUGE || buffer.as_ptr().addr().is_multiple_of(LINE));
            let ends = [0, len.saturating_sub(1)];
            for at in ends.into_iter().filter(|at| at < len) {
                buffer[at] = (i + 1) as f32;
            }
        }
        arena.finish();
        for (i, (len, buffer)) in all.iter().enumerate() {
            let ends = [0, len.saturating_sub(1)];
            for at in ends.into_iter().filter(|at| at < len) {
                assert!(buffer[at] == (i + 1) as f32);
            }
        }
    }
}
