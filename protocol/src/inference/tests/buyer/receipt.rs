//! Receipts, and what the end of an order says of its host.

use super::*;

#[test]
fn whatever_a_host_refuses_with_once_it_was_paid_or_spoke_it_failed() {
    let refusal = |code| Frame::Refusal(Refusal::new(code, "no"));
    for code in Code::ALL.iter().chain([&Code::Unknown(9_999)]) {
        // The entry is under way, or settled.
        for settled in [false, true] {
            let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
            buyer.pays_entry();
            if settled {
                buyer.settles(0);
            }
            buyer.hears(refusal(*code));
            assert_eq!(buyer.blamed(), (1, 0), "{code:?} {settled}");
            assert_eq!(buyer.dials.len(), 1, "nobody else is paid for it");
        }
        // Words came, though nothing is paid yet.
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        buyer.hears(refusal(*code));
        assert_eq!(buyer.blamed(), (1, 0), "{code:?}");
    }
    // It took the order and did nothing for it: the next one is asked.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    buyer.hears(refusal(Code::Busy));
    assert_eq!((buyer.blamed(), buyer.dials.len()), ((0, 1), 2));
}

#[test]
fn a_host_is_not_blamed_for_our_wallet_or_our_stop() {
    let refusal = |code| Frame::Refusal(Refusal::new(code, "no"));
    // Our payment is not there after half a minute: the host may well not have it.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.ms += 30_000;
    buyer.hears(refusal(Code::NotPaid));
    assert_eq!(buyer.blamed(), (0, 1));
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.settles(0);
    buyer.ms += 30_000;
    buyer.hears(refusal(Code::NotPaid));
    assert_eq!(buyer.blamed(), (1, 0));
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(refusal(Code::Cancelled));
    assert_eq!(buyer.blamed(), (0, 0));
}

#[test]
fn a_host_that_ends_an_order_keeps_a_payment_for_nothing_only_where_it_was_paid_ahead() {
    let took = |buyer: &Buyer| {
        buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some(outcome.took_payment),
            _ => None,
        })
    };
    let entered = || {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        buyer.settles(0);
        buyer
    };
    // Whatever it says, and if it says nothing.
    for code in [
        Code::Busy,
        Code::NotPaid,
        Code::Cancelled,
        Code::EngineFailed,
    ] {
        let mut buyer = entered();
        buyer.hears(Frame::Refusal(Refusal::new(code, "not today")));
        assert_eq!(took(&buyer), Some(true), "{code:?}");
    }
    let mut buyer = entered();
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some(true));
    // It served what was paid for, and its invoice says so.
    let serves = |buyer: &mut Buyer, tokens: u32| {
        let words = (0..tokens).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, u64::from(tokens), None)));
    };
    let mut buyer = entered();
    serves(&mut buyer, 8);
    let head = buyer.head(0..8);
    buyer.bills_as(1_000, head, |invoice, _| invoice.invoiced = Msat(2_800));
    assert_eq!((buyer.payments(), buyer.offences()), (2, vec![]));
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some(false));
    // Output that no signature covers can be anything.
    let mut buyer = entered();
    serves(&mut buyer, 8);
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some(true));
    // The input alone was paid for, and no word came.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let terms = buyer.with_entry(buyer.terms(), 800);
    buyer.hears_offer(&terms);
    buyer.settles(0);
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some(true));
    // The user cancels.
    let mut buyer = entered();
    buyer.feed(Input::Cancel(RequestId(1)));
    assert_eq!(took(&buyer), None);
}

#[test]
fn a_payment_that_settles_after_the_node_was_stopped_counts_as_taken_once() {
    for refused in [false, true] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        let stream = StreamId(buyer.stream);
        match refused {
            true => {
                buyer.ms += 31_000;
                buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
            }
            false => buyer.feed(Input::Closed { stream }),
        }
        buyer.restarts();
        buyer.told.clear();
        buyer.settles(0);
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { host } if *host == keys(1).key());
        assert_eq!(buyer.told.iter().filter(taken).count(), 1, "{refused}");
        // Nothing is left to remember.
        buyer.restarts();
        buyer.settles(0);
        assert_eq!(buyer.told.iter().filter(taken).count(), 1, "{refused}");
        assert!(buyer.disk().iter().all(|row| row.table != Table::Late));
    }
}

