//! Many sequences at once give the bits of each alone.

mod panics;

use super::*;
use crate::Grammar;
use crate::gguf::TensorType;
use crate::gguf::write::Encoding;
use crate::model::{OpenOptions, zoo};
use crate::runtime::{Control, Finish, Generation, Next, Step, replay};
use crate::synthetic::{Shape, qwen3};
use std::sync::LazyLock;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let options = OpenOptions {
        threads: 2,
        ..OpenOptions::default()
    };
    Model::from_bytes(qwen3(&Shape::tiny(), TensorType::Q8_0, 5), &options).unwrap()
});

/// A random model of any architecture.
fn small(kind: &str) -> Model {
    let bytes = zoo::write(kind, Encoding::Q8_0, 3);
    Model::from_bytes(bytes, &OpenOptions::default()).unwrap()
}

/// Bytes of that many pages of the tiny model.
fn room(pages: usize) -> u64 {
    2 * MODEL.0.graph.page_len() as u64 * pages as u64
}

fn engine(pages: usize, streams: usize, queue: usize) -> Engine {
    let options = EngineOptions {
        cache_bytes: room(pages),
        streams,
        queue,
        ..EngineOptions::default()
    };
    Engine::new(&MODEL, options).unwrap()
}

/// Numbers from a seed, well mixed (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A request that shares the beginning of its prompt with others.
fn request(draw: &mut Draw, longest: u64) -> Request {
    let start = draw.below(3) as u32;
    let shared = draw.below(longest) as u32;
    let own = 1 + draw.below(40) as u32;
    let mark = draw.below(250) as u32;
    Request {
        prompt: (0..shared)
            .map(|i| (i * 29 + start) % 256)
            .chain((0..own).map(|i| (i * 7 + mark) % 256))
            .collect(),
        sampling: Sampling {
            temperature_milli: 900,
            top_p_milli: 950,
            repetition_penalty_milli: 1100,
            ..Sampling::default()
        },
        seed: draw.below(1000),
        max_output: 1 + draw.below(60) as u32,
        stop: vec!["th".to_owned()],
        owner: draw.below(4),
        scope: [draw.below(2) as u8; 32],
        allowance: u64::MAX,
    }
}

fn simple(prompt: u32, output: u32) -> Request {
    Request {
        prompt: (0..prompt).map(|i| (i * 31 + 1) % 256).collect(),
        sampling: Sampling::default(),
        seed: 0,
        max_output: output,
        stop: Vec::new(),
        owner: 0,
        scope: [0; 32],
        allowance: u64::MAX,
    }
}

/// What a lone generation makes of a request.
fn alone(request: &Request) -> Vec<Step> {
    alone_on(&MODEL, request)
}

fn alone_on(model: &Model, request: &Request) -> Vec<Step> {
    alone_steered(model, request, &Steering::default())
}

fn alone_steered(model: &Model, request: &Request, steering: &Steering) -> Vec<Step> {
    let r = request;
    let mut generation =
        Generation::new(model, &r.prompt, r.sampling, r.seed, r.max_output, &r.stop).unwrap();
    generation.steer(steering).unwrap();
    generation.prefill(&CancelFlag::new()).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    while steps.last().is_none_or(|step| step.finish.is_none()) {
        steps.push(generation.step().unwrap());
    }
    steps
}

fn all(stream: Stream) -> Result<Vec<Step>, EngineError> {
    stream.collect()
}

/// Submits, trying again while the engine is busy.
fn insist(engine: &Engine, request: &Request) -> Stream {
    loop {
        match engine.submit(request.clone()) {
            Ok(stream) => return stream,
            Err(EngineError::Busy { retry_ms }) => assert!(retry_ms > 0),
            Err(error) => unreachable!("{error}"),
        }
        std::thread::yield_now();
    }
}

