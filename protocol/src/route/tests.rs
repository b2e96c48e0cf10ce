//! Two machines at once: whatever happens to an honest order of the real order machines, its
//! evidence convicts nobody before the validator's rules.

use crate::crypto::testing::{TestSigner, order_keys};
use crate::crypto::{Crypto, InvoiceFacts, Secp};
use crate::ids::{
    Caller, Digest, LightningId, ModelDigest, OrderId, PaymentHash, PeerTag, Preimage, RequestId,
    StreamId,
};
use crate::inference::{Config, Inference};
use crate::machine::{Machine, Outbox};
use crate::message::discovery::Candidate;
use crate::message::inference::{
    BuyRequest, Effect as Do, Input as Event, InputCount, ModelSelector, PromptFacts, Served,
};
use crate::message::payment::Credit;
use crate::message::reputation::ScoreCard;
use crate::message::sibling::Message;
use crate::money::{Msat, Prices};
use crate::time::{Now, Tick, WallTime};
use crate::validator::bookkeeping::bookkeeping;
use crate::wire::bundle::Bundle;
use crate::wire::manifest::{HostLimits, ModelOffer, PaymentMode};
use crate::wire::order::{Finish, Handling, Path, Receipt, Retention};
use crate::wire::testing::{self, NETWORK, NUMERICS, host, token, validator};
use std::collections::VecDeque;

fn at(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall: WallTime(1_700_000_100_000 + ms),
    }
}

const STREAM: StreamId = StreamId(1);
const LIGHTNING: LightningId = LightningId([2; 33]);

/// How an order goes.
#[derive(Clone, Copy)]
struct Course {
    mode: PaymentMode,
    prepay: bool,
    debt: u64,
    window: u64,
    tokens: u64,
    /// The stream breaks after so many frames of the host.
    frames: usize,
    stop_at: Option<u64>,
    /// The host's wallet makes two invoices at once, and the second is ready first.
    swapped: bool,
}

struct World {
    course: Course,
    sides: [Inference; 2],
    queue: VecDeque<(usize, Event)>,
    sent: usize,
    produced: u64,
    order: OrderId,
    bundles: Vec<Bundle>,
    held: Option<(usize, Event)>,
}

const BUYER: usize = 0;
const HOST: usize = 1;

fn offer() -> ModelOffer {
    ModelOffer {
        name: "pocket".into(),
        digest: ModelDigest([5; 32]),
        tokenizer: Digest([10; 32]),
        template: Digest([11; 32]),
        architecture: "qwen3".into(),
        quantisation: "Q8_0".into(),
        context: 2_048,
        numerics: Some(NUMERICS.into()),
        prices: Prices::chat(100_123_457, 250_765_431),
    }
}

impl World {
    fn new(course: Course) -> Self {
        let side = |secp: fn() -> Secp| {
            let keys = order_keys(secp().key().0);
            let node = Box::new(TestSigner(secp()));
            let mut config = Config::new(NETWORK);
            config.modes = vec![
                PaymentMode::Metered,
                PaymentMode::Before,
                PaymentMode::After,
            ];
            Inference::new(config, node, Box::new(keys), [3; 32])
        };
        World {
            course,
            sides: [side(testing::buyer), side(host)],
            queue: VecDeque::new(),
            sent: 0,
            produced: 0,
            order: OrderId([0; 16]),
            bundles: Vec::new(),
            held: None,
        }
    }

    /// Runs one order to its end; returns the evidence.
    fn run(mut self) -> Vec<Bundle> {
        let limits = HostLimits {
            concurrent_orders: 1,
            queued_orders: 1,
            prompt_tokens: 1_024,
            output_tokens: 512,
        };
        let offer = offer();
        self.queue
            .push_back((HOST, Event::Serve(vec![Served { offer, limits }])));
        let request = BuyRequest {
            request: RequestId(1),
            model: ModelSelector::Any,
            job: testing::order_body().job,
            max_cost: Msat(1_000_000),
            mode: self.course.mode,
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            budget: "cli".into(),
            host: None,
            confirm: false,
            audit: true,
            private: false,
        };
        self.queue.push_back((BUYER, Event::Buy(Box::new(request))));
        for turn in 0..2_000u64 {
            let next = self.queue.pop_front().or_else(|| self.held.take());
            let Some((side, event)) = next else {
                break;
            };
            let mut out = Outbox::default();
            self.sides[side].handle(at(turn), event, &mut out);
            let effects: Vec<Do> = out.drain().collect();
            for effect in effects {
                self.carry_out(side, effect);
            }
        }
        self.bundles
    }

