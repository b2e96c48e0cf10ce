//! The relay over real websockets: what it promises, and how it can lie.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use lab::relay::{Forgery, Relay, RelayOptions};
use nostr::event::Event;
use nostr::prelude::{EventBuilder, FinalizeEvent, Keys, Kind, Tag};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// No answer here takes longer, even on a loaded machine.
const BOUND: Duration = Duration::from_secs(10);

/// A plain websocket client.
struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    async fn connect(relay: &Relay) -> Self {
        let (socket, _) = connect_async(relay.url()).await.unwrap();
        Self { socket }
    }

    async fn send(&mut self, message: Value) {
        let message = Message::text(message.to_string());
        self.socket.send(message).await.unwrap();
    }

    /// The next message, or `None` when the connection ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(BOUND, self.socket.next());
            match message.await.expect("no message in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await.expect("the connection ended");
        assert_eq!(message[0], json!(kind), "{message}");
        message
    }

    /// Publishes; the relay's verdict and its words.
    async fn publish(&mut self, event: &Event) -> (bool, String) {
        self.send(json!(["EVENT", event])).await;
        let ok = self.expect("OK").await;
        assert_eq!(ok[1], json!(event.id.to_hex()));
        (ok[2] == json!(true), ok[3].as_str().unwrap().to_owned())
    }

    /// Subscribes and returns the stored events.
    async fn stored(&mut self, id: &str, filter: Value) -> Vec<Value> {
        self.send(json!(["REQ", id, filter])).await;
        let mut found = Vec::new();
        loop {
            let message = self.next().await.expect("the connection ended");
            match message[0].as_str() {
                Some("EVENT") => found.push(message[2].clone()),
                Some("EOSE") => return found,
                _ => panic!("{message}"),
            }
        }
    }
}

fn event(keys: &Keys, kind: u16, content: &str, tags: &[[&str; 2]]) -> Event {
    EventBuilder::new(Kind::from(kind), content)
        .tags(tags.iter().map(|tag| Tag::parse(*tag).unwrap()))
        .finalize(keys)
        .unwrap()
}

async fn open_relay() -> Relay {
    Relay::start(RelayOptions::default()).await.unwrap()
}

fn verifies(value: &Value) -> bool {
    serde_json::from_value::<Event>(value.clone()).is_ok_and(|event| event.verify().is_ok())
}

#[tokio::test]
async fn a_subscription_gets_stored_events_then_eose_then_live_ones_once() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    let (mut writer, mut reader) = (Client::connect(&relay).await, Client::connect(&relay).await);
    let first = event(&keys, 38_717, "one", &[["d", "a"]]);
    assert!(writer.publish(&first).await.0);
    let found = reader.stored("s", json!({"kinds": [38_717]})).await;
    assert_eq!(found, vec![json!(first)]);
    // Not wanted, then wanted: only the second may arrive.
    let other = event(&keys, 1, "other", &[]);
    assert!(writer.publish(&other).await.0);
    let second = event(&keys, 38_717, "two", &[["d", "b"]]);
    assert!(writer.publish(&second).await.0);
    let live = reader.expect("EVENT").await;
    assert_eq!(live[2], json!(second));
    assert_eq!(
        writer.publish(&second).await,
        (true, "duplicate: already have this event".into())
    );
    relay.shutdown().await;
}

#[tokio::test]
async fn ephemeral_events_reach_who_listens_and_are_not_stored() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    let (mut writer, mut reader) = (Client::connect(&relay).await, Client::connect(&relay).await);
    assert!(
        reader
            .stored("s", json!({"kinds": [21_059]}))
            .await
            .is_empty()
    );
    let pulse = event(&keys, 21_059, "here", &[]);
    assert!(writer.publish(&pulse).await.0);
    assert_eq!(reader.expect("EVENT").await[2], json!(pulse));
    assert!(writer.stored("s", json!({})).await.is_empty());
    relay.shutdown().await;
}

#[tokio::test]
async fn a_closed_subscription_gets_nothing_more() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    let mut client = Client::connect(&relay).await;
    client.stored("gone", json!({"kinds": [1]})).await;
    client.stored("stays", json!({"kinds": [1]})).await;
    client.send(json!(["CLOSE", "gone"])).await;
    client
        .send(json!(["EVENT", event(&keys, 1, "x", &[])]))
        .await;
    let (one, two) = (client.next().await.unwrap(), client.next().await.unwrap());
    let seen = [&one, &two].map(|m| (m[0].clone(), m[1].clone()));
    assert!(seen.contains(&(json!("EVENT"), json!("stays"))), "{seen:?}");
    assert!(!seen.contains(&(json!("EVENT"), json!("gone"))), "{seen:?}");
    relay.shutdown().await;
}

