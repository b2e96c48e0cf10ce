//! Lines from the terminal, read by one thread for the whole program.
//!
//! A question that is given up (Ctrl-C) takes no line away from the next one.

use std::io::{BufRead, IsTerminal, Result};
use std::sync::OnceLock;
use tokio::sync::{Mutex, mpsc};

type Lines = Mutex<mpsc::Receiver<Result<String>>>;

static LINES: OnceLock<Lines> = OnceLock::new();

/// The next line; `None` at the end of the input. May be dropped and called again.
///
/// # Errors
/// Where stdin cannot be read.
pub async fn next() -> Result<Option<String>> {
    let lines = LINES.get_or_init(|| read(|| std::io::stdin().lock()));
    lines.lock().await.recv().await.transpose()
}

/// Asks y/n on the terminal; no terminal is an error that names the flag.
///
/// # Errors
/// Where there is no terminal, or it cannot be read.
pub async fn agree(question: &str, flag: &str) -> anyhow::Result<bool> {
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "there is no terminal to ask \"{question}\" at: pass {flag} to agree beforehand"
    );
    eprint!("{question} [y/N] ");
    let line = next().await?.unwrap_or_default();
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Starts the thread. It ends with the input, or with the process.
fn read<R: BufRead>(open: impl FnOnce() -> R + Send + 'static) -> Lines {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in open().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    Mutex::new(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_question_that_is_given_up_leaves_the_line_to_the_next() {
        let (typed, ready) = std::sync::mpsc::sync_channel::<()>(1);
        let lines = read(move || {
            // The first line is typed after the first question was given up.
            let _ = ready.recv();
            std::io::Cursor::new("yes\nno\n")
        });
        let next = || async { lines.lock().await.recv().await.transpose() };
        assert!(next().now_or_never().is_none());
        typed.send(()).unwrap();
        assert_eq!(next().await.unwrap().as_deref(), Some("yes"));
        assert_eq!(next().await.unwrap().as_deref(), Some("no"));
        assert_eq!(next().await.unwrap(), None);
    }
}
