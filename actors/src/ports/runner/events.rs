//! Server-sent events, as far as OpenAI-compatible servers use them, within bounds.
//!
//! Bytes in, the text of `data` fields out. Names, ids and comments are passed over;
//! several `data` lines of one event are joined by a line feed, as the standard says.

/// Longest line. Bytes. A delta is a few hundred; a whole answer in one event would not
/// be a stream of tokens.
pub(super) const MAX_LINE: usize = 256 << 10;

/// What a stream of another kind breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EventError {
    /// A line or an event without end.
    #[error("it sent an event longer than {MAX_LINE} bytes")]
    Long,
    /// More than any answer of this length needs.
    #[error("it sent more than {limit} bytes for one answer")]
    Endless {
        /// The bound.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("it sent bytes that are no text")]
    NotText,
}

/// Cuts bytes into events.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read already.
    read: usize,
    /// The `data` lines of the event under way.
    data: Option<Vec<u8>>,
    left: usize,
    limit: usize,
}

impl Decoder {
    /// A decoder that takes `limit` bytes in all.
    pub fn new(limit: usize) -> Self {
        Decoder {
            buffer: Vec::new(),
            read: 0,
            data: None,
            left: limit,
            limit,
        }
    }

    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        let limit = self.limit;
        self.left = self
            .left
            .checked_sub(bytes.len())
            .ok_or(EventError::Endless { limit })?;
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next whole event; `None` until there is more.
    pub fn next(&mut self) -> Result<Option<String>, EventError> {
        loop {
            let rest = self.buffer.get(self.read..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                return match rest.len() > MAX_LINE {
                    true => Err(EventError::Long),
                    false => Ok(None),
                };
            };
            let line = rest.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.read += end + 1;
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return String::from_utf8(data)
                        .map(Some)
                        .map_err(|_| EventError::NotText);
                }
                continue;
            }
            let Some(value) = line.strip_prefix(b"data:") else {
                continue;
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
            if self.data.as_ref().map_or(0, Vec::len) > MAX_LINE {
                return Err(EventError::Long);
            }
        }
    }

    /// At the end of the stream: an event whose last empty line some servers leave out.
    pub fn finish(&mut self) -> Result<Option<String>, EventError> {
        self.push(b"\n\n")?;
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<String>, EventError> {
        let mut decoder = Decoder::new(1 << 20);
        let mut found = Vec::new();
        for piece in pieces {
            decoder.push(piece)?;
            while let Some(event) = decoder.next()? {
                found.push(event);
            }
        }
        found.extend(decoder.finish()?);
        Ok(found)
    }

    #[test]
    fn data_is_read_whatever_the_line_ends_and_other_fields_are_passed_over() {
        let stream = b": hello\r\nevent: x\r\ndata: {\"a\":1}\r\n\r\nid: 7\ndata:b\n\n\n\ndata: c\ndata: d\n\ndata: [DONE]";
        let events = all(&[stream]).unwrap();
        assert_eq!(events, ["{\"a\":1}", "b", "c\nd", "[DONE]"]);
    }

    #[test]
    fn lines_and_streams_without_end_are_refused() {
        let long = vec![b'x'; MAX_LINE + 1];
        assert_eq!(all(&[b"data: ", &long]), Err(EventError::Long));
        let line = [b"data: ".as_slice(), &vec![b'x'; MAX_LINE / 2], b"\n"].concat();
        assert_eq!(all(&[&line, &line, &line]), Err(EventError::Long));
        let mut decoder = Decoder::new(10);
        decoder.push(b"data: 1\n").unwrap();
        assert_eq!(
            decoder.push(b"\n\n\n"),
            Err(EventError::Endless { limit: 10 })
        );
        assert_eq!(all(&[b"data: \xff\n\n"]), Err(EventError::NotText));
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_makes_no_difference(
            cuts in proptest::collection::vec(1usize..9, 1..40),
        ) {
            let stream = "data: {\"x\":\"€\"}\n\ndata: two\r\n\r\n: c\n\ndata: three\n\n".as_bytes();
            let (mut pieces, mut rest) = (Vec::new(), stream);
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            prop_assert_eq!(all(&pieces).unwrap(), ["{\"x\":\"€\"}", "two", "three"]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = all(&[&bytes]);
        }
    }
}
