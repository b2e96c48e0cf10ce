//! What a buyer checks before it pays or signs: each lie by itself, beside the truth.

use super::*;
use crate::message::inference::{OrderAccount, Outcome};
use crate::money::Meter;
use crate::order::record::{OpenPart, OrderRecord};
use crate::wire::attached::Attached;
use crate::wire::order::{Paid, PaymentEntry, Receipt, Status};
use crate::work::ChatMessage;

/// An order of which the host sent eight tokens, and what it may sign about it.
struct Sold {
    buyer: Buyer,
    terms: Digest,
    chain: TokenChain,
}

impl Sold {
    fn new() -> Sold {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let terms = buyer.seal(&buyer.terms());
        let digest = terms.digest();
        buyer.hears(Frame::Terms(terms));
        let order = buyer.order.as_ref().unwrap().digest();
        let mut chain = TokenChain::new(&order, &digest);
        let tokens: Vec<_> = (0..8).map(token).collect();
        tokens.iter().for_each(|token| chain.push(token));
        buyer.hears(Frame::Chunk(chunk(0, tokens, 8, None)));
        Sold {
            buyer,
            terms: digest,
            chain,
        }
    }

    /// All output came, and the whole of it is invoiced.
    fn invoiced() -> Sold {
        let mut sold = Sold::new();
        let end = chunk(1, Vec::new(), 8, Some(Finish::Stop));
        sold.buyer.hears(Frame::Chunk(end));
        sold.buyer.bills(2_800, sold.chain.head());
        assert_eq!(sold.buyer.payments(), 1);
        sold
    }

    fn order(&self) -> OrderId {
        OrderId::of(&self.buyer.order.as_ref().unwrap().digest())
    }

    fn settles(&mut self) {
        let (order, hash) = (self.order(), PaymentHash([4; 32]));
        self.buyer.feed(Input::Settled {
            order,
            seq: 1,
            hash,
            preimage: None,
            msat: Msat(2_800),
            fee: Msat::ZERO,
            ms: 1,
        });
    }

    fn receipt(&self) -> Receipt {
        let signed = self.buyer.order.as_ref().unwrap();
        let envelope: crate::wire::envelope::Envelope =
            crate::codec::decode(&signed.bytes, 1 << 20).unwrap();
        let offer = offer();
        Receipt {
            id: self.order(),
            order: signed.digest(),
            terms: self.terms,
            buyer: envelope.from,
            host: keys(1).key(),
            model: MODEL,
            tokenizer: offer.tokenizer,
            template: offer.template,
            numerics: offer.numerics,
            prices: offer.prices,
            prompt: Digest([3; 32]),
            head: self.chain.head(),
            finish: Finish::Stop,
            counts: counts(8),
            cost: Msat(2_800),
            payments: vec![PaymentEntry {
                seq: 1,
                hash: PaymentHash([4; 32]),
                msat: Msat(2_800),
            }],
            debt: Msat::ZERO,
            started: at(0).wall,
            ended: at(1).wall,
            status: Status::Complete,
            extensions: Vec::new(),
        }
    }

    fn hears_receipt(&mut self, receipt: &Receipt) {
        let signed = self.buyer.seal(receipt);
        self.buyer.hears(Frame::Receipt(signed));
    }

    /// The buyer countersigned, and its client has the receipt.
    fn is_finished(&self) -> bool {
        let finished = |event: &BuyerEvent| matches!(event, BuyerEvent::Finished { .. });
        self.buyer.said.iter().any(finished)
    }

    fn invoice(&self) -> (Invoice, InvoiceFacts) {
        let (order, covers) = (self.order(), counts(8));
        let facts = InvoiceFacts {
            payee: LIGHTNING,
            hash: PaymentHash([4; 32]),
            msat: Some(Msat(2_800)),
            description_hash: Some(description_hash(&order, 1, &covers)),
            expires: at(600_000).wall,
        };
        let invoice = Invoice {
            order,
            seq: 1,
            bolt11: String::new(),
            msat: Msat(2_800),
            covers,
            invoiced: Msat(2_800),
            head: self.chain.head(),
            window: Msat(4_000),
            extensions: Vec::new(),
        };
        (invoice, facts)
    }

    fn hears_invoice(&mut self, mut invoice: Invoice, facts: &InvoiceFacts) {
        invoice.bolt11 = serde_json::to_string(facts).unwrap();
        let signed = self.buyer.seal(&invoice);
        self.buyer.hears(Frame::Invoice(signed));
    }
}

