//! What a host did against the rules of an order, as a check on the buyer's side finds it.
//!
//! The checks are pure functions; a [`Breach`] is their error. Only the leg that ran them
//! reports it, and only the purchase decides what comes of it.

use crate::offence::OffenceKind;

/// A rule that a host broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// It was found before the terms were accepted.
    pub before_accept: bool,
    /// Which rule.
    pub kind: OffenceKind,
    /// What a person needs to look into it: one sentence, without a full stop.
    pub detail: String,
}

impl Breach {
    /// Makes a breach that was found before the terms were accepted.
    pub fn before_accept(kind: OffenceKind, detail: impl Into<String>) -> Self {
        Breach {
            before_accept: true,
            kind,
            detail: detail.into(),
        }
    }

    /// Makes a breach of terms that were accepted.
    pub fn after_accept(kind: OffenceKind, detail: impl Into<String>) -> Self {
        Breach {
            before_accept: false,
            ..Breach::before_accept(kind, detail)
        }
    }

    /// Returns the offence that it is reported as. Before the terms are accepted nothing is
    /// owed, and a listing may have changed on its way here: what would convict counts as terms
    /// that differ from it. But no listing has a part in how many tokens a prompt has.
    pub fn offence(&self) -> OffenceKind {
        match &self.kind {
            OffenceKind::FalseInput => OffenceKind::FalseInput,
            kind if self.before_accept && kind.is_objective() => OffenceKind::TermsNotAsListed,
            kind => kind.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_convicts_does_so_once_the_terms_are_accepted_and_a_false_count_always() {
        let before = |kind| Breach::before_accept(kind, "").offence();
        let after = |kind| Breach::after_accept(kind, "").offence();
        for kind in [OffenceKind::WrongInvoice, OffenceKind::WrongCount] {
            assert_eq!(before(kind.clone()), OffenceKind::TermsNotAsListed);
            assert_eq!(after(kind.clone()), kind);
        }
        for kind in [
            OffenceKind::FalseInput,
            OffenceKind::Stale,
            OffenceKind::PriceAboveListing,
        ] {
            assert_eq!(
                [before(kind.clone()), after(kind.clone())],
                [kind.clone(), kind]
            );
        }
    }
}
