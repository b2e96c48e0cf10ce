//! The buyer's side, played by [`Buyer`]: a host and a wallet that say what a test wants.

mod bills;
mod purchase;
mod receipt;
mod recount;
mod sold;
mod terms;
mod transcript;

use super::*;
use crate::message::inference::{OrderAccount, Outcome};
use crate::money::Meter;
use crate::order::record::{OpenPart, OrderRecord};
use crate::wire::attached::Attached;
use crate::wire::order::{Paid, PaymentEntry, Receipt, Status};
use crate::work::ChatMessage;
use sold::{Sold, dials, expires};

/// A buyer that has sent its order to the first of `hosts`.
struct Buyer {
    machine: Inference,
    order: Option<Signed>,
    /// Digest of the terms that the host sent last.
    offered: Option<Digest>,
    said: Vec<BuyerEvent>,
    told: Vec<Message>,
    dials: Vec<NodeKey>,
    /// Names of the frames sent.
    sent: Vec<&'static str>,
    /// How many of them find no stream of this node.
    no_dials: usize,
    /// How many of them find nobody there.
    ghosts: usize,
    written: Vec<Record>,
    /// Signatures under payments that it sent.
    paid: Vec<Signed>,
    /// Why its own wallet sets nothing aside.
    refuses: Option<Code>,
    /// The count of the prompt that was asked for last.
    counting: Option<EffectId>,
    /// From which position on how many tokens were held against the vocabulary.
    checked: Vec<(u64, usize)>,
    /// Otherwise it is over when the terms come.
    counts_slowly: bool,
    /// Hosts that the vocabulary is fetched from.
    sources: Vec<NodeKey>,
    stream: u64,
    ms: u64,
}

fn candidate(n: u8) -> Candidate {
    Candidate {
        host: keys(n).key(),
        lightning: LIGHTNING,
        offer: offer(),
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: Vec::new(),
        score: ScoreCard::blank(keys(n).key(), MODEL),
    }
}

impl Buyer {
    fn new(hosts: &[u8], mode: PaymentMode) -> Self {
        Buyer::among(hosts.iter().map(|n| candidate(*n)).collect(), mode)
    }

    fn among(hosts: Vec<Candidate>, mode: PaymentMode) -> Self {
        Buyer::capped(hosts, mode, Msat(1_000_000))
    }

    fn capped(hosts: Vec<Candidate>, mode: PaymentMode, max_cost: Msat) -> Self {
        Buyer::asking(hosts, mode, max_cost, job())
    }

    fn asking(hosts: Vec<Candidate>, mode: PaymentMode, max_cost: Msat, job: Job) -> Self {
        let mut buyer = Buyer::idle();
        buyer.buys(hosts, (mode, max_cost, job), false);
        buyer
    }

    fn idle() -> Self {
        Buyer {
            machine: machine(9),
            order: None,
            offered: None,
            said: Vec::new(),
            told: Vec::new(),
            dials: Vec::new(),
            sent: Vec::new(),
            no_dials: 0,
            ghosts: 0,
            written: Vec::new(),
            paid: Vec::new(),
            refuses: None,
            counting: None,
            counts_slowly: false,
            checked: Vec::new(),
            sources: Vec::new(),
            stream: 0,
            ms: 0,
        }
    }

    /// Wants the usual of these hosts.
    fn wants(&mut self, hosts: &[u8], confirm: bool) {
        let hosts = hosts.iter().map(|n| candidate(*n)).collect();
        let usual = (PaymentMode::Metered, Msat(1_000_000), job());
        self.buys(hosts, usual, confirm);
    }

    fn buys(
        &mut self,
        hosts: Vec<Candidate>,
        (mode, max_cost, job): (PaymentMode, Msat, Job),
        confirm: bool,
    ) {
        let request = RequestId(1);
        self.feed(Input::Buy(Box::new(BuyRequest {
            request,
            model: ModelSelector::Any,
            job,
            max_cost,
            mode,
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            budget: "cli".into(),
            host: None,
            confirm,
            audit: false,
            private: false,
        })));
        let result = match self.refuses {
            Some(code) => Err(Refusal::new(code, "no")),
            None => Ok(()),
        };
        self.feed(Input::Reserved { request, result });
        self.feed(Input::CandidatesFound { request, hosts });
    }

