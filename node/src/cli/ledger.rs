//! `freehold ledger`: the books.

use super::{Globals, print_json, show};
use crate::calendar::stamp;
use crate::service::Needs;
use crate::session::Session;
use protocol::ids::OrderId;
use protocol::message::payment::{EntryState, LedgerEntry, Report, Side};
use protocol::money::Msat;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Arguments of `freehold ledger`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold ledger                  sums, orders, and what is unresolved and why
  freehold ledger --all            every payment as well
  freehold ledger --csv > out.csv  every payment, for a spreadsheet
  freehold ledger --json           everything, for scripts")]
pub struct Args {
    /// Every payment as comma-separated values
    #[arg(long)]
    csv: bool,
    /// Show every payment
    #[arg(long)]
    all: bool,
}

/// Runs it.
///
/// # Errors
/// Where no node can be talked to.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let quiet = globals.json || args.csv;
    let session = Session::open(&globals.folder()?, quiet, Needs::Books).await?;
    let reading = async { Ok(session.client.whole_report().await?) };
    let report = session.unless_stopped(reading).await;
    session.close().await;
    let report = report?;
    if globals.json {
        print_json(&report)?;
    } else if args.csv {
        print!("{}", csv(&report));
    } else {
        print(&report, args.all);
    }
    Ok(ExitCode::SUCCESS)
}

/// Every payment as CSV (RFC 4180).
fn csv(report: &Report) -> String {
    let mut text =
        "created,changed,side,order,seq,counterparty,hash,msat,fee_msat,state,note\r\n".to_owned();
    for entry in &report.entries {
        let counterparty = entry
            .counterparty
            .map(|key| key.to_string())
            .unwrap_or_default();
        let cells = [
            stamp(entry.created),
            stamp(entry.changed),
            side(entry.side).to_owned(),
            entry.order.to_string(),
            entry.seq.to_string(),
            counterparty,
            entry.hash.to_string(),
            entry.msat.0.to_string(),
            entry.fee.0.to_string(),
            state(entry.state),
            quote(&entry.note),
        ];
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

/// Quotes a text; one that a spreadsheet would take for a formula loses its power.
fn quote(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@']) {
        "'"
    } else {
        ""
    };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Buyer => "buyer",
        Side::Host => "host",
    }
}

fn state(state: EntryState) -> String {
    format!("{state:?}").to_lowercase()
}

fn open(entry: &LedgerEntry) -> bool {
    matches!(
        entry.state,
        EntryState::Planned | EntryState::Sent | EntryState::Unknown | EntryState::Invoiced
    )
}

fn print(report: &Report, all: bool) {
    println!("earned       {}", report.earned);
    println!("spent        {}", report.spent);
    println!("fees         {}", report.fees);
    println!("owed to us   {}", report.owed_to_us);
    if let Some(rate) = sats_per_hour(report) {
        println!("earning      {rate} an hour, from the first payment to the last");
    }
    for (budget, msat) in &report.spent_today {
        println!("spent today  {msat} by {}", show::clean(budget, 40));
    }
    if !report.orders.is_empty() {
        let paid = paid(report);
        let rows: Vec<Vec<String>> = report
            .orders
            .iter()
            .map(|order| {
                vec![
                    order.order.to_string(),
                    side(order.side).to_owned(),
                    order.counterparty.short(),
                    order.counts.prompt().to_string(),
                    order.counts.delivered().to_string(),
                    order.cost.to_string(),
                    paid.get(&(order.side, order.order))
                        .copied()
                        .unwrap_or_default()
                        .to_string(),
                    format!("{:?}", order.status).to_lowercase(),
                ]
            })
            .collect();
        println!(
            "\n{}",
            show::table(
                &["order", "we", "with", "in", "out", "cost", "paid", "status"],
                &rows
            )
        );
    }
    let (unresolved, settled): (Vec<_>, Vec<_>) =
        report.entries.iter().partition(|entry| open(entry));
    if !unresolved.is_empty() {
        println!("\nunresolved:\n{}", entries(&unresolved));
    }
    if all && !settled.is_empty() {
        println!("\npayments:\n{}", entries(&settled));
    }
    for note in &report.notes {
        println!(
            "note {} {} {}",
            stamp(note.at),
            note.msat,
            show::clean(&note.text, 200)
        );
    }
}

/// What was paid for each order, on either side, fees apart.
fn paid(report: &Report) -> BTreeMap<(Side, OrderId), Msat> {
    let mut sums: BTreeMap<(Side, OrderId), Msat> = BTreeMap::new();
    let settled = |entry: &&LedgerEntry| entry.state == EntryState::Settled;
    for entry in report.entries.iter().filter(settled) {
        let sum = sums.entry((entry.side, entry.order)).or_default();
        *sum = sum.saturating_add(entry.msat);
    }
    sums
}

fn entries(list: &[&LedgerEntry]) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|entry| {
            vec![
                stamp(entry.changed),
                side(entry.side).to_owned(),
                entry.order.short(),
                entry.seq.to_string(),
                entry.msat.to_string(),
                entry.fee.to_string(),
                state(entry.state),
                entry.hash.short(),
                show::clean(&entry.note, 80),
            ]
        })
        .collect();
    show::table(
        &[
            "changed", "we", "order", "seq", "amount", "fee", "state", "hash", "why",
        ],
        &rows,
    )
}

/// Earnings an hour between the first and the last payment received.
fn sats_per_hour(report: &Report) -> Option<Msat> {
    let received = report
        .entries
        .iter()
        .filter(|entry| entry.side == Side::Host && entry.state == EntryState::Settled);
    let (mut first, mut last, mut sum) = (None, None, 0u128);
    for entry in received {
        first = Some(
            first.map_or(entry.changed, |time: protocol::time::WallTime| {
                time.min(entry.changed)
            }),
        );
        last = last.max(Some(entry.changed));
        sum += u128::from(entry.msat.0);
    }
    let ms = u128::from(last?.ms_since(first?));
    // Under a minute the rate says nothing.
    (ms >= 60_000).then(|| Msat(u64::try_from(sum * 3_600_000 / ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_cannot_break_out_of_their_cell() {
        assert_eq!(quote("say \"hi\", ok"), "\"say \"\"hi\"\", ok\"");
        assert_eq!(quote("=1+1"), "\"'=1+1\"");
    }

    #[test]
    fn an_empty_ledger_has_a_header_and_no_rate() {
        assert_eq!(csv(&Report::default()).lines().count(), 1);
        assert_eq!(sats_per_hour(&Report::default()), None);
    }
}
