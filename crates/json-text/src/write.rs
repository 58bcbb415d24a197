//! Strings as JSON, with the escapes that `serde_json` writes.

use crate::string::{HIGHS, ONES, lowest, marks};

/// Appends a text as a string of JSON.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    match plain_bytes(bytes) {
        plain if plain == bytes.len() => out.extend_from_slice(bytes),
        _ => write_escaped(out, bytes),
    }
    out.push(b'"');
}

/// Appends the content of a string that needs escapes. Most strings need none, so this function is not inlined.
#[inline(never)]
fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let (plain, behind) = rest.split_at(plain_bytes(rest));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = behind.split_first() else {
            return;
        };
        write_escape(out, *byte);
        rest = behind;
    }
}

/// The length of the longest prefix of `text` in which no byte needs an escape in a JSON string.
pub fn plain_length(text: &str) -> usize {
    plain_bytes(text.as_bytes())
}

/// The length of the longest prefix in which no byte needs an escape. Eight bytes are tested at a time, because most
/// strings are short.
#[inline]
fn plain_bytes(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let marked = marks(word, b'"') | marks(word, b'\\') | below_space(word);
        if marked != 0 {
            return index * 8 + lowest(marked);
        }
    }
    let marked = rest.iter().position(|byte| is_escaped(*byte));
    marked.map_or(text.len(), |marked| words.len() * 8 + marked)
}

#[inline]
fn is_escaped(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// Sets the high bit of each byte of the word that is a control character. Only the lowest mark is exact.
#[inline]
fn below_space(word: u64) -> u64 {
    word.wrapping_sub(ONES * u64::from(b' ')) & !word & HIGHS
}

#[cold]
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let digit = |half: u8| DIGITS[usize::from(half & 0xf)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_byte_is_written_as_serde_json_does_wherever_it_is() {
        for char in (0..=0x100).filter_map(char::from_u32) {
            for before in 0..18 {
                let text = format!("{}{char}é{char}end", "-".repeat(before));
                assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_written_as_serde_json_does(text in "\\PC*|[\"\\\\\n\u{0}-\u{9}a ]*") {
            prop_assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(plain_length(&text) == text.len(), written(&text).len() == text.len() + 2);
        }
    }
}
