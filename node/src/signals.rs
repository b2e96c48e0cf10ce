//! Signals: when to stop, and which one must not kill.

use std::io;

/// SIGINT and SIGTERM from the moment of [`Stops::listen`] on; none is lost in between.
#[cfg(unix)]
#[derive(Debug)]
pub struct Stops {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Stops {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// Where the system does not let signals be handled.
    pub fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        Ok(Stops {
            interrupt,
            terminate,
        })
    }

    /// Waits for the next one. May be dropped and called again.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ctrl-C from the moment of [`Stops::listen`] on.
#[cfg(windows)]
#[derive(Debug)]
pub struct Stops(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Stops {
    /// Begins to listen; from now on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    /// Where the system does not let signals be handled.
    pub fn listen() -> io::Result<Self> {
        Ok(Stops(tokio::signal::windows::ctrl_c()?))
    }

    /// Waits for the next one. May be dropped and called again.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Waits for one signal to stop, for callers that need no more than one.
///
/// # Errors
/// Where the system does not let signals be handled.
pub async fn stop() -> io::Result<()> {
    Stops::listen()?.next().await;
    Ok(())
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
