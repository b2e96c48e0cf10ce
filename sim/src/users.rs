//! People: they want answers at random times, agree, stop, cancel, and try again.
//!
//! Not clients of the API: what they ask for goes straight to Inference.

use crate::dice::Dice;
use crate::node::models;
use protocol::ids::{NodeKey, OrderId, RequestId};
use protocol::message::inference::{BuyRequest, ModelSelector};
use protocol::money::Msat;
use protocol::refusal::Code;
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Handling, Path, Retention};
use protocol::work::{ChatMessage, Job, Sampling, Work};

/// How a purchase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a receipt.
    Finished,
    /// With a refusal.
    Failed(Code),
    /// The node crashed.
    Crashed,
}

/// One purchase.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// In which run.
    pub epoch: u32,
    /// How it is paid.
    pub mode: PaymentMode,
    /// The order it became, the last one.
    pub order: Option<OrderId>,
    /// The host that was chosen, the last one.
    pub host: Option<NodeKey>,
    /// Its end.
    pub end: Option<End>,
    /// Which attempt of the same wish, counted from 0; healed wishes are tried again.
    pub tries: u32,
    /// World time of the wish.
    pub since: u64,
    /// Part of the healed phase.
    pub healed: bool,
}

/// One in so many purchases is paid before, and as many after it.
const ONE_MODE: usize = 5;
/// Purchases, per million, that are paid after they were served and ask only the host that
/// served the last one: it may give credit for them.
const SAME_HOST_PPM: u32 = 750_000;

/// Draws a purchase. `served`: the host that served the last one.
pub fn draw(
    dice: &mut Dice,
    request: RequestId,
    healed: bool,
    served: Option<NodeKey>,
) -> BuyRequest {
    let mode = match (dice.below(ONE_MODE), served) {
        (0, _) if !healed => PaymentMode::Before,
        (1, Some(_)) if !healed => PaymentMode::After,
        _ => PaymentMode::Metered,
    };
    let after = mode == PaymentMode::After;
    let host = served.filter(|_| after && dice.chance(SAME_HOST_PPM));
    // Credit reaches for little.
    let words = dice.between(4, if after { 10 } else { 40 });
    let text: String = (0..words)
        .map(|n| format!("word{} ", (n * 7 + words) % 50))
        .collect();
    let agent = dice.chance(300_000);
    let by_name = dice.chance(300_000);
    let kind = dice.below(10);
    let embeds = !healed && kind == 0;
    let model = models()[if embeds { 2 } else { dice.below(2) }];
    let work = match kind {
        0 if embeds => Work::Embed {
            texts: (0..dice.between(1, 12)).map(|_| text.clone()).collect(),
        },
        1..4 => Work::Chat {
            messages: vec![ChatMessage {
                role: "user".to_owned(),
                content: text,
            }],
        },
        _ => Work::Complete { prompt: text },
    };
    let most = match (after, dice.chance(50_000)) {
        (true, _) => 12,
        (false, true) => 900,
        (false, false) => 160,
    };
    BuyRequest {
        request,
        model: match (healed || host.is_some() && !embeds, by_name) {
            (true, _) => ModelSelector::Any,
            (false, true) => ModelSelector::Name(format!("model-{}", model.short())),
            (false, false) => ModelSelector::Digest(model),
        },
        job: Job {
            work,
            max_output: u32::try_from(dice.between(4, most)).unwrap_or(4),
            sampling: Sampling::default(),
            seed: dice.between(0, u64::MAX - 1),
            stop: Vec::new(),
            date: "2026-01-15".to_owned(),
            steering: Default::default(),
            prefix: Vec::new(),
            extensions: Vec::new(),
        },
        max_cost: Msat(if healed {
            60_000
        } else {
            dice.between(2, 40) * 1_000
        }),
        mode,
        path: Path::Fast,
        retention: Retention::Keep,
        handling: Handling::Plain,
        budget: if agent && !healed { "agent" } else { "cli" }.to_owned(),
        host,
        confirm: dice.chance(100_000),
        audit: dice.chance(300_000),
        private: dice.chance(100_000),
    }
}