/// How a reader behaves.
fn read(mut stream: Stream, draw: &mut Draw, expected: &[Step]) {
    let control = stream.control();
    let stingy = draw.below(3) == 0;
    let leaves = (draw.below(5) == 0).then(|| draw.below(20) as usize);
    let mut steps = Vec::new();
    let mut allowed = 0;
    loop {
        if stingy && steps.len() as u64 >= allowed {
            allowed += 1 + draw.below(9);
            control.allow(allowed);
        }
        if leaves == Some(steps.len()) {
            match draw.below(2) {
                0 => return,
                _ => control.cancel(),
            }
        }
        match stream.next_within(Duration::from_millis(draw.below(3))) {
            Ok(Next::Step(step)) => steps.push(step),
            Ok(Next::Pending) => {}
            Ok(Next::Ended) => break,
            Err(error) => {
                assert_eq!((error, leaves.is_some()), (EngineError::Cancelled, true));
                assert_eq!(steps, expected[..steps.len()]);
                return;
            }
        }
    }
    assert_eq!(steps, expected);
    assert_eq!(stream.next(), None);
}

#[test]
fn random_arrivals_pauses_departures_and_prefix_hits_change_no_bit() {
    // From a cache that hardly holds one sequence to one that holds all.
    for (round, pages) in [9, 12, 25, 400].into_iter().enumerate() {
        let engine = engine(pages, 5, 7);
        std::thread::scope(|scope| {
            for reader in 0..6u64 {
                let engine = &engine;
                scope.spawn(move || {
                    let mut draw = Draw(1000 * round as u64 + reader);
                    for _ in 0..8 {
                        let request = request(&mut draw, 400);
                        let expected = alone(&request);
                        let mut asked = request.clone();
                        // Somebody who pays as he goes starts without credit.
                        let stingy = Draw(draw.0).below(3) == 0;
                        asked.allowance = if stingy { 0 } else { u64::MAX };
                        read(insist(engine, &asked), &mut draw, &expected);
                    }
                });
            }
        });
        let load = engine.load();
        assert_eq!(load.capacity, pages);
        assert!(load.pages <= pages);
        // Those who left are noticed at the next step.
        drop(engine);
    }
}

#[test]
fn a_prompt_that_is_known_is_not_computed_again_and_nothing_else_changes() {
    let engine = engine(100, 4, 4);
    let request = simple(200, 20);
    let expected = alone(&request);
    let read = |request: &Request| {
        let mut stream = engine.submit(request.clone()).unwrap();
        let steps: Result<Vec<Step>, _> = stream.by_ref().collect();
        (steps.unwrap(), stream.cached())
    };
    assert_eq!(read(&request), (expected.clone(), 0));
    assert_eq!(read(&request), (expected.clone(), 192));
    // A conversation goes on: the answer's pages are known as well.
    let mut longer = request.clone();
    longer.prompt.extend(expected.iter().map(|step| step.token));
    longer.prompt.extend(simple(60, 0).prompt);
    assert_eq!(read(&longer), (alone(&longer), 192));
    assert_eq!(read(&longer), (alone(&longer), 256));
    // A prompt of whole pages keeps its last token to compute.
    assert_eq!(read(&simple(128, 3)), (alone(&simple(128, 3)), 64));
    // Another scope knows nothing.
    let mut elsewhere = request.clone();
    elsewhere.scope = [1; 32];
    assert_eq!(read(&elsewhere), (expected, 0));
}

