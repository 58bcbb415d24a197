//! The only place that prints. Nobody may be reading any more (a pipe whose reader has ended, a
//! closed terminal): that is no reason to fail, least of all in the middle of a shutdown, so errors
//! of standard output and standard error are ignored here. `print!` and its like panic on them; the
//! crate denies them.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::fmt::MakeWriter;

/// A line on standard output.
pub fn say(text: &str) {
    write(&mut io::stdout().lock(), &[text, "\n"]);
}

/// Text on standard output, as it is.
pub fn show(text: &str) {
    write(&mut io::stdout().lock(), &[text]);
}

/// A line on standard error.
pub fn warn(text: &str) {
    write(&mut io::stderr().lock(), &[text, "\n"]);
}

fn write(to: &mut dyn Write, parts: &[&str]) {
    let written = parts.iter().try_for_each(|part| {
        to.write_all(part.as_bytes())?;
        to.flush()
    });
    written.ok();
}

/// Where the log goes: to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Log {
    /// Whether it goes to a terminal.
    pub fn is_terminal() -> bool {
        io::stderr().is_terminal()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Tolerant(io::stderr().lock()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Tolerant(io::stderr().lock()).flush()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// A writer that takes everything, whatever becomes of it.
struct Tolerant<W>(W);

impl<W: Write> Write for Tolerant<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader has ended.
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
    /// panics on the same standard error.
    #[test]
    fn a_reader_that_has_ended_is_no_error() {
        write(&mut Closed, &["text", "\n"]);
        let mut log = Tolerant(Closed);
        assert!(matches!(log.write(b"text"), Ok(4)));
        log.flush().unwrap();
    }
}
