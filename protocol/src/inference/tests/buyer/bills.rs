//! Which invoices a buyer pays.

use super::*;

#[test]
fn output_that_may_be_under_way_is_a_window_and_no_more_than_was_ordered() {
    let unsure = |window: u64, paid: u64, tokens: u64| {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let window = Msat(window);
        let terms = Terms {
            window,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        let words = (0..tokens as u32).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, tokens, None)));
        if paid > 0 {
            let head = buyer.head(0..8);
            buyer.bills_as(paid, head, |invoice, _| invoice.window = window);
            buyer.settles(1);
        }
        let stream = StreamId(buyer.stream);
        buyer.feed(Input::Closed { stream });
        let accounts = buyer.told.iter().filter_map(|message| match message {
            Message::CloseOrder { account, .. } => Some(account.unsure),
            _ => None,
        });
        accounts.collect::<Vec<_>>()
    };
    assert_eq!(unsure(4_000, 0, 8), [Msat(4_000)]);
    // A payment widens it by its own amount.
    assert_eq!(unsure(4_000, 1_500, 8), [Msat(5_500)]);
    // 64 tokens were ordered: 56, or 4, are left.
    assert_eq!(unsure(1 << 60, 0, 8), [Msat(56 * 250)]);
    assert_eq!(unsure(4_000, 0, 60), [Msat(4 * 250)]);
    assert_eq!(unsure(4_000, 0, 64), [Msat::ZERO]);
}

#[test]
fn an_invoice_below_the_step_is_paid_only_at_the_end() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(700, chain.head());
    assert_eq!(
        (buyer.payments(), buyer.offences()),
        (0, vec![OffenceKind::WrongInvoice])
    );
    // Less than one token short of a step, as where a window is just one.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(751, chain.head());
    assert_eq!(buyer.payments(), 1);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(1, chain.head());
    assert_eq!(buyer.payments(), 0, "not the remainder");
    // The remainder cut into one invoice a token, each the whole of what it covers.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    for tokens in 6..=8 {
        let head = buyer.head(0..tokens);
        buyer.bills_as(250, head, |invoice, _| {
            invoice.covers = counts(u64::from(tokens));
            invoice.invoiced = Msat(800 + 250 * u64::from(tokens));
            if tokens == 6 {
                invoice.msat = invoice.invoiced;
            }
        });
    }
    assert_eq!(buyer.payments(), 1, "the first alone is a step or more");
    assert_eq!(buyer.offences(), [OffenceKind::WrongInvoice]);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
}

#[test]
fn text_that_was_not_signed_is_not_paid_for() {
    // What the host signs commits to one other thing than it sent, in one token.
    let lies: [fn(&mut ChainedToken); 5] = [
        |_| {},
        |token| token.piece.bytes.push(b'!'),
        |token| token.piece.control = true,
        |token| token.logits = Digest([1; 32]),
        |token| token.id += 1,
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        let signed = (0..8).map(|n| {
            let mut token = token(n);
            if n == 5 {
                lie(&mut token);
            }
            token
        });
        let head = buyer.chain(signed).head();
        buyer.bills(2_000, head);
        let (paid, offences) = match at {
            0 => (1, Vec::new()),
            _ => (0, vec![OffenceKind::WrongInvoice]),
        };
        assert_eq!(
            (buyer.payments(), buyer.offences()),
            (paid, offences),
            "lie {at}"
        );
    }
}

#[test]
fn an_order_paid_at_its_end_takes_no_invoice_before() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::After);
    buyer.bills(2_000, chain.head());
    assert_eq!(buyer.payments(), 0);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::After);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
}

#[test]
fn a_wallet_that_changed_since_the_listing_convicts_nobody_and_is_not_paid() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    let other = LightningId([3; 33]);
    buyer.bills_as(2_000, chain.head(), |_, facts| facts.payee = other);
    assert_eq!(buyer.payments(), 0);
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    // Once something was paid, another payee is no accident.
    for (payee, paid, offences) in [
        (LIGHTNING, 2, Vec::new()),
        (other, 1, vec![OffenceKind::WrongInvoice]),
    ] {
        let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
        buyer.bills(1_000, chain.head());
        buyer.bills_as(1_800, chain.head(), |invoice, facts| {
            invoice.invoiced = Msat(2_800);
            facts.payee = payee;
        });
        assert_eq!((buyer.payments(), buyer.offences()), (paid, offences));
    }
}