#[test]
fn guessed_tokens_are_those_that_would_have_come() {
    let (mut guessed, mut right) = (0, 0);
    for lookup in [1, 3] {
        let options = EngineOptions {
            cache_bytes: room(60),
            lookup,
            ..EngineOptions::default()
        };
        let engine = Engine::new(&MODEL, options).unwrap();
        for seed in 0..12u64 {
            let mut draw = Draw(seed);
            // A text that goes round, so that there is something to guess from.
            let period = 2 + draw.below(9) as u32;
            let mut request = simple(0, 150);
            request.prompt = (0..90).map(|i| 40 + i % period).collect();
            request.seed = seed;
            request.sampling.temperature_milli = [0, 0, 300, 900][seed as usize % 4];
            if seed % 3 == 0 {
                request.sampling.repetition_penalty_milli = 1200;
            }
            let steering = Steering {
                bias: vec![(41, 4_000), (42, 3_000)],
                logprobs: (seed % 2 == 0).then_some(2),
                grammar: (seed % 5 == 4).then(|| Grammar::Regex("[ -~]*".to_owned())),
            };
            let mut expected = alone_steered(&MODEL, &request, &steering);
            if seed % 4 == 1 {
                // Text in the middle of what repeats itself ends the answer.
                let text = |steps: &[Step]| steps.iter().map(|s| s.text.as_str()).collect();
                request.stop = vec![text(&expected[70..73])];
                expected = alone_steered(&MODEL, &request, &steering);
            }
            // Paid for bit by bit, too: never a token more than is allowed.
            request.allowance = if seed % 2 == 0 { u64::MAX } else { 5 };
            let mut stream = engine.submit_steered(request.clone(), &steering).unwrap();
            let control = stream.control();
            let mut made = Vec::new();
            while let Some(step) = stream.next() {
                made.push(step.unwrap());
                let ended = made.last().is_some_and(|step| step.finish.is_some());
                if made.len() as u64 == request.allowance && !ended {
                    assert_eq!(
                        stream.next_within(Duration::from_millis(1)),
                        Ok(Next::Pending)
                    );
                    request.allowance += 1 + draw.below(20);
                    control.allow(request.allowance);
                }
            }
            assert_eq!(made, expected, "seed {seed}");
        }
        let load = engine.load();
        guessed += load.guessed;
        right += load.guessed_right;
    }
    // Of both kinds, or this shows nothing.
    assert!(right > 100 && guessed > right + 10, "{right} of {guessed}");
    println!("{right} of {guessed} right");
}

#[test]
fn a_paused_sequence_and_a_slow_reader_hold_up_nobody() {
    // Room for one of them at a time, nearly.
    let engine = engine(8, 4, 8);
    let mut paused = simple(300, 100);
    paused.allowance = 3;
    let mut paused_stream = engine.submit(paused.clone()).unwrap();
    let first: Vec<Step> = paused_stream.by_ref().take(3).map(Result::unwrap).collect();
    let slow = engine.submit(simple(70, 90)).unwrap();
    for prompt in [10, 200, 350] {
        let request = simple(prompt, 50);
        assert_eq!(
            all(engine.submit(request.clone()).unwrap()).unwrap(),
            alone(&request)
        );
    }
    assert_eq!(all(slow).unwrap(), alone(&simple(70, 90)));
    let pending = paused_stream.next_within(Duration::ZERO);
    assert_eq!(pending, Ok(Next::Pending));
    paused_stream.control().allow(u64::MAX);
    let rest: Vec<Step> = paused_stream.map(Result::unwrap).collect();
    assert_eq!([first, rest].concat(), alone(&paused));
}

#[test]
fn cancelled_answers_end_and_give_their_place_back() {
    let engine = engine(16, 1, 1);
    let mut endless = simple(20, 400);
    endless.allowance = 1;
    let mut held = engine.submit(endless.clone()).unwrap();
    assert!(held.next().unwrap().is_ok());
    let waiting = engine.submit(endless.clone()).unwrap();
    let Err(EngineError::Busy { retry_ms }) = engine.submit(endless.clone()) else {
        unreachable!("streams and queue are full")
    };
    assert!((RETRY_MS.0..=RETRY_MS.1).contains(&retry_ms));
    held.control().cancel();
    assert_eq!(held.next(), Some(Err(EngineError::Cancelled)));
    assert_eq!(held.next(), None);
    waiting.control().cancel();
    assert!(all(waiting).is_err());
    assert_eq!(engine.load().jobs, 0);
    // Dropped streams count as cancelled.
    drop(engine.submit(endless).unwrap());
    let request = simple(30, 5);
    assert_eq!(all(insist(&engine, &request)).unwrap(), alone(&request));
}

#[test]
fn what_can_never_run_is_refused_by_name() {
    let engine = engine(3, 2, 2);
    let error = engine.submit(simple(150, 50)).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, EngineError::Memory { tokens: 200, .. }),
        "{error}"
    );
    assert!(engine.submit(simple(140, 51)).is_ok());
    let empty = engine.submit(simple(0, 1)).map(|_| ());
    assert_eq!(empty, Err(EngineError::EmptyPrompt));
    let vector = engine.embed(0, &[1], &CancelFlag::new());
    assert_eq!(vector, Err(EngineError::NoEmbeddings));
    assert_eq!(all(engine.submit(simple(9, 0)).unwrap()), Ok(Vec::new()));
}

