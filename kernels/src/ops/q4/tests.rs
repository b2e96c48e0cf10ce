//! The AVX-512 kernels without the hardware.

use super::*;
use crate::ops::buffer::Arena;
use crate::ops::q8::{Acts, BLOCK};
use crate::ops::weights::Stored;
use crate::ops::wide::Emulated;

fn check<const KIND: u8, const MIN: usize, const HIGH: usize, const SIZE: usize>() {
    let mut state = SIZE as u64;
    let mut bytes: Vec<u8> = (0..ROWS * 3 * SIZE)
        .map(|_| {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as u8
        })
        .collect();
    for block in bytes.chunks_mut(SIZE) {
        match SIZE {
            17 => block[0] = block[0] % 16 + 112,
            _ => [1, 3][..=MIN]
                .iter()
                .for_each(|at| block[*at] = block[*at] & 0x83 | 0x20),
        }
    }
    let group = pack::<KIND, MIN, HIGH, SIZE>(
        &Pool::new(1),
        Stored::whole(&bytes, &Arena::default()),
        3,
        1,
    )
    .unwrap();
    for tokens in 1..=TILE {
        let x: Vec<f32> = (0..tokens * 3 * BLOCK)
            .map(|i| ((i * 7919 + tokens) % 2003) as f32 - 1001.0)
            .enumerate()
            .map(|(i, x)| if i % 97 == 0 { x } else { x * 1e-2 })
            .collect();
        let mut acts = Acts::default();
        acts.fill(Simd::detect(), &Pool::new(1), &x, 3 * BLOCK);
        let (mut a, mut b) = ([[0.0; ROWS]; TILE], [[1.0; ROWS]; TILE]);
        portable::tile(&group, acts.tile(0), &mut a[..tokens]);
        // SAFETY: the emulation has no instructions to prove; the lengths are those of
        // one tile.
        unsafe {
            avx512::tile::<Emulated, KIND, MIN, HIGH>(&group, acts.tile(0), &mut b[..tokens])
        };
        for (a, b) in a[..tokens]
            .iter()
            .flatten()
            .zip(b[..tokens].iter().flatten())
        {
            assert!(
                a.to_bits() == b.to_bits() && a.is_finite() && *a != 0.0,
                "{a} {b}"
            );
        }
    }
}

#[test]
fn the_avx512_kernels_compute_the_bits_of_the_plain_ones() {
    check::<0, 0, 0, 18>();
    check::<1, 0, 0, 17>();
    check::<2, 0, 0, 18>();
    check::<3, 0, 1, 22>();
    check::<4, 1, 0, 20>();
    check::<4, 1, 1, 24>();
}
