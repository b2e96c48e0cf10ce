//! Evidence of the real order machines, bent in one place at a time.

use super::*;
use crate::money::{Msat, Prices};
use crate::wire::envelope::Signed;
use crate::wire::testing::{self, NETWORK, Script, buyer, host, token, validator};
use crate::work::Work;
use proptest::prelude::*;

fn check(bundle: &Bundle) -> Result<Facts, Finding> {
    bookkeeping(bundle, &validator(), NETWORK)
}

fn run(script: &Script) -> Result<Facts, Finding> {
    check(&testing::bundle(script))
}

fn assert_false(what: &str, script: Script) {
    let found = run(&script);
    assert!(
        matches!(found, Err(Finding::FalseAccount { .. })),
        "{what}: {found:?}"
    );
}

fn assert_doubt(what: &str, bundle: &Bundle) {
    let found = check(bundle);
    assert!(
        matches!(found, Err(Finding::Inconclusive { .. })),
        "{what}: {found:?}"
    );
}

#[test]
fn an_honest_bundle_passes_with_and_without_a_receipt() {
    let facts = run(&Script::default()).unwrap();
    assert_eq!(facts.tokens.len(), 10);
    assert_eq!(facts.prompt_tokens, 8);
    assert_eq!(facts.prompt, Some(testing::prompt()));
    let died = Script {
        receipt_signed: false,
        ..Script::default()
    };
    let facts = run(&died).unwrap();
    assert_eq!(
        facts.tokens.len(),
        8,
        "the last two tokens are vouched for by nobody"
    );
    assert_eq!(facts.prompt, None);
}

#[test]
fn embeddings_that_end_before_the_last_text_are_false_whoever_computed_them() {
    fn embeds<const TEXTS: usize>(order: &mut Order) {
        let texts = vec!["a".to_owned(); TEXTS];
        order.job.work = Work::Embed { texts };
        order.job.max_output = 0;
    }
    for numerics in [
        |_: &mut Terms| {},
        |terms: &mut Terms| terms.numerics = None,
    ] {
        let honest = Script {
            order: embeds::<10>,
            terms: numerics,
            ..Script::default()
        };
        run(&honest).unwrap();
        assert_false(
            "ten of eleven texts",
            Script {
                order: embeds::<11>,
                ..honest
            },
        );
    }
}

#[test]
fn inflated_counts_are_false() {
    let receipt: [fn(&mut Receipt); 4] = [
        |r| {
            r.counts.output_tokens = 12;
            r.cost = Msat(800 + 3_000);
        },
        |r| r.counts.input_tokens = 9,
        |r| r.counts.cached_input_tokens = 1,
        |r| r.counts.items = 1,
    ];
    for (n, receipt) in receipt.into_iter().enumerate() {
        assert_false(
            &format!("receipt {n}"),
            Script {
                receipt,
                ..Script::default()
            },
        );
    }
    let invoice: [fn(&mut Invoice); 2] = [
        |i| i.covers.output_tokens += 1,
        |i| i.covers.input_tokens += 1,
    ];
    for (n, invoice) in invoice.into_iter().enumerate() {
        assert_false(
            &format!("invoice {n}"),
            Script {
                invoice,
                ..Script::default()
            },
        );
    }
}

#[test]
fn prices_above_the_terms_are_false() {
    assert_false(
        "prices of the receipt",
        Script {
            receipt: |r| {
                r.prices = Prices::chat(100_000_000, 500_000_000);
                r.cost = Msat(800 + 5_000);
            },
            ..Script::default()
        },
    );
    assert_false(
        "cost of the receipt",
        Script {
            receipt: |r| r.cost = Msat(3_301),
            ..Script::default()
        },
    );
    assert_false(
        "an invoice above what it covers",
        Script {
            invoice: |i| {
                if i.seq == 2 {
                    i.msat = Msat(1_001);
                    i.invoiced = Msat(2_901);
                }
            },
            ..Script::default()
        },
    );
}

#[test]
fn wrong_sums_are_false() {
    assert_false(
        "a sum that skips an invoice",
        Script {
            invoice: |i| i.invoiced.0 -= 1,
            ..Script::default()
        },
    );
    assert_false(
        "a debt beyond what is unpaid",
        Script {
            receipt: |r| r.debt = Msat(501),
            ..Script::default()
        },
    );
    assert_false(
        "a payment booked below its invoice",
        Script {
            receipt: |r| r.payments[1].msat = Msat(700),
            ..Script::default()
        },
    );
}

