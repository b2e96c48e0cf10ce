//! A node without the world: no chain server, no relay, no peer. It runs, answers with the
//! models of its machine, says what is missing, and takes it up when it is back.

use anyhow::{Context, Result, ensure};
use freehold::config::document;
use freehold::control::{BuyOrder, Client, ControlError, RunLine};
use freehold::folder::Folder;
use freehold::service::{self, Needs, StartOptions};
use freehold::session::Session;
use lab::relay::{Relay, RelayOptions};
use protocol::message::inference::ModelSelector;
use protocol::work::{ChatMessage, Work};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than any single step takes on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);

/// A loopback address where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What `init` writes, with a chain server at `chain`, one relay, and nothing else in reach.
fn settings(fresh: &str, chain: SocketAddr, relay: &str) -> String {
    let set = |text: String, head: &str, line: &str| {
        assert!(text.contains(head), "{head}");
        text.replacen(head, &format!("{head}{line}\n"), 1)
    };
    let relays = format!("relays = [\"{relay}\"]");
    let text = set(fresh.to_owned(), "network = \"signet\"\n", &relays);
    let text = set(text, "\n[gateway]\n", "listen = \"127.0.0.1:0\"");
    format!("{text}\n[chain]\nkind = \"esplora\"\nurl = \"http://{chain}\"\n")
}

/// A relay that is not there.
fn no_relay() -> String {
    format!("ws://{}", nowhere())
}

/// A node as `init` makes it, in this process.
fn folder(dir: &Path, chain: SocketAddr) -> Folder {
    folder_at(dir, chain, &no_relay())
}

/// The same, with a relay.
fn folder_at(dir: &Path, chain: SocketAddr, relay: &str) -> Folder {
    let folder = Folder::new(dir.join("node"));
    let words = actors::keys::NodeKeys::fresh_words();
    let settings = settings(&document::fresh("signet"), chain, relay);
    folder.create(&settings, &words).unwrap();
    folder
}

/// A folder that the command `init` made, with nothing in reach.
fn made(dir: &Path) -> Result<Folder> {
    let folder = Folder::new(dir.join("node"));
    let made = freehold(&folder).arg("init").output()?;
    ensure!(made.status.success(), "{made:?}");
    let fresh = std::fs::read_to_string(folder.config_path())?;
    std::fs::write(
        folder.config_path(),
        settings(&fresh, nowhere(), &no_relay()),
    )?;
    Ok(folder)
}

