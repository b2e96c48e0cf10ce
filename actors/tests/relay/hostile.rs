//! A relay scripted line by line, for what no switch of an honest one produces.

use crate::support::*;
use actors::ports::relay::{DisconnectReason, ReasonKind, RelayConfig, RelayEvent, RelayOffence};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// The relay's end of one connection.
struct Line(WebSocketStream<TcpStream>);

impl Line {
    async fn say(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    /// Waits for the client's next message of this kind.
    async fn hear(&mut self, verb: &str) -> Value {
        loop {
            let message = self.0.next().await.unwrap().unwrap();
            let Message::Text(text) = message else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message[0] == verb {
                return message;
            }
        }
    }

    /// Reads until the client leaves.
    async fn linger(&mut self) {
        while let Some(Ok(_)) = self.0.next().await {}
    }
}

/// A scripted relay on a free port.
struct Stage {
    listener: TcpListener,
    document: Value,
}

impl Stage {
    async fn new(limitation: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            document: json!({ "limitation": limitation }),
        }
    }

    fn urls(&self) -> Vec<String> {
        vec![format!("ws://{}", self.listener.local_addr().unwrap())]
    }

    /// Serves the document to whoever asks and returns the next websocket.
    async fn line(&self) -> Line {
        loop {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut head = vec![0u8; 4_096];
            let size = stream.peek(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..size]).to_ascii_lowercase();
            if !head.contains("application/nostr+json") {
                return Line(tokio_tungstenite::accept_async(stream).await.unwrap());
            }
            let mut request = vec![0u8; size];
            stream.read_exact(&mut request).await.unwrap();
            let body = self.document.to_string();
            let size = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn offence(pool: &mut Pool) -> RelayOffence {
    let (event, _) = pool
        .until(|event| matches!(event, RelayEvent::Misbehaved { .. }))
        .await;
    match event {
        RelayEvent::Misbehaved { kind, .. } => kind,
        _ => unreachable!(),
    }
}

async fn disconnected(pool: &mut Pool) -> DisconnectReason {
    let (event, _) = pool
        .until(|event| matches!(event, RelayEvent::Disconnected { .. }))
        .await;
    match event {
        RelayEvent::Disconnected { reason, .. } => reason,
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn garbage_is_an_offence_and_an_unknown_extension_is_not() {
    let stage = Stage::new(json!({})).await;
    let mut pool = Pool::start(&stage.urls());
    let mut line = stage.line().await;
    line.say(json!(["NEW-VERB", 1, { "x": 2 }])).await;
    line.say(json!(["EVENT", "f1", { "id": "short" }])).await;
    assert_eq!(offence(&mut pool).await, RelayOffence::Malformed);
    line.0.send(Message::text("not json")).await.unwrap();
    assert_eq!(offence(&mut pool).await, RelayOffence::Malformed);
    line.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(offence(&mut pool).await, RelayOffence::Malformed);
    assert_eq!(pool.handle.relays()[0].offences, 3);
}

#[tokio::test]
async fn a_message_beyond_the_bound_ends_the_connection() {
    let stage = Stage::new(json!({})).await;
    let mut narrow = config(&stage.urls());
    narrow.limits.max_message_bytes = 1_000;
    let mut pool = Pool::with(narrow);
    let mut line = stage.line().await;
    line.say(json!(["NOTICE", "x".repeat(2_000)])).await;
    assert_eq!(offence(&mut pool).await, RelayOffence::TooLarge);
    assert_eq!(disconnected(&mut pool).await, DisconnectReason::Misbehaved);
}

#[tokio::test]
async fn an_event_for_a_subscription_that_never_was_is_an_offence_and_a_late_one_is_not() {
    let stage = Stage::new(json!({})).await;
    let mut pool = Pool::start(&stage.urls());
    let (key, topic) = (signer(), unique("late"));
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let request = line.hear("REQ").await;
    pool.handle.unsubscribe("notes").await.unwrap();
    let closed = line.hear("CLOSE").await;
    assert_eq!(closed[1], request[1]);
    let event = note(&key, &topic, "late");
    line.say(json!(["EVENT", request[1], event])).await;
    line.say(json!(["EVENT", "stranger", event])).await;
    assert_eq!(offence(&mut pool).await, RelayOffence::UnknownSubscription);
    assert_eq!(pool.handle.relays()[0].offences, 1);
}

#[tokio::test]
async fn more_stored_events_than_asked_for_are_a_flood() {
    let stage = Stage::new(json!({})).await;
    let mut pool = Pool::start(&stage.urls());
    let (key, topic) = (signer(), unique("flood"));
    let one = topic_filter(&topic).remove(0).limit(1);
    pool.handle.subscribe("notes", vec![one]).await.unwrap();
    let mut line = stage.line().await;
    let wire_id = line.hear("REQ").await[1].clone();
    for number in 0..66 {
        let event = note(&key, &topic, &number.to_string());
        line.say(json!(["EVENT", wire_id, event])).await;
    }
    assert_eq!(offence(&mut pool).await, RelayOffence::Flood);
}

#[tokio::test]
async fn stored_events_beyond_the_bound_are_passed_over_and_no_fault_of_the_relay() {
    let stage = Stage::new(json!({})).await;
    let mut narrow = config(&stage.urls());
    narrow.limits.max_stored_events = 2;
    let mut pool = Pool::with(narrow);
    let (key, topic) = (signer(), unique("beyond"));
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let wire_id = line.hear("REQ").await[1].clone();
    for number in 0..40 {
        let event = note(&key, &topic, &number.to_string());
        line.say(json!(["EVENT", wire_id, event])).await;
    }
    line.say(json!(["EOSE", wire_id])).await;
    assert_eq!(contents(&pool.eose("notes").await), ["0", "1"]);
    // What is new comes all the same.
    let live = note(&key, &topic, "new");
    line.say(json!(["EVENT", wire_id, live])).await;
    let between = pool.event(&live).await;
    assert!(between.is_empty(), "{between:?}");
    assert_eq!(pool.handle.relays()[0].offences, 0);
}

#[tokio::test]
async fn a_relay_that_refuses_further_pages_still_serves_what_is_new() {
    let stage = Stage::new(json!({})).await;
    let mut pool = Pool::start(&stage.urls());
    let (key, topic) = (signer(), unique("pages"));
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let wire_id = line.hear("REQ").await[1].clone();
    let now = now().secs();
    for number in 0..100 {
        let event = dated_note(&key, &topic, &number.to_string(), now - number);
        line.say(json!(["EVENT", wire_id, event])).await;
    }
    line.say(json!(["EOSE", wire_id])).await;
    let page = line.hear("REQ").await;
    assert_ne!(page[1], wire_id);
    assert_eq!(page[2]["until"], now - 99);
    line.say(json!(["CLOSED", page[1], "error: too many subscriptions"]))
        .await;
    assert_eq!(contents(&pool.eose("notes").await).len(), 100);
    let live = note(&key, &topic, "new");
    line.say(json!(["EVENT", wire_id, live])).await;
    pool.event(&live).await;
}

#[tokio::test]
async fn published_limits_are_respected_before_publishing() {
    let limits = json!({ "max_content_length": 3, "min_pow_difficulty": 0 });
    let (content, pow) = (
        Stage::new(limits).await,
        Stage::new(json!({ "min_pow_difficulty": 40 })).await,
    );
    let urls = [content.urls(), pow.urls()].concat();
    let pool = Pool::start(&urls);
    let lines = async {
        tokio::join!(async { content.line().await.linger().await }, async {
            pow.line().await.linger().await
        },)
    };
    let publish = pool.handle.publish(note(&signer(), "x", "four"));
    let report = tokio::select! {
        report = publish => report,
        _ = lines => panic!("the pool left"),
    };
    assert_eq!(report.refused.len(), 2, "{report:?}");
    for (_, reason) in &report.refused {
        assert_eq!(reason.kind, ReasonKind::Local);
    }
    let text = report
        .refused
        .iter()
        .map(|(_, reason)| &*reason.text)
        .collect::<String>();
    assert!(
        text.contains("limit is 3") && text.contains("asks for 40"),
        "{text}"
    );
}

#[tokio::test]
async fn where_the_document_demands_auth_it_comes_before_anything_else() {
    let stage = Stage::new(json!({ "auth_required": true })).await;
    let key = signer();
    let pool = Pool::with(config(&stage.urls()).with_auth(auth(&key)));
    let event = note(&key, "x", "after auth");
    let publishing = tokio::spawn({
        let (handle, event) = (pool.handle.clone(), event.clone());
        async move { handle.publish(event).await }
    });
    let mut line = stage.line().await;
    line.say(json!(["AUTH", "a challenge"])).await;
    let first = async {
        loop {
            if let Message::Text(text) = line.0.next().await.unwrap().unwrap() {
                return serde_json::from_str::<Value>(&text).unwrap();
            }
        }
    };
    let auth = tokio::time::timeout(BOUND, first).await.unwrap();
    assert_eq!(
        (&auth[0], &auth[1]["kind"]),
        (&json!("AUTH"), &json!(22242))
    );
    let tags = auth[1]["tags"].as_array().unwrap();
    assert!(
        tags.contains(&json!(["challenge", "a challenge"])),
        "{tags:?}"
    );
    assert!(
        tags.iter()
            .any(|tag| tag[0] == "relay" && tag[1].as_str().unwrap().starts_with(&stage.urls()[0]))
    );
    line.say(json!(["OK", auth[1]["id"], true, ""])).await;
    let sent = line.hear("EVENT").await;
    assert_eq!(sent[1]["id"], json!(event.id.to_hex()));
    line.say(json!(["OK", sent[1]["id"], true, ""])).await;
    assert!(publishing.await.unwrap().is_published());
}

#[tokio::test]
async fn a_subscription_closed_for_want_of_auth_is_asked_again_after_it() {
    let stage = Stage::new(json!({})).await;
    let key = signer();
    let mut pool = Pool::with(config(&stage.urls()).with_auth(auth(&key)));
    pool.handle
        .subscribe("private", topic_filter("x"))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let wire_id = line.hear("REQ").await[1].clone();
    line.say(json!(["CLOSED", wire_id, "auth-required: who are you?"]))
        .await;
    line.say(json!(["AUTH", "prove it"])).await;
    let id = line.hear("AUTH").await[1]["id"].clone();
    line.say(json!(["OK", id, true, ""])).await;
    assert_eq!(line.hear("REQ").await[1], wire_id);
    line.say(json!(["EOSE", wire_id])).await;
    let before = pool.eose("private").await;
    assert!(
        !before
            .iter()
            .any(|event| matches!(event, RelayEvent::Closed { .. })),
        "{before:?}"
    );
}

#[tokio::test]
async fn a_refused_auth_closes_what_waited_for_it() {
    let stage = Stage::new(json!({})).await;
    let key = signer();
    let mut pool = Pool::with(config(&stage.urls()).with_auth(auth(&key)));
    pool.handle
        .subscribe("private", topic_filter("x"))
        .await
        .unwrap();
    let mut line = stage.line().await;
    line.say(json!(["AUTH", "prove it"])).await;
    let wire_id = line.hear("REQ").await[1].clone();
    line.say(json!(["CLOSED", wire_id, "auth-required: who are you?"]))
        .await;
    let id = line.hear("AUTH").await[1]["id"].clone();
    line.say(json!(["OK", id, false, "restricted: not you"]))
        .await;
    let (closed, _) = pool
        .until(|event| matches!(event, RelayEvent::Closed { .. }))
        .await;
    let RelayEvent::Closed {
        subscription,
        reason,
        ..
    } = closed
    else {
        unreachable!()
    };
    assert_eq!(
        (&*subscription, reason.kind),
        ("private", ReasonKind::Restricted)
    );
}

#[tokio::test]
async fn a_closed_subscription_and_a_notice_reach_the_caller_cleaned() {
    let stage = Stage::new(json!({})).await;
    let mut pool = Pool::start(&stage.urls());
    pool.handle
        .subscribe("notes", topic_filter("x"))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let wire_id = line.hear("REQ").await[1].clone();
    line.say(json!([
        "NOTICE",
        format!("\u{1b}[31m{}", "x".repeat(5_000))
    ]))
    .await;
    line.say(json!(["CLOSED", wire_id, "unsupported: no such filter"]))
        .await;
    let (closed, before) = pool
        .until(|event| matches!(event, RelayEvent::Closed { .. }))
        .await;
    let RelayEvent::Closed { reason, .. } = closed else {
        unreachable!()
    };
    assert_eq!(reason.kind, ReasonKind::Unsupported);
    let notice = before.iter().find_map(|event| match event {
        RelayEvent::Notice { text, .. } => Some(text.clone()),
        _ => None,
    });
    let notice = notice.unwrap();
    assert!(notice.chars().count() == 256 && !notice.contains('\u{1b}'));
}

#[tokio::test]
async fn a_resumed_subscription_asks_only_for_what_it_may_have_missed() {
    let stage = Stage::new(json!({})).await;
    let pool = Pool::start(&stage.urls());
    pool.handle
        .subscribe("notes", topic_filter("x"))
        .await
        .unwrap();
    let mut line = stage.line().await;
    let request = line.hear("REQ").await;
    assert!(request[2].get("since").is_none());
    let before = now().secs();
    line.say(json!(["EOSE", request[1]])).await;
    // The pong shows that what was said before it has been read.
    line.0.send(Message::Ping(vec![1].into())).await.unwrap();
    while !matches!(line.0.next().await.unwrap().unwrap(), Message::Pong(_)) {}
    drop(line);
    let mut line = stage.line().await;
    let since = line.hear("REQ").await[2]["since"].as_u64().unwrap();
    assert!(
        (before - 900..=now().secs() - 900).contains(&since),
        "{since}"
    );
}

#[tokio::test]
async fn a_relay_that_answers_no_ping_counts_as_gone() {
    let stage = Stage::new(json!({})).await;
    let mut impatient = config(&stage.urls());
    impatient.limits.ping_every = Duration::from_millis(50);
    impatient.limits.idle_timeout = Duration::from_millis(200);
    let mut pool = Pool::with(impatient);
    // Held open and never read again.
    let _line = stage.line().await;
    assert_eq!(disconnected(&mut pool).await, DisconnectReason::Silent);
}

#[tokio::test]
async fn a_relay_that_never_shakes_hands_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut impatient = RelayConfig {
        dialer: std::sync::Arc::new(Blind),
        ..config(&[url])
    };
    impatient.limits.connect_timeout = Duration::from_millis(200);
    let mut pool = Pool::with(impatient);
    assert_eq!(
        disconnected(&mut pool).await,
        DisconnectReason::ConnectTimeout
    );
}

/// Dials directly but says that it does not: so no HTTP request goes past it.
struct Blind;

impl actors::ports::relay::Dial for Blind {
    fn dial<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> futures::future::BoxFuture<'a, std::io::Result<Box<dyn actors::ports::relay::RelayStream>>>
    {
        actors::ports::relay::DirectDial.dial(host, port)
    }
}

#[tokio::test]
async fn an_injected_dialer_is_the_only_way_to_the_relay() {
    let stage = Stage::new(json!({ "max_content_length": 1 })).await;
    let config = RelayConfig {
        dialer: std::sync::Arc::new(Blind),
        ..config(&stage.urls())
    };
    let pool = Pool::with(config);
    let (stream, _) = stage.listener.accept().await.unwrap();
    // The first connection is the websocket already: the document was not asked for.
    let mut line = Line(tokio_tungstenite::accept_async(stream).await.unwrap());
    let publishing = tokio::spawn({
        let handle = pool.handle.clone();
        async move {
            handle
                .publish(note(&signer(), "x", "longer than one"))
                .await
        }
    });
    let id = line.hear("EVENT").await[1]["id"].clone();
    line.say(json!(["OK", id, true, ""])).await;
    assert!(publishing.await.unwrap().is_published());
}