    fn carry_out(&mut self, side: usize, effect: Do) {
        let other = 1 - side;
        let mut push = |side, event| self.queue.push_back((side, event));
        match effect {
            Do::Tell(message) => self.tell(side, message),
            Do::OpenStream { id, .. } => {
                push(BUYER, Event::Opened { id, stream: STREAM });
                push(
                    HOST,
                    Event::Inbound {
                        stream: STREAM,
                        caller: Caller::alone(PeerTag([1; 16])),
                    },
                );
            }
            Do::Send { frame, .. } => {
                self.sent += usize::from(side == HOST);
                if self.sent > self.course.frames {
                    push(BUYER, Event::Closed { stream: STREAM });
                    return push(HOST, Event::Closed { stream: STREAM });
                }
                push(
                    other,
                    Event::Received {
                        stream: STREAM,
                        frame,
                    },
                );
            }
            Do::Close { .. } => push(other, Event::Closed { stream: STREAM }),
            Do::CountPrompt { id, .. } => {
                let facts = PromptFacts {
                    tokens: 8,
                    cached: 0,
                    longest: 8,
                    digest: testing::prompt(),
                };
                push(
                    side,
                    Event::Counted {
                        id,
                        result: Ok(facts),
                    },
                );
            }
            Do::CountInput { id, .. } => {
                let count = InputCount::Absent;
                push(side, Event::InputCounted { id, count });
            }
            Do::StartEngine { order, allowed, .. } => {
                self.order = order;
                self.produce(allowed);
            }
            Do::AllowTokens { total, .. } => self.produce(total),
            _ => {}
        }
    }

    /// The engine makes tokens up to what is allowed, three at a time.
    fn produce(&mut self, allowed: u64) {
        while self.produced < allowed.min(self.course.tokens) {
            let until = (self.produced + 3).min(allowed).min(self.course.tokens);
            let last = self.course.tokens - 1;
            let make = |n| {
                let mut token = token(n as u32);
                token.piece.control = n == last;
                token
            };
            let tokens = (self.produced..until).map(make).collect();
            self.produced = until;
            let finish = (until == self.course.tokens).then_some(Finish::Stop);
            let order = self.order;
            self.queue.push_back((
                HOST,
                Event::Produced {
                    order,
                    tokens,
                    finish,
                    attached: Default::default(),
                },
            ));
            if self.course.stop_at.is_some_and(|stop| stop <= until) {
                self.queue.push_back((BUYER, Event::Stop(RequestId(1))));
            }
        }
    }

    fn tell(&mut self, side: usize, message: Message) {
        let course = self.course;
        let mut push = |side, event| self.queue.push_back((side, event));
        match message {
            Message::FindCandidates { request, .. } => {
                let hosts = vec![Candidate {
                    host: host().key(),
                    lightning: LIGHTNING,
                    offer: offer(),
                    quantum: Msat(1_000),
                    keep_days: 90,
                    addresses: Vec::new(),
                    score: ScoreCard::blank(host().key(), offer().digest),
                }];
                push(side, Event::CandidatesFound { request, hosts });
            }
            Message::Reserve { request, .. } => {
                push(
                    side,
                    Event::Reserved {
                        request,
                        result: Ok(()),
                    },
                );
            }
            Message::OpenCredit { order, .. } => {
                let credit = Credit {
                    window: Msat(course.window),
                    prepay: course.prepay,
                    debt: Msat(course.debt),
                };
                let result = Ok(credit);
                push(side, Event::CreditOpened { order, result });
            }
            Message::MakeInvoice {
                order,
                seq,
                msat,
                description_hash,
                ..
            } => {
                let hash = PaymentHash([seq as u8 + 1; 32]);
                let facts = InvoiceFacts {
                    payee: LIGHTNING,
                    hash,
                    msat: Some(msat),
                    description_hash: Some(description_hash),
                    expires: at(600_000).wall,
                };
                let result = Ok((serde_json::to_string(&facts).unwrap(), hash));
                let made = Event::InvoiceMade { order, seq, result };
                match self.held.take() {
                    None if course.swapped && seq > 0 => self.held = Some((side, made)),
                    held => {
                        push(side, made);
                        self.queue.extend(held);
                    }
                }
            }
            Message::Pay(pay) => {
                let (order, seq, hash, msat) = (pay.order, pay.seq, pay.facts.hash, pay.msat);
                let window = Msat(course.window);
                let (preimage, fee) = (Some(Preimage([1; 32])), Msat(0));
                push(
                    BUYER,
                    Event::Settled {
                        order,
                        seq,
                        hash,
                        preimage,
                        msat,
                        fee,
                        ms: 5,
                    },
                );
                push(
                    HOST,
                    Event::CreditGranted {
                        order,
                        seq,
                        hash,
                        msat,
                        window,
                    },
                );
            }
            Message::OrderEnded(evidence) => self.bundles.push(evidence.bundle),
            _ => {}
        }
    }
}

