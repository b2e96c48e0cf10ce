//! In the end every order that was paid for has its account, at the buyer and at the host.

use super::{Checker, Facts, Seen};
use protocol::message::payment::Side;
use protocol::payment::ledger::MAX_ROWS;
use std::collections::BTreeSet;

/// Orders that began so lately may still be open. Milliseconds.
const OPEN_MS: u64 = 300_000;

/// The judge.
pub struct Accounts;

impl Checker for Accounts {
    fn name(&self) -> &'static str {
        "accounts-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Books { node, report, .. } = seen else {
            return None;
        };
        if !facts.participants.get(*node)?.honest() || report.entries.len() >= MAX_ROWS {
            return None;
        }
        let known: BTreeSet<_> = report
            .orders
            .iter()
            .map(|account| (account.side, account.order))
            .collect();
        facts.index.of_node(*node).find_map(|(_, book)| {
            let key = facts.index.keys.get(&(book.host, book.key))?;
            let old = key.last_ms + OPEN_MS < facts.now_ms;
            if book.settled == 0 || book.chunks == 0 || !old {
                return None;
            }
            let side = match *node {
                host if host == book.host => Side::Host,
                buyer if buyer == book.buyer => Side::Buyer,
                _ => return None,
            };
            (!known.contains(&(side, book.id))).then(|| {
                format!(
                    "node {node} has no account of order {}, for which {} msat were paid",
                    book.id.short(),
                    book.settled
                )
            })
        })
    }
}