    /// Dials succeed at once, but for the first `no_dials` of them.
    fn feed(&mut self, input: Input) {
        self.ms += 1;
        let effects = feed(&mut self.machine, self.ms, input);
        self.perform(effects);
    }

    /// So much time passes; what is due is done.
    fn waits(&mut self, ms: u64) {
        self.ms += ms;
        let mut out = Outbox::default();
        self.machine.expire(at(self.ms), &mut out);
        self.perform(out.drain().collect());
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut turns = vec![effects];
        while let Some(effects) = turns.pop() {
            let mut inputs = Vec::new();
            for effect in effects {
                match effect {
                    Effect::OpenStream { id, host, .. } => {
                        self.dials.push(host);
                        if self.dials.len() <= self.no_dials.max(self.ghosts) {
                            let ours = self.dials.len() <= self.no_dials;
                            let reason = "no stream".to_owned();
                            inputs.push(Input::OpenFailed { id, reason, ours });
                            continue;
                        }
                        self.stream += 1;
                        let stream = StreamId(self.stream);
                        inputs.push(Input::Opened { id, stream });
                    }
                    Effect::Send { frame, .. } => {
                        self.sent.push(frame.name());
                        match *frame {
                            Frame::Order(signed) => self.order = Some(signed),
                            Frame::Paid(signed) => self.paid.push(signed),
                            _ => {}
                        }
                    }
                    Effect::CountInput { id, .. } => {
                        assert!(self.order.is_some(), "the order goes first");
                        self.counting = Some(id);
                    }
                    Effect::CheckPieces { from, tokens, .. } => {
                        self.checked.push((from, tokens.len()));
                    }
                    Effect::FetchVocabulary { hosts, .. } => {
                        self.sources.extend(hosts.iter().map(|source| source.host));
                    }
                    Effect::Deliver { event, .. } => self.said.push(event),
                    Effect::Tell(message) => self.told.push(message),
                    Effect::Persist(records) => self.written.extend(records),
                    _ => {}
                }
            }
            for input in inputs {
                turns.push(feed(&mut self.machine, self.ms, input));
            }
        }
    }

    /// Terms with an entry payment of `msat`, for input and one step of output.
    fn with_entry(&self, mut terms: Terms, msat: u64) -> Terms {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        let facts = InvoiceFacts {
            payee: LIGHTNING,
            hash: PaymentHash([self.stream as u8; 32]),
            msat: Some(Msat(msat)),
            description_hash: Some(description_hash(&order, 0, &terms.input)),
            expires: at(600_000).wall,
        };
        terms.entry = Some(EntryInvoice {
            bolt11: serde_json::to_string(&facts).unwrap(),
            msat: Msat(msat),
        });
        terms
    }

    /// Terms that carry a debt of 500, with the entry that this makes.
    fn terms_with_debt(&self) -> Terms {
        let terms = Terms {
            carried_debt: Msat(500),
            ..self.terms()
        };
        self.with_entry(terms, 2_300)
    }

    fn hears_offer(&mut self, terms: &Terms) {
        let terms = self.seal(terms);
        self.offered = Some(terms.digest());
        self.hears(Frame::Terms(terms));
    }

    /// What the host's history was told: failures, refusals.
    fn blamed(&self) -> (usize, usize) {
        let told = self.told.iter().filter_map(|message| match message {
            Message::Happened(outcome) => Some(outcome),
            _ => None,
        });
        told.fold((0, 0), |(failed, refused), outcome| {
            match (outcome.refused, outcome.failure) {
                (Some(_), _) => (failed, refused + 1),
                (None, Some(code)) => (failed + usize::from(code.is_hosts_fault()), refused),
                (None, None) => (failed, refused),
            }
        })
    }

    fn pays_entry(&mut self) {
        let terms = self.with_entry(self.terms(), 1_800);
        self.hears_offer(&terms);
        assert_eq!(self.payments(), 1);
    }

