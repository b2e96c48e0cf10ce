//! The AVX-512 kernel without the hardware.

use super::*;
use crate::cpu::Simd;
use crate::ops::wide::Emulated;
use crate::pool::Pool;

#[test]
fn the_avx512_kernel_computes_the_bits_of_the_plain_one() {
    let mut state = 3u64;
    let mut next = || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as u32
    };
    let mut group = [Block::ZERO; 3];
    for block in &mut group {
        // Finite scales of either sign, and every code.
        block.scale = block.scale.map(|_| (next() & 0x87ff) as u16 | 0x1000);
        block.code = block.code.map(|row| row.map(|_| next() as u8));
    }
    for tokens in 1..=TILE {
        let x: Vec<f32> = (0..tokens * 3 * BLOCK)
            .map(|i| (next() as f32 - 8e6) * if i % 40 == 0 { 1.0 } else { 1e-2 })
            .collect();
        let mut acts = Acts::default();
        acts.fill(Simd::detect(), &Pool::new(1), &x, 3 * BLOCK);
        let (mut plain, mut wide) = ([[0.0; ROWS]; TILE], [[1.0; ROWS]; TILE]);
        portable::tile(&group, acts.tile(0), &mut plain[..tokens]);
        // SAFETY: the emulation has no instructions to prove; the lengths are those of
        // one tile.
        unsafe { avx512::tile::<Emulated>(&group, acts.tile(0), &mut wide[..tokens]) };
        let bits = |out: [[f32; ROWS]; TILE]| out.map(|row| row.map(f32::to_bits));
        assert!(
            bits(plain)[..tokens] == bits(wide)[..tokens],
            "{tokens} tokens"
        );
        assert!(
            plain[..tokens]
                .iter()
                .flatten()
                .all(|y| y.is_finite() && *y != 0.0)
        );
    }
}
