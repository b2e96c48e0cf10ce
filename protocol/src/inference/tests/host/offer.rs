//! Which terms a host offers, and what it asks for first.

use super::*;

#[test]
fn the_least_window_is_a_step_or_one_token_where_that_is_dearer() {
    for (price, quantum) in [(250_000_000, 1_000), (2_000_000_000, 2_000)] {
        let mut offer = offer();
        offer.prices = Prices::chat(100_000_000, price);
        let sale = Sale::new(0).offered(offer, &ordered());
        let asked = sale.told.iter().find_map(|message| match message {
            Message::OpenCredit { quantum, .. } => Some(*quantum),
            _ => None,
        });
        assert_eq!(asked, Some(Msat(quantum)));
        let entry = sale.terms().1.entry.unwrap();
        assert_eq!(entry.msat, Msat(800 + quantum));
    }
    // Credit below it is no credit: the buyer prepays.
    for (window, prepays) in [(999, true), (1_000, true), (1_050, false)] {
        let sale = Sale::new(window).offered(offer(), &ordered());
        assert_eq!(sale.terms().1.entry.is_some(), prepays, "{window}");
    }
}

#[test]
fn a_prompt_must_fit_with_its_output_and_an_embedding_has_none() {
    let order = |work| Order {
        job: Job { work, ..job() },
        ..ordered()
    };
    let texts = vec!["a".to_owned()];
    let (text, embeds) = (job().work, Work::Embed { texts });
    let mut offer = offer();
    offer.context = 1_024;
    offer.prices = offer.prices.with(Meter::Item, 1_000_000);
    for (work, tokens, refused) in [
        (text.clone(), 1_024 - 64, None),
        (text, 1_024 - 63, Some(Code::TooLong)),
        (embeds.clone(), 1_024, None),
        (embeds, 1_025, Some(Code::TooLong)),
    ] {
        let mut sale = Sale::new(0);
        (sale.facts.tokens, sale.facts.longest) = (tokens, tokens);
        let sale = sale.offered(offer.clone(), &order(work));
        assert_eq!(sale.refused(), refused, "{tokens}");
    }
}

#[test]
fn an_accept_must_name_the_terms_and_come_once() {
    let mut sale = Sale::new(4_000).offered(offer(), &ordered());
    sale.hears(Frame::Accept(Digest([9; 32])));
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
    assert_eq!((sale.offences(), sale.allowed), (1, None));
    // A second time before its entry is paid, and once it runs.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    assert_eq!((sale.refused(), sale.offences()), (None, 0));
    sale.accepts();
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
    let mut sale = Sale::running(4_000);
    assert_eq!((sale.refused(), sale.offences()), (None, 0));
    sale.accepts();
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
    assert_eq!((sale.offences(), sale.cancelled), (1, true));
}

#[test]
fn terms_announce_a_wait_by_how_long_orders_took() {
    let mut sale = Sale::running(4_000);
    sale.waits_until(70_004);
    sale.hears(Frame::Cancel);
    sale.comes(2, &ordered());
    assert_eq!(sale.terms().1.starts_within_ms, 0);
    sale.accepts();
    sale.comes(3, &ordered());
    // An eighth of 70 s, and seven of what was thought before; the one ahead has run 2 ms.
    assert_eq!(sale.terms().1.starts_within_ms, 17_498);
}

#[test]
fn a_prompt_may_be_as_long_as_the_host_says() {
    for (tokens, refused) in [(1_024, None), (1_025, Some(Code::TooLong))] {
        let mut sale = Sale::new(0);
        (sale.facts.tokens, sale.facts.longest) = (tokens, tokens);
        let sale = sale.offered(offer(), &ordered());
        assert_eq!(sale.refused(), refused, "{tokens}");
    }
    // Several texts that fit, and together do not.
    let mut sale = Sale::new(0);
    (sale.facts.tokens, sale.facts.longest) = (1_025, 600);
    let sale = sale.offered(offer(), &ordered());
    assert_eq!(sale.refused(), Some(Code::TooLong));
}

#[test]
fn an_order_paid_at_its_end_is_taken_where_the_credit_covers_all_of_it() {
    // The input and 64 tokens cost 16,800.
    for (credit, taken) in [
        ((16_799, false, 0), false),
        ((16_800, false, 0), true),
        ((17_000, false, 201), false),
        ((17_000, false, 200), true),
        ((17_000, true, 0), false),
    ] {
        let mut sale = in_mode(PaymentMode::After, 1_000_000, credit);
        if !taken {
            assert_eq!(sale.refused(), Some(Code::ModeUnsupported), "{credit:?}");
            continue;
        }
        assert_eq!(sale.terms().1.entry, None);
        sale.accepts();
        assert_eq!(sale.allowed, Some(64));
        sale.produces(63, None);
        assert!(sale.invoices().is_empty(), "not before the end");
        sale.produces(1, None);
        assert_eq!(sale.invoices(), [16_800 + credit.2]);
    }
}

