//! What a host lets an order have, and what it asks for: to the token and to the msat.

use super::*;
use crate::limits::MAX_PAYMENTS_IN_FLIGHT;
use crate::money::Meter;
use crate::order::wire::{Countersigned, Paid, Receipt};
use crate::payment::io::OrderAccount;

/// A host with one order. Its wallet makes invoices at once; nothing is paid by itself.
struct Sale {
    machine: Inference,
    ms: u64,
    facts: PromptFacts,
    credit: Credit,
    id: OrderId,
    stream: StreamId,
    sent: Vec<Frame>,
    told: Vec<Message>,
    /// Output that the engine may have made in all.
    allowed: Option<u64>,
    cancelled: bool,
    next: u32,
}

fn seal<T: Body>(by: u8, nonce: u8, body: &T) -> Signed {
    let to = Some(keys(1).key());
    Signed::seal(&keys(by), NETWORK, to, at(0).wall, [nonce; 16], body)
}

impl Sale {
    /// A buyer that is lent `window`, and a prompt of eight tokens.
    fn new(window: u64) -> Sale {
        Sale {
            machine: machine(1),
            ms: 0,
            facts: PromptFacts {
                tokens: 8,
                cached: 0,
                longest: 8,
                digest: Digest([3; 32]),
            },
            credit: Credit {
                window: Msat(window),
                prepay: window == 0,
                debt: Msat::ZERO,
            },
            id: OrderId([0; 16]),
            stream: StreamId(0),
            sent: Vec::new(),
            told: Vec::new(),
            allowed: None,
            cancelled: false,
            next: 0,
        }
    }

    /// The order comes, and its terms go out.
    fn offered(mut self, offer: ModelOffer, order: &Order) -> Sale {
        let limits = HostLimits {
            concurrent_orders: 1,
            queued_orders: 1,
            prompt_tokens: 1_024,
            output_tokens: 512,
        };
        self.feed(Input::Serve(vec![Served { offer, limits }]));
        self.comes(1, order);
        self
    }

    /// Order number `n`, on a stream of its own.
    fn comes(&mut self, n: u8, order: &Order) {
        self.stream = StreamId(u64::from(n));
        let (stream, caller) = (self.stream, caller(1));
        self.feed(Input::Inbound { stream, caller });
        let signed = seal(2, n, order);
        self.id = OrderId::of(&signed.digest());
        self.sent.clear();
        self.hears(Frame::Order(signed));
    }

    /// The order runs.
    fn running(window: u64) -> Sale {
        let mut sale = Sale::new(window).offered(offer(), &ordered());
        sale.accepts();
        sale
    }

    fn accepts(&mut self) {
        let (digest, _) = self.terms();
        self.hears(Frame::Accept(digest));
    }

    fn feed(&mut self, input: Input) {
        self.ms += 1;
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in feed(&mut self.machine, self.ms, input) {
                inputs.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::CountPrompt { id, .. } => {
                let result = Ok(self.facts);
                return Some(Input::Counted { id, result });
            }
            Effect::Send { frame, .. } => self.sent.push(*frame),
            Effect::StartEngine { allowed, .. } => self.allowed = Some(allowed),
            Effect::AllowTokens { total, .. } => self.allowed = Some(total),
            Effect::CancelEngine { .. } => self.cancelled = true,
            Effect::Tell(message) => {
                self.told.push(message.clone());
                return self.answer(message);
            }
            _ => {}
        }
        None
    }

    fn answer(&self, message: Message) -> Option<Input> {
        match message {
            Message::OpenCredit { order, .. } => {
                let result = Ok(self.credit);
                Some(Input::CreditOpened { order, result })
            }
            Message::MakeInvoice { order, seq, .. } => {
                let result = Ok((format!("invoice {seq}"), PaymentHash([seq as u8 + 1; 32])));
                Some(Input::InvoiceMade { order, seq, result })
            }
            _ => None,
        }
    }