fn expires(buyer: &mut Buyer, ms: u64) -> Vec<Effect> {
    let mut out = Outbox::default();
    buyer.machine.expire(at(ms), &mut out);
    out.drain().collect()
}

fn dials(effects: &[Effect]) -> usize {
    let dials = |effect: &&Effect| matches!(effect, Effect::OpenStream { .. });
    effects.iter().filter(dials).count()
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

impl Sold {
    /// An order whose entry is just the cost of these tokens, which are all of the answer.
    fn answered(stop: &[&str], tokens: &[ChainedToken], user_stops: bool) -> Sold {
        let job = Job {
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            ..job()
        };
        let hosts = vec![candidate(1)];
        let mut buyer = Buyer::asking(hosts, PaymentMode::Metered, Msat(1_000_000), job);
        let total = tokens.len() as u64;
        let cost = 800 + 250 * total;
        let terms = buyer.with_entry(buyer.terms(), cost);
        buyer.hears_offer(&terms);
        buyer.settles(0);
        let (mut finish, mut status) = (Finish::Stop, Status::Complete);
        if user_stops {
            buyer.feed(Input::Stop(RequestId(1)));
            (finish, status) = (Finish::Stopped, Status::Stopped);
        }
        buyer.hears(Frame::Chunk(chunk(0, tokens.to_vec(), total, Some(finish))));
        let chain = buyer.chain(tokens.iter().cloned());
        let terms = buyer.offered.unwrap();
        let mut sold = Sold {
            buyer,
            terms,
            chain,
        };
        let receipt = Receipt {
            counts: counts(total),
            cost: Msat(cost),
            finish,
            status,
            payments: vec![PaymentEntry {
                seq: 0,
                hash: PaymentHash([1; 32]),
                msat: Msat(cost),
            }],
            ..sold.receipt()
        };
        sold.hears_receipt(&receipt);
        assert!(sold.is_finished(), "{:?}", sold.buyer.offences());
        sold
    }

    fn outcome(&self) -> &Outcome {
        let [outcome] = self.buyer.outcomes()[..] else {
            panic!("one order ended");
        };
        outcome
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

impl Buyer {
    /// What the client was told last, where that is a failure.
    fn last_words(&self) -> (Code, &str) {
        match self.said.last() {
            Some(BuyerEvent::Failed(refusal)) => (refusal.code, &refusal.message),
            other => panic!("not failed: {other:?}"),
        }
    }

    fn outcomes(&self) -> Vec<&Outcome> {
        let outcomes = self.told.iter().filter_map(|message| match message {
            Message::Happened(outcome) => Some(outcome),
            _ => None,
        });
        outcomes.collect()
    }

    fn accounts(&self) -> Vec<&OrderAccount> {
        let accounts = self.told.iter().filter_map(|message| match message {
            Message::CloseOrder { account, .. } => Some(account.as_ref()),
            _ => None,
        });
        accounts.collect()
    }

    fn pause(&self) -> u64 {
        let due = self.machine.deadline().expect("something is awaited");
        due.ms_since(at(self.ms).tick)
    }

    /// Terms and all 64 tokens came; each of `paid` invoices covers four more of them.
    fn bills_in_steps(&mut self, invoices: u32) {
        let terms = self.terms();
        self.hears_offer(&terms);
        self.hears(Frame::Chunk(chunk(
            0,
            (0..64).map(token).collect(),
            64,
            None,
        )));
        for n in 1..=invoices {
            let head = self.head(0..4 * n);
            self.bills_as(1_000, head, |invoice, _| {
                invoice.covers = counts(4 * u64::from(n));
                invoice.invoiced = Msat(1_000 * u64::from(n));
            });
        }
    }
}

#[test]
fn of_several_refusals_the_one_that_helps_most_is_told() {
    for (first, second, told) in [
        (Code::Busy, Code::TooLong, Code::Busy),
        (Code::TooLong, Code::Busy, Code::Busy),
        (Code::TooLong, Code::BadOrder, Code::BadOrder),
        (Code::Busy, Code::TooManyUnpaid, Code::TooManyUnpaid),
    ] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        for code in [first, second] {
            buyer.hears(Frame::Refusal(Refusal::new(code, "no")));
        }
        assert_eq!(buyer.failures(), [told], "{first:?} {second:?}");
    }
    // What our own wallet found goes before a host's "never", and behind its "later".
    for (second, told) in [
        (Code::TooLong, Code::PaymentFailed),
        (Code::Busy, Code::Busy),
    ] {
        let mut buyer = Buyer::owes_entry(&[1, 3]);
        buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
        buyer.hears(Frame::Refusal(Refusal::new(second, "no")));
        assert_eq!(buyer.failures(), [told], "{second:?}");
    }
}

#[test]
fn hosts_are_asked_for_room_for_what_was_ordered() {
    let asked = |work, max_output| {
        let job = Job {
            work,
            max_output,
            ..job()
        };
        let mode = PaymentMode::Metered;
        let buyer = Buyer::asking(vec![candidate(1)], mode, Msat(1_000_000), job);
        let query = buyer.told.iter().find_map(|message| match message {
            Message::CandidatesWanted { query, .. } => Some(query.clone()),
            _ => None,
        });
        let query = query.unwrap();
        assert_eq!((query.role, query.input_bytes), (Role::Host, 12));
        (query.input_tokens, query.output_tokens, query.items)
    };
    let says = |content: &str| ChatMessage {
        role: "user".into(),
        content: content.into(),
    };
    let messages = vec![says("ab"), says("cd")];
    assert_eq!(
        asked(Work::Chat { messages }, 40),
        (12 + 2 * 64 + 1_024, 40, 0)
    );
    let texts = vec!["abcd".to_owned(); 3];
    assert_eq!(asked(Work::Embed { texts }, 1), (12 + 3 * 64 + 1_024, 0, 3));
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
fn words_are_taken_from_the_host_that_was_asked_and_from_no_other() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let order = buyer.order.clone().unwrap();
    let envelope: crate::wire::envelope::Envelope =
        crate::codec::decode(&order.bytes, 1 << 20).unwrap();
    let (to, wall) = (Some(envelope.from), at(buyer.ms).wall);
    let signed = Signed::seal(&keys(3), NETWORK, to, wall, [1; 16], &buyer.terms());
    buyer.hears(Frame::Terms(signed));
    assert_eq!(buyer.offences(), [OffenceKind::BadSignature]);
    assert_eq!(buyer.last_words().0, Code::ProtocolViolation);
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
fn a_payment_that_fails_once_words_came_ends_the_purchase() {
    for code in [Code::PaymentFailed, Code::CapTooLow, Code::BudgetExhausted] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.bills_in_steps(1);
        let (order, seq) = (buyer.id(), 1);
        let refusal = Refusal::new(code, "no");
        buyer.feed(Input::NotSettled {
            order,
            seq,
            refusal,
        });
        assert_eq!((buyer.failures(), buyer.dials.len()), (vec![code], 1));
        assert_eq!(buyer.sent.last(), Some(&"cancel"));
        assert_eq!(buyer.outcomes().len(), 0, "it says nothing of the host");
    }
    // One for an invoice that there is not changes nothing.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.bills_in_steps(1);
    let (order, seq) = (buyer.id(), 2);
    let refusal = Refusal::new(Code::PaymentFailed, "no");
    buyer.feed(Input::NotSettled {
        order,
        seq,
        refusal,
    });
    assert_eq!(buyer.failures(), []);
    assert!(!buyer.sent.contains(&"cancel"));
}

#[test]
fn a_stop_is_passed_on_once_words_may_come_and_ends_a_purchase_before() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!(
        (buyer.failures(), buyer.sent),
        (vec![Code::Cancelled], vec!["order"])
    );
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    assert_eq!(buyer.pause(), 90_000);
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!((buyer.sent.last(), buyer.pause()), (Some(&"stop"), 10_000));
    // Behind the end there is nothing to hurry.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!(buyer.pause(), 89_999);
    assert_eq!(buyer.failures(), []);
}

#[test]
fn a_purchase_that_is_cancelled_tells_the_host_and_sets_the_money_free() {
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Cancel(RequestId(1)));
    assert_eq!(buyer.sent.last(), Some(&"cancel"));
    assert_eq!(buyer.failures(), [Code::Cancelled]);
    let request = RequestId(1);
    assert!(buyer.told.contains(&Message::Release { request }));
    assert_eq!(buyer.machine.active(), 0);
    // Once is enough.
    let said = buyer.said.len();
    buyer.feed(Input::Cancel(request));
    assert_eq!(buyer.said.len(), said);
}