#[test]
fn a_replay_among_streams_agrees_with_one_alone() {
    let engine = engine(40, 4, 4);
    let request = simple(90, 100);
    let answer: Vec<u32> = alone(&request).iter().map(|step| step.token).collect();
    let (s, cancel) = (request.sampling, CancelFlag::new());
    let expected = replay(&MODEL, &request.prompt, &answer, s, 0, &cancel).unwrap();
    let engine = &engine;
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..3)
            .map(|i| scope.spawn(move || all(engine.submit(simple(50 + i, 80)).unwrap())))
            .collect();
        let replayed = engine.replay(&request.prompt, &answer, s, 0, &cancel);
        assert_eq!(replayed.unwrap(), expected);
        for other in others {
            assert!(other.join().unwrap().is_ok());
        }
    });
    assert_eq!(
        engine.replay(&request.prompt, &[], s, 0, &cancel),
        Ok(Vec::new())
    );
    cancel.cancel();
    let cancelled = engine.replay(&request.prompt, &answer, s, 0, &cancel);
    assert_eq!(cancelled, Err(EngineError::Cancelled));
}

#[test]
fn a_replay_that_loses_its_pages_goes_on_where_it_was() {
    // It fits alone only: an answer that comes meanwhile takes its pages away.
    let engine = engine(5, 2, 2);
    let (request, other) = (simple(90, 190), simple(150, 12));
    let answer: Vec<u32> = alone(&request).iter().map(|step| step.token).collect();
    let (s, cancel) = (request.sampling, CancelFlag::new());
    let expected = replay(&MODEL, &request.prompt, &answer, s, 0, &cancel);
    let most = (90 + 190 - 1) + (150 + 12 - 1);
    let again = (0..1_000).any(|_| {
        let before = engine.load().rows;
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| {
                while engine.load().rows == before {
                    std::thread::yield_now();
                }
                all(engine.submit(other.clone()).unwrap())
            });
            let replayed = engine.replay(&request.prompt, &answer, s, 0, &cancel);
            assert_eq!(replayed, expected);
            assert!(stream.join().unwrap().is_ok());
        });
        engine.load().rows - before > most
    });
    assert!(again, "nothing was ever computed again");
}

#[test]
fn replays_take_no_place_from_answers() {
    let engine = engine(200, 2, 2);
    let request = simple(60, 40);
    let (s, cancel) = (request.sampling, CancelFlag::new());
    let answer: Vec<u32> = alone(&request).iter().map(|step| step.token).collect();
    let again = || engine.replay(&request.prompt, &answer, s, 0, &cancel);
    std::thread::scope(|scope| {
        // The thread waits for this before it gives a place to anybody.
        let held = lock(&engine.prefix);
        let replays: Vec<_> = (0..4).map(|_| scope.spawn(again)).collect();
        while engine.load().background < 4 {
            std::thread::yield_now();
        }
        assert!(matches!(again(), Err(EngineError::Busy { .. })));
        let streams = [1, 2, 3, 4].map(|n| engine.submit(simple(n, 3)).unwrap());
        let fifth = engine.submit(simple(5, 3)).err();
        assert!(matches!(fifth, Some(EngineError::Busy { .. })), "{fifth:?}");
        drop(held);
        for stream in streams {
            assert!(all(stream).is_ok());
        }
        for replay in replays {
            assert_eq!(replay.join().unwrap().map(|made| made.len()), Ok(40));
        }
    });
    assert_eq!((engine.load().jobs, engine.load().background), (0, 0));
}

