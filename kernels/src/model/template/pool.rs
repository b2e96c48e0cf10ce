//! Child processes that render templates, kept warm.

use super::child::{self, Status};
use super::{RenderRequest, Renderer, TemplateError};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a request may take by the clock: its two seconds of processor time on a
/// machine that gives it a tenth of a core.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request waits for a child that is free.
const FREE_TIMEOUT: Duration = Duration::from_secs(5);

/// Renders in child processes with limits: one that meets a limit dies, its request
/// fails with [`TemplateError::Limit`], and the next one gets a fresh child.
pub struct ChildRenderer {
    program: PathBuf,
    arguments: Vec<String>,
    most: usize,
    children: Mutex<Children>,
    freed: Condvar,
}

#[derive(Default)]
struct Children {
    idle: Vec<Warm>,
    /// Idle ones and those that render.
    alive: usize,
}

impl ChildRenderer {
    /// At most `most` children, started when they are needed: `program` with these
    /// arguments must call [`super::serve_renders`] and nothing else.
    pub fn new(program: PathBuf, arguments: Vec<String>, most: usize) -> Self {
        Self {
            program,
            arguments,
            most: most.max(1),
            children: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child for this request alone.
    fn take(&self) -> Result<Place<'_>, TemplateError> {
        let full = |c: &mut Children| c.idle.is_empty() && c.alive >= self.most;
        let waited = self
            .freed
            .wait_timeout_while(self.children(), FREE_TIMEOUT, full);
        let (mut children, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if full(&mut children) {
            return Err(TemplateError::Busy);
        }
        // One that the system ended meanwhile is no use.
        while let Some(mut warm) = children.idle.pop() {
            if matches!(warm.process.try_wait(), Ok(None)) {
                return Ok(Place {
                    renderer: self,
                    child: Some(warm),
                });
            }
            children.alive -= 1;
        }
        children.alive += 1;
        drop(children);
        // Counted already, and counted out where it does not start.
        let mut place = Place {
            renderer: self,
            child: None,
        };
        let warm = Warm::start(&self.program, &self.arguments);
        place.child = Some(warm.map_err(|e| TemplateError::Limit {
            reason: format!("the process that renders does not start ({e})"),
        })?);
        Ok(place)
    }
}

impl Renderer for ChildRenderer {
    fn render(&self, request: &RenderRequest<'_>) -> Result<String, TemplateError> {
        let request = child::request(request)?;
        let mut place = self.take()?;
        let Some(mut warm) = place.child.take() else {
            return Err(TemplateError::Busy);
        };
        let (status, text) = warm.ask(request)?;
        if !status.last {
            place.child = Some(warm);
        }
        match status.rendered {
            true => Ok(text),
            false => Err(serde_json::from_str(&text).unwrap_or(TemplateError::Limit {
                reason: "the process that renders does not answer as it should".to_owned(),
            })),
        }
    }
}

/// A place among the children; its child, if it still has one, is free afterwards.
struct Place<'a> {
    renderer: &'a ChildRenderer,
    child: Option<Warm>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut children = self.renderer.children();
        match self.child.take() {
            Some(warm) => children.idle.push(warm),
            None => children.alive -= 1,
        }
        drop(children);
        self.renderer.freed.notify_one();
    }
}

/// What a child's thread brings back.
type Reply = std::io::Result<(Status, String)>;

/// A child and the thread that talks with it, so that nobody waits for a pipe longer
/// than for an answer.
struct Warm {
    process: Child,
    requests: SyncSender<Vec<u8>>,
    replies: Receiver<Reply>,
}

impl Warm {
    fn start(program: &PathBuf, arguments: &[String]) -> std::io::Result<Self> {
        let mut process = Command::new(program)
            .args(arguments)
            // It needs nothing of this process, secrets least of all.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (requests, inbox) = sync_channel(1);
        let (outbox, replies) = sync_channel(1);
        let warm = Self {
            process,
            requests,
            replies,
        };
        let (mut to, mut from) = pipes.ok_or(std::io::ErrorKind::BrokenPipe)?;
        std::thread::Builder::new()
            .name("templates".to_owned())
            .spawn(move || {
                for request in inbox {
                    if outbox.send(exchange(&mut to, &mut from, &request)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(warm)
    }

    fn ask(&mut self, request: Vec<u8>) -> Result<(Status, String), TemplateError> {
        let reply = match self.requests.send(request) {
            Ok(()) => self.replies.recv_timeout(ANSWER_TIMEOUT),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        let reason = match reply {
            Ok(Ok(reply)) => return Ok(reply),
            Err(RecvTimeoutError::Timeout) => {
                format!("it took longer than {} s", ANSWER_TIMEOUT.as_secs())
            }
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                let _ = self.process.kill();
                cause(self.process.wait().ok())
            }
        };
        Err(TemplateError::Limit { reason })
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        // Where it has ended already, there is nothing to end; waiting frees its entry.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn exchange(to: &mut ChildStdin, from: &mut ChildStdout, request: &[u8]) -> Reply {
    to.write_all(request)?;
    to.flush()?;
    child::read_reply(from)
}

/// Why a child ended, as far as the system says.
fn cause(status: Option<ExitStatus>) -> String {
    #[cfg(unix)]
    let signal = status.and_then(|s| std::os::unix::process::ExitStatusExt::signal(&s));
    #[cfg(not(unix))]
    let signal: Option<i32> = None;
    // The numbers that these signals have on every system we build for.
    const ABORT: i32 = 6;
    const KILL: i32 = 9;
    const SEGMENT: i32 = 11;
    const PROCESSOR_TIME: i32 = 24;
    let what = match (signal, status) {
        (Some(ABORT), _) => "it asked for too much memory, or its values nest too deep",
        (Some(SEGMENT), _) => "its values nest too deep",
        (Some(PROCESSOR_TIME), _) => "it took too much processor time",
        (Some(KILL), _) => "the process that renders it broke off",
        _ => "the process that renders it ended",
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_exist_fails_the_request_and_keeps_no_place() {
        let renderer = ChildRenderer::new("/nonexistent/renderer".into(), Vec::new(), 1);
        let request = RenderRequest {
            source: "x".into(),
            bos: "".into(),
            eos: "".into(),
            messages: (&[]).into(),
            date: "2026-11-30".into(),
        };
        for _ in 0..3 {
            let error = renderer.render(&request).unwrap_err();
            assert!(matches!(error, TemplateError::Limit { .. }), "{error}");
        }
        assert_eq!(renderer.children().alive, 0);
    }
}
