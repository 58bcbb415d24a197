//! A terminal: the visible output of a program.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a shell command in a pseudo terminal of that size; `typescript` receives the output.
pub fn in_terminal(command: &str, columns: usize, rows: usize, typescript: &Path) -> Command {
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--flush", "--return", "--command"])
        .arg(format!("stty cols {columns} rows {rows}; exec {command}"))
        .arg(typescript)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    script
}

/// The lines of a terminal of that width, including the lines that scrolled out at the top.
///
/// The emulation supports the sequences that mainstay writes: text, new lines, moves upwards, and clearing from the
/// cursor on. Moves upwards end at the top of the screen.
///
/// # Panics
///
/// The output contains another sequence.
pub fn visible_lines(written: &str, columns: usize, rows: usize) -> Vec<String> {
    let mut screen = Screen {
        lines: vec![Vec::new()],
        row: 0,
        column: 0,
        size: (columns, rows),
    };
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => screen.column = 0,
            '\n' => screen.next_line(),
            '\x1b' => screen.control(&mut characters),
            other if other.is_control() => {}
            other => screen.put(other),
        }
    }
    let lines = screen.lines.into_iter();
    lines.map(|line| line.into_iter().collect()).collect()
}

struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    size: (usize, usize),
}

impl Screen {
    fn next_line(&mut self) {
        self.row += 1;
        self.column = 0;
        if self.row == self.lines.len() {
            self.lines.push(Vec::new());
        }
    }

    fn put(&mut self, character: char) {
        if self.column == self.size.0 {
            self.next_line();
        }
        let line = &mut self.lines[self.row];
        line.resize(line.len().max(self.column + 1), ' ');
        line[self.column] = character;
        self.column += 1;
    }

    fn control(&mut self, rest: &mut std::str::Chars<'_>) {
        assert_eq!(rest.next(), Some('['), "a control sequence");
        let mut number = String::new();
        let end = loop {
            match rest.next().expect("the end of a control sequence") {
                part if part.is_ascii_digit() || part == ';' => number.push(part),
                end => break end,
            }
        };
        match end {
            'A' => {
                let top = self.lines.len().saturating_sub(self.size.1);
                let up = number.parse().unwrap_or(1);
                self.row = self.row.saturating_sub(up).max(top);
            }
            'J' => {
                self.lines.truncate(self.row + 1);
                self.lines[self.row].truncate(self.column);
            }
            // Colours.
            'm' => {}
            other => panic!("an unknown control sequence: {number}{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_what_was_written_last() {
        assert_eq!(visible_lines("one\r\ntwo\r\n", 80, 24), ["one", "two", ""]);
        assert_eq!(visible_lines("abcdef", 4, 24), ["abcd", "ef"]);
        let redrawn = "log\r\na\r\nb\r\n\r\x1b[2A\x1b[Jc\r\n";
        assert_eq!(visible_lines(redrawn, 80, 24), ["log", "c", ""]);
        // Lines that have scrolled out at the top do not change.
        let low = "1\r\n2\r\n3\r\n4\r\n\r\x1b[9A\x1b[Jx";
        assert_eq!(visible_lines(low, 80, 3), ["1", "2", "x"]);
    }
}
