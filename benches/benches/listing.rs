//! How fast a node reads what strangers send: listings and signed envelopes.
//!
//! `cargo bench --workspace --bench listing`; figures go to BASELINE.md.

use actors::ports::relay::SecretSigner;
use actors::ports::relay::listing::{ListingDraft, ListingEvent, REQUIRED_BITS};
use criterion::{Criterion, criterion_group, criterion_main};
use protocol::crypto::{Crypto, Secp};
use protocol::ids::{Digest, OrderId};
use protocol::time::WallTime;
use protocol::wire::chain::{ChainedToken, Piece, TokenChain};
use protocol::wire::envelope::{Network, Signed};
use protocol::wire::order::Paid;
use std::hint::black_box;

const NOW: WallTime = WallTime(1_795_000_000_000);

fn listings(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let signer = SecretSigner::random();
    let draft = ListingDraft {
        content: vec![b'x'; 2_048],
        network: "regtest".to_owned(),
        models: Vec::new(),
        topics: vec!["host".to_owned()],
        created_at: NOW,
        expires: NOW.after_ms(1_200_000),
    };
    let event = runtime
        .block_on(draft.build_with(&signer, REQUIRED_BITS, 2))
        .expect("a listing is built");
    c.bench_function(
        "verify one listing event of 2 KiB (id, signature, work, tags)",
        |b| {
            b.iter(|| ListingEvent::verify(black_box(&event), NOW).expect("it is valid"));
        },
    );
}

fn envelopes(c: &mut Criterion) {
    let host = Secp::from_secret(&[1; 32]).expect("a valid secret");
    let buyer = Secp::from_secret(&[2; 32]).expect("a valid secret");
    let paid = Paid {
        order: OrderId([3; 16]),
        seq: 1,
        hash: protocol::ids::PaymentHash([4; 32]),
        head: Digest([5; 32]),
        extensions: Vec::new(),
    };
    let seal = || {
        Signed::seal(
            &buyer,
            Network::Regtest,
            Some(host.key()),
            NOW,
            [6; 16],
            &paid,
        )
    };
    let signed = seal();
    c.bench_function("seal one envelope", |b| b.iter(|| black_box(seal())));
    c.bench_function("open one envelope", |b| {
        b.iter(|| {
            black_box(&signed)
                .open::<Paid>(&host, Network::Regtest, &host.key(), NOW)
                .expect("it is valid")
        });
    });
    let token = ChainedToken {
        id: 7,
        logits: Digest([8; 32]),
        piece: Piece::text(*b" word"),
    };
    c.bench_function("chain one token", |b| {
        let mut chain = TokenChain::new(&Digest([1; 32]), &Digest([2; 32]));
        b.iter(|| chain.push(black_box(&token)));
    });
}

criterion_group!(benches, listings, envelopes);
criterion_main!(benches);
