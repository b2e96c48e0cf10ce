//! A replay against what the host signed, position by position.
//!
//! Not the replay itself: the engine did that. A difference convicts only where
//! both engines claim the same numerics; otherwise honest machines may differ.

use super::bookkeeping::Facts;
use crate::message::validator::Replay;
use crate::wire::bundle::Finding;

/// How the detail begins where the tokens are right and the host showed other words: it tells
/// what the host said and nothing of the replay.
pub const OTHER_TEXT: &str = "text was shown that the token does not stand for";

/// Compares; also returns how many tokens were recomputed.
pub fn compare(facts: &Facts, replay: &Replay) -> (Finding, u64) {
    let compared = facts.tokens.len().min(replay.expected.len()) as u64;
    let finding = match difference(facts, replay) {
        None if compared < facts.tokens.len() as u64 => Finding::Inconclusive {
            detail: format!(
                "only {compared} of {} tokens could be recomputed",
                facts.tokens.len()
            ),
        },
        None => Finding::Honest,
        Some(found) if same_numerics(facts, replay) => found,
        Some(found) => Finding::Inconclusive {
            detail: format!(
                "differs ({}), but the host's numerics are {} and ours {}",
                detail(&found),
                name(&facts.numerics),
                name(&replay.numerics)
            ),
        },
    };
    (finding, compared)
}

fn same_numerics(facts: &Facts, replay: &Replay) -> bool {
    facts.numerics.is_some() && facts.numerics == replay.numerics
}

fn difference(facts: &Facts, replay: &Replay) -> Option<Finding> {
    if facts.prompt_tokens > replay.prompt_tokens {
        return Some(Finding::FalseAccount {
            detail: format!(
                "the terms charge {} prompt tokens, the pinned tokenizer counts {}",
                facts.prompt_tokens, replay.prompt_tokens
            ),
        });
    }
    if facts.prompt.is_some_and(|prompt| prompt != replay.prompt) {
        return Some(Finding::WrongAnswer {
            position: 0,
            detail: "the receipt's prompt is not the one that was ordered".to_owned(),
        });
    }
    let differs = facts
        .tokens
        .iter()
        .zip(&replay.expected)
        .position(|(signed, expected)| signed != expected)?;
    let (signed, expected) = (facts.tokens.get(differs)?, replay.expected.get(differs)?);
    let detail = if signed.id != expected.id {
        format!("token {} instead of {}", signed.id, expected.id)
    } else if signed.logits != expected.logits {
        format!("token {} was drawn from other logits", signed.id)
    } else {
        format!(
            "{OTHER_TEXT}: token {} as {:?}",
            signed.id,
            String::from_utf8_lossy(&signed.piece.bytes)
        )
    };
    Some(Finding::WrongAnswer {
        position: differs as u64,
        detail,
    })
}

fn detail(finding: &Finding) -> &str {
    match finding {
        Finding::FalseAccount { detail }
        | Finding::WrongAnswer { detail, .. }
        | Finding::Inconclusive { detail } => detail,
        Finding::Honest => "nothing",
    }
}

fn name(numerics: &Option<String>) -> &str {
    numerics.as_deref().unwrap_or("not stated")
}
