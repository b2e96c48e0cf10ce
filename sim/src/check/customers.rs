//! An honest host keeps its customers: in the end no honest node shuns it.

use super::{Checker, Facts, Seen};

/// The judge.
pub struct Customers;

impl Checker for Customers {
    fn name(&self) -> &'static str {
        "customers-kept"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Option<String> {
        let Seen::Knows { node, shunned, .. } = seen else {
            return None;
        };
        if !facts.people.get(*node)?.honest() {
            return None;
        }
        let mut hosts = shunned.iter().filter_map(|key| facts.by_key(key));
        let host = hosts.find(|host| facts.people[*host].honest())?;
        Some(format!("node {node} shuns honest host {host}"))
    }
}
