//! The reader of container logs: CRI lines in rotated files.
//!
//! A line is `<time> <stream> <F|P> <text>`; `P` means that the text continues in the next line.
//! `<path>` is the current file; `<path>.1` is the newest rotated one.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use host_kernel::{blocking, blocking_value, tree};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::limits::LOG_FOLLOW_PERIOD;

/// The largest number of rotated files that are read.
const ROTATED_MAX: u32 = 100;
/// Bytes per read while the start of the last lines of a file is searched.
const TAIL_CHUNK: u64 = 64 * 1024;
/// Bytes that are collected before they are sent, because small chunks are slow.
const SEND_BYTES: usize = 32 * 1024;

/// The requested part of a log, and its format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogQuery {
    /// Whether the stream continues with new lines.
    pub follow: bool,
    /// Whether each line starts with its time.
    pub timestamps: bool,
    /// Lines before this time are left out; `None` for the whole log.
    pub since: Option<Timestamp>,
    /// The number of lines from the end of the log; `None` for all lines.
    pub tail_lines: Option<usize>,
    /// The largest number of bytes; `None` for no limit.
    pub limit_bytes: Option<usize>,
}

/// One line in the CRI format.
struct CriLine<'a> {
    time: &'a str,
    stream: &'a [u8],
    is_complete: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<CriLine<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let tag = parts.next()?;
    Some(CriLine {
        time,
        stream,
        is_complete: !tag.starts_with(b"P"),
        text: parts.next().unwrap_or_default(),
    })
}

/// Formats lines of a log as requested.
struct Formatter {
    query: LogQuery,
    /// The text of the last line's time.
    last_time: String,
    at_line_start: bool,
    remaining_bytes: Option<usize>,
}

impl Formatter {
    fn new(query: LogQuery) -> Self {
        let remaining_bytes = query.limit_bytes;
        Self {
            query,
            last_time: String::new(),
            at_line_start: true,
            remaining_bytes,
        }
    }

    /// Adds the requested part of a line to `out`; `false` when the response is complete.
    fn add(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(line) else { return true };
        if let Some(since) = self.query.since
            && line
                .time
                .parse::<Timestamp>()
                .is_ok_and(|time| time < since)
        {
            return true;
        }
        self.last_time.clear();
        self.last_time.push_str(line.time);
        let mut text = Vec::with_capacity(line.text.len() + 40);
        if self.query.timestamps && self.at_line_start {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if line.is_complete {
            text.push(b'\n');
        }
        self.at_line_start = line.is_complete;
        if let Some(remaining_bytes) = &mut self.remaining_bytes {
            text.truncate(*remaining_bytes);
            *remaining_bytes -= text.len();
        }
        out.extend_from_slice(&text);
        self.remaining_bytes != Some(0)
    }
}

/// The log's files, oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let rotated = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let mut files: Vec<PathBuf> = (1..ROTATED_MAX)
        .map(rotated)
        .take_while(|file| file.exists())
        .collect();
    files.reverse();
    files.push(path.to_path_buf());
    files
}

/// Deletes all files of a log.
pub fn remove(path: &Path) {
    for file in files(path) {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %file.display(), %error, "log not removed");
        }
    }
}

/// The offset of the last `lines` lines of a file, and the number of these lines.
fn tail_start(path: &Path, lines: usize) -> io::Result<(u64, usize)> {
    let mut file = tree::open_file(path)?;
    let size = file.metadata()?.len();
    let mut end = size;
    let mut line_feeds = 0;
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(TAIL_CHUNK);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        (&mut file).take(end - start).read_to_end(&mut buffer)?;
        for (index, byte) in buffer.iter().enumerate().rev() {
            let offset = start + index as u64;
            // The line feed at the end of the file ends the last line and starts no new line.
            if *byte == b'\n' && offset + 1 != size {
                line_feeds += 1;
                if line_feeds == lines {
                    return Ok((offset + 1, lines));
                }
            }
        }
        end = start;
    }
    Ok((0, if size == 0 { 0 } else { line_feeds + 1 }))
}

/// The files to read, and the start offset in the first file.
fn plan(path: &Path, tail: Option<usize>) -> (Vec<PathBuf>, u64) {
    let mut files = files(path);
    let Some(mut remaining_lines) = tail else {
        return (files, 0);
    };
    if remaining_lines == 0 {
        let end = fs::symlink_metadata(path).map_or(0, |meta| meta.len());
        return (vec![path.to_path_buf()], end);
    }
    let mut start = 0;
    let mut first_index = files.len();
    while first_index > 0 && remaining_lines > 0 {
        first_index -= 1;
        let (offset, lines) = tail_start(&files[first_index], remaining_lines).unwrap_or((0, 0));
        start = offset;
        remaining_lines -= lines.min(remaining_lines);
    }
    (files.split_off(first_index), start)
}

