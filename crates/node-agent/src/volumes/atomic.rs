//! Atomic updates of a volume's files (statefulset.md §12.13).
//!
//! Files are written into a new directory `..<time>`; then a rename replaces the link `..data`, which
//! points to it. The visible names are links through `..data`, so a reader never reads a half-written
//! update. Before the rename, no visible file changes. After the rename, the old files, which are not
//! visible any more, are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use host_kernel::tree;
use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    /// Permission bits, for instance `0o644`.
    pub mode: u32,
    /// The owner of the file; `None` for root.
    pub uid: Option<u32>,
}

impl File {
    /// A file that belongs to root.
    pub fn of_root(bytes: Vec<u8>, mode: u32) -> Self {
        let uid = None;
        Self { bytes, mode, uid }
    }
}

/// Files by their paths relative to the volume.
pub type Payload = BTreeMap<String, File>;

/// Makes the directory's content equal to `payload`. The files belong to the group `gid`, if it is set.
/// Returns whether anything has changed.
pub fn write(dir: &Path, payload: &Payload, gid: Option<u32>, now: Timestamp) -> io::Result<bool> {
    if let Some(outside_path) = payload.keys().find(|path| !is_inside(path)) {
        let message = format!("path {outside_path:?} leads out of the volume");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && is_current(&dir.join(current), payload)?
    {
        link_names(dir, payload)?;
        return Ok(false);
    }
    let name = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    write_files(&dir.join(&name), payload, gid)?;
    match fs::remove_file(dir.join(DATA_NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link_names(dir, payload)?;
    clear_old(dir, &name)?;
    Ok(true)
}

fn is_inside(path: &str) -> bool {
    let path = Path::new(path);
    let is_normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    path.components().next().is_some()
        && path.components().all(is_normal)
        && !path.to_string_lossy().starts_with("..")
}

fn is_current(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut files = BTreeSet::new();
    if list_files(dir, Path::new(""), &mut files).is_err() {
        return Ok(false);
    }
    if files.len() != payload.len() || !payload.keys().all(|path| files.contains(path)) {
        return Ok(false);
    }
    for (path, file) in payload {
        if fs::read(dir.join(path))? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list_files(root: &Path, below: &Path, files: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list_files(root, &path, files)?;
        } else {
            files.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn write_files(dir: &Path, payload: &Payload, gid: Option<u32>) -> io::Result<()> {
    make_dir(dir, gid)?;
    for (path, file) in payload {
        let target = dir.join(path);
        if let Some(parent) = target.parent().filter(|parent| *parent != dir) {
            for ancestor in ancestors_below(parent, dir) {
                make_dir(&ancestor, gid)?;
            }
        }
        let mut options = fs::OpenOptions::new();
        let mut handle = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)?;
        handle.write_all(&file.bytes)?;
        // The volume's group may read the files.
        let mode = if gid.is_some() {
            file.mode | 0o440
        } else {
            file.mode
        };
        std::os::unix::fs::fchown(&handle, file.uid, gid)?;
        handle.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    }
    Ok(())
}

/// The parent directories of `path` below `root`, and `path` itself, from the top.
fn ancestors_below(path: &Path, root: &Path) -> Vec<std::path::PathBuf> {
    let mut list: Vec<_> = path
        .ancestors()
        .take_while(|a| *a != root)
        .map(Path::to_path_buf)
        .collect();
    list.reverse();
    list
}

fn make_dir(dir: &Path, gid: Option<u32>) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if let Some(gid) = gid {
        std::os::unix::fs::chown(dir, None, Some(gid))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// Creates the visible links, and removes dangling ones.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first_part = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = payload.keys().map(first_part).collect();
    for name in &names {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_visible_link = entry.file_type()?.is_symlink() && !name.starts_with("..");
        if is_visible_link && !names.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn clear_old(dir: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") && entry.file_type()?.is_dir() && name != current {
            tree::remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File::of_root(text.as_bytes().to_vec(), 0o640);
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), file(text)))
            .collect()
    }

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(dir).unwrap() {
            files.insert(entry.unwrap().file_name().into_string().unwrap());
        }
        files
            .into_iter()
            .filter(|name| !name.starts_with(".."))
            .collect()
    }

    #[test]
    fn content_is_replaced_at_once_and_old_names_are_removed() {
        // statefulset.md 12.13
        let dir = tempfile::tempdir().unwrap();
        let first = payload(&[("a", "1"), ("sub/b", "2")]);
        assert!(write(dir.path(), &first, None, time(1)).unwrap());
        assert_eq!(names(dir.path()), ["a", "sub"]);
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        let mode = fs::metadata(dir.path().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);

        assert!(!write(dir.path(), &first, None, time(2)).unwrap());
        let target = fs::read_link(dir.path().join(DATA)).unwrap();

        assert!(
            write(
                dir.path(),
                &payload(&[("a", "3"), ("c", "4")]),
                None,
                time(3)
            )
            .unwrap()
        );
        assert_eq!(names(dir.path()), ["a", "c"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join(target).exists());
        assert_eq!(
            fs::read_link(dir.path().join("a")).unwrap(),
            Path::new("..data/a")
        );
    }

    #[test]
    fn an_update_keeps_the_owner_of_a_file() {
        // statefulset.md 12.13; needs root, as the agent does
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let metadata_of = |name: &str| {
            let files = fs::metadata(dir.path().join(name)).unwrap();
            (files.uid(), files.gid(), files.mode() & 0o777)
        };
        let with_token = |text: &str| {
            let mut files = payload(&[("a", text), ("token", text)]);
            let token = files.get_mut("token").unwrap();
            (token.mode, token.uid) = (0o600, Some(1000));
            files
        };
        for (second, text) in [(1, "1"), (2, "2")] {
            assert!(write(dir.path(), &with_token(text), None, time(second)).unwrap());
            assert_eq!(metadata_of("token"), (1000, 0, 0o600));
            assert_eq!(metadata_of("a"), (0, 0, 0o640));
        }
        assert!(write(dir.path(), &with_token("3"), Some(2000), time(3)).unwrap());
        assert_eq!(metadata_of("token"), (1000, 2000, 0o640));
        assert_eq!(metadata_of("a"), (0, 2000, 0o640));
    }

    #[test]
    fn a_half_written_update_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None, time(1)).unwrap();
        fs::create_dir(dir.path().join("..1970_half")).unwrap();
        symlink("..1970_half", dir.path().join(DATA_NEW)).unwrap();
        write(dir.path(), &payload(&[("a", "2")]), None, time(2)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "2");
        assert!(!dir.path().join("..1970_half").exists());
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", "..data"] {
            assert!(
                write(dir.path(), &payload(&[(path, "1")]), None, time(1)).is_err(),
                "{path}"
            );
        }
    }
}
