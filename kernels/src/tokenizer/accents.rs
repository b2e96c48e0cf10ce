//! Letters without their accents: what Unicode's canonical decomposition (NFD) leaves
//! of a character when its combining marks are dropped.
//!
//! The table beside this file is Unicode 14's, all of it but Hangul, which is computed.

use std::sync::LazyLock;

/// Pairs of a character and what is left of it, in the order of the first, and line
/// ends that mean nothing.
const TABLE: &str = include_str!("unaccented.txt");

static PAIRS: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
    let chars: Vec<char> = TABLE.chars().filter(|c| *c != '\n').collect();
    chars.chunks_exact(2).map(|p| (p[0], p[1])).collect()
});

/// Hand on a character without its accents: one character, or the two or three of a
/// Hangul syllable. Combining marks themselves are handed on.
pub(super) fn unaccented(c: char, mut each: impl FnMut(char)) {
    /// Unicode's Hangul syllables: first, leading, vowel, trailing, and their numbers.
    const S: u32 = 0xac00;
    const L: u32 = 0x1100;
    const V: u32 = 0x1161;
    const T: u32 = 0x11a7;
    const V_COUNT: u32 = 21;
    const T_COUNT: u32 = 28;
    match c {
        '\0'..='\x7f' => each(c),
        '가'..='힣' => {
            let i = c as u32 - S;
            let (leading, rest) = (i / (V_COUNT * T_COUNT), i % (V_COUNT * T_COUNT));
            let (vowel, trailing) = (rest / T_COUNT, rest % T_COUNT);
            let trailing = (trailing > 0).then_some(T + trailing);
            let parts = [Some(L + leading), Some(V + vowel), trailing];
            parts
                .into_iter()
                .flatten()
                .filter_map(char::from_u32)
                .for_each(each);
        }
        _ => match PAIRS.binary_search_by_key(&c, |(from, _)| *from) {
            Ok(i) => each(PAIRS[i].1),
            Err(_) => each(c),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> String {
        let mut out = String::new();
        text.chars().for_each(|c| unaccented(c, |c| out.push(c)));
        out
    }

    #[test]
    fn accents_go_and_syllables_come_apart() {
        assert_eq!(all("Àçñ ǻ ệ Ёй ΰ"), "Acn a e Еи υ");
        assert_eq!(all("한가"), "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1161}");
        assert_eq!(all("ß漢字 abc\u{301}"), "ß漢字 abc\u{301}");
    }

    #[test]
    fn the_table_is_in_order_and_leaves_nothing_to_do() {
        assert!(PAIRS.len() > 1500);
        assert!(PAIRS.windows(2).all(|w| w[0].0 < w[1].0));
        for (_, to) in PAIRS.iter() {
            assert!(PAIRS.binary_search_by_key(to, |(from, _)| *from).is_err());
        }
    }
}