/// The last lines of a log, as text.
pub fn tail(path: &Path, lines: usize, bytes: u64) -> String {
    let (files, mut start) = plan(path, Some(lines));
    let mut formatter = Formatter::new(LogQuery::default());
    let mut out = Vec::new();
    for file in files {
        let content = read_whole(&file).unwrap_or_default();
        let offset = usize::try_from(start).unwrap_or(0).min(content.len());
        for line in content[offset..].split_inclusive(|byte| *byte == b'\n') {
            formatter.add(line, &mut out);
        }
        start = 0;
    }
    let cut = out
        .len()
        .saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    String::from_utf8_lossy(&out[cut..]).into_owned()
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tree::open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The output that a line of a log is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Calls `handle_line` with the time, the stream and the text of each of the last lines of a log, at most `bytes`
/// from the end. If the log was rotated, reads only the current file. Blocks.
pub fn each_line(
    path: &Path,
    bytes: u64,
    mut handle_line: impl FnMut(Timestamp, LogStream, Vec<u8>),
) {
    let Ok(mut file) = tree::open_file(path) else {
        return;
    };
    let size = file.metadata().map_or(0, |meta| meta.len());
    let start = size.saturating_sub(bytes);
    let mut content = Vec::new();
    let result = file
        .seek(SeekFrom::Start(start))
        .and_then(|_| file.take(bytes).read_to_end(&mut content));
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "log not read");
        return;
    }
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = parse(line) else { continue };
        let Ok(time) = line.time.parse() else {
            continue;
        };
        let stream = match line.stream {
            b"stderr" => LogStream::Stderr,
            _ => LogStream::Stdout,
        };
        let mut text = line.text.to_vec();
        if line.is_complete {
            text.push(b'\n');
        }
        handle_line(time, stream, text);
    }
}

/// Sends a log to `to`. If `follow` is requested, continues until `is_over` returns that the log is
/// complete. Returns the time of the last line.
pub async fn send(
    path: PathBuf,
    query: LogQuery,
    is_over: impl Fn() -> bool + Send,
    to: mpsc::Sender<io::Result<Bytes>>,
) -> Option<Timestamp> {
    let follow = query.follow;
    let tail = query.tail_lines;
    let mut sender = Sender {
        formatter: Formatter::new(query),
        buffer: Vec::new(),
        to,
    };
    let (files, mut start) = {
        let path = path.clone();
        let planned = blocking_value(move || plan(&path, tail)).await;
        planned.unwrap_or_else(|_| (Vec::new(), 0))
    };
    let last_index = files.len().saturating_sub(1);
    for (index, file) in files.into_iter().enumerate() {
        let is_followed = follow && index == last_index;
        let accepts_more = if is_followed {
            sender.follow(&path, start, &is_over).await
        } else {
            sender.read(&file, start).await
        };
        start = 0;
        if !accepts_more {
            break;
        }
    }
    sender.flush().await;
    sender.formatter.last_time.parse().ok()
}

struct Sender {
    formatter: Formatter,
    buffer: Vec<u8>,
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Sender {
    /// `false` if the receiver is dropped, or the response is complete.
    async fn flush(&mut self) -> bool {
        if self.buffer.is_empty() {
            return !self.to.is_closed();
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        self.to.send(Ok(bytes)).await.is_ok()
    }

    async fn line(&mut self, line: &[u8]) -> bool {
        if !self.formatter.add(line, &mut self.buffer) {
            self.flush().await;
            return false;
        }
        self.buffer.len() < SEND_BYTES || self.flush().await
    }

    async fn read(&mut self, path: &Path, start: u64) -> bool {
        let Ok(file) = open(path, start).await else {
            return true;
        };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while let Ok(count) = reader.read_until(b'\n', &mut line).await
            && count > 0
        {
            if !self.line(&line).await {
                return false;
            }
            line.clear();
        }
        true
    }

    async fn follow(&mut self, path: &Path, start: u64, is_over: &impl Fn() -> bool) -> bool {
        let mut start = start;
        loop {
            let Ok(file) = open(path, start).await else {
                if is_over() || self.to.is_closed() {
                    return true;
                }
                tokio::time::sleep(LOG_FOLLOW_PERIOD).await;
                continue;
            };
            start = 0;
            match self.follow_file(file, path, is_over).await {
                FollowEnd::Rotated => {}
                FollowEnd::Complete => return true,
                FollowEnd::Closed => return false,
            }
        }
    }

    async fn follow_file(
        &mut self,
        file: tokio::fs::File,
        path: &Path,
        is_over: &impl Fn() -> bool,
    ) -> FollowEnd {
        let inode = file.metadata().await.map_or(0, |meta| meta.ino());
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            // `is_over` is read before the file, so that lines written just before the exit are still read.
            let is_complete = is_over();
            let metadata = tokio::fs::symlink_metadata(path).await;
            let is_replaced = metadata.map_or(true, |meta| meta.ino() != inode);
            let mut has_grown = false;
            while let Ok(count) = reader.read_until(b'\n', &mut line).await
                && count > 0
            {
                has_grown = true;
                if line.ends_with(b"\n") {
                    if !self.line(&line).await {
                        return FollowEnd::Closed;
                    }
                    line.clear();
                }
            }
            if !self.flush().await {
                return FollowEnd::Closed;
            }
            match (has_grown, is_replaced, is_complete) {
                (true, _, _) => {}
                (false, true, _) => return FollowEnd::Rotated,
                (false, false, true) => return FollowEnd::Complete,
                (false, false, false) => wait(&self.to, LOG_FOLLOW_PERIOD).await,
            }
        }
    }
}

enum FollowEnd {
    Rotated,
    Complete,
    Closed,
}

async fn wait(to: &mpsc::Sender<io::Result<Bytes>>, period: Duration) {
    tokio::select! {
        () = to.closed() => {}
        () = tokio::time::sleep(period) => {}
    }
}

async fn open(path: &Path, start: u64) -> io::Result<tokio::fs::File> {
    use tokio::io::AsyncSeekExt;
    let path = path.to_owned();
    let opened = blocking(move || tree::open_file(&path)).await?;
    let mut file = tokio::fs::File::from_std(opened);
    file.seek(SeekFrom::Start(start)).await?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn line(second: u32, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.000000000Z stdout {tag} {text}\n")
    }

    fn rotated_log() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("0.log");
        let old = line(1, "F", "one") + &line(2, "F", "two");
        fs::write(temp.path().join("0.log.1"), old).unwrap();
        let new = line(3, "P", "thr") + &line(3, "F", "ee") + &line(4, "F", "four");
        fs::write(&path, new).unwrap();
        (temp, path)
    }

