//! Reading an archive, as a whole and checked.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType, Header};

use super::{ATTRIBUTE_PREFIX, CHECKSUMS, Checksums, FORMAT, MODIFIED, Summing, hex, shown};

/// An entry of an archive.
pub struct ArchiveItem<'a> {
    /// Its path in the archive.
    pub path: PathBuf,
    /// The target of a link.
    pub link: Option<PathBuf>,
    /// The tar header: type, mode, owner.
    pub header: Header,
    /// Extended attributes: names and values.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// The exact time of its last change, seconds and nanoseconds, where the archive has it.
    pub modified: Option<(i64, i64)>,
    /// The content of a regular file; empty for others.
    pub content: &'a mut dyn Read,
}

/// Shows each entry but the last to `each`, in order, and checks them all.
///
/// # Errors
/// The archive is truncated or changed; the items seen by `each` are then invalid.
pub fn read(path: &Path, each: &mut dyn FnMut(ArchiveItem<'_>) -> Result<()>) -> Result<()> {
    let broken = || incomplete(path);
    let opening = || format!("open {}", path.display());
    let file = File::open(path).with_context(opening)?;
    if file.metadata().with_context(opening)?.is_dir() {
        bail!("{} is a directory, and not a backup", path.display());
    }
    let mut stream = GzDecoder::new(BufReader::new(file));
    read_stream(&mut stream, &broken, each)?;
    end(stream).with_context(broken)
}

/// Checks the end of the file, after the last entry: the zeros at the end of the archive, the length and the
/// checksum of gzip, and nothing more.
fn end(mut stream: GzDecoder<BufReader<File>>) -> io::Result<()> {
    // Two blocks, after those that fill the block of the last entry.
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

/// The error of a file that was truncated or changed.
pub fn incomplete(path: &Path) -> String {
    format!(
        "{} is not a complete backup: it was truncated or changed",
        path.display()
    )
}

/// As [`read`], for a stream; `broken` is the error of one that was truncated or changed.
pub fn read_stream(
    stream: impl Read,
    broken: &dyn Fn() -> String,
    each: &mut dyn FnMut(ArchiveItem<'_>) -> Result<()>,
) -> Result<()> {
    let mut archive = Archive::new(stream);
    let mut summing = Summing::default();
    for entry in archive.entries().with_context(broken)? {
        let mut entry = entry.with_context(broken)?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        if name == Path::new(CHECKSUMS) {
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(broken)?;
            let said: Checksums = serde_json::from_str(&text).with_context(broken)?;
            if said.format > FORMAT {
                bail!("{}, or written by a newer mainstay", broken());
            }
            let found = summing.finish();
            if said.entries != found.entries || said.files != found.files {
                bail!("{}", broken());
            }
            return Ok(());
        }
        let mut attributes = Vec::new();
        let mut modified = None;
        if let Some(extensions) = entry.pax_extensions().with_context(broken)? {
            for extension in extensions {
                let extension = extension.with_context(broken)?;
                let name = extension.key().unwrap_or_default();
                if name == MODIFIED {
                    modified = extension.value().ok().and_then(exact_time);
                } else if let Some(name) = name.strip_prefix(ATTRIBUTE_PREFIX) {
                    attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        let link = entry.link_name_bytes();
        let link = link.map(|link| PathBuf::from(OsString::from_vec(link.into_owned())));
        let header = entry.header().clone();
        summing
            .note(&header, &name, link.as_deref())
            .with_context(broken)?;
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
        // Unread contents are part of the checksum as well.
        io::copy(&mut content, &mut io::sink()).with_context(broken)?;
        if is_file {
            summing.files.insert(shown(&name), hex(content.digest));
        }
    }
    bail!("{}", broken())
}

/// Seconds and nanoseconds, as [`super::writing`] writes them.
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
