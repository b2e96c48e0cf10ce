//! Which terms, and which entry payments, a buyer agrees to.

use super::*;

#[test]
fn nothing_before_the_acceptance_of_terms_convicts() {
    let lies: [fn(&mut Terms); 6] = [
        |terms| terms.tokenizer = Digest([9; 32]),
        |terms| terms.numerics = None,
        |terms| terms.input.input_tokens = 1_000_000,
        |terms| terms.carried_debt = Msat(1_001),
        |terms| terms.prices = Prices::chat(u64::MAX, u64::MAX),
        |terms| terms.quantum = Msat(1_001),
    ];
    for lie in lies {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let mut terms = buyer.terms();
        lie(&mut terms);
        let terms = buyer.seal(&terms);
        buyer.hears(Frame::Terms(terms));
        assert_eq!(buyer.dials.len(), 2, "the next host is asked");
        let offences = buyer.offences();
        assert!(
            offences.iter().all(|kind| !kind.is_objective()),
            "{offences:?}"
        );
    }
}

#[test]
fn terms_that_leave_no_room_for_the_output_are_left() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let mut terms = buyer.terms();
    // As many bytes could be as many tokens, but the context is full.
    terms.input.input_tokens = 2_000;
    let terms = buyer.seal(&terms);
    buyer.hears(Frame::Terms(terms));
    assert_eq!(buyer.dials.len(), 2);
}

#[test]
fn an_order_has_no_more_steps_than_its_evidence_holds_invoices() {
    // 64 tokens and the input cost 16,800, and 4,096 invoices are the most.
    for (quantum, dials) in [(4, 2), (5, 1)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let quantum = Msat(quantum);
        let terms = Terms {
            quantum,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{quantum}");
        assert!(buyer.offences().iter().all(|kind| !kind.is_objective()));
    }
}

#[test]
fn terms_under_which_no_unit_of_output_fits_are_left() {
    // Input costs 800, and a token 250.
    for (cap, carried, fits) in [
        (1_050, 0, true),
        (1_049, 0, false),
        (1_051, 1, true),
        (1_050, 1, false),
    ] {
        let max_cost = Config::new(NETWORK).fees.cap_for(Msat(cap));
        let hosts = vec![candidate(1), candidate(3)];
        let mut buyer = Buyer::capped(hosts, PaymentMode::Metered, max_cost);
        let terms = Terms {
            carried_debt: Msat(carried),
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), 2 - usize::from(fits), "{cap} {carried}");
    }
}

#[test]
fn an_entry_payment_above_input_and_one_step_is_not_paid() {
    // Input 800, a step of 1,000.
    for (msat, paid) in [(1_800, 1), (1_801, 0)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let terms = buyer.with_entry(buyer.terms(), msat);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{msat}");
        assert_eq!(buyer.dials.len(), 2 - paid, "the next host is asked");
        assert!(buyer.offences().iter().all(|kind| !kind.is_objective()));
    }
    // One unit of output where that is dearer than a step; never more than all of it.
    let mut dear = candidate(1);
    dear.offer.prices = Prices::chat(100_000_000, 5_000_000_000);
    for (msat, paid) in [(5_800, 1), (5_801, 0)] {
        let mut buyer = Buyer::among(vec![dear.clone()], PaymentMode::Metered);
        let prices = dear.offer.prices.clone();
        let terms = buyer.with_entry(
            Terms {
                prices,
                ..buyer.terms()
            },
            msat,
        );
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{msat}");
    }
    // A carried debt is added to it.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let terms = buyer.terms_with_debt();
    buyer.hears_offer(&terms);
    assert_eq!(buyer.payments(), 1);
    // Before the acceptance nothing in its invoice convicts either.
    let lies: [fn(&mut InvoiceFacts); 3] = [
        |facts| facts.msat = Some(Msat(1_801)),
        |facts| facts.payee = LightningId([3; 33]),
        |facts| facts.description_hash = Some([0; 32]),
    ];
    for lie in lies {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let mut terms = buyer.with_entry(buyer.terms(), 1_800);
        let entry = terms.entry.as_mut().unwrap();
        let mut facts: InvoiceFacts = serde_json::from_str(&entry.bolt11).unwrap();
        lie(&mut facts);
        entry.bolt11 = serde_json::to_string(&facts).unwrap();
        buyer.hears_offer(&terms);
        assert_eq!((buyer.payments(), buyer.dials.len()), (0, 2));
        assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    }
}

