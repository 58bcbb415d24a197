//! The code of a Rust file: its text without comments, without the contents of literals, and without the
//! items that are built for tests alone. The parts left out are blank, so positions and lines do not change.

use std::ops::Range;

/// The text with blanks in place of comments and literals.
pub fn masked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        match hidden(bytes, at) {
            Some(end) => {
                blank(&mut code, at..end);
                at = end;
            }
            // A word is skipped as a whole: `bar"` begins no literal of bytes.
            None => at = word_end(bytes, at).max(at + 1),
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The byte ranges of the items that are compiled only for tests, with their attributes. `code` is masked.
pub fn test_items(code: &str) -> Vec<Range<usize>> {
    let bytes = code.as_bytes();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, start) in code.match_indices("#[cfg(") {
        let inside = at + start.len();
        let Some(end) = code[inside..].find(")]").map(|length| inside + length) else {
            continue;
        };
        let is_inside = ranges.last().is_some_and(|last| at < last.end);
        if is_for_tests(&code[inside..end]) && !is_inside {
            ranges.push(at..item_end(bytes, end + ")]".len()));
        }
    }
    match code.contains("#![cfg(test)]") {
        true => std::iter::once(0..code.len()).collect(),
        false => ranges,
    }
}

/// The text with blanks in the given byte ranges.
pub fn without(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        blank(&mut bytes, range.clone());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The names of the modules that are declared and have files of their own.
pub fn modules(code: &str) -> Vec<&str> {
    let declared = code.match_indices("mod ").filter(|(at, _)| {
        let before = code[..*at].bytes().next_back();
        !before.is_some_and(is_word)
    });
    let names = declared.filter_map(|(at, word)| {
        let rest = code.get(at + word.len()..)?;
        let (name, rest) = rest.split_at(word_end(rest.as_bytes(), 0));
        rest.starts_with(';').then_some(name)
    });
    names.collect()
}

/// The bodies of the inline modules, each with its offset. A module inside another module is a part of that module's
/// body.
pub fn inner_modules(code: &str) -> Vec<(usize, &str)> {
    let mut modules: Vec<(usize, &str)> = Vec::new();
    for (at, word) in code.match_indices("mod ") {
        let before = code[..at].bytes().next_back();
        let last_end = modules.last().map_or(0, |(at, body)| at + body.len());
        let start = word_end(code.as_bytes(), at + word.len());
        let is_body = code[start..].trim_start().starts_with('{');
        if before.is_some_and(is_word) || at < last_end || !is_body {
            continue;
        }
        let end = item_end(code.as_bytes(), at);
        modules.push((start, &code[start..end]));
    }
    modules
}

/// Whether the condition of an attribute is true only in tests.
fn is_for_tests(condition: &str) -> bool {
    let all = condition.strip_prefix("all(").unwrap_or_default();
    condition == "test" || all.split([',', ')']).any(|part| part.trim() == "test")
}

fn blank(bytes: &mut [u8], range: Range<usize>) {
    let range = bytes.get_mut(range).unwrap_or_default();
    let visible = range.iter_mut().filter(|byte| **byte != b'\n');
    visible.for_each(|byte| *byte = b' ');
}

/// Whether the byte is part of a word.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    let length = bytes[at..].iter().take_while(|byte| is_word(**byte));
    at + length.count()
}

/// The end of the comment or literal that begins at `at`; `None` if neither begins there.
fn hidden(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().take_while(|byte| **byte != b'\n').count()),
        [b'/', b'*', ..] => Some(at + comment_length(rest)),
        [b'\'', ..] => character_length(rest).map(|length| at + length),
        _ => text_length(rest).map(|length| at + length),
    }
}

