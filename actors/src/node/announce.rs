//! The listing of a node, but for its models and addresses: who is listed, and why one is not.

use super::config::NodeConfig;
use super::offers::NO_LIMITS;
use crate::clock::wall_now;
use crate::ports::wallet::Wallet;
use futures::FutureExt;
use protocol::ids::NodeKey;
use protocol::wire::manifest::{Manifest, Role};

/// Whether one of these roles is found by listings.
fn lists(roles: &[Role]) -> bool {
    let listed = |role: &Role| matches!(role, Role::Host | Role::Validator);
    roles.iter().any(listed)
}

/// Why a node that should be listed is not, and what to do about it.
fn unlisted(roles: &[Role], wallet: &dyn Wallet) -> Option<String> {
    if !lists(roles) || wallet.signer().is_some() {
        return None;
    }
    let why = match wallet.opened().now_or_never() {
        Some(Err(error)) => error.to_string(),
        _ => "its wallet signs nothing".to_owned(),
    };
    Some(format!(
        "this node is not listed, so nobody finds it: {why}. A listing is signed by the wallet that \
         is paid: name a chain source in [chain] of freehold.toml and start again, or remove `host` \
         and `validator` from `roles`"
    ))
}

/// The listing of this node but for its models; none where it has no role that is listed, or no
/// wallet.
pub(super) fn own_listing(
    config: &NodeConfig,
    key: NodeKey,
    wallet: &dyn Wallet,
) -> Option<Manifest> {
    if let Some(why) = unlisted(&config.roles, wallet) {
        tracing::warn!("{why}");
    }
    let signer = wallet.signer().filter(|_| lists(&config.roles))?;
    let message = protocol::wire::manifest::lightning_statement(&key, config.network);
    Some(Manifest {
        network: config.network,
        node: key,
        lightning: wallet.node_id(),
        lightning_proof: signer.sign_message(message.as_bytes()),
        roles: config.roles.clone(),
        software: concat!("freehold/", env!("CARGO_PKG_VERSION")).to_owned(),
        bands: config.bands.clone(),
        // A validator lists the models it can recompute; only hosts take orders for them.
        models: Vec::new(),
        limits: NO_LIMITS,
        payment_modes: config.machines.inference.modes.clone(),
        quantum: config.quantum,
        keep_days: config.machines.inference.keep.days,
        // Those of each self-test.
        addresses: Vec::new(),
        created: wall_now(),
        expires: wall_now(),
        extensions: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::wallet::{self, absent::AbsentWallet};

    #[test]
    fn a_host_that_cannot_be_listed_is_told_what_to_do() {
        let wallet = AbsentWallet::new(&[7; 64], wallet::Network::Regtest, "no chain is named");
        let wallet = wallet.unwrap();
        for role in [Role::Host, Role::Validator] {
            let why = unlisted(&[Role::Client, role], &wallet).unwrap();
            assert!(why.contains("no chain is named"), "{why}");
            assert!(why.contains("[chain] of freehold.toml"), "{why}");
        }
        assert_eq!(unlisted(&[Role::Client], &wallet), None);
    }
}
