//! Checks of the engine's journals before the engine reads them.
//!
//! The engine stops reading a journal at the first invalid entry and drops the rest, wherever the entry is, and it
//! refuses to open when the last batch fails its checksum. Neither is right here: a flipped bit in the middle must not
//! lose the acknowledged writes after it, and a batch that a power loss tore must not prevent the start. This module
//! distinguishes the two cases. Batches are synced one after the other, so only the newest batch can be torn. Invalid
//! bytes with a valid batch after them are damage. Invalid bytes at the end are damage, too, if the newest valid batch
//! is older than the recorded acknowledged revision. Other invalid bytes at the end were never acknowledged, and are
//! cut off.
//!
//! The layout (fjall 3, little-endian): a batch is a start (tag 1, u32 items, u64 sequence
//! number), items (tag 2, u8 kind, u8 compression, u64 keyspace, u16 key length, u32 length, u32
//! length on disk, key, value) or clears (tag 4, u64 keyspace), and an end (tag 3, u64 XXH3 of
//! the items and clears as written, trailer "FJL" 3).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use xxhash_rust::xxh3::Xxh3;

use crate::{Revision, StoreError};

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Checks all journals in the engine's directory and moves a torn tail of the newest to `torn_tail`
/// for inspection.
///
/// `counters` is the key whose value begins with the revision of a batch, and `acknowledged` the
/// newest known acknowledged revision.
///
/// *Errors.* `Damaged`: the unreadable part was, or may have been, acknowledged.
pub(crate) fn verify(
    engine: &Path,
    torn_tail: &Path,
    counters: &[u8],
    acknowledged: Option<Revision>,
) -> Result<(), StoreError> {
    let mut journals = journals(engine)?;
    let newest = journals.pop();
    let mut revision = None;
    for path in &journals {
        let whole = read_whole(path, counters)?;
        if !whole.tail.is_empty() {
            return Err(fails_its_checksum(path, whole.good));
        }
        revision = revision.max(whole.revision);
    }
    let Some(path) = newest else { return Ok(()) };
    let whole = read_whole(&path, counters)?;
    revision = revision.max(whole.revision);
    if whole.tail.is_empty() {
        return Ok(());
    }
    if holds_batch(&whole.tail) {
        return Err(fails_its_checksum(&path, whole.good));
    }
    if let (Some(revision_on_disk), Some(noted)) = (revision, acknowledged)
        && revision_on_disk < noted
    {
        let at = whole.good;
        return Err(damaged(
            &path,
            &format!(
                "fails its checksum at byte {at}, where the acknowledged writes up to revision {} \
                 should be; the newest whole one is {}. Restore the directory from a backup",
                noted.0, revision_on_disk.0
            ),
        ));
    }
    cut_off(&path, &whole, torn_tail)
}

fn fails_its_checksum(path: &Path, at: u64) -> StoreError {
    damaged(path, &format!("fails its checksum at byte {at}"))
}

/// Rewrites the newest journal with its own content and syncs it. After a failed sync, data that is read from the page
/// cache may not be on the disk, and later syncs do not report that.
pub(crate) fn write_again(engine: &Path) -> Result<(), StoreError> {
    let Some(path) = journals(engine)?.pop() else {
        return Ok(());
    };
    let rewritten = OpenOptions::new().read(true).write(true).open(&path);
    let rewritten = rewritten.and_then(|file| {
        let mut chunk = vec![0; 64 * 1024];
        let mut at = 0;
        loop {
            let len = file.read_at(&mut chunk, at)?;
            if len == 0 {
                return file.sync_all();
            }
            // Holes stay holes.
            if chunk[..len].iter().any(|byte| *byte != 0) {
                file.write_all_at(&chunk[..len], at)?;
            }
            at += len as u64;
        }
    });
    rewritten.map_err(|error| failed("write again", &path, &error))
}

