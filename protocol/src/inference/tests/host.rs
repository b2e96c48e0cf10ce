//! What a host lets an order have, and what it asks for: to the token and to the msat.

mod bills;
mod finish;
mod offer;
mod pace;

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
