//! A purchase or a local run, as one stream that stops itself when it is dropped.
//!
//! A client that goes away has stopped: what was delivered is paid, nothing more
//! is bought. What still happens afterwards is read to the end in the background.

use super::App;
use super::errors::ApiError;
use crate::control::BuyOrder;
use actors::node::{Node, Purchase};
use actors::ports::compute::{Output, Owner};
use protocol::ids::{ModelDigest, NodeKey, OrderId};
use protocol::inference::io::{BuyRequest, BuyerEvent};
use protocol::money::{Counts, Meter, Msat};
use protocol::order::attached::Attached;
use protocol::order::wire::Finish;
use protocol::refusal::{Code, Refusal};
use protocol::text::Rendering;
use protocol::work::{Job, Work};

/// A purchase whose owner may go away.
pub struct Bought {
    node: Node,
    purchase: Option<Purchase>,
}

impl Bought {
    /// Buys.
    pub async fn start(node: &Node, request: BuyRequest) -> Self {
        Bought {
            node: node.clone(),
            purchase: Some(node.buy(request).await),
        }
    }

    /// Its number.
    pub fn request(&self) -> u64 {
        self.purchase
            .as_ref()
            .map_or(0, |purchase| purchase.request.0)
    }

    /// The next event; `None` after the end.
    pub async fn next(&mut self) -> Option<BuyerEvent> {
        let event = self.purchase.as_mut()?.events.recv().await;
        if matches!(
            event,
            None | Some(BuyerEvent::Finished { .. } | BuyerEvent::Failed(_))
        ) {
            self.purchase = None;
        }
        event
    }
}

impl Drop for Bought {
    fn drop(&mut self) {
        let (Some(mut purchase), node) = (self.purchase.take(), self.node.clone()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            node.stop(purchase.request).await;
            while purchase.events.recv().await.is_some() {}
        });
    }
}

/// The owner of what runs here.
const HERE: Owner = [0; 32];

/// A run on this machine's own engine, which costs nothing.
struct Local {
    node: Node,
    order: OrderId,
    rendering: Rendering,
    output: tokio::sync::mpsc::Receiver<Output>,
    totals: Counts,
    meter: Meter,
    /// The end, told after the last text.
    ending: Option<Box<Ending>>,
    done: bool,
}

impl Drop for Local {
    fn drop(&mut self) {
        if !self.done {
            self.node.compute().cancel(&self.order);
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why output ended.
    pub finish: Finish,
    /// What was delivered.
    pub counts: Counts,
    /// What it cost, routing fees apart.
    pub cost: Msat,
    /// Routing fees.
    pub fees: Msat,
    /// The order, where it was bought: its receipt is in the ledger under this id.
    pub order: Option<OrderId>,
    /// The host, where it was bought.
    pub host: Option<NodeKey>,
}

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text, and what was asked for beside it.
    Text(String, Box<Attached>),
    /// The end.
    End(Box<Ending>),
    /// It failed.
    Failed(Refusal),
}

/// An answer in the making, bought or made here.
pub struct Answer(Source);

enum Source {
    Bought { bought: Bought, fees: Msat },
    Local(Local),
}

impl Answer {
    /// Runs here where that is possible and wished, and buys otherwise.
    ///
    /// # Errors
    /// Where the request is outside the protocol's limits.
    pub async fn start(app: &App, order: BuyOrder) -> Result<Self, ApiError> {
        let here = app
            .local(&order.model, matches!(order.work, Work::Embed { .. }))
            .filter(|_| order.host.is_none() && !order.audit);
        if let Some((_, digest)) = here {
            return local(app, &digest, &order);
        }
        let request = super::order::request(app, order).await?;
        let bought = Bought::start(&app.node, request).await;
        Ok(Answer(Source::Bought {
            bought,
            fees: Msat::ZERO,
        }))
    }

