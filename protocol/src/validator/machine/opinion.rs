//! The second opinion: whom Discovery names, whom we ask, what comes back.

use super::{Job, Stage, Validator, judged, report};
use crate::envelope::Signed;
use crate::ids::EffectId;
use crate::inference::io::Candidate;
use crate::machine::Outbox;
use crate::reputation::io::Witness;
use crate::time::Now;
use crate::validator::io::Effect;
use crate::validator::second;

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
        let Some(mut job) = self.jobs.remove(&id) else {
            return;
        };
        let Stage::Seeking { own, numerics } = job.stage else {
            return;
        };
        let key = self.crypto.key();
        let chosen = second::choose(hosts, &job.label, numerics.as_ref(), &key, &mut self.rng);
        let Some(chosen) = chosen else {
            let why = "no other validator is listed: `freehold hosts` shows who is";
            return report(&job.label, Err(why.to_owned()), out);
        };
        let id = self.ids.fresh();
        out.push(Effect::AskValidator {
            id,
            host: chosen.host,
            addresses: chosen.addresses,
            bundle: job.bundle.clone(),
        });
        job.until = now.tick.after_ms(self.config.ask_ms);
        job.stage = Stage::Asking {
            own,
            validator: chosen.host,
        };
        self.jobs.insert(id, job);
    }

    pub(super) fn answered(
        &mut self,
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
        let Stage::Asking { own, validator } = job.stage else {
            return;
        };
        let (crypto, network) = (self.crypto.as_ref(), self.config.network);
        let opened = result
            .and_then(|signed| second::open(&signed, &validator, &job.label, crypto, network));
        let theirs = match opened {
            Ok(theirs) => theirs,
            Err(why) => return report(&job.label, Err(why), out),
        };
        out.push(Effect::Persist(self.store.keep(&theirs)));
        if second::counts(&own, &theirs) {
            judged(&theirs, Witness::Other(validator), out);
        }
        report(&job.label, Ok(Box::new(theirs)), out);
    }
}
