//! The port over the pocket model.

use super::*;
use kernels::OpenOptions;
use protocol::wire::attached::Vector;
use protocol::work::{ChatMessage as Message, Constraint, Sampling as Wanted};

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

pub(crate) fn job(question: &str, seed: u64) -> Job {
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
        steering: Default::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

/// Panics in the thread of an order that wants it.
pub(super) fn planted(job: &Job) {
    assert_ne!(job.date, "planted");
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
        let replay = compute
            .replay(&model, job, &[0; 16], &tokens, &CancelFlag::new())
            .unwrap();
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
fn a_steered_order_replays_and_has_the_form_and_the_probabilities_asked_for() {
    let (compute, model) = compute();
    let mut job = job("Who pays?", 4);
    job.steering.constraint = Some(Constraint::Regex("(yes|no), [a-z]{3}".to_owned()));
    job.steering.logprobs = Some(2);
    let mut output = compute.start(order(1), &model, job.clone(), u64::MAX);
    let (mut tokens, mut text, mut logprobs) = (Vec::new(), String::new(), Vec::new());
    while let Some(Output::Tokens {
        tokens: more,
        attached,
        ..
    }) = output.blocking_recv()
    {
        text.push_str(&protocol::wire::text::render(&more, &[]));
        tokens.extend(more);
        logprobs.extend(attached.logprobs);
    }
    assert!(
        text.starts_with("yes, ") || text.starts_with("no, "),
        "{text}"
    );
    assert_eq!(logprobs.len(), tokens.len());
    assert!(
        logprobs
            .iter()
            .zip(&tokens)
            .all(|(l, t)| l.chosen.token == t.id && l.top.len() == 2)
    );
    let replay = compute
        .replay(&model, &job, &[0; 16], &tokens, &CancelFlag::new())
        .unwrap();
    assert_eq!(replay.expected, tokens);
    job.steering.constraint = Some(Constraint::Regex("(".to_owned()));
    let refused = compute.count(&model, &job, &[0; 16]).unwrap_err();
    assert_eq!(refused.code, Code::BadOrder);
}

#[test]
fn a_buyer_finds_its_own_prompt_computed_and_nobody_elses() {
    let (compute, model) = compute();
    let long = "What is a channel, and who may close it? ".repeat(12);
    let job = job(&long, 1);
    let (one, other) = (owner_of(&NodeKey([1; 32])), owner_of(&NodeKey([2; 32])));
    let cached = |owner| {
        compute
            .count_for(owner, &model, &job, &[0; 16])
            .unwrap()
            .cached
    };
    assert_eq!(cached(&one), 0);
    let mut output = compute.start_for(one, order(1), &model, job.clone(), u64::MAX);
    take(&mut output, usize::MAX);
    assert!(cached(&one) > 0);
    assert_eq!(cached(&other), 0);
}

#[test]
fn embeddings_come_in_their_order_as_they_are_paid_and_replay() {
    let file = kernels::synthetic::bert(3);
    let model = Model::from_bytes(file, &OpenOptions::default()).unwrap();
    let compute = Compute::new();
    let model = compute.add(model);
    let texts = (0..20).map(|n| format!("text {n}")).collect();
    let job = Job {
        work: Work::Embed { texts },
        ..job("", 1)
    };
    let mut output = compute.start(order(1), &model, job.clone(), 3);
    let mut heard: Vec<(ChainedToken, Vector)> = Vec::new();
    while heard.len() < 20 {
        let Some(Output::Tokens {
            tokens, attached, ..
        }) = output.blocking_recv()
        else {
            panic!("ended after {}", heard.len());
        };
        assert!(heard.len() != 3 || tokens.len() <= 8);
        heard.extend(tokens.into_iter().zip(attached.vectors));
        if heard.len() == 3 {
            assert!(
                output.try_recv().is_err(),
                "nothing is embedded that is not paid for"
            );
            compute.allow(&order(1), 20);
        }
    }
    for (index, (token, vector)) in heard.iter().enumerate() {
        assert_eq!(
            (token.id as usize, token.logits),
            (index, vector_digest(vector))
        );
    }
    let tokens: Vec<ChainedToken> = heard.iter().map(|(token, _)| token.clone()).collect();
    let replay = compute
        .replay(&model, &job, &[0; 16], &tokens, &CancelFlag::new())
        .unwrap();
    assert_eq!(replay.expected, tokens);
    let wrong = compute.count(&model, &self::job("a chat", 1), &[0; 16]);
    assert_eq!(wrong.unwrap_err().code, Code::BadOrder);
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

#[test]
fn what_is_shown_otherwise_than_the_tokens_say_is_seen_by_a_replay() {
    let (compute, model) = compute();
    let compute = compute.with_other_words(true);
    let job = job("What is a sat?", 11);
    let mut output = compute.start(order(1), &model, job.clone(), u64::MAX);
    let (shown, _) = take(&mut output, usize::MAX);
    let replay = compute
        .replay(&model, &job, &[0; 16], &shown, &CancelFlag::new())
        .unwrap();
    let same = |(a, b): &(&ChainedToken, &ChainedToken)| a.id == b.id && a.logits == b.logits;
    assert!(shown.iter().zip(&replay.expected).all(|pair| same(&pair)));
    assert_ne!(shown, replay.expected);
}

#[test]
fn a_prompt_that_the_memory_does_not_hold_is_refused_before_it_is_paid() {
    // The smallest memory: one page of 64 positions.
    let (compute, model) = compute();
    let compute = compute.with_engines(EngineOptions {
        cache_bytes: 1,
        ..EngineOptions::default()
    });
    assert_eq!(compute.context(&model), 63);
    let count = |job: &Job| compute.count(&model, job, &[0; 16]);
    let mut short = job("Who pays?", 1);
    let tokens = count(&short).unwrap().tokens;
    short.max_output = 63 - tokens as u32;
    assert!(count(&short).is_ok());
    short.max_output += 1;
    assert_eq!(count(&short).unwrap_err().code, Code::TooLong);
    assert!(compute.loads().is_empty(), "no engine has started");
}

#[test]
fn a_replay_that_is_cancelled_leaves_the_engine() {
    let (compute, model) = compute();
    let job = job("Who pays?", 3);
    let count = compute.count(&model, &job, &[0; 16]).unwrap().tokens;
    let token = ChainedToken {
        id: 40,
        logits: Digest([0; 32]),
        piece: Piece::default(),
    };
    // As long as the context takes.
    let answer = vec![token; (compute.context(&model) as u64 - count) as usize];
    let cancel = CancelFlag::new();
    std::thread::scope(|scope| {
        let replay = scope.spawn(|| compute.replay(&model, &job, &[0; 16], &answer, &cancel));
        let background = || {
            compute
                .loads()
                .get(&model)
                .map_or(0, |load| load.background)
        };
        while background() == 0 && !replay.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(replay.join().unwrap().is_err());
        assert_eq!(background(), 0);
    });
    let again = compute.replay(&model, &job, &[0; 16], &answer, &cancel);
    assert!(again.is_err(), "nor does it begin");
}

#[test]
fn an_order_whose_thread_panics_is_no_longer_under_way() {
    let (compute, model) = compute();
    let mut job = job("Who pays?", 3);
    job.date = "planted".to_owned();
    let mut output = compute.start(order(1), &model, job, u64::MAX);
    assert!(output.blocking_recv().is_none());
    let since = std::time::Instant::now();
    while compute.is_busy() {
        assert!(since.elapsed() < Duration::from_secs(30), "it stays busy");
        std::thread::yield_now();
    }
}

/// A model's file that is large enough to be packed after it was opened, so that it is still read.
#[cfg(unix)]
pub(crate) fn large_file(dir: &std::path::Path) -> std::path::PathBuf {
    use kernels::gguf::TensorType;
    use kernels::synthetic::{Shape, qwen3};
    let shape = Shape {
        embedding: 512,
        feed_forward: 16_384,
        layers: 3,
        ..Shape::tiny()
    };
    let path = dir.join("large.gguf");
    std::fs::write(&path, qwen3(&shape, TensorType::Q8_0, 5)).unwrap();
    path
}

/// A model whose file has changed since it was opened.
#[cfg(unix)]
pub(crate) fn changed_file(path: &std::path::Path) -> Model {
    // Packing may be quicker once or twice: then nothing is wrong with the model.
    for round in 0..20 {
        let model = Model::open(path, &OpenOptions::default()).unwrap();
        let before = std::fs::metadata(path).unwrap().modified().unwrap();
        let later = before + Duration::from_secs(60 + round);
        let writer = std::fs::File::options().write(true).open(path).unwrap();
        writer.set_modified(later).unwrap();
        if model.is_changed() {
            return model;
        }
    }
    panic!("packing is always quicker");
}

#[cfg(unix)]
#[test]
fn nothing_is_counted_for_a_model_whose_file_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_file(dir.path());
    let job = Job {
        work: Work::Complete {
            prompt: "x".to_owned(),
        },
        ..job("", 1)
    };
    let compute = Compute::new();
    let model = compute.add(changed_file(&path));
    let refused = compute.count(&model, &job, &[0; 16]).unwrap_err();
    assert_eq!(refused.code, Code::EngineFailed);
    // Nor once its engine runs.
    let mut output = compute.start(order(1), &model, job.clone(), u64::MAX);
    assert!(matches!(output.blocking_recv(), Some(Output::Failed(_))));
    let refused = compute.count(&model, &job, &[0; 16]).unwrap_err();
    assert_eq!(refused.code, Code::EngineFailed);
}
