//! What a node is to others: its roles, addresses, relays, budgets and prices, from the
//! settings.
//!
//! Opens nothing: sockets and relays are `actors::node`'s, which go on without a network.

use crate::config::Config;
use crate::models::LocalModel;
use crate::profile;
use actors::node::NodeConfig;
use actors::ports::blob::Cache;
use actors::ports::network::{Identity, Multiaddr};
use protocol::order::record::Keep;
use protocol::route::Configs;
use protocol::wire::manifest::Role;
use protocol::{inference, payment, validator};
use std::path::PathBuf;

/// What the node's actors are given. `vocabularies` is the folder of those that are fetched.
///
/// # Errors
/// Where an address cannot be read.
pub fn node_config(
    config: &Config,
    keys: actors::keys::NodeKeys,
    served: &[LocalModel],
    vocabularies: PathBuf,
) -> anyhow::Result<NodeConfig> {
    let network = config.network;
    let addresses = |list: &[String]| {
        list.iter()
            .map(|text| text.parse::<Multiaddr>())
            .collect::<Result<Vec<_>, _>>()
    };
    let caps = config.caps_per_day().into_iter();
    let per_key = caps.map(|(name, cap)| (name, cap.0)).collect();
    let quantum = config.host.quantum.0;
    let mut machines = Configs::new(network);
    machines.payment = payment::Config {
        per_order: config.budget.per_order.0,
        per_day: config.budget.per_day.0,
        per_key,
        window_cap: config.host.window_cap.0,
        free_quota: config.host.free_quota.0,
        ..machines.payment
    };
    machines.inference = inference::Config {
        quantum,
        modes: config.host.payment_modes.clone(),
        max_quantum: config.budget.max_quantum.0,
        keep: Keep {
            days: config.storage.keep_days,
            bytes: config.storage.keep_mib.saturating_mul(1 << 20),
        },
        ..machines.inference
    };
    machines.validator = validator::Config {
        sample_ppm: config.validator.sample_ppm,
        share_sampled: config.validator.share_sampled,
        can_replay: served.iter().any(LocalModel::can_replay),
        serve: config.roles.contains(&Role::Validator),
        ..machines.validator
    };
    Ok(NodeConfig {
        network,
        roles: config.roles.clone(),
        listen: addresses(&config.listen)?,
        announce: announced(&config.announce, &keys.node)?,
        bootstrap: addresses(&config.bootstrap)?,
        relays: config.relay_urls(),
        serve: served.iter().map(|model| model.served(config)).collect(),
        quantum,
        bands: profile::bands(&profile::Facts::quick()),
        machines,
        vocabularies: Cache {
            folder: Some(vocabularies),
            bytes: config.storage.vocabularies_mib.saturating_mul(1 << 20),
        },
        keys,
    })
}

/// The addresses to list, each with this node's own peer id at its end: others dial nothing
/// else.
fn announced(list: &[String], secret: &[u8; 32]) -> anyhow::Result<Vec<Multiaddr>> {
    let own = Identity::from_secret(*secret)
        .map_err(|_| {
            anyhow::anyhow!("the node key is unusable: make another with `freehold init`")
        })?
        .peer_id()
        .to_string();
    list.iter()
        .map(|text| {
            let named = text.split_once("/p2p/").map(|(_, id)| id);
            anyhow::ensure!(
                named.is_none_or(|id| id == own),
                "`announce` in freehold.toml has `{text}`, which names another node: this one is /p2p/{own} (or leave /p2p/ out)"
            );
            let whole = match named {
                Some(_) => text.clone(),
                None => format!("{}/p2p/{own}", text.trim_end_matches('/')),
            };
            Ok(whole.parse()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_address_gets_the_own_peer_id_and_never_anothers() {
        let secret = [7; 32];
        let own = Identity::from_secret(secret).unwrap().peer_id();
        let whole = format!("/ip4/1.2.3.4/tcp/1/p2p/{own}");
        for text in ["/ip4/1.2.3.4/tcp/1", whole.as_str()] {
            let list = announced(&[text.to_owned()], &secret).unwrap();
            assert_eq!(list[0].to_string(), whole);
        }
        let other = Identity::from_secret([8; 32]).unwrap().peer_id();
        let error = announced(&[format!("/ip4/1.2.3.4/tcp/1/p2p/{other}")], &secret);
        assert!(error.unwrap_err().to_string().contains("another node"));
    }
}
