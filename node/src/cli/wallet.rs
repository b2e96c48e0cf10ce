//! `freehold wallet`: balance, channels, invoices and payments by hand.

use super::lines::agree;
use super::{Globals, print_json, show};
use crate::control::{Client, OpenRequest, PayResult};
use crate::sats::Sats;
use crate::service::Needs;
use crate::session::Session;
use actors::ports::wallet::{ChannelId, ChannelInfo, Peer, read_invoice};
use clap::Subcommand;
use protocol::money::Msat;
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `freehold wallet`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold wallet balance
  freehold wallet address                               send coins there
  freehold wallet open ID@host:9735 100000              open a channel of 100,000 sat
  freehold wallet invoice 25.5 --description lunch
  freehold wallet pay lnbc1…

What you pay by hand is outside the caps of [budget] and not in `freehold ledger`: both
are for what programs spend. The wallet is a Lightning node of its own. On-chain coins can be restored from the
seed; channels need the folder wallet/ in its current state.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What can be spent and received
    Balance,
    /// A fresh on-chain address
    Address,
    /// All channels
    #[command(after_help = "\
Examples:
  freehold wallet channels
  freehold wallet channels --json")]
    Channels,
    /// Open a channel; needs coins on chain
    #[command(after_help = "\
Examples:
  freehold wallet open 02ab…@198.51.100.7:9735 100000
  freehold wallet open 02ab…@198.51.100.7:9735 100000 --push 1000 --yes

