//! What a node lacks just now, of the world or its own engines, and what that costs it.
//!
//! Looked at when somebody asks; nothing here mends anything.

use super::App;
use crate::control::{Degraded, ModelRow};
use actors::ports::wallet::WalletError;
use futures::FutureExt;
use std::time::Duration;

/// How long the wallet may take to say what its channels are good for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is missing, with the reason; empty where everything is there.
pub async fn degraded(app: &App) -> Vec<Degraded> {
    let mut missing = Vec::new();
    missing.extend(wallet(app));
    missing.extend(peers(app).await);
    missing.extend(relays(app));
    missing.extend(engines(app));
    missing
}

fn engines(app: &App) -> Vec<Degraded> {
    let broken = |model: ModelRow| {
        let why = app.node.compute().broken(&model.digest)?;
        Some(Degraded {
            what: format!("engine of {}", model.name),
            why,
            effect: "it answers nothing, and is neither sold nor listed: restart the node"
                .to_owned(),
        })
    };
    app.rows().into_iter().filter_map(broken).collect()
}

fn wallet(app: &App) -> Option<Degraded> {
    let why = match app.node.wallet().opened().now_or_never() {
        Some(Ok(())) => return None,
        Some(Err(WalletError::NotReady { reason })) => reason,
        Some(Err(error)) => error.to_string(),
        None => "it is starting".to_owned(),
    };
    Some(Degraded {
        what: "wallet".to_owned(),
        why,
        effect: "nothing can be bought, sold or paid; models of this machine answer".to_owned(),
    })
}

/// Channels of which none can be used now.
async fn peers(app: &App) -> Option<Degraded> {
    let asked = tokio::time::timeout(PATIENCE, app.node.wallet().balance());
    // A wallet that says nothing is missing itself.
    let balance = asked.await.ok()?.ok()?;
    balance.peers_are_away().then(|| Degraded {
        what: "peers".to_owned(),
        why: "those of the wallet's channels are all away (`freehold wallet channels`)".to_owned(),
        effect: "nothing can be paid or received until one is back".to_owned(),
    })
}

fn relays(app: &App) -> Option<Degraded> {
    let relays = app.node.relays();
    if relays.iter().any(|relay| relay.connected) {
        return None;
    }
    let last = relays.iter().find_map(|relay| relay.last_error.clone());
    let why = match (relays.len(), last) {
        (0, _) => "`relays` in freehold.toml names none".to_owned(),
        (all, Some(error)) => format!("none of {all} is connected ({error})"),
        (all, None) => format!("none of {all} is connected yet"),
    };
    Some(Degraded {
        what: "relays".to_owned(),
        why,
        effect: "hosts are those that were known before, and no listing is published".to_owned(),
    })
}
