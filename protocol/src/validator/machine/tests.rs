//! What the validator tests share: bundles, engines that answer, and a machine.

use super::*;
use crate::crypto::Secp;
use crate::ids::{AddressTag, Digest, LightningId, PeerTag, RequestId};
use crate::message::discovery::Candidate;
use crate::message::reputation::ScoreCard;
use crate::message::validator::{Replay, Unrepeatable};
use crate::money::{Msat, Prices};
use crate::refusal::Code;
use crate::time::WallTime;
use crate::wire::bundle::AuditFrame;
use crate::wire::chain::ChainedToken;
use crate::wire::envelope::Signed;
use crate::wire::manifest::ModelOffer;
use crate::wire::testing::{self, NETWORK, NUMERICS, Script, host, token, validator};

mod asking;
mod serving;

fn at(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall: WallTime(1_700_000_100_000 + ms),
    }
}

fn config() -> Config {
    Config {
        can_replay: true,
        serve: true,
        sample_ppm: 0,
        ..Config::new(NETWORK)
    }
}

fn machine(config: Config) -> Validator {
    Validator::new(config, Box::new(validator()), [7; 32])
}

fn feed(machine: &mut Validator, now: Now, input: Input) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.handle(now, input, &mut out);
    out.drain().collect()
}

fn wake(machine: &mut Validator, now: Now) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.expire(now, &mut out);
    out.drain().collect()
}

fn ended(script: &Script, audit: bool) -> Input {
    Input::OrderEnded(Box::new(Evidence {
        request: Some(RequestId(1)),
        bundle: testing::bundle(script),
        audit,
    }))
}

fn replay_id(effects: &[Effect]) -> Option<EffectId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Replay { id, .. } => Some(*id),
        _ => None,
    })
}