#[test]
fn an_invoice_that_is_not_what_was_agreed_is_not_paid() {
    type Change = fn(&mut Invoice, &mut InvoiceFacts);
    let honest: Change = |_, _| {};
    let lies: [(&str, Change); 11] = [
        ("amount", |_, facts| facts.msat = Some(Msat(1_799))),
        ("no amount", |_, facts| facts.msat = Some(Msat(0))),
        ("description", |_, facts| {
            facts.description_hash = Some([0; 32])
        }),
        ("hash", |_, facts| facts.hash = PaymentHash([4; 32])),
        ("order", |invoice, _| invoice.order = OrderId([0; 16])),
        ("number", |invoice, _| invoice.seq = 1),
        ("output", |invoice, _| invoice.covers = counts(9)),
        ("input", |invoice, _| invoice.covers.input_tokens = 9),
        ("sum", |invoice, _| invoice.invoiced = Msat(2_799)),
        ("above the cost", |invoice, _| {
            (invoice.msat, invoice.invoiced) = (Msat(1_801), Msat(2_801));
        }),
        ("fewer tokens", |invoice, _| invoice.covers = counts(7)),
    ];
    for (what, lie) in [("nothing", honest)].into_iter().chain(lies) {
        let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
        buyer.bills(1_000, chain.head());
        buyer.bills_as(1_800, chain.head(), |invoice, facts| {
            invoice.invoiced = Msat(2_800);
            lie(invoice, facts);
        });
        let (paid, offences) = match what {
            "nothing" => (2, Vec::new()),
            _ => (1, vec![OffenceKind::WrongInvoice]),
        };
        assert_eq!(
            (buyer.payments(), buyer.offences()),
            (paid, offences),
            "{what}"
        );
    }
}

#[test]
fn a_true_invoice_is_paid_and_one_false_word_of_it_is_not() {
    let mut sold = Sold::new();
    let (invoice, facts) = sold.invoice();
    sold.hears_invoice(invoice, &facts);
    assert_eq!(sold.buyer.payments(), 1);
    let lies: [fn(&mut Invoice, &mut InvoiceFacts); 11] = [
        |invoice, _| invoice.order = OrderId([9; 16]),
        |invoice, _| invoice.seq = 0,
        |invoice, _| invoice.covers = counts(9),
        |invoice, _| invoice.covers.input_tokens = 9,
        |invoice, _| invoice.head = Digest([9; 32]),
        |invoice, _| invoice.invoiced = Msat(2_801),
        |invoice, facts| {
            // More than is due.
            (invoice.msat, invoice.invoiced) = (Msat(2_801), Msat(2_801));
            facts.msat = Some(Msat(2_801));
        },
        |_, facts| facts.msat = Some(Msat(2_801)),
        |_, facts| facts.msat = None,
        |_, facts| facts.description_hash = None,
        |_, facts| facts.description_hash = Some([9; 32]),
    ];
    for (number, lie) in lies.iter().enumerate() {
        let mut sold = Sold::new();
        let (mut invoice, mut facts) = sold.invoice();
        lie(&mut invoice, &mut facts);
        sold.hears_invoice(invoice, &facts);
        assert_eq!(sold.buyer.payments(), 0, "lie {number}");
        assert_eq!(
            sold.buyer.offences(),
            [OffenceKind::WrongInvoice],
            "lie {number}"
        );
    }
}

#[test]
fn an_invoice_that_is_about_to_expire_is_not_paid() {
    for (life_ms, paid) in [(0, 0), (4_999, 0), (5_000, 1)] {
        let mut sold = Sold::new();
        let (invoice, mut facts) = sold.invoice();
        facts.expires = at(sold.buyer.ms + 1 + life_ms).wall;
        sold.hears_invoice(invoice, &facts);
        assert_eq!(sold.buyer.payments(), paid, "{life_ms} ms");
        let stale = [OffenceKind::Stale];
        assert_eq!(sold.buyer.offences(), stale[paid..], "{life_ms} ms");
    }
}

#[test]
fn an_invoice_is_not_paid_twice_and_none_comes_before_its_turn() {
    let mut sold = Sold::new();
    let (invoice, facts) = sold.invoice();
    sold.hears_invoice(invoice.clone(), &facts);
    sold.hears_invoice(invoice, &facts);
    assert_eq!(sold.buyer.payments(), 1);
    assert_eq!(sold.buyer.offences(), [OffenceKind::WrongInvoice]);
}

