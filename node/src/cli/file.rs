//! Opening a model's file for the commands that check the engine: `inspect`,
//! `tokenize`, `logits`, `bench`. They need no network, no wallet and no folder.
//!
//! Not the models of a node: those come from its settings (`crate::models`).

use crate::config::POCKET;
use anyhow::Context;
use kernels::gguf::Gguf;
use kernels::{Model, OpenOptions, Placement};
use std::path::Path;

/// What the help of each of these commands says about its file.
pub const FILE: &str = "A GGUF file, or `pocket` for the model in this program";

/// The directory and bytes of a GGUF file.
///
/// # Errors
/// Where there is no such file, or it is not a whole GGUF file.
pub fn gguf(path: &Path) -> anyhow::Result<Gguf> {
    if path == Path::new(POCKET) {
        return Ok(Gguf::from_bytes(kernels::pocket::pocket())?);
    }
    exists(path)?;
    Gguf::open(path).with_context(|| format!("{} cannot be used", path.display()))
}

/// A model that can compute, on the processor.
///
/// # Errors
/// As [`gguf`], and where this engine does not run such a model.
pub fn model(path: &Path, options: &OpenOptions) -> anyhow::Result<Model> {
    model_on(path, options, &Placement::default())
}

/// A model on a chosen device.
///
/// # Errors
/// As [`model`], and where there is no such device or it does not take the model.
pub fn model_on(path: &Path, options: &OpenOptions, on: &Placement) -> anyhow::Result<Model> {
    if path == Path::new(POCKET) {
        return Ok(Model::from_bytes_on(
            kernels::pocket::pocket(),
            options,
            on,
        )?);
    }
    exists(path)?;
    Model::open_on(path, options, on).with_context(|| {
        format!(
            "{} cannot be run (`freehold inspect` shows what it holds)",
            path.display()
        )
    })
}

fn exists(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.exists(),
        "there is no file {}: name a GGUF file, or `{POCKET}`",
        path.display()
    );
    anyhow::ensure!(
        path.is_file(),
        "{} is not a file: name the GGUF file in it",
        path.display()
    );
    Ok(())
}

/// Token ids from text: decimal numbers with commas or white space between them.
///
/// # Errors
/// Where a part is not such a number, or there is none.
pub fn tokens(text: &str) -> anyhow::Result<Vec<u32>> {
    let parts = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty());
    let ids = parts
        .map(|part| {
            part.parse().map_err(|_| {
                anyhow::anyhow!("{part:?} is not a token id: ids are whole numbers from 0, such as 1,2,3 (`freehold tokenize` makes them)")
            })
        })
        .collect::<anyhow::Result<Vec<u32>>>()?;
    anyhow::ensure!(!ids.is_empty(), "no token ids: write them as 1,2,3");
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_with_commas_or_spaces_and_nothing_else() {
        assert_eq!(tokens("1,2, 3\n4").expect("ids"), [1, 2, 3, 4]);
        assert!(tokens("1,two").is_err_and(|e| e.to_string().contains("\"two\"")));
        assert!(tokens("-1").is_err());
        assert!(tokens("4294967296").is_err());
        assert!(tokens(" ,").is_err());
    }
}
