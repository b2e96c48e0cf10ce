//! How much output a host gives ahead of payment, and when it asks for more.

use super::*;

#[test]
fn output_is_allowed_to_the_last_token_that_the_credit_covers() {
    // Input costs 800, each token 250.
    for (window, allowed) in [(1_800, 4), (2_049, 4), (2_050, 5), (100_000, 64)] {
        assert_eq!(Sale::running(window).allowed, Some(allowed), "{window}");
    }
    // Input from the cache at half the price: 4 of 8 tokens.
    let mut offer = offer();
    offer.prices = offer.prices.with(Meter::CachedInputToken, 50_000_000);
    let mut sale = Sale::new(1_850);
    sale.facts.cached = 4;
    let mut sale = sale.offered(offer, &ordered());
    let input = sale.terms().1.input;
    assert_eq!((input.input_tokens, input.cached_input_tokens), (4, 4));
    sale.accepts();
    assert_eq!(sale.allowed, Some(5));
}

#[test]
fn payments_let_the_output_go_on_and_the_cap_ends_it() {
    let mut sale = Sale::running(1_800);
    sale.produces(4, None);
    assert_eq!(sale.invoices(), [1_800_u64]);
    sale.credits(1, 1_800, 1_800);
    assert_eq!(sale.allowed, Some(11));
    // The cap has room for four tokens beside the input.
    let order = Order {
        max_cost: Msat(1_999),
        ..ordered()
    };
    let mut sale = Sale::new(16_000).offered(offer(), &order);
    sale.accepts();
    assert_eq!(sale.allowed, Some(4));
    sale.produces(3, None);
    assert_eq!((sale.finish(), sale.cancelled), (None, false));
    sale.produces(1, None);
    assert_eq!(
        (sale.finish(), sale.cancelled),
        (Some(Finish::Budget), true)
    );
    // The job's own end needs no order to the engine.
    let mut sale = Sale::running(100_000);
    sale.produces(64, None);
    assert_eq!(
        (sale.finish(), sale.cancelled),
        (Some(Finish::Length), false)
    );
}

#[test]
fn invoices_come_at_half_a_window_and_where_output_stands_still() {
    let mut sale = Sale::running(4_000);
    sale.produces(4, None);
    assert!(sale.invoices().is_empty());
    sale.produces(1, None);
    assert_eq!(sale.invoices(), [2_050_u64]);
    // Three tokens are allowed, which is less than a step: all of it, and only then.
    let mut sale = Sale::new(1_000);
    sale.facts.tokens = 1;
    let mut sale = sale.offered(offer(), &ordered());
    sale.accepts();
    assert_eq!(sale.allowed, Some(3));
    sale.produces(2, None);
    assert!(sale.invoices().is_empty());
    sale.produces(1, None);
    assert_eq!(sale.invoices(), [850_u64]);
    // As many unpaid ones as may be under way; the rest comes at the end.
    let mut sale = Sale::running(2_000);
    for _ in 0..64 / 4 {
        sale.produces(4, None);
    }
    assert_eq!(sale.invoices().len(), MAX_PAYMENTS_IN_FLIGHT + 1);
    assert_eq!(sale.invoices().iter().sum::<u64>(), 800 + 64 * 250);
}

#[test]
fn a_payment_that_allows_no_more_output_is_not_told_to_the_engine() {
    let mut sale = Sale::running(16_800);
    assert_eq!(sale.allowed, Some(64));
    sale.produces(32, None);
    assert_eq!(sale.invoices(), [8_800_u64]);
    sale.credits(1, 8_800, 16_800);
    assert_eq!((sale.allowed, sale.raised), (Some(64), 0));
}

#[test]
fn amounts_are_what_the_wallet_of_the_buyer_can_pay() {
    let order = Order {
        payment_grain: Msat(1_000),
        ..ordered()
    };
    let sale = Sale::new(0).offered(offer(), &order);
    // 800 for the input and a step of 1,000.
    assert_eq!(sale.terms().1.entry.unwrap().msat, Msat(2_000));
    let mut sale = Sale::new(8_000).offered(offer(), &order);
    sale.accepts();
    sale.produces(14, None);
    assert_eq!(sale.invoices(), [4_000_u64]);
}

#[test]
fn a_slow_engine_is_waited_for_and_a_late_payment_is_not() {
    let mut sale = Sale::running(4_000);
    sale.waits_until(70_000);
    assert_eq!(sale.refused(), None, "the engine owes, not the buyer");
    let mut sale = Sale::running(1_800);
    sale.produces(4, None);
    sale.waits_until(10);
    assert_eq!(sale.machine.deadline(), Some(at(60_005).tick));
    sale.waits_until(60_004);
    assert_eq!(sale.refused(), None);
    sale.waits_until(60_005);
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    assert_eq!(sale.account().1, Msat(1_800));
    assert!(sale.cancelled);
}