#[test]
fn each_wait_has_its_time_and_the_failure_says_what_was_waited_for() {
    let request = RequestId(1);
    let begun = || {
        let mut buyer = Buyer::idle();
        let wants = Input::Buy(Box::new(BuyRequest {
            request,
            model: ModelSelector::Any,
            job: job(),
            max_cost: Msat(1_000_000),
            mode: PaymentMode::Metered,
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            budget: "cli".into(),
            host: None,
            confirm: true,
            audit: false,
            private: false,
        }));
        buyer.feed(wants);
        buyer
    };
    let ends = |mut buyer: Buyer, ms: u64, said: &str| {
        assert_eq!(buyer.pause(), ms, "{said}");
        buyer.waits(ms - 1);
        assert_eq!(buyer.failures(), [], "{said}");
        buyer.waits(1);
        let (code, words) = buyer.last_words();
        assert_eq!((code, words), (Code::Timeout, said));
        assert!(buyer.told.contains(&Message::Release { request }));
    };
    ends(begun(), 30_000, "the wallet did not answer in time");
    let reserved = || {
        let mut buyer = begun();
        let result = Ok(());
        buyer.feed(Input::Reserved { request, result });
        buyer
    };
    ends(reserved(), 30_000, "no candidates were found in time");
    let found = || {
        let mut buyer = reserved();
        let hosts = vec![candidate(1)];
        buyer.feed(Input::Candidates { request, hosts });
        buyer
    };
    ends(found(), 600_000, "nobody agreed to the choice in time");
    // The dial goes on for ever.
    let mut buyer = found();
    buyer.ms += 1;
    feed(&mut buyer.machine, buyer.ms, Input::Confirm(request));
    ends(buyer, 20_000, "the host could not be reached in time");
    let mut buyer = found();
    buyer.feed(Input::Confirm(request));
    ends(buyer, 30_000, "the host sent no terms in time");
    let (buyer, _) = Buyer::streaming(PaymentMode::Metered);
    ends(buyer, 90_000, "the host fell silent");
}

