//! Strings of JSON: the search for their end, and their text without escapes.

use std::borrow::Cow;

use crate::SyntaxError;

/// A string in the text.
#[derive(Clone, Copy, Debug)]
pub struct StringSlice<'t> {
    quoted: &'t [u8],
    at: usize,
    escaped: bool,
}

impl<'t> StringSlice<'t> {
    /// The string that begins at the given index of the text; `quoted` includes the quotes.
    #[inline]
    pub(crate) fn new(quoted: &'t [u8], at: usize, escaped: bool) -> Self {
        Self {
            quoted,
            at,
            escaped,
        }
    }

    /// Whether the string has escapes.
    #[inline]
    pub fn is_escaped(&self) -> bool {
        self.escaped
    }

    /// The bytes between the quotes, with their escapes.
    #[inline]
    pub fn raw(&self) -> &'t [u8] {
        &self.quoted[1..self.quoted.len() - 1]
    }

    /// Whether the string equals the given text.
    #[inline]
    pub fn is(&self, text: &str) -> bool {
        match self.escaped {
            false => self.raw() == text.as_bytes(),
            true => self.decode().is_ok_and(|decoded| decoded == text),
        }
    }

    /// The string without escapes.
    ///
    /// # Errors
    /// If an escape is not one of JSON, or the string is not UTF-8.
    #[inline]
    pub fn decode(&self) -> Result<Cow<'t, str>, SyntaxError> {
        match self.escaped {
            false => utf8(self.raw(), self.at + 1).map(Cow::Borrowed),
            true => unescape(self.raw(), self.at + 1).map(Cow::Owned),
        }
    }

    /// The string without escapes. The caller knows that the text, which must be the text of the cursor, is UTF-8.
    ///
    /// # Errors
    /// If an escape is invalid, or the text is not the text of the cursor.
    #[inline]
    pub fn decode_in(&self, text: &'t str) -> Result<Cow<'t, str>, SyntaxError> {
        if self.escaped {
            return self.decode();
        }
        let content = text.get(self.at + 1..self.at + self.quoted.len() - 1);
        content
            .map(Cow::Borrowed)
            .ok_or(SyntaxError::String(self.at))
    }
}

fn utf8(bytes: &[u8], at: usize) -> Result<&str, SyntaxError> {
    std::str::from_utf8(bytes).map_err(|error| SyntaxError::String(at + error.valid_up_to()))
}

/// Decodes the escapes of the bytes, which begin at the given index of the text.
fn unescape(raw: &[u8], at: usize) -> Result<String, SyntaxError> {
    let mut out = String::with_capacity(raw.len());
    let mut copied = 0;
    while let Some(length) = memchr::memchr(b'\\', &raw[copied..]) {
        out.push_str(utf8(&raw[copied..copied + length], at + copied)?);
        copied += length;
        let (char, length) = escape(&raw[copied..]).ok_or(SyntaxError::String(at + copied))?;
        out.push(char);
        copied += length;
    }
    out.push_str(utf8(&raw[copied..], at + copied)?);
    Ok(out)
}

/// The character of the escape at the start of the text, and the length of the escape.
fn escape(text: &[u8]) -> Option<(char, usize)> {
    let char = match text.get(1)? {
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let first = code_unit(text)?;
            if let Some(char) = char::from_u32(u32::from(first)) {
                return Some((char, 6));
            }
            // A character outside of the basic plane is encoded as a surrogate pair.
            let pair = [first, code_unit(&text[6..])?];
            let char = char::decode_utf16(pair).next()?.ok()?;
            return Some((char, 12));
        }
        _ => return None,
    };
    Some((char, 2))
}

/// The UTF-16 code unit of the escape at the start of the text, such as `\u00e9`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(value).ok()?)
    })
}

/// The number of words (of eight bytes) within which most strings end.
const FIRST_WORDS: usize = 2;

/// The number of words after which the search uses wide instructions. Their start takes as long as the test of several
/// words.
const NEAR_WORDS: usize = 8;

pub(crate) const ONES: u64 = 0x0101_0101_0101_0101;
pub(crate) const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The index after the closing quote of a string, and whether the string has escapes. `start` is the index after the
/// opening quote. Eight bytes are tested at a time, because most strings are short.
#[inline]
pub(crate) fn end_of_string(text: &[u8], start: usize) -> Option<(usize, bool)> {
    let mut at = start;
    for _ in 0..FIRST_WORDS {
        let Some(word) = text.get(at..)?.first_chunk::<8>() else {
            break;
        };
        let marked = ends_or_escapes(*word);
        if marked != 0 {
            return end_at(text, at + lowest(marked));
        }
        at += 8;
    }
    end_of_further_string(text, at)
}

#[inline]
fn ends_or_escapes(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    marks(word, b'"') | marks(word, b'\\')
}

