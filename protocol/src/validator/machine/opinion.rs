//! The second opinion: whom Discovery names, whom we ask, what comes back.
//!
//! Where another validator convicts and our own check did not go as far, one more is
//! asked, of another Lightning node, until [`AGREEING`] say so of this answer: Reputation
//! convicts on that, and on no word less. One that says anything else ends it; one that
//! refuses or is silent is followed by the next.

use super::{Job, Origin, Question, Stage, Validator, Whose, judged, report};
use crate::ids::{EffectId, NodeKey};
use crate::machine::Outbox;
use crate::message::discovery::Candidate;
use crate::message::validator::{AGREEING, Effect, Witness};
use crate::time::Now;
use crate::validator::bookkeeping::Label;
use crate::validator::second;
use crate::wire::bundle::Bundle;
use crate::wire::envelope::Signed;

/// Validators that are asked about one answer: two of them may say nothing.
const MAX_QUESTIONS: usize = AGREEING + 2;

impl Validator {
    pub(super) fn validators(
        &mut self,
        now: Now,
        id: EffectId,
        hosts: Vec<Candidate>,
        out: &mut Outbox<Effect>,
    ) {
        let seeking = |job: &Job| matches!(job.stage, Stage::Seeking { .. });
        if !self.jobs.get(&id).is_some_and(seeking) {
            return;
        }
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let Stage::Seeking { own, numerics } = job.stage else {
            return;
        };
        let question = Question {
            own: *own,
            numerics,
            hosts,
            asked: 0,
            against: Vec::new(),
        };
        if !self.put(now, (job.origin, job.bundle, job.label), question, out) {
            let why = "no other validator is listed: `freehold hosts` shows who is";
            report(&job.label, Err(why.to_owned()), out);
        }
    }

    /// Asks the best of the validators that may still be asked; returns whether there was one.
    fn put(
        &mut self,
        now: Now,
        (origin, bundle, label): (Origin, Box<Bundle>, Label),
        mut question: Question,
        out: &mut Outbox<Effect>,
    ) -> bool {
        if question.asked >= MAX_QUESTIONS {
            return false;
        }
        question.asked += 1;
        let key = self.crypto.key();
        let numerics = question.numerics.as_ref();
        let at = second::choose(&question.hosts, &label, numerics, &key, &mut self.rng);
        let Some(at) = at else {
            return false;
        };
        let chosen = question.hosts.swap_remove(at);
        // Two keys that are paid at one Lightning node are one party.
        question
            .hosts
            .retain(|one| one.host != chosen.host && one.lightning != chosen.lightning);
        let id = self.ids.fresh();
        out.push(Effect::AskValidator {
            id,
            host: chosen.host,
            addresses: chosen.addresses,
            bundle: bundle.clone(),
        });
        let job = Job {
            origin,
            bundle,
            label,
            stage: Stage::Asking {
                validator: chosen.host,
                question: Box::new(question),
            },
            until: now.tick.after_ms(self.config.ask_ms),
        };
        self.jobs.insert(id, job);
        true
    }

    pub(super) fn answered(
        &mut self,
        now: Now,
        id: EffectId,
        result: Result<Signed, String>,
        out: &mut Outbox<Effect>,
    ) {
        let asking = |job: &Job| matches!(job.stage, Stage::Asking { .. });
        if !self.jobs.get(&id).is_some_and(asking) {
            return;
        }
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        let Stage::Asking {
            validator,
            mut question,
        } = job.stage
        else {
            return;
        };
        let (crypto, network) = (self.crypto.as_ref(), self.config.network);
        let opened = result
            .and_then(|signed| second::open(&signed, &validator, &job.label, crypto, network));
        let theirs = match opened {
            Ok(theirs) => theirs,
            Err(why) => {
                if !self.put(now, (job.origin, job.bundle, job.label), *question, out) {
                    report(&job.label, Err(why), out);
                }
                return;
            }
        };
        out.push(Effect::Persist(self.store.keep(Whose::Ours, &theirs)));
        let counts = second::counts(&question.own, &theirs);
        if counts {
            judged(&theirs, Witness::Other(validator), out);
        }
        report(&job.label, Ok(Box::new(theirs.clone())), out);
        if !counts {
            return;
        }
        question.against.push(validator);
        match <[NodeKey; AGREEING]>::try_from(question.against.as_slice()) {
            Ok(agreed) => judged(&theirs, Witness::Agreed(agreed), out),
            // Nobody else to ask is no error: what was said so far was reported.
            Err(_) => {
                self.put(now, (job.origin, job.bundle, job.label), *question, out);
            }
        }
    }
}
