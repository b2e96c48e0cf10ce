//! Which orders a host takes, which it lets wait, and when they begin.

use super::*;

#[test]
fn input_that_was_invoiced_is_booked_though_no_token_came() {
    let mut machine = host();
    let signed = order(1);
    let order = OrderId::of(&signed.digest());
    let effects = arrives_with(&mut machine, 0, 1, 1, &signed, Msat(4_000));
    accepts(&mut machine, 1, 1, &effects);
    // The buyer wants no more before there is anything, and then does not pay in time.
    let (stream, frame) = (StreamId(1), Box::new(Frame::Stop));
    let effects = feed(&mut machine, 2, Input::Received { stream, frame });
    let invoiced = |effect: &Effect| matches!(effect, Effect::Tell(Message::MakeInvoice { seq: 1, msat, .. }) if *msat == Msat(800));
    assert!(effects.iter().any(invoiced), "{effects:?}");
    let result = Ok(("invoice".to_owned(), PaymentHash([1; 32])));
    let seq = 1;
    feed(&mut machine, 3, Input::InvoiceMade { order, seq, result });
    let mut out = Outbox::default();
    machine.expire(at(600_000), &mut out);
    let effects: Vec<_> = out.drain().collect();
    assert_eq!(accounts(&effects), [(counts(0), Msat(800))]);
}

#[test]
fn an_order_that_is_sent_again_is_not_served_again() {
    let mut machine = host();
    let signed = order(1);
    let terms = arrives_with(&mut machine, 0, 1, 1, &signed, WINDOW);
    assert!(begins(&accepts(&mut machine, 0, 1, &terms)));
    // While it is under way, and when it is over.
    let again = arrives(&mut machine, 1, 2, 2, &signed);
    assert_eq!(refusals(&again), [Code::BadOrder]);
    feed(
        &mut machine,
        2,
        Input::Closed {
            stream: StreamId(1),
        },
    );
    let again = arrives(&mut machine, 3, 3, 2, &signed);
    assert_eq!(refusals(&again), [Code::BadEnvelope]);
}

#[test]
fn a_known_key_holds_no_place_before_it_accepts() {
    let mut machine = host();
    let first = arrives_with(&mut machine, 0, 1, 1, &order(1), WINDOW);
    let second = arrives_with(&mut machine, 0, 2, 2, &order(2), WINDOW);
    assert_eq!(refusals(&second), []);
    assert!(begins(&accepts(&mut machine, 1, 2, &second)));
    // Now the only place is taken.
    let third = arrives_with(&mut machine, 1, 3, 3, &order(3), WINDOW);
    assert_eq!(refusals(&third), [Code::Busy]);
    // Who accepted late waits.
    assert!(!begins(&accepts(&mut machine, 2, 1, &first)));
    assert_eq!(machine.active(), 2);
}

#[test]
fn a_prefill_that_is_cancelled_is_owed_and_one_that_failed_is_not() {
    let owed = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Tell(Message::CloseOrder { account, unpaid }) => {
                Some((account.counts.input_tokens, *unpaid))
            }
            _ => None,
        })
    };
    let mut machine = host();
    let terms = arrives_with(&mut machine, 0, 1, 1, &order(1), WINDOW);
    accepts(&mut machine, 1, 1, &terms);
    // Eight tokens at a hundred msat.
    let cancelled = cancels(&mut machine, 2, 1);
    assert_eq!(owed(&cancelled), Some((8, Msat(800))));
    let signed = order(2);
    let terms = arrives_with(&mut machine, 3, 2, 1, &signed, WINDOW);
    accepts(&mut machine, 4, 2, &terms);
    let failed = Input::EngineFailed {
        order: OrderId::of(&signed.digest()),
        reason: "a fault".into(),
    };
    let failed = feed(&mut machine, 5, failed);
    assert_eq!(owed(&failed), Some((0, Msat::ZERO)));
}

#[test]
fn an_order_whose_cap_ends_at_the_input_is_refused_before_it_is_paid() {
    let mut machine = host();
    machine.config.modes = vec![PaymentMode::Metered, PaymentMode::Before];
    for (n, cap) in [(1, 700), (2, 800), (3, 1_049)] {
        let signed = order_with(n, PaymentMode::Before, Msat(cap));
        let effects = arrives(&mut machine, 0, u64::from(n), n, &signed);
        assert_eq!(refusals(&effects), [Code::CapTooLow], "a cap of {cap}");
    }
    let signed = order_with(4, PaymentMode::Before, Msat(1_050));
    assert_eq!(refusals(&arrives(&mut machine, 0, 4, 4, &signed)), []);
}