fn reports(effects: &[Effect]) -> Vec<Result<Verdict, String>> {
    let one = |effect: &Effect| match effect {
        Effect::Report { result, .. } => Some(result.clone().map(|verdict| *verdict)),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn judgements(effects: &[Effect]) -> Vec<(Tier, Finding)> {
    let one = |effect: &Effect| match effect {
        Effect::Tell(Message::Judged { tier, finding, .. }) => Some((*tier, finding.clone())),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

/// What an honest engine gives for the bundle of `testing`.
fn honest_replay() -> Replay {
    Replay {
        prompt_tokens: 8,
        prompt: testing::prompt(),
        expected: (0..10).map(token).collect(),
        numerics: Some(NUMERICS.into()),
    }
}

fn replayed(id: EffectId, replay: Replay) -> Input {
    let result = Ok(Box::new(replay));
    Input::Replayed { id, result }
}

#[test]
fn every_own_order_has_its_books_checked_and_the_verdict_is_durable_first() {
    let mut machine = machine(config());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
    assert!(matches!(effects[0], Effect::Persist(_)));
    assert_eq!(judgements(&effects), [(Tier::Bookkeeping, Finding::Honest)]);
    let verdict = reports(&effects).remove(0).unwrap();
    assert_eq!(verdict.finding, Finding::Honest);
    assert_eq!(verdict.host, host().key());
    assert_eq!((machine.pending(), machine.verdicts()), (0, 1));
    let lie = Script {
        receipt: |r| r.cost = Msat(1),
        ..Script::default()
    };
    let effects = feed(&mut machine, at(0), ended(&lie, false));
    assert!(judgements(&effects)[0].1.convicts());
}

#[test]
fn orders_that_we_served_are_left_to_their_buyers() {
    let mut machine = machine(config());
    let Input::OrderEnded(mut evidence) = ended(&Script::default(), true) else {
        unreachable!()
    };
    evidence.request = None;
    assert!(feed(&mut machine, at(0), Input::OrderEnded(evidence)).is_empty());
}

#[test]
fn about_the_configured_share_of_orders_is_replayed() {
    let sampled = |sample_ppm| {
        let mut machine = machine(Config {
            sample_ppm,
            ..config()
        });
        let mut count = 0;
        for _ in 0..60 {
            let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
            if let Some(id) = replay_id(&effects) {
                count += 1;
                feed(&mut machine, at(0), replayed(id, honest_replay()));
            }
        }
        count
    };
    assert_eq!(sampled(0), 0);
    assert_eq!(sampled(1_000_000), 60);
    assert!((5..30).contains(&sampled(250_000)));
}

#[test]
fn a_replay_that_agrees_is_honest_and_says_how_far_it_went() {
    let mut machine = machine(Config {
        sample_ppm: 1_000_000,
        ..config()
    });
    let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
    assert!(reports(&effects).is_empty(), "one verdict for an order");
    let id = replay_id(&effects).unwrap();
    let effects = feed(&mut machine, at(9), replayed(id, honest_replay()));
    assert_eq!(judgements(&effects), [(Tier::ExactReplay, Finding::Honest)]);
    let verdict = reports(&effects).remove(0).unwrap();
    assert_eq!(
        (verdict.tokens, verdict.numerics.as_deref()),
        (10, Some(NUMERICS))
    );
    assert!(feed(&mut machine, at(9), replayed(id, honest_replay())).is_empty());
}

/// What comes of a replay that differs in one thing.
fn compare_with(change: impl Fn(&mut Replay)) -> Finding {
    let mut machine = machine(Config {
        sample_ppm: 1_000_000,
        ..config()
    });
    let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
    let mut replay = honest_replay();
    change(&mut replay);
    let input = replayed(replay_id(&effects).unwrap(), replay);
    judgements(&feed(&mut machine, at(9), input)).remove(0).1
}

#[test]
fn each_difference_is_found_at_its_position() {
    let wrong = |position: u64, found: &Finding| matches!(found, Finding::WrongAnswer { position: at, .. } if *at == position);
    let found = compare_with(|r| r.expected[4].id += 1);
    assert!(wrong(4, &found), "{found:?}");
    let found = compare_with(|r| r.expected[9].logits = Digest([0; 32]));
    assert!(wrong(9, &found), "{found:?}");
    let found = compare_with(|r| r.expected[6].piece.bytes.push(b'!'));
    assert!(wrong(6, &found), "{found:?}");
    let found = compare_with(|r| r.expected[2].piece.control = true);
    assert!(wrong(2, &found), "{found:?}");
    let found = compare_with(|r| r.prompt = Digest([0; 32]));
    assert!(wrong(0, &found), "{found:?}");
    let found = compare_with(|r| r.prompt_tokens = 7);
    assert!(matches!(found, Finding::FalseAccount { .. }), "{found:?}");
}

#[test]
fn other_numerics_and_short_replays_convict_nobody() {
    for numerics in [None, Some("fh1-cuda".to_owned())] {
        let found = compare_with(|r| {
            r.expected[4].id += 1;
            r.numerics = numerics.clone();
        });
        assert!(matches!(found, Finding::Inconclusive { .. }), "{found:?}");
    }
    let found = compare_with(|r| r.expected.truncate(5));
    assert!(matches!(found, Finding::Inconclusive { .. }), "{found:?}");
}

#[test]
fn a_host_that_claims_no_numerics_is_not_replayed() {
    let mut machine = machine(Config {
        sample_ppm: 1_000_000,
        ..config()
    });
    let script = Script {
        terms: |t| t.numerics = None,
        ..Script::default()
    };
    let effects = feed(&mut machine, at(0), ended(&script, false));
    assert!(replay_id(&effects).is_none());
    assert_eq!(judgements(&effects), [(Tier::Bookkeeping, Finding::Honest)]);
    // Nor is a second reader asked, who could do no more.
    let effects = feed(&mut machine, at(1), ended(&script, true));
    assert!(replay_id(&effects).is_none());
    let asks = |effect: &Effect| {
        matches!(
            effect,
            Effect::Tell(crate::message::sibling::Message::FindValidators { .. })
        )
    };
    assert!(!effects.iter().any(asks), "{effects:?}");
}

#[test]
fn only_tokens_that_the_host_vouched_for_are_replayed() {
    let mut machine = machine(Config {
        sample_ppm: 1_000_000,
        ..config()
    });
    let script = Script {
        receipt_signed: false,
        ..Script::default()
    };
    let effects = feed(&mut machine, at(0), ended(&script, false));
    let tokens: Vec<ChainedToken> = effects
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Replay { tokens, .. } => Some(tokens),
            _ => None,
        })
        .unwrap();
    assert_eq!(tokens.len(), 8);
}

#[test]
fn an_engine_that_fails_or_hangs_leaves_the_books() {
    for hangs in [false, true] {
        let mut machine = machine(Config {
            sample_ppm: 1_000_000,
            ..config()
        });
        let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
        let id = replay_id(&effects).unwrap();
        let effects = if hangs {
            assert_eq!(machine.deadline(), Some(at(600_000).tick));
            let effects = wake(&mut machine, at(600_000));
            assert_eq!(effects[0], Effect::CancelReplay { id });
            effects
        } else {
            let result = Err(Unrepeatable::Absent);
            feed(&mut machine, at(1), Input::Replayed { id, result })
        };
        let told = judgements(&effects);
        match hangs {
            true => assert!(told.iter().all(|(_, finding)| !finding.convicts())),
            false => assert_eq!(told, [(Tier::Bookkeeping, Finding::Honest)]),
        }
        assert_eq!(machine.pending(), 0);
    }
}

#[test]
fn a_replay_that_meets_a_limit_is_no_verdict() {
    let mut machine = machine(Config {
        sample_ppm: 1_000_000,
        ..config()
    });
    let effects = feed(&mut machine, at(0), ended(&Script::default(), true));
    let id = replay_id(&effects).unwrap();
    let detail = "the chat template takes more time than it may".to_owned();
    let result = Err(Unrepeatable::Failed(detail.clone()));
    let effects = feed(&mut machine, at(1), Input::Replayed { id, result });
    let told = judgements(&effects);
    assert!(
        told.iter().all(|(_, finding)| !finding.convicts()),
        "{told:?}"
    );
    let reported = reports(&effects);
    let verdict = reported[0].as_ref().unwrap();
    assert_eq!(verdict.finding, Finding::Inconclusive { detail });
}

#[test]
fn the_operators_bundle_is_answered_and_moves_reputation_only_by_proof() {
    let mut machine = machine(config());
    let bundle = Box::new(testing::bundle(&Script::default()));
    let effects = feed(
        &mut machine,
        at(0),
        Input::Judge {
            id: EffectId(77),
            bundle,
        },
    );
    let effects = feed(
        &mut machine,
        at(1),
        replayed(replay_id(&effects).unwrap(), honest_replay()),
    );
    assert!(judgements(&effects).is_empty());
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Reply { id: EffectId(77), verdict } if verdict.finding == Finding::Honest
    )));
    let lie = Script {
        receipt: |r| r.debt = Msat(9_999),
        ..Script::default()
    };
    let bundle = Box::new(testing::bundle(&lie));
    let effects = feed(
        &mut machine,
        at(0),
        Input::Judge {
            id: EffectId(78),
            bundle,
        },
    );
    assert_eq!(judgements(&effects).len(), 1);
}

#[test]
fn verdicts_are_bounded_and_come_back_after_a_restart() {
    let small = Config {
        max_verdicts: 1,
        ..config()
    };
    let mut machine = machine(small.clone());
    let effects = feed(&mut machine, at(0), ended(&Script::default(), false));
    let Effect::Persist(records) = effects[0].clone() else {
        panic!("not persisted")
    };
    let records = records.into_iter();
    let secrets = Secrets::for_test(validator(), [7; 32]);
    let machine = Validator::recover(small, secrets, records, at(5));
    assert_eq!(machine.verdicts(), 1);
    let mut store = Store::new(1);
    let verdict = reports(&effects).remove(0).unwrap();
    store.keep(Whose::Ours, &verdict);
    let next = Verdict {
        id: crate::ids::OrderId([1; 16]),
        ..verdict
    };
    assert!(store.keep(Whose::Ours, &next)[1].value.is_none());
    assert_eq!(store.len(), 1);
}
