//! From what a client asks for to a purchase: what was left out is filled in.
//!
//! Not admission and not caps: those are the machines'. The cap on cost is twice
//! what the order can cost at the usual of the listed prices, never more than the operator's cap,
//! and what a client asks for can only lower it.

use super::errors::ApiError;
use super::{App, names};
use crate::calendar;
use crate::config::{KEYLESS, KEYLESS_PER_ORDER};
use crate::control::BuyOrder;
use crate::sats::Sats;
use protocol::ids::RequestId;
use protocol::message::discovery::HostRow;
use protocol::message::inference::{BuyRequest, ModelSelector};
use protocol::message::reputation::Standing;
use protocol::money::{Fees, Msat};
use protocol::wire::manifest::{ModelOffer, Role};
use protocol::wire::order::{Handling, Path};
use protocol::work::{Job, Work};

/// Output tokens where the client names no number: a page of text.
pub const DEFAULT_OUTPUT: u32 = 1_024;
/// How many times the cost at the usual offer the default cap holds: the best offer need not be
/// a usual one.
const HEADROOM: u64 = 2;
/// Tokens that a template adds to a prompt, at most, per message; for estimates alone.
const TEMPLATE_TOKENS: usize = 16;

/// A purchase, and what goes with it here.
pub struct Asked {
    /// For the machine.
    pub request: BuyRequest,
    /// The name that was asked for: what is bought is what it means from then on.
    pub name: Option<String>,
    /// What the user must agree to first.
    pub notice: Option<String>,
}

/// Makes a purchase of an order.
///
/// # Errors
/// Where the job is outside the protocol's limits, or the model's name means another model
/// than before and nobody is asked.
pub async fn request(app: &App, mut order: BuyOrder) -> Result<Asked, ApiError> {
    // Without a list the defaults do: the machine asks Discovery itself.
    let hosts = app.hosts().await.unwrap_or_default();
    let mut offers: Vec<_> = hosts.iter().filter(|row| fits(row, &order)).collect();
    unlisted(&hosts, &order, offers.is_empty())?;
    let (mut name, mut notice) = (None, None);
    if let ModelSelector::Name(named) = &order.model {
        name = Some(named.clone());
        let listed = offers.iter().map(|row| row.model).collect();
        let known = app.known_as(named);
        (order.model, notice) = names::settle(named, known, &listed, order.confirm)?;
        offers = hosts.iter().filter(|row| fits(row, &order)).collect();
    }
    let most = offers.iter().filter_map(|row| most_output(row)).max();
    if let (Some(asked), Some(most)) = (order.max_output, most)
        && asked > most
    {
        return Err(ApiError::parameter(
            "max_tokens",
            format!("max_tokens is {asked}; the hosts of this model allow {most} at most"),
            "ask for fewer",
        ));
    }
    let job = job(&order, offers.iter().filter_map(|row| offer(row)));
    job.check().map_err(|error| {
        ApiError::new(
            400,
            error.to_string(),
            "shorten the request, or lower max_tokens",
        )
    })?;
    // Whoever lists most does not say what is usual where some hosts served this node.
    let rows = |all: bool| {
        let known = move |row: &&&HostRow| all || row.score.standing == Standing::Served;
        let rows = offers.iter().filter(known);
        rows.filter_map(|row| Some((offer(row)?, row.manifest.quantum)))
    };
    let usual = estimate(&job, rows(false)).or_else(|| estimate(&job, rows(true)));
    let max_cost = cap(
        order.max_cost,
        app.gateway.max_cost.map(|cap| cap.0),
        most_of(&order.budget, app.per_order, app.gateway.max_cost.is_some()),
        // The cap holds the routing fees as well.
        usual.map(|cost| Fees::default().cap_for(cost)),
    );
    let request = BuyRequest {
        request: RequestId(0),
        model: order.model,
        job,
        max_cost,
        mode: order.mode,
        path: Path::Fast,
        retention: order.retention,
        handling: Handling::Plain,
        budget: order.budget,
        host: order.host,
        confirm: order.confirm,
        audit: order.audit,
        private: order.private,
    };
    Ok(Asked {
        request,
        name,
        notice,
    })
}

