//! Our verdict: made, kept, and told to whoever asked.

use super::{Origin, Outcome, Validator, Whose, judged};
use crate::machine::Outbox;
use crate::message::validator::{Effect, Witness};
use crate::time::WallTime;
use crate::validator::bookkeeping::Label;
use crate::validator::compare::OTHER_TEXT;
use crate::wire::bundle::{AuditFrame, Finding, Tier, Verdict};
use crate::wire::envelope::Signed;
use rand::Rng;

impl Validator {
    pub(super) fn verdict(&self, now: WallTime, label: &Label, outcome: Outcome) -> Verdict {
        Verdict {
            id: label.id,
            evidence: label.evidence,
            host: label.host,
            model: label.model,
            validator: self.crypto.key(),
            tier: outcome.tier,
            finding: outcome.finding,
            numerics: outcome.numerics,
            tokens: outcome.tokens,
            time: now,
            extensions: Vec::new(),
        }
    }

    /// Makes our verdict durable and tells whoever asked.
    pub(super) fn publish(
        &mut self,
        origin: Origin,
        verdict: Verdict,
        now: WallTime,
        out: &mut Outbox<Effect>,
    ) {
        match origin {
            Origin::Own { .. } => {
                out.push(Effect::Persist(self.store.keep(Whose::Ours, &verdict)));
                judged(&verdict, Witness::Own, out);
                out.push(Effect::Report {
                    order: verdict.id,
                    result: Ok(Box::new(verdict)),
                });
            }
            Origin::Judge { id } => {
                out.push(Effect::Persist(self.store.keep(Whose::Ours, &verdict)));
                self.convict_only(&verdict, out);
                let verdict = Box::new(verdict);
                out.push(Effect::Reply { id, verdict });
            }
            Origin::Audit { stream, .. } => {
                let verdict = for_strangers(verdict);
                // Doubt about a stranger's bundle is of use to nobody: it costs no write.
                if !matches!(verdict.finding, Finding::Inconclusive { .. }) {
                    out.push(Effect::Persist(self.store.keep(Whose::Strangers, &verdict)));
                }
                self.convict_only(&verdict, out);
                let signed = self.seal(now, &verdict);
                let frame = Box::new(AuditFrame::Verdict(signed));
                out.push(Effect::Answer { stream, frame });
            }
        }
    }

    /// Others' bundles may be sent by the host itself: they prove guilt, never merit.
    pub(super) fn convict_only(&self, verdict: &Verdict, out: &mut Outbox<Effect>) {
        if verdict.finding.convicts() && verdict.host != self.crypto.key() {
            judged(verdict, Witness::Stranger, out);
        }
    }

    /// Signed for everybody: a verdict is worth something because it can be shown.
    pub(super) fn seal(&mut self, now: WallTime, verdict: &Verdict) -> Signed {
        let nonce = self.rng.r#gen();
        let crypto = self.crypto.as_ref();
        Signed::seal(crypto, self.config.network, None, now, nonce, verdict)
    }
}

/// A verdict without what the replay gave instead: whoever brings a bundle of its own
/// making would read one token of any answer from it, for nothing.
fn for_strangers(verdict: Verdict) -> Verdict {
    let finding = match verdict.finding {
        Finding::WrongAnswer { ref detail, .. } if detail.starts_with(OTHER_TEXT) => {
            verdict.finding
        }
        Finding::WrongAnswer { position, .. } => Finding::WrongAnswer {
            position,
            detail: "a replay gives something else here".to_owned(),
        },
        Finding::Inconclusive { .. } if verdict.tier == Tier::ExactReplay => {
            Finding::Inconclusive {
                detail: "the replay decides nothing: other numerics, or it ended early".to_owned(),
            }
        }
        other => other,
    };
    Verdict { finding, ..verdict }
}
