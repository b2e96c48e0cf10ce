//! Finding special tokens in text.

/// A stretch of text, or a special token found in it.
pub(super) enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

/// Special tokens by the first byte of their text, longest first.
#[derive(Debug)]
pub(super) struct Specials {
    by_first: Vec<Vec<Special>>,
}

#[derive(Debug)]
struct Special {
    text: String,
    id: u32,
    /// Found even when control tokens are not to be parsed.
    always: bool,
}

impl Specials {
    /// From (text, id, whether it is always recognised).
    pub fn new(tokens: impl Iterator<Item = (String, u32, bool)>) -> Self {
        let mut by_first: Vec<Vec<Special>> = (0..256).map(|_| Vec::new()).collect();
        for (text, id, always) in tokens {
            if let Some(first) = text.bytes().next() {
                by_first[usize::from(first)].push(Special { text, id, always });
            }
        }
        for list in &mut by_first {
            list.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.id.cmp(&b.id)));
        }
        Self { by_first }
    }

    /// Cut a text at the special tokens in it, leftmost first, longest first.
    pub fn split<'a>(&self, text: &'a str, control: bool, mut each: impl FnMut(Part<'a>)) {
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let Some(special) = self.find(&text.as_bytes()[at..], control) else {
                at += 1;
                continue;
            };
            if start < at {
                each(Part::Text(&text[start..at]));
            }
            each(Part::Token(special.id));
            at += special.text.len();
            start = at;
        }
        if start < text.len() {
            each(Part::Text(&text[start..]));
        }
    }

    fn find(&self, bytes: &[u8], control: bool) -> Option<&Special> {
        self.by_first[usize::from(bytes[0])]
            .iter()
            .find(|s| (control || s.always) && bytes.starts_with(s.text.as_bytes()))
    }
}