You can send over it at once, up to its size less a reserve of one percent. To receive,
spend some, push some, or have the other side open one to you.")]
    Open {
        /// The other node, ID@host:port
        #[arg(value_parser = peer)]
        peer: Peer,
        /// Its size in sat
        sats: u64,
        /// Give this much to the peer at once (a gift), in sat
        #[arg(long, value_name = "SAT", default_value = "0")]
        push: Sats,
        /// Announce it, so that others may route through it
        #[arg(long)]
        announce: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Close a channel
    Close {
        /// Its id, from `freehold wallet channels`
        id: String,
        /// Without the peer: the funds are locked for a while
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Connect to a Lightning peer and remember it
    Connect {
        /// The other node, ID@host:port
        #[arg(value_parser = peer)]
        peer: Peer,
    },
    /// Make an invoice
    #[command(after_help = "\
Examples:
  freehold wallet invoice 250
  freehold wallet invoice 0.5 --description 'half a sat' --expiry 600")]
    Invoice {
        /// Amount in sat, with up to three decimals
        amount: Sats,
        /// What it is for, as the payer reads it
        #[arg(long, default_value = "")]
        description: String,
        /// Seconds until it expires, at most 3600
        #[arg(long, default_value_t = 3_600)]
        expiry: u32,
    },
    /// Pay an invoice by hand, outside every budget
    #[command(after_help = "\
Examples:
  freehold wallet pay lnbc2500u1p…
  freehold wallet pay lnbc2500u1p… --max-fee 5 --yes

It is outside the caps of [budget], which bound what programs spend, and not in
`freehold ledger`, which has what was bought and sold.")]
    Pay {
        /// The invoice
        invoice: String,
        /// Most for routing, in sat [default: 1 % and at least 3 sat]
        #[arg(long, value_name = "SAT")]
        max_fee: Option<Sats>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Look at the chain now
    Sync,
    /// Send coins on chain
    Withdraw {
        /// Where to
        address: String,
        /// How many sat; all where it is left out
        sats: Option<u64>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

fn peer(text: &str) -> Result<Peer, String> {
    let form = "write ID@host:port";
    let (id, address) = text.split_once('@').ok_or(form)?;
    if !address.contains(':') {
        return Err(form.to_owned());
    }
    let id = id.parse().map_err(|error| format!("{error}; {form}"))?;
    Ok(Peer {
        id,
        address: address.to_owned(),
    })
}

/// Runs it.
///
/// # Errors
/// Where no node can be talked to, or the wallet says no.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let session = Session::open(&globals.folder()?, globals.json, Needs::Wallet).await?;
    let acting = async {
        session.wallet().await?;
        act(&session.client, args.command, globals.json).await
    };
    let result = session.unless_stopped(acting).await;
    session.close().await;
    result
}

/// Prints JSON or text.
fn tell(json: bool, value: serde_json::Value, text: &str) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&value)?;
    } else {
        println!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn act(client: &Client, command: Command, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Balance => {
            let balance = client.balance().await?;
            let mut text = format!(
                "can send     {}, at most {} in one part\ncan receive  {}\nin channels  {} sat\non chain     {} sat free, {} sat in all",
                balance.spendable,
                balance.largest_part,
                balance.receivable,
                balance.channels_sat,
                balance.onchain_sat,
                balance.onchain_total_sat
            );
            if balance.returning_sat > 0 {
                text += &format!(
                    "\nreturning    {} sat, from closed channels to the chain",
                    balance.returning_sat
                );
            }
            tell(json, serde_json::to_value(balance)?, &text)
        }
        Command::Address => {
            let address = client.address().await?;
            tell(json, json!({"address": address}), &address)
        }
        Command::Channels => {
            let channels = client.channels().await?;
            tell(json, serde_json::to_value(&channels)?, &table(&channels))
        }
        Command::Open {
            peer,
            sats,
            push,
            announce,
            yes,
        } => {
            let question = format!(
                "Open a channel of {sats} sat with {} and give it {push}?",
                peer.id.short()
            );
            if !yes && !agree(&question, "--yes").await? {
                return Ok(ExitCode::FAILURE);
            }
            let opened = client
                .open(&OpenRequest {
                    peer,
                    sats,
                    push: push.0,
                    announce,
                })
                .await?;
            let text = format!(
                "channel {} is opening; funding transaction {}",
                opened.id, opened.funding_txid
            );
            tell(json, serde_json::to_value(&opened)?, &text)
        }
        Command::Close { id, force, yes } => {
            let how = if force {
                "without the peer (funds are locked for a while)"
            } else {
                "together with the peer"
            };
            if !yes && !agree(&format!("Close channel {id} {how}?"), "--yes").await? {
                return Ok(ExitCode::FAILURE);
            }
            client.close(&ChannelId(id.clone()), force).await?;
            tell(
                json,
                json!({"closing": id}),
                &format!("channel {id} is closing"),
            )
        }
        Command::Connect { peer } => {
            client.connect(&peer).await?;
            tell(
                json,
                json!({"connected": peer.id}),
                &format!("connected to {}", peer.id),
            )
        }
        Command::Invoice {
            amount,
            description,
            expiry,
        } => {
            let invoice = client.invoice(amount.0, &description, expiry).await?;
            tell(json, serde_json::to_value(&invoice)?, &invoice.bolt11)
        }
        Command::Pay {
            invoice,
            max_fee,
            yes,
        } => pay(client, &invoice, max_fee, yes, json).await,
        Command::Sync => {
            client.sync().await?;
            tell(json, json!({"synced": true}), "synced")
        }
        Command::Withdraw { address, sats, yes } => {
            let amount = sats.map_or_else(|| "all coins".to_owned(), |sats| format!("{sats} sat"));
            if !yes && !agree(&format!("Send {amount} to {address}?"), "--yes").await? {
                return Ok(ExitCode::FAILURE);
            }
            let txid = client.withdraw(&address, sats).await?;
            tell(
                json,
                json!({"txid": txid}),
                &format!("sent in transaction {txid}"),
            )
        }
    }
}

/// An invoice without what people paste around it: spaces, and the scheme of its link in
/// any case (`lightning:`, `LIGHTNING://`).
fn bare_invoice(text: &str) -> &str {
    const SCHEME: &str = "lightning:";
    let text = text.trim();
    match text.get(..SCHEME.len()) {
        Some(start) if start.eq_ignore_ascii_case(SCHEME) => {
            text[SCHEME.len()..].trim_start_matches('/').trim()
        }
        _ => text,
    }
}

async fn pay(
    client: &Client,
    invoice: &str,
    max_fee: Option<Sats>,
    yes: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let invoice = bare_invoice(invoice);
    let facts = read_invoice(invoice)?;
    let Some(msat) = facts.msat else {
        anyhow::bail!("the invoice names no amount: ask for one over an amount")
    };
    let max_fee = max_fee.map_or_else(|| Msat(msat.0 / 100).max(Msat(3_000)), |fee| fee.0);
    let about = facts
        .description
        .as_deref()
        .map(|text| show::clean(text, 80))
        .unwrap_or_default();
    let question = format!(
        "Pay {msat} (and at most {max_fee} of fees) to {}? {about}",
        facts.payee.short()
    );
    if !yes && !agree(&question, "--yes").await? {
        return Ok(ExitCode::FAILURE);
    }
    let result = client.pay(invoice, max_fee).await?;
    let (text, code) = match &result {
        PayResult::Settled { preimage, fee } => (
            format!("paid {msat}, fee {fee}, preimage {preimage}"),
            ExitCode::SUCCESS,
        ),
        PayResult::Failed { reason } => (format!("not paid: {reason}"), ExitCode::FAILURE),
        PayResult::Unknown { why } => (
            format!(
                "not known yet ({why}): do not pay another invoice in its place; try the same one later"
            ),
            ExitCode::FAILURE,
        ),
    };
    tell(json, serde_json::to_value(&result)?, &text)?;
    Ok(code)
}

fn table(channels: &[ChannelInfo]) -> String {
    if channels.is_empty() {
        return "no channel: open one with `freehold wallet open ID@host:port SATS`".to_owned();
    }
    let rows: Vec<Vec<String>> = channels
        .iter()
        .map(|channel| {
            let state = match (channel.ready, channel.usable) {
                (_, true) => "usable",
                (true, false) => "peer away",
                (false, false) => "confirming",
            };
            vec![
                channel.id.to_string(),
                channel.peer.short(),
                channel.sats.to_string(),
                channel.spendable.to_string(),
                channel.receivable.to_string(),
                state.to_owned(),
            ]
        })
        .collect();
    show::table(
        &["channel", "peer", "sat", "can send", "can receive", "state"],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_is_read_with_and_without_the_scheme_of_its_link() {
        for text in [
            "lnbcrt1abc",
            " lnbcrt1abc\n",
            "lightning:lnbcrt1abc",
            "Lightning:lnbcrt1abc",
            "lightning://lnbcrt1abc",
        ] {
            assert_eq!(bare_invoice(text), "lnbcrt1abc", "{text:?}");
        }
        assert_eq!(bare_invoice("LIGHTNING:LNBCRT1ABC"), "LNBCRT1ABC");
        assert_eq!(bare_invoice("ünïcode"), "ünïcode");
    }
}