#[test]
fn an_entry_payment_is_the_input_and_one_step_and_no_more() {
    for (entry, taken) in [(1_800, true), (1_801, false)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let terms = buyer.with_entry(buyer.terms(), entry);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), usize::from(taken), "{entry}");
        assert_eq!(buyer.dials.len(), 2 - usize::from(taken), "{entry}");
    }
}

#[test]
fn terms_are_taken_up_to_their_bounds_and_not_beyond() {
    type Set = fn(&mut Terms, u64);
    let bounds: [(Set, u64); 3] = [
        // As long as this node waits for a place.
        (|terms, beyond| terms.starts_within_ms = 120_000 + beyond, 1),
        // As many tokens as the prompt has bytes, and what a template may add.
        (
            |terms, beyond| terms.input.input_tokens = 18 + 64 + 1_024 + beyond,
            1,
        ),
        // Clocks may be as far apart as envelopes are accepted.
        (
            |terms, beyond| {
                terms.expires = WallTime(at(5).wall.0 - crate::limits::ENVELOPE_WINDOW_MS - beyond);
            },
            60_000,
        ),
    ];
    for (number, (set, step)) in bounds.iter().enumerate() {
        for (beyond, dials) in [(0, 1), (*step, 2)] {
            let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
            let mut terms = buyer.terms();
            set(&mut terms, beyond);
            buyer.hears_offer(&terms);
            assert_eq!(buyer.dials.len(), dials, "bound {number}, {beyond} beyond");
        }
    }
}

#[test]
fn terms_are_taken_as_listed_or_better_and_each_that_is_worse_is_left() {
    type Change = fn(&mut Terms);
    let prices = |cached| offer().prices.with(Meter::CachedInputToken, cached);
    let fine: [Change; 4] = [
        |_| {},
        |terms| terms.prices = Prices::chat(99_999_999, 249_999_999),
        |terms| terms.quantum = Msat(999),
        |terms| terms.carried_debt = Msat(1_000),
    ];
    let worse: [(Change, OffenceKind); 11] = [
        (
            |terms| terms.order = Digest([9; 32]),
            OffenceKind::TermsNotAsListed,
        ),
        (
            |terms| terms.tokenizer = Digest([9; 32]),
            OffenceKind::TermsNotAsListed,
        ),
        (
            |terms| terms.template = Digest([9; 32]),
            OffenceKind::TermsNotAsListed,
        ),
        (|terms| terms.numerics = None, OffenceKind::TermsNotAsListed),
        (
            |terms| terms.prices = Prices::chat(100_000_001, 250_000_000),
            OffenceKind::PriceAboveListing,
        ),
        (
            |terms| terms.prices = Prices::chat(100_000_000, 250_000_001),
            OffenceKind::PriceAboveListing,
        ),
        (
            |terms| terms.input.output_tokens = 1,
            OffenceKind::TermsNotAsListed,
        ),
        (|terms| terms.input.items = 1, OffenceKind::TermsNotAsListed),
        (
            |terms| terms.quantum = Msat(1_001),
            OffenceKind::PriceAboveListing,
        ),
        (
            |terms| terms.carried_debt = Msat(1_001),
            OffenceKind::TermsNotAsListed,
        ),
        (
            |terms| terms.quantum = Msat(0),
            OffenceKind::TermsNotAsListed,
        ),
    ];
    let ends = |hosts: [Candidate; 2], change: Change| {
        let mut buyer = Buyer::among(hosts.into(), PaymentMode::Metered);
        let mut terms = buyer.terms();
        change(&mut terms);
        buyer.hears_offer(&terms);
        let kept: Vec<_> = buyer.outcomes().iter().map(|one| one.price_kept).collect();
        (buyer.dials.len(), buyer.offences(), kept)
    };
    let usual = || [candidate(1), candidate(3)];
    for (number, change) in fine.into_iter().enumerate() {
        assert_eq!(ends(usual(), change), (1, vec![], vec![]), "{number}");
    }
    for (number, (change, kind)) in worse.into_iter().enumerate() {
        let kept = kind != OffenceKind::PriceAboveListing;
        let left = (2, vec![kind], vec![kept]);
        assert_eq!(ends(usual(), change), left, "{number}");
    }
    // What is cached is never dearer than what is computed, where any is.
    let taken: [(u64, Change, usize); 4] = [
        (100_000_000, |terms| terms.input.cached_input_tokens = 4, 1),
        (100_000_001, |terms| terms.input.cached_input_tokens = 4, 2),
        (100_000_001, |terms| terms.input.cached_input_tokens = 0, 1),
        (50_000_000, |terms| terms.input.cached_input_tokens = 4, 1),
    ];
    for (cached, change, dials) in taken {
        let mut buyer = {
            let mut hosts = usual();
            hosts
                .iter_mut()
                .for_each(|host| host.offer.prices = prices(cached));
            Buyer::among(hosts.into(), PaymentMode::Metered)
        };
        let mut terms = buyer.terms();
        terms.prices = prices(cached);
        change(&mut terms);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{cached}");
    }
}

