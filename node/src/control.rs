//! The control API of a running node: its types, and the client.
//!
//! Not the server (`server::control`). Every command talks to a node through
//! [`Client`], whether the node was running or was started for the command; so do
//! the lab and the demo.

use crate::folder::{ControlFile, Folder};
use crate::service::Needs;
use actors::ports::wallet::{Balance, ChannelId, ChannelInfo, Invoice, Peer};
use protocol::ids::OrderId;
use protocol::message::discovery::HostRow;
use protocol::message::payment::Report;
use protocol::money::Msat;
use protocol::wire::bundle::{Bundle, Verdict};
use serde::de::DeserializeOwned;
use std::time::Duration;

mod events;
mod wire;

pub use events::{Purchase, Run, Verdicts};
pub use wire::*;

/// Longest wait for an answer that is not a stream: opening a channel waits for a peer.
const ANSWER: Duration = Duration::from_secs(120);
/// Longest wait for a connection on the loopback.
const CONNECT: Duration = Duration::from_secs(5);

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers.
    #[error("no node answers at {url}: start one with `freehold up`")]
    Unreachable {
        /// Where.
        url: String,
        /// What the client said.
        #[source]
        source: reqwest::Error,
    },
    /// It is there, and does not answer.
    #[error(
        "the node at {url} did not answer in time: it goes on with what it was asked; look at its log, and ask again"
    )]
    Silent {
        /// Where.
        url: String,
    },
    /// It says no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Why, with the fix.
        message: String,
        /// The fix alone.
        fix: Option<String>,
    },
    /// Its answer makes no sense.
    #[error("the node at {url} gave an answer that this version does not understand: update both")]
    Garbled {
        /// Where.
        url: String,
        /// What the reader said.
        #[source]
        source: serde_json::Error,
    },
}

/// Talks to a running node.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// What stands before the path.
    base: String,
    /// Where it answers, for people.
    url: String,
    token: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.url)
    }
}

type Answer<T> = Result<T, ControlError>;

impl Client {
    /// Names a node; talks to nobody yet.
    pub fn new(control: &ControlFile) -> Self {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // The node is on this machine: a proxy would only see the token.
            .no_proxy();
        let (builder, base) = match control.address.strip_prefix("unix:") {
            #[cfg(unix)]
            Some(path) => (
                builder.unix_socket(std::path::Path::new(path)),
                "http://freehold",
            ),
            _ => (builder, control.address.as_str()),
        };
        Client {
            http: builder.build().unwrap_or_default(),
            base: base.to_owned(),
            url: control.address.clone(),
            token: control.token.clone(),
        }
    }

    /// The node that runs on a folder and has what is needed; `None` where none answers.
    pub async fn find(folder: &Folder, needs: Needs) -> Option<Client> {
        let control = folder.control()?;
        if !control.serves.covers(needs) {
            return None;
        }
        let client = Client::new(&control);
        client.status().await.ok().map(|_| client)
    }

