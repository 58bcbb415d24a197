//! The places of values in JSON text, without decoding them.
//!
//! The input comes from an API server whose answers are trusted to be JSON; values are checked when
//! they are decoded. Text that is not JSON gives `None` or a slice that fails to decode.

/// The text of an object's member.
pub(crate) fn member<'t>(object: &'t [u8], name: &str) -> Option<&'t [u8]> {
    let mut scanner = Scanner::inside(object, b'{')?;
    while scanner.peek()? != b'}' {
        let key = scanner.string()?;
        scanner.expect(b':')?;
        let value = scanner.value()?;
        if key == name.as_bytes() {
            return Some(value);
        }
        scanner.separator();
    }
    None
}

/// The texts of an array's elements.
pub(crate) fn elements(array: &[u8]) -> Option<Vec<&[u8]>> {
    let mut scanner = Scanner::inside(array, b'[')?;
    let mut elements = Vec::new();
    while scanner.peek()? != b']' {
        elements.push(scanner.value()?);
        scanner.separator();
    }
    Some(elements)
}

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Scanner<'t> {
    fn inside(text: &'t [u8], opening: u8) -> Option<Self> {
        let mut scanner = Self { text, at: 0 };
        scanner.expect(opening)?;
        Some(scanner)
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.get(self.at..)?;
        self.at += rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn separator(&mut self) {
        if self.peek() == Some(b',') {
            self.at += 1;
        }
    }

    /// A string without its quotes, with its escapes.
    fn string(&mut self) -> Option<&'t [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.text.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at - 1)
    }

    fn value(&mut self) -> Option<&'t [u8]> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.string()?;
            }
            b'{' | b'[' => self.nested()?,
            _ => self.plain(),
        }
        // Something that is no value has no length, and would be found for ever.
        self.text
            .get(start..self.at)
            .filter(|value| !value.is_empty())
    }

    /// An object or an array, up to its end.
    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// A number, or a word.
    fn plain(&mut self) {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b':') || b.is_ascii_whitespace();
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|b| !ends(b)).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: Option<&[u8]>) -> Option<&str> {
        value.map(|value| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn a_member_is_found_among_others() {
        let text = br#" { "a" : {"b":"}\"]{", "c":[1,[2]]} , "d":-1.5e3,"e":null, "f" : "x\\" } "#;
        let of = |name| shown(member(text, name));
        assert_eq!(of("a"), Some(r#"{"b":"}\"]{", "c":[1,[2]]}"#));
        assert_eq!(of("d"), Some("-1.5e3"));
        assert_eq!(of("e"), Some("null"));
        assert_eq!(of("f"), Some(r#""x\\""#));
        assert_eq!(of("b"), None);
    }

    #[test]
    fn elements_are_cut_at_their_ends() {
        let text = br#"[ {"a":[]}, 1 ,"," , [[],{}]]"#;
        let found = elements(text).unwrap();
        let found: Vec<_> = found
            .into_iter()
            .map(|one| shown(Some(one)).unwrap())
            .collect();
        assert_eq!(found, [r#"{"a":[]}"#, "1", r#"",""#, "[[],{}]"]);
        assert_eq!(elements(b"[]").unwrap().len(), 0);
    }

    #[test]
    fn text_that_is_not_json_ends() {
        for text in [
            "",
            "[",
            "{",
            "[1",
            "[\"",
            "[\"\\",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{a:1}",
            "[:]",
            "[,]",
            "[}",
            "{]",
            "null",
            "{\"a\" 1}",
        ] {
            member(text.as_bytes(), "b");
            elements(text.as_bytes());
            assert_eq!(member(text.as_bytes(), "a"), None, "{text}");
        }
        assert!(elements(b"[:]").is_none());
    }
}
