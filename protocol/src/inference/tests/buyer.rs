//! What a buyer checks before it pays or signs: each lie by itself, beside the truth.

use super::*;
use crate::order::wire::{PaymentEntry, Receipt, Status};

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
        let envelope: crate::envelope::Envelope =
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
            description_hash: Some(wire::description_hash(&order, 1, &covers)),
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
