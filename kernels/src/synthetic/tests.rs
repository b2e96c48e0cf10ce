//! Models of every storage type, from the file to logits.

use super::*;
use crate::SimdLevel;
use crate::model::{Model, OpenOptions};
use crate::ops::dequant;

/// The least shape whose rows are whole super-blocks.
fn shape() -> Shape {
    Shape {
        embedding: 256,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        feed_forward: 512,
        vocab: MIN_VOCAB,
        context: 64,
        tied: true,
    }
}

#[test]
fn models_of_every_type_have_the_same_bits_at_any_level_and_thread_count() {
    let mut checked = 0;
    for ty in (0..64).filter_map(TensorType::from_id) {
        if !dequant::reads(ty) {
            continue;
        }
        let bytes = qwen3(&shape(), ty, 3);
        let logits = |threads: usize, simd: Option<SimdLevel>| -> Vec<u32> {
            let options = OpenOptions {
                threads,
                simd,
                ..OpenOptions::default()
            };
            let model = Model::from_bytes(bytes.clone(), &options).unwrap();
            let all = model.logits(&[1, 70, 5, 200, 9], true).unwrap().concat();
            assert!(all.iter().all(|x| x.is_finite()));
            all.iter().map(|x| x.to_bits()).collect()
        };
        let plain = logits(1, Some(SimdLevel::Portable));
        assert_eq!(plain, logits(3, None), "{ty}");
        checked += 1;
    }
    assert_eq!(checked, 16);
}

#[test]
fn random_weights_have_the_deviation_that_keeps_activations_alike() {
    let k = 256;
    for ty in (0..64).filter_map(TensorType::from_id) {
        if !dequant::reads(ty) {
            continue;
        }
        let mut row = vec![0.0; 256 * k];
        dequant::row(ty, &weights(ty, k, 256, 5), &mut row);
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        // Variance 1/k, more where scales vary or are powers of two.
        assert!((0.5..2.0).contains(&(mean * k as f32)), "{ty}: {mean}");
    }
}
