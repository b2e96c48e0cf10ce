//! Starts the models of a node: opens each, measures it, and hands it to the engine.
//!
//! Needs neither network nor wallet. Not the offers' prices: those are `crate::models`'.

use super::Say;
use crate::config::{Config, Host, ModelEntry, POCKET};
use crate::control::ModelRow;
use crate::folder::Folder;
use crate::models::{self, LocalModel, Source};
use actors::ports::compute::Compute;
use anyhow::Context;
use kernels::{Cheat, EngineOptions};
use std::path::Path;
use std::time::Duration;

/// The models that are loaded, and their rows for tables.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What can be computed, and sold.
    pub models: Vec<LocalModel>,
    /// One row for each.
    pub rows: Vec<ModelRow>,
}

/// How to load models.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Damage them on purpose.
    pub cheat: Option<Cheat>,
    /// Measure their speed, for listings and tables; takes a moment for each.
    pub measure: bool,
}

/// An engine port with the bounds of the settings, without models.
pub fn compute(host: &Host) -> Compute {
    Compute::new()
        .with_pace(pace(host.pace))
        .with_engines(engines(host))
}

/// Loads `entries` of `[[models]]`.
///
/// # Errors
/// The first one that cannot be opened, or stands there twice.
pub async fn load(
    entries: &[ModelEntry],
    config: &Config,
    folder: &Folder,
    compute: &Compute,
    options: LoadOptions,
    say: Say<'_>,
) -> anyhow::Result<Loaded> {
    let mut loaded = Loaded::default();
    for entry in entries {
        let (entry, config, folder) = (entry.clone(), config.clone(), folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let model = models::open_entry(&entry, &config, &folder, options.cheat)?;
            let speed = match options.measure {
                true => model.measure(),
                false => 0.0,
            };
            anyhow::Ok((model, speed))
        });
        let (model, speed) = opened.await.context("a model could not be loaded")??;
        // The engine and a server, or two servers, cannot be told apart by their digest.
        anyhow::ensure!(
            loaded
                .models
                .iter()
                .all(|other| other.digest() != model.digest()),
            "{} is in [[models]] twice, by its digest {}: remove one",
            model.name,
            model.digest().short()
        );
        let how = offer_to(compute, &model, speed);
        let digest = model.digest();
        say("model", &format!("{} {} {how}", model.name, digest.short()));
        loaded.rows.push(model.row(speed));
        loaded.models.push(model);
    }
    Ok(loaded)
}

/// The entries that may be the model called `name` (a name or a digest): a file's own name
/// and digest are known only once it was opened.
pub fn candidates(entries: &[ModelEntry], name: Option<&str>) -> Vec<ModelEntry> {
    let may_be = |entry: &&ModelEntry| {
        let Some(wanted) = name else { return true };
        let is_digest = wanted.parse::<protocol::ids::ModelDigest>().is_ok();
        match (&entry.name, &entry.path) {
            _ if is_digest => true,
            (Some(own), _) => own == wanted,
            (None, Some(path)) if path == Path::new(POCKET) => wanted == POCKET,
            (None, _) => true,
        }
    };
    entries.iter().filter(may_be).cloned().collect()
}

/// Bounds of each model's engine. What is sold is bounded by the order machines; the engine
/// has places beyond it for what runs here for nothing and for replays.
fn engines(host: &Host) -> EngineOptions {
    let places = EngineOptions::default();
    let own = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    EngineOptions {
        cache_bytes: host.cache_mib.saturating_mul(1 << 20),
        streams: places.streams.saturating_add(own(host.concurrent_orders)),
        queue: places.queue.saturating_add(own(host.queued_orders)),
        ..places
    }
}

fn pace(tokens_per_s: u32) -> Option<Duration> {
    (tokens_per_s > 0).then(|| Duration::from_secs(1) / tokens_per_s)
}

/// Makes a model available, and says in what state it is.
fn offer_to(compute: &Compute, model: &LocalModel, speed: f64) -> String {
    match &model.source {
        Source::Engine(engine) => {
            compute.add(engine.clone());
            match speed > 0.0 {
                true => format!("{speed:.0} tokens/s"),
                false => "loaded".to_owned(),
            }
        }
        Source::Runner(runner) => {
            compute.runners().add(runner.clone());
            match runner.away() {
                None => format!("at {} (runner, not replayable)", runner.url()),
                Some(why) => format!(
                    "at {}, which is away: {why}; orders are refused until it is back",
                    runner.url()
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<ModelEntry> {
        let config = Config::parse(text, Path::new("freehold.toml")).unwrap();
        config.models
    }

    #[test]
    fn only_models_that_may_have_the_wanted_name_are_opened() {
        let all = entries(
            "[[models]]\npath = \"pocket\"\n[[models]]\npath = \"a.gguf\"\n[[models]]\npath = \"b.gguf\"\nname = \"big\"",
        );
        let count = |name| candidates(&all, name).len();
        assert_eq!(count(None), 3);
        assert_eq!(count(Some("pocket")), 2, "a.gguf may call itself pocket");
        assert_eq!(count(Some("big")), 2);
        assert_eq!(count(Some(&"0".repeat(64))), 3);
    }
}
