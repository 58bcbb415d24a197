//! Archives of trees of files: tar, with a last entry that contains a checksum of each file and a checksum of
//! the list of all entries, so that a truncated or changed archive is detected. A backup is such an archive,
//! compressed with gzip; a volume of the class `local` moves to another node as a stream of such an archive.

mod error;
mod placing;
mod reading;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::Header;

pub use error::ArchiveError;
pub use placing::{restore_item, set_modified};
pub use reading::{ArchiveItem, incomplete, read, read_stream};
pub use writing::{CopyFidelity, TreeActivity, Writer};

/// The name of the last entry, which has the checksums of all others.
pub const CHECKSUMS: &str = "checksums.json";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// The prefix of extended attributes in the pax header, as GNU tar writes them.
const ATTRIBUTE_PREFIX: &str = "SCHILY.xattr.";
/// The pax record of the exact modification time: seconds, a point, and nine digits.
const MODIFIED: &str = "mtime";

/// The contents of the last entry.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checksums {
    format: u32,
    /// SHA-256 of the list of all entries before: type, mode, owner, size, path and link of each.
    entries: String,
    /// SHA-256 of the content of each file, by path.
    files: BTreeMap<String, String>,
}

/// Computes the checksums of entries while they are written or read.
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
            path_text(path),
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

/// A path as a lossless text.
fn path_text(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn hex(digest: Sha256) -> String {
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use flate2::Compression;
    use flate2::read::GzDecoder;
    use flate2::write::GzEncoder;

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
        let at = Path::new("volumes/x");
        writer.add_tree(at, &tree, TreeActivity::Still).unwrap();
        writer.finish().unwrap();
        path
    }

    fn names(path: &Path) -> Result<Vec<String>, ArchiveError> {
        let mut names = Vec::new();
        read(path, &mut |item| -> Result<(), ArchiveError> {
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
        let mut names = names(&archive(folder.path())).unwrap();
        // A directory comes before its entries, and its siblings before it.
        let at = |name: &str| names.iter().position(|entry| entry == name).unwrap();
        assert!(at("volumes/x") < at("volumes/x/second"));
        assert!(at("volumes/x/inner") < at("volumes/x/inner/file -> volumes/x/second"));
        names.sort_unstable();
        let expected = [
            "backup.json",
            "volumes/x",
            "volumes/x/inner",
            "volumes/x/inner/file -> volumes/x/second",
            "volumes/x/link -> inner/file",
            "volumes/x/second",
        ];
        assert_eq!(names, expected);
    }

    /// findings S5, U10: a container can put links, pipes and the like into its volume while that is
    /// copied.
    #[test]
    fn links_are_not_followed_and_pipes_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        symlink(&outside, volume.join("deep/er/link")).unwrap();
        nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let path = folder.path().join("backup");
        let mut writer = Writer::new(File::create(&path).unwrap());
        writer
            .add_tree(Path::new("v"), &volume, TreeActivity::Written)
            .unwrap();
        assert_eq!(writer.finish().unwrap(), Vec::<PathBuf>::new());
        let mut names = names(&path).unwrap();
        names.sort_unstable();
        let link = format!("v/deep/er/link -> {}", outside.display());
        assert_eq!(names, ["v", "v/deep", "v/deep/er", &link, "v/pipe"]);
    }

    /// findings U10
    #[test]
    fn files_that_change_while_they_are_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("quiet"), "quiet").unwrap();
        let (small, large) = (volume.join("small"), volume.join("large"));
        File::create(&large).unwrap().set_len(64 << 20).unwrap();
        fs::write(&small, vec![7; 1 << 20]).unwrap();
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let write = || {
            let open = |path: &Path| File::options().write(true).open(path).unwrap();
            let mut files = [open(&small), open(&large)];
            while !over.load(Ordering::Relaxed) {
                for file in &mut files {
                    file.seek(SeekFrom::Start(0)).unwrap();
                    file.write_all(b"x").unwrap();
                }
                begun.store(true, Ordering::Relaxed);
            }
        };
        let mut writer = Writer::new(File::create(folder.path().join("backup")).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(write);
            let start = Instant::now();
            while !begun.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            let added = writer.add_tree(Path::new("v"), &volume, TreeActivity::Written);
            over.store(true, Ordering::Relaxed);
            added.unwrap();
        });
        assert!(
            begun.load(Ordering::Relaxed),
            "the files were not changed within a minute"
        );
        let changed = writer.finish().unwrap();
        assert!(changed.contains(&PathBuf::from("v/large")), "{changed:?}");
        assert!(!changed.contains(&PathBuf::from("v/quiet")), "{changed:?}");
    }

    /// Findings U10: the archive is checked before anything is restored.
    #[test]
    fn an_archive_that_was_changed_or_cut_off_is_refused() {
        cov_mark::check!(findings_u10);
        let folder = tempfile::tempdir().unwrap();
        let whole = archive(folder.path());
        let bytes = fs::read(&whole).unwrap();
        let broken = folder.path().join("broken");
        fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            names(&broken)
                .unwrap_err()
                .to_string()
                .contains("not a complete backup")
        );

        // findings-2 R38: each part after the last entry counts, to the last byte.
        let mut refused = Vec::new();
        for cut in 1..=64 {
            fs::write(&broken, &bytes[..bytes.len() - cut]).unwrap();
            refused.push(names(&broken).is_err());
        }
        assert_eq!(refused, vec![true; 64]);
        fs::write(&broken, [&bytes[..], b"x"].concat()).unwrap();
        assert!(names(&broken).is_err());

        // The same archive with other contents.
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
                .contains("not a complete backup")
        );
    }
}