#[test]
fn input_that_was_paid_for_is_taken_for_nothing_where_no_output_came() {
    let took = |buyer: &Buyer| {
        buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some((outcome.refused, outcome.took_payment)),
            _ => None,
        })
    };
    let taken_late = |buyer: &Buyer| {
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { .. });
        buyer.told.iter().filter(taken).count()
    };
    // An invoice for the input, before any word, in place of an entry.
    let invoiced = || {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let terms = buyer.terms();
        buyer.hears_offer(&terms);
        let head = buyer.head(0..0);
        buyer.bills_as(800, head, |invoice, _| invoice.covers = counts(0));
        assert_eq!((buyer.payments(), buyer.offences()), (1, vec![]));
        buyer
    };
    let mut buyer = invoiced();
    buyer.settles(1);
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, true)));
    // The same while the payment is under way, and held for half a minute.
    let mut buyer = invoiced();
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
    buyer.settles(1);
    assert_eq!(taken_late(&buyer), 1);
    let mut buyer = invoiced();
    buyer.ms += 30_000;
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some((Some(Code::NotPaid), false)));
    buyer.settles(1);
    assert_eq!(taken_late(&buyer), 1);
    // The user wanted no more, and the host said the end of it.
    let mut buyer = invoiced();
    buyer.settles(1);
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(Frame::Chunk(chunk(0, Vec::new(), 0, Some(Finish::Stopped))));
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
    // One word came, and is covered.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    buyer.hears(Frame::Chunk(chunk(0, vec![token(0)], 1, None)));
    let head = buyer.head(0..1);
    buyer.bills_as(1_050, head, |invoice, _| invoice.covers = counts(1));
    buyer.settles(1);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
}

#[test]
fn a_payment_that_settles_after_its_order_broke_off_counts_as_taken_once() {
    let taken = |buyer: &Buyer| {
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { .. });
        buyer.told.iter().filter(taken).count()
    };
    let broken_off = |code: Option<Code>| {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        let stream = StreamId(buyer.stream);
        match code {
            Some(code) => buyer.hears(Frame::Refusal(Refusal::new(code, "no"))),
            None => buyer.feed(Input::Closed { stream }),
        }
        assert_eq!(taken(&buyer), 0);
        buyer
    };
    for code in [None, Some(Code::Busy), Some(Code::NotPaid)] {
        let mut buyer = broken_off(code);
        buyer.settles(0);
        buyer.settles(0);
        assert_eq!(taken(&buyer), 1, "{code:?}");
    }
    // It failed after all.
    let mut buyer = broken_off(None);
    let refusal = Refusal::new(Code::PaymentFailed, "no route");
    let order = OrderId::of(&buyer.order.as_ref().unwrap().digest());
    buyer.feed(Input::NotSettled {
        order,
        seq: 0,
        refusal,
    });
    buyer.settles(0);
    assert_eq!(taken(&buyer), 0);
    // We left ourselves.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.feed(Input::Cancel(RequestId(1)));
    buyer.settles(0);
    assert_eq!(taken(&buyer), 0);
}

