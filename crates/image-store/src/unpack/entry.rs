//! Reads an archive entry by entry: the extended headers, the header, and the content.
//!
//! The iterator of the archive library is not used, because it reads names of any length into memory, and
//! cuts attributes at a line feed. The header type of the library decodes the fields.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::Timespec;
use tar::{EntryType, Header};

use super::{UnpackError, bytes_path, failure, is_stored, malformed};

const BLOCK: usize = 512;

/// Maximum length of a name or attribute of an entry; usual entries have a few hundred bytes.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// An entry without its content.
pub(crate) struct ArchiveEntry {
    pub kind: EntryType,
    pub path: Vec<Vec<u8>>,
    pub link: Vec<u8>,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timespec,
    pub device: (u32, u32),
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// The extended headers before an entry.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<String, Vec<u8>>,
}

/// The entries of a tar archive, which are read one after another.
pub(crate) struct Entries<R> {
    archive: R,
    /// Unread bytes of the last entry's content and padding.
    unread: u64,
    padding: u64,
}

impl<R: Read> Entries<R> {
    pub fn new(archive: R) -> Self {
        Self {
            archive,
            unread: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end of the archive.
    pub fn next(&mut self) -> Result<Option<ArchiveEntry>, UnpackError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            let header_size = header.entry_size().map_err(between)?;
            let size = match kind {
                EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader => header_size,
                _ => extensions.integer("size")?.unwrap_or(header_size),
            };
            self.begin(size)?;
            match kind {
                EntryType::GNULongName => extensions.name = Some(self.text()?),
                EntryType::GNULongLink => extensions.link = Some(self.text()?),
                EntryType::XHeader => extensions.pax = parse_pax(&self.extension()?)?,
                EntryType::XGlobalHeader => {}
                _ => return entry(&header, size, extensions).map(Some),
            }
        }
    }

    fn begin(&mut self, size: u64) -> Result<(), UnpackError> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or_else(|| malformed("", "a size beyond 64 bits"))?;
        self.unread = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Reads the next header, after the rest of the last entry is skipped.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let unread = self.unread.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.archive).take(unread), &mut io::sink());
        match skipped.map_err(between)? {
            skipped if skipped == unread => {}
            // Some programs leave out the padding of the last file, and the end mark.
            skipped if skipped >= self.unread => {
                cov_mark::hit!(findings_c4);
                return Ok(None);
            }
            _ => return Err(between(io::ErrorKind::UnexpectedEof.into())),
        }
        self.begin(0)?;
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.archive.read(&mut block[filled..]) {
                // Some programs leave out the end mark.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(between(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(between(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let expected = sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ');
        match header.cksum().map_err(between)? == expected {
            true => Ok(Some(header)),
            false => Err(malformed("", "a header with a wrong checksum")),
        }
    }

    fn extension(&mut self) -> Result<Vec<u8>, UnpackError> {
        if self.unread > EXTENSION_BYTES_MAX {
            return Err(UnpackError::TooLarge {
                limit: EXTENSION_BYTES_MAX,
                unit: "bytes of a name or attribute",
            });
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(between)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<Vec<u8>, UnpackError> {
        let mut bytes = self.extension()?;
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.unwrap_or(bytes.len()));
        Ok(bytes)
    }
}

/// Reads the content of the last returned entry.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.archive).take(self.unread).read(buffer)?;
        if count == 0 && self.unread > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread -= count as u64;
        Ok(count)
    }
}

impl Extensions {
    fn number(&self, key: &str) -> Option<f64> {
        std::str::from_utf8(self.pax.get(key)?).ok()?.parse().ok()
    }

    /// The decimal number of a key; `size=inf` is no number.
    fn integer(&self, key: &str) -> Result<Option<u64>, UnpackError> {
        let Some(bytes) = self.pax.get(key) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).ok();
        let number = text.and_then(|text| text.parse().ok());
        let wrong = || malformed("", "an extended header with a malformed number");
        number.map(Some).ok_or_else(wrong)
    }
}

fn entry(header: &Header, size: u64, extensions: Extensions) -> Result<ArchiveEntry, UnpackError> {
    let id = |key: &str, value: io::Result<u64>| {
        // Archives that were created by hand often have no owner; then root is the owner.
        let number = extensions.integer(key)?;
        let number = number.or(value.ok()).unwrap_or(0);
        u32::try_from(number).map_err(|_| malformed("", "an owner beyond 32 bits"))
    };
    let (uid, gid) = (id("uid", header.uid())?, id("gid", header.gid())?);
    let modified = match extensions.number("mtime") {
        Some(time) if time.is_finite() => Timespec {
            tv_sec: time.floor() as i64,
            tv_nsec: ((time - time.floor()) * 1e9) as _,
        },
        _ => Timespec {
            tv_sec: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
            tv_nsec: 0,
        },
    };
    let part = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    let device = (part(header.device_major()), part(header.device_minor()));
    let Extensions {
        name,
        link,
        mut pax,
    } = extensions;
    let path = pax.remove("path").or(name);
    let path = path.unwrap_or_else(|| header.path_bytes().into());
    let link = pax.remove("linkpath").or(link);
    let link = link.or_else(|| header.link_name_bytes().map(Into::into));
    let attributes = pax.into_iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("SCHILY.xattr.")?;
        is_stored(name).then(|| (name.to_owned(), value))
    });
    Ok(ArchiveEntry {
        kind: header.entry_type(),
        path: components(&path)?,
        link: link.unwrap_or_default(),
        size,
        mode: header.mode().map_err(between)? & 0o7777,
        uid,
        gid,
        modified,
        device,
        attributes: attributes.collect(),
    })
}

/// Splits a path relative to the root; `..` never leaves the root.
pub(super) fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part if part.contains(&0) => {
                let path = bytes_path(path);
                return Err(UnpackError::UnsafePath { path });
            }
            part => parts.push(part.to_vec()),
        }
    }
    Ok(parts)
}

/// Parses records of the form `<length> <key>=<value>`, each with a line feed. Values may contain any
/// bytes.
fn parse_pax(mut data: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, UnpackError> {
    let wrong = || malformed("", "a malformed extended header");
    let mut records = BTreeMap::new();
    while data.first().is_some_and(|byte| *byte != 0) {
        let space = data
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(wrong)?;
        let digits = std::str::from_utf8(&data[..space]).map_err(|_| wrong())?;
        let length: usize = digits.parse().map_err(|_| wrong())?;
        let record = data.get(space + 1..length).ok_or_else(wrong)?;
        let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(wrong)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| wrong())?;
        records.insert(key.to_owned(), record[equals + 1..].to_vec());
        data = &data[length..];
    }
    Ok(records)
}

fn between(error: io::Error) -> UnpackError {
    failure(&PathBuf::new(), error)
}
