//! Values held against another implementation's.

use super::*;

#[derive(serde::Deserialize)]
struct Vector {
    r#type: String,
    bytes: String,
    /// f32 bits, big-endian.
    values: String,
}

fn unhex(s: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    let pairs = s.as_bytes().as_chunks::<2>().0;
    pairs
        .iter()
        .map(|c| digit(c[0]) << 4 | digit(c[1]))
        .collect()
}

/// `vectors.json` was made with `gguf.quants.dequantize` (PyPI `gguf` 0.19.0) from
/// random blocks; the types without an entry are refused.
#[test]
fn every_type_gives_the_values_of_the_python_package() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert_eq!(vectors.len(), 14);
    for vector in vectors {
        let ty = (0..64)
            .filter_map(TensorType::from_id)
            .find(|ty| ty.name() == vector.r#type)
            .unwrap();
        let expected = unhex(&vector.values);
        let expected = expected.as_chunks::<4>().0;
        let mut out = vec![0.0; expected.len()];
        row(ty, &unhex(&vector.bytes), &mut out);
        for (i, (found, expected)) in out.iter().zip(expected).enumerate() {
            let expected = f32::from_be_bytes(*expected);
            assert!(
                *found == expected,
                "{ty} element {i}: {found} for {expected}"
            );
        }
    }
}

#[test]
fn a_type_that_is_not_read_gives_nan() {
    assert!(!reads(TensorType::IQ2_XXS) && reads(TensorType::Q4_K));
    let mut out = [0.0; 256];
    row(TensorType::IQ2_XXS, &[0; 66], &mut out);
    assert!(out.iter().all(|x| x.is_nan()));
}
