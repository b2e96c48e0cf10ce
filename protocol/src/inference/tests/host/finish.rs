//! How an order of a host ends: receipts, books, debts.

use super::*;

#[test]
fn a_receipt_waits_for_every_invoice() {
    let mut sale = Sale::running(4_000);
    sale.produces(5, None);
    sale.produces(1, Some(Finish::Stop));
    assert_eq!(sale.invoices(), [2_050_u64, 250]);
    assert_eq!(sale.receipt(), None);
    sale.credits(1, 2_050, 4_000);
    sale.credits(1, 2_050, 4_000);
    assert_eq!(sale.receipt(), None, "the same one twice");
    sale.credits(2, 250, 4_000);
    let (_, receipt) = sale.receipt().unwrap();
    assert_eq!((receipt.cost, receipt.debt), (Msat(2_300), Msat::ZERO));
    assert_eq!(receipt.payments.len(), 2);
    assert_eq!(sale.account().1, Msat::ZERO);
}

#[test]
fn a_receipt_is_countersigned_by_its_buyer_or_not_at_all() {
    for (by, true_one, offences) in [(2, true, 0), (3, true, 1), (2, false, 1)] {
        let mut sale = Sale::running(4_000);
        sale.produces(5, Some(Finish::Stop));
        sale.credits(1, 2_050, 4_000);
        let (digest, _) = sale.receipt().unwrap();
        let body = Countersigned {
            receipt: if true_one { digest } else { Digest([9; 32]) },
            extensions: Vec::new(),
        };
        sale.hears(Frame::Countersigned(seal(by, 9, &body)));
        assert_eq!(sale.offences(), offences, "{by} {true_one}");
        assert_eq!(sale.machine.active(), 0);
    }
}

#[test]
fn an_order_that_ends_before_its_output_costs_nothing() {
    let mut sale = Sale::new(4_000).offered(offer(), &ordered());
    sale.hears(Frame::Cancel);
    let (account, unpaid) = sale.account();
    assert_eq!((account.cost, unpaid), (Msat::ZERO, Msat::ZERO));
    assert_eq!(account.counts, Counts::default());
}

#[test]
fn output_that_came_before_the_engine_failed_is_owed() {
    let mut sale = Sale::running(4_000);
    sale.produces(4, None);
    let (order, reason) = (sale.id, "a fault".to_owned());
    sale.feed(Input::EngineFailed { order, reason });
    let (account, unpaid) = sale.account();
    assert_eq!((account.cost, unpaid), (Msat(1_800), Msat(1_800)));
    assert_eq!(account.status, Status::Failed(Code::EngineFailed));
    assert_eq!(sale.refused(), Some(Code::EngineFailed));
    // The engine says it itself.
    assert!(!sale.cancelled);
}

#[test]
fn an_order_that_was_paid_and_never_ran_is_booked_with_its_input() {
    let mut sale = Sale::running(4_000);
    sale.credit = Sale::new(0).credit;
    sale.comes(2, &ordered());
    sale.accepts();
    sale.credits(0, 1_800, 1_800);
    sale.told.clear();
    sale.hears(Frame::Cancel);
    let (account, unpaid) = sale.account();
    assert_eq!((account.cost, unpaid), (Msat(800), Msat::ZERO));
    assert_eq!(account.counts, counts(0));
}

#[test]
fn a_stop_ends_the_output_once_and_the_receipt_says_so() {
    let mut sale = Sale::running(4_000);
    sale.produces(3, None);
    sale.hears(Frame::Stop);
    assert_eq!(
        (sale.finish(), sale.cancelled),
        (Some(Finish::Stopped), true)
    );
    assert_eq!(sale.invoices(), [1_550_u64]);
    sale.hears(Frame::Stop);
    sale.credits(1, 1_550, 4_000);
    sale.hears(Frame::Stop);
    let (_, receipt) = sale.receipt().unwrap();
    assert_eq!(
        (receipt.finish, receipt.status),
        (Finish::Stopped, Status::Stopped)
    );
    assert_eq!(sale.account().0.status, Status::Stopped);
    assert_eq!((sale.refused(), sale.machine.active()), (None, 1));
    sale.countersigns();
    assert_eq!(sale.kept().unwrap().status, Some(Status::Stopped));
    // Before there is output to stop it ends the order.
    let mut sale = Sale::new(4_000).offered(offer(), &ordered());
    sale.hears(Frame::Stop);
    assert_eq!(sale.refused(), Some(Code::Cancelled));
    assert_eq!(sale.machine.active(), 0);
}

