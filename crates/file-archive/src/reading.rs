//! Reads a whole archive and checks it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType, Header};

use crate::{
    ATTRIBUTE_PREFIX, ArchiveError, CHECKSUMS, Checksums, FORMAT, MODIFIED, Summing, hex, path_text,
};

/// An entry of an archive.
pub struct ArchiveItem<'a> {
    pub path: PathBuf,
    /// The target of a link.
    pub link: Option<PathBuf>,
    /// The tar header: type, mode, owner.
    pub header: Header,
    /// Extended attributes: names and values.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// The exact modification time, seconds and nanoseconds; `None` if the archive has only whole seconds.
    pub modified: Option<(i64, i64)>,
    /// The content of a regular file; empty for other types.
    pub content: &'a mut dyn Read,
}

/// Passes each entry but the last to `each`, in order, and checks them all.
///
/// # Errors
/// The errors of `each`; or the archive is truncated or changed, and the items that `each` received are
/// invalid.
pub fn read<E: From<ArchiveError>>(
    path: &Path,
    each: &mut dyn FnMut(ArchiveItem<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let broken = incomplete(path);
    let mut stream = GzDecoder::new(BufReader::new(open(path)?));
    read_stream(&mut stream, &broken, each)?;
    Ok(end(stream).map_err(ArchiveError::incomplete(&broken))?)
}

fn open(path: &Path) -> Result<File, ArchiveError> {
    let step = || ArchiveError::at(format!("open {}", path.display()));
    let file = File::open(path).map_err(step())?;
    match file.metadata().map_err(step())?.is_dir() {
        true => Err(ArchiveError::Directory(path.to_owned())),
        false => Ok(file),
    }
}

/// Checks the end of the file, after the last entry: the zeros at the end of the archive, the length and the
/// checksum of gzip, and that no further byte follows.
fn end(mut stream: GzDecoder<BufReader<File>>) -> io::Result<()> {
    // The archive ends with two blocks of zeros, after the padding of the last entry.
    const BLOCK: usize = 512;
    let limit = 3 * BLOCK as u64;
    let mut rest = Vec::new();
    (&mut stream).take(limit).read_to_end(&mut rest)?;
    let whole = (2 * BLOCK..3 * BLOCK).contains(&rest.len()) && rest.iter().all(|byte| *byte == 0);
    if !whole || !stream.into_inner().fill_buf()?.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

/// The message for a file that was truncated or changed.
pub fn incomplete(path: &Path) -> String {
    format!(
        "{} is not a complete backup: it was truncated or changed",
        path.display()
    )
}

/// As [`read`], for a stream; `broken` is the message for a stream that was truncated or changed.
///
/// # Errors
/// See [`read`].
pub fn read_stream<E: From<ArchiveError>>(
    stream: impl Read,
    broken: &str,
    each: &mut dyn FnMut(ArchiveItem<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let is_broken = ArchiveError::incomplete(broken);
    let mut archive = Archive::new(stream);
    let mut summing = Summing::default();
    for entry in archive.entries().map_err(is_broken)? {
        let mut entry = entry.map_err(is_broken)?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        if name == Path::new(CHECKSUMS) {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(is_broken)?;
            return Ok(compare(&text, summing, broken)?);
        }
        let (attributes, modified) = extensions(&mut entry).map_err(is_broken)?;
        let link = entry.link_name_bytes();
        let link = link.map(|link| PathBuf::from(OsString::from_vec(link.into_owned())));
        let header = entry.header().clone();
        summing
            .note(&header, &name, link.as_deref())
            .map_err(is_broken)?;
        let is_file = header.entry_type() == EntryType::Regular;
        let mut content = Hashed {
            from: &mut entry,
            digest: Sha256::new(),
        };
        each(ArchiveItem {
            path: name.clone(),
            link,
            header,
            attributes,
            modified,
            content: &mut content,
        })?;
        // Content that `each` did not read is part of the checksum, too.
        io::copy(&mut content, &mut io::sink()).map_err(is_broken)?;
        if is_file {
            summing.files.insert(path_text(&name), hex(content.digest));
        }
    }
    Err(ArchiveError::of_checksums(broken).into())
}

/// Compares the checksums of the last entry with those of the preceding entries.
fn compare(text: &str, summing: Summing, broken: &str) -> Result<(), ArchiveError> {
    let stored: Checksums = serde_json::from_str(text)
        .map_err(|error| ArchiveError::incomplete(broken)(error.into()))?;
    if stored.format > FORMAT {
        return Err(ArchiveError::Newer(broken.to_owned()));
    }
    let computed = summing.finish();
    match stored.entries == computed.entries && stored.files == computed.files {
        true => Ok(()),
        false => {
            cov_mark::hit!(findings_u10);
            Err(ArchiveError::of_checksums(broken))
        }
    }
}

/// Names and values of extended attributes.
type Attributes = Vec<(String, Vec<u8>)>;

/// The extended attributes of an entry, and its exact modification time.
fn extensions(
    entry: &mut tar::Entry<'_, impl Read>,
) -> io::Result<(Attributes, Option<(i64, i64)>)> {
    let (mut attributes, mut modified) = (Vec::new(), None);
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let name = extension.key().unwrap_or_default();
        if name == MODIFIED {
            modified = extension.value().ok().and_then(exact_time);
        } else if let Some(name) = name.strip_prefix(ATTRIBUTE_PREFIX) {
            attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok((attributes, modified))
}

/// Seconds and nanoseconds, as `writing.rs` writes them.
fn exact_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    let nanoseconds = nanoseconds
        .parse()
        .ok()
        .filter(|_| nanoseconds.len() == 9)?;
    Some((seconds.parse().ok()?, nanoseconds))
}

struct Hashed<'a> {
    from: &'a mut dyn Read,
    digest: Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }
}
