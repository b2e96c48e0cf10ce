//! The digest of one token's logits: what hosts sign and validators recompute.

/// Logits that enter the digest: the ones that can be sampled, in practice, and
/// few enough to sort at every token.
const TOP: usize = 64;
const _: () = assert!(TOP == crate::cuda::TOP);

/// BLAKE3 over the [`TOP`] largest logits as (token id u32 LE, f32 bits u32 LE),
/// by logit descending, then id ascending. All logits are finite.
pub(crate) fn logit_digest(logits: &[f32]) -> [u8; 32] {
    let largest = largest(logits, TOP).into_iter();
    digest_of(largest.map(|id| (id, logits[id as usize])))
}

/// [`logit_digest`] of the largest logits, in its order.
pub(super) fn digest_of(largest: impl Iterator<Item = (u32, f32)>) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for (id, logit) in largest {
        hash.update(&id.to_le_bytes());
        hash.update(&logit.to_bits().to_le_bytes());
    }
    hash.finalize().into()
}

/// Ids of the `n` largest, by value descending (numerically: -0 equals 0), then id
/// ascending.
pub(crate) fn largest(values: &[f32], n: usize) -> Vec<u32> {
    let order = |a: &u32, b: &u32| {
        let (x, y) = (values[*a as usize], values[*b as usize]);
        y.partial_cmp(&x)
            .unwrap_or(std::cmp::Ordering::Equal)
            .then(a.cmp(b))
    };
    let n = n.min(values.len());
    if n == 0 {
        return Vec::new();
    }
    // Candidates: everything not below the smallest of the first selection. Keeping
    // twice `n` between selections makes this one pass with few selections.
    let mut best: Vec<u32> = Vec::with_capacity(2 * n);
    let mut floor = f32::NEG_INFINITY;
    for (id, value) in values.iter().enumerate() {
        if *value < floor {
            continue;
        }
        best.push(id as u32);
        if best.len() == 2 * n {
            best.select_nth_unstable_by(n - 1, order);
            best.truncate(n);
            floor = values[best[n - 1] as usize];
        }
    }
    best.sort_unstable_by(order);
    best.truncate(n);
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_digest_covers_the_largest_logits_in_order() {
        let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
        let mut expected = blake3::Hasher::new();
        for rank in 0..64u32 {
            let value = 99 - rank;
            let id = (0..100u32).find(|i| (i * 37) % 100 == value).unwrap();
            expected.update(&id.to_le_bytes());
            expected.update(&(value as f32).to_bits().to_le_bytes());
        }
        assert_eq!(logit_digest(&logits), <[u8; 32]>::from(expected.finalize()));
    }

    proptest! {
        #[test]
        fn the_largest_are_those_of_a_full_sort(
            values in prop::collection::vec((-20i32..20).prop_map(|x| x as f32), 0..300),
            n in 0usize..80,
        ) {
            let mut all: Vec<u32> = (0..values.len() as u32).collect();
            all.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b)));
            all.truncate(n);
            prop_assert_eq!(largest(&values, n), all);
        }
    }
}
