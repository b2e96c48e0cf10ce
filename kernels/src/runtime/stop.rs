//! Stop strings over a stream of text.

use super::EngineError;

/// As many as the OpenAI interface allows, times four.
const MAX_COUNT: usize = 16;
/// Longer ones are not stop strings.
const MAX_BYTES: usize = 256;

/// Holds back text that may be the beginning of a stop string.
pub(crate) struct Stops {
    strings: Vec<String>,
    held: String,
}

impl Stops {
    pub fn new(strings: &[String]) -> Result<Self, EngineError> {
        let longest = strings.iter().map(String::len).max().unwrap_or(0);
        let empty = strings.iter().any(String::is_empty);
        if strings.len() > MAX_COUNT || longest > MAX_BYTES || empty {
            return Err(EngineError::Stops {
                count: strings.len(),
                longest,
                max_count: MAX_COUNT,
                max_bytes: MAX_BYTES,
            });
        }
        Ok(Self {
            strings: strings.to_vec(),
            held: String::new(),
        })
    }

    /// Add text; what may be shown now, and whether a stop string was met (it and
    /// what follows are dropped).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let met = self
            .strings
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min();
        if let Some(at) = met {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .strings
            .iter()
            .map(|s| overlap(&self.held, s))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The end of the text: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that begins `stop` (and is not all of it).
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(i, _)| i)
        .rev()
        .find(|n| *n > 0 && text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_stop_string() {
        let mut stops = Stops::new(&["END.".to_owned(), "\n\n".to_owned()]).unwrap();
        assert_eq!(stops.push("a E"), ("a ".to_owned(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("Ex\n"), ("ENEx".to_owned(), false));
        assert_eq!(stops.push("yEND"), ("\ny".to_owned(), false));
        assert_eq!(stops.push(". more"), (String::new(), true));
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn empty_and_endless_lists_are_refused() {
        assert!(Stops::new(&[String::new()]).is_err());
        assert!(Stops::new(&vec!["x".to_owned(); MAX_COUNT + 1]).is_err());
        assert!(Stops::new(&["x".repeat(MAX_BYTES + 1)]).is_err());
    }
}