#[test]
fn steps_and_entries_are_rounded_up_to_what_our_wallet_can_pay() {
    for (quantum, entry, paid) in [(1_200, 2_299, 1), (1_200, 2_300, 0), (1_201, 2_299, 0)] {
        let mut buyer = Buyer::idle();
        buyer.machine.config.payment_grain = Msat(300);
        buyer.wants(&[1], false);
        // 800 for the input and the step of 1,200, and 299 to the next whole amount.
        let quantum = Msat(quantum);
        let terms = Terms {
            quantum,
            ..buyer.terms()
        };
        let terms = buyer.with_entry(terms, entry);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{quantum} {entry}");
    }
}

#[test]
fn an_entry_is_what_its_mode_says_and_within_the_cap() {
    for (mode, entry, paid) in [
        (PaymentMode::Before, 16_800, 1),
        (PaymentMode::Before, 16_801, 0),
        (PaymentMode::After, 1, 0),
    ] {
        let mut buyer = Buyer::new(&[1], mode);
        let terms = buyer.with_entry(buyer.terms(), entry);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{mode:?} {entry}");
    }
    for (cap, paid) in [(1_800, 1), (1_799, 0), (1_000, 0)] {
        let max_cost = Config::new(NETWORK).fees.cap_for(Msat(cap));
        let mut buyer = Buyer::capped(vec![candidate(1)], PaymentMode::Metered, max_cost);
        let terms = buyer.with_entry(buyer.terms(), 1_800);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{cap}");
    }
    // Less output than a step was ordered: two tokens for 500.
    let mut short = job();
    short.max_output = 2;
    for (entry, paid) in [(1_300, 1), (1_301, 0)] {
        let mode = PaymentMode::Metered;
        let mut buyer = Buyer::asking(vec![candidate(1)], mode, Msat(1_000_000), short.clone());
        let terms = buyer.with_entry(buyer.terms(), entry);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{entry}");
    }
}

#[test]
fn an_entry_that_is_about_to_expire_is_not_paid() {
    for (life_ms, paid) in [(4_999, 0), (5_000, 1)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts(InputCount::Unknown);
        let mut terms = buyer.with_entry(buyer.terms(), 1_800);
        let entry = terms.entry.as_mut().unwrap();
        let mut facts: InvoiceFacts = serde_json::from_str(&entry.bolt11).unwrap();
        facts.expires = at(buyer.ms + 1 + life_ms).wall;
        entry.bolt11 = serde_json::to_string(&facts).unwrap();
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{life_ms}");
        assert_eq!(buyer.offences(), [OffenceKind::Stale][paid..]);
    }
}

#[test]
fn input_and_output_of_an_answer_fit_into_the_context_and_embeddings_have_no_output() {
    let texts = vec!["a".to_owned()];
    let embeds = Job {
        work: Work::Embed { texts },
        ..job()
    };
    // Eight tokens and 64.
    for (job, context, dials) in [(job(), 72, 1), (job(), 71, 2), (embeds, 8, 1)] {
        let hosts = [1, 3].map(|n| {
            let mut host = candidate(n);
            host.offer.context = context;
            host
        });
        let mode = PaymentMode::Metered;
        let mut buyer = Buyer::asking(hosts.into(), mode, Msat(1_000_000), job);
        let terms = buyer.terms();
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{context}");
    }
}

#[test]
fn steps_are_large_enough_where_as_many_as_are_kept_reach_the_cap() {
    // 4,096 steps of four msat.
    for (cap, dials) in [(16_384, 1), (16_385, 2)] {
        let max_cost = Config::new(NETWORK).fees.cap_for(Msat(cap));
        let hosts = vec![candidate(1), candidate(3)];
        let mut buyer = Buyer::capped(hosts, PaymentMode::Metered, max_cost);
        let quantum = Msat(4);
        let terms = Terms {
            quantum,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{cap}");
    }
}

#[test]
fn terms_have_expired_where_no_clock_that_is_trusted_says_otherwise() {
    for (ms, dials) in [(0, 1), (1, 2)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts(InputCount::Unknown);
        let now = at(buyer.ms + 1).wall;
        let expires = WallTime(now.0 - limits::ENVELOPE_WINDOW_MS - ms);
        let terms = Terms {
            expires,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{ms}");
    }
}
