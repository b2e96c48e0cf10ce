//! Stop strings, held to where the server does not: the answer ends in front of the first of them.
//!
//! Text that may be the beginning of one is held back until it is known. Servers that stop by
//! themselves never send one, and lose nothing by it.

/// Cuts text at stop strings.
#[derive(Debug)]
pub(super) struct Stops {
    stops: Vec<String>,
    /// Text that may be the beginning of one.
    held: String,
    hit: bool,
}

impl Stops {
    /// Cuts at any of `stops`.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Stops {
            stops: stops.cloned().collect(),
            held: String::new(),
            hit: false,
        }
    }

    /// Takes text; returns what may be shown of all so far.
    pub fn push(&mut self, text: &str) -> String {
        if self.hit {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop));
        if let Some(at) = found.min() {
            self.hit = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let open = self.stops.iter().map(|stop| overlap(&self.held, stop));
        let keep = self.held.len() - open.max().unwrap_or(0);
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    pub fn is_hit(&self) -> bool {
        self.hit
    }

    /// What was held back, once there is no more to come.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a beginning of `stop`, the most there are.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).skip(1);
    let matching = starts.filter(|end| stop.get(..*end).is_some_and(|head| text.ends_with(head)));
    matching.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut cutter = Stops::new(&stops);
        let mut shown: String = pieces.iter().map(|piece| cutter.push(piece)).collect();
        let hit = cutter.is_hit();
        shown.push_str(&cutter.rest());
        (shown, hit)
    }

    #[test]
    fn text_ends_in_front_of_the_first_stop_string_however_it_is_cut() {
        for pieces in [
            &["one two END three"][..],
            &["one two E", "N", "D three", " END"],
            &["one", " two ", "EEND three"],
        ] {
            let (shown, hit) = cut(&["END", "three"], pieces);
            assert!(
                hit && (shown == "one two " || shown == "one two E"),
                "{shown:?}"
            );
        }
        assert_eq!(cut(&["b", "ab"], &["xab"]), ("x".to_owned(), true));
        assert_eq!(cut(&["€€"], &["a€", "€b"]), ("a".to_owned(), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown() {
        assert_eq!(
            cut(&["END"], &["E", "N", "X E", "N"]),
            ("ENX EN".to_owned(), false)
        );
        assert_eq!(cut(&[], &["a", "b"]), ("ab".to_owned(), false));
        assert_eq!(cut(&[""], &["ab"]), ("ab".to_owned(), false));
    }
}
