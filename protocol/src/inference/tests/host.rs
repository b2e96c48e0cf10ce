//! What a host lets an order have, and what it asks for: to the token and to the msat.

use super::*;
use crate::limits::MAX_PAYMENTS_IN_FLIGHT;
use crate::message::inference::OrderAccount;
use crate::money::Meter;
use crate::order::record::OrderRecord;
use crate::wire::order::{Countersigned, Paid, Receipt, Status};

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
    written: Vec<Record>,
    /// The wallet takes its time: it makes no invoice by itself.
    slow: bool,
    /// Output that the engine may have made in all.
    allowed: Option<u64>,
    /// How often that was raised.
    raised: usize,
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
            written: Vec::new(),
            slow: false,
            allowed: None,
            raised: 0,
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
            Effect::AllowTokens { total, .. } => {
                self.allowed = Some(total);
                self.raised += 1;
            }
            Effect::Persist(records) => self.written.extend(records),
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
            Message::MakeInvoice { seq, .. } if !self.slow => Some(self.made(seq)),
            _ => None,
        }
    }

    fn made(&self, seq: u32) -> Input {
        let result = Ok((format!("invoice {seq}"), PaymentHash([seq as u8 + 1; 32])));
        let order = self.id;
        Input::InvoiceMade { order, seq, result }
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

    /// Whatever is due by then is done when it is due.
    fn passes_until(&mut self, ms: u64) {
        while let Some(due) = self.machine.deadline()
            && due <= at(ms).tick
        {
            self.waits_until(due.0.div_ceil(1_000_000).max(self.ms));
        }
        self.ms = ms;
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
        self.refusal().map(|refusal| refusal.code)
    }

    fn refusal(&self) -> Option<&Refusal> {
        self.sent.iter().find_map(|frame| match frame {
            Frame::Refusal(refusal) => Some(refusal),
            _ => None,
        })
    }

    /// Numbers of the invoices that went out.
    fn asked(&self) -> Vec<u32> {
        let asked = self.sent.iter().filter_map(|frame| match frame {
            Frame::Invoice(signed) => {
                let invoice = signed.open_public::<Invoice>(&keys(1), NETWORK);
                Some(invoice.unwrap().body.seq)
            }
            _ => None,
        });
        asked.collect()
    }

    /// Orders that run and orders that wait, as was said last.
    fn load(&self) -> Option<(u32, u32)> {
        self.told.iter().rev().find_map(|message| match message {
            Message::LoadChanged {
                running, queued, ..
            } => Some((*running, *queued)),
            _ => None,
        })
    }

    /// The record of the order that is kept once it is over.
    fn kept(&self) -> Option<OrderRecord> {
        let kept = |record: &&Record| record.table == Table::Orders;
        let record = self.written.iter().rev().find(kept)?;
        OrderRecord::decode(record.value.as_ref()?)
    }

    fn countersigns(&mut self) {
        let (receipt, _) = self.receipt().expect("a receipt went out");
        let extensions = Vec::new();
        let body = Countersigned {
            receipt,
            extensions,
        };
        self.hears(Frame::Countersigned(seal(2, 9, &body)));
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
    // A second time before its entry is paid, and once it runs.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    assert_eq!((sale.refused(), sale.offences()), (None, 0));
    sale.accepts();
    assert_eq!(sale.refused(), Some(Code::ProtocolViolation));
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
fn orders_count_as_waiting_once_they_are_accepted_on_credit_or_paid() {
    let mut sale = Sale::running(4_000);
    assert_eq!(sale.load(), Some((1, 0)));
    sale.comes(2, &ordered());
    assert_eq!(sale.load(), Some((1, 0)));
    sale.accepts();
    assert_eq!(sale.load(), Some((1, 1)));
    sale.hears(Frame::Cancel);
    assert_eq!(sale.load(), Some((1, 0)));
    sale.credit = Sale::new(0).credit;
    sale.comes(3, &ordered());
    sale.accepts();
    assert_eq!(sale.load(), Some((1, 0)));
    sale.credits(0, 1_800, 1_800);
    assert_eq!(sale.load(), Some((1, 1)));
}

#[test]
fn a_prompt_may_be_as_long_as_the_host_says() {
    for (tokens, refused) in [(1_024, None), (1_025, Some(Code::TooLong))] {
        let mut sale = Sale::new(0);
        (sale.facts.tokens, sale.facts.longest) = (tokens, tokens);
        let sale = sale.offered(offer(), &ordered());
        assert_eq!(sale.refused(), refused, "{tokens}");
    }
    // Several texts that fit, and together do not.
    let mut sale = Sale::new(0);
    (sale.facts.tokens, sale.facts.longest) = (1_025, 600);
    let sale = sale.offered(offer(), &ordered());
    assert_eq!(sale.refused(), Some(Code::TooLong));
}

/// A host that offers every mode is asked for an order in one of them.
fn in_mode(mode: PaymentMode, max_cost: u64, credit: (u64, bool, u64)) -> Sale {
    let (window, prepay, debt) = credit;
    let mut sale = Sale::new(window);
    (sale.credit.prepay, sale.credit.debt) = (prepay, Msat(debt));
    sale.machine.config.modes = vec![
        PaymentMode::Metered,
        PaymentMode::Before,
        PaymentMode::After,
    ];
    let max_cost = Msat(max_cost);
    let order = Order {
        mode,
        max_cost,
        ..ordered()
    };
    sale.offered(offer(), &order)
}

#[test]
fn an_order_paid_at_its_end_is_taken_where_the_credit_covers_all_of_it() {
    // The input and 64 tokens cost 16,800.
    for (credit, taken) in [
        ((16_799, false, 0), false),
        ((16_800, false, 0), true),
        ((17_000, false, 201), false),
        ((17_000, false, 200), true),
        ((17_000, true, 0), false),
    ] {
        let mut sale = in_mode(PaymentMode::After, 1_000_000, credit);
        if !taken {
            assert_eq!(sale.refused(), Some(Code::ModeUnsupported), "{credit:?}");
            continue;
        }
        assert_eq!(sale.terms().1.entry, None);
        sale.accepts();
        assert_eq!(sale.allowed, Some(64));
        sale.produces(63, None);
        assert!(sale.invoices().is_empty(), "not before the end");
        sale.produces(1, None);
        assert_eq!(sale.invoices(), [16_800 + credit.2]);
    }
}

#[test]
fn an_order_paid_ahead_is_paid_as_far_as_its_cap_reaches_whoever_buys() {
    for credit in [(0, true, 0), (100_000, false, 0)] {
        for (cap, entry, tokens) in [(1_000_000, 16_800, 64), (10_000, 10_000, 36)] {
            let mut sale = in_mode(PaymentMode::Before, cap, credit);
            let asked = sale.terms().1.entry.map(|entry| entry.msat);
            assert_eq!(asked, Some(Msat(entry)), "{credit:?} {cap}");
            sale.accepts();
            assert_eq!(sale.allowed, None, "nothing before it is paid");
            sale.credits(0, entry, entry);
            assert_eq!(sale.allowed, Some(tokens));
            sale.produces(tokens as u32, None);
            // What is left of the cap pays for no token, and is not refunded.
            assert!(sale.invoices().is_empty());
            let (_, receipt) = sale.receipt().expect("all of it is paid");
            assert_eq!(receipt.cost, Msat(800 + 250 * tokens));
        }
    }
}

#[test]
fn a_debt_goes_into_the_entry_or_takes_its_part_of_the_credit() {
    let mut sale = in_mode(PaymentMode::Metered, 1_000_000, (0, true, 500));
    let terms = sale.terms().1;
    assert_eq!(terms.entry.map(|entry| entry.msat), Some(Msat(2_300)));
    assert_eq!(terms.carried_debt, Msat(500));
    sale.accepts();
    sale.credits(0, 2_300, 2_300);
    // 2,300 paid and as much lent, 500 and 800 of it are for the debt and the input.
    assert_eq!(sale.allowed, Some((4_600 - 1_300) / 250));
    let mut sale = in_mode(PaymentMode::Metered, 1_000_000, (4_000, false, 500));
    assert_eq!(sale.terms().1.entry, None);
    sale.accepts();
    assert_eq!(sale.allowed, Some((3_500 - 800) / 250));
    sale.produces(1, Some(Finish::Stop));
    assert_eq!(sale.invoices(), [1_550_u64]);
    // What it leaves is less than a step, so the order is prepaid.
    for (debt, prepays) in [(500, false), (501, true)] {
        let credit = (1_500, false, debt);
        let mut sale = Sale::new(credit.0);
        sale.credit.debt = Msat(debt);
        sale.facts.tokens = 1;
        let sale = sale.offered(offer(), &ordered());
        assert_eq!(sale.terms().1.entry.is_some(), prepays, "{debt}");
    }
}

#[test]
fn an_order_whose_cap_is_below_its_entry_is_refused() {
    for (cap, refused) in [(1_799, Some(Code::CapTooLow)), (1_800, None)] {
        let sale = in_mode(PaymentMode::Metered, cap, (0, true, 0));
        assert_eq!(sale.refused(), refused, "{cap}");
    }
}

#[test]
fn an_order_smaller_than_a_step_is_covered_by_as_much_credit() {
    // Two tokens and the input cost 1,300; a window of it carries no step, and all of that.
    for (window, prepays) in [(1_299, true), (1_300, false)] {
        let mut order = ordered();
        order.job.max_output = 2;
        let mut offer = offer();
        offer.prices = Prices::chat(0, 650_000_000);
        let mut sale = Sale::new(window);
        sale.machine.config.quantum = Msat(2_000);
        let sale = sale.offered(offer, &order);
        let entry = sale.terms().1.entry.map(|entry| entry.msat);
        assert_eq!(entry, prepays.then_some(Msat(1_300)), "{window}");
    }
}

#[test]
fn an_entry_can_be_paid_for_as_long_as_its_terms_stand_and_a_step_for_longer() {
    let lives = |sale: &Sale| {
        let lives = sale.told.iter().filter_map(|message| match message {
            Message::MakeInvoice { seq, expiry_s, .. } => Some((*seq, *expiry_s)),
            _ => None,
        });
        lives.collect::<Vec<_>>()
    };
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    sale.credits(0, 1_800, 1_800);
    sale.produces(11, None);
    assert_eq!(lives(&sale), [(0, 60), (1, 180)]);
}

#[test]
fn invoices_go_out_in_their_order_whichever_the_wallet_makes_first() {
    let mut sale = Sale::running(8_000);
    sale.slow = true;
    sale.produces(13, None);
    sale.produces(3, Some(Finish::Stop));
    assert_eq!(sale.invoices(), [4_050_u64, 750]);
    sale.feed(sale.made(2));
    assert!(sale.asked().is_empty());
    sale.feed(sale.made(1));
    assert_eq!(sale.asked(), [1, 2]);
    sale.credits(2, 750, 8_000);
    assert_eq!(sale.receipt(), None);
    sale.credits(1, 4_050, 8_000);
    assert!(sale.receipt().is_some());
}

#[test]
fn an_order_whose_invoice_cannot_be_made_ends() {
    for entry in [true, false] {
        let mut sale = Sale::new(if entry { 0 } else { 4_000 });
        sale.slow = true;
        let mut sale = sale.offered(offer(), &ordered());
        if !entry {
            sale.accepts();
            sale.produces(5, None);
        }
        let (order, seq) = (sale.id, u32::from(!entry));
        let result = Err(Refusal::new(Code::NoInvoice, "the wallet is away"));
        sale.feed(Input::InvoiceMade { order, seq, result });
        assert_eq!(sale.refused(), Some(Code::NoInvoice));
        assert_eq!((sale.cancelled, sale.machine.active()), (!entry, 0));
    }
}

#[test]
fn a_payment_that_allows_no_more_output_is_not_told_to_the_engine() {
    let mut sale = Sale::running(16_800);
    assert_eq!(sale.allowed, Some(64));
    sale.produces(32, None);
    assert_eq!(sale.invoices(), [8_800_u64]);
    sale.credits(1, 8_800, 16_800);
    assert_eq!((sale.allowed, sale.raised), (Some(64), 0));
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

#[test]
fn each_step_has_its_time_and_the_refusal_says_which_was_missed() {
    // The wallet makes no entry invoice.
    let mut sale = Sale::new(0);
    sale.slow = true;
    let mut sale = sale.offered(offer(), &ordered());
    let came = 3;
    assert_eq!(sale.machine.deadline(), Some(at(60_000 + came).tick));
    sale.passes_until(60_000 + came);
    assert_eq!(sale.refused(), Some(Code::Timeout));
    // Nobody accepts the terms.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.passes_until(59_999 + came);
    assert_eq!(sale.refused(), None);
    sale.passes_until(60_000 + came);
    let said = sale.refusal().map(|refusal| refusal.message.as_str());
    assert_eq!(said, Some("the terms were not accepted in time"));
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    // The entry does not arrive: its invoice is good for a minute, and two more are waited.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    let accepted = sale.ms;
    sale.passes_until(accepted + 179_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(accepted + 180_000);
    let said = sale.refusal().map(|refusal| refusal.message.as_str());
    assert_eq!(said, Some("the entry payment did not arrive in time"));
    assert_eq!(sale.refused(), Some(Code::NotPaid));
}

#[test]
fn an_engine_that_stays_silent_for_six_minutes_has_failed() {
    let mut sale = Sale::running(4_000);
    sale.passes_until(300_000);
    sale.produces(1, None);
    let heard = sale.ms;
    sale.passes_until(heard + 359_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(heard + 420_000);
    assert_eq!(sale.refused(), Some(Code::EngineFailed));
    assert_eq!(
        sale.refusal().unwrap().message,
        "the engine gave no output for 360 s"
    );
    assert!(sale.cancelled);
}

#[test]
fn a_buyer_is_late_with_an_invoice_whatever_the_engine_may_still_do() {
    let mut sale = Sale::running(8_000);
    sale.produces(13, None);
    assert_eq!((sale.invoices(), sale.allowed), (vec![4_050], Some(28)));
    let asked = sale.ms;
    sale.passes_until(asked + 59_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(asked + 60_000);
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    // So it is once all output is there.
    let mut sale = Sale::running(8_000);
    sale.produces(3, Some(Finish::Stop));
    let asked = sale.ms;
    sale.passes_until(asked + 60_000);
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    assert_eq!((sale.offences(), sale.account().1), (1, Msat(1_550)));
}