#[test]
fn a_true_receipt_is_countersigned_and_one_false_word_of_it_is_an_offence() {
    let mut sold = Sold::invoiced();
    sold.settles();
    sold.hears_receipt(&sold.receipt());
    assert!(sold.is_finished(), "{:?}", sold.buyer.told);
    let lies: [fn(&mut Receipt); 22] = [
        |receipt| receipt.id = OrderId([9; 16]),
        |receipt| receipt.order = Digest([9; 32]),
        |receipt| receipt.terms = Digest([9; 32]),
        |receipt| receipt.buyer = keys(7).key(),
        |receipt| receipt.host = keys(7).key(),
        |receipt| receipt.model = ModelDigest([9; 32]),
        |receipt| receipt.tokenizer = Digest([9; 32]),
        |receipt| receipt.template = Digest([9; 32]),
        |receipt| receipt.numerics = None,
        |receipt| receipt.prices = Prices::chat(1, 1),
        |receipt| receipt.head = Digest([9; 32]),
        |receipt| receipt.finish = Finish::Length,
        |receipt| receipt.counts = counts(9),
        |receipt| receipt.cost = Msat(2_801),
        |receipt| receipt.payments.clear(),
        |receipt| receipt.payments[0].seq = 2,
        |receipt| receipt.payments[0].hash = PaymentHash([9; 32]),
        |receipt| receipt.payments[0].msat = Msat(2_900),
        |receipt| receipt.payments.push(receipt.payments[0]),
        |receipt| receipt.debt = Msat(1),
        |receipt| receipt.status = Status::Stopped,
        |receipt| receipt.status = Status::Failed(Code::EngineFailed),
    ];
    for (number, lie) in lies.iter().enumerate() {
        let mut sold = Sold::invoiced();
        sold.settles();
        let mut receipt = sold.receipt();
        lie(&mut receipt);
        sold.hears_receipt(&receipt);
        assert!(!sold.is_finished(), "lie {number}");
        assert_eq!(
            sold.buyer.offences(),
            [OffenceKind::WrongReceipt],
            "lie {number}"
        );
    }
}

#[test]
fn an_order_that_ends_without_a_word_is_taken_for_nothing_though_its_receipt_is_true() {
    for tokens in [&[][..], &[token(0)]] {
        let sold = Sold::answered(&[], tokens, false);
        assert_eq!(sold.outcome().took_payment, tokens.is_empty());
    }
}

#[test]
fn an_end_that_shows_no_text_is_a_blank_answer_unless_we_wanted_no_more() {
    let piece = |control, text: &str| ChainedToken {
        piece: Piece {
            control,
            ..Piece::text(text)
        },
        ..token(0)
    };
    let (end, word) = (piece(true, "<|im_end|>"), piece(false, "Yes"));
    let blank = |stop: &[&str], tokens: &[ChainedToken], user_stops| {
        let sold = Sold::answered(stop, tokens, user_stops);
        assert!(tokens.is_empty() || !sold.outcome().took_payment);
        sold.outcome().blank
    };
    assert!(blank(&[], std::slice::from_ref(&end), false));
    assert!(blank(&[], &[], false));
    assert!(!blank(&[], &[word.clone(), end.clone()], false));
    assert!(!blank(&[], std::slice::from_ref(&end), true));
    // A stop string that comes first cuts everything off.
    assert!(blank(&["Yes"], std::slice::from_ref(&word), false));
    assert!(!blank(&["s"], &[word], false));
}

#[test]
fn vectors_are_no_blank_answer() {
    let mut buyer = Buyer::idle();
    let texts = vec!["a".to_owned()];
    let job = Job {
        work: Work::Embed { texts },
        max_output: 0,
        ..job()
    };
    let usual = (PaymentMode::Metered, Msat(1_000_000), job);
    buyer.buys(vec![candidate(1)], usual, false);
    let terms = buyer.with_entry(buyer.terms(), 800);
    buyer.hears_offer(&terms);
    buyer.settles(0);
    let vector = Vector(vec![0; 4]);
    let token = embedded(0, &vector);
    let chain = buyer.chain(std::iter::once(token.clone()));
    let mut last = chunk(0, vec![token], 0, Some(Finish::Stop));
    last.totals.items = 1;
    last.attached.vectors = vec![vector];
    let totals = last.totals;
    buyer.hears(Frame::Chunk(last));
    let terms = buyer.offered.unwrap();
    let mut sold = Sold {
        buyer,
        terms,
        chain,
    };
    let mut receipt = sold.receipt();
    (receipt.counts, receipt.cost) = (totals, Msat(800));
    receipt.payments[0] = PaymentEntry {
        seq: 0,
        hash: PaymentHash([1; 32]),
        msat: Msat(800),
    };
    sold.hears_receipt(&receipt);
    assert!(sold.is_finished(), "{:?}", sold.buyer.offences());
    let outcome = sold.outcome();
    assert!(outcome.went_well() && !outcome.took_payment);
}