#[test]
fn invoices_that_the_wallet_makes_in_another_order_are_sent_in_theirs() {
    for (prepay, window) in [(true, 4_000), (false, 4_000), (false, 16_000)] {
        let course = Course {
            mode: PaymentMode::Metered,
            prepay,
            debt: 0,
            window,
            tokens: 60,
            frames: usize::MAX,
            stop_at: None,
            swapped: true,
        };
        let bundles = World::new(course).run();
        let whole = bundles
            .iter()
            .filter(|bundle| bundle.countersigned.is_some());
        assert!(whole.clone().count() >= 1, "window {window}: no receipt");
        assert!(whole.clone().all(|bundle| bundle.invoices.len() >= 2));
    }
}

#[test]
fn evidence_of_the_real_order_machines_never_convicts_and_a_whole_order_is_honest() {
    let judge = TestSigner(validator());
    let mut honest = 0;
    let mut whole = 0;
    for (prepay, debt) in [(true, 0), (true, 300), (false, 0), (false, 300)] {
        for stop_at in [None, Some(6)] {
            for frames in (0..30).chain([usize::MAX]) {
                let course = Course {
                    mode: PaymentMode::Metered,
                    prepay,
                    debt,
                    window: 4_000,
                    tokens: 25,
                    frames,
                    stop_at,
                    swapped: false,
                };
                for bundle in World::new(course).run() {
                    let checked = bookkeeping(&bundle, &judge, NETWORK);
                    whole += usize::from(bundle.countersigned.is_some());
                    honest += usize::from(checked.is_ok());
                    match checked {
                        Ok(facts) => assert!(facts.tokens.len() <= 25),
                        Err(finding) => {
                            assert!(!finding.convicts(), "{frames} {finding:?}");
                            assert!(bundle.receipt.is_none(), "{frames} {finding:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(whole >= 8, "{whole} orders ran to their end");
    assert!(honest > whole, "{honest} bundles passed");
}

#[test]
fn orders_paid_before_and_after_are_whole_and_honest() {
    let judge = TestSigner(validator());
    // 25 tokens of 64 ordered; the whole order costs 16,849 msat, what was delivered 7,070.
    for (mode, window, payments, paid) in [
        (PaymentMode::Before, 0, 1, 16_849),
        (PaymentMode::After, 20_000, 1, 7_070),
    ] {
        let course = Course {
            mode,
            prepay: window == 0,
            debt: 0,
            window,
            tokens: 25,
            frames: usize::MAX,
            stop_at: None,
            swapped: false,
        };
        let bundles = World::new(course).run();
        let [bundle] = bundles.as_slice() else {
            panic!("one order: {}", bundles.len());
        };
        assert!(bookkeeping(bundle, &judge, NETWORK).is_ok());
        let receipt = bundle.receipt.as_ref().unwrap();
        let receipt = receipt
            .open_public::<Receipt>(&judge, NETWORK)
            .unwrap()
            .body;
        let sum: u64 = receipt.payments.iter().map(|one| one.msat.0).sum();
        assert_eq!((receipt.payments.len(), sum), (payments, paid), "{mode:?}");
        assert_eq!(receipt.debt, Msat::ZERO);
    }
    // Not where the window does not cover the whole order.
    let course = Course {
        mode: PaymentMode::After,
        prepay: false,
        debt: 0,
        window: 16_000,
        tokens: 25,
        frames: usize::MAX,
        stop_at: None,
        swapped: false,
    };
    assert!(World::new(course).run().is_empty());
}