#[test]
fn a_payment_that_is_booked_twice_is_false() {
    let lies: [fn(&mut Receipt); 4] = [
        |r| {
            r.payments.push(r.payments[2]);
            r.debt = Msat(0);
        },
        |r| r.payments.swap(1, 2),
        |r| r.payments[2].hash = r.payments[1].hash,
        |r| r.payments[0].msat = Msat(1_000),
    ];
    for (n, receipt) in lies.into_iter().enumerate() {
        let script = Script {
            receipt,
            ..Script::default()
        };
        assert_false(&format!("lie {n}"), script);
    }
    // One that the buyer's wallet knows and the host does not yet is left out.
    let late = Script {
        receipt: |r| {
            r.payments.remove(1);
            r.debt = Msat(1_300);
        },
        ..Script::default()
    };
    assert!(run(&late).is_ok());
}

#[test]
fn other_things_than_agreed_are_false() {
    let lies: [fn(&mut Receipt); 6] = [
        |r| r.model = ModelDigest([1; 32]),
        |r| r.tokenizer = Digest([1; 32]),
        |r| r.template = Digest([1; 32]),
        |r| r.numerics = None,
        |r| r.buyer = NodeKey([1; 32]),
        |r| r.host = NodeKey([1; 32]),
    ];
    for (n, receipt) in lies.into_iter().enumerate() {
        assert_false(
            &format!("lie {n}"),
            Script {
                receipt,
                ..Script::default()
            },
        );
    }
}

#[test]
fn a_wrong_head_is_false_where_another_signature_of_the_host_proves_it_and_never_passes() {
    // The host signs a head for 8 tokens in its invoice and another one for as many in its receipt.
    assert_false(
        "two heads for the same tokens",
        Script {
            receipt: |r| {
                r.head = Digest([1; 32]);
                r.counts.output_tokens = 8;
                r.cost = Msat(800 + 2_000);
                r.debt = Msat(0);
            },
            ..Script::default()
        },
    );
    // Beyond the last invoice nobody else can tell a wrong head from altered tokens.
    let lone = Script {
        receipt: |r| r.head = Digest([1; 32]),
        ..Script::default()
    };
    assert_doubt("a lone wrong head", &testing::bundle(&lone));
    let invoice = Script {
        invoice: |i| i.head = Digest([1; 32]),
        ..Script::default()
    };
    assert_doubt("a wrong head in an invoice", &testing::bundle(&invoice));
}

#[test]
fn what_a_buyer_can_alter_convicts_nobody() {
    let honest = testing::bundle(&Script::default());
    let other = testing::bundle(&Script {
        terms: |t| t.quantum = Msat(7),
        ..Script::default()
    });
    let forge = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = honest.clone();
        change(&mut bundle);
        bundle
    };
    assert_doubt("altered token", &forge(&|b| b.tokens[3].id += 1));
    assert_doubt(
        "altered logits",
        &forge(&|b| b.tokens[9].logits = Digest([0; 32])),
    );
    assert_doubt("dropped tokens", &forge(&|b| b.tokens.truncate(9)));
    assert_doubt(
        "terms of another order",
        &forge(&|b| b.terms = other.terms.clone()),
    );
    assert_doubt(
        "receipt of another order",
        &forge(&|b| b.receipt = other.receipt.clone()),
    );
    assert_doubt(
        "invoices of another order",
        &forge(&|b| b.invoices = other.invoices.clone()),
    );
    assert_doubt(
        "doubled invoice",
        &forge(&|b| b.invoices.push(b.invoices[0].clone())),
    );
    assert_doubt(
        "no account at all",
        &forge(&|b| {
            b.invoices.clear();
            b.receipt = None;
            b.countersigned = None;
        }),
    );
    assert_doubt(
        "another order, same id",
        &forge(&|b| {
            let mut order = testing::order_body();
            order.job.seed = 5;
            let (time, to) = (crate::time::WallTime(1), Some(host().key()));
            b.order = Signed::seal(&buyer(), NETWORK, to, time, [8; 16], &order);
        }),
    );
    assert_doubt(
        "a receipt signed by the buyer",
        &forge(&|b| {
            let receipt = b.receipt.clone().unwrap();
            let mut body = receipt
                .open_public::<Receipt>(&buyer(), NETWORK)
                .unwrap()
                .body;
            body.cost = Msat(9);
            let time = crate::time::WallTime(1);
            b.receipt = Some(Signed::seal(&buyer(), NETWORK, None, time, [8; 16], &body));
        }),
    );
    // Appended tokens are simply nobody's.
    let longer = forge(&|b| b.tokens.push(token(99)));
    assert_eq!(check(&longer).unwrap().tokens.len(), 10);
    // A payer may send more than was asked; the host books what it got.
    let generous = Script {
        receipt: |r| {
            r.payments[2].msat = Msat(1_700);
            r.debt = Msat(0);
        },
        ..Script::default()
    };
    assert!(run(&generous).is_ok());
}