#[test]
fn what_comes_twice_or_too_late_changes_nothing() {
    let request = RequestId(1);
    let mut buyer = Buyer::idle();
    buyer.wants(&[1, 3], true);
    let considered = buyer.said.iter().find_map(|event| match event {
        BuyerEvent::Chosen { considered, .. } => Some(*considered),
        _ => None,
    });
    assert_eq!(considered, Some(2));
    buyer.feed(Input::Confirm(request));
    assert_eq!(buyer.dials.len(), 1);
    let told = buyer.told.len();
    buyer.feed(Input::Confirm(request));
    let result = Err(Refusal::new(Code::BudgetExhausted, "late"));
    buyer.feed(Input::Reserved { request, result });
    let hosts = vec![candidate(3)];
    buyer.feed(Input::Candidates { request, hosts });
    assert_eq!((buyer.dials.len(), buyer.told.len()), (1, told));
    assert_eq!(buyer.failures(), []);
}

#[test]
fn money_that_is_not_set_aside_ends_the_purchase() {
    let mut buyer = Buyer::idle();
    buyer.refuses = Some(Code::BudgetExhausted);
    buyer.wants(&[1], false);
    assert_eq!(buyer.failures(), [Code::BudgetExhausted]);
    assert_eq!((buyer.dials.len(), buyer.machine.active()), (0, 0));
}