#[test]
fn a_steered_answer_replays_among_streams_and_another_steering_does_not() {
    let engine = engine(80, 4, 4);
    let mut request = simple(20, 40);
    request.sampling.temperature_milli = 900;
    let steering = Steering {
        bias: vec![(7, 2_000), (9, -4_000)],
        grammar: Some(crate::Grammar::Regex("[a-z ]{30,}".to_owned())),
        logprobs: Some(2),
    };
    let stream = engine.submit_steered(request.clone(), &steering).unwrap();
    let steps = all(stream).unwrap();
    let answer: Vec<u32> = steps.iter().map(|step| step.token).collect();
    let other = all(engine.submit(request.clone()).unwrap()).unwrap();
    assert_ne!(answer, other.iter().map(|s| s.token).collect::<Vec<_>>());
    let again = |steering: &Steering| {
        let (s, cancel) = (request.sampling, CancelFlag::new());
        engine
            .replay_steered(&request.prompt, &answer, s, steering, request.seed, &cancel)
            .unwrap()
    };
    let replayed = again(&steering);
    let made: Vec<_> = steps
        .iter()
        .map(|step| (step.token, step.logit_digest))
        .collect();
    let expected: Vec<_> = replayed
        .iter()
        .map(|r| (r.expected_token, r.logit_digest))
        .collect();
    assert_eq!(made, expected);
    assert_ne!(again(&Steering::default()), replayed);
}

#[test]
fn what_is_cached_is_told_before_a_request_is_made() {
    let engine = engine(80, 4, 4);
    let request = simple(3 * schedule::PAGE as u32 + 1, 2);
    assert_eq!(engine.cached(&request.scope, &request.prompt), 0);
    all(engine.submit(request.clone()).unwrap()).unwrap();
    let promised = engine.cached(&request.scope, &request.prompt);
    assert_eq!(promised, 3 * schedule::PAGE);
    assert_eq!(engine.cached(&[9; 32], &request.prompt), 0);
    let mut again = engine.submit(request).unwrap();
    assert!(matches!(again.next(), Some(Ok(_))));
    assert_eq!(again.cached(), promised);
}

#[test]
fn a_dropped_engine_ends_every_answer_once() {
    let engine = engine(40, 2, 6);
    let streams: Vec<Stream> = (0..6)
        .map(|_| {
            let mut request = simple(30, 300);
            request.allowance = 2;
            engine.submit(request).unwrap()
        })
        .collect();
    let controls: Vec<Control> = streams.iter().map(Stream::control).collect();
    drop(engine);
    for stream in streams {
        let ends: Vec<_> = stream.filter(Result::is_err).collect();
        assert_eq!(ends, [Err(EngineError::Stopped)]);
    }
    controls.iter().for_each(Control::cancel);
}

#[test]
fn an_idle_engine_computes_nothing() {
    let engine = engine(10, 2, 2);
    let steps = all(engine.submit(simple(5, 10)).unwrap()).unwrap();
    assert_eq!(steps.last().unwrap().finish, Some(Finish::Length));
    let before = engine.load();
    (0..100).for_each(|_| engine.hub.wake());
    assert!(all(engine.submit(simple(5, 1)).unwrap()).is_ok());
    // The first step has the whole prompt; the second job took exactly one.
    let after = engine.load();
    assert!(
        after.steps <= before.steps + 2 && after.jobs == 0,
        "{before:?} {after:?}"
    );
}

#[test]
fn every_architecture_gives_the_bits_of_each_alone() {
    for kind in zoo::DECODERS {
        let model = small(kind);
        let engine = Engine::new(&model, EngineOptions::default()).unwrap();
        let requests = [
            simple(150, 12),
            simple(20, 12),
            simple(1, 12),
            simple(140, 9),
        ];
        let streams = requests
            .each_ref()
            .map(|r| engine.submit(r.clone()).unwrap());
        for (stream, request) in streams.into_iter().zip(&requests) {
            assert_eq!(all(stream).unwrap(), alone_on(&model, request), "{kind}");
        }
    }
}

#[test]
fn texts_are_embedded_in_turn_with_the_bits_of_each_alone() {
    let model = small("bert");
    let engine = Engine::new(&model, EngineOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for owner in 0..4u32 {
            let (engine, model) = (&engine, &model);
            scope.spawn(move || {
                for n in 1..8 {
                    let tokens: Vec<u32> = (0..n).map(|i| (i * 3 + owner) % 20).collect();
                    let cancel = CancelFlag::new();
                    let vector = engine.embed(u64::from(owner), &tokens, &cancel);
                    assert_eq!(vector, model.embed(&tokens));
                }
            });
        }
    });
    assert_eq!(engine.load().jobs, 0);
}

