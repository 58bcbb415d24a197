//! Facts about a container that a process in it can observe.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::FILES;
use super::tree::{self, Tree};

/// All facts that a process in a container can observe.
#[derive(Debug)]
pub struct Sight {
    /// User, groups and working directory.
    process: BTreeMap<&'static str, String>,
    environment: BTreeMap<String, String>,
    /// The files outside of mounts, and mount points.
    pub files: Tree,
    /// By mount point: the type of the file system and the mount options.
    mounts: BTreeMap<PathBuf, String>,
    /// The contents of mounted files.
    read: BTreeMap<PathBuf, String>,
    devices: BTreeMap<String, String>,
}

impl Sight {
    /// The facts about a process on the node. The process must not change its container.
    pub fn of(pid: i32, begun: i64) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let root = proc.join("root");
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let map = fs::read_to_string(proc.join("uid_map")).unwrap();
        let first_id = map.split_whitespace().nth(1).unwrap().parse().unwrap();
        let mut process = BTreeMap::new();
        for name in ["Uid", "Gid", "Groups"] {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            let line = lines.find(|(difference, _)| *difference == name).unwrap();
            let ids = line.1.split_whitespace();
            let ids = ids.map(|id| id_inside(id.parse().unwrap(), first_id).to_string());
            process.insert(name, ids.collect::<Vec<_>>().join(" "));
        }
        let cwd = fs::read_link(proc.join("cwd")).unwrap();
        process.insert("directory", cwd.display().to_string());
        let variables = fs::read_to_string(proc.join("environ")).unwrap();
        let variables = variables
            .split('\0')
            .filter_map(|text| text.split_once('='));
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mounts = mounts(&fs::read_to_string(proc.join("mountinfo")).unwrap());
        let mut files = tree::read(&root, &|path: &Path| {
            mounts.contains_key(&Path::new("/").join(path))
        });
        for (path, facts) in &mut files {
            let (user, group) = facts.owner;
            facts.owner = (id_inside(user, first_id), id_inside(group, first_id));
            // The start has created or changed the mount points, and the parent directories of new mount
            // points.
            if facts.time >= begun {
                facts.time = i64::MAX;
            }
            if mounts.contains_key(&Path::new("/").join(path)) && !path.as_os_str().is_empty() {
                facts.time = i64::MAX;
            }
        }
        let read = FILES.iter().map(|path| {
            let text = fs::read_to_string(root.join(&path[1..]));
            (path.into(), text.unwrap_or_else(|error| error.to_string()))
        });
        let devices = fs::read_dir(root.join("dev")).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let kind = match () {
                () if kind.is_char_device() => "device".to_owned(),
                () if kind.is_symlink() => format!("link to {}", target.display()),
                () => "other".to_owned(),
            };
            (entry.file_name().display().to_string(), kind)
        });
        Sight {
            process,
            environment: environment.collect(),
            files,
            read: read.collect(),
            devices: devices.collect(),
            mounts,
        }
    }

    /// All facts except the files, by their subject.
    pub fn other_facts(&self) -> BTreeMap<String, String> {
        let process = self.process.iter();
        let process = process.map(|(name, value)| (format!("process {name}"), value.clone()));
        let variables = self.environment.iter();
        let variables = variables.map(|(name, value)| (format!("variable {name}"), value.clone()));
        let mounts = self.mounts.iter();
        let mounts = mounts.map(|(path, how)| (format!("mount {}", path.display()), how.clone()));
        let read = self.read.iter();
        let read = read.map(|(path, text)| (format!("text {}", path.display()), text.clone()));
        let devices = self.devices.iter();
        let devices = devices.map(|(name, kind)| (format!("device {name}"), kind.clone()));
        let facts = process.chain(variables).chain(mounts);
        facts.chain(read).chain(devices).collect()
    }
}

/// The id inside a user namespace for an id of the node; `first_id` is the node's id for 0.
fn id_inside(on_node: u32, first_id: u32) -> u32 {
    match on_node.checked_sub(first_id) {
        Some(id) if first_id == 0 || id < 65536 => id,
        _ => NOBODY,
    }
}

/// The id of files whose owner has no id in the namespace.
pub const NOBODY: u32 = 65534;

/// The mounts of a process: for each mount point, the last mount.
fn mounts(table: &str) -> BTreeMap<PathBuf, String> {
    let lines = table.lines().map(|line| {
        let mut words = line.split(' ');
        let directory = words.nth(4).unwrap().replace("\\040", " ");
        let options = words.next().unwrap();
        let kind = line.split(" - ").nth(1).unwrap();
        let kind = kind.split(' ').next().unwrap();
        let compared = ["ro", "nosuid", "nodev", "noexec"];
        let options = options
            .split(',')
            .filter(|option| compared.contains(option));
        let options: Vec<_> = options.collect();
        (directory.into(), format!("{kind} {}", options.join(",")))
    });
    lines.collect()
}