#[test]
fn a_remainder_that_is_not_invoiced_is_a_debt_and_no_offence() {
    type End = fn(&mut Sale);
    let ends: [End; 4] = [
        Sale::countersigns,
        |sale| sale.hears(Frame::Cancel),
        |sale| {
            let stream = sale.stream;
            sale.feed(Input::Closed { stream });
        },
        |sale| {
            let sent_at = sale.ms;
            sale.passes_until(sent_at + 9_999);
            assert_eq!(sale.machine.active(), 1);
            sale.passes_until(sent_at + 10_000);
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut sale = Sale::new(4_000);
        sale.machine.config.min_invoice = Msat(251);
        let mut sale = sale.offered(offer(), &ordered());
        sale.accepts();
        sale.produces(5, None);
        sale.produces(1, Some(Finish::Stop));
        assert_eq!(sale.invoices(), [2_050_u64]);
        sale.credits(1, 2_050, 4_000);
        let (_, receipt) = sale.receipt().unwrap();
        assert_eq!(receipt.debt, Msat(250));
        end(&mut sale);
        let (account, unpaid) = sale.account();
        assert_eq!((account.status, unpaid), (Status::Complete, Msat(250)));
        assert_eq!((sale.offences(), sale.refused()), (0, None), "end {number}");
        assert_eq!(sale.machine.active(), 0, "end {number}");
        // One msat less, and it is invoiced.
        let mut sale = Sale::new(4_000);
        sale.machine.config.min_invoice = Msat(250);
        let mut sale = sale.offered(offer(), &ordered());
        sale.accepts();
        sale.produces(5, None);
        sale.produces(1, Some(Finish::Stop));
        assert_eq!(sale.invoices(), [2_050_u64, 250]);
    }
}

#[test]
fn an_order_is_kept_with_its_countersignature_for_who_paid_or_had_credit() {
    let free = Prices::chat(0, 0);
    for (window, prices, kept) in [
        (0, offer().prices, true),
        (4_000, offer().prices, true),
        (4_000, free.clone(), true),
        (0, free, false),
    ] {
        let mut offer = offer();
        offer.prices = prices;
        let mut sale = Sale::new(window).offered(offer, &ordered());
        sale.accepts();
        if sale.terms().1.entry.is_some() {
            sale.credits(0, 1_800, 1_800);
        }
        sale.produces(4, Some(Finish::Stop));
        for (n, msat) in (1..).zip(sale.invoices()) {
            sale.credits(n, msat, 4_000);
        }
        sale.countersigns();
        let record = sale.kept();
        assert_eq!(record.is_some(), kept, "{window}");
        let signed = record.map(|record| (record.receipt, record.countersigned));
        let whole = |(receipt, mark): (Option<_>, Option<_>)| receipt.is_some() && mark.is_some();
        assert!(signed.is_none_or(whole), "{window}");
        let written = |record: &Record| record.table != Table::Nonces;
        assert_eq!(sale.written.iter().any(written), kept, "{window}");
    }
}

#[test]
fn a_promise_to_forget_keeps_the_order_off_the_disk() {
    for (retention, keeps) in [(Retention::Keep, true), (Retention::Forget, false)] {
        let order = Order {
            retention,
            ..ordered()
        };
        let mut sale = Sale::new(4_000).offered(offer(), &order);
        sale.accepts();
        sale.produces(4, Some(Finish::Stop));
        sale.credits(1, 1_800, 4_000);
        sale.countersigns();
        assert_eq!(sale.kept().unwrap().order.is_some(), keeps);
    }
}

#[test]
fn a_buyer_that_leaves_is_blamed_for_delivered_output_alone() {
    for (prices, tokens, offences) in [
        (offer().prices, 0, 0),
        (offer().prices, 1, 1),
        (Prices::chat(0, 0), 1, 0),
    ] {
        let mut offer = offer();
        offer.prices = prices;
        let mut sale = Sale::new(4_000).offered(offer, &ordered());
        sale.accepts();
        sale.produces(tokens, None);
        sale.hears(Frame::Cancel);
        assert_eq!((sale.offences(), sale.cancelled), (offences, true));
    }
}

/// How far an order went before both its buyer and the engine fell silent.
const SILENT_AFTER: [usize; 6] = [0, 1, 2, 3, 4, 5];

#[test]
fn an_order_with_a_silent_buyer_and_a_silent_engine_ends_and_closes_its_stream() {
    for steps in SILENT_AFTER {
        let mut machine = host();
        let signed = order(1);
        let (id, stream) = (OrderId::of(&signed.digest()), StreamId(1));
        let mut effects = Vec::new();
        if steps == 0 {
            let caller = caller(1);
            effects.extend(feed(&mut machine, 0, Input::Inbound { stream, caller }));
            let frame = Box::new(Frame::Order(signed.clone()));
            effects.extend(feed(&mut machine, 0, Input::Received { stream, frame }));
        } else {
            effects = arrives_with(&mut machine, 0, 1, 1, &signed, Msat(4_000));
        }
        if steps >= 2 {
            let accepted = accepts(&mut machine, 1, 1, &effects);
            effects.extend(accepted);
        }
        let finish = (steps >= 4).then_some(Finish::Stop);
        if steps >= 3 {
            let produced = Input::Produced {
                order: id,
                tokens: vec![token(1)],
                finish,
                attached: Default::default(),
            };
            effects.extend(feed(&mut machine, 2, produced));
        }
        if steps >= 5 {
            let (seq, hash) = (1, PaymentHash([1; 32]));
            let result = Ok(("invoice".to_owned(), hash));
            let made = Input::InvoiceMade {
                order: id,
                seq,
                result,
            };
            effects.extend(feed(&mut machine, 3, made));
            let (msat, window) = (Msat(1_050), Msat(5_000));
            let granted = Input::CreditGranted {
                order: id,
                seq,
                hash,
                msat,
                window,
            };
            effects.extend(feed(&mut machine, 4, granted));
        }
        assert_eq!(machine.active(), 1, "after {steps} steps");
        // Whatever the peer holds open: ten minutes later nothing of it is left.
        let mut out = Outbox::default();
        while let Some(due) = machine.deadline()
            && due <= at(600_000).tick
            && machine.active() > 0
        {
            machine.expire(at(due.0 / 1_000_000 + 1), &mut out);
        }
        effects.extend(out.drain());
        assert_eq!(machine.active(), 0, "after {steps} steps");
        let closed = |effect: &&Effect| **effect == Effect::Close { stream };
        assert_eq!(effects.iter().filter(closed).count(), 1);
    }
}