#[tokio::test]
async fn events_with_a_wrong_id_or_signature_are_refused() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    let mut client = Client::connect(&relay).await;
    let good = json!(event(&keys, 1, "x", &[]));
    let mut altered = good.clone();
    altered["content"] = json!("y");
    let mut unsigned = good.clone();
    unsigned["sig"] = json!("00".repeat(64));
    for bad in [altered, unsigned, json!({"id": "x"})] {
        client.send(json!(["EVENT", bad])).await;
        let ok = client.expect("OK").await;
        assert_eq!(ok[2], json!(false), "{ok}");
        assert!(ok[3].as_str().unwrap().starts_with("invalid: "), "{ok}");
    }
    assert!(relay.events().is_empty());
    relay.shutdown().await;
}

#[tokio::test]
async fn deletions_and_expiry_hold_over_the_wire() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    let mut client = Client::connect(&relay).await;
    let listing = event(&keys, 38_717, "x", &[["d", "a"]]);
    assert!(client.publish(&listing).await.0);
    let address = format!("38717:{}:a", keys.public_key().to_hex());
    assert!(
        client
            .publish(&event(&keys, 5, "", &[["a", &address]]))
            .await
            .0
    );
    assert!(
        client
            .stored("s", json!({"kinds": [38_717]}))
            .await
            .is_empty()
    );
    let (taken, reason) = client.publish(&listing).await;
    assert!(!taken && reason.starts_with("blocked: "), "{reason}");
    let old = event(&keys, 1, "x", &[["expiration", "1000"]]);
    let (taken, reason) = client.publish(&old).await;
    assert!(!taken && reason.contains("expired"), "{reason}");
    relay.shutdown().await;
}

#[tokio::test]
async fn writing_needs_authentication_where_the_switch_says_so() {
    let options = RelayOptions {
        auth_for_writes: true,
    };
    let relay = Relay::start(options).await.unwrap();
    let keys = Keys::generate();
    let mut client = Client::connect(&relay).await;
    let challenge = client.expect("AUTH").await[1].as_str().unwrap().to_owned();
    let note = event(&keys, 1, "x", &[]);
    let (taken, reason) = client.publish(&note).await;
    assert!(!taken && reason.starts_with("auth-required: "), "{reason}");
    let url = relay.url();
    let wrong = event(
        &keys,
        22_242,
        "",
        &[["relay", &url], ["challenge", "guess"]],
    );
    let right = event(
        &keys,
        22_242,
        "",
        &[["relay", &url], ["challenge", &challenge]],
    );
    for (proof, verdict) in [(wrong, false), (right, true)] {
        client.send(json!(["AUTH", proof])).await;
        assert_eq!(client.expect("OK").await[2], json!(verdict));
    }
    assert!(client.publish(&note).await.0);
    // Reading needs none.
    let mut reader = Client::connect(&relay).await;
    reader.expect("AUTH").await;
    assert_eq!(reader.stored("s", json!({})).await.len(), 1);
    relay.shutdown().await;
}

#[tokio::test]
async fn requests_beyond_the_bounds_are_refused_and_the_connection_lives() {
    let relay = open_relay().await;
    let mut client = Client::connect(&relay).await;
    client.send(json!(["EVENT", "x".repeat(70_000)])).await;
    client.expect("NOTICE").await;
    for nonsense in [json!({}), json!([]), json!(["WHAT"]), json!(["REQ", 7, {}])] {
        client.send(nonsense).await;
        client.expect("NOTICE").await;
    }
    let long = "x".repeat(65);
    let many = vec![json!({}); 17];
    let mut crowd = vec![json!("REQ"), json!("crowd")];
    crowd.extend(many);
    for bad in [
        json!(["REQ", long, {}]),
        json!(["REQ", "", {}]),
        json!(["REQ", "none"]),
        json!(["REQ", "bad", {"ids": ["short"]}]),
        json!(crowd),
    ] {
        client.send(bad).await;
        client.expect("CLOSED").await;
    }
    for number in 0..32 {
        client.stored(&number.to_string(), json!({})).await;
    }
    client.send(json!(["REQ", "one too many", {}])).await;
    client.expect("CLOSED").await;
    // An open name may be used again.
    client.stored("0", json!({})).await;
    relay.shutdown().await;
}

