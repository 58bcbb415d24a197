//! Reading of JSON text in place: the store's own, which is valid. Other text gives an error or nonsense,
//! never a panic.

use std::borrow::Cow;

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScanError {
    /// It ends too early.
    #[error("unexpected end of the JSON text")]
    Cut,
    /// It has something else than JSON at this byte.
    #[error("unexpected byte in the JSON text at {0}")]
    Unexpected(usize),
    /// A text has an invalid escape, or is not UTF-8.
    #[error("invalid text in the JSON text")]
    Text,
}

/// A text between quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'t> {
    quoted: &'t [u8],
    /// Whether it has escapes.
    pub(super) escaped: bool,
}

impl<'t> Text<'t> {
    /// The bytes between the quotes.
    #[inline]
    pub(super) fn raw(&self) -> &'t [u8] {
        &self.quoted[1..self.quoted.len() - 1]
    }

    /// The text without escapes.
    ///
    /// *Errors.* If an escape is not one of JSON.
    pub(super) fn plain(&self) -> Result<Cow<'t, str>, ScanError> {
        if !self.escaped {
            let text = std::str::from_utf8(self.raw());
            return text.map(Cow::Borrowed).map_err(|_| ScanError::Text);
        }
        let text = serde_json::from_slice::<String>(self.quoted);
        text.map(Cow::Owned).map_err(|_| ScanError::Text)
    }
}

/// A place in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of the next token.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, ScanError> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(ScanError::Cut),
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek()? != byte {
            return Err(ScanError::Unexpected(self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// Enters an object or a list; whether it has anything in it.
    #[inline]
    pub(super) fn enter(&mut self, open: u8, close: u8) -> Result<bool, ScanError> {
        self.expect(open)?;
        let empty = self.peek()? == close;
        self.at += usize::from(empty);
        Ok(!empty)
    }

    /// Goes on to the next member or element; `false` at the end.
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, ScanError> {
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return Err(ScanError::Unexpected(self.at));
        }
        self.at += 1;
        Ok(byte == b',')
    }

    /// The key of a member; its value is next.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Text<'t>, ScanError> {
        let key = self.text()?;
        self.colon()?;
        Ok(key)
    }

    /// Goes from a key to its value.
    #[inline]
    pub(super) fn colon(&mut self) -> Result<(), ScanError> {
        self.expect(b':')
    }

    /// A text.
    #[inline]
    pub(super) fn text(&mut self) -> Result<Text<'t>, ScanError> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let escaped = self.skip_to_quote()?;
        Ok(Text {
            quoted: &self.text[start..self.at],
            escaped,
        })
    }

    /// Goes behind the closing quote; whether there are escapes in front of it.
    #[inline]
    fn skip_to_quote(&mut self) -> Result<bool, ScanError> {
        let mut escaped = false;
        loop {
            self.at += quote_or_escape(&self.text[self.at..]).ok_or(ScanError::Cut)?;
            if self.text[self.at] == b'"' {
                self.at += 1;
                return Ok(escaped);
            }
            escaped = true;
            // The escaped byte is part of the text, whatever it is.
            self.at = (self.at + 2).min(self.text.len());
        }
    }

    /// The text of the next value, whatever it is.
    #[inline]
    pub(super) fn raw(&mut self) -> Result<&'t [u8], ScanError> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.at += 1;
                self.skip_to_quote()?;
            }
            b'{' | b'[' => self.skip_nested()?,
            _ => {
                let ends =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
                let rest = &self.text[start..];
                let length = rest.iter().position(ends).unwrap_or(rest.len());
                if length == 0 {
                    return Err(ScanError::Unexpected(start));
                }
                self.at += length;
            }
        }
        Ok(&self.text[start..self.at])
    }

    /// Goes behind an object or a list.
    fn skip_nested(&mut self) -> Result<(), ScanError> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at).ok_or(ScanError::Cut)? {
                b'"' => {
                    self.at += 1;
                    self.skip_to_quote()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// The first quote or backslash, eight bytes at a time: most texts are short.
#[inline]
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found =
            zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            // The lowest mark is exact; marks above it may not be.
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    found.map(|at| words.len() * 8 + at)
}