#[test]
fn a_host_that_is_paid_is_waited_for_twice_as_long_as_it_announced() {
    for (entry, announced) in [(false, 100_000), (true, 200_000)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let mut terms = Terms {
            starts_within_ms: 100_000,
            ..buyer.terms()
        };
        if entry {
            terms = buyer.with_entry(terms, 1_800);
        }
        buyer.hears_offer(&terms);
        assert_eq!(buyer.pause(), announced + limits::FIRST_TOKEN_MS);
        if entry {
            // From when it was paid: places are given in the order of payment.
            buyer.ms += 54_000;
            buyer.settles(0);
            assert_eq!(buyer.pause(), announced + limits::FIRST_TOKEN_MS);
            buyer.hears(Frame::Chunk(chunk(0, (0..4).map(token).collect(), 4, None)));
            assert_eq!(buyer.pause(), 90_000);
        }
    }
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
fn hosts_that_are_not_there_are_ghosts_and_keep_nobody_from_those_behind_them() {
    let mut buyer = Buyer::idle();
    buyer.ghosts = 2;
    buyer.wants(&[1, 3, 4], false);
    assert_eq!(buyer.dials.len(), 3);
    assert_eq!(
        buyer.offences(),
        [OffenceKind::GhostListing, OffenceKind::GhostListing]
    );
    assert_eq!(buyer.blamed(), (2, 0));
    let mut buyer = Buyer::idle();
    buyer.ghosts = 8;
    buyer.wants(&[1, 3, 4, 5, 6], false);
    assert_eq!(
        (buyer.dials.len(), buyer.failures()),
        (5, vec![Code::Disconnected])
    );
}

#[test]
fn a_code_that_is_not_a_hosts_to_say_is_an_offence() {
    for code in Code::ALL {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.hears(Frame::Refusal(Refusal::new(*code, "no")));
        let offences = match code.is_from_hosts() {
            true => vec![],
            false => vec![OffenceKind::UnexpectedFrame],
        };
        assert_eq!(buyer.offences(), offences, "{code:?}");
    }
}

#[test]
fn a_missing_vocabulary_is_asked_of_hosts_of_the_model_alone() {
    let other = |n| {
        let mut host = candidate(n);
        host.offer.digest = ModelDigest([6; 32]);
        host
    };
    let hosts = vec![candidate(1), other(2), candidate(3), candidate(4)];
    let mut buyer = Buyer::among(hosts, PaymentMode::Metered);
    buyer.counts(InputCount::Absent);
    buyer.hears_terms();
    buyer.hears_word(0);
    buyer.sources.sort();
    let mut same = [1, 3, 4].map(|n| keys(n).key());
    same.sort();
    assert_eq!(buyer.sources, same);
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
fn a_count_convicts_nobody_where_no_rules_are_named() {
    let mut host = candidate(1);
    host.offer.numerics = None;
    let mut buyer = Buyer::among(vec![host, candidate(3)], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(7, "exact") else {
        unreachable!("just made");
    };
    let numerics = None;
    buyer.counts(InputCount::Counted(InputFacts { numerics, ..facts }));
    let numerics = None;
    let terms = Terms {
        numerics,
        ..buyer.terms()
    };
    buyer.hears_offer(&terms);
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    // Another tokenizer than the model's is a listing that lies.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(8, "exact") else {
        unreachable!("just made");
    };
    let tokenizer = Digest([77; 32]);
    buyer.counts(InputCount::Counted(InputFacts { tokenizer, ..facts }));
    buyer.hears_terms();
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    assert_eq!(buyer.dials.len(), 2);
}

#[test]
fn a_count_is_awaited_by_the_order_that_asked_for_it() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.counts_slowly = true;
    let stale = buyer.counting.unwrap();
    buyer.hears(Frame::Refusal(Refusal::new(Code::Busy, "no")));
    buyer.hears_terms();
    let count = counted(8, "exact");
    buyer.feed(Input::InputCounted { id: stale, count });
    assert!(!buyer.sent.contains(&"accept"), "it is the first order's");
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
}

#[test]
fn a_wait_that_is_too_long_is_told_in_seconds() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let starts_within_ms = 125_999;
    let terms = Terms {
        starts_within_ms,
        ..buyer.terms()
    };
    buyer.hears_offer(&terms);
    let said = "the host would begin in 125 s, which is longer than this node waits";
    assert_eq!(buyer.last_words(), (Code::Busy, said));
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

#[test]
fn why_the_only_host_could_not_be_paid_is_told_as_it_is() {
    let mut buyer = Buyer::owes_entry(&[1]);
    buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
    assert_eq!(buyer.last_words(), (Code::PaymentFailed, "no route"));
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

#[test]
fn a_debt_that_our_books_do_not_know_is_not_taken_up() {
    for (code, carried) in [(Code::DebtDisputed, 0), (Code::PaymentFailed, 500)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let carried_debt = Msat(500);
        let terms = Terms {
            carried_debt,
            ..buyer.terms()
        };
        let terms = buyer.with_entry(terms, 2_300);
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
fn bytes_that_are_no_frame_end_the_order_with_their_host() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let stream = StreamId(buyer.stream);
    let detail = "no frame".to_owned();
    buyer.feed(Input::Garbled { stream, detail });
    assert_eq!(buyer.offences(), [OffenceKind::MalformedFrame]);
    assert_eq!(buyer.dials.len(), 2);
}
