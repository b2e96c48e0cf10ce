//! The output of one order as it arrived: what is shown, what invoices and the receipt are held
//! against, and what is kept as evidence.
//!
//! What is shown is [`crate::wire::text`]'s function of pieces that the signed heads commit to.

use super::terms::Ordered;
use super::{Ask, End, Leg, Stop};
use crate::ids::Digest;
use crate::limits;
use crate::message::inference::BuyerEvent;
use crate::money::{Counts, Meter};
use crate::offence::OffenceKind;
use crate::order::breach::Breach;
use crate::order::context::Ctx;
use crate::wire::attached;
use crate::wire::chain::{ChainedToken, TokenChain};
use crate::wire::order::{Chunk, Finish, Terms};
use crate::wire::text::Rendering;
use crate::work::Job;

/// Evidence of one order that is kept beside its receipt. Bytes; a longest answer in ordinary
/// words with its invoices is below. A receipt of [`limits::MAX_INVOICES`] payments fits as well.
const MAX_EVIDENCE_BYTES: usize = limits::MAX_AUDIT_FRAME_BYTES - (256 << 10);
// A signed order and its terms always fit.
const _: () = assert!(2 * limits::MAX_ORDER_FRAME_BYTES < MAX_EVIDENCE_BYTES);
/// What a token or a signature takes beside its text or bytes, at most.
const FIXED_BYTES: usize = 72;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Transcript {
    // What the host's signatures commit to.
    /// The chain over the tokens that arrived.
    chain: TokenChain,
    /// Its head before the first token and after each.
    heads: Vec<Digest>,
    /// The tokens; they move into the record at the end.
    pub tokens: Vec<ChainedToken>,
    /// Totals: the input of the terms, and the output that arrived.
    pub counts: Counts,
    /// The end that the host said.
    pub finish: Option<Finish>,

    // How it came.
    /// The number that the next chunk must have.
    next_chunk: u32,
    /// From the order to the first unit of output.
    pub first_token_ms: Option<u64>,
    /// From there to the last.
    pub stream_ms: u64,

    // What is made of it.
    /// Turns pieces into text.
    rendering: Rendering,
    /// Something was shown.
    pub shown: bool,
    /// Bytes of order, terms, tokens and invoices that are kept.
    kept: usize,
}

impl Transcript {
    /// Makes the transcript of an order without output.
    pub fn new(order: &Digest, job: &Job) -> Self {
        Transcript {
            chain: TokenChain::new(order, &Digest([0; 32])),
            heads: Vec::new(),
            tokens: Vec::new(),
            counts: Counts::default(),
            finish: None,
            next_chunk: 0,
            first_token_ms: None,
            stream_ms: 0,
            rendering: Rendering::new(&job.stop),
            shown: false,
            kept: 0,
        }
    }

    /// Begins, with terms that are accepted.
    pub fn begin(&mut self, order: &Digest, terms: &Digest, input: Counts) {
        self.chain = TokenChain::new(order, terms);
        self.heads = vec![self.chain.head()];
        self.counts = input;
    }

    /// Whether no chunk arrived.
    pub fn is_empty(&self) -> bool {
        self.next_chunk == 0
    }

    /// The chain head after all that arrived.
    pub fn head(&self) -> Digest {
        self.chain.head()
    }

    /// The chain head after so many units of output; `None` where fewer arrived.
    pub fn head_after(&self, units: u64) -> Option<&Digest> {
        self.heads.get(usize::try_from(units).unwrap_or(usize::MAX))
    }

    /// Adds to what is kept.
    ///
    /// # Errors
    /// It is more than the evidence of an order holds.
    pub fn keep(&mut self, parts: impl Iterator<Item = usize>) -> Result<(), Breach> {
        let bytes = parts.map(|bytes| bytes + FIXED_BYTES).sum();
        self.kept = self.kept.saturating_add(bytes);
        match self.kept > MAX_EVIDENCE_BYTES {
            true => Err(Breach::after_accept(
                OffenceKind::MalformedFrame,
                "more text or invoices than the evidence of an order holds",
            )),
            false => Ok(()),
        }
    }

