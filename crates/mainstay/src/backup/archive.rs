//! The file of a backup: a tar archive, compressed with gzip. Its first entry says what it is, its last
//! has a checksum of each file and one of the list of all entries, so that a file that was cut off or
//! changed is told before anything is taken from it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

/// The last entry.
pub const CHECKSUMS: &str = "checksums.json";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// Extended attributes are in the archive as GNU tar writes them.
const ATTRIBUTE_PREFIX: &str = "SCHILY.xattr.";

/// What the last entry says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checksums {
    format: u32,
    /// Of the list of all entries before: type, mode, owner, size, path and link of each.
    entries: String,
    /// Of the content of each file, by path.
    files: BTreeMap<String, String>,
}

/// Sums up entries as they are written or read.
#[derive(Default)]
struct Summing {
    entries: Sha256,
    files: BTreeMap<String, String>,
}

impl Summing {
    fn note(&mut self, header: &Header, path: &Path, link: Option<&Path>) -> io::Result<()> {
        let link = link.map(|link| link.as_os_str().as_bytes());
        let line = format!(
            "{:?} {:o} {} {} {} {} {}\n",
            header.entry_type(),
            header.mode()?,
            header.uid()?,
            header.gid()?,
            header.entry_size()?,
            shown(path),
            link.unwrap_or_default().escape_ascii()
        );
        self.entries.update(line);
        Ok(())
    }

    fn finish(self) -> Checksums {
        Checksums {
            format: FORMAT,
            entries: hex(self.entries),
            files: self.files,
        }
    }
}

/// A path as a text that loses nothing.
fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn hex(digest: Sha256) -> String {
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An archive that is being written.
pub struct Writer {
    builder: Builder<GzEncoder<BufWriter<File>>>,
    summing: Summing,
    /// Where files with several names were written first.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl Writer {
    /// Begins an archive in a new file.
    pub fn new(file: File) -> Self {
        let encoder = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Self {
            builder: Builder::new(encoder),
            summing: Summing::default(),
            links: BTreeMap::new(),
        }
    }

    /// Adds a file with that content.
    pub fn add_text(&mut self, path: &str, text: &str) -> Result<()> {
        self.add_stream(path, text.len() as u64, &mut text.as_bytes())
    }

    /// Adds a private file with so many bytes of a stream.
    pub fn add_stream(&mut self, path: &str, bytes: u64, from: &mut dyn Read) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes);
        self.add(&mut header, Path::new(path), from)
            .with_context(|| format!("write {path}"))
    }

    fn add(&mut self, header: &mut Header, path: &Path, from: &mut dyn Read) -> io::Result<()> {
        self.summing.note(header, path, None)?;
        let mut exact = Exact {
            from,
            left: header.entry_size()?,
            digest: Sha256::new(),
        };
        self.builder.append_data(header, path, &mut exact)?;
        let sum = hex(exact.digest);
        self.summing.files.insert(shown(path), sum);
        Ok(())
    }

    /// Adds a file, or a directory with all that is in it. What is removed meanwhile is left out.
    pub fn add_tree(&mut self, path: &Path, from: &Path) -> Result<()> {
        let doing = || format!("back up {}", from.display());
        let metadata = match fs::symlink_metadata(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(doing)?,
        };
        self.add_one(path, from, &metadata).with_context(doing)?;
        if !metadata.is_dir() {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(from).with_context(doing)? {
            names.push(entry.with_context(doing)?.file_name());
        }
        names.sort();
        for name in names {
            self.add_tree(&path.join(&name), &from.join(&name))?;
        }
        Ok(())
    }

    fn add_one(&mut self, path: &Path, from: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        let kind = metadata.file_type();
        if metadata.is_file() && metadata.nlink() > 1 {
            let place = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&place).cloned() {
                header.set_entry_type(EntryType::Link);
                return self.add_link(&mut header, path, &first);
            }
            self.links.insert(place, path.to_owned());
        }
        if kind.is_symlink() {
            let target = fs::read_link(from)?;
            return self.add_link(&mut header, path, &target);
        }
        if metadata.is_file() {
            let mut file = match File::open(from) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            self.add_attributes(from)?;
            header.set_size(metadata.len());
            return self.add(&mut header, path, &mut file);
        }
        if metadata.is_dir() || kind.is_fifo() {
            if metadata.is_dir() {
                self.add_attributes(from)?;
            }
            self.summing.note(&header, path, None)?;
            return self.builder.append_data(&mut header, path, io::empty());
        }
        // A socket is its server's, and a device is the host's.
        Ok(())
    }

    fn add_link(&mut self, header: &mut Header, path: &Path, target: &Path) -> io::Result<()> {
        self.summing.note(header, path, Some(target))?;
        self.builder.append_link(header, path, target)
    }

    fn add_attributes(&mut self, from: &Path) -> io::Result<()> {
        let attributes = attributes(from)?;
        if attributes.is_empty() {
            return Ok(());
        }
        let named: Vec<(String, Vec<u8>)> = attributes
            .into_iter()
            .map(|(name, value)| (format!("{ATTRIBUTE_PREFIX}{name}"), value))
            .collect();
        let named = named
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(named)
    }

    /// Writes the checksums, and everything to the disk.
    pub fn finish(mut self) -> Result<()> {
        let checksums = std::mem::take(&mut self.summing).finish();
        let text = serde_json::to_string(&checksums).context("encode the checksums")?;
        self.add_text(CHECKSUMS, &text)?;
        let finish = || -> io::Result<()> {
            let encoder = self.builder.into_inner()?;
            let file = encoder.finish()?.into_inner().map_err(io::Error::other)?;
            file.sync_all()
        };
        finish().context("finish the archive")
    }
}

