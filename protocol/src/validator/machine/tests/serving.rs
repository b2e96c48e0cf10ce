//! The audit stream, as others use it.

use super::*;

fn check(stream: u64, peer: u8) -> Input {
    check_bundle(stream, peer, &Script::default())
}

fn check_bundle(stream: u64, peer: u8, script: &Script) -> Input {
    Input::AuditAsked {
        stream: StreamId(stream),
        caller: Caller::alone(PeerTag([peer; 16])),
        frame: Box::new(AuditFrame::Check(Box::new(testing::bundle(script)))),
    }
}

fn answers(effects: &[Effect]) -> Vec<AuditFrame> {
    let one = |effect: &Effect| match effect {
        Effect::Answer { frame, .. } => Some(frame.as_ref().clone()),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn refusal(effects: &[Effect]) -> Option<Code> {
    match answers(effects).into_iter().next() {
        Some(AuditFrame::Refusal(refusal)) => Some(refusal.code),
        _ => None,
    }
}

fn verdict(effects: &[Effect]) -> Verdict {
    match answers(effects).into_iter().next() {
        Some(AuditFrame::Verdict(signed)) => {
            let opened = signed.open_public::<Verdict>(&host(), NETWORK).unwrap();
            assert_eq!(opened.envelope.from, validator().key());
            opened.body
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stranger_gets_a_signed_verdict_of_a_replay() {
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), check(1, 8));
    let effects = feed(
        &mut machine,
        at(1),
        replayed(replay_id(&effects).unwrap(), honest_replay()),
    );
    let verdict = verdict(&effects);
    assert_eq!((verdict.tier, verdict.tokens), (Tier::ExactReplay, 10));
    assert_eq!(verdict.finding, Finding::Honest);
    let receipt = testing::bundle(&Script::default()).receipt.unwrap();
    assert_eq!(verdict.evidence, receipt.digest());
    assert!(
        judgements(&effects).is_empty(),
        "a host cannot praise itself through us"
    );
}

#[test]
fn false_accounts_are_answered_at_once_and_noted() {
    let mut machine = machine(config());
    let lie = Script {
        receipt: |r| r.counts.output_tokens = 11,
        ..Script::default()
    };
    let effects = feed(&mut machine, at(0), check_bundle(1, 8, &lie));
    assert!(matches!(
        verdict(&effects).finding,
        Finding::FalseAccount { .. }
    ));
    assert_eq!(judgements(&effects).len(), 1);
}

#[test]
fn nonsense_is_inconclusive_not_a_panic() {
    let mut machine = machine(config());
    let mut bundle = testing::bundle(&Script::default());
    bundle.order.bytes.clear();
    let frame = Box::new(AuditFrame::Check(Box::new(bundle)));
    let input = Input::AuditAsked {
        stream: StreamId(1),
        caller: Caller::alone(PeerTag([9; 16])),
        frame,
    };
    let effects = feed(&mut machine, at(0), input);
    assert!(matches!(
        verdict(&effects).finding,
        Finding::Inconclusive { .. }
    ));
}

#[test]
fn one_peer_cannot_take_every_place_and_all_strangers_not_the_last_half() {
    let mut machine = machine(config());
    let mut stream = 0;
    let mut ask = |machine: &mut Validator, peer| {
        stream += 1;
        refusal(&feed(machine, at(0), check(stream, peer)))
    };
    for _ in 0..MAX_PER_PEER {
        assert_eq!(ask(&mut machine, 1), None);
    }
    assert_eq!(ask(&mut machine, 1), Some(Code::Busy));
    for peer in 2..60 {
        ask(&mut machine, peer);
    }
    assert_eq!(machine.pending(), limits::MAX_PENDING_AUDITS / 2);
    assert_eq!(ask(&mut machine, 99), Some(Code::Busy));
    let own = feed(&mut machine, at(0), ended(&Script::default(), true));
    assert!(replay_id(&own).is_some(), "our own orders still have room");
}

#[test]
fn peers_of_one_address_share_its_places_and_its_checks_of_an_hour() {
    let mut machine = machine(config());
    let mut ask = |peer: u8, address: u8, bundle: &Script| {
        let mut input = check_bundle(u64::from(peer), peer, bundle);
        if let Input::AuditAsked { caller, .. } = &mut input {
            caller.address = AddressTag([address; 16]);
        }
        refusal(&feed(&mut machine, at(0), input))
    };
    let waits = (1..=20).filter(|peer| ask(*peer, 1, &Script::default()).is_none());
    assert_eq!(waits.count(), MAX_PER_ADDRESS);
    assert_eq!(ask(21, 2, &Script::default()), None);
    // What is answered at once holds no place, and counts all the same.
    let lie = Script {
        receipt: |r| r.counts.output_tokens = 11,
        ..Script::default()
    };
    let answered = (30..=200).filter(|peer| ask(*peer, 3, &lie).is_none());
    assert_eq!(answered.count(), config().free_checks_per_address as usize);
    assert_eq!(ask(201, 4, &lie), None);
}

#[test]
fn a_verdict_tells_a_stranger_no_token_that_the_replay_gave() {
    for numerics in [Some(NUMERICS.to_owned()), None] {
        let mut machine = machine(config());
        let effects = feed(&mut machine, at(0), check(1, 8));
        let mut replay = honest_replay();
        replay.expected[4].id = 987_654;
        replay.numerics = numerics.clone();
        let id = replay_id(&effects).unwrap();
        let effects = feed(&mut machine, at(1), replayed(id, replay.clone()));
        let told = serde_json::to_string(&verdict(&effects)).unwrap();
        assert!(!told.contains("987654") && !told.contains("1004"), "{told}");
        for (tier, finding) in judgements(&effects) {
            assert!(!format!("{tier:?} {finding:?}").contains("987654"));
        }
        // The buyer of the answer is told in full.
        let effects = feed(&mut machine, at(2), ended(&Script::default(), true));
        let id = replay_id(&effects).unwrap();
        let effects = feed(&mut machine, at(3), replayed(id, replay));
        let own = serde_json::to_string(reports(&effects)[0].as_ref().unwrap()).unwrap();
        assert!(own.contains("987654"), "{own}");
    }
}

#[test]
fn bundles_that_fail_are_counted_like_those_that_pass_and_write_nothing() {
    let mut machine = machine(Config {
        free_checks_per_peer: 5,
        ..config()
    });
    let nonsense = |stream, peer| {
        let mut bundle = testing::bundle(&Script::default());
        bundle.terms.bytes.clear();
        Input::AuditAsked {
            stream: StreamId(stream),
            caller: Caller::alone(PeerTag([peer; 16])),
            frame: Box::new(AuditFrame::Check(Box::new(bundle))),
        }
    };
    for n in 0..5 {
        let effects = feed(&mut machine, at(n), nonsense(n, 1));
        assert!(
            matches!(effects[..], [Effect::Answer { .. }]),
            "{effects:?}"
        );
        assert_eq!(refusal(&effects), None);
    }
    let effects = feed(&mut machine, at(6), nonsense(6, 1));
    let [AuditFrame::Refusal(refused)] = &answers(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(refused.code, Code::Busy);
    assert!(refused.retry_after_ms.is_some_and(|ms| ms <= 3_600_000 / 5));
    assert_eq!(refusal(&feed(&mut machine, at(7), nonsense(7, 2))), None);
    assert_eq!(machine.verdicts(), 0);
    assert_eq!(
        refusal(&feed(&mut machine, at(3_700_000), nonsense(8, 1))),
        None
    );
}

#[test]
fn signatures_of_strangers_bundles_are_bounded_per_peer_and_in_all() {
    let mut machine = machine(Config {
        free_signatures_per_peer: 2_000,
        free_signatures: 5_000,
        ..config()
    });
    let mut bundle = testing::bundle(&Script::default());
    bundle.invoices = vec![bundle.invoices[0].clone(); 1_000];
    let mut ask = |stream: u64, peer: u8| {
        let input = Input::AuditAsked {
            stream: StreamId(stream),
            caller: Caller::alone(PeerTag([peer; 16])),
            frame: Box::new(AuditFrame::Check(Box::new(bundle.clone()))),
        };
        refusal(&feed(&mut machine, at(0), input))
    };
    assert_eq!((ask(1, 1), ask(2, 1)), (None, Some(Code::Busy)));
    let served = (2..20).filter(|peer| ask(10 + u64::from(*peer), *peer).is_none());
    assert_eq!(served.count(), 3);
}

#[test]
fn strangers_wait_while_a_replay_of_ours_is_due() {
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
    let id = replay_id(&effects).unwrap();
    assert_eq!(
        refusal(&feed(&mut machine, at(1), check(1, 8))),
        Some(Code::Busy)
    );
    feed(&mut machine, at(2), replayed(id, honest_replay()));
    assert_eq!(refusal(&feed(&mut machine, at(3), check(2, 8))), None);
}

#[test]
fn strangers_verdicts_replace_and_outlive_none_of_ours() {
    let mut store = Store::new(8);
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
    let ours = reports(&effects).remove(0).unwrap();
    let key = |records: &[crate::machine::Record]| records[0].key.clone();
    let kept = key(&store.keep(Whose::Ours, &ours));
    // The same order, named by a stranger's bundle.
    assert_ne!(key(&store.keep(Whose::Strangers, &ours)), kept);
    for n in 0..100 {
        let theirs = Verdict {
            id: crate::ids::OrderId([n; 16]),
            finding: Finding::FalseAccount {
                detail: "sums".into(),
            },
            time: at(1_000 + u64::from(n)).wall,
            ..ours.clone()
        };
        let gone = store.keep(Whose::Strangers, &theirs);
        assert!(gone.iter().skip(1).all(|record| record.key != kept));
        assert!(store.len() <= 5, "half of the places, and ours");
    }
}

#[test]
fn a_check_whose_stream_closed_is_dropped() {
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), check(1, 8));
    let id = replay_id(&effects).unwrap();
    let closed = Input::StreamClosed {
        stream: StreamId(1),
    };
    let effects = feed(&mut machine, at(1), closed);
    assert_eq!(machine.pending(), 0);
    assert_eq!(effects, [Effect::CancelReplay { id }], "the engine stops");
    assert!(feed(&mut machine, at(2), replayed(id, honest_replay())).is_empty());
}

#[test]
fn only_what_strangers_ask_for_waits_for_each_other() {
    let stranger = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Replay { stranger, .. } => Some(*stranger),
            _ => None,
        })
    };
    let mut machine = machine(config());
    let asked = feed(&mut machine, at(0), check(1, 8));
    assert_eq!(stranger(&asked), Some(true));
    let own = feed(&mut machine, at(0), ended(&Script::default(), true));
    assert_eq!(stranger(&own), Some(false));
    let bundle = Box::new(testing::bundle(&Script::default()));
    let id = EffectId(77);
    let judged = feed(&mut machine, at(0), Input::Judge { id, bundle });
    assert_eq!(stranger(&judged), Some(false));
}

#[test]
fn who_does_not_serve_or_is_asked_twice_or_about_itself_refuses() {
    let mut closed = machine(Config {
        serve: false,
        ..config()
    });
    assert_eq!(
        refusal(&feed(&mut closed, at(0), check(1, 8))),
        Some(Code::NoHost)
    );
    let mut twice = machine(config());
    feed(&mut twice, at(0), check(1, 8));
    let effects = feed(&mut twice, at(0), check(1, 8));
    assert_eq!(refusal(&effects), Some(Code::ProtocolViolation));
    assert_eq!(twice.pending(), 0, "the stream is closed, so is the check");
    let mut judged = Validator::new(config(), Box::new(host()), [7; 32]);
    assert_eq!(
        refusal(&feed(&mut judged, at(0), check(1, 8))),
        Some(Code::NoHost)
    );
    let reply = AuditFrame::Refusal(crate::refusal::Refusal::new(Code::Busy, "x"));
    let input = Input::AuditAsked {
        stream: StreamId(5),
        caller: Caller::alone(PeerTag([9; 16])),
        frame: Box::new(reply),
    };
    let effects = feed(&mut machine(config()), at(0), input);
    assert_eq!(refusal(&effects), Some(Code::ProtocolViolation));
}
