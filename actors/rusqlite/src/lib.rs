//! rusqlite 0.38 under the name and version that ldk-node 0.7.1 asks for.
#![allow(missing_docs)]
pub use real::*;

/// The schema names of rusqlite 0.31; newer versions take a plain string.
#[allow(non_snake_case, non_upper_case_globals)]
pub mod DatabaseName {
    /// The main schema of a connection.
    pub const Main: &str = "main";
}