#[test]
fn a_receipt_waits_until_our_wallet_knows_of_the_payments_in_it() {
    let mut sold = Sold::invoiced();
    sold.hears_receipt(&sold.receipt());
    assert!(!sold.is_finished());
    sold.settles();
    assert!(sold.is_finished());
    // A wallet that stays silent holds it up for a few seconds.
    let mut sold = Sold::invoiced();
    sold.hears_receipt(&sold.receipt());
    let finished = |effect: &Effect| {
        matches!(
            effect,
            Effect::Deliver {
                event: BuyerEvent::Finished { .. },
                ..
            }
        )
    };
    assert!(!expires(&mut sold.buyer, 4_000).iter().any(finished));
    assert!(expires(&mut sold.buyer, 6_000).iter().any(finished));
    // So does a stream that ends meanwhile: it is the host's last word.
    let mut sold = Sold::invoiced();
    sold.hears_receipt(&sold.receipt());
    let stream = StreamId(sold.buyer.stream);
    sold.buyer.feed(Input::Closed { stream });
    assert!(sold.is_finished());
}

#[test]
fn a_finished_order_is_written_down_and_told_to_the_hosts_history() {
    let mut sold = Sold::invoiced();
    sold.buyer.waits(1_000);
    sold.settles();
    sold.hears_receipt(&sold.receipt());
    assert!(sold.is_finished());
    let buyer = &sold.buyer;
    let [outcome] = buyer.outcomes()[..] else {
        panic!("one order ended");
    };
    assert_eq!((outcome.failure, outcome.refused), (None, None));
    assert_eq!(outcome.tokens, 8);
    assert!(outcome.price_kept && !outcome.took_payment);
    let [account] = buyer.accounts()[..] else {
        panic!("one account");
    };
    assert_eq!((account.cost, account.unsure), (Msat(2_800), Msat::ZERO));
    assert_eq!(
        (account.counts, account.status),
        (counts(8), Status::Complete)
    );
    assert!(account.receipt.is_some());
    // While it was open each part was written once; then the whole of it.
    let value = |record: &Record| record.value.clone();
    let open = |record: &&Record| record.table == Table::OpenOrders && record.value.is_some();
    let rows: Vec<_> = buyer
        .written
        .iter()
        .filter(open)
        .filter_map(value)
        .collect();
    let first = OrderRecord::decode(&rows[0]).unwrap();
    assert!(first.order.is_some() && first.terms.is_some() && first.tokens.is_empty());
    let part: OpenPart = crate::codec::decode(&rows[1], 1 << 20).unwrap();
    assert_eq!((part.tokens.len(), part.invoices.len()), (8, 1));
    assert_eq!((part.counts, part.cost), (counts(8), Msat(2_800)));
    let kept = |record: &&Record| record.table == Table::Orders;
    let kept = buyer.written.iter().find(kept).and_then(value).unwrap();
    let kept = OrderRecord::decode(&kept).unwrap();
    assert_eq!((kept.tokens.len(), kept.invoices.len()), (8, 1));
    assert!(kept.receipt.is_some() && kept.countersigned.is_some());
    assert_eq!(kept.status, Some(Status::Complete));
    let evidence = buyer.told.iter().find_map(|message| match message {
        Message::OrderEnded(evidence) => Some(evidence),
        _ => None,
    });
    let bundle = &evidence.unwrap().bundle;
    assert_eq!((bundle.tokens.len(), bundle.invoices.len()), (8, 1));
}

#[test]
fn the_receipt_of_an_answer_that_was_stopped_says_so() {
    for (finish, status, fine) in [
        (Finish::Stopped, Status::Stopped, true),
        (Finish::Stopped, Status::Complete, false),
        (Finish::Stop, Status::Complete, false),
    ] {
        let mut sold = Sold::new();
        sold.buyer.feed(Input::Stop(RequestId(1)));
        let end = chunk(1, Vec::new(), 8, Some(Finish::Stopped));
        sold.buyer.hears(Frame::Chunk(end));
        sold.buyer.bills(2_800, sold.chain.head());
        sold.settles();
        let mut receipt = sold.receipt();
        (receipt.finish, receipt.status) = (finish, status);
        sold.hears_receipt(&receipt);
        assert_eq!(sold.is_finished(), fine, "{finish:?} {status:?}");
    }
}
