//! Second opinions from other validators.

use super::*;
use crate::message::validator::AGREEING;

fn other() -> Secp {
    Secp::from_secret(&[4; 32]).unwrap()
}

fn candidate(node: NodeKey, numerics: Option<&str>) -> Candidate {
    let model = testing::order_body().model;
    Candidate {
        host: node,
        lightning: LightningId([2; 33]),
        offer: ModelOffer {
            name: "pocket".into(),
            digest: model,
            tokenizer: Digest([10; 32]),
            template: Digest([11; 32]),
            architecture: "qwen3".into(),
            quantisation: "Q8_0".into(),
            context: 2_048,
            numerics: numerics.map(str::to_owned),
            prices: Prices::default(),
        },
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: vec!["/ip4/192.0.2.1/tcp/1".into()],
        score: ScoreCard {
            host: node,
            model,
            total_ppm: 0,
            terms: Vec::new(),
            standing: Default::default(),
            cooldown: None,
        },
    }
}

fn wanted(effects: &[Effect]) -> Option<EffectId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Tell(Message::FindValidators { id, .. }) => Some(*id),
        _ => None,
    })
}

fn asked(effects: &[Effect]) -> Option<(EffectId, NodeKey)> {
    effects.iter().find_map(|effect| match effect {
        Effect::AskValidator { id, host, .. } => Some((*id, *host)),
        _ => None,
    })
}

/// An order under audit whose own engine cannot replay, up to the question to `other`.
fn ask(machine: &mut Validator) -> (EffectId, Verdict) {
    let effects = feed(machine, at(0), ended(&Script::default(), true));
    let own = reports(&effects).remove(0).unwrap();
    let id = wanted(&effects).unwrap();
    let hosts = vec![
        candidate(host().key(), Some(NUMERICS)),
        candidate(validator().key(), Some(NUMERICS)),
        candidate(NodeKey([9; 32]), None),
        candidate(other().key(), Some(NUMERICS)),
    ];
    let effects = feed(machine, at(1), Input::ValidatorsFound { id, hosts });
    let (id, chosen) = asked(&effects).unwrap();
    assert_eq!(
        chosen,
        other().key(),
        "neither the judged host nor us, same numerics first"
    );
    (id, own)
}

fn cannot_replay() -> Config {
    Config {
        can_replay: false,
        ..config()
    }
}

fn answer(machine: &mut Validator, id: EffectId, by: &Secp, verdict: &Verdict) -> Vec<Effect> {
    let signed = Signed::seal(by, NETWORK, None, at(2).wall, [1; 16], verdict);
    let result = Ok(signed);
    feed(machine, at(2), Input::Answered { id, result })
}

fn their(own: &Verdict, finding: Finding) -> Verdict {
    Verdict {
        validator: other().key(),
        tier: Tier::ExactReplay,
        finding,
        ..own.clone()
    }
}

fn wrong() -> Finding {
    Finding::WrongAnswer {
        position: 3,
        detail: "token 1 instead of 2".into(),
    }
}

#[test]
fn what_we_cannot_replay_another_validator_decides() {
    let mut machine = machine(cannot_replay());
    let (id, own) = ask(&mut machine);
    let effects = answer(&mut machine, id, &other(), &their(&own, wrong()));
    assert_eq!(judgements(&effects), [(Tier::ExactReplay, wrong())]);
    assert_eq!(
        reports(&effects)[0].as_ref().unwrap().validator,
        other().key()
    );
    assert_eq!(machine.verdicts(), 2);
}

/// The candidates that [`ask`] leaves, and one more on its own Lightning node.
fn more() -> Secp {
    Secp::from_secret(&[6; 32]).unwrap()
}

fn words(effects: &[Effect]) -> Vec<Witness> {
    let by = |effect: &Effect| match effect {
        Effect::Tell(Message::Judged { witness, .. }) => Some(*witness),
        _ => None,
    };
    effects.iter().filter_map(by).collect()
}

/// A question to `other`, with `more` and a third to turn to, each on a Lightning node of its own.
fn ask_three(machine: &mut Validator) -> (EffectId, Verdict) {
    let effects = feed(machine, at(0), ended(&Script::default(), true));
    let own = reports(&effects).remove(0).unwrap();
    let id = wanted(&effects).unwrap();
    let apart = |key: NodeKey, numerics, lightning| Candidate {
        lightning: LightningId([lightning; 33]),
        ..candidate(key, numerics)
    };
    let hosts = vec![
        candidate(other().key(), Some(NUMERICS)),
        // Ranks before those below, and is paid where `other` is.
        candidate(NodeKey([9; 32]), Some("fh2")),
        apart(more().key(), Some("fh2"), 3),
        apart(third().key(), None, 4),
    ];
    let effects = feed(machine, at(1), Input::ValidatorsFound { id, hosts });
    let (id, first) = asked(&effects).unwrap();
    assert_eq!(first, other().key());
    (id, own)
}

