//! A purchase or a local run, as one stream that stops itself when it is dropped.
//!
//! A client that goes away has stopped: what was delivered is paid, nothing more
//! is bought. What still happens afterwards is read to the end in the background. So has
//! one that stays and does not read: the system's buffers would hide it otherwise, and its
//! answer would be bought to the end.

use super::App;
use super::errors::ApiError;
use super::names::Names;
use super::order::Asked;
use super::places::{self, Places};
use crate::control::BuyOrder;
use actors::node::{Node, Purchase};
use actors::ports::compute::{Output, Owner};
use protocol::ids::{ModelDigest, NodeKey, OrderId, RequestId};
use protocol::message::inference::BuyerEvent;
use protocol::money::{Counts, Meter, Msat};
use protocol::refusal::{Code, Refusal};
use protocol::wire::attached::Attached;
use protocol::wire::order::Finish;
use protocol::wire::text::Rendering;
use protocol::work::{Job, Work};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

/// Events that may wait for a client; one that takes none of so many is watched.
const BEHIND_MAX: usize = 32;
/// How long a client may then take none before nothing more is bought for it.
const PATIENCE: Duration = Duration::from_secs(3);

/// A purchase whose client may go away, or not read.
pub struct Bought {
    request: RequestId,
    events: mpsc::Receiver<BuyerEvent>,
    stalled: Arc<AtomicBool>,
    ended: bool,
}

impl Bought {
    /// Buys. One that nobody confirms waits for a place with the host that was chosen.
    pub async fn start(app: &App, asked: Asked) -> Self {
        let Asked {
            mut request, name, ..
        } = asked;
        let places = (!request.confirm).then(|| app.places.clone());
        request.confirm = true;
        let node = app.node.clone();
        let Purchase { request, events } = node.buy(request).await;
        let (client, receiver) = mpsc::channel(BEHIND_MAX);
        let stalled = Arc::new(AtomicBool::new(false));
        let handing = Handing {
            node,
            request,
            events,
            places,
            naming: Naming {
                names: app.names.clone(),
                name,
                chosen: None,
            },
        };
        tokio::spawn(handing.run(client, stalled.clone()));
        Bought {
            request,
            events: receiver,
            stalled,
            ended: false,
        }
    }

    /// Its number.
    pub fn request(&self) -> u64 {
        self.request.0
    }

    /// The next event; `None` after the end.
    pub async fn next(&mut self) -> Option<BuyerEvent> {
        if self.ended {
            return None;
        }
        let event = match self.events.recv().await {
            None if self.stalled.load(Ordering::Relaxed) => Some(BuyerEvent::Failed(stalled())),
            event => event,
        };
        self.ended = matches!(
            event,
            None | Some(BuyerEvent::Finished { .. } | BuyerEvent::Failed(_))
        );
        event
    }
}

fn stalled() -> Refusal {
    Refusal::new(
        Code::Cancelled,
        format!(
            "the client took nothing for {} s: what was delivered is paid, nothing more was bought",
            PATIENCE.as_secs()
        ),
    )
}

/// The events of one purchase on their way to its client.
struct Handing {
    node: Node,
    request: RequestId,
    events: mpsc::Receiver<BuyerEvent>,
    /// Where places are taken, if nobody else confirms the choice.
    places: Option<Arc<Places>>,
    naming: Naming,
}

/// Remembers what was bought under a name.
struct Naming {
    names: Arc<Names>,
    name: Option<String>,
    /// The model of the host that was chosen last.
    chosen: Option<ModelDigest>,
}

impl Naming {
    fn see(&mut self, event: &BuyerEvent) {
        match event {
            BuyerEvent::Chosen { candidate, .. } => self.chosen = Some(candidate.offer.digest),
            BuyerEvent::Finished { .. } => {
                let (Some(name), Some(digest)) = (self.name.take(), self.chosen) else {
                    return;
                };
                let names = self.names.clone();
                // Writes a file.
                tokio::task::spawn_blocking(move || names.remember(&name, digest));
            }
            _ => {}
        }
    }
}