    fn settles(&mut self, seq: u32) {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        self.feed(Input::Settled {
            order,
            seq,
            hash: PaymentHash([self.stream as u8; 32]),
            preimage: None,
            msat: Msat(1_800),
            fee: Msat::ZERO,
            ms: 1,
        });
    }

    fn hears(&mut self, frame: Frame) {
        if matches!(frame, Frame::Terms(_)) && self.counting.is_some() && !self.counts_slowly {
            self.counts(InputCount::Unknown);
        }
        let (stream, frame) = (StreamId(self.stream), Box::new(frame));
        self.feed(Input::Received { stream, frame });
    }

    fn offences(&self) -> Vec<OffenceKind> {
        let offences = self.told.iter().filter_map(|message| match message {
            Message::Offended(offence) => Some(offence.kind.clone()),
            _ => None,
        });
        offences.collect()
    }

    fn payments(&self) -> usize {
        let pays = |message: &&Message| matches!(message, Message::Pay(_));
        self.told.iter().filter(pays).count()
    }

    fn seal<T: Body>(&self, body: &T) -> Signed {
        let dialed = self.dials.last().unwrap();
        let by = (1..9).map(keys).find(|keys| keys.key() == *dialed).unwrap();
        let order = self.order.as_ref().unwrap();
        let envelope: crate::wire::envelope::Envelope =
            crate::codec::decode(&order.bytes, 1 << 20).unwrap();
        let nonce = [self.ms as u8; 16];
        Signed::seal(
            &by,
            NETWORK,
            Some(envelope.from),
            at(self.ms).wall,
            nonce,
            body,
        )
    }

    fn terms(&self) -> Terms {
        Terms {
            order: self.order.as_ref().unwrap().digest(),
            input: Counts {
                input_tokens: 8,
                ..Counts::default()
            },
            prices: offer().prices,
            window: Msat(4_000),
            quantum: Msat(1_000),
            carried_debt: Msat::ZERO,
            entry: None,
            numerics: Some("exact".into()),
            tokenizer: Digest([10; 32]),
            template: Digest([11; 32]),
            starts_within_ms: 0,
            expires: at(self.ms + 60_000).wall,
            extensions: Vec::new(),
        }
    }

    /// Terms are accepted, and eight tokens arrive.
    fn streaming(mode: PaymentMode) -> (Self, TokenChain) {
        Buyer::streaming_with(mode, Msat(900_000), Msat::ZERO)
    }