/// The length of a block comment, which may contain further block comments.
fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0u32, 0);
    while let Some([one, two]) = rest.get(at..at + 2) {
        match (one, two) {
            (b'/', b'*') => depth += 1,
            (b'*', b'/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a character literal such as `'a'`; `None` for a lifetime such as `'a`.
fn character_length(rest: &[u8]) -> Option<usize> {
    let escaped = rest.get(1) == Some(&b'\\');
    let first = if escaped { 3 } else { 2 };
    let end = rest.iter().skip(first).position(|byte| *byte == b'\'')? + first;
    // One character has four bytes at most.
    let is_one = std::str::from_utf8(rest.get(1..end)?).is_ok_and(|text| text.chars().count() == 1);
    (escaped || is_one).then_some(end + 1)
}

/// The length of a literal of a string or of bytes.
fn text_length(rest: &[u8]) -> Option<usize> {
    let prefixes: [&[u8]; 6] = [b"br", b"cr", b"b", b"c", b"r", b""];
    let starts = |prefix: &&&[u8]| {
        rest.strip_prefix(**prefix)
            .is_some_and(|after| matches!(after, [b'"', ..] | [b'#', b'#' | b'"', ..]))
    };
    let prefix = prefixes.iter().find(starts)?;
    let is_raw = prefix.ends_with(b"r");
    let after = rest.get(prefix.len()..)?;
    let marks = after.iter().take_while(|byte| **byte == b'#').count();
    if marks > 0 && !is_raw {
        return None;
    }
    let opened = prefix.len() + marks + 1;
    let end: Vec<u8> = [b'"'].into_iter().chain(vec![b'#'; marks]).collect();
    let mut at = opened;
    while at < rest.len() {
        match rest.get(at) {
            Some(b'\\') if !is_raw => at += 2,
            _ if rest[at..].starts_with(&end) => return Some(at + end.len()),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// The first words of items that end with a semicolon, even after braces.
const STATEMENTS: [&str; 5] = ["const", "let", "static", "type", "use"];

/// The first words of items that end with a semicolon or with their braces.
const ITEMS: [&str; 11] = [
    "async",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "struct",
    "trait",
    "union",
    "unsafe",
];

/// The end of the item after an attribute: of an item of a module, a statement, a field or an arm.
fn item_end(bytes: &[u8], from: usize) -> usize {
    let start = item_start(bytes, from);
    let words = String::from_utf8_lossy(&bytes[start..bytes.len().min(start + 80)]).into_owned();
    let mut words = words.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
    let (first, second) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let is_function = first == "const" && ["fn", "unsafe", "async"].contains(&second);
    let is_statement = STATEMENTS.contains(&first) && !is_function;
    let is_item = ITEMS.contains(&first) || is_function;
    let (mut depth, mut angles) = (0u32, 0u32);
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            // The item is the last one of those around it.
            b')' | b']' | b'}' if depth == 0 => return at,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 && *byte == b'}' && !is_statement {
                    return at + 1;
                }
            }
            b'<' if depth == 0 => angles += 1,
            b'>' if depth == 0 && !matches!(before, Some(b'-' | b'=')) => {
                angles = angles.saturating_sub(1);
            }
            b';' if depth == 0 => return at + 1,
            b',' if depth == 0 && angles == 0 && !is_item && !is_statement => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The first byte after further attributes and the visibility.
fn item_start(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let spaces = bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace());
        at += spaces.count();
        let rest = &bytes[at..];
        let (open, close) = match rest {
            [b'#', b'[', ..] => (b'[', b']'),
            [b'p', b'u', b'b', b'(', ..] => (b'(', b')'),
            [b'p', b'u', b'b', b' ', ..] => {
                at += "pub ".len();
                continue;
            }
            _ => return at,
        };
        let mut depth = 0u32;
        for byte in rest {
            at += 1;
            if *byte == open {
                depth += 1;
            } else if *byte == close {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product's code of a text, with each run of blanks as one.
    fn product(text: &str) -> String {
        let code = masked(text);
        let code = without(&code, &test_items(&code));
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
        code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_blank() {
        for (text, code) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            (r#"f("a \" // b", c)"#, "f( , c)"),
            (r###"f(r#"a " b"#, br"c\", b"d")"###, "f( , , )"),
            ("f('\"', '\\'', '{', 'é', x)", "f( , , , , x)"),
            (
                "fn f<'a>(a: &'a str) -> &'static str {}",
                "fn f<'a>(a: &'a str) -> &'static str {}",
            ),
            ("let r#type = bar(\"b\");", "let r#type = bar( );"),
        ] {
            assert_eq!(product(text), code, "{text}");
        }
    }

    #[test]
    fn only_the_item_for_tests_is_left_out() {
        for (text, code) in [
            (
                "a(); #[cfg(test)]\nmod tests { fn f() { \"}\" } }\nfn g() {}",
                "a(); fn g() {}",
            ),
            ("#[cfg(test)]\nmod tests;\nmod b;", "mod b;"),
            (
                "#[cfg(test)]\npub(crate) use a::{b, c};\nfn g() {}",
                "fn g() {}",
            ),
            ("#[cfg(test)]\n#[path = \"x.rs\"]\nmod a;\nmod b;", "mod b;"),
            (
                "#[cfg(test)]\npub const fn f() -> [u8; 2] { [1, 2] } fn g() {}",
                "fn g() {}",
            ),
            (
                "#[cfg(test)]\nconst A: B = B { c: 1 }; fn g() {}",
                "fn g() {}",
            ),
            (
                "struct A { #[cfg(test)] b: Map<C, D>, e: F }",
                "struct A { e: F }",
            ),
            ("struct A { e: F, #[cfg(test)] b: C }", "struct A { e: F, }"),
            (
                "match a { #[cfg(test)] B => { c } D => e }",
                "match a { D => e }",
            ),
            (
                "fn a() { #[cfg(test)] let b = { c; d }; e }",
                "fn a() { e }",
            ),
            (
                "#[cfg(all(test, target_endian = \"little\"))]\nmod a {} mod b;",
                "mod b;",
            ),
            ("#[cfg(not(test))]\nmod a {}", "#[cfg(not(test))] mod a {}"),
            ("#![cfg(test)]\nfn f() {}", ""),
        ] {
            assert_eq!(product(text), code, "{text}");
        }
    }

    #[test]
    fn modules_with_files_are_named() {
        let code = "mod a;\npub(crate) mod b;\nmod inside {}\nlet xmod = d;";
        assert_eq!(modules(code), ["a", "b"]);
    }
}
