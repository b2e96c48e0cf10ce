//! A connection that ends when its other side takes nothing more of what it is sent.
//!
//! Whoever asks and does not read would otherwise hold a place, a thread and an engine's job for
//! as long as it likes. Knows nothing of HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that count as taking more: a trickle holds a place as well as silence does.
const PROGRESS_BYTES: usize = 1 << 10;

/// See the head of the file.
pub(super) struct Patient<I> {
    io: I,
    patience: Duration,
    /// Ends the wait, while there is one.
    until: Pin<Box<Sleep>>,
    waiting: bool,
    /// Bytes taken since the wait began.
    taken: usize,
}

impl<I> Patient<I> {
    pub fn new(io: I, patience: Duration) -> Self {
        Self {
            io,
            patience,
            until: Box::pin(tokio::time::sleep(patience)),
            waiting: false,
            taken: 0,
        }
    }

    /// Judges what came of an attempt to write `offered` bytes.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        offered: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(taken)) => {
                self.taken += taken;
                // All of it, or enough of it.
                if taken >= offered || self.taken >= PROGRESS_BYTES {
                    self.waiting = false;
                }
                Poll::Ready(Ok(taken))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if !self.waiting {
                    (self.waiting, self.taken) = (true, 0);
                    let until = Instant::now() + self.patience;
                    self.until.as_mut().reset(until);
                }
                ready!(self.until.as_mut().poll(cx));
                let error = io::Error::new(io::ErrorKind::TimedOut, "nobody reads");
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = parts.iter().map(|part| part.len()).sum();
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.judge(cx, offered, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_trickle_is_no_progress_and_reading_is() {
        let patience = Duration::from_secs(2);
        for (step, ends) in [(50, true), (600, false)] {
            let (near, mut far) = tokio::io::duplex(1 << 10);
            let mut near = Patient::new(near, patience);
            let writing = tokio::spawn(async move { near.write_all(&[0; 4 << 10]).await });
            let mut buffer = vec![0; step];
            let reading = async {
                while far.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    tokio::time::sleep(patience / 8).await;
                }
            };
            reading.await;
            assert_eq!(writing.await.unwrap().is_err(), ends, "{step} bytes a time");
        }
    }
}