    /// How the node is doing.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn status(&self) -> Answer<Status> {
        self.read(self.http.get(self.at("status"))).await
    }

    /// The hosts known, with the reasons for their rank.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn hosts(&self) -> Answer<Vec<HostRow>> {
        self.read(self.http.get(self.at("hosts"))).await
    }

    /// The books.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn report(&self) -> Answer<Report> {
        self.read(self.http.get(self.at("report"))).await
    }

    /// The books with every payment ever; [`Client::report`] has the newest some thousands.
    ///
    /// # Errors
    /// Where it does not answer, or its disk cannot be read.
    pub async fn whole_report(&self) -> Answer<Report> {
        self.read(self.http.get(self.at("report/whole"))).await
    }

    /// Buys. Dropping the purchase stops it.
    ///
    /// # Errors
    /// Where the order is refused before it begins.
    pub async fn buy(&self, order: &BuyOrder) -> Answer<Purchase> {
        let response = self
            .send(self.http.post(self.at("buy")).json(order))
            .await?;
        Purchase::start(self.url.clone(), response).await
    }

    /// Has a model of the node's own machine answer, for nothing. Dropping it stops it.
    ///
    /// # Errors
    /// Where the model is not there, or the request is outside its limits.
    pub async fn run(&self, order: &BuyOrder) -> Answer<Run> {
        let response = self
            .send(self.http.post(self.at("run")).json(order))
            .await?;
        Ok(Run::new(self.url.clone(), response))
    }

    /// Agrees to the choice that was shown.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn confirm(&self, request: u64) -> Answer<()> {
        self.purchase(request, "confirm").await
    }

    /// Wants no more output; what was delivered is paid.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn stop(&self, request: u64) -> Answer<()> {
        self.purchase(request, "stop").await
    }

    /// Ends a purchase at once.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn cancel(&self, request: u64) -> Answer<()> {
        self.purchase(request, "cancel").await
    }

    async fn purchase(&self, request: u64, what: &str) -> Answer<()> {
        self.read(
            self.http
                .post(self.at(&format!("purchase/{request}/{what}"))),
        )
        .await
    }

    /// Verdicts from now on, ours and those of validators that were asked.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn verdicts(&self) -> Answer<Verdicts> {
        let response = self.send(self.http.get(self.at("verdicts"))).await?;
        Ok(Verdicts::new(self.url.clone(), response))
    }

    /// Judges a bundle by recomputation on the node's own engine.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn judge(&self, bundle: &Bundle) -> Answer<Verdict> {
        self.read(
            self.http
                .post(self.at("judge"))
                .timeout(ANSWER * 5)
                .json(bundle),
        )
        .await
    }

    /// The evidence of an order of ours.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn bundle(&self, order: OrderId) -> Answer<Bundle> {
        self.read(self.http.get(self.at(&format!("bundle/{order}"))))
            .await
    }

    /// What the wallet can spend and receive.
    ///
    /// # Errors
    /// Where the wallet does not answer.
    pub async fn balance(&self) -> Answer<Balance> {
        self.read(self.http.get(self.at("wallet/balance"))).await
    }

    /// A fresh on-chain address.
    ///
    /// # Errors
    /// Where the wallet has none.
    pub async fn address(&self) -> Answer<String> {
        self.read(self.http.post(self.at("wallet/address"))).await
    }

    /// All channels.
    ///
    /// # Errors
    /// Where the wallet does not answer.
    pub async fn channels(&self) -> Answer<Vec<ChannelInfo>> {
        self.read(self.http.get(self.at("wallet/channels"))).await
    }

    /// Looks at the chain now.
    ///
    /// # Errors
    /// Where the chain source does not answer.
    pub async fn sync(&self) -> Answer<()> {
        self.read(self.http.post(self.at("wallet/sync"))).await
    }

    /// Makes an invoice.
    ///
    /// # Errors
    /// Where the wallet cannot.
    pub async fn invoice(&self, msat: Msat, description: &str, expiry_s: u32) -> Answer<Invoice> {
        let body = InvoiceRequest {
            msat,
            description: description.to_owned(),
            expiry_s,
        };
        self.read(self.http.post(self.at("wallet/invoice")).json(&body))
            .await
    }

    /// Pays an invoice by hand.
    ///
    /// # Errors
    /// Where it is not an invoice over an amount.
    pub async fn pay(&self, bolt11: &str, max_fee: Msat) -> Answer<PayResult> {
        let body = PayRequest {
            bolt11: bolt11.to_owned(),
            max_fee,
        };
        self.read(self.http.post(self.at("wallet/pay")).json(&body))
            .await
    }

    /// Connects to a Lightning peer and remembers it.
    ///
    /// # Errors
    /// Where it cannot be reached.
    pub async fn connect(&self, peer: &Peer) -> Answer<()> {
        self.read(self.http.post(self.at("wallet/connect")).json(peer))
            .await
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// Where the peer or the wallet says no.
    pub async fn open(&self, open: &OpenRequest) -> Answer<Opened> {
        self.read(self.http.post(self.at("wallet/open")).json(open))
            .await
    }

    /// Closes a channel.
    ///
    /// # Errors
    /// Where there is no such channel.
    pub async fn close(&self, id: &ChannelId, force: bool) -> Answer<()> {
        let body = CloseRequest {
            id: id.clone(),
            force,
        };
        self.read(self.http.post(self.at("wallet/close")).json(&body))
            .await
    }

    /// Sends coins on chain; all of them where `sats` is `None`. Returns the transaction id.
    ///
    /// # Errors
    /// Where the wallet cannot.
    pub async fn withdraw(&self, address: &str, sats: Option<u64>) -> Answer<String> {
        let body = WithdrawRequest {
            address: address.to_owned(),
            sats,
        };
        self.read(self.http.post(self.at("wallet/withdraw")).json(&body))
            .await
    }

    /// Asks the node to stop in good order.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn shutdown(&self) -> Answer<()> {
        self.read(self.http.post(self.at("shutdown"))).await
    }

    fn at(&self, path: &str) -> String {
        format!("{}/control/{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer<reqwest::Response> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(|source| self.unheard(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response.text().await.unwrap_or_default();
        let (message, fix) = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => (body.error.message, body.error.fix),
            Err(_) => (format!("the node answered with HTTP {status}"), None),
        };
        Err(ControlError::Refused {
            status,
            message,
            fix,
        })
    }

    fn unheard(&self, source: reqwest::Error) -> ControlError {
        let url = self.url.clone();
        match source.is_timeout() && !source.is_connect() {
            true => ControlError::Silent { url },
            false => ControlError::Unreachable { url, source },
        }
    }

    async fn read<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Answer<T> {
        let (client, request) = request.build_split();
        let mut request = request.map_err(|source| ControlError::Unreachable {
            url: self.url.clone(),
            source,
        })?;
        request.timeout_mut().get_or_insert(ANSWER);
        let response = self
            .send(reqwest::RequestBuilder::from_parts(client, request))
            .await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.unheard(source))?;
        serde_json::from_slice(&bytes).map_err(|source| ControlError::Garbled {
            url: self.url.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document;
    use actors::keys::NodeKeys;

    #[cfg(unix)]
    #[tokio::test]
    async fn whoever_took_the_port_of_a_dead_node_is_never_talked_to() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("node"));
        folder
            .create(&document::fresh("signet"), &NodeKeys::fresh_words())
            .unwrap();
        let impostor = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        impostor.set_nonblocking(true).unwrap();
        // What earlier versions wrote, and what one that was killed leaves behind.
        let port = impostor.local_addr().unwrap();
        let old = format!("{{\"url\": \"http://{port}\", \"token\": \"secret\", \"pid\": 1}}");
        std::fs::write(folder.dir().join("control.json"), old).unwrap();
        assert!(Client::find(&folder, Needs::Books).await.is_none());
        let socket = folder.dir().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let dead = ControlFile {
            address: format!("unix:{}", socket.display()),
            token: "secret".to_owned(),
            pid: 1,
            serves: Needs::All,
        };
        folder.write_control(&dead).unwrap();
        assert!(Client::find(&folder, Needs::Books).await.is_none());
        let heard = impostor.accept().map(|_| ()).unwrap_err();
        assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
    }
}
