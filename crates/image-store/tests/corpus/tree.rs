//! The files of a directory, and the differences between two directories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The properties of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: &'static str,
    /// The content of a file, or the target of a link.
    pub contents: Vec<u8>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub time: i64,
    pub device: u64,
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// The first path with this inode.
    pub first: PathBuf,
}

pub type Tree = BTreeMap<PathBuf, Facts>;

/// Reads a directory and everything below it, without the content of other mounts.
pub fn read(root: &Path, is_mount_point: &dyn Fn(&Path) -> bool) -> Tree {
    let mut tree = Tree::new();
    let mut firsts = BTreeMap::new();
    let top = PathBuf::new();
    // The root directory of a process is a link in `/proc`.
    tree.insert(
        top.clone(),
        facts(&root.join("."), top.clone(), &mut firsts),
    );
    let mut unread = vec![top];
    while let Some(directory) = unread.pop() {
        let entries = fs::read_dir(root.join(&directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = directory.join(name);
            let facts = facts(&root.join(&path), path.clone(), &mut firsts);
            if facts.kind == "directory" && !is_mount_point(&path) {
                unread.push(path.clone());
            }
            tree.insert(path, facts);
        }
    }
    tree
}

fn facts(file: &Path, path: PathBuf, firsts: &mut BTreeMap<u64, PathBuf>) -> Facts {
    let metadata = fs::symlink_metadata(file).unwrap();
    let kind = metadata.file_type();
    let (kind, contents) = match () {
        () if kind.is_dir() => ("directory", Vec::new()),
        () if kind.is_file() => ("file", fs::read(file).unwrap()),
        () if kind.is_symlink() => {
            let target = fs::read_link(file).unwrap();
            ("link", target.into_os_string().into_encoded_bytes())
        }
        () if kind.is_fifo() => ("fifo", Vec::new()),
        () if kind.is_char_device() => ("character device", Vec::new()),
        () => ("block device", Vec::new()),
    };
    let first = match kind {
        "directory" => path,
        _ => firsts.entry(metadata.ino()).or_insert(path).clone(),
    };
    Facts {
        kind,
        contents,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        time: metadata.mtime(),
        device: metadata.rdev(),
        attributes: attributes(file),
        first,
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    let of_layers = |name: &String| name.starts_with("user.") || name == "security.capability";
    let values = names.filter(of_layers).map(|name| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name.as_str(), value.as_mut_slice()).unwrap();
        value.truncate(length);
        (name, value)
    });
    values.collect()
}

/// A difference: the path, the property and both values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub path: PathBuf,
    pub fact: &'static str,
    pub ours: String,
    pub theirs: String,
}

/// The differences between two trees.
pub fn compare(ours: &Tree, theirs: &Tree) -> Vec<Difference> {
    let mut differences = Vec::new();
    let paths: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let mut differ = |fact: &'static str, ours: String, theirs: String| {
            if ours != theirs {
                let path = path.clone();
                differences.push(Difference {
                    path,
                    fact,
                    ours,
                    theirs,
                });
            }
        };
        let (Some(ours), Some(theirs)) = (ours.get(path), theirs.get(path)) else {
            let kind = |tree: &Tree| {
                tree.get(path)
                    .map_or("nothing", |facts| facts.kind)
                    .to_owned()
            };
            differ("kind", kind(ours), kind(theirs));
            continue;
        };
        differ("kind", ours.kind.into(), theirs.kind.into());
        let text = |facts: &Facts| String::from_utf8_lossy(&facts.contents).into_owned();
        differ("contents", text(ours), text(theirs));
        differ(
            "mode",
            format!("{:o}", ours.mode),
            format!("{:o}", theirs.mode),
        );
        differ(
            "owner",
            format!("{:?}", ours.owner),
            format!("{:?}", theirs.owner),
        );
        differ("time", ours.time.to_string(), theirs.time.to_string());
        differ("device", ours.device.to_string(), theirs.device.to_string());
        let text_of_attributes = |facts: &Facts| format!("{:?}", facts.attributes);
        differ(
            "attributes",
            text_of_attributes(ours),
            text_of_attributes(theirs),
        );
        let first = |facts: &Facts| facts.first.display().to_string();
        differ("hard link", first(ours), first(theirs));
    }
    differences
}
