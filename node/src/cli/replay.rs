//! `freehold replay`: compute a bought answer again and compare every bit.
//!
//! Needs no running node and no network: a bundle and the model are enough.

use super::{Globals, file, print_json};
use crate::config::POCKET;
use crate::control::Client;
use crate::folder::Folder;
use crate::models::{self, Source};
use crate::server::control::find_bundle;
use crate::service::Needs;
use actors::ports::compute::{CancelFlag, Compute};
use actors::ports::storage::Storage;
use anyhow::Context;
use kernels::{Model, OpenOptions};
use protocol::codec;
use protocol::crypto::Secp;
use protocol::ids::{ModelDigest, OrderId};
use protocol::validator::bookkeeping::{Facts, bookkeeping, label};
use protocol::validator::compare::compare;
use protocol::wire::bundle::{Bundle, Finding};
use protocol::wire::envelope::{Envelope, Network};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest bundle file: the audit stream's bound, as JSON.
const MAX_FILE: u64 = 8 * protocol::limits::MAX_AUDIT_FRAME_BYTES as u64;

/// Arguments of `freehold replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold ask --save-bundle answer.json \"What is a sat?\"
  freehold replay answer.json
  freehold replay 0123456789abcdef0123456789abcdef      an order of this node
  freehold replay answer.json --model qwen3-4b-q8_0.gguf

Checks the host's signatures, sums and token chain, then runs prompt and answer
through the engine. Exit code 0 only where every bit agrees.")]
pub struct Args {
    /// A bundle file, or the id of an order in the ledger
    #[arg(value_name = "BUNDLE|ORDER_ID")]
    what: String,
    /// The model's file [default: the one of [[models]], or the pocket model]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// Where the bundle or the model cannot be read.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let bundle = load(&args.what, globals).await?;
    let network = network(&bundle)?;
    // Only checks signatures of others: which key it could sign with does not matter.
    let crypto = Secp::from_secret(&[1; 32]).context("the key 1 is a key")?;
    let about = label(&bundle);
    let facts = match bookkeeping(&bundle, &crypto, network) {
        Ok(facts) => facts,
        Err(finding) => return report(globals, about.id, &finding, 0, None),
    };
    if facts.numerics.is_none() {
        let detail = "signatures, sums and token chain agree; the host names no numerics (a runner does not), so the answer cannot be computed again";
        let finding = Finding::Inconclusive {
            detail: detail.to_owned(),
        };
        return report(globals, about.id, &finding, 0, None);
    }
    if !globals.json {
        eprintln!(
            "signatures, sums and token chain agree; {} tokens to compute again",
            facts.tokens.len()
        );
    }
    let folder = globals.folder().ok();
    let given = args.model.clone();
    let digest = about.model;
    let model =
        tokio::task::spawn_blocking(move || find_model(given.as_deref(), folder.as_ref(), &digest))
            .await??;
    let name = model.info().name.clone();
    let (finding, tokens) =
        tokio::task::spawn_blocking(move || recompute(model, &digest, &facts)).await??;
    report(globals, about.id, &finding, tokens, Some(&name))
}

fn recompute(model: Model, digest: &ModelDigest, facts: &Facts) -> anyhow::Result<(Finding, u64)> {
    let compute = Compute::new();
    compute.add(model);
    let replay = compute
        .replay(
            digest,
            &facts.job,
            &facts.salt,
            &facts.tokens,
            &CancelFlag::new(),
        )
        .map_err(|reason| anyhow::anyhow!("the answer cannot be computed again: {reason}"))?;
    Ok(compare(facts, &replay))
}

fn report(
    globals: &Globals,
    order: OrderId,
    finding: &Finding,
    tokens: u64,
    model: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let agrees = *finding == Finding::Honest;
    if globals.json {
        print_json(
            &json!({"order": order, "agrees": agrees, "finding": finding, "tokens": tokens, "model": model}),
        )?;
    } else {
        match finding {
            Finding::Honest => println!("honest: {tokens} tokens computed again, every bit agrees"),
            Finding::FalseAccount { detail } => println!("false account: {detail}"),
            Finding::WrongAnswer { position, detail } => {
                println!("wrong answer at token {position}: {detail}")
            }
            Finding::Inconclusive { detail } => println!("inconclusive: {detail}"),
        }
    }
    Ok(if agrees {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn load(what: &str, globals: &Globals) -> anyhow::Result<Bundle> {
    let path = Path::new(what);
    if path.is_file() {
        let size = std::fs::metadata(path)?.len();
        anyhow::ensure!(
            size <= MAX_FILE,
            "{what} has {size} bytes; a bundle has {MAX_FILE} at most"
        );
        let text = std::fs::read(path)?;
        return serde_json::from_slice(&text).with_context(|| {
            format!("{what} is not a bundle: make one with `freehold ask --save-bundle FILE`")
        });
    }
    let order: OrderId = what.parse().map_err(|_| {
        anyhow::anyhow!(
            "{what} is neither a file nor an order id (32 hex digits, from `freehold ledger`)"
        )
    })?;
    let folder = globals.folder()?;
    if let Some(client) = Client::find(&folder, Needs::Books).await {
        return Ok(client.bundle(order).await?);
    }
    let _lock = folder.lock()?;
    let storage = Storage::open(&folder.db_path())?;
    find_bundle(&storage, order)?.with_context(|| {
        format!(
            "no evidence of order {order} is in {}: see `freehold ledger`",
            folder.dir().display()
        )
    })
}

/// The network that the order was signed for; the signature over it is checked later.
fn network(bundle: &Bundle) -> anyhow::Result<Network> {
    let envelope: Envelope =
        codec::decode(&bundle.order.bytes, protocol::limits::MAX_ORDER_FRAME_BYTES)
            .context("the bundle's order does not decode")?;
    Ok(envelope.network)
}

/// The model with a digest: the file that was named, one of the settings, or the pocket model.
fn find_model(
    given: Option<&Path>,
    folder: Option<&Folder>,
    digest: &ModelDigest,
) -> anyhow::Result<Model> {
    let options = OpenOptions::default();
    if let Some(path) = given {
        let model = file::model(path, &options)?;
        let found = ModelDigest(model.digest());
        anyhow::ensure!(
            found == *digest,
            "{} has digest {found}; the answer is by {digest}",
            path.display()
        );
        return Ok(model);
    }
    let pocket = models::open(Path::new(POCKET), &options)?;
    if pocket.digest() == digest.0 {
        return Ok(pocket);
    }
    if let Some((folder, config)) = folder.and_then(|folder| Some((folder, folder.config().ok()?)))
    {
        // What another server runs cannot be computed again here.
        for entry in config.models.iter().filter(|entry| entry.path.is_some()) {
            let opened = models::open_entry(entry, &config, folder, None)?;
            match opened.source {
                Source::Engine(model) if model.digest() == digest.0 => return Ok(model),
                _ => {}
            }
        }
    }
    anyhow::bail!("no model with digest {digest} is here: name its file with --model FILE")
}