/// The journals in the engine's directory, sorted by age; the newest is last.
fn journals(engine: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(engine).map_err(|error| failed("list", engine, &error))? {
        let path = entry
            .map_err(|error| failed("list", engine, &error))?
            .path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let number = number.ok_or_else(|| damaged(&path, "has an unknown name"))?;
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// The content of a journal.
struct Whole {
    /// The length of the valid batches at its start, in bytes.
    good: u64,
    /// The bytes after the valid batches.
    tail: Vec<u8>,
    /// The newest revision in the valid batches.
    revision: Option<Revision>,
}

fn read_whole(path: &Path, counters: &[u8]) -> Result<Whole, StoreError> {
    let read = |error: io::Error| failed("read", path, &error);
    let file = File::open(path).map_err(read)?;
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let (mut good, mut revision) = (0, None);
    let mut newest_number = None;
    while let Some(batch) = read_batch(&mut reader, counters).map_err(read)? {
        // The checksum does not cover the number, and the number decides which batch is the newest.
        if newest_number.is_some_and(|newest| batch.number <= newest) {
            return Err(damaged(
                path,
                &format!("has a batch out of order at byte {good}"),
            ));
        }
        newest_number = Some(batch.number);
        revision = revision.max(batch.revision);
        good += batch.len;
    }
    let tail = read_tail(reader.get_mut(), good).map_err(read)?;
    Ok(Whole {
        good,
        tail,
        revision,
    })
}

fn cut_off(path: &Path, whole: &Whole, torn_tail: &Path) -> Result<(), StoreError> {
    tracing::warn!(
        journal = %path.display(),
        offset = whole.good,
        bytes = whole.tail.len(),
        "cutting off a write that was never completed"
    );
    if let Err(error) = fs::write(torn_tail, &whole.tail) {
        // A full disk has no space for the torn tail.
        tracing::warn!(%error, "the torn write could not be put aside");
    }
    let cut = |error: io::Error| failed("cut the torn tail off", path, &error);
    let file = OpenOptions::new().write(true).open(path).map_err(cut)?;
    file.set_len(whole.good)
        .and_then(|()| file.sync_all())
        .map_err(cut)
}

/// Reads from `from` up to the last non-zero byte. Files are preallocated, so most of this range is a hole, which is
/// skipped.
fn read_tail(file: &mut File, from: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut at = from;
    loop {
        at = match seek(&*file, SeekFrom::Data(at)) {
            Ok(at) => at,
            Err(Errno::NXIO) => return Ok(tail),
            Err(error) => return Err(error.into()),
        };
        let len = file.read(&mut chunk)?;
        if len == 0 {
            return Ok(tail);
        }
        if let Some(last) = chunk[..len].iter().rposition(|byte| *byte != 0) {
            tail.resize(usize::try_from(at - from).map_err(io::Error::other)?, 0);
            tail.extend_from_slice(&chunk[..=last]);
        }
        at += len as u64;
    }
}

/// Whether a complete, valid batch begins at any of the bytes.
fn holds_batch(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == TAG_START)
        .any(|(at, _)| {
            // A read from memory fails only at its end, and `read_batch` then reports no batch.
            matches!(read_batch(&mut &bytes[at..], &[]), Ok(Some(_)))
        })
}

/// A valid batch.
struct Batch {
    number: u64,
    len: u64,
    /// The revision of the batch; `None` if the batch does not contain the counters.
    revision: Option<Revision>,
}

/// Reads one batch. Returns `None` if no valid batch begins here.
fn read_batch(reader: &mut impl Read, counters: &[u8]) -> io::Result<Option<Batch>> {
    match try_read_batch(reader, counters) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        result => result,
    }
}

fn try_read_batch(reader: &mut impl Read, counters: &[u8]) -> io::Result<Option<Batch>> {
    if read_array::<1>(reader)? != [TAG_START] {
        return Ok(None);
    }
    let items = u32::from_le_bytes(read_array(reader)?);
    let number = u64::from_le_bytes(read_array(reader)?);
    let mut hasher = Xxh3::new();
    let mut len = 13;
    let mut buffer = Vec::new();
    let mut revision = None;
    for _ in 0..items {
        match read_item(reader, &mut buffer)? {
            true => hasher.update(&buffer),
            false => return Ok(None),
        }
        revision = revision.or(revision_in(&buffer, counters));
        len += buffer.len() as u64;
    }
    let tag = read_array(reader)?;
    let checksum = u64::from_le_bytes(read_array(reader)?);
    let trailer = read_array(reader)?;
    let valid = tag == [TAG_END] && trailer == TRAILER && checksum == hasher.digest();
    Ok(valid.then_some(Batch {
        number,
        len: len + 13,
        revision,
    }))
}

/// The revision in an item that writes the key of the counters; `None` for other items. Such small values are not
/// compressed.
fn revision_in(item: &[u8], counters: &[u8]) -> Option<Revision> {
    let (head, rest) = item.split_first_chunk::<21>()?;
    let plain = head[0] == TAG_ITEM && head[2] == 0;
    let value = rest.strip_prefix(counters).filter(|_| {
        plain && usize::from(u16::from_le_bytes([head[11], head[12]])) == counters.len()
    })?;
    let (revision, _) = value.split_first_chunk::<8>()?;
    Some(Revision(u64::from_le_bytes(*revision)))
}

/// Reads one item or clear into the buffer, in its form on disk.
fn read_item(reader: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    match read_array::<1>(reader)? {
        [TAG_ITEM] => {
            let head = read_array::<20>(reader)?;
            let key_len = u64::from(u16::from_le_bytes([head[10], head[11]]));
            let value_len = u64::from(u32::from_le_bytes([head[16], head[17], head[18], head[19]]));
            buffer.push(TAG_ITEM);
            buffer.extend_from_slice(&head);
            read_more(reader, buffer, key_len + value_len)?;
            Ok(true)
        }
        [TAG_CLEAR] => {
            buffer.push(TAG_CLEAR);
            read_more(reader, buffer, 8)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Reads `len` more bytes. Memory is allocated only for bytes that have arrived.
fn read_more(reader: &mut impl Read, buffer: &mut Vec<u8>, len: u64) -> io::Result<()> {
    if reader.by_ref().take(len).read_to_end(buffer)? as u64 == len {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn failed(action: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io(format!("{action} {}: {error}", path.display()))
}

fn damaged(path: &Path, what: &str) -> StoreError {
    let path: PathBuf = path.into();
    StoreError::Damaged(format!("journal {} {what}", path.display()))
}
