//! An order of which a host sent output, for tests of what it may sign about it.

use super::*;

/// An order of which the host sent eight tokens, and what it may sign about it.
pub(super) struct Sold {
    pub(super) buyer: Buyer,
    pub(super) terms: Digest,
    pub(super) chain: TokenChain,
}

impl Sold {
    pub(super) fn new() -> Sold {
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
    pub(super) fn invoiced() -> Sold {
        let mut sold = Sold::new();
        let end = chunk(1, Vec::new(), 8, Some(Finish::Stop));
        sold.buyer.hears(Frame::Chunk(end));
        sold.buyer.bills(2_800, sold.chain.head());
        assert_eq!(sold.buyer.payments(), 1);
        sold
    }

    pub(super) fn order(&self) -> OrderId {
        OrderId::of(&self.buyer.order.as_ref().unwrap().digest())
    }

    pub(super) fn settles(&mut self) {
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

    pub(super) fn receipt(&self) -> Receipt {
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

    pub(super) fn hears_receipt(&mut self, receipt: &Receipt) {
        let signed = self.buyer.seal(receipt);
        self.buyer.hears(Frame::Receipt(signed));
    }

    /// The buyer countersigned, and its client has the receipt.
    pub(super) fn is_finished(&self) -> bool {
        let finished = |event: &BuyerEvent| matches!(event, BuyerEvent::Finished { .. });
        self.buyer.said.iter().any(finished)
    }

    pub(super) fn invoice(&self) -> (Invoice, InvoiceFacts) {
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

    pub(super) fn hears_invoice(&mut self, mut invoice: Invoice, facts: &InvoiceFacts) {
        invoice.bolt11 = serde_json::to_string(facts).unwrap();
        let signed = self.buyer.seal(&invoice);
        self.buyer.hears(Frame::Invoice(signed));
    }
}

pub(super) fn expires(buyer: &mut Buyer, ms: u64) -> Vec<Effect> {
    let mut out = Outbox::default();
    buyer.machine.expire(at(ms), &mut out);
    out.drain().collect()
}

pub(super) fn dials(effects: &[Effect]) -> usize {
    let dials = |effect: &&Effect| matches!(effect, Effect::OpenStream { .. });
    effects.iter().filter(dials).count()
}

impl Sold {
    /// An order whose entry is just the cost of these tokens, which are all of the answer.
    pub(super) fn answered(stop: &[&str], tokens: &[ChainedToken], user_stops: bool) -> Sold {
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

    pub(super) fn outcome(&self) -> &Outcome {
        let [outcome] = self.buyer.outcomes()[..] else {
            panic!("one order ended");
        };
        outcome
    }
}
