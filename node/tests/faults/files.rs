//! Files that are not what they should be: each gets an error that names the fix.

use super::books::stage;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Output};

fn freehold(dir: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    Ok(command.arg("--dir").arg(dir).args(args).output()?)
}

/// The command fails and its error names all of `words`.
fn refused(dir: &Path, args: &[&str], words: &[&str]) -> Result<()> {
    let output = freehold(dir, args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "{args:?} succeeded: {said}");
    ensure!(!said.contains("panicked"), "{args:?} panicked: {said}");
    for word in words {
        ensure!(
            said.contains(word),
            "{args:?} does not say `{word}`: {said}"
        );
    }
    Ok(())
}

fn fresh(dir: &Path) -> Result<()> {
    let made = freehold(dir, &["init", "--network", "regtest"])?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "{said}");
    // Regtest has no public chain; nothing here looks at it.
    let config = dir.join("freehold.toml");
    let chain = "[chain]\nkind = \"esplora\"\nurl = \"http://127.0.0.1:9\"\n";
    let settings = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{settings}{chain}"))?;
    Ok(())
}

#[test]
fn a_damaged_model_file_is_refused_with_its_path() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = dir.path().join("node");
    fresh(&node)?;
    let pocket = kernels::pocket::pocket();
    let mut flipped = pocket.to_vec();
    // Within the header: counts and lengths that point out of the file.
    flipped[8..24].iter_mut().for_each(|byte| *byte ^= 0xff);
    let damaged = [
        ("short.gguf", &pocket[..pocket.len() / 2]),
        ("empty.gguf", &[][..]),
        ("text.gguf", b"this is not a model".as_slice()),
        ("flipped.gguf", &flipped[..]),
    ];
    let config = node.join("freehold.toml");
    let settings = std::fs::read_to_string(&config)?;
    for (name, bytes) in damaged {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        let entry = format!("\n[[models]]\npath = {path:?}\n");
        std::fs::write(&config, format!("{settings}{entry}"))?;
        refused(&node, &["models"], &[name, "check the `path`"])?;
    }
    let missing = "\n[[models]]\npath = \"nowhere.gguf\"\n";
    std::fs::write(&config, format!("{settings}{missing}"))?;
    refused(&node, &["models"], &["nowhere.gguf"])
}

#[test]
fn an_unknown_setting_is_an_error_that_names_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fresh(dir.path())?;
    let config = dir.path().join("freehold.toml");
    let settings = std::fs::read_to_string(&config)?;
    for (line, word) in [
        ("colour = \"blue\"", "colour"),
        ("roles = [\"king\"]", "king"),
        ("relays = 7", "line 1"),
    ] {
        std::fs::write(&config, format!("{line}\n{settings}"))?;
        refused(dir.path(), &["up"], &["freehold.toml", word])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_is_not_opened_twice_and_the_error_names_the_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (stage, _) = stage(dir.path()).await?;
    let buyer = &stage.members[0];
    let pid = buyer.pid().context("it runs")?.to_string();
    refused(&buyer.dir, &["up"], &["in use", &pid])?;
    // The first one does not mind.
    buyer.client()?.status().await?;
    stage.shutdown().await;
    Ok(())
}