/// One thing that a buyer can do to a bundle.
fn mutate(bundle: &mut Bundle, kind: u8, at: usize, bit: u8) {
    fn flip(signed: &mut Signed, at: usize, bit: u8) {
        if at.is_multiple_of(8) {
            signed.signature.0[at / 8 % 64] ^= 1 << (bit % 8);
        } else {
            let length = signed.bytes.len();
            signed.bytes[at % length] ^= 1 << (bit % 8);
        }
    }
    match kind % 12 {
        0 => flip(&mut bundle.order, at, bit),
        1 => flip(&mut bundle.terms, at, bit),
        2 => {
            if let Some(receipt) = &mut bundle.receipt {
                flip(receipt, at, bit);
            }
        }
        3 => {
            if let Some(signed) = &mut bundle.countersigned {
                flip(signed, at, bit);
            }
        }
        4 if !bundle.invoices.is_empty() => {
            let length = bundle.invoices.len();
            flip(&mut bundle.invoices[at % length], at / 2, bit);
        }
        5 if !bundle.tokens.is_empty() => {
            let length = bundle.tokens.len();
            bundle.tokens[at % length].id ^= 1 << (bit % 32);
        }
        6 if !bundle.tokens.is_empty() => {
            let length = bundle.tokens.len();
            bundle.tokens[at % length].logits.0[at / 7 % 32] ^= 1 << (bit % 8);
        }
        7 => bundle.tokens.truncate(at % 12),
        8 => bundle
            .tokens
            .insert(at % (bundle.tokens.len() + 1), token(u32::from(bit))),
        9 if !bundle.invoices.is_empty() => {
            let length = bundle.invoices.len();
            bundle.invoices.remove(at % length);
        }
        10 => bundle.receipt = None,
        11 => {
            bundle.countersigned = None;
            bundle.invoices.reverse();
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn no_mutation_by_a_buyer_convicts_an_honest_host(
        died in any::<bool>(),
        steps in prop::collection::vec((any::<u8>(), 0usize..4_096, any::<u8>()), 1..4),
    ) {
        let script = Script { receipt_signed: !died, ..Script::default() };
        let mut bundle = testing::bundle(&script);
        for (kind, at, bit) in steps {
            mutate(&mut bundle, kind, at, bit);
        }
        if let Err(finding) = check(&bundle) {
            prop_assert!(!finding.convicts(), "{finding:?}");
        }
    }

    #[test]
    fn pieces_of_two_honest_orders_under_one_id_convict_nobody(mix in any::<u8>()) {
        // The buyer ordered twice under one id, and got other terms the second time.
        let (one, two) = (
            testing::bundle(&Script::default()),
            testing::bundle(&Script { terms: |t| t.window = Msat(9_000), ..Script::default() }),
        );
        let pick = |bit: u8| if mix >> bit & 1 == 1 { &two } else { &one };
        let bundle = Bundle {
            order: pick(0).order.clone(),
            terms: pick(1).terms.clone(),
            tokens: pick(2).tokens.clone(),
            invoices: vec![pick(3).invoices[0].clone(), pick(4).invoices[1].clone()],
            receipt: pick(5).receipt.clone(),
            countersigned: pick(6).countersigned.clone(),
        };
        if let Err(finding) = check(&bundle) {
            prop_assert!(!finding.convicts(), "{finding:?}");
        }
    }
}

#[test]
fn every_single_flipped_bit_of_the_hosts_signatures_convicts_nobody() {
    let honest = testing::bundle(&Script::default());
    let length = honest.receipt.as_ref().unwrap().bytes.len();
    for at in 0..length {
        let mut bundle = honest.clone();
        bundle.receipt.as_mut().unwrap().bytes[at] ^= 1;
        let finding = check(&bundle).unwrap_err();
        assert!(!finding.convicts(), "byte {at}: {finding:?}");
    }
}
