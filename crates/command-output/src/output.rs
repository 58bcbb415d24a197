//! All output to the terminal. Errors of standard output and standard error are ignored, because a closed
//! pipe or terminal is no reason to fail, least of all during a shutdown. `print!` and similar macros panic
//! on such errors; the crate denies them.
//!
//! On a terminal, some lines can stay at the bottom: other output, the log included, appears above them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::plain::{plain, plain_but_coloured};
use crate::terminal::{self, Size};

/// The format of a command's output.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    Text,
    Json,
}

/// The lines at the bottom of the terminal.
static FOOT: Mutex<Foot> = Mutex::new(Foot {
    lines: Vec::new(),
    width: 0,
});

/// Prints a line to standard output.
pub fn print_line(text: &str) {
    Foot::lock().above(&mut io::stdout().lock(), &[&plain(text), "\n"]);
}

/// Prints a line of a container's log to standard output, after a prefix of this program. On a terminal, only
/// escape sequences for colours are kept; a pipe or file gets the unchanged bytes.
pub fn print_log_line(prefix: Prefix<'_>, line: &[u8]) {
    let foot = Foot::lock();
    let mut to = io::stdout().lock();
    if to.is_terminal() {
        foot.above(&mut to, &[&terminal_line(prefix, line)]);
    } else {
        let line = [prefix.text.as_bytes(), line, b"\n"].concat();
        to.write_all(&line).and_then(|()| to.flush()).ok();
    }
}

/// A log line for a terminal; its colours are reset at its end.
fn terminal_line(prefix: Prefix<'_>, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = plain_but_coloured(&line);
    let end = if line.contains('\x1b') {
        "\x1b[0m\n"
    } else {
        "\n"
    };
    [prefix.coloured().as_str(), &line, end].concat()
}

/// The prefix of a line when several logs are printed.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    pub text: &'a str,
    /// The number of the prefix's colour on a terminal.
    pub colour: Option<u8>,
}

impl Prefix<'_> {
    fn coloured(self) -> String {
        let text = plain(self.text);
        match self.colour {
            Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m"),
            None => text.into_owned(),
        }
    }
}

/// Prints text to standard output.
pub fn print_text(text: &str) {
    Foot::lock().above(&mut io::stdout().lock(), &[&plain(text)]);
}

/// Prints a line to standard error.
pub fn warn(text: &str) {
    Foot::lock().above_on_error(&[&plain(text), "\n"]);
}

/// Shows these lines at the bottom of the terminal, in place of the previous lines; each must fit into the
/// width of the terminal, and all together into its height.
pub fn keep_at_foot(size: Size, lines: Vec<String>) {
    let lines = lines.iter().map(|line| plain(line).into_owned());
    Foot::lock().exchange(&mut io::stdout().lock(), size, lines.collect());
}

/// Leaves the lines at the bottom as normal output: later output follows below them.
pub fn leave_foot() {
    Foot::lock().lines = Vec::new();
}

/// The lines at the bottom of the terminal.
struct Foot {
    lines: Vec<String>,
    width: usize,
}

impl Foot {
    fn lock() -> MutexGuard<'static, Self> {
        FOOT.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn above(&self, to: &mut dyn Write, parts: &[&str]) {
        if self.lines.is_empty() {
            return write(to, parts);
        }
        let text = parts.concat();
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let erased = terminal::erase(self.lines.len());
        write(to, &[&[&erased, &text, end, &self.text()].concat()]);
    }

    /// Prints to standard error, which may be a file, or the terminal with the lines at the bottom.
    fn above_on_error(&self, parts: &[&str]) {
        if io::stderr().is_terminal() {
            self.above(&mut io::stderr().lock(), parts);
        } else {
            write(&mut io::stderr().lock(), parts);
        }
    }

    fn exchange(&mut self, to: &mut dyn Write, size: Size, lines: Vec<String>) {
        // A terminal that became narrower may have wrapped the old lines to an unknown number of rows, so the
        // new lines start below.
        let erased = match size.width < self.width {
            true => String::new(),
            false => terminal::erase(self.lines.len()),
        };
        *self = Self {
            lines,
            width: size.width,
        };
        write(to, &[&[erased, self.text()].concat()]);
    }
}

fn write(to: &mut dyn Write, parts: &[&str]) {
    let written = parts.iter().try_for_each(|part| {
        to.write_all(part.as_bytes())?;
        to.flush()
    });
    written.ok();
}

/// The destination of the log: standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Log {
    /// Whether standard error is a terminal.
    pub fn is_terminal() -> bool {
        io::stderr().is_terminal()
    }
}

impl Write for Log {
    /// Must receive a whole message, as `tracing-subscriber` writes it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Foot::lock().above_on_error(&[&plain_but_coloured(&String::from_utf8_lossy(bytes))]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A closed pipe.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Findings R6: `tracing-subscriber` reports an error of its writer with `eprintln!`, which
    /// panics if standard error is closed.
    #[test]
    fn a_reader_that_has_ended_is_no_error() {
        write(&mut Closed, &["text", "\n"]);
        assert!(matches!(Log.write(b"a line for the log\n"), Ok(19)));
        Log.flush().unwrap();
    }

    /// findings-2 S41
    #[test]
    fn a_log_line_colours_itself_and_no_other_line() {
        let prefix = Prefix {
            text: "web-0 | ",
            colour: Some(33),
        };
        assert_eq!(
            terminal_line(prefix, b"\x1b[31mno\x1b]0;title\x07 disk"),
            "\x1b[33mweb-0 | \x1b[0m\x1b[31mno\\u{1b}]0;title\\u{7} disk\x1b[0m\n"
        );
        let plain = Prefix {
            colour: None,
            ..prefix
        };
        assert_eq!(terminal_line(plain, b"yes\r"), "web-0 | yes\n");
    }

    /// Findings U4: the log and the table do not garble each other.
    #[test]
    fn what_is_printed_goes_above_what_stays_at_the_foot() {
        let mut screen = Vec::new();
        let wide = Size {
            width: 80,
            height: 24,
        };
        let narrow = Size {
            width: 20,
            height: 24,
        };
        let mut foot = Foot {
            lines: Vec::new(),
            width: 0,
        };
        let mut coloured = |foot: &mut Foot, act: &dyn Fn(&mut Foot, &mut Vec<u8>)| {
            act(foot, &mut screen);
            String::from_utf8(std::mem::take(&mut screen)).unwrap()
        };
        let lines = || vec!["web: 0/1".to_owned(), "  web-0".to_owned()];
        let text = coloured(&mut foot, &|foot, screen| {
            foot.above(screen, &["one", "\n"])
        });
        assert_eq!(text, "one\n");
        let text = coloured(&mut foot, &|foot, screen| {
            foot.exchange(screen, wide, lines())
        });
        assert_eq!(text, "web: 0/1\n  web-0\n");
        let text = coloured(&mut foot, &|foot, screen| foot.above(screen, &["two"]));
        assert_eq!(text, "\r\x1b[2A\x1b[Jtwo\nweb: 0/1\n  web-0\n");
        let text = coloured(&mut foot, &|foot, screen| {
            foot.exchange(screen, wide, lines())
        });
        assert_eq!(text, "\r\x1b[2A\x1b[Jweb: 0/1\n  web-0\n");
        let text = coloured(&mut foot, &|foot, screen| {
            foot.exchange(screen, narrow, lines())
        });
        assert_eq!(text, "web: 0/1\n  web-0\n");
    }
}