#[test]
fn a_refused_order_leaves_no_nonce() {
    let mut machine = host();
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        arrives(&mut machine, 0, u64::from(n), 1, &order(n));
    }
    let refused = arrives(&mut machine, 0, 99, 1, &order(99));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(writes(&refused), []);
}

#[test]
fn an_order_that_ends_while_its_prompt_is_counted_cancels_the_count() {
    let mut machine = host();
    let (stream, signed) = (StreamId(1), order(1));
    feed(
        &mut machine,
        0,
        Input::Inbound {
            stream,
            caller: caller(1),
        },
    );
    let frame = Box::new(Frame::Order(signed.clone()));
    let effects = feed(&mut machine, 0, Input::Received { stream, frame });
    let counting = effects.iter().find_map(|effect| match effect {
        Effect::CountPrompt { id, .. } => Some(*id),
        _ => None,
    });
    let id = counting.unwrap();
    let effects = feed(&mut machine, 1, Input::Closed { stream });
    assert!(effects.contains(&Effect::CancelCount { id }));
    // One that is counted has nothing to cancel.
    let mut machine = host();
    arrives(&mut machine, 0, 1, 1, &signed);
    let effects = feed(&mut machine, 1, Input::Closed { stream });
    let cancels = |effect: &Effect| matches!(effect, Effect::CancelCount { .. });
    assert!(!effects.iter().any(cancels));
}

#[test]
fn a_model_that_leaves_the_offer_ends_the_orders_that_have_not_begun() {
    let mut machine = host_with_queue(4);
    let send = |machine: &mut Inference, stream: u64| {
        let effects = arrives(machine, 0, stream, stream as u16, &order(stream as u16));
        assert_eq!(refusals(&effects), [], "{stream}");
        effects
    };
    // One runs, one is paid for and waits, one is accepted, one has its terms, one is counted.
    for stream in [1, 2, 3] {
        let terms = send(&mut machine, stream);
        accepts(&mut machine, 0, stream, &terms);
    }
    assert!(begins(&entry_paid(&mut machine, 0, &order(1))));
    assert!(!begins(&entry_paid(&mut machine, 0, &order(2))));
    send(&mut machine, 4);
    comes(&mut machine, 0, 5, caller(5), &order(5));
    assert_eq!(machine.active(), 5);

    let effects = feed(&mut machine, 1, Input::Serve(Vec::new()));
    assert_eq!(refusals(&effects), [Code::EngineFailed; 4]);
    let ends = effects.iter().filter_map(|effect| match effect {
        Effect::Close { stream } => Some(stream.0),
        _ => None,
    });
    let mut ends: Vec<u64> = ends.collect();
    ends.sort();
    assert_eq!(ends, [2, 3, 4, 5]);
    assert_eq!(accounts(&effects).len(), 4);
    // No sender is blamed, and what runs is its engine's to end.
    assert_eq!(machine.active(), 1);
    let blamed = |sender: &Sender| !matches!(sender, Sender::Address(_));
    assert!(!machine.voids.keys().any(blamed), "{:?}", machine.voids);
    // A payment that was under way finds no order that would wait for ever.
    let late = entry_paid(&mut machine, 2, &order(3));
    assert!(!begins(&late));
    assert_eq!(machine.active(), 1);
    // Of a model that stays nothing ends.
    let served = served_with(offer(), 4);
    let back = |machine: &mut Inference| feed(machine, 3, Input::Serve(vec![served.clone()]));
    back(&mut machine);
    send(&mut machine, 6);
    assert_eq!(refusals(&back(&mut machine)), []);
    assert_eq!(machine.active(), 2);
}

#[test]
fn terms_announce_what_makes_a_buyer_wait_for_the_longest_answer_ahead() {
    let mut machine = host_with_queue(4);
    let starts_within = |effects: &[Effect], ms| {
        let buyer = keys(2);
        let terms = terms_of(effects).open::<Terms>(&buyer, NETWORK, &buyer.key(), at(ms).wall);
        terms.unwrap().body.starts_within_ms
    };
    let first = order(1);
    let effects = arrives(&mut machine, 0, 1, 1, &first);
    assert_eq!(starts_within(&effects, 0), 0);
    accepts(&mut machine, 1, 1, &effects);
    entry_paid(&mut machine, 2, &first);
    // Nothing is known of its pace: it is taken for a usual order.
    let effects = arrives(&mut machine, 2, 2, 2, &order(2));
    assert_eq!(starts_within(&effects, 2), 10_000);
    // Eight of 64 tokens in 80 s: the others may take 560 s and an eighth more, and a buyer waits
    // for 180 s and twice what was announced.
    let produced = Input::Produced {
        order: OrderId::of(&first.digest()),
        tokens: (0..8).map(token).collect(),
        finish: None,
        attached: Default::default(),
    };
    feed(&mut machine, 80_002, produced);
    let effects = arrives(&mut machine, 80_002, 3, 3, &order(3));
    assert_eq!(starts_within(&effects, 80_002), (630_000 - 180_000) / 2);
    // It ends there: an order takes some 19 s, its 64 tokens may take 640 s and an eighth more.
    let (stream, frame) = (StreamId(1), Box::new(Frame::Stop));
    feed(&mut machine, 80_002, Input::Received { stream, frame });
    let fourth = order(4);
    let effects = arrives(&mut machine, 80_002, 4, 4, &fourth);
    assert_eq!(starts_within(&effects, 80_002), 0);
    accepts(&mut machine, 80_003, 4, &effects);
    entry_paid(&mut machine, 80_003, &fourth);
    let effects = arrives(&mut machine, 80_003, 5, 5, &order(5));
    assert_eq!(starts_within(&effects, 80_003), (720_000 - 180_000) / 2);
}

