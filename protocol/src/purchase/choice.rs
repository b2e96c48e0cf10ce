//! The hosts that a purchase may ask, one after the other, and what is told where none serves.

use crate::limits;
use crate::message::discovery::Candidate;
use crate::money::Msat;
use crate::refusal::{Code, Refusal};
use crate::wire::manifest::PaymentMode;
use std::collections::VecDeque;

/// The candidates that are left, and what became of those before.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Hosts that were not asked yet, the best first.
    candidates: VecDeque<Candidate>,
    /// How many were found.
    considered: u32,
    /// Hosts that could not be reached, or took long and did not serve.
    attempts: u32,
    /// Hosts that could not be paid.
    unpayable: u32,
    /// What is told where nobody serves the request.
    refusal: Option<Refusal>,
}

impl Choice {
    /// Takes the hosts that were found; those with larger steps than `max_quantum` are not asked.
    pub fn fill(&mut self, hosts: Vec<Candidate>, max_quantum: Msat) {
        self.considered = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let (fine, coarse): (VecDeque<_>, VecDeque<_>) = hosts
            .into_iter()
            .take(limits::MAX_CANDIDATES)
            .partition(|host| host.quantum <= max_quantum);
        if let Some(least) = coarse.iter().map(|host| host.quantum).min() {
            let text = format!(
                "this model is paid in steps of {least} or more, this node agrees to {max_quantum} at most"
            );
            self.note(Refusal::new(Code::NotAsListed, text));
        }
        self.candidates = fine;
    }

    /// How many hosts were found.
    pub fn considered(&self) -> u32 {
        self.considered
    }

    /// The hosts that were not asked yet.
    pub fn others(&self) -> &VecDeque<Candidate> {
        &self.candidates
    }

    /// The host to ask next; none after so many attempts.
    pub fn next(&self, max_attempts: u32) -> Option<&Candidate> {
        let spent = self.attempts.max(self.unpayable) >= max_attempts;
        self.candidates.front().filter(|_| !spent)
    }

    /// Takes that host out.
    pub fn take(&mut self) -> Option<Candidate> {
        self.candidates.pop_front()
    }

    /// A host took long, and did not serve.
    pub fn lost_time(&mut self) {
        self.attempts += 1;
    }

    /// A host could not be paid. Returns what is told where it was the last.
    pub fn unpayable(&mut self, mut refusal: Refusal) -> Refusal {
        self.unpayable += 1;
        if self.unpayable > 1 {
            let (hosts, last) = (self.unpayable, refusal.message);
            refusal.message = format!("{hosts} hosts could not be paid; the last: {last}");
        }
        refusal
    }

    /// Remembers why a host did not serve. One that says "later" is told rather than one
    /// that says "never"; and what our own wallet found rather than what a host said.
    pub fn note(&mut self, refusal: Refusal) {
        let rank = |refusal: &Refusal| match refusal.code {
            code if code.is_retryable() => 2,
            code if !code.is_from_hosts() => 1,
            _ => 0,
        };
        let known = self.refusal.as_ref().map(rank);
        if known.is_none_or(|known| rank(&refusal) >= known) {
            self.refusal = Some(refusal);
        }
    }

    /// What is told where nobody serves the request.
    pub fn take_refusal(&mut self, mode: PaymentMode) -> Refusal {
        self.refusal.take().unwrap_or_else(|| no_host(mode))
    }
}

/// What is said where nobody can be asked.
fn no_host(mode: PaymentMode) -> Refusal {
    let text = match mode {
        PaymentMode::Metered => "no listed host offers this model".to_owned(),
        other => {
            let other = format!("{other:?}").to_lowercase();
            format!(
                "no listed host offers this model in payment mode {other}; by default hosts offer metered alone"
            )
        }
    };
    Refusal::new(Code::NoHost, text)
}
