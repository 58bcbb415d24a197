//! All output to the terminal. Errors of standard output and standard error are ignored, because
//! the reader may be gone (a closed pipe or terminal), which is no reason to fail, least of all
//! during a shutdown. `print!` and similar macros panic on them; the crate denies them.
//!
//! On a terminal, some lines can stay at the bottom: other output, the log included, appears above
//! them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::plain::{plain, plain_but_coloured};
use crate::terminal::{self, Size};

/// The format of a command's answer.
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

/// A line on standard output.
pub fn say(text: &str) {
    Foot::lock().above(&mut io::stdout().lock(), &[&plain(text), "\n"]);
}

/// A line of a container's log on standard output, after a prefix of this program. It may colour itself on a terminal;
/// other programs get it as it is.
pub fn say_log_line(prefix: Prefix<'_>, line: &[u8]) {
    let foot = Foot::lock();
    let mut to = io::stdout().lock();
    if to.is_terminal() {
        foot.above(&mut to, &[&shown_line(prefix, line)]);
    } else {
        let line = [prefix.text.as_bytes(), line, b"\n"].concat();
        to.write_all(&line).and_then(|()| to.flush()).ok();
    }
}

/// A log line as a terminal gets it; its colours end with it.
fn shown_line(prefix: Prefix<'_>, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = plain_but_coloured(&line);
    let end = if line.contains('\x1b') {
        "\x1b[0m\n"
    } else {
        "\n"
    };
    [prefix.shown().as_str(), &line, end].concat()
}

/// The text in front of the lines of one of several logs.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// The text itself.
    pub text: &'a str,
    /// The number of its colour on a terminal, if it has one.
    pub colour: Option<u8>,
}

impl Prefix<'_> {
    fn shown(self) -> String {
        let text = plain(self.text);
        match self.colour {
            Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m"),
            None => text.into_owned(),
        }
    }
}

/// Prints text to standard output.
pub fn show(text: &str) {
    Foot::lock().above(&mut io::stdout().lock(), &[&plain(text)]);
}

/// A line on standard error.
pub fn warn(text: &str) {
    Foot::lock().above_on_error(&[&plain(text), "\n"]);
}

/// Keeps these lines at the bottom of the terminal, in place of the previous ones; each must fit
/// into the terminal's width, and all into its height.
pub fn keep_at_foot(size: Size, lines: Vec<String>) {
    let lines = lines.iter().map(|line| plain(line).into_owned());
    Foot::lock().exchange(&mut io::stdout().lock(), size, lines.collect());
}

/// Releases the lines at the bottom: later output follows below them.
pub fn leave_foot() {
    Foot::lock().lines = Vec::new();
}

/// Lines at the foot of the terminal.
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

    /// Standard error may be a file, or the same terminal.
    fn above_on_error(&self, parts: &[&str]) {
        if io::stderr().is_terminal() {
            self.above(&mut io::stderr().lock(), parts);
        } else {
            write(&mut io::stderr().lock(), parts);
        }
    }

    fn exchange(&mut self, to: &mut dyn Write, size: Size, lines: Vec<String>) {
        // A narrower terminal may have wrapped the old lines, and their number is unknown: the new
        // ones start below.
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

/// The output of the log: standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Log {
    /// Whether standard error is a terminal.
    pub fn is_terminal() -> bool {
        io::stderr().is_terminal()
    }
}

impl Write for Log {
    /// Takes a whole message: that is how `tracing-subscriber` writes.
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
            shown_line(prefix, b"\x1b[31mno\x1b]0;title\x07 disk"),
            "\x1b[33mweb-0 | \x1b[0m\x1b[31mno\\u{1b}]0;title\\u{7} disk\x1b[0m\n"
        );
        let plain = Prefix {
            colour: None,
            ..prefix
        };
        assert_eq!(shown_line(plain, b"yes\r"), "web-0 | yes\n");
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
        let mut shown = |foot: &mut Foot, act: &dyn Fn(&mut Foot, &mut Vec<u8>)| {
            act(foot, &mut screen);
            String::from_utf8(std::mem::take(&mut screen)).unwrap()
        };
        let lines = || vec!["web: 0/1".to_owned(), "  web-0".to_owned()];
        let text = shown(&mut foot, &|foot, screen| {
            foot.above(screen, &["one", "\n"])
        });
        assert_eq!(text, "one\n");
        let text = shown(&mut foot, &|foot, screen| {
            foot.exchange(screen, wide, lines())
        });
        assert_eq!(text, "web: 0/1\n  web-0\n");
        let text = shown(&mut foot, &|foot, screen| foot.above(screen, &["two"]));
        assert_eq!(text, "\r\x1b[2A\x1b[Jtwo\nweb: 0/1\n  web-0\n");
        let text = shown(&mut foot, &|foot, screen| {
            foot.exchange(screen, wide, lines())
        });
        assert_eq!(text, "\r\x1b[2A\x1b[Jweb: 0/1\n  web-0\n");
        let text = shown(&mut foot, &|foot, screen| {
            foot.exchange(screen, narrow, lines())
        });
        assert_eq!(text, "web: 0/1\n  web-0\n");
    }
}