    fn hears(&mut self, frame: Frame) {
        let (stream, frame) = (self.stream, Box::new(frame));
        self.feed(Input::Received { stream, frame });
    }

    /// The engine makes `count` more tokens.
    fn produces(&mut self, count: u32, finish: Option<Finish>) {
        let tokens = (self.next..self.next + count).map(token).collect();
        self.next += count;
        let (order, attached) = (self.id, Default::default());
        self.feed(Input::Produced {
            order,
            tokens,
            finish,
            attached,
        });
    }

    fn credits(&mut self, seq: u32, msat: u64, window: u64) {
        self.feed(Input::CreditGranted {
            order: self.id,
            seq,
            hash: PaymentHash([seq as u8 + 1; 32]),
            msat: Msat(msat),
            window: Msat(window),
        });
    }

    fn waits_until(&mut self, ms: u64) {
        self.ms = ms;
        let mut out = Outbox::default();
        self.machine.expire(at(ms), &mut out);
        let effects: Vec<_> = out.drain().collect();
        for effect in effects {
            assert_eq!(self.carry_out(effect), None);
        }
    }

    fn terms(&self) -> (Digest, Terms) {
        let signed = self.sent.iter().find_map(|frame| match frame {
            Frame::Terms(signed) => Some(signed),
            _ => None,
        });
        let signed = signed.expect("terms went out");
        let terms = signed.open_public::<Terms>(&keys(1), NETWORK).unwrap();
        (signed.digest(), terms.body)
    }

    /// Invoices made beside the entry.
    fn invoices(&self) -> Vec<u64> {
        let made = self.told.iter().filter_map(|message| match message {
            Message::MakeInvoice { seq, msat, .. } if *seq > 0 => Some(msat.0),
            _ => None,
        });
        made.collect()
    }

    fn finish(&self) -> Option<Finish> {
        self.sent.iter().find_map(|frame| match frame {
            Frame::Chunk(chunk) => chunk.finish,
            _ => None,
        })
    }

    fn receipt(&self) -> Option<(Digest, Receipt)> {
        self.sent.iter().find_map(|frame| match frame {
            Frame::Receipt(signed) => {
                let opened = signed.open_public::<Receipt>(&keys(1), NETWORK).unwrap();
                Some((signed.digest(), opened.body))
            }
            _ => None,
        })
    }

    fn refused(&self) -> Option<Code> {
        self.sent.iter().find_map(|frame| match frame {
            Frame::Refusal(refusal) => Some(refusal.code),
            _ => None,
        })
    }

    fn offences(&self) -> usize {
        let offences = |message: &&Message| matches!(message, Message::Offended(_));
        self.told.iter().filter(offences).count()
    }

    fn account(&self) -> (&OrderAccount, Msat) {
        let closed = self.told.iter().find_map(|message| match message {
            Message::CloseOrder { account, unpaid } => Some((account.as_ref(), *unpaid)),
            _ => None,
        });
        closed.expect("the order is over")
    }
}

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
fn the_least_window_is_a_step_or_one_token_where_that_is_dearer() {
    for (price, quantum) in [(250_000_000, 1_000), (2_000_000_000, 2_000)] {
        let mut offer = offer();
        offer.prices = Prices::chat(100_000_000, price);
        let sale = Sale::new(0).offered(offer, &ordered());
        let asked = sale.told.iter().find_map(|message| match message {
            Message::OpenCredit { quantum, .. } => Some(*quantum),
            _ => None,
        });
        assert_eq!(asked, Some(Msat(quantum)));
        let entry = sale.terms().1.entry.unwrap();
        assert_eq!(entry.msat, Msat(800 + quantum));
    }
    // Credit below it is no credit: the buyer prepays.
    for (window, prepays) in [(999, true), (1_000, true), (1_050, false)] {
        let sale = Sale::new(window).offered(offer(), &ordered());
        assert_eq!(sale.terms().1.entry.is_some(), prepays, "{window}");
    }
}