#[tokio::test]
async fn the_information_document_states_the_bounds() {
    let relay = open_relay().await;
    let address = relay.url().replace("ws://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request =
        format!("GET / HTTP/1.0\r\nHost: {address}\r\nAccept: application/nostr+json\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_lowercase()
            .contains("access-control-allow-origin: *")
    );
    let document: Value = serde_json::from_str(body).unwrap();
    assert_eq!(document["supported_nips"], json!([1, 9, 11, 40, 42]));
    assert_eq!(document["limitation"]["max_message_length"], json!(65_536));
    relay.shutdown().await;
}

#[tokio::test]
async fn a_dropping_relay_says_ok_and_forgets() {
    let relay = open_relay().await;
    let mut client = Client::connect(&relay).await;
    relay.faults().set_drop_events(true);
    let note = event(&Keys::generate(), 1, "x", &[]);
    assert!(client.publish(&note).await.0);
    assert!(client.stored("s", json!({})).await.is_empty());
    relay.faults().set_drop_events(false);
    assert!(client.publish(&note).await.0);
    assert_eq!(client.expect("EVENT").await[2], json!(note));
    relay.shutdown().await;
}

#[tokio::test]
async fn a_forging_relay_breaks_signatures_contents_and_filters() {
    let relay = open_relay().await;
    let mut client = Client::connect(&relay).await;
    let note = event(&Keys::generate(), 30_000, "x", &[["d", "a"]]);
    assert!(client.publish(&note).await.0);
    for forgery in [Forgery::BrokenSignature, Forgery::AlteredContent] {
        relay.faults().set_forgery(forgery);
        let found = client.stored("s", json!({"kinds": [30_000]})).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["id"], json!(note.id.to_hex()));
        assert!(!verifies(&found[0]), "{forgery:?}");
    }
    relay.faults().set_forgery(Forgery::OffFilter);
    let found = client.stored("s", json!({"kinds": [30_000]})).await;
    assert_eq!(found.len(), 2);
    assert!(verifies(&found[0]) && found[0]["kind"] != json!(30_000));
    relay.faults().set_forgery(Forgery::None);
    let found = client.stored("s", json!({"kinds": [30_000]})).await;
    assert_eq!(found, vec![json!(note)]);
    relay.shutdown().await;
}

#[tokio::test]
async fn a_silent_relay_says_nothing_after_eose_until_the_switch_is_off() {
    let relay = open_relay().await;
    let keys = Keys::generate();
    relay.faults().set_silent_after_eose(true);
    let (mut writer, mut reader) = (Client::connect(&relay).await, Client::connect(&relay).await);
    assert!(reader.stored("s", json!({})).await.is_empty());
    let unheard = event(&keys, 1, "unheard", &[]);
    assert!(writer.publish(&unheard).await.0);
    // A pong proves that the session is past the event: it forwards what
    // happened before it reads on.
    reader.send(json!(["WHAT"])).await;
    let ping = Message::Ping(vec![1].into());
    reader.socket.send(ping).await.unwrap();
    let answer = tokio::time::timeout(BOUND, reader.socket.next())
        .await
        .unwrap();
    assert!(matches!(answer, Some(Ok(Message::Pong(_)))), "{answer:?}");
    relay.faults().set_silent_after_eose(false);
    let heard = event(&keys, 1, "heard", &[]);
    assert!(writer.publish(&heard).await.0);
    assert_eq!(reader.expect("EVENT").await[2], json!(heard));
    relay.shutdown().await;
}

#[tokio::test]
async fn connections_are_cut_and_refused_on_order() {
    let relay = open_relay().await;
    let mut client = Client::connect(&relay).await;
    client.stored("s", json!({})).await;
    assert_eq!(relay.connections(), 1);
    relay.faults().set_refuse_connections(true);
    relay.faults().close_connections();
    assert_eq!(client.next().await, None);
    assert!(connect_async(relay.url()).await.is_err());
    relay.faults().set_refuse_connections(false);
    let mut again = Client::connect(&relay).await;
    again.stored("s", json!({})).await;
    relay.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_closes_connections_and_frees_the_port() {
    let relay = open_relay().await;
    let url = relay.url();
    let mut client = Client::connect(&relay).await;
    client.stored("s", json!({})).await;
    relay.shutdown().await;
    assert_eq!(client.next().await, None);
    assert!(connect_async(url).await.is_err());
}