/// Says in time what no host can be asked for: a model that nobody lists, an embedding of a
/// model that makes text. With no listings at all the machine has the better words.
fn unlisted(hosts: &[HostRow], order: &BuyOrder, none_fits: bool) -> Result<(), ApiError> {
    let ModelSelector::Name(name) = &order.model else {
        return Ok(());
    };
    if !none_fits || order.host.is_some() || !hosts.iter().any(sells) {
        return Ok(());
    }
    let listed = hosts
        .iter()
        .any(|row| sells(row) && offer(row).is_some_and(|offer| offer.name == *name));
    let mut error = match (listed, &order.work) {
        (false, _) => ApiError::new(
            404,
            format!("no listed host offers the model {name}"),
            "take one of /v1/models or `freehold hosts`, or `auto`",
        ),
        (true, Work::Embed { .. }) => ApiError::new(
            400,
            format!("{name} makes text, not embeddings"),
            "choose an embedding model",
        ),
        (true, _) => ApiError::new(
            400,
            format!("{name} makes embeddings, not text"),
            "choose a language model",
        ),
    };
    error.body.error.param = Some("model".to_owned());
    error.body.error.code = Some("model_not_found".to_owned());
    Err(error)
}

/// The most for one order of a budget: little where any program of this machine may spend it,
/// unless the operator says how much one request may cost.
fn most_of(budget: &str, per_order: Msat, capped: bool) -> Msat {
    match budget {
        KEYLESS if !capped => per_order.min(Sats::whole(KEYLESS_PER_ORDER).0),
        _ => per_order,
    }
}

/// The cap on one request: what the client names, what the operator allows for a request
/// and for an order, or what the work can cost, whichever is least.
fn cap(
    asked: Option<Msat>,
    gateway: Option<Msat>,
    per_order: Msat,
    estimate: Option<Msat>,
) -> Msat {
    let allowed = gateway.map_or(per_order, |gateway| gateway.min(per_order));
    match (asked, gateway, estimate) {
        (Some(asked), ..) => asked.min(allowed),
        // Named by the operator: what is not used is not spent.
        (None, Some(_), _) | (None, None, None) => allowed,
        (None, None, Some(estimate)) => estimate.min(allowed),
    }
}

/// The most output of one order at a host: a listing has limits for all its models, and
/// each model is bounded by its own context as well.
fn most_output(row: &HostRow) -> Option<u32> {
    let context = offer(row)?.context;
    Some(row.manifest.limits.output_tokens.min(context))
}

/// The offer of a row.
pub fn offer(row: &HostRow) -> Option<&ModelOffer> {
    row.manifest.offer(&row.model)
}

/// Whether a row is of a host: validators list their models as well.
pub fn sells(row: &HostRow) -> bool {
    row.manifest.roles.contains(&Role::Host)
}

fn fits(row: &HostRow, order: &BuyOrder) -> bool {
    let named = match &order.model {
        ModelSelector::Name(name) => offer(row).is_some_and(|offer| offer.name == *name),
        ModelSelector::Digest(digest) => row.model == *digest,
        ModelSelector::Any => true,
    };
    let embeds = matches!(order.work, Work::Embed { .. });
    let kind = offer(row).is_some_and(|offer| offer.embeds() == embeds);
    sells(row) && named && kind && order.host.is_none_or(|host| host == row.manifest.node)
}

