//! The size of the terminal, and the escape sequences that keep lines at its bottom while other output
//! scrolls above them.

use std::io::IsTerminal;

/// The default size for a terminal that does not report one.
const DEFAULT: Size = Size {
    width: 80,
    height: 24,
};

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

/// The size of the terminal of standard output. `None` for a pipe, a file, and a terminal without
/// cursor movement.
pub fn size() -> Option<Size> {
    let output = std::io::stdout();
    if !output.is_terminal() || is_dumb(std::env::var("TERM").ok().as_deref()) {
        return None;
    }
    let reported = rustix::termios::tcgetwinsize(&output).ok();
    Some(reported.map_or(DEFAULT, |reported| {
        or_default(usize::from(reported.ws_col), usize::from(reported.ws_row))
    }))
}

fn is_dumb(kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| kind.is_empty() || kind == "dumb")
}

/// Serial lines and new pseudo terminals report 0.
fn or_default(width: usize, height: usize) -> Size {
    Size {
        width: if width == 0 { DEFAULT.width } else { width },
        height: if height == 0 { DEFAULT.height } else { height },
    }
}

/// A line cut to a width, without characters that would move the cursor.
pub fn clip(line: &str, width: usize) -> String {
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= width {
        return line;
    }
    cov_mark::hit!(findings_u4);
    let fitting: String = line.chars().take(width.saturating_sub(1)).collect();
    match width {
        0 => String::new(),
        _ => format!("{}…", fitting.trim_end()),
    }
}

/// Moves the cursor up by this many lines, and clears the screen below the cursor.
pub fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\r\x1b[{lines}A\x1b[J"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings U4: a longer line would continue in the next one, and the table would lose its place.
    #[test]
    fn a_line_fits_into_the_width() {
        cov_mark::check!(findings_u4);
        assert_eq!(clip("web-0 Running", 80), "web-0 Running");
        assert_eq!(clip("web-0 Running", 13), "web-0 Running");
        assert_eq!(clip("web-0 Running", 12), "web-0 Runni…");
        assert_eq!(clip("web-0 Running", 7), "web-0…");
        assert_eq!(clip("web", 1), "…");
        assert_eq!(clip("web", 0), "");
        assert_eq!(clip("a\nb\x1b[2Jc\td", 80), "ab[2Jcd");
    }

    #[test]
    fn a_terminal_that_says_nothing_has_the_usual_size() {
        assert_eq!(or_default(0, 0), DEFAULT);
        let small = or_default(30, 5);
        assert_eq!((small.width, small.height), (30, 5));
        assert!(is_dumb(Some("dumb")) && is_dumb(None) && !is_dumb(Some("xterm")));
    }

    #[test]
    fn nothing_is_erased_where_nothing_was_shown() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(3), "\r\x1b[3A\x1b[J");
    }
}
