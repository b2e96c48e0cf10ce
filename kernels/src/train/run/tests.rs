//! Whole runs of a tiny shape: same bits whatever the threads or breaks, and falling loss.

use super::{Plan, Run};
use crate::train::net::Shape;

pub(super) fn small(threads: usize) -> Run {
    let plan = Plan {
        seed: 3,
        steps: 6,
        rows: 4,
        tokens: 48,
        vocab: 320,
        threads,
    };
    Run::with_shape(plan, |vocab| Shape {
        vocab,
        dim: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        ffn: 64,
        context: 128,
    })
}

fn bits(run: &Run) -> blake3::Hash {
    let mut h = blake3::Hasher::new();
    run.weights().iter().for_each(|x| {
        h.update(&x.to_le_bytes());
    });
    h.finalize()
}

#[test]
fn the_thread_count_does_not_show_in_the_weights() {
    let (mut one, mut three) = (small(1), small(3));
    for _ in 0..3 {
        let (a, b) = (one.advance(), three.advance());
        assert_eq!(a.loss.to_bits(), b.loss.to_bits());
    }
    assert_eq!(bits(&one), bits(&three));
}

#[test]
fn three_steps_give_the_weights_that_every_machine_gives() {
    let mut run = small(1);
    for _ in 0..3 {
        run.advance();
    }
    // Changes with the grammar, the vocabulary and the written orders, and with nothing else.
    let want = "a5e4dab94eec92a99ab23672a3bd1959498dedd4612d3b71796d4c8ec4b8b09d";
    assert_eq!(bits(&run).to_hex().as_str(), want);
}

#[test]
fn a_saved_run_continues_with_the_same_bits() {
    let mut whole = small(1);
    let mut first = small(1);
    for _ in 0..2 {
        whole.advance();
        first.advance();
    }
    let saved = first.save();
    let mut second = small(1);
    second.load(&saved).expect("its own state");
    whole.advance();
    second.advance();
    assert_eq!(bits(&whole), bits(&second));
    assert!(second.load(&saved[1..]).is_err());
}

#[test]
fn a_few_steps_lower_the_loss_on_text_not_seen() {
    let mut run = small(1);
    let before = run.held_out(4);
    for _ in 0..6 {
        run.advance();
    }
    assert!(run.held_out(4) < before);
}
