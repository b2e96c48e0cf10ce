//! What a buyer takes for output, and how long it waits for it.

use super::*;

#[test]
fn an_order_whose_pieces_fill_its_evidence_ends_and_the_rest_is_kept() {
    let mut job = job();
    job.max_output = 4_096;
    let mut host = candidate(1);
    host.offer.context = 1 << 20;
    let mut buyer = Buyer::asking(vec![host], PaymentMode::Metered, Msat(10_000_000), job);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    let long = |n| ChainedToken {
        piece: Piece::text(vec![b'x'; 4_096]),
        ..token(n)
    };
    let mut heard = 0;
    while !matches!(buyer.said.last(), Some(BuyerEvent::Failed(_))) && heard < 256 {
        let words = (16 * heard..16 * (heard + 1)).map(long).collect();
        heard += 1;
        buyer.hears(Frame::Chunk(chunk(
            heard - 1,
            words,
            u64::from(heard) * 16,
            None,
        )));
    }
    // A piece and what stands beside it are 4,168 bytes; 8 MiB but for 256 KiB are kept.
    assert_eq!(heard, (8_388_608 - 262_144) / (16 * 4_168) + 1);
    assert_eq!(buyer.offences(), [OffenceKind::MalformedFrame]);
    let bundle = buyer.told.iter().find_map(|message| match message {
        Message::OrderEnded(evidence) => Some(&evidence.bundle),
        _ => None,
    });
    let bytes = crate::codec::encode(bundle.unwrap()).len();
    assert!(bytes <= crate::limits::MAX_AUDIT_FRAME_BYTES, "{bytes}");
}

#[test]
fn a_host_that_goes_on_after_a_stop_is_left_and_paid_nothing_more() {
    // A window of 4,000 is its own word; a step of 1,000 is four tokens, and as much again as
    // was delivered, for 2,800, are eleven.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    for n in 8..19 {
        buyer.hears(Frame::Chunk(chunk(
            n - 7,
            vec![token(n)],
            u64::from(n) + 1,
            None,
        )));
    }
    assert!(!buyer.sent.contains(&"cancel"));
    buyer.hears(Frame::Chunk(chunk(12, vec![token(19)], 20, None)));
    assert_eq!(buyer.sent.last(), Some(&"cancel"));
    let head = buyer.head(0..20);
    buyer.bills(2_800, head);
    assert_eq!((buyer.payments(), buyer.blamed()), (0, (1, 0)));
    assert_eq!(buyer.offences(), []);
    // Slowly, and without end.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    for n in 8..11 {
        buyer.waits(3_000);
        buyer.hears(Frame::Chunk(chunk(
            n - 7,
            vec![token(n)],
            u64::from(n) + 1,
            None,
        )));
    }
    // A second Stop gives it no more time, and neither does an invoice.
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
    buyer.waits(1_000);
    assert_eq!(
        (buyer.sent.last(), buyer.blamed()),
        (Some(&"cancel"), (1, 0))
    );
    // Once the last chunk came there is time to pay.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stopped))));
    buyer.waits(60_000);
    buyer.bills(2_800, chain.head());
    assert_eq!((buyer.payments(), buyer.blamed()), (1, (0, 0)));
}

#[test]
fn chunks_with_nothing_in_them_do_not_keep_an_order_alive() {
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, None)));
    assert_eq!(buyer.offences(), [OffenceKind::WrongCount]);
}

#[test]
fn an_end_that_was_not_asked_for_or_is_not_due_is_a_false_count() {
    for (finish, stop, honest) in [
        (Finish::Stop, false, true),
        (Finish::Length, false, true),
        (Finish::Budget, false, false),
        (Finish::Budget, true, false),
        (Finish::Stopped, false, false),
        (Finish::Stopped, true, true),
    ] {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        if stop {
            buyer.feed(Input::Stop(RequestId(1)));
        }
        buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(finish))));
        let offences = match honest {
            true => Vec::new(),
            false => vec![OffenceKind::WrongCount],
        };
        assert_eq!(buyer.offences(), offences, "{finish:?} {stop}");
    }
    // A ninth token would cost more than what the host was told that it may ask for.
    for (cap, carried, honest) in [(3_049, 0, true), (3_050, 0, false), (3_050, 1, true)] {
        let (mut buyer, _) = Buyer::streaming_with(PaymentMode::Metered, Msat(cap), Msat(carried));
        buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Budget))));
        assert_eq!(buyer.offences().is_empty(), honest, "{cap} {carried}");
    }
}

#[test]
fn an_empty_answer_says_nothing_of_a_hosts_speed() {
    for (tokens, timed) in [(0, false), (1, true)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        buyer.settles(0);
        let words = (0..tokens as u32).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, tokens, Some(Finish::Stop))));
        let stream = StreamId(buyer.stream);
        buyer.feed(Input::Closed { stream });
        let first = buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some(outcome.first_token_ms),
            _ => None,
        });
        assert_eq!(first.unwrap().is_some(), timed, "{tokens}");
    }
}