    async fn read(path: &Path, query: LogQuery) -> String {
        let (to, mut from) = mpsc::channel(16);
        let sender = tokio::spawn(send(path.to_path_buf(), query, || true, to));
        let mut text = Vec::new();
        while let Some(chunk) = from.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        sender.await.unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn rotated_files_come_first_and_parts_are_joined() {
        // kubectl.md 5.7
        let (_temp, path) = rotated_log();
        let text = read(&path, LogQuery::default()).await;
        assert_eq!(text, "one\ntwo\nthree\nfour\n");
    }

    #[tokio::test]
    async fn tail_since_limit_and_timestamps() {
        // kubectl.md 5.7
        let (_temp, path) = rotated_log();
        let base = LogQuery::default;
        let query = LogQuery {
            tail_lines: Some(1),
            ..base()
        };
        assert_eq!(read(&path, query).await, "four\n");
        let query = LogQuery {
            tail_lines: Some(4),
            ..base()
        };
        assert_eq!(read(&path, query).await, "two\nthree\nfour\n");
        let query = LogQuery {
            tail_lines: Some(0),
            ..base()
        };
        assert_eq!(read(&path, query).await, "");
        let query = LogQuery {
            tail_lines: Some(100),
            limit_bytes: Some(6),
            ..base()
        };
        assert_eq!(read(&path, query).await, "one\ntw");
        let since = "2026-01-01T00:00:04Z".parse().unwrap();
        let query = LogQuery {
            since: Some(since),
            timestamps: true,
            ..base()
        };
        assert_eq!(
            read(&path, query).await,
            "2026-01-01T00:00:04.000000000Z four\n"
        );
    }

    #[tokio::test]
    async fn a_followed_log_has_growth_and_rotation_and_ends() {
        // kubectl.md 5.7
        let (temp, path) = rotated_log();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let is_stopped_in_reader = is_stopped.clone();
        let (to, mut from) = mpsc::channel(16);
        let query = LogQuery {
            follow: true,
            tail_lines: Some(1),
            ..LogQuery::default()
        };
        let is_over = move || is_stopped_in_reader.load(Ordering::Relaxed);
        let sender = tokio::spawn(send(path.clone(), query, is_over, to));
        assert_eq!(from.recv().await.unwrap().unwrap(), "four\n");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(line(5, "F", "five").as_bytes()).unwrap();
        assert_eq!(from.recv().await.unwrap().unwrap(), "five\n");
        fs::rename(&path, temp.path().join("0.log.1")).unwrap();
        fs::write(&path, line(6, "F", "six")).unwrap();
        assert_eq!(from.recv().await.unwrap().unwrap(), "six\n");
        is_stopped.store(true, Ordering::Relaxed);
        assert!(from.recv().await.is_none());
        sender.await.unwrap();
    }

    #[test]
    fn tail_as_text() {
        let (_temp, path) = rotated_log();
        assert_eq!(tail(&path, 4, 1000), "two\nthree\nfour\n");
        assert_eq!(tail(&path, 4, 5), "four\n");
        assert_eq!(tail(Path::new("/nonexistent/log"), 4, 5), "");
    }
}