    /// The same where the host was told that it may ask for `cost`, and takes up a debt.
    fn streaming_with(mode: PaymentMode, cost: Msat, carried_debt: Msat) -> (Self, TokenChain) {
        let max_cost = Config::new(NETWORK).fees.cap_for(cost);
        let mut buyer = Buyer::capped(vec![candidate(1)], mode, max_cost);
        let terms = Terms {
            carried_debt,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        buyer.hears(Frame::Chunk(chunk(0, (0..8).map(token).collect(), 8, None)));
        let chain = buyer.chain((0..8).map(token));
        (buyer, chain)
    }

    /// The chain over these tokens under the terms that the host sent.
    fn chain(&self, tokens: impl Iterator<Item = ChainedToken>) -> TokenChain {
        let order = self.order.as_ref().unwrap().digest();
        let mut chain = TokenChain::new(&order, &self.offered.unwrap());
        tokens.for_each(|token| chain.push(&token));
        chain
    }

    fn head(&self, tokens: std::ops::Range<u32>) -> Digest {
        self.chain(tokens.map(token)).head()
    }

    /// Asks for `msat` after eight tokens, which with the input cost 2,800.
    fn bills(&mut self, msat: u64, head: Digest) {
        self.bills_as(msat, head, |_, _| {});
    }

    /// The same with one thing changed in the invoice, or in its BOLT 11 string.
    fn bills_as(
        &mut self,
        msat: u64,
        head: Digest,
        change: impl FnOnce(&mut Invoice, &mut InvoiceFacts),
    ) {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        let mut invoice = Invoice {
            order,
            seq: self.payments() as u32 + 1,
            bolt11: String::new(),
            msat: Msat(msat),
            covers: counts(8),
            invoiced: Msat(msat),
            head,
            window: Msat(4_000),
            extensions: Vec::new(),
        };
        let mut facts = InvoiceFacts {
            payee: LIGHTNING,
            hash: PaymentHash([3 + invoice.seq as u8; 32]),
            msat: None,
            description_hash: None,
            expires: at(600_000).wall,
        };
        change(&mut invoice, &mut facts);
        facts.msat = facts.msat.or(Some(invoice.msat));
        let about = description_hash(&order, invoice.seq, &invoice.covers);
        facts.description_hash = facts.description_hash.or(Some(about));
        invoice.bolt11 = serde_json::to_string(&facts).unwrap();
        let signed = self.seal(&invoice);
        self.hears(Frame::Invoice(signed));
    }
}

fn embedded(id: u32, vector: &Vector) -> ChainedToken {
    ChainedToken {
        id,
        logits: vector_digest(vector),
        piece: Piece::default(),
    }
}

fn chunk(seq: u32, tokens: Vec<ChainedToken>, total: u64, finish: Option<Finish>) -> Chunk {
    Chunk {
        seq,
        tokens,
        totals: counts(total),
        finish,
        attached: Default::default(),
        extensions: Vec::new(),
    }
}

impl Buyer {
    /// The rows that its writes leave.
    fn disk(&self) -> Vec<Record> {
        let mut rows = std::collections::BTreeMap::new();
        for row in &self.written {
            match row.value {
                Some(_) => rows.insert((row.table, row.key.clone()), row.clone()),
                None => rows.remove(&(row.table, row.key.clone())),
            };
        }
        rows.into_values().collect()
    }

    /// The node is stopped, and starts from its disk.
    fn restarts(&mut self) {
        let tables = |row: &Record| Inference::TABLES.contains(&row.table);
        let rows: Vec<_> = self.disk().into_iter().filter(tables).collect();
        self.machine = Inference::recover(
            Config::new(NETWORK),
            Secrets {
                node: Box::new(keys(9)),
                orders: Box::new(order_keys([9; 32])),
                seed: [8; 32],
            },
            rows.into_iter(),
            at(self.ms),
        );
    }
}

impl Buyer {
    /// Terms with an entry payment are accepted; it is asked of Payment.
    fn owes_entry(hosts: &[u8]) -> Self {
        let mut buyer = Buyer::new(hosts, PaymentMode::Metered);
        buyer.hears_entry();
        buyer
    }

    fn id(&self) -> OrderId {
        OrderId::of(&self.order.as_ref().unwrap().digest())
    }

    fn hears_entry(&mut self) {
        let terms = self.with_entry(self.terms(), 1_800);
        self.hears_offer(&terms);
    }

    /// Payment says no to the entry payment.
    fn is_not_settled(&mut self, order: OrderId, code: Code) {
        let (seq, refusal) = (0, Refusal::new(code, "no route"));
        self.feed(Input::NotSettled {
            order,
            seq,
            refusal,
        });
    }

    fn failures(&self) -> Vec<Code> {
        let failures = self.said.iter().filter_map(|event| match event {
            BuyerEvent::Failed(refusal) => Some(refusal.code),
            _ => None,
        });
        failures.collect()
    }

    /// How the orders went, as Reputation is told.
    fn refusals(&self) -> Vec<(NodeKey, Option<Code>)> {
        let outcomes = self.told.iter().filter_map(|message| match message {
            Message::Happened(outcome) => Some((outcome.host, outcome.refused)),
            _ => None,
        });
        outcomes.collect()
    }
}

impl Buyer {
    fn counts(&mut self, count: InputCount) {
        let id = self.counting.take().unwrap();
        self.feed(Input::InputCounted { id, count });
    }

    fn hears_terms(&mut self) {
        let terms = self.seal(&self.terms());
        self.hears(Frame::Terms(terms));
    }

    fn hears_word(&mut self, seq: u32) {
        let frame = chunk(seq, vec![token(seq)], u64::from(seq) + 1, None);
        self.hears(Frame::Chunk(frame));
    }
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
