//! Text of objects, containers and servers for a terminal: without characters that control the terminal, or
//! that change the direction of text.

use std::borrow::Cow;

/// The text with all such characters escaped (`\u{1b}`). Line ends and tabs stay, and one carriage return
/// before the end of a line is removed.
pub fn plain(text: &str) -> Cow<'_, str> {
    written_out(text, Colours::WrittenOut)
}

/// As [`plain`], but sequences that only colour text stay, for logs.
pub(crate) fn plain_but_coloured(text: &str) -> Cow<'_, str> {
    written_out(text, Colours::Retained)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    Retained,
    WrittenOut,
}

fn written_out(text: &str, colours: Colours) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = match colours {
            Colours::Retained => colour_length(rest),
            Colours::WrittenOut => 0,
        };
        let length = match colour {
            0 => character.len_utf8(),
            length => length,
        };
        let (now, later) = rest.split_at(length);
        match character {
            _ if colour > 0 => plain.push_str(now),
            '\r' if later.starts_with('\n') || later.is_empty() => {}
            _ if is_active(character) => {
                cov_mark::hit!(findings_2_s41);
                plain.extend(character.escape_unicode());
            }
            _ => plain.push(character),
        }
        rest = later;
    }
    Cow::Owned(plain)
}

/// Whether a terminal acts on a character instead of printing it.
fn is_active(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        // Marks, embeddings, overrides and isolates of the direction of text; line separators; the byte order
        // mark.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        '\u{2028}' | '\u{2029}' | '\u{feff}' => true,
        _ => character.is_control(),
    }
}

/// The length of a sequence at the start of a text that selects colours and weights (SGR); zero if there is
/// no such sequence.
fn colour_length(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    let end = parameters.find(|one: char| !one.is_ascii_digit() && one != ';');
    match end {
        Some(end) if parameters[end..].starts_with('m') => 2 + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S41
    #[test]
    fn no_character_of_a_text_controls_the_terminal() {
        cov_mark::check!(findings_2_s41);
        for (text, printed) in [
            ("web-0\tRunning\nü — 日本\n", "web-0\tRunning\nü — 日本\n"),
            ("a line of DOS\r\n", "a line of DOS\n"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}[2J\u{1b}[31mred", "\\u{1b}[2J\\u{1b}[31mred"),
            ("over\rwritten", "over\\u{d}written"),
            ("\u{9b}2J\u{8}\u{7f}\0", "\\u{9b}2J\\u{8}\\u{7f}\\u{0}"),
            ("user\u{202e}nimda\u{2066}", "user\\u{202e}nimda\\u{2066}"),
        ] {
            assert_eq!(plain(text), printed);
        }
        for number in 0..0x3000 {
            let Some(character) = char::from_u32(number) else {
                continue;
            };
            let text = format!("a{character}b");
            let printed = plain(&text);
            let is_text = matches!(character, '\n' | '\t') || !character.is_control();
            assert!(is_text || !printed.contains(character), "{number:x}");
        }
    }

    /// findings-2 S41
    #[test]
    fn the_log_keeps_its_colours_and_nothing_else() {
        assert_eq!(
            plain_but_coloured("\u{1b}[1;31mERROR\u{1b}[0m \u{1b}[2J\u{1b}]8;;x\u{7}\u{1b}["),
            "\u{1b}[1;31mERROR\u{1b}[0m \\u{1b}[2J\\u{1b}]8;;x\\u{7}\\u{1b}["
        );
    }
}
