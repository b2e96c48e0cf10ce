//! The models of this machine: opened from the configuration, and described. Among them
//! those that another server runs ([`runner`]).
//!
//! Not prices of others. Used at a node's start, by `freehold models` and by
//! `freehold replay`.

use crate::config::{Config, ModelEntry, POCKET};
use crate::control::ModelRow;
use crate::folder::Folder;
use crate::sats::Sats;
use crate::service::models::engines;
use actors::ports::compute::context_within;
use actors::ports::runner::Runner;
use kernels::{Cheat, Model, OpenOptions};
use protocol::ids::{Digest, ModelDigest};
use protocol::message::inference::Served;
use protocol::money::{Meter, Prices};
use protocol::wire::manifest::{HostLimits, ModelOffer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod runner;

/// How long a model is measured at a node's start.
const MEASURE: Duration = Duration::from_millis(300);
/// Prompt tokens and output tokens it is measured with.
const MEASURE_TOKENS: usize = 32;

/// A model that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("model {}: {source}; check the `path` in [[models]]", path.display())]
pub struct ModelError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: kernels::LoadError,
}

/// What computes a model's answers.
#[derive(Debug, Clone)]
pub enum Source {
    /// Our engine.
    Engine(Model),
    /// A server of another make.
    Runner(Arc<Runner>),
}

/// An opened model with what the configuration says of it.
#[derive(Debug, Clone)]
pub struct LocalModel {
    /// What computes it.
    pub source: Source,
    /// Name in the listing.
    pub name: String,
    /// Prices if it is sold.
    pub prices: Prices,
}

impl LocalModel {
    /// Its digest.
    pub fn digest(&self) -> ModelDigest {
        match &self.source {
            Source::Engine(model) => ModelDigest(model.digest()),
            Source::Runner(runner) => runner.info().digest,
        }
    }

    /// Whether answers can be computed again here.
    pub fn can_replay(&self) -> bool {
        matches!(self.source, Source::Engine(_))
    }

    /// The offer for a listing.
    pub fn offer(&self) -> ModelOffer {
        let model = match &self.source {
            Source::Engine(model) => model,
            Source::Runner(runner) => {
                return runner::offer(runner, self.name.clone(), self.prices.clone());
            }
        };
        let info = model.info();
        ModelOffer {
            name: self.name.clone(),
            digest: self.digest(),
            tokenizer: Digest(info.tokenizer_digest),
            template: Digest(info.template_digest),
            architecture: info.architecture.clone(),
            quantisation: info.quantisation.clone(),
            context: info.context,
            numerics: info.numerics.clone(),
            prices: self.prices.clone(),
        }
    }

    /// The offer with the limits per order.
    pub fn served(&self, config: &Config) -> Served {
        let (mut offer, host) = (self.offer(), &config.host);
        if let Source::Engine(model) = &self.source {
            // Nothing is sold that the memory for keys and values does not hold.
            offer.context = context_within(model, &engines(host));
        }
        let limits = HostLimits {
            concurrent_orders: host.concurrent_orders,
            queued_orders: host.queued_orders,
            prompt_tokens: host.prompt_tokens.min(offer.context),
            output_tokens: host.output_tokens.min(offer.context),
        };
        Served { offer, limits }
    }

    /// Measures decoding; tokens a second. Takes `MEASURE`. A runner is not measured: its
    /// server may charge for it.
    pub fn measure(&self) -> f64 {
        let Source::Engine(model) = &self.source else {
            return 0.0;
        };
        kernels::bench::model(model, MEASURE_TOKENS, MEASURE_TOKENS, MEASURE)
            .map_or(0.0, |speed| speed.decode_tokens_per_second)
    }

    /// A row for tables.
    pub fn row(&self, tokens_per_s: f64) -> ModelRow {
        let offer = self.offer();
        let (parameters, runner) = match &self.source {
            Source::Engine(model) => (model.info().parameters, None),
            Source::Runner(runner) => (runner.info().parameters, Some(runner.url().to_owned())),
        };
        ModelRow {
            name: offer.name,
            digest: offer.digest,
            architecture: offer.architecture,
            quantisation: offer.quantisation,
            parameters,
            context: offer.context,
            numerics: offer.numerics,
            prices: offer.prices,
            decode_milli_tokens_per_s: (tokens_per_s * 1_000.0) as u64,
            runner,
        }
    }
}

/// Opens one model. Blocks while the file is read and hashed.
///
/// # Errors
/// Where it is not a model that this engine runs.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Model, ModelError> {
    // The digest is wanted at once and the speed is measured: one pass does for all.
    let options = OpenOptions {
        at_once: true,
        ..options.clone()
    };
    let opened = if path == Path::new(POCKET) {
        Model::from_bytes(kernels::pocket::pocket(), &options)
    } else {
        Model::open(path, &options)
    };
    opened.map_err(|source| ModelError {
        path: path.to_owned(),
        source,
    })
}

/// What a model is sold for: text by the token, embeddings by their tokens and the item.
fn prices(entry: &ModelEntry, config: &Config, embeds: bool) -> Prices {
    let host = &config.host;
    let msat = |own: Option<Sats>, default: Sats| own.unwrap_or(default).0.0;
    let input = msat(entry.input_price, host.input_price);
    if embeds {
        let item = msat(entry.item_price, host.item_price);
        return Prices::default()
            .with(Meter::InputToken, input)
            .with(Meter::Item, item);
    }
    let cached = entry.cached_input_price.or(host.cached_input_price);
    Prices::chat(input, msat(entry.output_price, host.output_price)).with(
        Meter::CachedInputToken,
        cached.map_or(input / 4, |sats| sats.0.0).min(input),
    )
}

/// Opens one model of the configuration. `cheat` damages it on purpose. Blocks; call it
/// from a blocking thread of a runtime, which a runner then uses.
///
/// # Errors
/// As [`open`], and what [`runner::open`] says.
pub fn open_entry(
    entry: &ModelEntry,
    config: &Config,
    folder: &Folder,
    cheat: Option<Cheat>,
) -> anyhow::Result<LocalModel> {
    let Some(path) = &entry.path else {
        let runner = runner::open(entry, folder)?;
        let name = entry.name.clone();
        return Ok(LocalModel {
            name: name.unwrap_or_else(|| runner.info().name.clone()),
            source: Source::Runner(runner),
            // Whether another server found a prompt computed is not known.
            prices: prices(entry, config, false).without(Meter::CachedInputToken),
        });
    };
    let options = OpenOptions {
        threads: config.host.threads,
        cheat,
        ..OpenOptions::default()
    };
    let model = open(&resolve(path, folder), &options)?;
    let prices = prices(entry, config, model.is_encoder());
    let default = if path == Path::new(POCKET) {
        POCKET
    } else {
        &model.info().name
    };
    let name = entry.name.clone().unwrap_or_else(|| default.to_owned());
    Ok(LocalModel {
        source: Source::Engine(model),
        name,
        prices,
    })
}

/// A relative path is looked for in `models/` first.
fn resolve(path: &Path, folder: &Folder) -> PathBuf {
    if path == Path::new(POCKET) || path.is_absolute() {
        return path.to_owned();
    }
    let stored = folder.models_path().join(path);
    if stored.exists() {
        stored
    } else {
        path.to_owned()
    }
}
