//! The child process that renders templates, and what is said over its pipes.
//!
//! A request is a length and JSON, a reply a status, a length and text (the prompt, or
//! a [`TemplateError`] as JSON); lengths are u32, little-endian. One request at a time.
//! Limits of the system bound what one can take: address space for the process,
//! processor time for each request, the stack. Whoever meets one dies, and with it
//! nothing but this request.

use super::{MAX_OUTPUT, RenderRequest, TemplateError, render_here};
use std::io::{Read, Write};

/// Address space of a child: what the largest templates and conversations need several
/// times over.
const MEMORY: u64 = 512 << 20;
/// Processor time of one request, seconds. Real templates take milliseconds.
const SECONDS: u64 = 2;
/// Stack of the thread that renders.
const STACK: usize = 64 << 20;
/// A child that holds more memory than this after a request makes way for a fresh one.
const KEPT: u64 = 128 << 20;
/// A request of more bytes is followed by giving its memory back: the child may wait for long.
const LARGE: usize = 64 << 10;
/// Longest request: template and conversation, as JSON.
pub(super) const MAX_REQUEST: usize = 64 << 20;

/// How a reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The text is a prompt, not an error.
    pub rendered: bool,
    /// The child ends after this reply.
    pub last: bool,
}

impl Status {
    fn byte(self) -> u8 {
        u8::from(self.rendered) | u8::from(self.last) << 1
    }

    fn of(byte: u8) -> Option<Self> {
        (byte < 4).then_some(Self {
            rendered: byte & 1 != 0,
            last: byte & 2 != 0,
        })
    }
}

/// Writes a request, ready to be sent.
pub(super) fn request(request: &RenderRequest<'_>) -> Result<Vec<u8>, TemplateError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, request).map_err(|e| TemplateError::Failed {
        reason: e.to_string(),
    })?;
    let len = bytes.len() - 4;
    if len > MAX_REQUEST {
        return Err(TemplateError::TooLong {
            what: "conversation".to_owned(),
            bytes: len,
            limit: MAX_REQUEST,
        });
    }
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads a reply. It is no longer than a prompt may be, whatever the child says.
pub(super) fn read_reply(from: &mut impl Read) -> std::io::Result<(Status, String)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let status = Status::of(head[0]).filter(|_| len <= MAX_OUTPUT);
    let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
    let mut text = String::new();
    from.take(len as u64).read_to_string(&mut text)?;
    match text.len() == len {
        true => Ok((status, text)),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The child's whole life: takes its limits, then renders what comes on standard input
/// until that ends. To be called by a program that does nothing else.
///
/// # Errors
/// Where limits cannot be taken or a pipe breaks.
pub fn serve_renders() -> std::io::Result<()> {
    limit::process()?;
    let serve = || serve(&mut std::io::stdin().lock(), &mut std::io::stdout().lock());
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(serve)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the renderer panicked")))
}

fn serve(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    loop {
        let mut len = [0; 4];
        match from.read_exact(&mut len) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_REQUEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes)?;
        limit::processor_time(SECONDS)?;
        let (rendered, text) = match render(&bytes) {
            Ok(prompt) => (true, prompt),
            Err(error) => (false, serde_json::to_string(&error)?),
        };
        drop(bytes);
        let last = resident().is_some_and(|bytes| bytes > KEPT);
        to.write_all(&[Status { rendered, last }.byte()])?;
        to.write_all(&(text.len() as u32).to_le_bytes())?;
        to.write_all(text.as_bytes())?;
        to.flush()?;
        if last {
            return Ok(());
        }
        drop(text);
        if len > LARGE {
            crate::heap::trim();
        }
    }
}

fn render(bytes: &[u8]) -> Result<String, TemplateError> {
    let request: RenderRequest<'_> =
        serde_json::from_slice(bytes).map_err(|e| TemplateError::Failed {
            reason: e.to_string(),
        })?;
    let RenderRequest {
        source,
        bos,
        eos,
        messages,
        date,
    } = &request;
    let mut result = render_here(source, bos, eos, messages, date);
    if let Err(TemplateError::Failed { reason } | TemplateError::Limit { reason }) = &mut result {
        // What a template raises may be as long as it likes.
        let end = reason.floor_char_boundary(MAX_REASON);
        reason.truncate(end);
    }
    result
}

/// Longest account of a failure, bytes.
const MAX_REASON: usize = 4096;

/// Memory that this process holds, where the system says.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // 4 KiB or more.
    pages.checked_mul(4096)
}

#[cfg(unix)]
mod limit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    /// Takes the limits that hold for the whole process.
    pub fn process() -> std::io::Result<()> {
        for (resource, most) in [
            (Resource::As, super::MEMORY),
            // Nothing is written, neither files nor the memory of who dies.
            (Resource::Fsize, 0),
            (Resource::Core, 0),
        ] {
            let limit = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            setrlimit(resource, limit)?;
        }
        Ok(())
    }

    /// Lets this process use that many seconds from now on.
    pub fn processor_time(seconds: u64) -> std::io::Result<()> {
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        let used = u64::try_from(used).unwrap_or(0);
        let limit = Rlimit {
            // Whole seconds, and the one that has begun.
            current: Some(used + 1 + seconds),
            maximum: getrlimit(Resource::Cpu).maximum,
        };
        Ok(setrlimit(Resource::Cpu, limit)?)
    }
}

#[cfg(not(unix))]
mod limit {
    fn none() -> std::io::Result<()> {
        Err(std::io::Error::other(
            "this system has no limits for a process",
        ))
    }

    pub fn process() -> std::io::Result<()> {
        none()
    }

    pub fn processor_time(_: u64) -> std::io::Result<()> {
        none()
    }
}
