//! Our own check of a bundle: books first, then a replay where that is due and possible.

use super::{Job, Origin, Outcome, SEEK_MS, Stage, Validator, report};
use crate::ids::EffectId;
use crate::limits;
use crate::machine::Outbox;
use crate::message::sibling::Message;
use crate::message::validator::{Effect, Replay, Unrepeatable};
use crate::time::Now;
use crate::validator::bookkeeping::{Facts, Label, bookkeeping, label};
use crate::validator::compare;
use crate::wire::bundle::{Bundle, Finding, Tier};

impl Validator {
    /// Checks the books, then replays if `deep` and possible.
    pub(super) fn begin(
        &mut self,
        now: Now,
        origin: Origin,
        bundle: Box<Bundle>,
        deep: bool,
        out: &mut Outbox<Effect>,
    ) {
        let checked = bookkeeping(&bundle, self.crypto.as_ref(), self.config.network);
        let facts = match checked {
            Ok(facts) => facts,
            Err(finding) => {
                let label = label(&bundle);
                let outcome = Outcome::bookkeeping(finding);
                return self.conclude(now, origin, bundle, label, (outcome, None), out);
            }
        };
        let can = self.config.can_replay && facts.numerics.is_some() && !facts.tokens.is_empty();
        let room = self.jobs.len() < limits::MAX_PENDING_AUDITS;
        if deep && can && room {
            return self.replay(now, origin, bundle, facts, out);
        }
        let (label, numerics) = (facts.label, facts.numerics);
        let outcome = Outcome::bookkeeping(Finding::Honest);
        // Without numerics nobody can do more than the books: nobody else need read the prompt.
        if deep && numerics.is_some() {
            self.conclude(now, origin, bundle, label, (outcome, numerics), out);
        } else {
            let verdict = self.verdict(now.wall, &label, outcome);
            self.publish(origin, verdict, now.wall, out);
        }
    }

    pub(super) fn replay(
        &mut self,
        now: Now,
        origin: Origin,
        bundle: Box<Bundle>,
        facts: Facts,
        out: &mut Outbox<Effect>,
    ) {
        let id = self.ids.fresh();
        out.push(Effect::Replay {
            id,
            stranger: matches!(origin, Origin::Audit { .. }),
            model: facts.label.model,
            job: Box::new(facts.job.clone()),
            salt: facts.salt,
            tokens: facts.tokens.clone(),
        });
        let job = Job {
            origin,
            bundle,
            label: facts.label,
            stage: Stage::Replaying(Box::new(facts)),
            until: now.tick.after_ms(self.config.replay_ms),
        };
        self.jobs.insert(id, job);
    }

    pub(super) fn replayed(
        &mut self,
        now: Now,
        id: EffectId,
        result: Result<Box<Replay>, Unrepeatable>,
        out: &mut Outbox<Effect>,
    ) {
        let replaying = |job: &Job| matches!(job.stage, Stage::Replaying(_));
        if !self.jobs.get(&id).is_some_and(replaying) {
            return;
        }
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let Stage::Replaying(facts) = job.stage else {
            return;
        };
        let outcome = match result {
            Ok(replay) => {
                let (finding, tokens) = compare::compare(&facts, &replay);
                Outcome {
                    tier: Tier::ExactReplay,
                    finding,
                    tokens,
                    numerics: replay.numerics,
                }
            }
            Err(Unrepeatable::Absent) => Outcome::bookkeeping(Finding::Honest),
            // A template, form or prompt that our own limits stop says nothing about the host.
            Err(Unrepeatable::Failed(detail)) => {
                Outcome::bookkeeping(Finding::Inconclusive { detail })
            }
        };
        let numerics = facts.numerics;
        self.conclude(
            now,
            job.origin,
            job.bundle,
            job.label,
            (outcome, numerics),
            out,
        );
    }

    /// Our own check is done: say so, and ask for a second opinion where it is due.
    pub(super) fn conclude(
        &mut self,
        now: Now,
        origin: Origin,
        bundle: Box<Bundle>,
        label: Label,
        (outcome, numerics): (Outcome, Option<String>),
        out: &mut Outbox<Effect>,
    ) {
        let verdict = self.verdict(now.wall, &label, outcome);
        self.publish(origin, verdict.clone(), now.wall, out);
        let Origin::Own { audit } = origin else {
            return;
        };
        let unsure = verdict.finding.convicts() || verdict.tier == Tier::Bookkeeping;
        if !(audit || self.config.share_sampled && unsure) {
            return;
        }
        if self.jobs.len() >= limits::MAX_PENDING_AUDITS {
            let why = "too many checks are waiting; no second validator was asked: try again later";
            return report(&label, Err(why.to_owned()), out);
        }
        let id = self.ids.fresh();
        out.push(Effect::Tell(Message::FindValidators {
            id,
            model: label.model,
        }));
        let own = Box::new(verdict);
        let job = Job {
            origin,
            bundle,
            label,
            stage: Stage::Seeking { own, numerics },
            until: now.tick.after_ms(SEEK_MS),
        };
        self.jobs.insert(id, job);
    }
}
