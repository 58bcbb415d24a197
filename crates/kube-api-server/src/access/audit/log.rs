//! The audit log file and its rotation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The path of the current file. Rotated files are in the same directory; their names contain a time.
    pub path: PathBuf,
    /// A new file is started before the current file exceeds this many bytes.
    pub bytes_max: u64,
    /// Maximum number of rotated files.
    pub backups_max: usize,
}

/// The format of the time in a rotated file's name. The order of the names is the order of the times.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const MILLISECOND: SignedDuration = SignedDuration::from_millis(1);

/// The audit log's open file, which is rotated at its size limit.
#[derive(Debug)]
pub(super) struct Log {
    options: LogOptions,
    file: File,
    bytes: u64,
}

impl Log {
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        if let Some(parent) = options.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = open(&options.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            options,
            file,
            bytes,
        })
    }

    /// Appends one event; rotates the file first if it would exceed its size limit.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let size = line.len() as u64;
        if self.bytes > 0 && self.bytes + size > self.options.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += size;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (stem, extension) = self.name();
        // Several rotations can happen within one millisecond. The name of each rotated file must sort after all
        // existing names.
        let newest = self
            .backups()?
            .into_iter()
            .filter_map(|path| self.time(&path));
        let next = newest
            .max()
            .and_then(|newest| newest.checked_add(MILLISECOND).ok());
        let now = next.map_or(Timestamp::now(), |next| next.max(Timestamp::now()));
        let time = now.strftime(TIME);
        let aside = self
            .options
            .path
            .with_file_name(format!("{stem}-{time}{extension}"));
        fs::rename(&self.options.path, aside)?;
        self.file = open(&self.options.path)?;
        self.bytes = 0;
        let mut old = self.backups()?;
        let surplus = old.len().saturating_sub(self.options.backups_max);
        old.sort_unstable();
        for path in old.into_iter().take(surplus) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The time in the name of a rotated file.
    fn time(&self, path: &Path) -> Option<Timestamp> {
        let (stem, extension) = self.name();
        let name = path.file_name()?.to_str()?;
        let text = name
            .strip_prefix(&format!("{stem}-"))?
            .strip_suffix(&extension)?;
        let time = DateTime::strptime(TIME, text).ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
    }

    fn name(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let extension = match part(self.options.path.extension()) {
            text if text.is_empty() => text,
            text => format!(".{text}"),
        };
        (part(self.options.path.file_stem()), extension)
    }

    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let folder = self
            .options
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let mut backups = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            if self.time(&entry.path()).is_some() {
                backups.push(entry.path());
            }
        }
        Ok(backups)
    }
}

/// The file is readable for its owner only, because events can contain secrets.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let options = LogOptions {
            path: path.clone(),
            bytes_max: 25,
            backups_max: 2,
        };
        let mut log = Log::open(options.clone()).unwrap();
        fs::write(path.with_file_name("audit-notes.log"), "mine").unwrap();
        for number in 0..8 {
            log.append(format!("line {number} ..\n").as_bytes())
                .unwrap();
        }
        drop(log);
        let mut log = Log::open(options).unwrap();
        log.append(b"line 8 ..\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8 ..\n");
        let mut old = log.backups().unwrap();
        old.sort_unstable();
        let texts: Vec<String> = old.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
        assert_eq!(texts, ["line 4 ..\nline 5 ..\n", "line 6 ..\nline 7 ..\n"]);
        assert!(path.with_file_name("audit-notes.log").exists());
    }
}
