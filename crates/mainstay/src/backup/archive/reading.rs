//! Reading an archive, as a whole and checked.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType, Header};

use super::{ATTRIBUTE_PREFIX, CHECKSUMS, Checksums, FORMAT, Summing, hex, shown};

/// An entry of an archive.
pub struct Item<'a> {
    /// Its path.
    pub path: PathBuf,
    /// The target of a link.
    pub link: Option<PathBuf>,
    /// Type, mode, owner.
    pub header: Header,
    /// Extended attributes.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// Its content.
    pub content: &'a mut dyn Read,
}

/// Shows each entry but the last to `each`, in order, and checks them all.
///
/// # Errors
/// The archive is truncated or changed; the items seen by `each` are then invalid.
pub fn read(path: &Path, each: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
    let broken = || {
        format!(
            "{} is not a complete backup: it was truncated or changed",
            path.display()
        )
    };
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut archive = Archive::new(GzDecoder::new(BufReader::new(file)));
    let mut summing = Summing::default();
    for entry in archive.entries().with_context(broken)? {
        let mut entry = entry.with_context(broken)?;
        let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        if name == Path::new(CHECKSUMS) {
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(broken)?;
            let said: Checksums = serde_json::from_str(&text).with_context(broken)?;
            if said.format > FORMAT {
                bail!("{} was written by a newer mainstay", path.display());
            }
            let found = summing.finish();
            if said.entries != found.entries || said.files != found.files {
                bail!("{}", broken());
            }
            return Ok(());
        }
        let mut attributes = Vec::new();
        if let Some(extensions) = entry.pax_extensions().with_context(broken)? {
            for extension in extensions {
                let extension = extension.with_context(broken)?;
                let name = extension.key().unwrap_or_default();
                if let Some(name) = name.strip_prefix(ATTRIBUTE_PREFIX) {
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
        each(Item {
            path: name.clone(),
            link,
            header,
            attributes,
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

/// Copies a file's content; blocks of zeros become holes.
pub fn copy_sparse(from: &mut dyn Read, to: &mut File) -> io::Result<()> {
    let mut block = vec![0; 64 * 1024];
    let mut length: u64 = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match from.read(&mut block[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return to.set_len(length);
        }
        length += filled as u64;
        if block[..filled].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(length))?;
        } else {
            to.write_all(&block[..filled])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes() {
        let mut file = tempfile::tempfile().unwrap();
        let mut content = vec![0; 1 << 20];
        content[1 << 19] = 1;
        copy_sparse(&mut content.as_slice(), &mut file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 < 1 << 19);
    }
}
