//! The buyer's own count of its prompt, held against the host's.
//!
//! An order names its model by digest, so whoever has the vocabulary and the template counts
//! what the host counts. The count runs while the order is on its way, and nothing is accepted
//! before it is there; where the vocabulary is not here, which is known at once, it is fetched
//! after the first word, for the next order.

use super::{Ask, End, Leg, State as LegState};
use crate::ids::{EffectId, ModelDigest};
use crate::message::discovery::Candidate;
use crate::message::inference::{BuyerEvent, Effect, InputCount, InputFacts, VocabularySource};
use crate::money::Meter;
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::wire::chain::ChainedToken;
use crate::wire::manifest::ModelOffer;
use crate::wire::order::Terms;
use crate::work::Job;
use rand::seq::IteratorRandom;

/// Hosts that a missing vocabulary is asked of: the one that serves, and some to turn to.
const MAX_VOCABULARY_SOURCES: usize = 4;

/// Where the count stands.
#[derive(Debug)]
enum State {
    /// It runs.
    Counting(EffectId),
    /// It is there, or cannot be.
    Known(InputCount),
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Recount {
    /// Where the count stands.
    state: State,
    /// The vocabulary was asked for.
    fetched: bool,
    /// Nothing waits for it any more.
    waived: bool,
}

impl Recount {
    /// Has the prompt counted.
    pub(super) fn begin(model: ModelDigest, job: &Job, ctx: &mut Ctx<'_>) -> Self {
        let id = ctx.fresh();
        let job = Box::new(job.clone());
        ctx.out.push(Effect::CountInput { id, model, job });
        Recount {
            state: State::Counting(id),
            fetched: false,
            waived: false,
        }
    }

    /// Whether that count is awaited here.
    pub(super) fn awaits(&self, id: EffectId) -> bool {
        matches!(self.state, State::Counting(awaited) if awaited == id)
    }

    /// Whether terms wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.state, State::Counting(_)) && !self.waived
    }

    /// Terms wait for it no longer; it may still come.
    pub(super) fn waive(&mut self) {
        self.waived = true;
    }

    /// Takes in the count.
    pub(super) fn counted(&mut self, count: InputCount) {
        self.state = State::Known(count);
    }

    /// The count, where there is one.
    fn facts(&self) -> Option<&InputFacts> {
        match &self.state {
            State::Known(InputCount::Counted(facts)) => Some(facts),
            _ => None,
        }
    }

    /// Our own count of the prompt.
    pub(super) fn tokens(&self) -> Option<u64> {
        self.facts().map(|facts| facts.tokens)
    }

    /// Whether the vocabulary is to be fetched now: true once.
    pub(super) fn must_fetch(&mut self) -> bool {
        let absent = matches!(self.state, State::Known(InputCount::Absent));
        absent && !std::mem::replace(&mut self.fetched, true)
    }

    /// Whether the vocabulary is here, and the host decodes tokens by the same rules: what it
    /// sends is then held against it.
    pub(super) fn decodes_for(&self, terms: &Terms) -> bool {
        self.facts().is_some_and(|own| own.has_rules_of(terms))
    }

    /// Holds terms against the count, if it is known. `before_accept`: they are not accepted yet.
    ///
    /// # Errors
    /// What is wrong. It convicts where both sides count by the same rules: nothing but the
    /// job and the model's digest, which the order names, decides the count.
    pub(super) fn check(
        &self,
        offer: &ModelOffer,
        terms: &Terms,
        before_accept: bool,
    ) -> Result<(), Breach> {
        let wrong = |kind, detail| {
            Err(Breach {
                before_accept,
                kind,
                detail,
            })
        };
        let Some(own) = self.facts() else {
            return Ok(());
        };
        if (own.tokenizer, own.template) != (offer.tokenizer, offer.template) {
            let detail = "a listing whose tokenizer or template is not the model's".to_owned();
            return wrong(OffenceKind::TermsNotAsListed, detail);
        }
        let theirs = terms.input.prompt();
        if theirs <= own.tokens {
            return Ok(());
        }
        let kind = match own.has_rules_of(terms) {
            true => OffenceKind::FalseInput,
            false => OffenceKind::TermsNotAsListed,
        };
        let detail = format!(
            "the terms charge {theirs} prompt tokens, the model's vocabulary counts {}",
            own.tokens
        );
        wrong(kind, detail)
    }
}