#[test]
fn a_prompt_must_fit_with_its_output_and_an_embedding_has_none() {
    let order = |work| Order {
        job: Job { work, ..job() },
        ..ordered()
    };
    let texts = vec!["a".to_owned()];
    let (text, embeds) = (job().work, Work::Embed { texts });
    let mut offer = offer();
    offer.context = 1_024;
    offer.prices = offer.prices.with(Meter::Item, 1_000_000);
    for (work, tokens, refused) in [
        (text.clone(), 1_024 - 64, None),
        (text, 1_024 - 63, Some(Code::TooLong)),
        (embeds.clone(), 1_024, None),
        (embeds, 1_025, Some(Code::TooLong)),
    ] {
        let mut sale = Sale::new(0);
        (sale.facts.tokens, sale.facts.longest) = (tokens, tokens);
        let sale = sale.offered(offer.clone(), &order(work));
        assert_eq!(sale.refused(), refused, "{tokens}");
    }
}

#[test]
fn an_accept_must_name_the_terms_and_come_once() {
    let mut sale = Sale::new(4_000).offered(offer(), &ordered());
    sale.hears(Frame::Accept(Digest([9; 32])));
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
    assert_eq!((sale.offences(), sale.allowed), (1, None));
    let mut sale = Sale::running(4_000);
    assert_eq!((sale.refused(), sale.offences()), (None, 0));
    sale.accepts();
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
    assert_eq!((sale.offences(), sale.cancelled), (1, true));
}

#[test]
fn a_payment_is_countersigned_by_its_buyer_for_its_invoice_or_not_at_all() {
    type Lie = fn(&mut Paid);
    let lies: [(u8, Lie); 6] = [
        (2, |_| {}),
        (3, |_| {}),
        (2, |paid| paid.order = OrderId([9; 16])),
        (2, |paid| paid.seq = 2),
        (2, |paid| paid.hash = PaymentHash([9; 32])),
        (2, |paid| paid.head = Digest([9; 32])),
    ];
    for (number, (by, lie)) in lies.iter().enumerate() {
        let mut sale = Sale::running(4_000);
        sale.produces(5, None);
        let head = sale.sent.iter().find_map(|frame| match frame {
            Frame::Invoice(signed) => {
                let invoice = signed.open_public::<Invoice>(&keys(1), NETWORK);
                Some(invoice.unwrap().body.head)
            }
            _ => None,
        });
        let mut paid = Paid {
            order: sale.id,
            seq: 1,
            hash: PaymentHash([2; 32]),
            head: head.unwrap(),
            extensions: Vec::new(),
        };
        lie(&mut paid);
        sale.hears(Frame::Paid(seal(*by, 9, &paid)));
        let lied = number > 0;
        assert_eq!(sale.offences() > 0, lied, "lie {number}");
        assert_eq!(sale.refused().is_some(), lied, "lie {number}");
    }
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

#[test]
fn terms_announce_a_wait_by_how_long_orders_took() {
    let mut sale = Sale::running(4_000);
    sale.waits_until(70_004);
    sale.hears(Frame::Cancel);
    sale.comes(2, &ordered());
    assert_eq!(sale.terms().1.starts_within_ms, 0);
    sale.accepts();
    sale.comes(3, &ordered());
    // An eighth of 70 s, and seven of what was thought before; the one ahead has run 2 ms.
    assert_eq!(sale.terms().1.starts_within_ms, 17_498);
}

#[test]
fn an_order_that_ends_before_its_output_costs_nothing() {
    let mut sale = Sale::new(4_000).offered(offer(), &ordered());
    sale.hears(Frame::Cancel);
    let (account, unpaid) = sale.account();
    assert_eq!((account.cost, unpaid), (Msat::ZERO, Msat::ZERO));
    assert_eq!(account.counts, Counts::default());
}
