//! The whole path between three nodes: listing, order, payments, stream,
//! receipt, verdict. Real sockets, relay, channels and weights.

use actors::shell::validator::VerdictNote;
use anyhow::{Context, Result, bail};
use kernels::Cheat;
use protocol::message::inference::{BuyerEvent, InputCount};
use protocol::money::Msat;
use protocol::refusal::Code;
use protocol::wire::bundle::{Finding, Tier, Verdict};
use protocol::wire::manifest::Role;
use protocol::wire::order::{Receipt, Status};
use std::time::Duration;
use tests::{BOUND, Plan, Stage, TestNode, question, until};
use tokio::sync::broadcast;

struct Answer {
    text: String,
    payments: Vec<(Msat, u64)>,
    receipt: Receipt,
}

async fn buy(buyer: &TestNode) -> Result<Answer> {
    let mut purchase = buyer.node.buy(question("What is freehold?", 64)).await;
    let (mut text, mut payments) = (String::new(), Vec::new());
    let all = async {
        while let Some(event) = purchase.events.recv().await {
            match event {
                BuyerEvent::Output { text: piece, .. } => text.push_str(&piece),
                BuyerEvent::Paid { msat, ms, .. } => payments.push((msat, ms)),
                BuyerEvent::Failed(refusal) => bail!("the purchase failed: {refusal}"),
                BuyerEvent::Finished { receipt, .. } => return Ok(*receipt),
                BuyerEvent::Chosen { .. }
                | BuyerEvent::Accepted { .. }
                | BuyerEvent::InputCounted { .. } => {}
            }
        }
        bail!("the purchase ended without a receipt")
    };
    let receipt = tokio::time::timeout(BOUND, all)
        .await
        .context("no receipt in time")??;
    Ok(Answer {
        text,
        payments,
        receipt,
    })
}

/// The verdict by recomputation; the buyer's own bookkeeping check comes before it.
async fn recomputed(verdicts: &mut broadcast::Receiver<VerdictNote>) -> Result<Verdict> {
    let wait = async {
        loop {
            let verdict = *verdicts.recv().await?.result.map_err(anyhow::Error::msg)?;
            if verdict.tier == Tier::ExactReplay {
                return Ok(verdict);
            }
            assert_eq!(verdict.finding, Finding::Honest, "bookkeeping");
        }
    };
    tokio::time::timeout(BOUND, wait)
        .await
        .context("no verdict in time")?
}

