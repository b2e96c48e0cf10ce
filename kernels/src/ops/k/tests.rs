//! The AVX-512 kernels without the hardware.

use super::*;
use crate::cpu::Simd;
use crate::ops::buffer::Arena;
use crate::ops::weights::Stored;
use crate::ops::wide::Emulated;
use crate::pool::Pool;

/// Blocks per row: enough that their order matters.
const BLOCKS: usize = 3;

/// Random file bytes of sixteen rows with finite scales at `scales`.
fn file(size: usize, scales: &[usize]) -> Vec<u8> {
    let mut state = size as u64;
    let mut bytes: Vec<u8> = (0..ROWS * BLOCKS * size)
        .map(|_| {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as u8
        })
        .collect();
    for block in bytes.chunks_mut(size) {
        scales
            .iter()
            .for_each(|at| block[at + 1] = block[at + 1] & 0x83 | 0x20);
    }
    bytes
}

/// Compare two kernels on every number of tokens.
fn agree(
    plain: impl Fn(Tile<'_>, &mut [[f32; ROWS]]),
    wide: impl Fn(Tile<'_>, &mut [[f32; ROWS]]),
) {
    for tokens in 1..=TILE {
        // Heavy tails: a few elements a hundred times as large as the others.
        let x: Vec<f32> = (0..tokens * BLOCKS * SUPER)
            .map(|i| ((i * 7919 + tokens) % 2003) as f32 - 1001.0)
            .enumerate()
            .map(|(i, x)| if i % 97 == 0 { x } else { x * 1e-2 })
            .collect();
        let mut acts = Acts::default();
        acts.fill(Simd::detect(), &Pool::new(1), &x, BLOCKS * SUPER);
        let (mut a, mut b) = ([[0.0; ROWS]; TILE], [[1.0; ROWS]; TILE]);
        plain(acts.tile(0), &mut a[..tokens]);
        wide(acts.tile(0), &mut b[..tokens]);
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

fn check_affine<const HIGH: usize, const SIZE: usize>() {
    let bytes = file(SIZE, &[0, 2]);
    let group = pack_affine::<HIGH, SIZE>(
        &Pool::new(1),
        Stored::whole(&bytes, &Arena::default()),
        BLOCKS,
        1,
    )
    .unwrap();
    agree(
        |acts, out| portable::affine(&group, acts, out),
        // SAFETY: the emulation has no instructions to prove.
        |acts, out| unsafe { avx512::affine::<Emulated, HIGH>(&group, acts, out) },
    );
}

#[test]
fn the_avx512_kernels_compute_the_bits_of_the_plain_ones() {
    check_affine::<0, 144>();
    check_affine::<8, 176>();
    let arena = Arena::default();
    let bytes = file(210, &[208]);
    let stored = Stored::whole(&bytes, &arena);
    let group = pack_signed(&Pool::new(1), stored, BLOCKS, 1).unwrap();
    agree(
        |acts, out| portable::signed(&group, acts, out),
        // SAFETY: the emulation has no instructions to prove.
        |acts, out| unsafe { avx512::signed::<Emulated>(&group, acts, out) },
    );
    let bytes = file(136, &[0]);
    let stored = Stored::whole(&bytes, &arena);
    let group = pack_xs(&Pool::new(1), stored, BLOCKS, 1).unwrap();
    agree(
        |acts, out| portable::xs(&group, acts, out),
        // SAFETY: the emulation has no instructions to prove.
        |acts, out| unsafe { avx512::xs::<Emulated>(&group, acts, out) },
    );
}
