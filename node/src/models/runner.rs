//! A model that another server runs: from the configuration to a runner and its offer.
//!
//! Not the runner itself (`actors::ports::runner`). The key is read here, from the place
//! that the configuration names, and goes nowhere but to the server.

use super::resolve;
use crate::config::{KeySource, ModelEntry};
use crate::folder::Folder;
use actors::ports::runner::{Runner, RunnerOptions, Vocabulary};
use anyhow::Context;
use protocol::money::Prices;
use protocol::wire::manifest::ModelOffer;
use std::sync::Arc;

/// Longest key file. Bytes. A key is a line.
const MAX_KEY: u64 = 4 << 10;

/// Opens the runner of an entry: reads the model's file where it is named, and looks
/// whether the server is there. Blocks; needs a runtime around it.
///
/// # Errors
/// Where the key or the file cannot be read. A server that is away is no error.
pub fn open(entry: &ModelEntry, folder: &Folder) -> anyhow::Result<Arc<Runner>> {
    let (Some(url), Some(model)) = (&entry.runner, &entry.runner_model) else {
        anyhow::bail!(
            "[[models]] names neither a file nor a server: set `path`, or `runner` and `runner_model`"
        );
    };
    let key = entry.runner_key.as_ref().map(|key| read_key(key, folder));
    let vocabulary = match &entry.tokenizer {
        Some(path) => Some(Arc::new(Vocabulary::open(&resolve(path, folder))?)),
        None => None,
    };
    let file_context = vocabulary
        .as_ref()
        .map_or(0, |vocabulary| vocabulary.context);
    anyhow::ensure!(
        entry.context.is_some() || file_context > 0,
        "the file in `tokenizer` of runner {url} does not say its context: set `context` in [[models]]"
    );
    let options = RunnerOptions {
        url: url.clone(),
        model: model.clone(),
        key: key.transpose()?,
        vocabulary,
        context: entry.context,
    };
    Ok(tokio::runtime::Handle::current().block_on(Runner::start(options))?)
}

fn read_key(key: &KeySource, folder: &Folder) -> anyhow::Result<String> {
    let text = match key {
        KeySource::Plain(key) => key.clone(),
        KeySource::Variable(name) => std::env::var(name).with_context(|| {
            format!("`runner_key` names the variable {name}, which is not set: set it where freehold starts")
        })?,
        KeySource::File(path) => {
            // Beside the node's other secrets, unless it is told where.
            let path = folder.dir().join(path);
            let told = || format!("`runner_key` names the file {}", path.display());
            let size = std::fs::metadata(&path).with_context(told)?.len();
            anyhow::ensure!(size <= MAX_KEY, "{}, which is too long for a key", told());
            std::fs::read_to_string(&path).with_context(told)?
        }
    };
    let text = text.trim();
    anyhow::ensure!(
        !text.is_empty(),
        "`runner_key` is empty: leave it out, or name the key"
    );
    Ok(text.to_owned())
}

/// The offer of a runner's model.
pub(super) fn offer(runner: &Runner, name: String, prices: Prices) -> ModelOffer {
    let info = runner.info().clone();
    ModelOffer {
        name,
        digest: info.digest,
        tokenizer: info.tokenizer,
        template: info.template,
        architecture: info.architecture,
        quantisation: info.quantisation,
        context: info.context,
        numerics: None,
        prices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::wire::manifest::named_model;

    fn entry(text: &str) -> ModelEntry {
        toml::from_str(text).expect("an entry")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_runner_by_name_is_offered_as_what_it_is_though_its_server_is_away() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), " secret \n").unwrap();
        let folder = Folder::new(dir.path());
        let entry = entry(
            "runner = \"http://127.0.0.1:9/v1\"\nrunner_model = \"llama3:8b\"\nrunner_key = \"file:key\"\ncontext = 4096",
        );
        let opened = tokio::task::spawn_blocking(move || open(&entry, &folder));
        let runner = opened.await.unwrap().unwrap();
        assert!(runner.away().is_some());
        let offer = offer(&runner, "llama".to_owned(), Prices::chat(1, 2));
        assert_eq!(offer.digest, named_model("llama3:8b"));
        assert_eq!((offer.context, &offer.numerics), (4096, &None));
        assert_eq!(offer.replay_note(), "runner, not replayable");
    }

    #[test]
    fn a_key_comes_from_where_the_configuration_says_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let read = |key: KeySource| read_key(&key, &folder);
        assert_eq!(read(KeySource::Plain("k".to_owned())).unwrap(), "k");
        let missing = read(KeySource::File("none".into())).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
        let missing = read(KeySource::Variable("FREEHOLD_NO_SUCH_KEY".to_owned())).unwrap_err();
        assert!(missing.to_string().contains("is not set"), "{missing}");
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        assert!(read(KeySource::File("empty".into())).is_err());
    }
}
