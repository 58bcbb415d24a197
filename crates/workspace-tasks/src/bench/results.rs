//! The results of benchmarks on this machine: a file with a line for each value, the newest last.
//!
//! A benchmark prints lines `label: value unit, other value unit`, or a heading with more indented lines
//! below it. The name of a value consists of its headings and of the words around it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// The values of the lines of one benchmark.
pub(super) struct Values {
    benchmark: &'static str,
    /// The labels of the headings, each with its indentation.
    headings: Vec<(usize, String)>,
}

impl Values {
    pub(super) fn of(benchmark: &'static str) -> Self {
        Self {
            benchmark,
            headings: Vec::new(),
        }
    }

    /// The values of a line with their names. Times are in seconds.
    pub(super) fn read(&mut self, line: &str) -> Vec<(String, f64)> {
        let text = line.trim_start();
        let indentation = line.len() - text.len();
        let (label, values) = text.split_once(": ").unwrap_or((text, ""));
        self.headings.retain(|(above, _)| *above < indentation);
        self.headings.push((indentation, label.trim().to_owned()));
        let headings: Vec<&str> = self
            .headings
            .iter()
            .map(|(_, text)| text.as_str())
            .collect();
        let prefix = format!("{}: {}", self.benchmark, headings.join(": "));
        let parts = values.split([';', ',']);
        // A comma inside of a number separates thousands.
        let mut joined: Vec<String> = Vec::new();
        for part in parts {
            match joined.last_mut() {
                Some(last) if !part.starts_with(' ') => last.push_str(part),
                _ => joined.push(part.trim().to_owned()),
            }
        }
        let parsed = joined.iter().filter_map(|part| value_of(part));
        parsed
            .map(|(words, value)| (format!("{prefix}: {words}"), value))
            .collect()
    }
}

/// The first value of a text, and the words around it. A range in parentheses after a value is ignored.
fn value_of(text: &str) -> Option<(String, f64)> {
    let text = text.split_once(" (").map_or(text, |(text, _)| text);
    let mut before = ' ';
    let start = text.find(|letter: char| {
        // A digit after a letter is a part of a word.
        let is_part = std::mem::replace(&mut before, letter).is_alphanumeric();
        letter.is_ascii_digit() && !is_part
    })?;
    let rest = &text[start..];
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let number: f64 = number.parse().ok()?;
    let rest = rest.trim_start();
    let end = rest.find(|letter: char| !letter.is_alphabetic());
    let (unit, behind) = rest.split_at(end.unwrap_or(rest.len()));
    if unit.is_empty() && behind.starts_with('%') {
        return None;
    }
    let (unit, seconds) = match unit {
        "ns" => ("s", 1e-9),
        "µs" => ("s", 1e-6),
        "ms" => ("s", 1e-3),
        other => (other, 1.0),
    };
    let words = format!("{}# {unit}{behind}", &text[..start]);
    Some((words.trim_end().to_owned(), number * seconds))
}

/// The results of a machine.
pub(super) struct Results {
    file: PathBuf,
    /// The newest values before this run.
    last: BTreeMap<String, f64>,
    new: Vec<(String, f64)>,
    commit: String,
}

impl Results {
    /// The results of this machine, in `.benchmarks` of the workspace. Results of small runs have a separate
    /// file.
    pub(super) fn of_machine(root: &Path, is_small: bool) -> Result<Self> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let suffix = if is_small { "-small" } else { "" };
        let name = format!("{}-{processors}{suffix}.tsv", host.trim());
        Self::read(root.join(".benchmarks").join(name), commit(root))
    }

    fn read(file: PathBuf, commit: String) -> Result<Self> {
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("read {}", file.display()))?,
        };
        let values = text.lines().filter_map(|line| {
            let mut columns = line.split('\t').skip(2);
            let (name, value) = (columns.next()?, columns.next()?);
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(Self {
            last: values.collect(),
            file,
            new: Vec::new(),
            commit,
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Adds a value; returns its ratio to the previous value of the name.
    pub(super) fn add(&mut self, name: String, value: f64) -> Option<f64> {
        let last = self.last.get(&name).copied();
        self.new.push((name, value));
        last.filter(|last| *last != 0.0).map(|last| value / last)
    }

    /// Appends the new values to the file: time, commit, name, value.
    pub(super) fn save(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let mut text = String::new();
        for (name, value) in &self.new {
            writeln!(text, "{now}\t{}\t{name}\t{value}", self.commit)?;
        }
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)
            .with_context(|| format!("open {}", self.file.display()))?;
        file.write_all(text.as_bytes())?;
        Ok(())
    }
}

/// The measured commit, with a mark if files have changed since the commit.
fn commit(root: &Path) -> String {
    let git = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").current_dir(root).args(git).output();
    let output = output.ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_names_of_their_lines() {
        let mut values = Values::of("b");
        let mut read = |line: &str| {
            let values_text = values.read(line).into_iter();
            let values_text = values_text.map(|(name, value)| format!("{name} = {value:.6}"));
            values_text.collect::<Vec<_>>()
        };
        assert_eq!(
            read("create a pod: 190.5µs, p99 2.0ms"),
            [
                "b: create a pod: # s = 0.000190",
                "b: create a pod: p99 # s = 0.002000"
            ]
        );
        assert_eq!(read("10 idle pods"), [""; 0]);
        assert_eq!(
            read("  a shim: resident 5.0 MiB (4.8–5.1), its own 0.29 MiB"),
            [
                "b: 10 idle pods: a shim: resident # MiB = 5.000000",
                "b: 10 idle pods: a shim: its own # MiB = 0.290000",
            ]
        );
        assert_eq!(
            read("    against runc: 1.25"),
            ["b: 10 idle pods: a shim: against runc: # = 1.250000"]
        );
        assert_eq!(
            read("bytes: 18,800 per second; 3 s of processor per minute"),
            [
                "b: bytes: # per second = 18800.000000",
                "b: bytes: # s of processor per minute = 3.000000"
            ]
        );
        assert_eq!(
            read("reads: 50 %: 110, most: 114 ms"),
            ["b: reads: most: # s = 0.114000"]
        );
        assert_eq!(read(""), [""; 0]);
        assert_eq!(read("nothing: none"), [""; 0]);
    }

    #[test]
    fn a_value_is_compared_with_the_last_one() {
        let folder = std::env::temp_dir().join(format!("mainstay-results-{}", std::process::id()));
        let file = folder.join("machine.tsv");
        let run = |value: f64| {
            let mut results = Results::read(file.clone(), "c".to_owned()).unwrap();
            let ratio = results.add("b: a".to_owned(), value);
            results.save().unwrap();
            ratio
        };
        let ratios = [run(2.0), run(3.0), run(6.0)];
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(ratios, [None, Some(1.5), Some(2.0)]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("\tc\tb: a\t6\n"), "{text}");
    }
}
