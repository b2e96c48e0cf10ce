//! Golden vectors: logits that llama.cpp computed for small random models.
//!
//! `vectors/*.json` hold recipes, not models: the bytes follow from a rule of
//! integers and powers of two, which `tests/thirdparty/long/weights.py` describes
//! and the module [`recipe`] follows on its own. Another engine rounds elsewhere
//! (half-precision scales of activations, other orders of sums), so rows are
//! compared by normalised mean squared error under a bound per storage type.

#[path = "golden/recipe.rs"]
mod recipe;

use kernels::{Model, OpenOptions};
use recipe::Recipe;
use std::path::Path;

/// The largest error allowed for a storage type; a wrong formula gives 0.01 to 2.
///
/// llama.cpp's own distance from the same weights in plain f32 is about half of it:
/// it rounds activations to 8 bits (to BF16 for BF16), and random codes under random
/// inner scales (Q6_K, IQ4_XS) make a few large weights carry a row.
fn bound(ty: &str) -> f64 {
    match ty {
        "F32" | "F16" => 1e-5,
        "BF16" => 1e-4,
        "Q6_K" | "IQ4_XS" => 3e-3,
        _ => 1e-3,
    }
}

/// Squared differences over squares: 0 where equal, about 2 where unrelated.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f64| x * x;
    let pairs = ours.iter().zip(theirs);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    difference / theirs.iter().map(|b| square(f64::from(*b))).sum::<f64>()
}

/// The largest error of a vector's rows.
fn check(recipe: &Recipe) -> Result<f64, String> {
    let options = OpenOptions {
        threads: 1,
        ..OpenOptions::default()
    };
    let model = Model::from_bytes(recipe.file(), &options).map_err(|error| error.to_string())?;
    let rows = model
        .logits(&recipe.tokens, true)
        .map_err(|error| error.to_string())?;
    let errors = recipe
        .logits
        .iter()
        .map(|golden| error(&rows[golden.after], &golden.row));
    let largest = errors.fold(0.0, f64::max);
    let allowed = bound(recipe.storage());
    match largest <= allowed {
        true => Ok(largest),
        false => Err(format!("error {largest:.1e}, allowed {allowed:.0e}")),
    }
}

#[test]
fn logits_are_those_that_llama_cpp_computes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut seen = 0;
    let mut wrong = Vec::new();
    let entries = std::fs::read_dir(folder).expect("the vectors are in the repository");
    for entry in entries {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("text");
        let recipe = Recipe::read(&text);
        match check(&recipe) {
            Ok(found) => println!("{:<24} {found:.1e}", recipe.name),
            Err(reason) => wrong.push(format!("{}: {reason}", recipe.name)),
        }
        seen += 1;
    }
    assert!(seen >= 25, "only {seen} vectors were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
