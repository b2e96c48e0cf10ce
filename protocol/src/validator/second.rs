//! The second opinion: which validator to ask, and whether to believe its answer.
//!
//! Not our own check. A verdict counts only if it is signed by the validator that
//! was asked, about the very evidence that it was sent.

use super::bookkeeping::Label;
use crate::crypto::Crypto;
use crate::ids::NodeKey;
use crate::limits;
use crate::message::discovery::Candidate;
use crate::message::reputation::Standing;
use crate::wire::bundle::{Finding, Tier, Verdict};
use crate::wire::envelope::{Network, Signed};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Chooses at random among the validators that can best repeat the work: the same
/// numerics before the same model before the rest, and among equals those that served this
/// node. Never the judged host. Returns the place in `hosts`.
pub fn choose(
    hosts: &[Candidate],
    label: &Label,
    numerics: Option<&String>,
    own: &NodeKey,
    rng: &mut ChaCha8Rng,
) -> Option<usize> {
    let class = |one: &Candidate| {
        let has_model = one.offer.context > 0 && one.offer.digest == label.model;
        let same = numerics.is_some() && one.offer.numerics.as_ref() == numerics;
        let ability = match (has_model, same) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        (ability, one.score.standing != Standing::Served)
    };
    let able = |one: &Candidate| one.host != label.host && one.host != *own;
    let best = hosts.iter().filter(|one| able(one)).map(class).min()?;
    let places: Vec<usize> = (0..)
        .zip(hosts)
        .filter(|(_, one)| able(one) && class(one) == best)
        .map(|(at, _)| at)
        .collect();
    places.get(rng.gen_range(0..places.len())).copied()
}

/// Opens a verdict that came back.
///
/// # Errors
/// A sentence for the operator.
pub fn open(
    signed: &Signed,
    asked: &NodeKey,
    label: &Label,
    crypto: &dyn Crypto,
    network: Network,
) -> Result<Verdict, String> {
    let opened = signed
        .open_public::<Verdict>(crypto, network)
        .map_err(|error| format!("the validator's verdict: {error}"))?;
    let verdict = opened.body;
    if opened.envelope.from != *asked || verdict.validator != *asked {
        return Err("the verdict is not signed by the validator that was asked".to_owned());
    }
    let ours = verdict.id == label.id
        && verdict.evidence == label.evidence
        && verdict.host == label.host
        && verdict.model == label.model;
    if !ours {
        return Err("the verdict is about other evidence than it was sent".to_owned());
    }
    let text = match &verdict.finding {
        Finding::Honest => 0,
        Finding::FalseAccount { detail }
        | Finding::WrongAnswer { detail, .. }
        | Finding::Inconclusive { detail } => detail.len(),
    };
    let numerics = verdict.numerics.as_ref().map_or(0, String::len);
    if text.max(numerics) > limits::MAX_SHORT_TEXT_BYTES {
        return Err("the verdict's text is too long".to_owned());
    }
    Ok(verdict)
}

/// Whether another validator's verdict is told to Reputation, as one word against the
/// host: where it convicts by a replay and our own check went no further than the books.
/// What we found ourselves needs nobody's word, and praise is worth none.
pub fn counts(own: &Verdict, theirs: &Verdict) -> bool {
    own.tier == Tier::Bookkeeping
        && !own.finding.convicts()
        && theirs.tier == Tier::ExactReplay
        && theirs.finding.convicts()
}