impl Handing {
    async fn run(mut self, client: mpsc::Sender<BuyerEvent>, stalled: Arc<AtomicBool>) {
        // Of the host that was chosen last.
        let mut place = None;
        loop {
            let see = |event: &BuyerEvent| self.naming.see(event);
            match hand_on(&mut self.events, &client, PATIENCE, see).await {
                Handed::Choice(host) => {
                    drop(place.take());
                    let Some(places) = &self.places else { continue };
                    tokio::select! {
                        taken = places.take(host, places::PATIENCE) => place = taken,
                        () = client.closed() => break,
                    }
                    if place.is_none() {
                        // A client that is gone by now has stopped as well.
                        let _ = client.send(BuyerEvent::Failed(crowded())).await;
                        break;
                    }
                    self.node.confirm(self.request).await;
                }
                Handed::All => return,
                Handed::Gone => break,
                Handed::Stalled => {
                    stalled.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        drop(client);
        self.node.stop(self.request).await;
        while let Some(event) = self.events.recv().await {
            self.naming.see(&event);
        }
    }
}

fn crowded() -> Refusal {
    let text = "this node has as many orders with the host as it takes, and none of them ended";
    let mut refusal = Refusal::new(Code::Busy, text);
    refusal.retry_after_ms = Some(super::BUSY_RETRY_MS);
    refusal
}

/// Why handing on paused or ended.
#[derive(Debug, PartialEq, Eq)]
enum Handed {
    /// A host was chosen, and the client was told.
    Choice(NodeKey),
    /// There are no more events.
    All,
    /// The client went away.
    Gone,
    /// The client is there, and does not read.
    Stalled,
}

/// Hands events on while the client takes them, up to the choice of a host.
async fn hand_on(
    events: &mut mpsc::Receiver<BuyerEvent>,
    client: &mpsc::Sender<BuyerEvent>,
    patience: Duration,
    mut see: impl FnMut(&BuyerEvent),
) -> Handed {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = client.closed() => return Handed::Gone,
        };
        let Some(event) = event else {
            return Handed::All;
        };
        see(&event);
        let chosen = match &event {
            BuyerEvent::Chosen { candidate, .. } => Some(candidate.host),
            _ => None,
        };
        match client.send_timeout(event, patience).await {
            Ok(()) => {}
            Err(SendTimeoutError::Closed(_)) => return Handed::Gone,
            Err(SendTimeoutError::Timeout(_)) => return Handed::Stalled,
        }
        if let Some(host) = chosen {
            return Handed::Choice(host);
        }
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
            .filter(|_| app.gateway.local_first && order.host.is_none() && !order.audit);
        if let Some((_, digest)) = here {
            return local(app, digest, &order).await;
        }
        let asked = super::order::request(app, order).await?;
        let bought = Bought::start(app, asked).await;
        Ok(Answer(Source::Bought {
            bought,
            fees: Msat::ZERO,
        }))
    }

    /// Runs on this machine.
    ///
    /// # Errors
    /// Where the model is not here, or the request is outside its limits.
    pub async fn here(app: &App, order: &BuyOrder) -> Result<Self, ApiError> {
        let embeds = matches!(order.work, Work::Embed { .. });
        let (_, digest) = app.local(&order.model, embeds).ok_or_else(|| {
            ApiError::new(
                404,
                "no such model is on this machine",
                "see `freehold models`",
            )
        })?;
        local(app, digest, order).await
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
            BuyerEvent::Chosen { .. }
            | BuyerEvent::Accepted { .. }
            | BuyerEvent::InputCounted { .. } => {}
        }
    }
}

async fn local(app: &App, digest: ModelDigest, order: &BuyOrder) -> Result<Answer, ApiError> {
    let compute = app.node.compute().clone();
    let context = compute.context(&digest);
    let mut job: Job = super::order::job(order, std::iter::empty());
    if order.max_output.is_none() {
        job.max_output = job.max_output.min((context / 4).max(1));
    }
    job.check()
        .map_err(|error| ApiError::new(400, error.to_string(), "shorten the request"))?;
    // A long prompt or a grammar takes a core for seconds: a few at once, and never on the
    // threads that everything else runs on.
    let place = app.counting.acquire().await.ok();
    let (counter, counted) = (compute.clone(), job.clone());
    let counting =
        tokio::task::spawn_blocking(move || counter.count_for(&HERE, &digest, &counted, &[0; 16]));
    let facts = counting.await.map_err(|_| {
        let text = "the tokenizer failed on this prompt";
        ApiError::from(Refusal::new(Code::EngineFailed, text))
    })??;
    drop(place);
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
    let output = compute.start_for(HERE, order, &digest, job, allowed);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn paid(seq: usize) -> BuyerEvent {
        BuyerEvent::Paid {
            seq: u32::try_from(seq).unwrap(),
            hash: protocol::ids::PaymentHash([0; 32]),
            msat: Msat(1),
            fee: Msat::ZERO,
            ms: 1,
        }
    }

    #[tokio::test]
    async fn nothing_more_is_bought_for_a_client_that_does_not_read() {
        let (sender, mut events) = mpsc::channel(BEHIND_MAX + 1);
        for seq in 0..=BEHIND_MAX {
            sender.try_send(paid(seq)).unwrap();
        }
        let (client, mut taken) = mpsc::channel(BEHIND_MAX);
        let handed = hand_on(&mut events, &client, Duration::ZERO, |_| {}).await;
        assert_eq!(handed, Handed::Stalled);
        // What was handed on before is still there for it.
        let mut left = 0;
        while taken.try_recv().is_ok() {
            left += 1;
        }
        assert_eq!(left, BEHIND_MAX);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_stops_at_once_also_while_nothing_happens() {
        let (_sender, mut events) = mpsc::channel(1);
        let (client, taken) = mpsc::channel(1);
        drop(taken);
        let handed = hand_on(&mut events, &client, PATIENCE, |_| {}).await;
        assert_eq!(handed, Handed::Gone);
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_everything() {
        let (sender, mut events) = mpsc::channel(8);
        let (client, mut taken) = mpsc::channel(1);
        for seq in 0..8 {
            sender.try_send(paid(seq)).unwrap();
        }
        drop(sender);
        let handing = async {
            let handed = hand_on(&mut events, &client, PATIENCE, |_| {}).await;
            drop(client);
            handed
        };
        let reading = async {
            let mut count = 0;
            while taken.recv().await.is_some() {
                count += 1;
            }
            count
        };
        assert_eq!(tokio::join!(handing, reading), (Handed::All, 8));
    }
}
