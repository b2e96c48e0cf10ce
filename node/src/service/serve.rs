//! Starts the HTTP servers of a node: the gateway on its address, the control API on a
//! socket in the data folder, where nobody but the owner of the folder reaches it.

use super::Needs;
use crate::config::Config;
use crate::folder::{ControlFile, Folder};
use crate::server::{App, Server, http};
use anyhow::Context;
use std::sync::Arc;

/// Starts both. A node for one command has no gateway.
///
/// # Errors
/// Where an address cannot be listened on, or the note about it cannot be written.
pub async fn start(
    app: Arc<App>,
    folder: &Folder,
    config: &Config,
    needs: Needs,
) -> anyhow::Result<(Server, ControlFile)> {
    let gateway = match needs {
        Needs::All => {
            let address = config.gateway.listen;
            let bound = http::listen(address).with_context(|| {
                format!(
                    "the gateway cannot listen on {address}: set gateway.listen in freehold.toml"
                )
            })?;
            Some(bound)
        }
        _ => None,
    };
    let (listener, address) = folder.listen_for_control()?;
    let control = ControlFile {
        address,
        token: app.token().to_owned(),
        pid: std::process::id(),
        serves: needs,
    };
    let server = Server::start(app, gateway, listener)?;
    folder.write_control(&control)?;
    Ok((server, control))
}
