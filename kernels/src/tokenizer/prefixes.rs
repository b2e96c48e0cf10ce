//! The longest of many strings that a text begins with.
//!
//! A sorted list narrowed byte by byte: a search costs the length of the match, at
//! most [`LONGEST`], times the logarithm of the list, whatever the strings are.

use super::memory::block;

/// Longest string that is found, in bytes: several times the longest special token or
/// word known. A list of ever longer strings would make each byte of a text cost more.
pub(super) const LONGEST: usize = 256;

/// Strings with something attached to each.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    /// Sorted by text, without doubles and without the empty string.
    entries: Vec<(Box<[u8]>, T)>,
    /// Entries beginning with byte `b` are `first[b] .. first[b + 1]`.
    first: Vec<u32>,
}

impl<T> Prefixes<T> {
    /// Of equal strings the first given counts; those above [`LONGEST`] are left out.
    pub fn new(strings: impl Iterator<Item = (Box<[u8]>, T)>) -> Self {
        let mut entries: Vec<_> = strings
            .filter(|(s, _)| (1..=LONGEST).contains(&s.len()))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, earlier| later.0 == earlier.0);
        entries.shrink_to_fit();
        let first = (0..=256)
            .map(|b| entries.partition_point(|(s, _)| usize::from(s[0]) < b) as u32)
            .collect();
        Self { entries, first }
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        let texts: usize = self.entries.iter().map(|(s, _)| block(s.len())).sum();
        size_of_val(&*self.entries) + size_of_val(&*self.first) + texts
    }

    /// Length and attachment of the longest string that `bytes` begins with, among
    /// those that `accept` takes.
    pub fn longest(&self, bytes: &[u8], accept: impl Fn(&T) -> bool) -> Option<(usize, &T)> {
        let b = usize::from(*bytes.first()?);
        let (mut lo, mut hi) = (self.first[b] as usize, self.first[b + 1] as usize);
        let (mut best, mut depth) = (None, 1);
        // All of lo..hi begin with bytes[..depth].
        while lo < hi {
            let (text, value) = &self.entries[lo];
            if text.len() == depth {
                if accept(value) {
                    best = Some((depth, value));
                }
                lo += 1;
            }
            let Some(byte) = bytes.get(depth) else { break };
            let among = &self.entries[lo..hi];
            hi = lo + among.partition_point(|(s, _)| s[depth] <= *byte);
            lo += among.partition_point(|(s, _)| s[depth] < *byte);
            depth += 1;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_string_above_the_longest_is_never_looked_for() {
        let long = |len: usize| vec![b'a'; len];
        let strings = [1, LONGEST, LONGEST + 1].map(|len| (long(len).into(), len));
        let prefixes = Prefixes::new(strings.into_iter());
        let text = long(2 * LONGEST);
        let found = prefixes.longest(&text, |_| true);
        assert_eq!(found, Some((LONGEST, &LONGEST)));
    }

    proptest! {
        #[test]
        fn the_search_finds_what_a_look_at_every_string_finds(
            strings in prop::collection::vec("[abé]{0,5}", 0..30),
            text in "[abé]{0,8}",
        ) {
            let list = strings.iter().enumerate();
            let prefixes =
                Prefixes::new(list.map(|(i, s)| (s.as_bytes().into(), i)));
            for odd in [false, true] {
                let accept = |i: &usize| !odd || strings[*i].len() % 2 == 1;
                let slow = strings
                    .iter()
                    .enumerate()
                    .filter(|(i, s)| !s.is_empty() && text.starts_with(s.as_str()) && accept(i))
                    .max_by_key(|(i, s)| (s.len(), std::cmp::Reverse(*i)))
                    .map(|(i, s)| (s.len(), i));
                let fast = prefixes.longest(text.as_bytes(), accept);
                prop_assert_eq!(fast.map(|(n, i)| (n, *i)), slow);
            }
        }
    }
}