/// The real command on a folder.
fn freehold(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command
        .arg("--dir")
        .arg(folder.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Sends a signal by its name.
fn signal(child: &Child, name: &str) -> Result<()> {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status()?;
    ensure!(sent.success(), "{name}");
    Ok(())
}

/// Waits for the end of a command within the bound.
fn end(child: &mut Child) -> Result<ExitStatus> {
    let until = Instant::now() + BOUND;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    anyhow::bail!("it does not stop");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_without_a_network_answers_within_ten_seconds_and_stops_at_signals()
-> Result<()> {
    for name in ["INT", "TERM"] {
        let dir = tempfile::tempdir()?;
        let folder = made(dir.path())?;
        let begun = Instant::now();
        let mut node = freehold(&folder).args(["up", "--json"]).spawn()?;
        let out = node.stdout.take().context("no output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let ready: Value = serde_json::from_str(&line.await??)?;
        let gateway = ready["gateway"].as_str().context("no gateway")?;
        let body = json!({
            "model": "pocket", "max_tokens": 4,
            "messages": [{"role": "user", "content": "What is a relay?"}],
        });
        let asked = reqwest::Client::new()
            .post(format!("{gateway}/v1/chat/completions"))
            .json(&body)
            .send();
        let answer: Value = asked.await?.error_for_status()?.json().await?;
        let took = begun.elapsed();
        assert_eq!(answer["freehold"]["local"], true);
        ensure!(took < Duration::from_secs(10), "{took:?}");
        // A command of its own beside it.
        let models = freehold(&folder).args(["models", "--json"]).output()?;
        ensure!(models.status.success(), "{models:?}");
        ensure!(String::from_utf8(models.stdout)?.contains("pocket"));
        signal(&node, name)?;
        assert_eq!(end(&mut node)?.code(), Some(0), "{name}");
        ensure!(folder.control().is_none() && folder.lock().is_ok());
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_command_that_is_interrupted_ends_with_130_and_leaves_no_node() -> Result<()> {
    for name in ["INT", "TERM"] {
        let dir = tempfile::tempdir()?;
        let folder = made(dir.path())?;
        // It waits for a relay that takes the connection and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0")?;
        let relays = format!("relays = [\"ws://{}\"]", silent.local_addr()?);
        let text = std::fs::read_to_string(folder.config_path())?;
        let lines = text
            .lines()
            .map(|line| match line.starts_with("relays = ") {
                true => relays.as_str(),
                false => line,
            });
        let text: Vec<&str> = lines.collect();
        std::fs::write(folder.config_path(), text.join("\n"))?;
        let mut command = freehold(&folder).arg("hosts").spawn()?;
        let err = command.stderr.take().context("no output")?;
        let mut lines = BufReader::new(err).lines();
        let begun = lines.by_ref().map_while(Result::ok);
        let early = begun.take_while(|line| !line.contains("no node runs"));
        ensure!(early.count() < 100);
        signal(&command, name)?;
        // Its lines are read to their end, or it could not write them.
        let rest = std::thread::spawn(move || lines.map_while(Result::ok).last());
        assert_eq!(end(&mut command)?.code(), Some(130), "{name}");
        let last = rest.join().unwrap_or_default().unwrap_or_default();
        ensure!(last.contains("interrupted"), "{last}");
        ensure!(folder.control().is_none() && folder.lock().is_ok());
    }
    Ok(())
}

async fn up(folder: &Folder) -> Result<service::Running> {
    let options = StartOptions {
        needs: Needs::All,
        cheat: None,
        ..StartOptions::default()
    };
    service::start(folder, options, &mut |_, _| {}).await
}

fn work() -> Work {
    Work::Chat {
        messages: vec![ChatMessage {
            role: "user".to_owned(),
            content: "What is a relay?".to_owned(),
        }],
    }
}

async fn missing(client: &Client) -> Result<Vec<String>> {
    let degraded = client.status().await?.degraded;
    Ok(degraded.into_iter().map(|one| one.what).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_world_answers_and_mends_itself_when_chain_and_relay_are_back()
-> Result<()> {
    let dir = tempfile::tempdir()?;
    let chain = nowhere();
    let relay = Relay::start(RelayOptions::default()).await?;
    relay.faults().set_refuse_connections(true);
    let running = up(&folder_at(dir.path(), chain, &relay.url())).await?;
    let client = Client::new(&running.control);
    let gateway = running.gateway().context("no gateway")?.to_owned();

    let http = reqwest::Client::new();
    let chat = |model: &str| {
        let body = json!({
            "model": model, "max_tokens": 4,
            "messages": [{"role": "user", "content": "What is a relay?"}],
        });
        http.post(format!("{gateway}/v1/chat/completions"))
            .json(&body)
            .send()
    };
    let answer: Value = chat("pocket").await?.error_for_status()?.json().await?;
    assert_eq!(answer["freehold"]["local"], true);
    assert_eq!(chat("somebody-elses").await?.status(), 503);
    let named = json!({
        "model": "pocket", "messages": [{"role": "user", "content": "hi"}],
        "freehold": {"host": client.status().await?.node, "max_cost_msat": 1_000_000},
    });
    let asked = http.post(format!("{gateway}/v1/chat/completions"));
    let refused = asked.json(&named).send().await?;
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await?;
    assert_eq!(refused["error"]["param"], "freehold.host");

    assert_eq!(missing(&client).await?, ["wallet", "relays"]);
    assert_eq!(client.report().await?.spent, protocol::money::Msat::ZERO);
    assert!(client.hosts().await?.is_empty());
    let refused = client.balance().await.unwrap_err();
    let ControlError::Refused {
        status, message, ..
    } = &refused
    else {
        anyhow::bail!("{refused}");
    };
    assert_eq!(*status, 503);
    assert!(message.contains("chain source"), "{message}");

    // A chain server that knows no fees, which is enough to start on signet.
    let listener = tokio::net::TcpListener::bind(chain).await?;
    let server = tokio::spawn(async move {
        let router = axum::Router::new().fallback(|| async { "{}" });
        axum::serve(listener, router).await
    });
    let opened = async {
        while missing(&client).await? != ["relays"] {
            tokio::task::yield_now().await;
        }
        client.balance().await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(BOUND, opened)
        .await
        .context("the wallet did not open")??;

    relay.faults().set_refuse_connections(false);
    let connected = async {
        while !missing(&client).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(BOUND, connected)
        .await
        .context("the relay was not found again")??;
    running.shutdown().await;
    server.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_api_is_on_no_address_that_the_gateway_has() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = folder(dir.path(), nowhere());
    let running = up(&folder).await?;
    let gateway = running.gateway().context("no gateway")?;
    let asked = reqwest::Client::new()
        .get(format!("{gateway}/control/status"))
        .bearer_auth(&running.control.token)
        .send()
        .await?;
    assert_eq!(asked.status(), 404);
    ensure!(Client::find(&folder, Needs::All).await.is_some());
    running.shutdown().await;
    ensure!(Client::find(&folder, Needs::Books).await.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_and_listings_are_read_without_a_wallet() -> Result<()> {
    for needs in [Needs::Books, Needs::Market] {
        let dir = tempfile::tempdir()?;
        let folder = folder(dir.path(), nowhere());
        let session = Session::open(&folder, true, needs).await?;
        assert!(session.client.whole_report().await?.entries.is_empty());
        assert!(session.client.hosts().await?.is_empty());
        session.close().await;
        ensure!(!folder.wallet_path().exists(), "a wallet was opened");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_a_node_talks_to_a_model_of_this_machine() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = folder(dir.path(), nowhere());
    let session = Session::open(&folder, true, Needs::Purchase).await?;
    ensure!(!session.has_model(Some("another")).await?);
    ensure!(session.has_model(Some("pocket")).await?);
    let mut order = BuyOrder::new(ModelSelector::Name("pocket".to_owned()), work(), "cli");
    order.max_output = Some(4);
    let mut run = session.client.run(&order).await?;
    let (mut text, mut ended) = (String::new(), false);
    while let Some(line) = run.next().await {
        match line? {
            RunLine::Text { text: more } => text += &more,
            RunLine::End { counts, .. } => ended = counts.output_tokens == 4,
            RunLine::Failed { refusal } => anyhow::bail!("{refusal}"),
        }
    }
    ensure!(ended && !text.is_empty(), "{text:?}");
    let why = session.wallet().await.unwrap_err().to_string();
    ensure!(why.contains("chain source"), "{why}");
    session.close().await;
    Ok(())
}
