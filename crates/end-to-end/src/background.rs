//! Programs that run concurrently with the test.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};

use crate::{wait_for, wait_for_text};

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct BackgroundProgram {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl BackgroundProgram {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a file for the output");
        let log = File::create(output.path()).expect("open the output");
        let child = command.stdout(log).spawn().expect("start a program");
        Self { child, output }
    }

    /// The option of kubectl that logs each request with its response to standard error.
    pub(crate) const LOGS_REQUESTS: &str = "-v=6";

    /// Starts a watch of kubectl that logs its requests, and waits until the server has responded: from then on no
    /// event is missed.
    #[track_caller]
    pub(crate) fn watch(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file for the log");
        command.stderr(File::create(log.path()).expect("open the log"));
        let watch = Self::start(command);
        wait_for_text("watch=true", 60, || read(log.path()));
        watch
    }

    /// Whether the program has exited by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The output so far.
    pub fn output(&self) -> String {
        read(self.output.path())
    }

    /// The first words of each line: `web-0 0/1 Pending`.
    pub fn rows(&self, columns: usize) -> Vec<String> {
        let output = self.output();
        let words = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().take(columns).collect();
            words.join(" ")
        };
        output.lines().map(words).collect()
    }

    /// Checks that a watch of pods printed these rows of name, containers and state in this order; other rows may be in
    /// between.
    ///
    /// # Panics
    ///
    /// A row is missing or out of order.
    #[track_caller]
    pub fn check_row_order<T: AsRef<str>>(&self, expected: &[T]) {
        let rows = self.rows(3);
        let mut rest = rows.iter();
        for row in expected.iter().map(AsRef::as_ref) {
            let is_present = rest.any(|printed| printed == row);
            assert!(
                is_present,
                "{row:?} is missing or out of order in {rows:#?}"
            );
        }
    }

    /// Waits until a watch of pods has printed a row.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_row(&self, row: &str) {
        wait_for(row, 90, || {
            let rows = self.rows(3);
            let is_printed = rows.iter().any(|is_printed| is_printed == row);
            if is_printed { Ok(()) } else { Err(rows) }
        });
    }

    /// Waits until the last printed row of a watch of pods is this row.
    ///
    /// # Panics
    ///
    /// The wait takes too long.
    #[track_caller]
    pub fn wait_last_row(&self, row: &str) {
        wait_for(&format!("{row} at the end"), 60, || {
            let rows = self.rows(3);
            let is_last = rows.last().is_some_and(|last| last == row);
            if is_last { Ok(()) } else { Err(rows) }
        });
    }
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for BackgroundProgram {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