#[test]
fn an_order_paid_ahead_is_paid_as_far_as_its_cap_reaches_whoever_buys() {
    for credit in [(0, true, 0), (100_000, false, 0)] {
        for (cap, entry, tokens) in [(1_000_000, 16_800, 64), (10_000, 10_000, 36)] {
            let mut sale = in_mode(PaymentMode::Before, cap, credit);
            let asked = sale.terms().1.entry.map(|entry| entry.msat);
            assert_eq!(asked, Some(Msat(entry)), "{credit:?} {cap}");
            sale.accepts();
            assert_eq!(sale.allowed, None, "nothing before it is paid");
            sale.credits(0, entry, entry);
            assert_eq!(sale.allowed, Some(tokens));
            sale.produces(tokens as u32, None);
            // What is left of the cap pays for no token, and is not refunded.
            assert!(sale.invoices().is_empty());
            let (_, receipt) = sale.receipt().expect("all of it is paid");
            assert_eq!(receipt.cost, Msat(800 + 250 * tokens));
        }
    }
}

#[test]
fn a_debt_goes_into_the_entry_or_takes_its_part_of_the_credit() {
    let mut sale = in_mode(PaymentMode::Metered, 1_000_000, (0, true, 500));
    let terms = sale.terms().1;
    assert_eq!(terms.entry.map(|entry| entry.msat), Some(Msat(2_300)));
    assert_eq!(terms.carried_debt, Msat(500));
    sale.accepts();
    sale.credits(0, 2_300, 2_300);
    // 2,300 paid and as much lent, 500 and 800 of it are for the debt and the input.
    assert_eq!(sale.allowed, Some((4_600 - 1_300) / 250));
    let mut sale = in_mode(PaymentMode::Metered, 1_000_000, (4_000, false, 500));
    assert_eq!(sale.terms().1.entry, None);
    sale.accepts();
    assert_eq!(sale.allowed, Some((3_500 - 800) / 250));
    sale.produces(1, Some(Finish::Stop));
    assert_eq!(sale.invoices(), [1_550_u64]);
    // What it leaves is less than a step, so the order is prepaid.
    for (debt, prepays) in [(500, false), (501, true)] {
        let credit = (1_500, false, debt);
        let mut sale = Sale::new(credit.0);
        sale.credit.debt = Msat(debt);
        sale.facts.tokens = 1;
        let sale = sale.offered(offer(), &ordered());
        assert_eq!(sale.terms().1.entry.is_some(), prepays, "{debt}");
    }
}

#[test]
fn an_order_whose_cap_is_below_its_entry_is_refused() {
    for (cap, refused) in [(1_799, Some(Code::CapTooLow)), (1_800, None)] {
        let sale = in_mode(PaymentMode::Metered, cap, (0, true, 0));
        assert_eq!(sale.refused(), refused, "{cap}");
    }
}

#[test]
fn an_order_smaller_than_a_step_is_covered_by_as_much_credit() {
    // Two tokens and the input cost 1,300; a window of it carries no step, and all of that.
    for (window, prepays) in [(1_299, true), (1_300, false)] {
        let mut order = ordered();
        order.job.max_output = 2;
        let mut offer = offer();
        offer.prices = Prices::chat(0, 650_000_000);
        let mut sale = Sale::new(window);
        sale.machine.config.quantum = Msat(2_000);
        let sale = sale.offered(offer, &order);
        let entry = sale.terms().1.entry.map(|entry| entry.msat);
        assert_eq!(entry, prepays.then_some(Msat(1_300)), "{window}");
    }
}

#[test]
fn orders_count_as_waiting_once_they_are_accepted_on_credit_or_paid() {
    let mut sale = Sale::running(4_000);
    assert_eq!(sale.load(), Some((1, 0)));
    sale.comes(2, &ordered());
    assert_eq!(sale.load(), Some((1, 0)));
    sale.accepts();
    assert_eq!(sale.load(), Some((1, 1)));
    sale.hears(Frame::Cancel);
    assert_eq!(sale.load(), Some((1, 0)));
    sale.credit = Sale::new(0).credit;
    sale.comes(3, &ordered());
    sale.accepts();
    assert_eq!(sale.load(), Some((1, 0)));
    sale.credits(0, 1_800, 1_800);
    assert_eq!(sale.load(), Some((1, 1)));
}
