//! In the end every ledger agrees with its wallet: each payment, its amount, its fee, its fate.

use super::{Checker, Facts, Seen};
use crate::wallet::{Fate, Wallet};
use protocol::ids::PaymentHash;
use protocol::message::payment::{EntryState, LedgerEntry, Report, Side};
use std::collections::{BTreeMap, BTreeSet};

/// A wallet tells its node of a payment within this time. Milliseconds.
const NEWS_MS: u64 = 1_000;

/// The judge.
pub struct Books;

impl Checker for Books {
    fn name(&self) -> &'static str {
        "books-agree"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Books {
            node,
            report,
            stored,
            wallet,
        } = seen
        else {
            return None;
        };
        if !facts.participants.get(*node)?.honest() {
            return None;
        }
        // The world may end between a payment and its news.
        let is_news = |hash: &PaymentHash| {
            let of_key = facts.index.paid_by(hash).and_then(|(_, book)| {
                let key = (book.host, book.key);
                facts.index.keys.get(&key)
            });
            of_key.is_some_and(|key| key.last_ms + NEWS_MS > facts.now_ms)
        };
        compare(report, stored, wallet, is_news).map(|what| format!("node {node}: {what}"))
    }
}

fn compare(
    report: &Report,
    stored: &[LedgerEntry],
    wallet: &Wallet,
    is_news: impl Fn(&PaymentHash) -> bool,
) -> Option<String> {
    // A report has the newest rows and every open one, the disk all of them; where both
    // have a row the report's is later, and a map keeps the last.
    let side = |side: Side| {
        let of_side = stored
            .iter()
            .chain(&report.entries)
            .filter(move |entry| entry.side == side);
        of_side
            .map(|entry| (entry.hash, entry))
            .collect::<BTreeMap<_, &LedgerEntry>>()
    };
    let told: BTreeSet<_> = report.entries.iter().map(|e| (e.side, e.hash)).collect();
    if let Some(entry) = stored
        .iter()
        .filter(|entry| !entry.state.is_done())
        .find(|entry| !told.contains(&(entry.side, entry.hash)))
    {
        return Some(format!(
            "{} is open on disk and forgotten in memory",
            entry.hash.short()
        ));
    }
    let (paid, issued) = (side(Side::Buyer), side(Side::Host));
    let (mut spent, mut fees, mut earned) = (0, 0, 0);
    for (hash, out) in &wallet.outgoing {
        let entry = paid.get(hash);
        match (out.fate, entry) {
            (Fate::Settled, Some(entry)) if entry.state == EntryState::Settled => {
                spent += out.msat.0;
                fees += out.fee.0;
                if entry.msat != out.msat || entry.fee != out.fee {
                    return Some(format!(
                        "payment {} has other amounts in the books",
                        hash.short()
                    ));
                }
            }
            (Fate::Failed, Some(entry)) if entry.state == EntryState::Failed => {}
            (fate, Some(entry)) => {
                return Some(format!(
                    "payment {} is {:?} in the books and {fate:?} in the wallet",
                    hash.short(),
                    entry.state
                ));
            }
            (fate, None) => {
                return Some(format!(
                    "payment {} ({fate:?}) is not in the books",
                    hash.short()
                ));
            }
        }
    }
    for (hash, entry) in &paid {
        let known = wallet.outgoing.contains_key(hash);
        if !known && entry.state != EntryState::Failed {
            return Some(format!(
                "the books have payment {} as {:?}, the wallet never heard of it",
                hash.short(),
                entry.state
            ));
        }
    }
    for (hash, invoice) in wallet.issued.iter().filter(|(_, invoice)| invoice.paid) {
        match issued.get(hash) {
            Some(entry) if entry.state == EntryState::Settled && entry.msat == invoice.msat => {
                earned += invoice.msat.0;
            }
            Some(entry) if entry.state == EntryState::Invoiced && is_news(hash) => {}
            Some(entry) => {
                return Some(format!(
                    "invoice {} is paid, the books have it as {:?}",
                    hash.short(),
                    entry.state
                ));
            }
            None => {
                return Some(format!(
                    "invoice {} is paid and not in the books",
                    hash.short()
                ));
            }
        }
    }
    let sums = (report.spent.0, report.fees.0, report.earned.0);
    (sums != (spent, fees, earned)).then(|| {
        format!(
            "the books sum up to {sums:?} (spent, fees, earned), the wallet to {:?}",
            (spent, fees, earned)
        )
    })
}
