//! A host that sells what another server runs: orders, payments and receipts between two
//! nodes, with the gateway of a third as the OpenAI-compatible server. Real sockets,
//! relay and channels.

use actors::ports::runner::{Runner, RunnerOptions, Vocabulary};
use actors::shell::validator::VerdictNote;
use anyhow::{Context, Result, bail};
use freehold::config::Config;
use freehold::models::{LocalModel, Source};
use freehold::server::{App, Server, http};
use freehold::service::models::Loaded;
use kernels::{Model, OpenOptions};
use protocol::ids::ModelDigest;
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::Prices;
use protocol::wire::bundle::{Finding, Tier};
use protocol::wire::chain::UNKNOWN_TOKEN;
use protocol::wire::manifest::{Role, UNKNOWN_DIGEST, named_model};
use protocol::wire::order::{Receipt, Status};
use std::sync::Arc;
use tests::{BOUND, Plan, Stage, TestNode, question, until};
use tokio::sync::broadcast;

struct Answer {
    text: String,
    tokens: Vec<u32>,
    receipt: Receipt,
}

async fn buy(buyer: &TestNode, model: ModelDigest) -> Result<Answer> {
    let mut request = question("What is freehold?", 48);
    request.model = ModelSelector::Digest(model);
    let mut purchase = buyer.node.buy(request).await;
    let (mut text, mut all) = (String::new(), Vec::new());
    let events = async {
        while let Some(event) = purchase.events.recv().await {
            match event {
                BuyerEvent::Output {
                    text: piece,
                    tokens,
                    ..
                } => {
                    text.push_str(&piece);
                    all.extend(tokens);
                }
                BuyerEvent::Failed(refusal) => bail!("the purchase failed: {refusal}"),
                BuyerEvent::Finished { receipt, .. } => return Ok(*receipt),
                _ => {}
            }
        }
        bail!("the purchase ended without a receipt")
    };
    let receipt = tokio::time::timeout(BOUND, events)
        .await
        .context("no receipt in time")??;
    Ok(Answer {
        text,
        tokens: all,
        receipt,
    })
}

/// The gateway of a node that has the pocket model, on a port of its own.
async fn gateway(node: &TestNode) -> Result<(Server, String)> {
    let model = Model::from_bytes(kernels::pocket::pocket(), &OpenOptions::default())?;
    let local = LocalModel {
        source: Source::Engine(model),
        name: "pocket".to_owned(),
        prices: Prices::chat(1, 1),
    };
    let loaded = Loaded {
        rows: vec![local.row(0.0)],
        models: vec![local],
    };
    let app = Arc::new(App::new(node.node.clone(), &Config::default(), loaded));
    let listener = http::listen(([127, 0, 0, 1], 0).into())?;
    let folder = tempfile::tempdir()?;
    // Nobody asks for it here; the folder may go.
    let control = tokio::net::UnixListener::bind(folder.path().join("control"))?;
    let server = Server::start(app, Some(listener), control)?;
    let url = format!("{}/v1", server.gateway().context("a gateway")?);
    Ok((server, url))
}

async fn runner(url: &str, vocabulary: Option<Arc<Vocabulary>>) -> Result<Arc<Runner>> {
    let runner = Runner::start(RunnerOptions {
        url: url.to_owned(),
        model: "pocket".to_owned(),
        key: None,
        vocabulary,
        context: Some(512),
    })
    .await?;
    anyhow::ensure!(runner.away().is_none(), "{:?}", runner.away());
    Ok(runner)
}

/// The finding of the buyer's own check of its next order.
async fn checked(verdicts: &mut broadcast::Receiver<VerdictNote>) -> Result<(Tier, Finding)> {
    let note = tokio::time::timeout(BOUND, verdicts.recv());
    let verdict = note.await.context("no verdict in time")??;
    let verdict = verdict.result.map_err(anyhow::Error::msg)?;
    Ok((verdict.tier, verdict.finding))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_sells_what_another_server_runs_and_the_receipt_says_not_replayable() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stage = Stage::start().await?;
    let mut plan = Plan::new(&[Role::Client]);
    plan.model = Some(kernels::pocket::pocket().to_vec());
    let third = stage.node(&dir.path().join("server"), &plan).await?;
    let (server, url) = gateway(&third).await?;

    let vocabulary = Arc::new(Vocabulary::from_bytes(kernels::pocket::pocket())?);
    let known = vocabulary.digest;
    let mut plan = Plan::new(&[Role::Client, Role::Host]);
    plan.model = None;
    plan.runners = vec![
        runner(&url, Some(vocabulary)).await?,
        runner(&url, None).await?,
    ];
    let host = stage.node(&dir.path().join("host"), &plan).await?;
    let buyer = stage
        .node(&dir.path().join("buyer"), &Plan::new(&[Role::Client]))
        .await?;
    stage.connect(&buyer, &[&host], 500_000).await?;
    until("the host is listed with both", || async {
        buyer.node.hosts().await.is_ok_and(|rows| rows.len() >= 2)
    })
    .await?;
    for row in buyer.node.hosts().await? {
        let offer = row.manifest.offer(&row.model).context("an offer")?;
        assert_eq!(offer.replay_note(), "runner, not replayable");
    }

    let mut verdicts = buyer.node.verdicts();
    let by_file = buy(&buyer, known).await?;
    assert_eq!(
        checked(&mut verdicts).await?,
        (Tier::Bookkeeping, Finding::Honest)
    );
    let by_name = buy(&buyer, named_model("pocket")).await?;
    for answer in [&by_file, &by_name] {
        let receipt = &answer.receipt;
        assert_eq!(receipt.status, Status::Complete);
        assert_eq!(receipt.numerics, None);
        assert_eq!(receipt.counts.output_tokens, answer.tokens.len() as u64);
        assert!(!receipt.payments.is_empty());
        let text = answer.text.to_lowercase();
        assert!(text.contains("freehold"), "{text}");
    }
    assert_eq!(by_file.text, by_name.text, "one server, temperature 0");
    // Paid while it streams; by the name a piece is a token, and the gateway batches.
    assert!(by_file.receipt.payments.len() > 2);
    assert!(by_name.tokens.len() <= by_file.tokens.len());
    // Counted by the model's own vocabulary: the engine's count, and the text's ids.
    let tokenizer = Model::from_bytes(kernels::pocket::pocket(), &OpenOptions::default())?;
    let whole = tokenizer.tokenizer().encode(&by_file.text, false);
    assert_eq!(by_file.tokens, whole);
    assert_ne!(by_file.receipt.tokenizer, UNKNOWN_DIGEST);
    assert_eq!(by_name.receipt.tokenizer, UNKNOWN_DIGEST);
    assert!(by_name.tokens.iter().all(|id| *id == UNKNOWN_TOKEN));

    // The books of both sides agree with what was paid.
    let paid = |answer: &Answer| -> u64 {
        let payments = answer.receipt.payments.iter();
        payments.map(|payment| payment.msat.0).sum()
    };
    let both = paid(&by_file) + paid(&by_name);
    assert_eq!(buyer.node.report().await?.spent.0, both);
    assert_eq!(host.node.report().await?.earned.0, both);
    for node in [buyer, host, third] {
        node.node.shutdown().await;
    }
    server.stop().await;
    Ok(())
}
