//! Handlers of `/control`: what the operator of the node may do.
//!
//! The types are in `crate::control`, beside the client.

use super::errors::ApiError;
use super::purchase::{Answer as Answered, Bought, Piece};
use super::{App, health, order};
use crate::control::{BuyLine, BuyOrder, RelayRow, RunLine, Status, VerdictRow};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use protocol::ids::{OrderId, RequestId};
use protocol::machine::Table;
use protocol::message::discovery::HostRow;
use protocol::message::payment::{Report, Side};
use protocol::order::record::{OrderRecord, order_key};
use protocol::wire::bundle::{Bundle, Verdict};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

type Answer<T> = Result<Json<T>, ApiError>;

/// How the node is doing.
pub async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    let relays = app.node.relays().into_iter().map(|relay| RelayRow {
        url: relay.url,
        connected: relay.connected,
        last_error: relay.last_error,
        latency_ms: relay.latency_ms,
        events: relay.events,
    });
    Json(Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: app.url.get().cloned().unwrap_or_default(),
        node: app.node.key(),
        lightning: app.node.wallet().node_id(),
        network: app.network.to_owned(),
        roles: app.node.roles().to_vec(),
        addresses: app.node.addresses(),
        relays: relays.collect(),
        models: app.rows(),
        degraded: health::degraded(&app).await,
    })
}

/// The hosts known.
///
/// # Errors
/// Where the node does not answer.
pub async fn hosts(State(app): State<Arc<App>>) -> Answer<Vec<HostRow>> {
    Ok(Json(app.hosts().await?.as_ref().clone()))
}

/// The books.
///
/// # Errors
/// Where the node does not answer.
pub async fn report(State(app): State<Arc<App>>) -> Answer<Report> {
    Ok(Json(app.node.report().await?))
}

/// The books with every payment ever.
///
/// # Errors
/// Where the node does not answer or the disk cannot be read.
pub async fn whole_report(State(app): State<Arc<App>>) -> Answer<Report> {
    Ok(Json(app.node.whole_report().await?))
}

/// Buys; events until the end. A client that goes away stops the purchase.
///
/// # Errors
/// Where the order is outside the limits.
pub async fn buy(
    State(app): State<Arc<App>>,
    body: Result<Json<BuyOrder>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(order) = body?;
    let asked = order::request(&app, order).await?;
    let notice = asked.notice.clone();
    let bought = Bought::start(&app, asked).await;
    let started = line(&BuyLine::Started {
        request: bought.request(),
        notice,
    });
    let events = stream::unfold(
        (bought, Some(started)),
        |(mut bought, started)| async move {
            let next = match started {
                Some(started) => started,
                None => line(&BuyLine::Happened {
                    event: bought.next().await?,
                }),
            };
            Some((Ok::<_, Infallible>(next), (bought, None)))
        },
    );
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// Has a model of this machine answer, for nothing. A client that goes away stops it.
///
/// # Errors
/// Where the model is not here, or the request is outside its limits.
pub async fn run(
    State(app): State<Arc<App>>,
    body: Result<Json<BuyOrder>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(order) = body?;
    let answered = Answered::here(&app, &order).await?;
    let events = stream::unfold(Some(answered), |answered| async move {
        let mut answered = answered?;
        let (told, rest) = match answered.next().await? {
            Piece::Text(text, _) => (RunLine::Text { text }, Some(answered)),
            Piece::End(ending) => {
                let (finish, counts) = (ending.finish, ending.counts);
                (RunLine::End { finish, counts }, None)
            }
            Piece::Failed(refusal) => (RunLine::Failed { refusal }, None),
        };
        Some((Ok::<_, Infallible>(line(&told)), rest))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// Confirms, stops or cancels a purchase.
///
/// # Errors
/// Where it is none of the three.
pub async fn purchase(
    State(app): State<Arc<App>>,
    Path((request, what)): Path<(u64, String)>,
) -> Answer<()> {
    let request = RequestId(request);
    match what.as_str() {
        "confirm" => app.node.confirm(request).await,
        "stop" => app.node.stop(request).await,
        "cancel" => app.node.cancel(request).await,
        _ => {
            return Err(ApiError::new(
                404,
                format!("a purchase cannot {what}"),
                "use confirm, stop or cancel",
            ));
        }
    }
    Ok(Json(()))
}

/// Verdicts as they come.
pub async fn verdicts(State(app): State<Arc<App>>) -> Response {
    let notes = app.node.verdicts();
    let events = stream::unfold(notes, |mut notes| async move {
        loop {
            match notes.recv().await {
                Ok(note) => {
                    let row = VerdictRow {
                        order: note.order,
                        result: note.result,
                    };
                    return Some((Ok::<_, Infallible>(line(&row)), notes));
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a reader of verdicts is slow")
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// Judges a bundle.
///
/// # Errors
/// Where the node does not answer.
pub async fn judge(
    State(app): State<Arc<App>>,
    body: Result<Json<Bundle>, JsonRejection>,
) -> Answer<Verdict> {
    let Json(bundle) = body?;
    Ok(Json(app.node.judge(bundle).await?))
}

/// The evidence of an order of ours.
///
/// # Errors
/// Where there is none.
pub async fn bundle(State(app): State<Arc<App>>, Path(order): Path<OrderId>) -> Answer<Bundle> {
    let storage = app.node.storage().clone();
    let found = tokio::task::spawn_blocking(move || find_bundle(&storage, order))
        .await
        .map_err(|error| ApiError::new(500, error.to_string(), "look at the node's log"))?;
    match found {
        Ok(Some(bundle)) => Ok(Json(bundle)),
        Ok(None) => Err(ApiError::new(
            404,
            format!("no evidence of order {order} is here"),
            "take an order id from `freehold ledger`",
        )),
        Err(error) => Err(ApiError::new(
            503,
            error.to_string(),
            "free some disk space, then start again",
        )),
    }
}

/// The evidence of an order of ours, from the store.
///
/// # Errors
/// Where the store cannot be read.
pub fn find_bundle(
    storage: &actors::ports::storage::Storage,
    order: OrderId,
) -> Result<Option<Bundle>, actors::ports::storage::StorageError> {
    let key = order_key(Side::Buyer, &order);
    let stored = storage.get(Table::Orders, &key)?;
    let record = stored.and_then(|value| OrderRecord::decode(&value));
    Ok(record.and_then(|record| record.bundle()))
}

/// Asks the process to stop in good order.
pub async fn shutdown(State(app): State<Arc<App>>) -> Json<()> {
    app.shutdown.send_replace(true);
    Json(())
}

fn line<T: Serialize>(value: &T) -> Event {
    // The types are ours: they have no map with keys that JSON lacks.
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}
