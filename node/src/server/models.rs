//! `GET /v1/models`: what can be asked for, here and from hosts, with prices.

use super::App;
use super::errors::ApiError;
use super::order::{offer, sells};
use axum::Json;
use axum::extract::{Path, State};
use protocol::message::discovery::HostRow;
use protocol::money::Meter;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lists models.
///
/// # Errors
/// Where the node does not answer.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let models: Vec<Value> = collect(&app).await?.into_values().collect();
    Ok(Json(json!({"object": "list", "data": models})))
}

/// Describes one model.
///
/// # Errors
/// Where there is none of that name.
pub async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    collect(&app).await?.remove(&name).map(Json).ok_or_else(|| {
        ApiError::new(
            404,
            format!("no model `{name}` is listed"),
            "take one of /v1/models",
        )
    })
}

async fn collect(app: &App) -> Result<BTreeMap<String, Value>, ApiError> {
    let hosts = app.hosts().await?;
    let mut offers: BTreeMap<String, Vec<&HostRow>> = BTreeMap::new();
    for row in hosts.iter().filter(|row| sells(row)) {
        if let Some(offer) = offer(row) {
            offers.entry(offer.name.clone()).or_default().push(row);
        }
    }
    if app.gateway.local_first {
        for row in app.rows() {
            offers.entry(row.name).or_default();
        }
    }
    Ok(offers
        .into_iter()
        .map(|(name, rows)| (name.clone(), describe(app, &name, &rows)))
        .collect())
}

fn describe(app: &App, name: &str, rows: &[&HostRow]) -> Value {
    let local = app.gateway.local_first && app.rows().iter().any(|row| row.name == name);
    let created = rows
        .iter()
        .map(|row| row.manifest.created.secs())
        .min()
        .unwrap_or_default();
    let offers: Vec<Value> = rows.iter().filter_map(|row| price(row)).collect();
    json!({
        "id": name, "object": "model", "created": created,
        "owned_by": if local { "this machine" } else { "freehold hosts" },
        "freehold": {
            "local": local,
            "offers": offers,
            "note": if local { "runs on this machine, for nothing" } else { "the host reads the prompt" },
        },
    })
}

fn price(row: &HostRow) -> Option<Value> {
    let offer = offer(row)?;
    Some(json!({
        "host": row.manifest.node,
        "digest": row.model,
        "context": offer.context,
        "quantisation": offer.quantisation,
        "replayable": offer.numerics.is_some(),
        "runner": offer.is_runner(),
        "input_msat_per_million": offer.prices.of(Meter::InputToken),
        "output_msat_per_million": offer.prices.of(Meter::OutputToken),
        "score_ppm": row.score.total_ppm,
    }))
}
