//! Logs that a client has recently read to the end, and the lines that the container has written since.
//!
//! `kubectl run -i` reads the log of a container and then attaches to the container. Lines that the
//! container writes in between would be lost, above all if the container exits. So a client that attaches
//! directly after such a read first receives the lines that were added to the log since the read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use object_model::Uid;
use tokio::time::Instant;

use super::session::{CHUNK_BYTES, Output};
use crate::containers::logs::{self, LogStream};

/// The longest time between the read and the attach.
const READ_AGE_MAX: Duration = Duration::from_secs(10);
/// Maximum number of stored reads; further reads are not stored.
const READS_MAX: usize = 1024;
/// Maximum number of bytes of a log that are searched.
const SEARCHED_BYTES_MAX: u64 = 1024 * 1024;

/// An instance of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerInstance {
    pub pod: Uid,
    pub container: String,
    pub number: u32,
}

/// The time of the last line that a read has returned; `None` if the log was empty.
type LastLineTime = Option<Timestamp>;

/// The last complete read of each container's log. Clones share the reads.
#[derive(Clone, Debug, Default)]
pub struct RecentReads(Arc<Mutex<BTreeMap<ContainerInstance, (Instant, LastLineTime)>>>);

impl RecentReads {
    /// Stores that a read has returned all lines up to the time `last_line`.
    pub fn record(&self, instance: ContainerInstance, last_line: LastLineTime) {
        let read_at = Instant::now();
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.retain(|_, (read_at, _)| read_at.elapsed() < READ_AGE_MAX);
        if reads.len() < READS_MAX {
            reads.insert(instance, (read_at, last_line));
        }
    }

    /// Removes the stored read of an instance, and returns it if it is recent.
    pub fn remove(&self, instance: &ContainerInstance) -> Option<LastLineTime> {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, last_line) = reads.remove(instance)?;
        (read_at.elapsed() < READ_AGE_MAX).then_some(last_line)
    }
}

/// The lines of a log after the time `last_line` and before `until`, in chunks. Blocks.
pub fn lines_since(
    path: &Path,
    last_line: LastLineTime,
    until: Option<Timestamp>,
) -> Vec<(Output, Bytes)> {
    let mut chunks: Vec<(Output, Vec<u8>)> = Vec::new();
    logs::each_line(path, SEARCHED_BYTES_MAX, |time, stream, text| {
        let is_old = last_line.is_some_and(|last_line| time <= last_line);
        let is_new = until.is_some_and(|until| time >= until);
        if is_old || is_new {
            cov_mark::hit!(findings_2_i4);
            return;
        }
        let output = match stream {
            LogStream::Stdout => Output::Stdout,
            LogStream::Stderr => Output::Stderr,
        };
        match chunks.last_mut() {
            Some((last_output, chunk)) if *last_output == output && chunk.len() < CHUNK_BYTES => {
                chunk.extend_from_slice(&text);
            }
            _ => chunks.push((output, text)),
        }
    });
    let chunks = chunks.into_iter();
    chunks
        .map(|(output, chunk)| (output, chunk.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    // findings-2 I4
    #[test]
    fn only_lines_between_the_read_and_the_attach_are_sent_again() {
        cov_mark::check!(findings_2_i4);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines = [
            (1, "stdout F", "read"),
            (2, "stdout F", "missed"),
            (3, "stderr F", "bad"),
            (4, "stdout P", "cut"),
            (5, "stdout F", "live"),
        ];
        let lines = lines.map(|(second, tag, text)| format!("{} {tag} {text}\n", time(second)));
        std::fs::write(&path, lines.concat()).unwrap();
        let chunks = |last_line, until| {
            let chunks = lines_since(&path, last_line, until).into_iter();
            chunks
                .map(|(output, text)| (output, String::from_utf8(text.to_vec()).unwrap()))
                .collect::<Vec<_>>()
        };
        let text = |output, text: &str| (output, text.to_owned());
        assert_eq!(
            chunks(Some(time(1)), Some(time(5))),
            [
                text(Output::Stdout, "missed\n"),
                text(Output::Stderr, "bad\n"),
                text(Output::Stdout, "cut"),
            ]
        );
        assert_eq!(
            chunks(None, Some(time(2))),
            [text(Output::Stdout, "read\n")]
        );
        assert_eq!(
            chunks(Some(time(4)), None),
            [text(Output::Stdout, "live\n")]
        );
        assert!(chunks(Some(time(5)), None).is_empty());
        assert!(lines_since(&dir.path().join("none"), None, None).is_empty());
    }

    // findings-2 I4
    #[tokio::test(start_paused = true)]
    async fn a_read_counts_once_and_not_for_long() {
        let reads = RecentReads::default();
        let numbered = |number| ContainerInstance {
            pod: "uid".parse().unwrap(),
            container: "c".to_owned(),
            number,
        };
        let instance = || numbered(0);
        reads.record(instance(), None);
        assert_eq!(reads.remove(&numbered(1)), None);
        assert_eq!(reads.remove(&instance()), Some(None));
        assert_eq!(reads.remove(&instance()), None);
        reads.record(instance(), Some(time(1)));
        tokio::time::advance(READ_AGE_MAX).await;
        assert_eq!(reads.remove(&instance()), None);
        for number in 0..2 * u32::try_from(READS_MAX).unwrap() {
            reads.record(numbered(number), None);
        }
        assert_eq!(reads.0.lock().unwrap().len(), READS_MAX);
    }
}
