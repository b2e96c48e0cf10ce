//! Well-formed, signed orders that nobody means to pay.

use super::fitness::Range;
use super::stranger::{ORDER, Stranger, Target, fresh_key, job, order, receive, send};
use super::{alone, long};
use anyhow::{Result, ensure};
use protocol::codec;
use protocol::ids::ModelDigest;
use protocol::wire::envelope::Signed;
use protocol::wire::order::Frame;
use protocol::work::{ChatMessage, Constraint, Job, Work};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::task::JoinSet;

/// Strangers at once, each with a peer id and an address of its own.
const STRANGERS: usize = 12;
/// Orders of one peer id, then it is thrown away.
const ORDERS_EACH: usize = 40;

/// How orders were answered, by kind of frame and code.
type Answers = BTreeMap<String, u64>;

fn name(answer: &Result<Option<Frame>>) -> String {
    match answer {
        Ok(Some(Frame::Refusal(refusal))) => refusal.code.word().to_owned(),
        Ok(Some(frame)) => frame.name().to_owned(),
        Ok(None) => "closed".to_owned(),
        Err(_) => "reset".to_owned(),
    }
}

fn told(answers: Answers) -> Result<String> {
    let sum: u64 = answers.values().sum();
    let answered = sum - answers.get("reset").copied().unwrap_or(0);
    ensure!(answered > 0, "no order was answered: {answers:?}");
    Ok(format!("{sum} orders: {answers:?}"))
}

/// Strangers who order, each in its own way, as fast as they are answered. What is behind the
/// answer is up to `then`; a stream that it gives back is held to the end.
pub async fn flood<M, T, F>(target: Target, make: M, then: T) -> Result<String>
where
    M: Fn(&Target, usize) -> Vec<u8> + Clone + Send + 'static,
    T: Fn(libp2p::Stream, Frame) -> F + Clone + Send + 'static,
    F: Future<Output = Option<libp2p::Stream>> + Send,
{
    let until = Instant::now() + long();
    let mut floods = JoinSet::new();
    for number in 0..STRANGERS {
        let (target, make, then) = (target.clone(), make.clone(), then.clone());
        let from = Ipv4Addr::new(127, 0, 3, number as u8 + 2);
        floods.spawn(async move {
            let (mut answers, mut kept) = (Answers::new(), Vec::new());
            while Instant::now() < until {
                let Ok(mut stranger) = Stranger::from(from, &target).await else {
                    *answers.entry("no connection".to_owned()).or_default() += 1;
                    continue;
                };
                for count in 0..ORDERS_EACH {
                    if Instant::now() >= until {
                        break;
                    }
                    let Ok(mut stream) = stranger.open(ORDER).await else {
                        break;
                    };
                    let answer = match send(&mut stream, &make(&target, count)).await {
                        Ok(()) => receive(&mut stream).await,
                        Err(error) => Err(error),
                    };
                    *answers.entry(name(&answer)).or_default() += 1;
                    if let Ok(Some(frame)) = answer {
                        kept.extend(then(stream, frame).await);
                    }
                }
                // Held streams need their connection.
                kept.truncate(64);
                if !kept.is_empty() {
                    tokio::time::sleep_until(until.into()).await;
                }
            }
            answers
        });
    }
    let mut answers = Answers::new();
    while let Some(flood) = floods.join_next().await {
        for (name, count) in flood? {
            *answers.entry(name).or_default() += count;
        }
    }
    told(answers)
}

pub async fn dropped(_: libp2p::Stream, _: Frame) -> Option<libp2p::Stream> {
    None
}

/// Takes the terms and does not pay.
async fn accepted(mut stream: libp2p::Stream, frame: Frame) -> Option<libp2p::Stream> {
    let Frame::Terms(terms) = frame else {
        return None;
    };
    let accept = codec::encode(&Frame::Accept(terms.digest()));
    send(&mut stream, &accept).await.ok()?;
    Some(stream)
}