impl InputFacts {
    /// Whether the host's side encodes and decodes as ours does: the name of the numerics covers
    /// rendering, tokens and pieces.
    fn has_rules_of(&self, terms: &Terms) -> bool {
        terms.numerics.is_some() && terms.numerics == self.numerics
    }
}

impl Leg {
    /// Our own count of the prompt is there, or cannot be.
    pub fn on_input_counted(
        &mut self,
        count: InputCount,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        if let Some(recount) = self.recount.as_mut() {
            recount.counted(count);
        }
        let held = self.held_terms.take();
        if let Some(terms) = held.filter(|_| self.state == LegState::Ordered) {
            return self.on_terms(terms, ask, ctx);
        }
        if self.state != LegState::Streaming {
            return Ok(());
        }
        if let Some((_, terms)) = &self.terms {
            self.check_count(terms)?;
        }
        self.tell_count(ask, ctx);
        self.check_pieces(ask, 0, self.transcript.tokens.clone(), ctx);
        self.fetch_vocabulary(ask, ctx);
        Ok(())
    }

    pub(super) fn check_count(&self, terms: &Terms) -> Result<(), Breach> {
        let offer = &self.candidate.offer;
        match &self.recount {
            Some(recount) => recount.check(offer, terms, self.before_accept()),
            None => Ok(()),
        }
    }

    /// Tells the client that the host's count was held against our own.
    pub(super) fn tell_count(&self, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        if let Some(tokens) = self.recount.as_ref().and_then(Recount::tokens) {
            ctx.deliver(ask.request.request, BuyerEvent::InputCounted { tokens });
        }
    }

    /// Has pieces held against the vocabulary, where it is here. Text arrives no later for it.
    pub(super) fn check_pieces(
        &self,
        ask: Ask<'_>,
        from: u64,
        tokens: Vec<ChainedToken>,
        ctx: &mut Ctx<'_>,
    ) {
        let (Some(recount), Some((_, terms))) = (&self.recount, &self.terms) else {
            return;
        };
        let pieces = ask.request.job.meter() == Meter::OutputToken && !tokens.is_empty();
        if pieces && recount.decodes_for(terms) {
            ctx.out.push(Effect::CheckPieces {
                order: self.id,
                host: self.candidate.host,
                model: self.candidate.offer.digest,
                from,
                tokens,
            });
        }
    }

    /// Once the first word came, and not before, a vocabulary that is missing is fetched for
    /// the next order: from this host, or from another that lists the model.
    pub(super) fn fetch_vocabulary(&mut self, ask: Ask<'_>, ctx: &mut Ctx<'_>) {
        let missing = self.transcript.first_token_ms.is_some()
            && self.recount.as_mut().is_some_and(Recount::must_fetch);
        if !missing {
            return;
        }
        let model = self.candidate.offer.digest;
        let same = |host: &&Candidate| host.offer.digest == model;
        // Drawn: whoever fills the first ranks does not choose who is asked.
        let others = ask.others.iter().filter(same);
        let others = others.choose_multiple(&mut *ctx.rng, MAX_VOCABULARY_SOURCES - 1);
        let hosts = std::iter::once(&self.candidate)
            .chain(others)
            .map(|host| VocabularySource {
                host: host.host,
                addresses: host.addresses.clone(),
            });
        ctx.out.push(Effect::FetchVocabulary {
            model,
            hosts: hosts.collect(),
        });
    }
}
