//! A panic in a step ends the answers of that step and nothing else.

use super::*;

#[test]
fn a_panic_in_a_step_fails_its_answers_and_the_engine_goes_on() {
    let engine = engine(100, 4, 4);
    let request = simple(20, 5);
    let expected = alone(&request);
    for _ in 0..3 {
        engine.plant_faults(2);
        for _ in 0..2 {
            let failed = all(engine.submit(request.clone()).unwrap());
            assert_eq!(failed, Err(EngineError::Fault));
        }
        let steps = all(engine.submit(request.clone()).unwrap()).unwrap();
        assert_eq!(steps, expected);
    }
    assert_eq!(engine.load().jobs, 0);
    assert_eq!(engine.broken(), None);
}

#[test]
fn a_panic_in_a_step_of_many_touches_no_answer_outside_of_it() {
    let engine = engine(8, 4, 4);
    for _ in 0..20 {
        let requests: Vec<Request> = (0..4)
            .map(|n| Request {
                allowance: 1,
                owner: u64::from(n),
                ..simple(60 + n, 30)
            })
            .collect();
        let mut streams: Vec<Stream> = requests
            .iter()
            .map(|request| engine.submit(request.clone()).unwrap())
            .collect();
        let firsts: Vec<Step> = streams
            .iter_mut()
            .map(|stream| stream.next().unwrap().unwrap())
            .collect();
        // One to four of them are in the next step.
        engine.plant_faults(1);
        for stream in &streams {
            stream.control().allow(u64::MAX);
        }
        let mut failed = 0;
        for ((stream, first), request) in streams.into_iter().zip(firsts).zip(&requests) {
            match all(stream) {
                Ok(rest) => assert_eq!([vec![first], rest].concat(), alone(request)),
                Err(error) => {
                    assert_eq!(error, EngineError::Fault);
                    failed += 1;
                }
            }
        }
        assert!(failed > 0);
    }
    // Nothing that they held is lost: one that needs all of the memory still runs.
    let whole = simple(engine.most_tokens() as u32 - 5, 5);
    assert_eq!(
        all(engine.submit(whole.clone()).unwrap()).unwrap(),
        alone(&whole)
    );
}

#[test]
fn three_panics_in_a_row_end_the_engine_with_a_reason() {
    let engine = engine(100, 4, 4);
    engine.plant_faults(3);
    let mut last = None;
    for _ in 0..3 {
        last = Some(all(engine.submit(simple(20, 5)).unwrap()));
    }
    assert_eq!(last, Some(Err(EngineError::Fault)));
    // The thread may still be on its way out when the answer's end is read.
    while engine.broken().is_none() {
        std::thread::yield_now();
    }
    let refused = engine.submit(simple(20, 5));
    assert_eq!(refused.err(), Some(EngineError::Fault));
}

#[test]
fn a_panic_outside_of_a_step_leaves_an_engine_that_says_so() {
    use std::sync::atomic::Ordering::Relaxed;
    let engine = engine(100, 4, 4);
    engine.hub.falls.store(true, Relaxed);
    let ended = all(engine.submit(simple(20, 5)).unwrap());
    assert_eq!(ended, Err(EngineError::Stopped));
    while engine.broken().is_none() {
        std::thread::yield_now();
    }
    let refused = engine.submit(simple(20, 5));
    assert_eq!(refused.err(), Some(EngineError::Fault));
}
