//! Container logs on disk, in the CRI format: `<time> <stdout|stderr> <F|P> <text>`, one line each;
//! `P` marks a partial line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::spec::LogSpec;

/// Maximum length of an entry. Longer lines are split, as in other runtimes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The stream of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The log of one container.
#[derive(Debug)]
pub(crate) struct Log {
    spec: LogSpec,
    file: Option<File>,
    bytes: u64,
    // The unfinished line of each stream.
    partial: [Vec<u8>; 2],
}

impl Log {
    pub fn open(spec: LogSpec) -> io::Result<Log> {
        let mut log = Log {
            spec,
            file: None,
            bytes: 0,
            partial: [Vec::new(), Vec::new()],
        };
        log.reopen()?;
        Ok(log)
    }

    /// Reopens the file by its name.
    pub fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.spec.path else {
            return Ok(());
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes output.
    ///
    /// If the disk is full, lines are lost, but the container never stops: the log continues with the next
    /// successful write.
    pub fn write(&mut self, stream: Stream, data: &[u8], now: Timestamp) {
        if self.spec.path.is_none() {
            return;
        }
        let mut entries = Vec::with_capacity(data.len() + 64);
        let partial = &mut self.partial[stream as usize];
        format_lines(stream, data, now, partial, &mut entries);
        self.append(&entries);
    }

    /// Writes the rest of an unfinished last line, marked as partial. Readers then add no newline, as with
    /// containerd.
    pub fn finish(&mut self, stream: Stream, now: Timestamp) {
        let rest = std::mem::take(&mut self.partial[stream as usize]);
        if !rest.is_empty() {
            let mut entry = Vec::with_capacity(rest.len() + 64);
            push_entry(stream, b'P', &rest, now, &mut entry);
            self.append(&entry);
        }
    }

    fn append(&mut self, entries: &[u8]) {
        let too_big = self.bytes + entries.len() as u64 > self.spec.file_bytes_max;
        if too_big && self.bytes > 0 {
            self.rotate();
        }
        let Some(file) = &mut self.file else { return };
        // Lost lines are not counted, because the count could not be stored on the full disk either.
        if file.write_all(entries).is_ok() {
            self.bytes += entries.len() as u64;
        }
    }

    /// Renames `log` to `log.1`, `log.1` to `log.2` and so on. A file that cannot be renamed is
    /// overwritten, so that the space limit holds.
    fn rotate(&mut self) {
        let Some(path) = self.spec.path.clone() else {
            return;
        };
        let rotated_max = self.spec.files_max.saturating_sub(1);
        for number in (1..rotated_max).rev() {
            // A missing file is no error; any other error occurs again in the next step.
            fs::rename(rotated(&path, number), rotated(&path, number + 1)).ok();
        }
        let moved = rotated_max > 0 && fs::rename(&path, rotated(&path, 1)).is_ok();
        if !moved && let Some(file) = &self.file {
            file.set_len(0).ok();
        }
        // If the new file cannot be opened, writes continue in the old file.
        self.bytes = 0;
        self.reopen().ok();
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn format_lines(
    stream: Stream,
    mut data: &[u8],
    now: Timestamp,
    partial: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    while !data.is_empty() {
        let capacity = TEXT_BYTES_MAX - partial.len();
        let window = &data[..data.len().min(capacity)];
        match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                partial.extend_from_slice(&window[..end]);
                push_entry(stream, b'F', partial, now, out);
                partial.clear();
                data = &data[end + 1..];
            }
            None => {
                partial.extend_from_slice(window);
                data = &data[window.len()..];
                // The entry is full, and the next byte is not the end of the line.
                if partial.len() == TEXT_BYTES_MAX && data.first() != Some(&b'\n') {
                    push_entry(stream, b'P', partial, now, out);
                    partial.clear();
                } else if partial.len() == TEXT_BYTES_MAX {
                    push_entry(stream, b'F', partial, now, out);
                    partial.clear();
                    data = &data[1..];
                }
            }
        }
    }
    // Releases a large buffer, because an unfinished line must not hold more memory than it needs.
    if partial.is_empty() && partial.capacity() > 1024 {
        *partial = Vec::new();
    }
}

fn push_entry(stream: Stream, tag: u8, text: &[u8], now: Timestamp, out: &mut Vec<u8>) {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    // A write to memory cannot fail.
    write!(out, "{now:.9} {name} {} ", char::from(tag)).ok();
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2024-05-01T10:00:00.000000001Z".parse().unwrap()
    }

    fn formatted(chunks: &[&[u8]]) -> (String, Vec<u8>) {
        let (mut partial, mut out) = (Vec::new(), Vec::new());
        for chunk in chunks {
            format_lines(Stream::Stdout, chunk, now(), &mut partial, &mut out);
        }
        (String::from_utf8(out).unwrap(), partial)
    }

    #[test]
    fn lines_become_entries_however_they_arrive() {
        let (out, partial) = formatted(&[b"one\ntw", b"o\n", b"\nthr"]);
        let time = "2024-05-01T10:00:00.000000001Z";
        assert_eq!(
            out,
            format!("{time} stdout F one\n{time} stdout F two\n{time} stdout F \n")
        );
        assert_eq!(partial, b"thr");
    }

    #[test]
    fn long_lines_are_cut_and_marked() {
        let mut line = vec![b'x'; TEXT_BYTES_MAX + 3];
        line.push(b'\n');
        let (out, _) = formatted(&[&line]);
        let tags: Vec<_> = out
            .lines()
            .map(|line| line.split(' ').nth(2).unwrap())
            .collect();
        assert_eq!(tags, ["P", "F"]);
        let mut exact = vec![b'x'; TEXT_BYTES_MAX];
        exact.push(b'\n');
        assert_eq!(formatted(&[&exact]).0.lines().count(), 1);
    }

    #[test]
    fn a_last_line_without_an_end_stays_one() {
        let dir = std::env::temp_dir().join(format!("log-end-{}", std::process::id()));
        let path = dir.join("0.log");
        let spec = LogSpec {
            path: Some(path.clone()),
            file_bytes_max: 1000,
            files_max: 1,
        };
        let mut log = Log::open(spec).unwrap();
        log.write(Stream::Stdout, b"one\nDONE", now());
        log.finish(Stream::Stdout, now());
        let text = fs::read_to_string(&path).unwrap();
        let ends: Vec<_> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(ends, ["stdout F one", "stdout P DONE"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn rotation_keeps_the_asked_number_of_files() {
        let dir = std::env::temp_dir().join(format!("log-rotation-{}", std::process::id()));
        let path = dir.join("0.log");
        let spec = LogSpec {
            path: Some(path.clone()),
            file_bytes_max: 100,
            files_max: 3,
        };
        let mut log = Log::open(spec).unwrap();
        for number in 0..10 {
            log.write(
                Stream::Stderr,
                format!("line {number:020}\n").as_bytes(),
                now(),
            );
        }
        let mut names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains(&format!("{:020}", 9))
        );
        assert!(fs::metadata(&path).unwrap().len() <= 100);
        fs::remove_dir_all(&dir).unwrap();
    }
}