#[test]
fn no_more_than_the_cap_is_paid_whatever_was_delivered() {
    for (cap, paid) in [(2_800, 1), (2_799, 0)] {
        let (mut buyer, chain) = Buyer::streaming_with(PaymentMode::Metered, Msat(cap), Msat::ZERO);
        buyer.bills(2_800, chain.head());
        assert_eq!(buyer.payments(), paid, "{cap}");
    }
    // A debt that the terms carry is due as well.
    for (msat, paid) in [(3_300, 1), (3_301, 0)] {
        let (mut buyer, chain) =
            Buyer::streaming_with(PaymentMode::Metered, Msat(900_000), Msat(500));
        buyer.bills(msat, chain.head());
        assert_eq!(buyer.payments(), paid, "{msat}");
    }
}

#[test]
fn a_remainder_that_our_wallet_cannot_pay_is_left_out_of_the_last_invoice() {
    for (last, paid) in [(300, 1), (301, 2), (599, 2), (600, 2)] {
        let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
        buyer.machine.config.payment_grain = Msat(300);
        buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
        buyer.bills(2_200, chain.head());
        buyer.bills_as(last, chain.head(), |invoice, _| {
            invoice.invoiced = Msat(2_200 + last);
        });
        assert_eq!(buyer.payments(), paid, "{last}");
    }
}

#[test]
fn as_many_invoices_are_unpaid_at_once_as_agreed_and_no_more() {
    let most = limits::MAX_PAYMENTS_IN_FLIGHT as u32;
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.bills_in_steps(most);
    assert_eq!(
        (buyer.payments(), buyer.offences()),
        (most as usize, vec![])
    );
    let (next, head) = (most + 1, buyer.head(0..4 * (most + 1)));
    buyer.settles(1);
    buyer.bills_as(1_000, head, |invoice, _| {
        invoice.covers = counts(4 * u64::from(next));
        invoice.invoiced = Msat(1_000 * u64::from(next));
    });
    assert_eq!(buyer.payments(), next as usize);
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.bills_in_steps(next);
    assert_eq!(buyer.payments(), most as usize);
    assert_eq!(buyer.offences(), [OffenceKind::WrongInvoice]);
}

#[test]
fn a_payment_is_told_to_host_and_client_once_with_what_it_was_for() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(2_800, chain.head());
    buyer.settles(1);
    buyer.settles(1);
    buyer.settles(2);
    let paid = buyer.said.iter().filter_map(|event| match event {
        BuyerEvent::Paid {
            seq, hash, msat, ..
        } => Some((*seq, *hash, *msat)),
        _ => None,
    });
    let one = (1, PaymentHash([4; 32]), Msat(2_800));
    assert_eq!(paid.collect::<Vec<_>>(), [one]);
    let signed: Vec<_> = buyer.paid.iter().collect();
    let [signed] = signed[..] else {
        panic!("one frame: {signed:?}");
    };
    let body = signed.open_public::<Paid>(&keys(1), NETWORK).unwrap().body;
    assert_eq!((body.seq, body.hash), (1, PaymentHash([4; 32])));
    assert_eq!((body.order, body.head), (buyer.id(), chain.head()));
}

#[test]
fn a_payment_in_mid_answer_does_not_lengthen_how_long_silence_is_borne() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(2_800, chain.head());
    assert_eq!((buyer.payments(), buyer.pause()), (1, 90_000));
    buyer.ms += 30_000;
    buyer.settles(1);
    assert!(buyer.pause() <= 60_000, "{}", buyer.pause());
}

#[test]
fn a_debt_is_taken_up_by_the_order_that_was_asked_to_pay_it() {
    for (billed, carried) in [(false, 0), (true, 500)] {
        let (mut buyer, chain) =
            Buyer::streaming_with(PaymentMode::Metered, Msat(900_000), Msat(500));
        if billed {
            buyer.bills(3_300, chain.head());
        }
        buyer.feed(Input::Cancel(RequestId(1)));
        let [account] = buyer.accounts()[..] else {
            panic!("one account");
        };
        assert_eq!(account.carried, Msat(carried));
        assert_eq!(account.status, Status::Failed(Code::Cancelled));
    }
}

#[test]
fn a_debt_that_our_books_do_not_know_is_not_taken_up() {
    for (code, carried) in [(Code::DebtDisputed, 0), (Code::PaymentFailed, 500)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let terms = buyer.terms_with_debt();
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), 1);
        buyer.is_not_settled(buyer.id(), code);
        let [account] = buyer.accounts()[..] else {
            panic!("one account");
        };
        assert_eq!(account.carried, Msat(carried), "{code:?}");
    }
}

#[test]
fn before_the_first_word_the_input_may_be_owed_too() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let window = Msat(1 << 60);
    let terms = Terms {
        window,
        ..buyer.terms()
    };
    buyer.hears_offer(&terms);
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    let [account] = buyer.accounts()[..] else {
        panic!("one account");
    };
    assert_eq!(account.unsure, Msat(16_800));
}