async fn run(cheat: impl FnOnce(&mut Plan)) -> Result<(Answer, Verdict)> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter("warn,actors=debug")
        .with_test_writer()
        .try_init();
    let dir = tempfile::tempdir()?;
    let stage = Stage::start().await?;
    let buyer = stage
        .node(&dir.path().join("buyer"), &Plan::new(&[Role::Client]))
        .await?;
    let mut plan = Plan::new(&[Role::Client, Role::Host]);
    cheat(&mut plan);
    plan.pace = Some(Duration::from_millis(5));
    let host = stage.node(&dir.path().join("host"), &plan).await?;
    let validator = stage
        .node(
            &dir.path().join("validator"),
            &Plan::new(&[Role::Client, Role::Validator]),
        )
        .await?;
    stage.connect(&buyer, &[&host], 500_000).await?;
    until("host and validator are listed", || async {
        buyer.node.hosts().await.is_ok_and(|rows| rows.len() >= 2)
    })
    .await?;

    let mut verdicts = buyer.node.verdicts();
    let before = buyer.wallet.balance().await?.spendable;
    let answer = buy(&buyer).await?;
    let verdict = recomputed(&mut verdicts).await?;

    let paid: u64 = answer
        .receipt
        .payments
        .iter()
        .map(|payment| payment.msat.0)
        .sum();
    until("the wallet shows what the receipt says", || async {
        buyer
            .wallet
            .balance()
            .await
            .is_ok_and(|now| before.0 - now.spendable.0 == paid)
    })
    .await?;
    let (spent, earned) = (buyer.node.report().await?, host.node.report().await?);
    assert_eq!(spent.spent, Msat(paid), "the buyer's ledger");
    assert_eq!(earned.earned, Msat(paid), "the host's ledger");
    for node in [buyer, host, validator] {
        node.node.shutdown().await;
    }
    Ok((answer, verdict))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_is_paid_while_it_streams_and_a_validator_finds_it_honest() -> Result<()> {
    let (answer, verdict) = run(|_| {}).await?;
    let receipt = &answer.receipt;
    assert_eq!(receipt.status, Status::Complete);
    assert!(
        answer.text.to_lowercase().contains("freehold"),
        "{}",
        answer.text
    );
    assert!(
        answer.payments.len() >= 3,
        "{} payments",
        answer.payments.len()
    );
    let paid: u64 = receipt.payments.iter().map(|payment| payment.msat.0).sum();
    // What was paid is the cost, or the entry payment where that was more.
    assert!(
        paid >= receipt.cost.0 && paid <= receipt.cost.0 + 1_000,
        "{paid} for {}",
        receipt.cost
    );
    assert_eq!(verdict.finding, Finding::Honest);
    assert_eq!(verdict.tokens, receipt.counts.output_tokens);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_alters_one_weight_is_convicted() -> Result<()> {
    let (_, verdict) = run(|plan| plan.cheat = Some(Cheat::AlterWeight)).await?;
    assert!(
        matches!(verdict.finding, Finding::WrongAnswer { .. }),
        "{:?}",
        verdict.finding
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_shows_other_words_is_convicted_by_them() -> Result<()> {
    let (answer, verdict) = run(|plan| plan.other_words = true).await?;
    assert_eq!(answer.text, answer.text.to_ascii_uppercase());
    let Finding::WrongAnswer { detail, .. } = &verdict.finding else {
        anyhow::bail!("{:?}", verdict.finding);
    };
    assert!(detail.contains("text"), "{detail}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_is_stopped_in_mid_answer_is_paid_signs_its_receipt_and_withdraws() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let stage = Stage::start().await?;
    let plan = Plan::new(&[Role::Client]);
    let buyer = stage.node(&dir.path().join("buyer"), &plan).await?;
    let mut plan = Plan::new(&[Role::Client, Role::Host]);
    plan.pace = Some(Duration::from_millis(30));
    let at = dir.path().join("host");
    let host = stage.node(&at, &plan).await?;
    stage.connect(&buyer, &[&host], 500_000).await?;
    until("the host is listed", || async {
        buyer.node.hosts().await.is_ok_and(|rows| !rows.is_empty())
    })
    .await?;

    let mut purchase = buyer.node.buy(question("What is freehold?", 64)).await;
    let started = async {
        while let Some(event) = purchase.events.recv().await {
            match event {
                BuyerEvent::Output { .. } => return Ok(()),
                BuyerEvent::Failed(refusal) => bail!("the purchase failed: {refusal}"),
                _ => {}
            }
        }
        bail!("the purchase ended before its first token")
    };
    tokio::time::timeout(BOUND, started).await??;
    let served = async {
        while let Some(event) = purchase.events.recv().await {
            match event {
                BuyerEvent::Failed(refusal) => bail!("the answer was cut: {refusal}"),
                BuyerEvent::Finished { receipt, .. } => return Ok(*receipt),
                _ => {}
            }
        }
        bail!("the purchase ended without a receipt")
    };
    let refused = async {
        // Once it is told to stop it buys nothing either.
        let mut late = loop {
            let mut late = host.node.buy(question("One more?", 4)).await;
            match late.events.recv().await {
                Some(BuyerEvent::Failed(refusal)) if refusal.code == Code::ShuttingDown => {
                    break late;
                }
                _ => tokio::task::yield_now().await,
            }
        };
        late.events.recv().await
    };
    let ending = async { tokio::join!(host.node.shutdown(), served, refused) };
    let ((), receipt, late) = tokio::time::timeout(BOUND, ending).await?;
    let receipt = receipt?;
    assert_eq!(receipt.status, Status::Complete);
    assert!(late.is_none());
    let paid: u64 = receipt.payments.iter().map(|payment| payment.msat.0).sum();
    assert!(paid > 0 && paid + receipt.debt.0 >= receipt.cost.0);

    // Whoever looks at the relay now finds nothing, and the buyer forgets it.
    let author = receipt.host.to_string();
    let listed = stage.lab.relay().events().into_iter();
    let mut listed = listed.filter(|event| event.kind.as_u16() == 38_717);
    assert!(!listed.any(|event| event.pubkey.to_hex() == author));
    until("the buyer forgets the host", || async {
        buyer.node.hosts().await.is_ok_and(|rows| rows.is_empty())
    })
    .await?;
    // Nothing of it is open in the host's books.
    drop(host);
    let host = stage.node(&at, &plan).await?;
    let report = host.node.report().await?;
    assert_eq!(report.earned, Msat(paid));
    let account = report.orders.first().context("the order is not closed")?;
    assert_eq!(account.status, Status::Complete);
    assert!(account.receipt.is_some());
    for node in [buyer, host] {
        node.node.shutdown().await;
    }
    Ok(())
}

/// One purchase at one host: what this node counted of the prompt, and what became of it.
async fn buy_at(
    buyer: &TestNode,
    host: &TestNode,
) -> Result<(Option<u64>, Result<Receipt, String>)> {
    let mut request = question("What is freehold?", 8);
    request.host = Some(host.node.key());
    let mut purchase = buyer.node.buy(request).await;
    let mut counted = None;
    let all = async {
        while let Some(event) = purchase.events.recv().await {
            match event {
                BuyerEvent::InputCounted { tokens } => counted = Some(tokens),
                BuyerEvent::Failed(refusal) => return Ok(Err(refusal.message)),
                BuyerEvent::Finished { receipt, .. } => return Ok(Ok(*receipt)),
                _ => {}
            }
        }
        bail!("the purchase ended without a word")
    };
    let end = tokio::time::timeout(BOUND, all)
        .await
        .context("no end in time")??;
    Ok((counted, end))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_second_orders_inflated_count_is_refused_before_anything_is_paid() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stage = Stage::start().await?;
    let buyer = stage
        .node(&dir.path().join("buyer"), &Plan::new(&[Role::Client]))
        .await?;
    let mut plan = Plan::new(&[Role::Client, Role::Host]);
    let honest = stage.node(&dir.path().join("honest"), &plan).await?;
    plan.extra_input = 7;
    let liar = stage.node(&dir.path().join("liar"), &plan).await?;
    stage.connect(&buyer, &[&honest, &liar], 500_000).await?;
    until("both hosts are listed", || async {
        buyer.node.hosts().await.is_ok_and(|rows| rows.len() >= 2)
    })
    .await?;

    // Without the vocabulary nobody can tell.
    let (counted, first) = buy_at(&buyer, &honest).await?;
    let first = first.map_err(anyhow::Error::msg)?;
    assert_eq!(counted, None);
    // It comes by itself, behind the first word.
    let job = question("What is freehold?", 8).job;
    until("the vocabulary is here", || async {
        let count = buyer.node.vocabularies().count(&first.model, &job);
        !matches!(count, InputCount::Absent)
    })
    .await?;
    let (counted, second) = buy_at(&buyer, &honest).await?;
    let second = second.map_err(anyhow::Error::msg)?;
    assert_eq!(counted, Some(second.counts.prompt()));

    let before = buyer.node.report().await?.spent;
    let (_, refused) = buy_at(&buyer, &liar).await?;
    let why = refused.expect_err("a false count is not accepted");
    assert!(why.contains("prompt tokens"), "{why}");
    assert_eq!(buyer.node.report().await?.spent, before);
    // Same rules of counting: the host is found to lie, and is not bought from again.
    let (_, again) = buy_at(&buyer, &liar).await?;
    assert!(again.is_err());
    let rows = buyer.node.hosts().await?;
    let of_liar = rows.iter().find(|row| row.manifest.node == liar.node.key());
    let score = &of_liar.context("the liar is listed")?.score;
    assert!(score.cooldown.is_some(), "{score:?}");
    for node in [buyer, honest, liar] {
        node.node.shutdown().await;
    }
    Ok(())
}
