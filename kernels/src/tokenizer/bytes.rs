//! The printable alphabet in which byte-level BPE vocabularies write bytes.
//!
//! GPT-2 maps every byte to one printable character: the printable Latin-1 bytes
//! to themselves, the other 68 to U+0100 and following, in byte order.

/// The character that stands for a byte.
pub(super) fn to_char(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => shifted(u32::from(byte)),
        0x7f..=0xa0 => shifted(u32::from(byte) - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

/// The byte that a character stands for.
pub(super) fn to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8),
        n @ 0x121..=0x142 => Some((n - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of a text of this alphabet: no two texts have the same.
pub(super) fn written(text: &str) -> Option<Vec<u8>> {
    text.chars().map(to_byte).collect()
}

/// The bytes of a token's text; a text outside the alphabet stands for itself.
pub(super) fn decode(text: &str) -> Vec<u8> {
    written(text).unwrap_or_else(|| text.as_bytes().to_vec())
}

fn shifted(n: u32) -> char {
    char::from_u32(0x100 + n).unwrap_or('\u{100}')
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            let c = super::to_char(byte);
            assert!(seen.insert(c));
            assert_eq!(super::to_byte(c), Some(byte));
        }
        assert_eq!(super::to_char(b' '), 'Ġ');
        assert_eq!(super::to_char(b'\n'), 'Ċ');
    }
}
