//! The port over the pocket model.

use super::*;
use kernels::OpenOptions;
use protocol::work::{ChatMessage as Message, Sampling as Wanted};

fn compute() -> (Compute, ModelDigest) {
    let options = OpenOptions {
        threads: 2,
        ..OpenOptions::default()
    };
    let model = Model::from_bytes(kernels::pocket::pocket(), &options).unwrap();
    let compute = Compute::new();
    let digest = compute.add(model);
    (compute, digest)
}

fn order(n: u8) -> OrderId {
    OrderId([n; 16])
}

fn job(question: &str, seed: u64) -> Job {
    Job {
        work: Work::Chat {
            messages: vec![Message {
                role: "user".to_owned(),
                content: question.to_owned(),
            }],
        },
        max_output: 24,
        sampling: Wanted {
            temperature_milli: 900,
            ..Wanted::default()
        },
        seed,
        stop: Vec::new(),
        date: "2026-11-20".to_owned(),
    }
}

/// Takes output until `enough` tokens or the end.
fn take(
    receiver: &mut mpsc::Receiver<Output>,
    enough: usize,
) -> (Vec<ChainedToken>, Option<Finish>) {
    let mut all = Vec::new();
    while all.len() < enough {
        match receiver.blocking_recv() {
            Some(Output::Tokens { tokens, finish, .. }) => {
                all.extend(tokens);
                if finish.is_some() {
                    return (all, finish);
                }
            }
            Some(Output::Failed(reason)) => unreachable!("{reason}"),
            None => break,
        }
    }
    (all, None)
}

#[test]
fn orders_that_run_together_replay_token_for_token() {
    let (compute, model) = compute();
    let jobs: Vec<Job> = (0..6).map(|i| job("What is a host?", i)).collect();
    let mut outputs: Vec<_> = jobs
        .iter()
        .zip(1..)
        .map(|(job, n)| compute.start(order(n), &model, job.clone(), u64::MAX))
        .collect();
    for (job, output) in jobs.iter().zip(&mut outputs) {
        let (tokens, finish) = take(output, usize::MAX);
        assert!(finish.is_some() && !tokens.is_empty());
        let replay = compute.replay(&model, job, &[0; 16], &tokens).unwrap();
        assert_eq!(replay.expected, tokens);
        assert!(output.blocking_recv().is_none());
    }
    assert_eq!(compute.loads()[&model].jobs, 0);
}

#[test]
fn an_order_is_never_overdrawn_and_goes_on_when_it_is_paid() {
    for pace in [None, Some(Duration::from_millis(1))] {
        let (compute, model) = compute();
        let compute = compute.with_pace(pace);
        let job = job("Who pays?", 3);
        let mut whole = compute.start(order(1), &model, job.clone(), u64::MAX);
        let (expected, _) = take(&mut whole, usize::MAX);
        assert!(expected.len() > 4);
        let mut output = compute.start(order(2), &model, job, 2);
        let (mut tokens, _) = take(&mut output, 2);
        assert_eq!(tokens, expected[..2]);
        compute.allow(&order(2), 4);
        tokens.extend(take(&mut output, 2).0);
        assert_eq!(tokens, expected[..4]);
        assert!(output.try_recv().is_err() && compute.is_busy());
        compute.allow(&order(2), u64::MAX);
        tokens.extend(take(&mut output, usize::MAX).0);
        assert_eq!(tokens, expected);
    }
}

#[test]
fn a_cancelled_order_ends_without_a_word() {
    let (compute, model) = compute();
    let mut output = compute.start(order(1), &model, job("Hello", 1), 1);
    assert_eq!(take(&mut output, 1).0.len(), 1);
    compute.cancel(&order(1));
    assert!(output.blocking_recv().is_none());
    let unknown = ModelDigest([9; 32]);
    let mut output = compute.start(order(2), &unknown, job("Hello", 1), 1);
    assert!(matches!(output.blocking_recv(), Some(Output::Failed(_))));
}
