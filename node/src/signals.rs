//! Signals: when to stop, and which one must not kill.
//!
//! Called once, at the start of every command that runs a node.

use std::io;

/// Waits for SIGINT or SIGTERM; each call waits for the next one.
///
/// # Errors
/// Where the system does not let signals be handled.
#[cfg(unix)]
pub async fn stop() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Waits for Ctrl-C; each call waits for the next one.
///
/// # Errors
/// Where the system does not let signals be handled.
#[cfg(not(unix))]
pub async fn stop() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Makes a write beyond the limit on file sizes an error of that write: the ledger then
/// says what is wrong, where the system's default would kill the process mid-payment.
///
/// # Errors
/// Where the system does not let signals be handled.
pub fn survive_file_size_limit() -> io::Result<()> {
    #[cfg(unix)]
    {
        /// SIGXFSZ on Linux (x86, ARM, RISC-V), macOS and the BSDs.
        const SIGXFSZ: i32 = 25;
        use tokio::signal::unix::{SignalKind, signal};
        // The handler stays installed when the listener is gone.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
    }
    Ok(())
}
