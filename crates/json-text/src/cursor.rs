//! A read position in JSON text.

use crate::SyntaxError;
use crate::string::{StringSlice, end_of_string};

/// A read position in JSON text, between two tokens.
///
/// ```
/// use json_text::Cursor;
///
/// # fn main() -> Result<(), json_text::SyntaxError> {
/// let mut cursor = Cursor::new(br#"{"name": "web", "ports": [80, 443], "on": true}"#);
/// let mut ports = Vec::new();
/// let mut members = cursor.object()?;
/// while let Some(key) = members.next_key(&mut cursor)? {
///     if key.is("ports") {
///         let mut elements = cursor.array()?;
///         while elements.next(&mut cursor)? {
///             ports.push(cursor.number()?);
///         }
///     } else {
///         cursor.skip()?;
///     }
/// }
/// assert_eq!(ports, ["80", "443"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Cursor<'t> {
    /// A position at the start of a text.
    #[inline]
    pub fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The index of the next byte.
    #[inline]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Skips white space to the next token, and returns the first byte of the token.
    ///
    /// # Errors
    /// If the text ends.
    #[inline]
    pub fn peek(&mut self) -> Result<u8, SyntaxError> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(SyntaxError::End(self.at)),
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), SyntaxError> {
        if self.peek()? != byte {
            return Err(SyntaxError::Unexpected(self.at));
        }
        self.at += 1;
        Ok(())
    }

    /// Enters an object, whose members follow.
    ///
    /// # Errors
    /// If the next value is no object.
    #[inline]
    pub fn object(&mut self) -> Result<Sequence, SyntaxError> {
        self.expect(b'{')?;
        Ok(Sequence::until(b'}'))
    }

    /// Enters an array, whose elements follow.
    ///
    /// # Errors
    /// If the next value is no array.
    #[inline]
    pub fn array(&mut self) -> Result<Sequence, SyntaxError> {
        self.expect(b'[')?;
        Ok(Sequence::until(b']'))
    }

    /// Reads the key of a member, whose value follows.
    ///
    /// # Errors
    /// If no key is next.
    #[inline]
    pub fn key(&mut self) -> Result<StringSlice<'t>, SyntaxError> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Reads the key of a member if it equals the given key in its plain form, which has no escapes and a colon
    /// directly behind it. A caller that expects the key saves the search for its end.
    #[inline]
    pub fn take_key(&mut self, name: &str) -> bool {
        let end = self.at + name.len() + 3;
        match self.text.get(self.at..end) {
            Some([b'"', key @ .., b'"', b':']) if key == name.as_bytes() => {
                self.at = end;
                true
            }
            _ => false,
        }
    }

    /// Skips the next value if its text equals the given text of an object or an array. No other value begins with the
    /// whole text of an object or an array. Returns `false` for an empty text.
    #[inline]
    pub fn take_nested(&mut self, text: &[u8]) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let is_next = !text.is_empty() && rest.starts_with(text);
        if is_next {
            self.at += text.len();
        }
        is_next
    }

    /// Moves to the given index, which must be in front of a token.
    #[inline]
    pub(crate) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// The text from the given index to the position.
    #[inline]
    pub fn since(&self, start: usize) -> &'t [u8] {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Reads a string.
    ///
    /// # Errors
    /// If no string is next.
    #[inline]
    pub fn string(&mut self) -> Result<StringSlice<'t>, SyntaxError> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let end = self.end_of_string()?;
        Ok(StringSlice::new(&self.text[start..self.at], start, end))
    }

    /// Skips the rest of a string whose first quote has been read. Returns whether the string has escapes.
    #[inline]
    fn end_of_string(&mut self) -> Result<bool, SyntaxError> {
        let (end, escaped) =
            end_of_string(self.text, self.at).ok_or(SyntaxError::End(self.text.len()))?;
        self.at = end;
        Ok(escaped)
    }

    /// Reads a number without a check of its digits.
    ///
    /// # Errors
    /// If no number is next.
    #[inline]
    pub fn number(&mut self) -> Result<&'t str, SyntaxError> {
        let first = self.peek()?;
        let start = self.at;
        if !matches!(first, b'-' | b'0'..=b'9') {
            return Err(SyntaxError::Unexpected(start));
        }
        let number = self.scalar()?;
        std::str::from_utf8(number).map_err(|_| SyntaxError::Unexpected(start))
    }

    /// Reads `true` or `false`.
    ///
    /// # Errors
    /// If neither is next.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, SyntaxError> {
        match self.peek()? {
            b't' => self.word(b"true").map(|()| true),
            _ => self.word(b"false").map(|()| false),
        }
    }

    /// Reads `null`.
    ///
    /// # Errors
    /// If none is next.
    #[inline]
    pub fn null(&mut self) -> Result<(), SyntaxError> {
        self.peek()?;
        self.word(b"null")
    }

    fn word(&mut self, word: &[u8]) -> Result<(), SyntaxError> {
        let start = self.at;
        match self.scalar()? {
            actual if actual == word => Ok(()),
            _ => Err(SyntaxError::Unexpected(start)),
        }
    }

    /// Skips the next value, and returns its text.
    ///
    /// # Errors
    /// If no value is next, or the text ends within the value.
    #[inline]
    pub fn skip(&mut self) -> Result<&'t [u8], SyntaxError> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.at += 1;
                self.end_of_string()?;
            }
            b'{' | b'[' => self.skip_nested()?,
            _ => return self.scalar(),
        }
        Ok(&self.text[start..self.at])
    }

    /// Skips a number or a word that begins at the position.
    #[inline]
    fn scalar(&mut self) -> Result<&'t [u8], SyntaxError> {
        let ends = |byte: &u8| {
            matches!(
                byte,
                b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\r' | b'\t'
            )
        };
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        // An empty value would not advance the cursor, so a caller could loop for ever.
        if length == 0 {
            return Err(SyntaxError::Unexpected(start));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    /// Skips an object or an array.
    fn skip_nested(&mut self) -> Result<(), SyntaxError> {
        let mut depth = 0_isize;
        loop {
            let byte = *self.text.get(self.at).ok_or(SyntaxError::End(self.at))?;
            self.at += 1;
            if byte == b'"' {
                let end = end_of_string(self.text, self.at);
                (self.at, _) = end.ok_or(SyntaxError::End(self.text.len()))?;
                // A shortcut for the form that most members of a set of fields have.
                if self.text.get(self.at..self.at + 4) == Some(b":{},") {
                    self.at += 4;
                }
                continue;
            }
            // The processor predicts branches on brackets badly, so the depth is computed without a branch.
            depth += isize::from(NESTING[usize::from(byte)]);
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The change of the nesting depth for each byte outside of strings.
static NESTING: [i8; 256] = {
    let mut table = [0; 256];
    table[b'{' as usize] = 1;
    table[b'[' as usize] = 1;
    table[b'}' as usize] = -1;
    table[b']' as usize] = -1;
    table
};

/// Iterates over the members of an object or the elements of an array. The caller must read or skip each value before
/// the next one.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    close: u8,
    first: bool,
}

impl Sequence {
    #[inline]
    fn until(close: u8) -> Self {
        let first = true;
        Self { close, first }
    }

    /// Moves to the next member or element. Returns `false` after the last one.
    ///
    /// # Errors
    /// If neither a comma nor the end is next.
    #[inline]
    pub fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, SyntaxError> {
        let byte = cursor.peek()?;
        let first = std::mem::replace(&mut self.first, false);
        if byte == self.close {
            cursor.at += 1;
            return Ok(false);
        }
        if first {
            return Ok(true);
        }
        if byte != b',' {
            return Err(SyntaxError::Unexpected(cursor.at));
        }
        cursor.at += 1;
        Ok(true)
    }

    /// Reads the next key of an object, whose value follows. Returns `None` after the last member.
    ///
    /// # Errors
    /// If neither a member nor the end is next.
    #[inline]
    pub fn next_key<'t>(
        &mut self,
        cursor: &mut Cursor<'t>,
    ) -> Result<Option<StringSlice<'t>>, SyntaxError> {
        match self.next(cursor)? {
            true => cursor.key().map(Some),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_start(text: &str) -> Cursor<'_> {
        Cursor::new(text.as_bytes())
    }

    #[test]
    fn scalars_are_read_by_their_type() {
        let mut cursor = at_start(" -1.5e3 true\tfalse\nnull \"a\\n\" 7");
        assert_eq!(cursor.number(), Ok("-1.5e3"));
        assert_eq!(cursor.bool(), Ok(true));
        assert_eq!(cursor.bool(), Ok(false));
        assert_eq!(cursor.null(), Ok(()));
        let text = cursor.string().unwrap();
        assert!(text.is_escaped());
        assert_eq!(text.raw(), br"a\n");
        assert_eq!(text.decode().unwrap(), "a\n");
        assert_eq!(cursor.number(), Ok("7"));
        assert_eq!(cursor.offset(), 31);
    }

    #[test]
    fn a_nested_value_is_taken_by_its_text() {
        let mut cursor = at_start("[1,{\"a\":2}]");
        let mut elements = cursor.array().unwrap();
        assert_eq!(elements.next(&mut cursor), Ok(true));
        assert!(!cursor.take_nested(b"") && !cursor.take_nested(b"{}"));
        assert_eq!(cursor.number(), Ok("1"));
        assert_eq!(elements.next(&mut cursor), Ok(true));
        let start = cursor.offset();
        assert!(!cursor.take_nested(b"{\"a\":2}]]"));
        assert!(cursor.take_nested(b"{\"a\":2}"));
        assert_eq!(cursor.since(start), b"{\"a\":2}");
        assert_eq!(elements.next(&mut cursor), Ok(false));
        assert!(!cursor.take_nested(b"{}"));
    }

    #[test]
    fn errors_name_the_byte() {
        let error = |text: &str, read: fn(&mut Cursor<'_>) -> Option<SyntaxError>| {
            read(&mut at_start(text)).unwrap()
        };
        use SyntaxError::{End, Unexpected};
        assert_eq!(error("  ", |c| c.peek().err()), End(2));
        assert_eq!(error(" nil", |c| c.null().err()), Unexpected(1));
        assert_eq!(error("[1]", |c| c.object().err()), Unexpected(0));
        assert_eq!(error("x", |c| c.number().err()), Unexpected(0));
        assert_eq!(error(" 1", |c| c.bool().err()), Unexpected(1));
        assert_eq!(error("\"a\\\"", |c| c.string().err()), End(4));
        assert_eq!(error("[{\"]\":[]}", |c| c.skip().err()), End(9));
        assert_eq!(error(" }", |c| c.skip().err()), Unexpected(1));
        assert_eq!(error("\"a\" 1", |c| c.key().err()), Unexpected(4));
        assert_eq!(End(3).offset(), 3);
    }

    #[test]
    fn a_skipped_value_ends_where_it_ends() {
        for value in [
            "0",
            "true",
            r#""""#,
            r#""\\""#,
            r#""\"]}""#,
            r#"{"a":"}","b":[{},"\\\"",[[]]]}"#,
            r#"{"a":{},"b":{"c":{},"d":{}},"e":":{},","f":[]}"#,
            "[ ]",
        ] {
            let text = format!(" {value} ,");
            let mut cursor = at_start(&text);
            assert_eq!(cursor.skip(), Ok(value.as_bytes()));
            assert_eq!(cursor.peek(), Ok(b','), "{value}");
        }
    }

    #[test]
    fn an_expected_key_is_taken_in_its_plain_form_alone() {
        let mut cursor = at_start(r#"{"a":1,"b" :2,"\u0063":3}"#);
        let mut members = cursor.object().unwrap();
        assert_eq!(members.next(&mut cursor), Ok(true));
        assert!(!cursor.take_key("b") && !cursor.take_key("") && !cursor.take_key("a\":1"));
        assert!(cursor.take_key("a"));
        assert_eq!(cursor.number(), Ok("1"));
        for name in ["b", "c"] {
            assert_eq!(members.next(&mut cursor), Ok(true));
            assert!(!cursor.take_key(name));
            assert!(cursor.key().unwrap().is(name));
            cursor.skip().unwrap();
        }
        assert_eq!(members.next(&mut cursor), Ok(false));
        assert!(!cursor.take_key("a"));
    }

    #[test]
    fn sequences_need_commas() {
        let count = |text: &str| {
            let mut cursor = at_start(text);
            let mut elements = cursor.array()?;
            let mut count = 0;
            while elements.next(&mut cursor)? {
                cursor.skip()?;
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(count("[ ]"), Ok(0));
        assert_eq!(count("[1 , [2,3]]"), Ok(2));
        assert_eq!(count("[1 2]"), Err(SyntaxError::Unexpected(3)));
        assert_eq!(count("[1,]"), Err(SyntaxError::Unexpected(3)));
        assert_eq!(count("[,1]"), Err(SyntaxError::Unexpected(1)));
        assert_eq!(count("[1}"), Err(SyntaxError::Unexpected(2)));
        assert_eq!(count("[1,"), Err(SyntaxError::End(3)));
    }
}
