//! What a node offers: the models of its settings whose engines answer.
//!
//! - Told to Inference, which takes orders for them, and to Discovery, which lists them.
//! - [`Offers::attend`], one task per node, looks whether an engine broke. Its model is then neither
//!   sold nor listed until it is added anew; with the last one the listing is withdrawn.

use crate::ports::compute::Compute;
use crate::shell::Shared;
use protocol::ids::ModelDigest;
use protocol::message;
use protocol::message::inference::Served;
use protocol::wire::manifest::{HostLimits, Manifest};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How often it is looked whether every engine still answers. Until then the orders that a broken
/// one gets are refused one by one.
const ENGINE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The offers of one node.
pub(super) struct Offers {
    shared: Shared,
    compute: Compute,
    /// Models of the settings.
    models: Vec<Served>,
    /// Whether orders are taken for them; a validator only lists them.
    sells: bool,
    /// The listing but for its models; none: this node is not listed.
    listing: Option<Manifest>,
    /// Models that are left out, as was told last. Locked while it is told.
    left_out: Mutex<Vec<ModelDigest>>,
    /// Nothing is offered any more.
    closed: watch::Sender<bool>,
}

impl Offers {
    /// Offers `models` from the first [`Self::tell`] on.
    pub fn new(
        shared: Shared,
        compute: Compute,
        models: Vec<Served>,
        sells: bool,
        listing: Option<Manifest>,
    ) -> Arc<Self> {
        Arc::new(Offers {
            shared,
            compute,
            models,
            sells,
            listing,
            left_out: Mutex::default(),
            closed: watch::Sender::new(false),
        })
    }

    /// Tells what is offered.
    pub async fn tell(&self) {
        self.tell_without(&self.left_out.lock().await).await;
    }

    /// Withdraws the listing, for good.
    pub async fn withdraw(&self) {
        self.closed.send_replace(true);
        // Whatever is being told comes before it.
        let _told = self.left_out.lock().await;
        let withdraw = message::discovery::Input::Withdraw;
        self.shared.send(withdraw).await;
    }

    /// Looks after the engines until the listing is withdrawn, or the offers are gone.
    pub fn attend(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let (offers, mut closed) = (Arc::downgrade(self), self.closed.subscribe());
        async move {
            let mut poll = tokio::time::interval(ENGINE_POLL_INTERVAL);
            loop {
                tokio::select! {
                    _ = closed.changed() => return,
                    _ = poll.tick() => {}
                }
                let Some(offers) = offers.upgrade() else {
                    return;
                };
                offers.look().await;
            }
        }
    }

    /// Offers what has changed since the last time.
    async fn look(&self) {
        let mut left_out = self.left_out.lock().await;
        let Some(broken) = self.broken().await else {
            return;
        };
        let now: Vec<ModelDigest> = broken.iter().map(|(model, _)| *model).collect();
        if *self.closed.borrow() || now == *left_out {
            return;
        }
        for model in &self.models {
            let (name, digest) = (&model.offer.name, &model.offer.digest);
            let before = left_out.contains(digest);
            match broken.iter().find(|(model, _)| model == digest) {
                Some((_, why)) if !before => tracing::error!(
                    "{name} is no longer sold and listed, its engine broke: {why}. Restart the node"
                ),
                None if before => tracing::info!("{name} is sold and listed again"),
                _ => {}
            }
        }
        *left_out = now;
        self.tell_without(&left_out).await;
    }

    /// Models whose engines broke, with the reason; `None` where nobody could look.
    async fn broken(&self) -> Option<Vec<(ModelDigest, String)>> {
        let compute = self.compute.clone();
        let models: Vec<ModelDigest> = self.models.iter().map(|m| m.offer.digest).collect();
        let look = move || {
            let broken = models.into_iter();
            broken
                .filter_map(|model| Some((model, compute.broken(&model)?)))
                .collect()
        };
        // It looks at files.
        tokio::task::spawn_blocking(look).await.ok()
    }

    async fn tell_without(&self, left_out: &[ModelDigest]) {
        let whole = |model: &&Served| !left_out.contains(&model.offer.digest);
        let models: Vec<Served> = self.models.iter().filter(whole).cloned().collect();
        let sold = match self.sells {
            true => models.clone(),
            false => Vec::new(),
        };
        let serve = message::inference::Input::Serve(sold);
        self.shared.send(serve).await;
        let Some(listing) = &self.listing else {
            return;
        };
        let input = if models.is_empty() && !left_out.is_empty() {
            message::discovery::Input::Withdraw
        } else {
            message::discovery::Input::Announce(Box::new(Manifest {
                limits: listed_limits(models.iter().map(|model| model.limits)),
                models: models.into_iter().map(|model| model.offer).collect(),
                ..listing.clone()
            }))
        };
        self.shared.send(input).await;
    }
}

/// The limits that a listing shows for all its models: the largest of each. A buyer bounds
/// them by the context of the model that it asks for, and the host by that model's own.
fn listed_limits(models: impl Iterator<Item = HostLimits>) -> HostLimits {
    models.fold(NO_LIMITS, |most, one| HostLimits {
        concurrent_orders: most.concurrent_orders.max(one.concurrent_orders),
        queued_orders: most.queued_orders.max(one.queued_orders),
        prompt_tokens: most.prompt_tokens.max(one.prompt_tokens),
        output_tokens: most.output_tokens.max(one.output_tokens),
    })
}

/// Of a listing without models.
pub(super) const NO_LIMITS: HostLimits = HostLimits {
    concurrent_orders: 0,
    queued_orders: 0,
    prompt_tokens: 0,
    output_tokens: 0,
};

#[cfg(test)]
mod tests;