#[test]
fn a_buyer_that_pays_late_does_not_lengthen_announced_waits() {
    // What is announced behind one order, after another whose buyer left `late_ms` after the
    // engine stood for want of payment.
    let announced = |late_ms: u64| {
        let mut machine = host_with_queue(4);
        let first = order(1);
        let effects = arrives(&mut machine, 0, 1, 1, &first);
        accepts(&mut machine, 1, 1, &effects);
        let effects = entry_paid(&mut machine, 2, &first);
        let allowed = effects.iter().find_map(|effect| match effect {
            Effect::StartEngine { allowed, .. } => Some(*allowed),
            _ => None,
        });
        let produced = Input::Produced {
            order: OrderId::of(&first.digest()),
            tokens: (0..allowed.unwrap() as u32).map(token).collect(),
            finish: None,
            attached: Default::default(),
        };
        feed(&mut machine, 1_002, produced);
        let stream = StreamId(1);
        feed(&mut machine, 1_002 + late_ms, Input::Closed { stream });
        let second = order(2);
        let effects = arrives(&mut machine, 70_000, 2, 2, &second);
        accepts(&mut machine, 70_001, 2, &effects);
        entry_paid(&mut machine, 70_002, &second);
        let effects = arrives(&mut machine, 70_002, 3, 3, &order(3));
        let buyer = keys(2);
        let terms =
            terms_of(&effects).open::<Terms>(&buyer, NETWORK, &buyer.key(), at(70_002).wall);
        terms.unwrap().body.starts_within_ms
    };
    assert!(announced(0) > 0);
    assert_eq!(announced(0), announced(50_000));
}

#[test]
fn an_order_whose_entry_payment_is_late_is_served_while_its_stream_lives() {
    let mut machine = host();
    let signed = order(1);
    let effects = arrives(&mut machine, 0, 1, 1, &signed);
    accepts(&mut machine, 1, 1, &effects);
    // Past the terms' life and the invoice's expiry.
    let late = 150_000;
    let mut out = Outbox::default();
    machine.expire(at(late), &mut out);
    let effects = entry_paid(&mut machine, late, &signed);
    let starts = |effect: &Effect| matches!(effect, Effect::StartEngine { .. });
    assert!(effects.iter().any(starts), "{effects:?}");
    // Money came: now it is written down.
    assert!(
        writes(&effects)
            .iter()
            .any(|record| record.table == Table::OpenOrders)
    );
}

#[test]
fn whoever_opens_many_streams_loses_its_own() {
    let mut machine = host();
    let open = |machine: &mut Inference, stream: u64, from: u16| {
        let (stream, caller) = (StreamId(stream), caller(from));
        let effects = feed(machine, 0, Input::Inbound { stream, caller });
        effects.iter().find_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        })
    };
    assert_eq!(open(&mut machine, 0, 7), None);
    for stream in 1..200 {
        let closed = open(&mut machine, stream, 1);
        assert_ne!(closed, Some(0), "the lone stream of another peer stays");
    }
}

#[test]
fn an_address_with_many_peers_loses_its_own_streams() {
    let mut machine = host();
    let open = |machine: &mut Inference, stream: u64, caller: Caller| {
        let stream = StreamId(stream);
        let effects = feed(machine, 0, Input::Inbound { stream, caller });
        effects.iter().find_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        })
    };
    // Two streams of one peer elsewhere, then one of each of many peers.
    assert_eq!(open(&mut machine, 0, caller(7)), None);
    assert_eq!(open(&mut machine, 1, caller(7)), None);
    for stream in 2..200 {
        let closed = open(&mut machine, stream, neighbour(stream as u16));
        assert!(!matches!(closed, Some(0 | 1)), "{closed:?}");
    }
}
