//! Which model a name meant when it was last bought here.
//!
//! Anybody may list any model under any name. So a name that this node knows stays with its
//! digest: other models that are listed under it are not bought, unless the user is told and
//! agrees. Known is what a model file of this machine is called, and what was bought by name
//! before; what a host calls the model of an order that named a digest, or none, is not. The
//! first purchase under a name takes the best offer, whoever made it.

use super::App;
use super::errors::ApiError;
use parking_lot::Mutex;
use protocol::ids::ModelDigest;
use protocol::message::inference::ModelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Names that are remembered; those of more are new each time.
const KNOWN_MAX: usize = 4_096;

/// Names that were bought by, and what they meant.
#[derive(Debug, Default)]
pub struct Names {
    /// Where they are kept; `None`: nowhere.
    file: Option<PathBuf>,
    known: Mutex<BTreeMap<String, ModelDigest>>,
}

impl Names {
    /// Reads the names of a file, if there is one.
    pub fn open(file: PathBuf) -> Self {
        let read = || serde_json::from_slice(&std::fs::read(&file).ok()?).ok();
        let known = read().unwrap_or_else(|| {
            if file.exists() {
                tracing::warn!(
                    file = %file.display(),
                    "cannot be read: every name of a model is new again"
                );
            }
            BTreeMap::new()
        });
        Names {
            file: Some(file),
            known: Mutex::new(known),
        }
    }

    /// What a name meant when it was last bought.
    pub fn of(&self, name: &str) -> Option<ModelDigest> {
        self.known.lock().get(name).copied()
    }

    /// Remembers what was bought under a name. Blocks while it is written.
    pub fn remember(&self, name: &str, digest: ModelDigest) {
        let mut known = self.known.lock();
        if known.get(name) == Some(&digest) || known.len() >= KNOWN_MAX && !known.contains_key(name)
        {
            return;
        }
        known.insert(name.to_owned(), digest);
        let Some(file) = &self.file else { return };
        let json = serde_json::to_vec_pretty(&*known).unwrap_or_default();
        if let Err(error) = crate::folder::write_secret(file, &json) {
            tracing::warn!(%error, "the name of a model is not remembered");
        }
    }
}

/// What a name is bought as.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Whatever is listed under it: nothing is known of it.
    New,
    /// The model that it meant before.
    Same(ModelDigest),
    /// It meant this one, which nobody lists under it now; others are.
    Moved(ModelDigest),
}

/// What a name means now, from what it meant and the models that are listed under it.
pub fn meaning(known: Option<ModelDigest>, listed: &BTreeSet<ModelDigest>) -> Meaning {
    match known {
        None => Meaning::New,
        Some(known) if listed.is_empty() || listed.contains(&known) => Meaning::Same(known),
        Some(known) => Meaning::Moved(known),
    }
}

/// The selector to buy by in place of `name`, and what the user must agree to first.
///
/// # Errors
/// HTTP 409 where the name has moved to another model and nobody is asked (`asks` is false).
pub fn settle(
    name: &str,
    known: Option<ModelDigest>,
    listed: &BTreeSet<ModelDigest>,
    asks: bool,
) -> Result<(ModelSelector, Option<String>), ApiError> {
    let by_name = ModelSelector::Name(name.to_owned());
    let before = match meaning(known, listed) {
        Meaning::New => return Ok((by_name, None)),
        Meaning::Same(digest) => return Ok((ModelSelector::Digest(digest), None)),
        Meaning::Moved(before) => before,
    };
    let now: Vec<String> = listed.iter().map(ToString::to_string).collect();
    let now = now.join(", ");
    let what = format!(
        "{name} is the name of another model than before: here it meant {before}, and hosts now list {now} under it"
    );
    if asks {
        return Ok((by_name, Some(what)));
    }
    let fix = format!(
        "ask for a model by its digest, or run `freehold ask --model {name}` once and agree to the other model"
    );
    let mut error = ApiError::new(409, what, fix);
    error.body.error.param = Some("model".to_owned());
    error.body.error.code = Some("model_moved".to_owned());
    Err(error)
}

impl App {
    /// What a name means here: a model file of this machine, or what was bought under it.
    pub(super) fn known_as(&self, name: &str) -> Option<ModelDigest> {
        let here = self.local(&ModelSelector::Name(name.to_owned()), false);
        let file = here.filter(|(_, digest)| self.node.compute().model(digest).is_some());
        file.map(|(_, digest)| digest)
            .or_else(|| self.names.of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: ModelDigest = ModelDigest([1; 32]);
    const TOY: ModelDigest = ModelDigest([2; 32]);

    #[test]
    fn a_name_does_not_move_to_another_digest_unasked() {
        let listed = |digests: &[ModelDigest]| digests.iter().copied().collect::<BTreeSet<_>>();
        let settle = |known, digests: &[ModelDigest], asks| {
            super::settle("llama-70b", known, &listed(digests), asks)
        };
        let name = ModelSelector::Name("llama-70b".to_owned());
        // Nothing is known of it: whatever is listed.
        assert_eq!(
            settle(None, &[REAL, TOY], false).unwrap(),
            (name.clone(), None)
        );
        // What it meant before is taken before others, also where nobody lists it this moment.
        for digests in [&[REAL, TOY][..], &[REAL], &[]] {
            let settled = settle(Some(REAL), digests, false).unwrap();
            assert_eq!(settled, (ModelSelector::Digest(REAL), None));
        }
        // Only another one is listed: refused with the fix, or shown to who is asked.
        let error = settle(Some(REAL), &[TOY], false).unwrap_err();
        assert_eq!(error.status, 409);
        assert_eq!(error.body.error.param.as_deref(), Some("model"));
        assert!(
            error
                .body
                .error
                .fix
                .unwrap()
                .contains("ask --model llama-70b")
        );
        let (selector, notice) = settle(Some(REAL), &[TOY], true).unwrap();
        let notice = notice.unwrap();
        assert_eq!(selector, name);
        assert!(notice.contains(&REAL.to_string()) && notice.contains(&TOY.to_string()));
    }

    #[test]
    fn what_a_name_meant_is_remembered_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        let names = Names::open(file.clone());
        assert_eq!(names.of("m"), None);
        names.remember("m", REAL);
        assert_eq!(Names::open(file.clone()).of("m"), Some(REAL));
        names.remember("m", TOY);
        assert_eq!(Names::open(file.clone()).of("m"), Some(TOY));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Names::open(file).of("m"), None);
        let names = Names::default();
        for n in 0..KNOWN_MAX + 9 {
            names.remember(&n.to_string(), REAL);
        }
        assert_eq!(names.known.lock().len(), KNOWN_MAX);
    }
}
