//! Streams of the control API: server-sent events, read line by line.
//!
//! Bounded: a line longer than [`MAX_LINE`] ends the stream.

use super::{BuyLine, ControlError, RunLine, VerdictRow};
use protocol::message::inference::BuyerEvent;
use serde::de::DeserializeOwned;

/// Longest event. A receipt of a thousand payments is about 200 kB of JSON.
const MAX_LINE: usize = 8 << 20;

/// The `data:` lines of one response.
#[derive(Debug)]
struct Lines {
    url: String,
    response: reqwest::Response,
    buffer: Vec<u8>,
    scanned: usize,
}

impl Lines {
    fn new(url: String, response: reqwest::Response) -> Self {
        Lines {
            url,
            response,
            buffer: Vec::new(),
            scanned: 0,
        }
    }

    /// The next event; `None` at the end.
    async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T, ControlError>> {
        loop {
            while let Some(end) = self.buffer[self.scanned..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line: Vec<u8> = self.buffer.drain(..=self.scanned + end).collect();
                self.scanned = 0;
                if let Some(data) = line.strip_prefix(b"data:") {
                    let url = self.url.clone();
                    let event = serde_json::from_slice(data.trim_ascii());
                    return Some(event.map_err(|source| ControlError::Garbled { url, source }));
                }
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return None;
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => return None,
                Err(source) => {
                    return Some(Err(ControlError::Unreachable {
                        url: self.url.clone(),
                        source,
                    }));
                }
            }
        }
    }
}

/// A purchase under way. Dropping it stops it.
#[derive(Debug)]
pub struct Purchase {
    /// Its number, for confirm, stop and cancel.
    pub request: u64,
    /// What the user must agree to besides the choice: a sentence.
    pub notice: Option<String>,
    lines: Lines,
}

impl Purchase {
    pub(super) async fn start(
        url: String,
        response: reqwest::Response,
    ) -> Result<Self, ControlError> {
        let mut lines = Lines::new(url, response);
        loop {
            match lines.next::<BuyLine>().await {
                Some(Ok(BuyLine::Started { request, notice })) => {
                    return Ok(Purchase {
                        request,
                        notice,
                        lines,
                    });
                }
                Some(Ok(BuyLine::Happened { .. })) => {}
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(ControlError::Refused {
                        status: 502,
                        message: "the node ended the purchase before it began".to_owned(),
                        fix: Some("look at its log".to_owned()),
                    });
                }
            }
        }
    }

    /// What happens next; `None` after the end.
    pub async fn next(&mut self) -> Option<Result<BuyerEvent, ControlError>> {
        loop {
            match self.lines.next::<BuyLine>().await? {
                Ok(BuyLine::Happened { event }) => return Some(Ok(event)),
                Ok(BuyLine::Started { .. }) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An answer of the node's own machine in the making. Dropping it stops it.
#[derive(Debug)]
pub struct Run {
    lines: Lines,
}

impl Run {
    pub(super) fn new(url: String, response: reqwest::Response) -> Self {
        Run {
            lines: Lines::new(url, response),
        }
    }

    /// What happens next; `None` after the end.
    pub async fn next(&mut self) -> Option<Result<RunLine, ControlError>> {
        self.lines.next().await
    }
}

/// Verdicts as they come.
#[derive(Debug)]
pub struct Verdicts {
    lines: Lines,
}

impl Verdicts {
    pub(super) fn new(url: String, response: reqwest::Response) -> Self {
        Verdicts {
            lines: Lines::new(url, response),
        }
    }

    /// The next verdict; `None` where the node went away.
    pub async fn next(&mut self) -> Option<Result<VerdictRow, ControlError>> {
        self.lines.next().await
    }
}