/// Continues the search for the end of a string after its first words.
#[inline(never)]
fn end_of_further_string(text: &[u8], start: usize) -> Option<(usize, bool)> {
    let (words, rest) = text.get(start..)?.as_chunks::<8>();
    for (index, word) in words.iter().enumerate().take(NEAR_WORDS - FIRST_WORDS) {
        let marked = ends_or_escapes(*word);
        if marked != 0 {
            return end_at(text, start + index * 8 + lowest(marked));
        }
    }
    if words.len() > NEAR_WORDS - FIRST_WORDS {
        let start = start + (NEAR_WORDS - FIRST_WORDS) * 8;
        let marked = memchr::memchr2(b'"', b'\\', text.get(start..)?)?;
        return end_at(text, start + marked);
    }
    let marked = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    end_at(text, start + words.len() * 8 + marked)
}

#[inline]
fn end_at(text: &[u8], at: usize) -> Option<(usize, bool)> {
    match text.get(at)? {
        b'"' => Some((at + 1, false)),
        _ => Some((end_of_escaped_string(text, at)?, true)),
    }
}

/// The index after the closing quote of a string with many escapes, such as a text within a text. All escapes of a word
/// are processed together.
#[inline(never)]
fn end_of_escaped_string(text: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*word);
        let slashes = exact_marks(word, b'\\');
        let behind = slashes << 8;
        if slashes & behind != 0 {
            // A backslash may be escaped itself. The bytes in front of the first backslash contain no quote, or the
            // string ends at that quote.
            let first = lowest(slashes);
            let quotes = exact_marks(word, b'"');
            if quotes != 0 && lowest(quotes) < first {
                return Some(at + lowest(quotes) + 1);
            }
            at += first + 2;
            continue;
        }
        let quotes = exact_marks(word, b'"') & !behind;
        if quotes != 0 {
            return Some(at + lowest(quotes) + 1);
        }
        // An escape may end in the next word.
        at += 8 + usize::from(slashes >> 63 != 0);
    }
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Sets the high bit of each byte of the word that equals the given byte. Only the lowest mark is exact; marks above it
/// may be wrong.
#[inline]
pub(crate) fn marks(word: u64, byte: u8) -> u64 {
    let other = word ^ (ONES * u64::from(byte));
    other.wrapping_sub(ONES) & !other & HIGHS
}

/// Sets the high bit of exactly those bytes of the word that equal the given byte.
#[inline]
fn exact_marks(word: u64, byte: u8) -> u64 {
    let other = word ^ (ONES * u64::from(byte));
    !(((other & !HIGHS) + !HIGHS) | other | !HIGHS)
}

/// The index of the byte with the lowest mark.
#[inline]
pub(crate) fn lowest(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(raw: &str) -> Result<String, SyntaxError> {
        let quoted = format!("\"{raw}\"");
        let slice = StringSlice::new(quoted.as_bytes(), 100, raw.contains('\\'));
        slice.decode().map(Cow::into_owned)
    }

    #[test]
    fn escapes_are_those_of_json() {
        let all = r#"\"\\\/\b\f\n\r\t\u00e9\uD83D\ude00é"#;
        assert_eq!(decoded(all).unwrap(), "\"\\/\u{8}\u{c}\n\r\té😀é");
        for (raw, at) in [
            (r"ab\x", 103),
            (r"\u12", 101),
            (r"\u12g4", 101),
            (r"\u+123", 101),
            (r"a\ud83d", 102),
            (r"\ud83d\n", 101),
            (r"\ud83da", 101),
            (r"\ude00", 101),
            (r"\ud83d\ud83d", 101),
        ] {
            assert_eq!(decoded(raw), Err(SyntaxError::String(at)), "{raw}");
        }
        let invalid = StringSlice::new(b"\"ab\xff\"", 7, false);
        assert_eq!(invalid.decode(), Err(SyntaxError::String(10)));
        assert!(!invalid.is("ab"));
    }

    #[test]
    fn a_name_is_equal_however_it_is_written() {
        let name = |quoted: &'static str| {
            StringSlice::new(quoted.as_bytes(), 0, quoted.contains('\\')).is("spec")
        };
        assert!(name(r#""spec""#));
        assert!(name(r#""\u0073pec""#));
        assert!(!name(r#""spe""#));
        assert!(!name(r#""\spec""#));
    }

    /// A simple search for comparison.
    fn plain_end(text: &[u8]) -> Option<(usize, bool)> {
        let (mut at, mut escaped) = (0, false);
        loop {
            match text.get(at)? {
                b'"' => return Some((at + 1, escaped)),
                b'\\' => (at, escaped) = (at + 2, true),
                _ => at += 1,
            }
        }
    }

    #[test]
    fn the_end_is_found_at_every_distance() {
        for length in 0..100 {
            let plain = "é".repeat(length);
            for piece in [
                r#"""#,
                r#"\"""#,
                r#"\\""#,
                r#"\\\"""#,
                r#"\n\"\\x\\""#,
                r"\",
                "",
            ] {
                for behind in ["", "\"", ",\"a\\\":{}}"] {
                    let text = format!("{plain}{piece}{behind}");
                    let marked = end_of_string(text.as_bytes(), 0);
                    assert_eq!(marked, plain_end(text.as_bytes()), "{text}");
                }
            }
        }
    }
}
