//! Checks between settings that the types alone do not make.

use super::Config;
use actors::ports::network::Multiaddr;
use protocol::wire::manifest::Role;
use std::collections::BTreeSet;

mod models;

/// Roles that this version carries out.
const WORKING: [Role; 3] = [Role::Client, Role::Host, Role::Validator];

/// Budgets that are not a gateway key's: the command line's, that of a gateway without keys,
/// the demonstration's.
const RESERVED: [&str; 3] = ["cli", "gateway", "demo"];

type Complaint = (String, String);

fn complain<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, Complaint> {
    Err((key.into(), reason.into()))
}

/// Checks a configuration; the first complaint names key and reason.
pub(super) fn check(config: &Config) -> Result<(), Complaint> {
    roles(config)?;
    addresses(config)?;
    gateway(config)?;
    money(config)?;
    models::check(config)?;
    if config.validator.sample_ppm > 1_000_000 {
        return complain("validator.sample_ppm", "is over 1000000 (all orders)");
    }
    Ok(())
}

fn roles(config: &Config) -> Result<(), Complaint> {
    if let Some(role) = config.roles.iter().find(|role| !WORKING.contains(role)) {
        return complain(
            "roles",
            format!(
                "names `{}`, which this version does not carry out yet; use client, host, validator",
                role_name(*role)
            ),
        );
    }
    let needs_models = config
        .roles
        .iter()
        .find(|role| matches!(role, Role::Host | Role::Validator));
    if let Some(role) = needs_models
        && config.models.is_empty()
    {
        return complain(
            "models",
            format!(
                "is empty, and the role {} needs a model: add [[models]] with path = \"pocket\" or a GGUF file, or with a runner",
                role_name(*role)
            ),
        );
    }
    Ok(())
}

/// The name of a role as the file writes it.
pub(crate) fn role_name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

fn addresses(config: &Config) -> Result<(), Complaint> {
    for relay in config.relays.iter().flatten() {
        if !relay.starts_with("wss://") && !relay.starts_with("ws://") {
            return complain(
                "relays",
                format!("has `{relay}`: an address must begin with wss:// or ws://"),
            );
        }
    }
    let lists = [
        ("listen", &config.listen),
        ("announce", &config.announce),
        ("bootstrap", &config.bootstrap),
    ];
    for (key, list) in lists {
        for address in list {
            if address.parse::<Multiaddr>().is_err() {
                return complain(
                    key,
                    format!("has `{address}`: write a multiaddr such as /ip4/0.0.0.0/tcp/9748"),
                );
            }
        }
    }
    Ok(())
}

fn gateway(config: &Config) -> Result<(), Complaint> {
    let gateway = &config.gateway;
    if !gateway.listen.ip().is_loopback() && !gateway.expose {
        return complain(
            "gateway.listen",
            format!(
                "is {}, which other machines reach: use 127.0.0.1, or set expose = true and add keys",
                gateway.listen
            ),
        );
    }
    // Also on the loopback: behind a proxy everybody comes from there.
    if gateway.expose && gateway.keys.is_empty() {
        return complain(
            "gateway.keys",
            "is empty: an exposed gateway spends your sats for anybody; add [[gateway.keys]]",
        );
    }
    let reserved = |name: &str| RESERVED.contains(&name) || name.trim().is_empty();
    if let Some(key) = gateway.keys.iter().find(|key| reserved(&key.name)) {
        return complain(
            "gateway.keys",
            format!(
                "has a key with the name `{}`: it would share a budget of this program's own; choose another name",
                key.name
            ),
        );
    }
    let names: BTreeSet<_> = gateway.keys.iter().map(|key| &key.name).collect();
    if names.len() != gateway.keys.len() {
        return complain(
            "gateway.keys",
            "has the same name twice: each key is a budget of its own",
        );
    }
    if let Some(key) = gateway.keys.iter().find(|key| key.key.len() < 16) {
        return complain(
            "gateway.keys",
            format!(
                "has a key shorter than 16 characters ({}): it can be guessed",
                key.name
            ),
        );
    }
    if gateway.max_requests == 0 {
        return complain("gateway.max_requests", "is 0: nothing would ever be served");
    }
    Ok(())
}

/// Prices that follow from each other.
fn token_prices(config: &Config) -> Result<(), Complaint> {
    let host = &config.host;
    let cached = host.cached_input_price.unwrap_or_default();
    if cached > host.input_price {
        return complain(
            "host.cached_input_price",
            "is over host.input_price: what is not computed cannot cost more",
        );
    }
    Ok(())
}

fn money(config: &Config) -> Result<(), Complaint> {
    if config.budget.per_order > config.budget.per_day {
        return complain(
            "budget.per_order",
            "is over budget.per_day: no such order could ever be paid",
        );
    }
    if config.host.quantum.0.0 == 0 {
        return complain(
            "host.quantum",
            "is 0: an invoice must be over something; the default is 1",
        );
    }
    token_prices(config)?;
    if config.host.payment_modes.is_empty() {
        return complain(
            "host.payment_modes",
            "is empty: nobody could pay; the default is [\"metered\"]",
        );
    }
    if config.host.concurrent_orders == 0 {
        return complain(
            "host.concurrent_orders",
            "is 0: leave `host` out of `roles` instead",
        );
    }
    Ok(())
}