fn third() -> Secp {
    Secp::from_secret(&[7; 32]).unwrap()
}

#[test]
fn one_word_against_a_host_asks_for_others_from_other_lightning_nodes_until_three_agree() {
    let mut machine = machine(cannot_replay());
    let (mut id, own) = ask_three(&mut machine);
    let mut next = other().key();
    let mut said = Vec::new();
    while said.len() < AGREEING {
        let mut all = [other(), more(), third()].into_iter();
        let by = all.find(|one| one.key() == next).unwrap();
        let theirs = Verdict {
            validator: next,
            ..their(&own, wrong())
        };
        said.push(next);
        let effects = answer(&mut machine, id, &by, &theirs);
        let agreed = <[NodeKey; AGREEING]>::try_from(said.as_slice()).ok();
        let expected = std::iter::once(Witness::Other(next)).chain(agreed.map(Witness::Agreed));
        assert_eq!(words(&effects), expected.collect::<Vec<_>>());
        if let Some((question, to)) = asked(&effects) {
            assert!(!said.contains(&to), "asked again");
            (id, next) = (question, to);
        }
    }
    assert_eq!(machine.pending(), 0, "nobody else is asked");
}

#[test]
fn a_validator_that_refuses_or_is_silent_is_followed_by_the_next() {
    let mut machine = machine(cannot_replay());
    let (id, own) = ask_three(&mut machine);
    let effects = answer(&mut machine, id, &other(), &their(&own, wrong()));
    let (id, second) = asked(&effects).unwrap();
    let result = Err("no room".to_owned());
    let effects = feed(&mut machine, at(3), Input::Answered { id, result });
    let (id, last) = asked(&effects).unwrap();
    assert!(last != second && last != other().key());
    assert_eq!(reports(&effects), [], "it is not over");
    // Nobody is left.
    let effects = wake(&mut machine, at(900_004));
    assert_eq!((reports(&effects).len(), asked(&effects)), (1, None));
    assert!(reports(&effects)[0].is_err());
    let late = answer(&mut machine, id, &more(), &their(&own, wrong()));
    assert!(late.is_empty() && machine.pending() == 0);
}

#[test]
fn so_many_validators_are_asked_and_no_more() {
    let mut machine = machine(cannot_replay());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
    let id = wanted(&effects).unwrap();
    let hosts = (20..40).map(|n| Candidate {
        lightning: LightningId([n; 33]),
        ..candidate(NodeKey([n; 32]), Some(NUMERICS))
    });
    let hosts = hosts.collect();
    let mut effects = feed(&mut machine, at(1), Input::ValidatorsFound { id, hosts });
    let mut questions = 0;
    while let Some((id, _)) = asked(&effects) {
        questions += 1;
        let result = Err("no room".to_owned());
        effects = feed(&mut machine, at(2), Input::Answered { id, result });
    }
    assert_eq!(questions, AGREEING + 2);
    assert_eq!(reports(&effects), [Err("no room".to_owned())]);
}

#[test]
fn one_validator_that_does_not_convict_ends_the_asking() {
    let mut machine = machine(cannot_replay());
    let (id, own) = ask_three(&mut machine);
    let effects = answer(&mut machine, id, &other(), &their(&own, wrong()));
    let (id, to) = asked(&effects).unwrap();
    let by = [more(), third()].into_iter().find(|one| one.key() == to);
    let praise = Verdict {
        validator: to,
        ..their(&own, Finding::Honest)
    };
    let effects = answer(&mut machine, id, &by.unwrap(), &praise);
    assert!(words(&effects).is_empty() && asked(&effects).is_none());
    assert_eq!(machine.pending(), 0);
}

#[test]
fn praise_by_another_validator_is_shown_and_told_to_nobody() {
    let mut machine = machine(cannot_replay());
    let (id, own) = ask(&mut machine);
    let effects = answer(&mut machine, id, &other(), &their(&own, Finding::Honest));
    assert!(judgements(&effects).is_empty());
    assert!(reports(&effects)[0].is_ok() && asked(&effects).is_none());
}