#[test]
fn embeddings_that_end_before_the_last_text_are_no_complete_order() {
    for (texts, honest) in [(2, true), (3, false)] {
        let mut buyer = Buyer::idle();
        let work = Work::Embed {
            texts: vec!["a".to_owned(); texts],
        };
        let job = Job {
            work,
            max_output: 0,
            ..job()
        };
        let hosts = vec![candidate(1)];
        buyer.buys(hosts, (PaymentMode::Metered, Msat(1_000_000), job), false);
        buyer.hears_terms();
        let vector = Vector(vec![0; 4]);
        let mut last = chunk(0, Vec::new(), 0, Some(Finish::Stop));
        last.totals.items = 2;
        last.tokens = (0..2).map(|id| embedded(id, &vector)).collect();
        last.attached.vectors = vec![vector; 2];
        buyer.hears(Frame::Chunk(last));
        let offences = match honest {
            true => vec![],
            false => vec![OffenceKind::WrongCount],
        };
        assert_eq!(buyer.offences(), offences, "{texts}");
    }
}

#[test]
fn a_chunk_is_the_next_one_and_says_what_came() {
    let next = || chunk(1, vec![token(8)], 9, None);
    let fine = [
        next(),
        chunk(1, Vec::new(), 8, Some(Finish::Stop)),
        chunk(1, (8..64).map(token).collect(), 64, None),
    ];
    for chunk in fine {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        buyer.hears(Frame::Chunk(chunk));
        assert_eq!(buyer.offences(), []);
    }
    let mut input = next();
    input.totals.input_tokens = 9;
    let vectors = vec![crate::wire::attached::Vector(vec![0; 4])];
    let mut attached = next();
    attached.attached = Attached {
        vectors,
        ..Attached::default()
    };
    let lies = [
        chunk(0, vec![token(8)], 9, None),
        chunk(2, vec![token(8)], 9, None),
        chunk(1, vec![token(8)], 10, None),
        chunk(1, vec![token(8)], 8, None),
        chunk(1, (8..65).map(token).collect(), 65, None),
        input,
        attached,
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        buyer.hears(Frame::Chunk(lie));
        assert_eq!(buyer.offences(), [OffenceKind::WrongCount], "lie {number}");
        assert_eq!(buyer.last_words().0, Code::ProtocolViolation);
    }
    // Nothing comes behind the end.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.hears(Frame::Chunk(chunk(2, vec![token(8)], 9, None)));
    assert_eq!(buyer.offences(), [OffenceKind::WrongCount]);
}

#[test]
fn the_time_of_an_answer_is_counted_from_its_order_and_from_its_first_word() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let sent = buyer.ms;
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    buyer.waits(5_000);
    buyer.hears(Frame::Chunk(chunk(0, vec![token(0)], 1, None)));
    let first = buyer.ms - sent;
    buyer.waits(2_000);
    buyer.hears(Frame::Chunk(chunk(1, vec![token(1)], 2, None)));
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    let [outcome] = buyer.outcomes()[..] else {
        panic!("one order ended");
    };
    assert_eq!(outcome.first_token_ms, Some(first));
    assert_eq!((outcome.stream_ms, outcome.tokens), (2_001, 2));
    assert_eq!(outcome.failure, Some(Code::Disconnected));
}

#[test]
fn after_a_stop_a_host_may_send_to_the_last_token_what_it_had_granted() {
    for (tokens, left) in [(18, false), (19, true)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        // Ten tokens beside the eight.
        let window = Msat(2_500);
        let terms = Terms {
            window,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        buyer.hears(Frame::Chunk(chunk(0, (0..8).map(token).collect(), 8, None)));
        buyer.feed(Input::Stop(RequestId(1)));
        let more = (8..tokens).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(1, more, u64::from(tokens), None)));
        assert_eq!(buyer.sent.contains(&"cancel"), left, "{tokens}");
    }
}

#[test]
fn a_host_that_keeps_silent_is_left_when_its_time_is_up_and_not_before() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    assert_eq!(dials(&expires(&mut buyer, 29_000)), 0);
    assert_eq!(dials(&expires(&mut buyer, 31_000)), 1);
    // Once words came another host's answer would be spliced to them.
    let mut sold = Sold::new();
    assert_eq!(expires(&mut sold.buyer, 89_000), []);
    let late = expires(&mut sold.buyer, 91_000);
    let failed = |effect: &Effect| {
        matches!(
            effect,
            Effect::Deliver {
                event: BuyerEvent::Failed(refusal),
                ..
            } if refusal.code == Code::Timeout
        )
    };
    assert!(late.iter().any(failed), "{late:?}");
    assert_eq!(dials(&late), 0);
}
