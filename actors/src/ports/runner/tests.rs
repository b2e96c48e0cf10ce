//! Runners against a server that this file scripts: everything a server may do wrong.
//! A server that nobody here wrote is `tests/thirdparty/runner.sh`.

use super::*;
use crate::ports::compute::{CancelFlag, Compute, Output};
use protocol::ids::OrderId;
use protocol::wire::chain::{ChainedToken, UNKNOWN_TOKEN};
use protocol::wire::order::Finish;
use protocol::work::{ChatMessage, Sampling};
use server::{Reply, Server, delta, last};
use std::time::Duration;
use tokio::sync::mpsc;

mod server;

/// Nothing here takes as long; a hang fails the test instead of stopping it.
const BOUND: Duration = Duration::from_secs(60);

pub(super) fn job(question: &str, max_output: u32) -> Job {
    Job {
        work: Work::Chat {
            messages: vec![ChatMessage {
                role: "user".to_owned(),
                content: question.to_owned(),
            }],
        },
        max_output,
        sampling: Sampling::default(),
        seed: 7,
        stop: Vec::new(),
        date: "2026-11-20".to_owned(),
        steering: Default::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

fn pocket() -> Arc<Vocabulary> {
    Arc::new(Vocabulary::from_bytes(kernels::pocket::pocket()).unwrap())
}

struct Setup {
    compute: Compute,
    runner: Arc<Runner>,
    model: ModelDigest,
}

async fn setup(url: &str, vocabulary: Option<Arc<Vocabulary>>) -> Setup {
    let options = RunnerOptions {
        url: url.to_owned(),
        model: "m".to_owned(),
        key: Some("secret".to_owned()),
        vocabulary,
        context: Some(512),
    };
    let runner = Runner::start(options).await.unwrap();
    let compute = Compute::new();
    let model = compute.runners().add(runner.clone());
    Setup {
        compute,
        runner,
        model,
    }
}

#[derive(Debug, Default)]
struct Heard {
    tokens: Vec<ChainedToken>,
    text: String,
    finish: Option<Finish>,
    failed: Option<String>,
}

impl Heard {
    /// Takes what comes; whether there is more to come.
    async fn next(&mut self, output: &mut mpsc::Receiver<Output>) -> bool {
        let next = tokio::time::timeout(BOUND, output.recv());
        match next.await.expect("output in time") {
            Some(Output::Tokens { tokens, finish, .. }) => {
                for token in &tokens {
                    self.text
                        .push_str(&String::from_utf8_lossy(&token.piece.bytes));
                }
                self.tokens.extend(tokens);
                self.finish = finish;
                finish.is_none()
            }
            Some(Output::Failed(reason)) => {
                self.failed = Some(reason);
                false
            }
            None => false,
        }
    }
}

async fn hear(setup: &Setup, job: Job, allowed: u64) -> Heard {
    let order = OrderId([1; 16]);
    let mut output = setup.compute.start(order, &setup.model, job, allowed);
    let mut heard = Heard::default();
    while heard.next(&mut output).await {}
    heard
}

#[tokio::test]
async fn an_answer_streams_with_the_models_own_tokens_and_the_key_goes_along() {
    let text = "A sat is a hundred-millionth of a bitcoin, and a model is paid in them.";
    let pieces: Vec<String> = text.split_inclusive(' ').map(delta).collect();
    let server = Server::start([Reply::stream(&pieces, &last("stop", 99, 40))]).await;
    let vocabulary = pocket();
    let setup = setup(&server.url, Some(vocabulary.clone())).await;
    let facts = setup
        .compute
        .count(&setup.model, &job("What is a sat?", 64), &[0; 16])
        .unwrap();
    assert_eq!(
        facts.tokens,
        vocabulary.prompt(&job("What is a sat?", 64)).unwrap().len() as u64
    );
    let heard = hear(&setup, job("What is a sat?", 64), 64).await;
    assert_eq!(
        (heard.text.as_str(), heard.finish),
        (text, Some(Finish::Stop))
    );
    let ids: Vec<u32> = heard.tokens.iter().map(|token| token.id).collect();
    let whole = vocabulary.encode(text, true);
    assert_eq!(ids, whole[..whole.len().min(40)]);
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .all(|head| head.contains("authorization: Bearer secret"))
    );
    assert!(
        asked
            .iter()
            .any(|head| head.starts_with("POST /v1/chat/completions"))
    );
    assert_eq!(
        setup.runner.info().quantisation,
        format!("{} ({RUNNER})", vocabulary.quantisation)
    );
}

#[tokio::test]
async fn without_a_vocabulary_pieces_are_tokens_and_never_more_than_the_server_says() {
    let pieces: Vec<String> = ["Hel", "lo", " wor", "ld"].map(delta).to_vec();
    let server = Server::start([Reply::stream(&pieces, &last("length", 3, 3))]).await;
    let setup = setup(&server.url, None).await;
    assert_eq!(setup.model, named_model("m"));
    let long = job(&"word ".repeat(80), 8);
    let before = setup.compute.count(&setup.model, &long, &[0; 16]).unwrap();
    assert_eq!(before.tokens, 100);
    let heard = hear(&setup, job(&"word ".repeat(10), 8), 8).await;
    assert_eq!(heard.text, "Hello world");
    assert_eq!(
        (heard.tokens.len(), heard.finish),
        (3, Some(Finish::Length))
    );
    assert!(heard.tokens.iter().all(|token| token.id == UNKNOWN_TOKEN));
}

#[tokio::test]
async fn one_prompt_moves_the_estimate_of_the_others_a_little_and_both_ways() {
    let setup = setup("http://127.0.0.1:9/v1", None).await;
    let long = job(&"word ".repeat(80), 8);
    let estimate = || setup.runner.estimate(&long);
    assert_eq!(estimate(), 100);
    // A prompt of blanks, 4,000 bytes in 40 tokens, and one too short to tell.
    setup.runner.learn(&job(&" ".repeat(4_000), 8), 40);
    assert_eq!(estimate(), 96);
    setup.runner.learn(&job("hi", 8), 900);
    assert_eq!(estimate(), 96);
    for _ in 0..200 {
        setup.runner.learn(&long, 160);
    }
    assert!((155..=160).contains(&estimate()), "{}", estimate());
    for _ in 0..200 {
        setup.runner.learn(&long, 1_000_000);
    }
    assert!((190..=200).contains(&estimate()), "{}", estimate());
}

#[tokio::test]
async fn nothing_is_handed_on_beyond_the_allowance_and_a_cancelled_order_hangs_up() {
    let pieces: Vec<String> = (0..40).map(|n| delta(&format!(" {n}"))).collect();
    let server = Server::start([
        Reply::stream(&pieces, &last("stop", 9, 40)),
        Reply::hang(&pieces),
    ])
    .await;
    let setup = setup(&server.url, None).await;
    let order = OrderId([2; 16]);
    let mut output = setup.compute.start(order, &setup.model, job("x", 40), 5);
    let mut heard = Heard::default();
    while heard.tokens.len() < 5 {
        assert!(heard.next(&mut output).await);
    }
    tokio::task::yield_now().await;
    assert_eq!(heard.tokens.len(), 5);
    assert!(output.try_recv().is_err(), "output that nobody paid for");
    setup.compute.allow(&order, 40);
    while heard.next(&mut output).await {}
    assert_eq!((heard.tokens.len(), heard.finish), (40, Some(Finish::Stop)));

    let mut output = setup.compute.start(order, &setup.model, job("x", 100), 100);
    assert!(Heard::default().next(&mut output).await);
    setup.compute.cancel(&order);
    while Heard::default().next(&mut output).await {}
    tokio::time::timeout(BOUND, server.hung_up())
        .await
        .expect("the server sees it");
    assert!(!setup.compute.is_busy());
}

#[tokio::test]
async fn what_a_server_does_wrong_is_a_sentence_and_never_its_own_words() {
    let pieces = [delta("one"), delta(" two"), delta(" three")];
    let endless = Reply::raw(&[
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: ",
        &"x".repeat(events::MAX_LINE + 10),
    ]);
    let garbage = Reply::raw(&[
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: <html>\n\n",
    ]);
    let whole = Reply::raw(&[
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ]);
    let given_up = Reply::stream(&pieces, "{\"error\":{\"message\":\"their own words\"}}");
    let cases = [
        (endless, "longer than"),
        (garbage, "not of the OpenAI kind"),
        (whole, "does not stream"),
        (given_up, "gave up"),
        (Reply::cut(&pieces), "in the middle"),
        (Reply::status(500, "their own words"), "HTTP 500"),
        (Reply::raw(&["nonsense\r\n\r\n"]), "connection broke"),
    ];
    for (reply, expected) in cases {
        let server = Server::start([reply]).await;
        let setup = setup(&server.url, None).await;
        let heard = hear(&setup, job("x", 40), 40).await;
        let said = heard.failed.unwrap_or_default();
        assert!(
            said.contains(expected),
            "{said:?} where {expected:?} is due"
        );
        assert!(!said.contains("own words"), "{said}");
        assert_eq!(heard.finish, None);
        assert!(
            setup.runner.away().is_none(),
            "{expected}: one bad answer is no absence"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_away_refuses_orders_with_a_time_and_comes_back() {
    let nobody = setup("http://127.0.0.1:9/v1", None).await;
    let refusal = nobody
        .compute
        .count(&nobody.model, &job("x", 4), &[0; 16])
        .unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 0));
    assert!(refusal.message.contains("away"), "{refusal}");
    assert!(nobody.runner.away().unwrap().contains("correct `runner`"));

    let server = Server::start([Reply::status(401, "no")]).await;
    let setup = setup(&server.url, None).await;
    assert!(setup.runner.away().is_none());
    assert!(hear(&setup, job("x", 4), 4).await.failed.is_some());
    assert!(setup.runner.away().unwrap().contains("runner_key"));
    assert!(
        setup
            .compute
            .count(&setup.model, &job("x", 4), &[0; 16])
            .is_err()
    );
    setup.runner.look().await;
    assert!(
        setup
            .compute
            .count(&setup.model, &job("x", 4), &[0; 16])
            .is_ok()
    );
}

#[tokio::test]
async fn a_model_that_the_server_does_not_list_is_named_beside_those_it_does() {
    let server = Server::listing(r#"{"data":[{"id":"a"},{"id":"b"}]}"#, []).await;
    let setup = setup(&server.url, None).await;
    let why = setup.runner.away().unwrap();
    assert!(
        why.contains("runner_model") && why.contains("a, b"),
        "{why}"
    );
}

#[tokio::test]
async fn a_busy_server_is_waited_for_and_new_orders_hear_when() {
    let pieces = [delta("one"), delta(" two"), delta(" three")];
    let server = Server::start([
        Reply::raw(&["HTTP/1.1 429 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"]),
        Reply::stream(&pieces, &last("stop", 1, 3)),
        Reply::raw(&["HTTP/1.1 503 Busy\r\nretry-after: 500\r\ncontent-length: 0\r\n\r\n"]),
    ])
    .await;
    let setup = setup(&server.url, None).await;
    let heard = hear(&setup, job("x", 9), 9).await;
    assert_eq!((heard.text.as_str(), heard.failed), ("one two three", None));
    let heard = hear(&setup, job("x", 9), 9).await;
    assert!(heard.failed.unwrap().contains("try again in 500 s"));
    let refusal = setup
        .compute
        .count(&setup.model, &job("x", 9), &[0; 16])
        .unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
    assert!(
        refusal
            .retry_after_ms
            .is_some_and(|ms| (400_000..=500_000).contains(&ms))
    );
}

#[tokio::test]
async fn what_a_server_does_not_know_is_left_out_after_its_first_complaint() {
    let pieces = [delta("one")];
    let server = Server::start([
        Reply::status(400, "unknown field top_k"),
        Reply::stream(&pieces, &last("stop", 1, 1)),
        Reply::stream(&pieces, &last("stop", 1, 1)),
    ])
    .await;
    let setup = setup(&server.url, None).await;
    let mut wanted = job("x", 9);
    wanted.sampling.top_k = 40;
    for _ in 0..2 {
        assert_eq!(hear(&setup, wanted.clone(), 9).await.text, "one");
    }
    let asked = server.asked();
    let with = |head: &&String| head.contains("top_k");
    assert_eq!(asked.iter().filter(with).count(), 1);
    // Nothing to embed with, and no replay.
    let texts = vec!["a".to_owned()];
    wanted.work = Work::Embed { texts };
    assert_eq!(
        setup
            .compute
            .count(&setup.model, &wanted, &[0; 16])
            .unwrap_err()
            .code,
        Code::BadOrder
    );
    assert!(
        setup
            .compute
            .replay(
                &setup.model,
                &job("x", 1),
                &[0; 16],
                &[],
                &CancelFlag::new()
            )
            .is_err()
    );
}

#[tokio::test]
async fn what_a_server_says_of_one_request_does_not_make_it_absent() {
    for status in [403, 404] {
        let server = Server::start([Reply::status(status, "moderated")]).await;
        let setup = setup(&server.url, None).await;
        let heard = hear(&setup, job("x", 4), 4).await;
        let said = heard.failed.unwrap_or_default();
        assert!(said.contains(&status.to_string()), "{said}");
        assert_eq!(setup.runner.away(), None);
        assert!(
            setup
                .compute
                .count(&setup.model, &job("x", 4), &[0; 16])
                .is_ok()
        );
    }
}

#[tokio::test]
async fn dialects_of_other_servers_are_read_to_the_last_word() {
    let parts = r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}]}}]}"#;
    let said = r#"{"choices":[{"delta":{"content":[{"type":"text","text":"Yes"}]}}]}"#;
    let totals = r#"{"choices":null,"usage":{"prompt_tokens":null,"completion_tokens":9.0}}"#;
    let events = ["null", "", parts, said, "null", totals].map(str::to_owned);
    let server = Server::start([
        Reply::stream(&events, &last("stop", 3, 9)),
        // No reason for the end, but its mark.
        Reply::stream(&[delta("one"), delta(" two"), delta(" three")], "[DONE]"),
    ])
    .await;
    let setup = setup(&server.url, None).await;
    let heard = hear(&setup, job("x", 40), 40).await;
    assert_eq!(heard.failed, None);
    assert_eq!(
        (heard.text.as_str(), heard.finish),
        ("<think>hm</think>Yes", Some(Finish::Stop))
    );
    let heard = hear(&setup, job("x", 40), 40).await;
    assert_eq!(heard.failed, None);
    assert_eq!(
        (heard.text.as_str(), heard.finish),
        ("one two three", Some(Finish::Stop))
    );
    assert_eq!(heard.tokens.len(), 3);
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_where_the_server_passes_over_it() {
    let pieces = ["one", " two ", "E", "ND", " three"].map(delta);
    let server = Server::start([
        Reply::stream(&pieces, &last("stop", 3, 5)),
        Reply::hang(&pieces),
    ])
    .await;
    let setup = setup(&server.url, None).await;
    let mut wanted = job("x", 40);
    wanted.stop = vec!["END".to_owned()];
    for _ in 0..2 {
        let heard = hear(&setup, wanted.clone(), 40).await;
        assert_eq!(heard.failed, None);
        assert_eq!(
            (heard.text.as_str(), heard.finish),
            ("one two ", Some(Finish::Stop))
        );
        assert_eq!(heard.tokens.len(), 2);
    }
}