#[test]
fn whoever_has_read_the_last_token_finds_the_place_free() {
    let engine = engine(10, 1, 0);
    let request = simple(5, 1);
    for _ in 0..300 {
        let mut stream = engine.submit(request.clone()).unwrap();
        assert!(stream.next().unwrap().unwrap().finish.is_some());
        assert_eq!(engine.load().jobs, 0);
    }
    let options = EngineOptions {
        streams: 1,
        queue: 0,
        ..EngineOptions::default()
    };
    let engine = Engine::new(&small("bert"), options).unwrap();
    for _ in 0..300 {
        engine.embed(0, &[1, 2], &CancelFlag::new()).unwrap();
        assert_eq!(engine.load().jobs, 0);
    }
}

#[test]
fn hundreds_of_short_answers_of_the_pocket_model_are_those_of_each_alone() {
    let model = Model::from_bytes(crate::pocket::pocket(), &OpenOptions::default()).unwrap();
    let options = EngineOptions {
        cache_bytes: 2 * model.0.graph.page_len() as u64 * 24,
        streams: 8,
        queue: 24,
        ..EngineOptions::default()
    };
    let engine = Engine::new(&model, options).unwrap();
    let questions = ["What is a host?", "Who pays?", "What is a sat?", "Hello"];
    let prompts = questions.map(|q| model.tokenizer().encode(q, false));
    let ask = |i: usize| Request {
        prompt: prompts[i % 4].clone(),
        seed: (i / 4 % 4) as u64,
        sampling: Sampling {
            temperature_milli: 700,
            ..Sampling::default()
        },
        ..simple(1, 6)
    };
    let expected: Vec<Vec<Step>> = (0..16).map(|i| alone_on(&model, &ask(i))).collect();
    std::thread::scope(|scope| {
        for reader in 0..20 {
            let (engine, expected, ask) = (&engine, &expected, &ask);
            scope.spawn(move || {
                for i in (reader..400).step_by(20) {
                    assert_eq!(all(insist(engine, &ask(i))).unwrap(), expected[i % 16]);
                }
            });
        }
    });
    assert_eq!(engine.load().jobs, 0);
}

#[test]
fn what_the_memory_holds_is_told_before_anything_is_promised() {
    let engine = engine(4, 2, 2);
    let most = engine.most_tokens();
    let options = EngineOptions {
        cache_bytes: room(4),
        ..EngineOptions::default()
    };
    assert_eq!(
        (most, Engine::most_tokens_of(&MODEL, &options)),
        (4 * PAGE - 1, most)
    );
    assert_eq!(engine.check_fits(most), Ok(()));
    assert!(matches!(
        engine.check_fits(most + 1),
        Err(EngineError::Memory { .. })
    ));
    let (prompt, output) = (most as u32 - 3, 3);
    assert!(all(engine.submit(simple(prompt, output)).unwrap()).is_ok());
    assert!(engine.submit(simple(prompt, output + 1)).is_err());
}

#[test]
fn prompts_that_do_not_fit_together_are_computed_one_after_the_other() {
    // Six times 200 tokens where 250 fit, read one by one with pauses.
    let engine = engine(4, 6, 6);
    let requests: Vec<Request> = (0..6u32)
        .map(|i| {
            let mut request = simple(200, 20);
            request.prompt[0] = i;
            (request.owner, request.scope) = (u64::from(i), [i as u8; 32]);
            request
        })
        .collect();
    let streams: Vec<Stream> = requests.iter().map(|r| insist(&engine, r)).collect();
    std::thread::scope(|scope| {
        for (stream, request) in streams.into_iter().zip(&requests) {
            scope.spawn(move || assert_eq!(all(stream).unwrap(), alone(request)));
        }
    });
    let rows = engine.load().rows;
    let alone = 6 * (200 + 19);
    assert!(rows <= alone + 220, "{rows} rows for {alone}");
}