/// The job with its defaults: today's date, a random seed, output that fits every offer.
pub fn job<'a>(order: &BuyOrder, offers: impl Iterator<Item = &'a ModelOffer>) -> Job {
    // A quarter of the context is the answer's: most chats have a longer past.
    let smallest = offers.map(|offer| (offer.context / 4).max(1)).min();
    let default = DEFAULT_OUTPUT.min(smallest.unwrap_or(DEFAULT_OUTPUT));
    Job {
        work: order.work.clone(),
        max_output: order.max_output.unwrap_or(default),
        sampling: order.sampling.clone(),
        seed: order
            .seed
            .unwrap_or_else(|| rand::RngCore::next_u64(&mut rand::rngs::OsRng)),
        stop: order.stop.clone(),
        date: calendar::today(),
        steering: order.steering.clone(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

/// Twice what a job can cost at the median of these offers, with a step of payment on top.
/// Absurd listings do not lift it while they are fewer than the others.
pub fn estimate<'a>(job: &Job, rows: impl Iterator<Item = (&'a ModelOffer, Msat)>) -> Option<Msat> {
    let messages = match &job.work {
        Work::Chat { messages } => messages.len() + 1,
        _ => 1,
    };
    let input = (job.text_bytes() + messages * TEMPLATE_TOKENS) as u64;
    let mut costs: Vec<Msat> = rows
        .filter_map(|(offer, quantum)| {
            offer
                .ceiling(input, job.meter(), job.most_delivered())?
                .checked_add(quantum)
        })
        .collect();
    costs.sort_unstable();
    let median = costs.get(costs.len().saturating_sub(1) / 2)?;
    Some(Msat(median.0.saturating_mul(HEADROOM)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::{Digest, ModelDigest};
    use protocol::message::inference::ModelSelector;
    use protocol::money::Prices;
    use protocol::work::ChatMessage;

    fn offer_at(output: u64) -> ModelOffer {
        ModelOffer {
            name: "m".to_owned(),
            digest: ModelDigest([1; 32]),
            tokenizer: Digest([2; 32]),
            template: Digest([3; 32]),
            architecture: "llama".to_owned(),
            quantisation: "Q8_0".to_owned(),
            context: 4_096,
            numerics: None,
            prices: Prices::chat(0, output),
        }
    }

    #[test]
    fn a_client_can_only_lower_the_operators_cap() {
        let (most, gateway) = (Msat(1_000), Some(Msat(100)));
        assert_eq!(cap(Some(Msat(500)), gateway, most, None), Msat(100));
        assert_eq!(cap(Some(Msat(50)), gateway, most, None), Msat(50));
        assert_eq!(cap(Some(Msat(5_000)), None, most, None), Msat(1_000));
        assert_eq!(cap(None, Some(Msat(5_000)), most, None), Msat(1_000));
        assert_eq!(cap(None, None, most, Some(Msat(7))), Msat(7));
    }

    #[test]
    fn an_order_of_a_gateway_without_keys_costs_little() {
        let most = |budget, capped| most_of(budget, Msat(1_000_000), capped);
        assert_eq!(most(KEYLESS, false), Msat(100_000));
        assert_eq!(most_of(KEYLESS, Msat(7), false), Msat(7));
        // The operator said how much; and others have budgets of their own.
        assert_eq!(most(KEYLESS, true), Msat(1_000_000));
        assert_eq!(most("editor", false), Msat(1_000_000));
    }

    #[test]
    fn one_absurd_listing_does_not_lift_the_default_cap() {
        let messages = vec![ChatMessage {
            role: "user".to_owned(),
            content: "hi".to_owned(),
        }];
        let mut order = BuyOrder::new(ModelSelector::Any, Work::Chat { messages }, "gateway");
        order.max_output = Some(100);
        let usual = vec![offer_at(10_000_000); 5];
        let absurd = offer_at(1_000_000_000_000);
        let job = job(&order, usual.iter());
        let cost = |offers: &[ModelOffer]| {
            let rows = offers.iter().map(|offer| (offer, Msat(1_000)));
            estimate(&job, rows)
        };
        // A hundred tokens and a step, twice.
        let fair = Some(Msat(4_000));
        assert_eq!(cost(&usual), fair);
        for (strange, honest) in [(1, 1), (2, 2), (2, 3), (4, 5)] {
            let offers = [vec![absurd.clone(); strange], usual[..honest].to_vec()].concat();
            assert_eq!(cost(&offers), fair, "{strange} beside {honest}");
        }
    }
}
