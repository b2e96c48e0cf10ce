//! The payment machine: budgets, the payment saga, credit windows, the ledger.

pub mod io;