    /// Holds a chunk against what was ordered and what arrived. `stopped`: the host was told to
    /// stop.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(
        &self,
        ordered: &Ordered<'_>,
        terms: &Terms,
        chunk: &Chunk,
        stopped: bool,
    ) -> Result<(), Breach> {
        let wrong = |detail: String| Breach::after_accept(OffenceKind::WrongCount, detail);
        let job = ordered.job;
        let delivered = self.counts.delivered() + chunk.tokens.len() as u64;
        let expected = self.counts.with_delivered(job.meter(), delivered);
        if self.finish.is_some() {
            return Err(wrong("output after its end".to_owned()));
        }
        if chunk.tokens.is_empty() && chunk.finish.is_none() {
            return Err(wrong("a chunk with nothing in it".to_owned()));
        }
        if chunk.seq != self.next_chunk {
            let due = self.next_chunk;
            return Err(wrong(format!("chunk {} where {due} was due", chunk.seq)));
        }
        if chunk.totals != expected {
            return Err(wrong(format!(
                "totals of {} units of output where {delivered} were delivered",
                chunk.totals.delivered()
            )));
        }
        if delivered > job.most_delivered() {
            return Err(wrong("more output than was ordered".to_owned()));
        }
        if let Some(finish) = chunk.finish {
            check_finish(finish, ordered, terms, &chunk.totals, stopped).map_err(wrong)?;
        }
        attached::fits(job, self.counts.delivered(), chunk).map_err(wrong)
    }

    /// Takes a chunk that was checked, `since_ms` after the order was sent. Returns the text to
    /// show.
    pub fn push(&mut self, chunk: &Chunk, job: &Job, since_ms: u64) -> String {
        for token in &chunk.tokens {
            self.chain.push(token);
            self.heads.push(self.chain.head());
        }
        let mut text = String::new();
        for token in &chunk.tokens {
            text.push_str(&self.rendering.push(&token.piece));
        }
        if chunk.finish.is_some() {
            text.push_str(&self.rendering.finish());
        }
        // A vector has no text.
        self.shown |= !text.is_empty() || job.meter() == Meter::Item;
        self.tokens.extend_from_slice(&chunk.tokens);
        self.counts = chunk.totals;
        self.next_chunk += 1;
        self.finish = chunk.finish.or(self.finish);
        // The end alone, without a token, says nothing of a host's speed.
        if self.counts.delivered() > 0 {
            let first = *self.first_token_ms.get_or_insert(since_ms);
            self.stream_ms = since_ms.saturating_sub(first);
        }
        text
    }
}

/// The word for the end is one that this side can see to be true. Whether the model ended
/// an answer shows in the receipt, which the validator alone judges.
fn check_finish(
    finish: Finish,
    ordered: &Ordered<'_>,
    terms: &Terms,
    totals: &Counts,
    stopped: bool,
) -> Result<(), String> {
    let job = ordered.job;
    let (said, truth) = match finish {
        Finish::Stopped => ("stopped", stopped),
        Finish::Budget => {
            let cost = terms.prices.cost_with_next(totals, job.meter());
            let cost = cost.saturating_add(terms.carried_debt);
            ("out of budget", cost > ordered.max_cost)
        }
        // Embeddings have no end but the last text.
        Finish::Stop | Finish::Length if job.meter() == Meter::Item => {
            ("whole", totals.delivered() == job.most_delivered())
        }
        Finish::Stop | Finish::Length => return Ok(()),
    };
    match truth {
        true => Ok(()),
        false => Err(format!("output that is said to be {said}, and is not")),
    }
}

impl Leg {
    pub(super) fn on_chunk(
        &mut self,
        chunk: Chunk,
        ask: Ask<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), End> {
        let job = &ask.request.job;
        if let Some((_, terms)) = &self.terms {
            let ordered = self.ordered(ask, ctx);
            self.transcript
                .check(&ordered, terms, &chunk, self.stopped.is_some())?;
        }
        let goes_on = |stop: Stop| self.cost_of(&chunk.totals) > stop.most;
        if self.stopped.is_some_and(goes_on) {
            return Err(self.leave("the host went on after it was told to stop", ctx));
        }
        let pieces = chunk.tokens.iter().map(|token| token.piece.bytes.len());
        self.transcript.keep(pieces)?;
        let from = self.transcript.counts.delivered();
        let text = self
            .transcript
            .push(&chunk, job, self.waited_ms(ctx.now.tick));
        let tokens = chunk.tokens.iter().map(|token| token.id).collect();
        self.check_pieces(ask, from, chunk.tokens, ctx);
        self.wait(ctx.config.idle_timeout_ms, ctx);
        ctx.deliver(
            ask.request.request,
            BuyerEvent::Output {
                text,
                tokens,
                totals: chunk.totals,
                cost: self.cost_of(&chunk.totals),
                attached: chunk.attached,
            },
        );
        self.fetch_vocabulary(ask, ctx);
        Ok(())
    }
}