    /// The next piece; `None` after the end.
    pub async fn next(&mut self) -> Option<Piece> {
        match &mut self.0 {
            Source::Bought { bought, fees } => bought_piece(bought, fees).await,
            Source::Local(local) => local_piece(local).await,
        }
    }
}

async fn bought_piece(bought: &mut Bought, fees: &mut Msat) -> Option<Piece> {
    loop {
        match bought.next().await? {
            BuyerEvent::Output { text, attached, .. } => {
                return Some(Piece::Text(text, Box::new(attached)));
            }
            BuyerEvent::Paid { fee, .. } => *fees = fees.saturating_add(fee),
            BuyerEvent::Finished { finish, receipt } => {
                return Some(Piece::End(Box::new(Ending {
                    finish,
                    counts: receipt.counts,
                    cost: receipt.cost,
                    fees: *fees,
                    order: Some(receipt.id),
                    host: Some(receipt.host),
                })));
            }
            BuyerEvent::Failed(refusal) => return Some(Piece::Failed(refusal)),
            BuyerEvent::Chosen { .. } | BuyerEvent::Accepted { .. } => {}
        }
    }
}

fn local(app: &App, digest: &ModelDigest, order: &BuyOrder) -> Result<Answer, ApiError> {
    let compute = app.node.compute();
    let context = compute.context(digest);
    let mut job: Job = super::order::job(order, std::iter::empty());
    if order.max_output.is_none() {
        job.max_output = job.max_output.min((context / 4).max(1));
    }
    job.check()
        .map_err(|error| ApiError::new(400, error.to_string(), "shorten the request"))?;
    let facts = compute.count_for(&HERE, digest, &job, &[0; 16])?;
    let output = match job.meter() {
        Meter::Item => 0,
        _ => job.max_output,
    };
    if facts.longest + u64::from(output) > u64::from(context) {
        let text = format!(
            "{} prompt and {output} output tokens do not fit into a context of {context}",
            facts.longest
        );
        return Err(Refusal::new(Code::TooLong, text).into());
    }
    let mut id = [0; 16];
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut id);
    let (order, allowed, meter) = (OrderId(id), job.most_delivered(), job.meter());
    // Whoever may use this gateway may find its earlier prompts computed.
    let rendering = Rendering::new(&job.stop);
    let output = compute.start_for(HERE, order, digest, job, allowed);
    let totals = Counts {
        input_tokens: facts.tokens - facts.cached,
        cached_input_tokens: facts.cached,
        ..Counts::default()
    };
    Ok(Answer(Source::Local(Local {
        node: app.node.clone(),
        order,
        output,
        rendering,
        totals,
        meter,
        ending: None,
        done: false,
    })))
}

async fn local_piece(local: &mut Local) -> Option<Piece> {
    if local.done {
        return local.ending.take().map(Piece::End);
    }
    match local.output.recv().await {
        Some(Output::Tokens {
            tokens,
            finish,
            attached,
        }) => {
            let mut text = String::new();
            for token in &tokens {
                text.push_str(&local.rendering.push(&token.piece));
            }
            if finish.is_some() {
                text.push_str(&local.rendering.finish());
            }
            let delivered = local.totals.delivered() + tokens.len() as u64;
            local.totals = local.totals.with_delivered(local.meter, delivered);
            if let Some(finish) = finish {
                local.done = true;
                local.ending = Some(Box::new(Ending {
                    finish,
                    counts: local.totals,
                    cost: Msat::ZERO,
                    fees: Msat::ZERO,
                    order: None,
                    host: None,
                }));
            }
            Some(Piece::Text(text, Box::new(attached)))
        }
        Some(Output::Failed(reason)) => {
            local.done = true;
            Some(Piece::Failed(Refusal::new(Code::EngineFailed, reason)))
        }
        None => {
            local.done = true;
            Some(Piece::Failed(Refusal::new(
                Code::EngineFailed,
                "the engine ended without a word",
            )))
        }
    }
}
