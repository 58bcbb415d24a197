//! `echo` and `printf`.

use std::io::Write;

use anyhow::{Context, Result};

use crate::options::misuse;
use crate::report::ToolResult;

/// The output of `echo`.
pub fn echo(arguments: &[String]) -> Vec<u8> {
    let mut words = arguments;
    let (mut ends_line, mut has_escapes) = (true, false);
    while let Some((first, rest)) = words.split_first() {
        let Some(letters) = first
            .strip_prefix('-')
            .filter(|letters| !letters.is_empty())
        else {
            break;
        };
        if !letters.chars().all(|letter| "neE".contains(letter)) {
            break;
        }
        ends_line &= !letters.contains('n');
        has_escapes |= letters.contains('e');
        words = rest;
    }
    let text = words.join(" ");
    let mut bytes = match has_escapes {
        true => unescaped(&text),
        false => text.into_bytes(),
    };
    if ends_line {
        bytes.push(b'\n');
    }
    bytes
}

/// Replaces escapes such as `\n`.
pub fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let Some(sign) = rest.chars().next() else {
            bytes.push(b'\\');
            break;
        };
        let after = &rest[sign.len_utf8()..];
        let number = |digits: &str, radix: u32, most: usize| {
            let length = digits
                .chars()
                .take(most)
                .take_while(|digit| digit.is_digit(radix))
                .count();
            let value = u32::from_str_radix(&digits[..length], radix).ok()?;
            Some((u8::try_from(value & 0xff).unwrap_or_default(), length))
        };
        rest = after;
        let simple = match sign {
            'n' => Some(b'\n'),
            't' => Some(b'\t'),
            'r' => Some(b'\r'),
            'a' => Some(7),
            'b' => Some(8),
            'e' => Some(27),
            'f' => Some(12),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            _ => None,
        };
        let escaped = match (simple, sign) {
            (Some(byte), _) => Some((byte, 0)),
            (None, 'x') => number(after, 16, 2),
            (None, '0') => number(after, 8, 3).or(Some((0, 0))),
            _ => None,
        };
        match escaped {
            Some((byte, length)) => {
                bytes.push(byte);
                rest = &after[length..];
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

pub fn echo_tool(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    out.write_all(&echo(arguments))?;
    Ok(0)
}

pub fn printf_tool(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    out.write_all(&printf(arguments)?)?;
    Ok(0)
}

/// The output of `printf`: the format is repeated until all words are used.
pub fn printf(arguments: &[String]) -> Result<Vec<u8>> {
    let (format, words) = arguments
        .split_first()
        .ok_or_else(|| misuse("the format is missing"))?;
    let mut words = words.iter();
    let mut bytes = Vec::new();
    loop {
        let before = words.len();
        formatted(format, &mut words, &mut bytes)?;
        if words.len() == 0 || words.len() == before {
            return Ok(bytes);
        }
    }
}

fn formatted<'a>(
    format: &str,
    words: &mut impl Iterator<Item = &'a String>,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        bytes.extend(unescaped(&rest[..at]));
        rest = &rest[at + 1..];
        let length = rest
            .find(|sign: char| !"-0+ .123456789".contains(sign))
            .unwrap_or(rest.len());
        let (shape, after) = rest.split_at(length);
        let mut signs = after.chars();
        let kind = signs
            .next()
            .ok_or_else(|| misuse("the format ends with %"))?;
        rest = signs.as_str();
        if kind == '%' {
            bytes.push(b'%');
            continue;
        }
        let word = words.next().map_or("", String::as_str);
        let (width, precision) = match shape.split_once('.') {
            Some((width, precision)) => (width, precision.parse().ok()),
            None => (shape, None::<usize>),
        };
        let is_left = width.contains('-');
        let has_zeros = width.trim_start_matches('-').starts_with('0') && !is_left;
        let width: usize = width
            .trim_start_matches(|sign| "-0+ ".contains(sign))
            .parse()
            .unwrap_or(0)
            .min(1 << 16);
        let text = match kind {
            's' => word.chars().take(precision.unwrap_or(usize::MAX)).collect(),
            'b' => String::from_utf8_lossy(&unescaped(word)).into_owned(),
            'c' => word.chars().take(1).collect(),
            'd' | 'i' | 'u' => number(word)?.to_string(),
            'x' => format!("{:x}", number(word)?),
            'X' => format!("{:X}", number(word)?),
            'o' => format!("{:o}", number(word)?),
            'f' => {
                let value: f64 = match word {
                    "" => 0.0,
                    _ => word.parse().with_context(|| format!("{word:?}"))?,
                };
                format!("{value:.*}", precision.unwrap_or(6).min(300))
            }
            _ => return Err(misuse(format!("there is no format %{kind}"))),
        };
        let padded = match (is_left, has_zeros && kind != 's') {
            (true, _) => format!("{text:<width$}"),
            (false, true) => format!("{text:0>width$}"),
            (false, false) => format!("{text:>width$}"),
        };
        bytes.extend(padded.into_bytes());
    }
    bytes.extend(unescaped(rest));
    Ok(())
}

fn number(word: &str) -> Result<i64> {
    match word.trim() {
        "" => Ok(0),
        word => word
            .parse()
            .map_err(|_| anyhow::anyhow!("{word:?} is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn formats_are_filled() {
        let printed = |line: &str| String::from_utf8(printf(&words(line)).unwrap()).unwrap();
        assert_eq!(printed("%s-%d\\n a 1 b 2"), "a-1\nb-2\n");
        assert_eq!(
            printed("%5s|%-5s|%05d|%x|%.2f%% a b 42 255 1.5"),
            "    a|b    |00042|ff|1.50%"
        );
        assert_eq!(printed("plain a b"), "plain");
        for line in ["%d x", "%", "%z"] {
            assert!(printf(&words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(echo(&words("-e a\\tb\\x41\\0101\\q")), b"a\tbAA\\q\n");
        assert_eq!(echo(&words("-n a b")), b"a b");
        assert_eq!(echo(&words("-x a\\n")), b"-x a\\n\n");
    }
}