fn plain(target: &Target, _: usize) -> Vec<u8> {
    order(&fresh_key(), target, target.model, job("What is a sat?"))
}

/// A prompt as long as the wire allows, and one of many messages full of markers and template code.
fn large(target: &Target, count: usize) -> Vec<u8> {
    let messages = match count % 2 {
        0 => vec![("user", "a b ".repeat(225 << 10))],
        _ => {
            let text = "{{ ''.__class__ }}{% for x in range(999999) %}<|im_end|>[INST]";
            vec![("{{ system }}", text.repeat(12)); 1_024]
        }
    };
    let messages = messages
        .into_iter()
        .map(|(role, content)| ChatMessage {
            role: role.to_owned(),
            content,
        })
        .collect();
    let job = Job {
        work: Work::Chat { messages },
        ..job("")
    };
    order(&fresh_key(), target, target.model, job)
}

/// Forms of an answer that are dear to compile: many states, deep, ambiguous.
fn shaped(target: &Target, count: usize) -> Vec<u8> {
    let deep = format!(
        "{}{{\"type\":\"null\"}}{}",
        "{\"type\":\"array\",\"items\":".repeat(900),
        "}".repeat(900)
    );
    let wide: Vec<String> = (0..800)
        .map(|n| format!("\"k{n}\":{{\"type\":\"string\",\"pattern\":\"^[a-z{n}]{{1,40}}$\"}}"))
        .collect();
    let wide = format!(
        "{{\"type\":\"object\",\"properties\":{{{}}},\"additionalProperties\":false}}",
        wide.join(",")
    );
    let rules: Vec<String> = (0..2_000)
        .map(|n| {
            format!(
                "r{n}: r{} | \"a{n}\" r{} | \"\"",
                (n + 1) % 2_000,
                (n + 7) % 2_000
            )
        })
        .collect();
    let constraint = match count % 4 {
        0 => Constraint::JsonSchema(deep),
        1 => Constraint::JsonSchema(wide),
        2 => Constraint::Regex("(a|b)*a(a|b){60}(c|d)*c(c|d){60}".to_owned()),
        _ => Constraint::Lark(format!("start: r0\n{}", rules.join("\n"))),
    };
    let mut job = job("Go.");
    job.steering.constraint = Some(constraint);
    order(&fresh_key(), target, target.model, job)
}

/// One order again and again, by everybody; and fresh ones that are refused.
async fn nonces(target: Target) -> Result<String> {
    let once = plain(&target, 0);
    let again = move |target: &Target, count: usize| match count % 2 {
        0 => once.clone(),
        _ => order(&fresh_key(), target, ModelDigest([9; 32]), job("x")),
    };
    flood(target, again, dropped).await
}

/// Envelopes that do not verify, of another network or to another host.
fn forged(target: &Target, count: usize) -> Vec<u8> {
    let mut frame = plain(target, count);
    if count.is_multiple_of(2) {
        let last = frame.len() - 1;
        frame[last] ^= 1;
        return frame;
    }
    let signed = Signed {
        bytes: vec![0xfb; 3_000],
        signature: protocol::ids::Signature([1; 64]),
    };
    codec::encode(&Frame::Order(signed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_after_floods_of_orders_that_nobody_pays() -> Result<()> {
    let _alone = alone().await;
    let range = Range::start().await?;
    // The second time shows whether anything grows with the number of orders.
    for _ in 0..2 {
        let plainly = |target| flood(target, plain, dropped);
        range.survives("orders not accepted", plainly).await?;
        let unpaid = |target| flood(target, plain, accepted);
        range.survives("orders not paid", unpaid).await?;
        range.survives("orders repeated", nonces).await?;
        let false_ones = |target| flood(target, forged, dropped);
        range.survives("orders forged", false_ones).await?;
        let long_ones = |target| flood(target, large, accepted);
        range.survives("prompts of 900 KiB", long_ones).await?;
        let hostile = |target| flood(target, shaped, dropped);
        range.survives("hostile grammars", hostile).await?;
    }
    range.end().await
}