/// The extended attributes of a file that are part of it. File systems without them have none.
fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut found = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let kept = ["user.", "security.capability", "system.posix_acl_"];
        if !kept.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// Exactly so many bytes: a file that shrinks while it is read ends with zeros, one that grows is cut.
struct Exact<'a> {
    from: &'a mut dyn Read,
    left: u64,
    digest: Sha256,
}

impl Read for Exact<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let bytes = &mut bytes[..count];
        let mut read = self.from.read(bytes)?;
        if read == 0 {
            bytes.fill(0);
            read = count;
        }
        self.left -= read as u64;
        self.digest.update(&bytes[..read]);
        Ok(read)
    }
}

/// An entry of an archive.
pub struct Item<'a> {
    /// Its path.
    pub path: PathBuf,
    /// What it links to.
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
/// When the archive is not whole, or was changed; then what `each` has seen means nothing.
pub fn read(path: &Path, each: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
    let broken = || {
        format!(
            "{} is no whole backup: it was cut off, or changed",
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
        // What nobody wanted is summed up all the same.
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
    use std::io::{Seek, SeekFrom};
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
    use std::os::unix::fs::symlink;

    use super::*;

    fn archive(folder: &Path) -> PathBuf {
        let tree = folder.join("tree");
        fs::create_dir_all(tree.join("inner")).unwrap();
        fs::write(tree.join("inner/file"), "content").unwrap();
        fs::hard_link(tree.join("inner/file"), tree.join("second")).unwrap();
        symlink("inner/file", tree.join("link")).unwrap();
        let path = folder.join("backup");
        let mut writer = Writer::new(File::create(&path).unwrap());
        writer.add_text("backup.json", "{}").unwrap();
        writer.add_tree(Path::new("volumes/x"), &tree).unwrap();
        writer.finish().unwrap();
        path
    }

    fn names(path: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        read(path, &mut |item| {
            let link = item.link.map(|link| format!(" -> {}", link.display()));
            names.push(format!(
                "{}{}",
                item.path.display(),
                link.unwrap_or_default()
            ));
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn an_archive_has_what_was_put_in() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(&archive(folder.path())).unwrap();
        let expected = [
            "backup.json",
            "volumes/x",
            "volumes/x/inner",
            "volumes/x/inner/file",
            "volumes/x/link -> inner/file",
            "volumes/x/second -> volumes/x/inner/file",
        ];
        assert_eq!(names, expected);
    }

    /// Findings U10: checked before anything is taken from it.
    #[test]
    fn an_archive_that_was_changed_or_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let whole = archive(folder.path());
        let bytes = fs::read(&whole).unwrap();
        let broken = folder.path().join("broken");
        fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            names(&broken)
                .unwrap_err()
                .to_string()
                .contains("no whole backup")
        );

        // The same archive with another content, and all else as it was.
        let mut tar = Vec::new();
        GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut tar)
            .unwrap();
        let at = tar
            .windows(7)
            .position(|bytes| bytes == b"content")
            .unwrap();
        tar[at] = b'C';
        let mut encoder = GzEncoder::new(File::create(&broken).unwrap(), Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap();
        assert!(
            names(&broken)
                .unwrap_err()
                .to_string()
                .contains("no whole backup")
        );
    }

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