#[test]
fn a_validator_that_served_us_is_asked_before_its_equals() {
    for seed in 0..20 {
        let mut machine = Validator::new(cannot_replay(), Box::new(validator()), [seed; 32]);
        let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
        let id = wanted(&effects).unwrap();
        let mut hosts: Vec<Candidate> = (20..30)
            .map(|n| candidate(NodeKey([n; 32]), Some(NUMERICS)))
            .collect();
        hosts[7].score.standing = crate::message::reputation::Standing::Served;
        let effects = feed(&mut machine, at(1), Input::ValidatorsFound { id, hosts });
        assert_eq!(asked(&effects).unwrap().1, NodeKey([27; 32]));
    }
}

#[test]
fn a_verdict_by_another_key_or_about_other_evidence_is_not_believed() {
    let change: [fn(&mut Verdict); 5] = [
        |v| v.validator = NodeKey([9; 32]),
        |v| v.evidence = Digest([0; 32]),
        |v| v.id = crate::ids::OrderId([0; 16]),
        |v| v.host = NodeKey([9; 32]),
        |v| v.model = crate::ids::ModelDigest([0; 32]),
    ];
    for change in change {
        let mut machine = machine(cannot_replay());
        let (id, own) = ask(&mut machine);
        let mut verdict = their(&own, wrong());
        change(&mut verdict);
        let effects = answer(&mut machine, id, &other(), &verdict);
        assert!(judgements(&effects).is_empty());
        assert!(reports(&effects)[0].is_err());
    }
    let mut machine = machine(cannot_replay());
    let (id, own) = ask(&mut machine);
    let effects = answer(&mut machine, id, &host(), &their(&own, Finding::Honest));
    assert!(judgements(&effects).is_empty());
    assert!(reports(&effects)[0].is_err(), "signed by somebody else");
}

#[test]
fn our_own_replay_is_not_overruled_by_another_validator() {
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
    let id = replay_id(&effects).unwrap();
    let effects = feed(&mut machine, at(1), replayed(id, honest_replay()));
    let own = reports(&effects).remove(0).unwrap();
    let id = wanted(&effects).unwrap();
    let hosts = vec![candidate(other().key(), None)];
    let effects = feed(&mut machine, at(1), Input::ValidatorsFound { id, hosts });
    let (id, _) = asked(&effects).unwrap();
    let effects = answer(&mut machine, id, &other(), &their(&own, wrong()));
    assert!(judgements(&effects).is_empty());
    assert_eq!(
        reports(&effects)[0].as_ref().unwrap().finding,
        wrong(),
        "but it is shown"
    );
}

#[test]
fn a_mismatch_of_ours_is_put_to_a_second_validator_only_with_consent() {
    for (audit, share, expected) in [
        (true, false, true),
        (false, true, true),
        (false, false, false),
    ] {
        let mut machine = machine(Config {
            sample_ppm: 1_000_000,
            share_sampled: share,
            ..config()
        });
        let effects = feed(&mut machine, at(0), ended(&Script::default(), audit));
        let mut replay = honest_replay();
        replay.expected[2].id = 0;
        let input = replayed(replay_id(&effects).unwrap(), replay);
        let effects = feed(&mut machine, at(1), input);
        assert!(judgements(&effects)[0].1.convicts());
        assert_eq!(
            wanted(&effects).is_some(),
            expected,
            "audit {audit}, share {share}"
        );
    }
}

#[test]
fn no_validator_no_answer_and_a_slow_one_are_reported() {
    let mut machine = machine(cannot_replay());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
    let id = wanted(&effects).unwrap();
    let hosts = Vec::new();
    let effects = feed(&mut machine, at(1), Input::ValidatorsFound { id, hosts });
    assert!(
        reports(&effects)[0]
            .as_ref()
            .unwrap_err()
            .contains("freehold hosts")
    );

    let (id, _) = ask(&mut machine);
    let result = Err("connection refused".to_owned());
    let effects = feed(&mut machine, at(2), Input::Answered { id, result });
    assert_eq!(reports(&effects), [Err("connection refused".to_owned())]);

    ask(&mut machine);
    let effects = wake(&mut machine, at(900_001));
    assert!(reports(&effects)[0].is_err());
    feed(&mut machine, at(900_002), ended(&Script::default(), true));
    assert_eq!(
        reports(&wake(&mut machine, at(910_002))).len(),
        1,
        "Discovery is silent"
    );
    assert_eq!(machine.pending(), 0);
}
