//! The storage of the driver: a directory that its controller and its nodes share. Records are JSON files
//! that are replaced atomically, so a killed process leaves the old or the new record.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use json_tree::{Value, json};

/// The directory with the state of the test driver.
#[derive(Clone, Debug)]
pub struct State {
    dir: PathBuf,
}

/// The kinds of records, and the data; each has a directory.
const KINDS: [&str; 6] = ["volumes", "snapshots", "nodes", "uses", "data", "faults"];

impl State {
    /// Opens the directory; creates it if it does not exist.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(dir: &Path) -> io::Result<Self> {
        for kind in KINDS {
            fs::create_dir_all(dir.join(kind))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The directory of a kind.
    pub(crate) fn directory(&self, kind: &str) -> PathBuf {
        self.dir.join(kind)
    }

    /// The data of a volume or a snapshot: a directory, or a file for a block device.
    pub(crate) fn data(&self, id: &str) -> PathBuf {
        self.dir.join("data").join(id)
    }

    fn file(&self, kind: &str, id: &str) -> PathBuf {
        self.dir.join(kind).join(format!("{id}.json"))
    }

    /// The record of an id; `None` also for an id that cannot be a file name.
    pub(crate) fn read(&self, kind: &str, id: &str) -> io::Result<Option<Value>> {
        if !is_file_name(id) {
            return Ok(None);
        }
        match fs::read(self.file(kind, id)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self, kind: &str, id: &str, record: &Value) -> io::Result<()> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let file = self.file(kind, id);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = format!("new-{}-{unique}", std::process::id());
        let new = file.with_extension(new);
        fs::write(&new, record.to_string())?;
        fs::rename(new, file)
    }

    pub(crate) fn remove(&self, kind: &str, id: &str) -> io::Result<()> {
        allow_missing(fs::remove_file(self.file(kind, id)))
    }

    /// All records of a kind, by their ids.
    pub(crate) fn all(&self, kind: &str) -> io::Result<Vec<(String, Value)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.directory(kind))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json") else {
                continue;
            };
            if let Some(record) = self.read(kind, id)? {
                all.push((id.to_owned(), record));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Removes the data of a volume or a snapshot.
    pub(crate) fn remove_data(&self, id: &str) -> io::Result<()> {
        let data = self.data(id);
        allow_missing(match data.is_dir() {
            true => fs::remove_dir_all(data),
            false => fs::remove_file(data),
        })
    }

    /// The free bytes of a zone: its capacity in the file `capacity.json` minus the sizes of its volumes;
    /// `None` for a zone without a limit.
    pub(crate) fn capacity(&self, zone: &str) -> Option<i64> {
        let text = fs::read(self.dir.join("capacity.json")).ok()?;
        let limits: Value = serde_json::from_slice(&text).ok()?;
        limits[zone].as_i64()
    }

    /// Adds a line to the journal.
    pub(crate) fn note(&self, line: &Value) -> io::Result<()> {
        let file = self.dir.join("journal");
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        file.write_all(format!("{line}\n").as_bytes())
    }

    /// Adds an event of a volume on a node to the journal.
    pub(crate) fn event(&self, event: &str, volume: &str, node: &str, at: &str) -> io::Result<()> {
        self.note(&json!({"event": event, "volume": volume, "node": node, "at": at}))
    }
}

/// The lines of the journal in a directory, oldest first.
///
/// # Errors
/// The journal cannot be read.
pub fn journal(dir: &Path) -> io::Result<Vec<Value>> {
    let text = match fs::read_to_string(dir.join("journal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(lines.collect())
}

/// Copies a directory, or a file.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Ignores that a removed file does not exist.
pub(crate) fn allow_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether an id can be the file name of a record.
fn is_file_name(id: &str) -> bool {
    let is_inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'@');
    !id.is_empty() && id.len() < 200 && !id.starts_with('.') && id.bytes().all(is_inner)
}
