//! Who may ask: routes, the checks in front of them, and their bounds.
//!
//! A web page can make a browser send requests to the loopback. Two checks stop
//! it: the `Host` must be a loopback name (a page that points its own name here,
//! DNS rebinding, is refused), and an `Origin` must be one too. Bodies must be
//! JSON, which no page may send across origins without asking first.

use super::errors::ApiError;
use super::{App, completions, control, embeddings, http, models, wallet};
use crate::config::{GatewayKey, KEYLESS};
use crate::control::BuyOrder;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::net::IpAddr;
use std::sync::Arc;

/// Largest bundle that may be judged: the audit stream's bound, as JSON.
const BUNDLE_BYTES: usize = 8 * protocol::limits::MAX_AUDIT_FRAME_BYTES;

/// The budget that a request is charged to.
#[derive(Debug, Clone)]
pub struct ChargedTo(pub String);

/// The routes of the gateway behind their checks.
pub fn gateway(app: Arc<App>) -> Router {
    let most = app.gateway.max_body_bytes;
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/chat/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        // The body was bounded when it was taken.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(move |request, next| {
            http::whole_body(request, next, most, http::BODY_TIMEOUT)
        }))
        .layer(middleware::from_fn_with_state(app.clone(), client))
        .fallback(nowhere)
        .method_not_allowed_fallback(otherwise)
        .layer(middleware::from_fn_with_state(app.clone(), local))
        .with_state(app)
}

/// The routes of the control API behind their check. For a listener that nobody but the
/// operator reaches.
pub fn control(app: Arc<App>) -> Router {
    let control = Router::new()
        .route("/status", get(control::status))
        .route("/hosts", get(control::hosts))
        .route("/report", get(control::report))
        .route("/report/whole", get(control::whole_report))
        .route("/buy", post(control::buy))
        .route("/run", post(control::run))
        .route("/purchase/{request}/{what}", post(control::purchase))
        .route("/verdicts", get(control::verdicts))
        .route("/judge", post(control::judge))
        .route("/bundle/{order}", get(control::bundle))
        .route("/shutdown", post(control::shutdown))
        .route("/wallet/balance", get(wallet::balance))
        .route("/wallet/address", post(wallet::address))
        .route("/wallet/channels", get(wallet::channels))
        .route("/wallet/sync", post(wallet::sync))
        .route("/wallet/invoice", post(wallet::invoice))
        .route("/wallet/pay", post(wallet::pay))
        .route("/wallet/connect", post(wallet::connect))
        .route("/wallet/open", post(wallet::open))
        .route("/wallet/close", post(wallet::close))
        .route("/wallet/withdraw", post(wallet::withdraw))
        .layer(DefaultBodyLimit::max(BUNDLE_BYTES))
        .layer(middleware::from_fn_with_state(app.clone(), owner));
    Router::new()
        .nest("/control", control)
        .fallback(nowhere)
        .method_not_allowed_fallback(otherwise)
        .with_state(app)
}

async fn nowhere(uri: Uri) -> ApiError {
    ApiError::new(
        404,
        format!("there is nothing at {}", uri.path()),
        "the gateway serves /v1/models, /v1/chat/completions and /v1/embeddings",
    )
}

async fn otherwise(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        405,
        format!("{} is not for {method}", uri.path()),
        "GET the lists, POST everything else",
    )
}

/// Refuses what a foreign web page may have sent.
async fn local(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, &header::HOST).or_else(|| request.uri().host().map(str::to_owned));
    let foreign_host = !app.gateway.expose && !host.as_deref().is_some_and(is_loopback);
    let foreign_page =
        text(headers, &header::ORIGIN).is_some_and(|origin| !is_loopback_origin(&origin));
    if foreign_host || foreign_page {
        return ApiError::new(
            403,
            "this gateway answers programs on this machine only",
            "use http://127.0.0.1, and no web page of another origin",
        )
        .into_response();
    }
    next.run(request).await
}

/// Asks for the control token.
async fn owner(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let shown = bearer(request.headers());
    if shown.is_some_and(|shown| same(&shown, app.token())) {
        return next.run(request).await;
    }
    ApiError::new(
        401,
        "this needs the node's control token",
        "read it from control.json in the data folder",
    )
    .into_response()
}

/// Finds out which budget a gateway client uses.
async fn client(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let name = if app.keys().is_empty() {
        Some(KEYLESS.to_owned())
    } else {
        let shown = bearer(request.headers()).unwrap_or_default();
        // Every key is compared, so that time tells nothing about which one fits.
        app.keys()
            .iter()
            .filter(|key| same(&shown, &key.key))
            .map(|key| key.name.clone())
            .next_back()
    };
    let Some(name) = name else {
        return ApiError::new(
            401,
            "this gateway asks for a key",
            "send `Authorization: Bearer KEY` with a key of [[gateway.keys]]",
        )
        .into_response();
    };
    request.extensions_mut().insert(ChargedTo(name));
    next.run(request).await
}

/// Refuses what a gateway without keys lets nobody choose: any program of this machine could
/// send the operator's sats to a host of its own.
///
/// # Errors
/// HTTP 400 that names the field.
pub fn check_choice(keys: &[GatewayKey], order: &BuyOrder) -> Result<(), ApiError> {
    if order.host.is_none() || !keys.is_empty() {
        return Ok(());
    }
    Err(ApiError::parameter(
        "freehold.host",
        "a gateway without keys takes no host by name",
        "add [[gateway.keys]] to freehold.toml and send one of them, or use `freehold ask --host`",
    ))
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    text(headers, &header::AUTHORIZATION)?
        .strip_prefix("Bearer ")
        .map(|key| key.trim().to_owned())
}

/// Compares two secrets in a time that depends on their lengths alone.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .fold(0, |differ, (a, b)| differ | (a ^ b))
            == 0
}

/// Whether a `Host` names this machine, whatever the port.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an `Origin` is a page of this machine.
pub fn is_loopback_origin(origin: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(_, host)| is_loopback(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_without_keys_takes_no_host_by_name() {
        use protocol::ids::NodeKey;
        use protocol::message::inference::ModelSelector;
        use protocol::work::Work;
        let texts = vec!["a".to_owned()];
        let mut order = BuyOrder::new(ModelSelector::Any, Work::Embed { texts }, KEYLESS);
        assert!(check_choice(&[], &order).is_ok());
        order.host = Some(NodeKey([7; 32]));
        let error = check_choice(&[], &order).unwrap_err();
        assert_eq!(error.status, 400);
        assert_eq!(error.body.error.param.as_deref(), Some("freehold.host"));
        assert!(error.body.error.fix.unwrap().contains("[[gateway.keys]]"));
        let key = GatewayKey {
            name: "editor".to_owned(),
            key: "0123456789abcdef".to_owned(),
            per_day: None,
        };
        assert!(check_choice(&[key], &order).is_ok());
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9749",
            "localhost:1",
            "LOCALHOST",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "192.168.1.2:9749",
            "",
            "[::2]",
            "localhost.evil:1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_not_local() {
        assert!(is_loopback_origin("http://localhost:3000"));
        assert!(!is_loopback_origin("https://evil.example"));
        assert!(!is_loopback_origin("null"));
    }

    #[test]
    fn secrets_are_the_same_only_when_every_byte_is() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
