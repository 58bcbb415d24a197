use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use controller_planners::volume_move::{Detachment, Inspection};
use serde::de::DeserializeOwned;
use tar::EntryType;

use super::*;

mod replicas;
mod snapshots;

const VOLUME: &str = "pvc-1";

/// A node with its data directory.
struct Node {
    directory: tempfile::TempDir,
    moves: NodeMoves,
    driver: Driver,
}

impl Node {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::open(directory.path()).await.unwrap();
        Self {
            moves: NodeMoves::new(storage),
            directory,
            driver: Driver::Local,
        }
    }

    fn volume(&self) -> PathBuf {
        let volumes = match self.driver {
            Driver::Local => "volumes",
            Driver::LocalCow => "pool/mount/volumes",
        };
        self.directory.path().join(volumes).join(VOLUME)
    }

    /// The limit of the volume.
    fn bytes(&self) -> &'static str {
        match self.driver {
            Driver::Local => "1048576",
            Driver::LocalCow => "67108864",
        }
    }

    async fn step(
        &self,
        step: &str,
        parameters: &[(&str, &str)],
        body: Bytes,
    ) -> StepResult<Bytes> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let driver = [("driver", self.driver.name())];
        let step = MoveStep {
            volume: VOLUME.to_owned(),
            id: "a1".to_owned(),
            step: step.to_owned(),
            parameters: parameters.iter().chain(&driver).map(pair).collect(),
            body,
        };
        self.moves.carry_out(step).await
    }

    async fn ask<T: DeserializeOwned>(&self, step: &str) -> T {
        let response = self.step(step, &[], Bytes::new()).await.unwrap();
        serde_json::from_slice(&response).unwrap()
    }
}

/// Copies as the controller does; `cut` bytes of the stream are left out at the end.
async fn copy(from: &Node, to: &Node, attempt: &str, cut: usize) -> StepResult<CopyReceipt> {
    let mut stream = read(from, attempt, CopyExtent::Whole).await?;
    stream.truncate(stream.len() - cut);
    write(to, attempt, CopyExtent::Whole, &stream).await
}

async fn read(from: &Node, attempt: &str, extent: CopyExtent) -> StepResult<Vec<u8>> {
    let mut stream = Vec::new();
    loop {
        let offset = stream.len().to_string();
        let at = [
            ("attempt", attempt),
            ("extent", extent.name()),
            ("offset", offset.as_str()),
        ];
        let part = from.step("read", &at, Bytes::new()).await?;
        if part.is_empty() {
            return Ok(stream);
        }
        stream.extend_from_slice(&part);
    }
}

async fn write(
    to: &Node,
    attempt: &str,
    extent: CopyExtent,
    stream: &[u8],
) -> StepResult<CopyReceipt> {
    let mut offset = 0;
    loop {
        let part = Bytes::copy_from_slice(&stream[offset..stream.len().min(offset + 70_000)]);
        let (text, last) = (offset.to_string(), part.is_empty().to_string());
        let at = [
            ("attempt", attempt),
            ("extent", extent.name()),
            ("offset", text.as_str()),
            ("bytes", to.bytes()),
            ("last", last.as_str()),
        ];
        offset += part.len();
        let response = to.step("receive", &at, part).await?;
        match serde_json::from_slice(&response).unwrap() {
            CopyReceipt::More => {}
            receipt => return Ok(receipt),
        }
    }
}

fn fill(volume: &Path) {
    fs::create_dir_all(volume.join("deep/er")).unwrap();
    fs::write(volume.join("deep/er/file"), vec![7; 3 << 20]).unwrap();
    fs::hard_link(volume.join("deep/er/file"), volume.join("second")).unwrap();
    symlink("deep/er/file", volume.join("link")).unwrap();
    nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let sparse = File::create(volume.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 8 << 20).unwrap();
    fs::write(volume.join("script"), "").unwrap();
    let mode = Permissions::from_mode(0o4711);
    fs::set_permissions(volume.join("script"), mode).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(volume.join("script"), "user.kept", b"yes", flags).ok();
    fs::set_permissions(volume.join("deep"), Permissions::from_mode(0o2770)).unwrap();
}

/// The facts of a file that its users see.
fn facts(root: &Path, path: &str) -> impl PartialEq + std::fmt::Debug + use<> {
    let path = root.join(path);
    let metadata = fs::symlink_metadata(&path).unwrap();
    let mut value = vec![0; 16];
    let attribute = rustix::fs::lgetxattr(&path, "user.kept", value.as_mut_slice()).ok();
    let ownership = (
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.nlink(),
    );
    let time = (metadata.mtime(), metadata.mtime_nsec());
    let content = metadata.is_file().then(|| fs::read(&path).unwrap());
    (
        ownership,
        time,
        content,
        fs::read_link(&path).ok(),
        attribute,
        value,
    )
}

const PATHS: [&str; 9] = [
    "",
    "deep",
    "deep/er",
    "deep/er/file",
    "second",
    "link",
    "pipe",
    "sparse",
    "script",
];

async fn with_volume() -> (Node, Node) {
    let (from, to) = (Node::open().await, Node::open().await);
    fs::create_dir(from.volume()).unwrap();
    fill(&from.volume());
    (from, to)
}

#[tokio::test]
async fn a_volume_arrives_as_it_was() {
    let (from, to) = with_volume().await;
    let before: Vec<_> = PATHS.map(|path| facts(&from.volume(), path)).into();
    let inspection: Inspection = from.ask("inspect").await;
    assert!(inspection.used.is_some_and(|used| used >= 3 << 20));
    let detached: Detachment = from.ask("detach").await;
    assert_eq!(detached, Detachment::Detached);
    let path = to.volume().to_string_lossy().into_owned();
    let copied = copy(&from, &to, "x", 0).await.unwrap();
    assert_eq!(copied, CopyReceipt::Arrived(path.clone()));
    assert!(!to.volume().exists() && !from.volume().exists());
    // Another attempt gets the path of the existing copy.
    assert_eq!(
        copy(&from, &to, "y", 0).await.unwrap(),
        CopyReceipt::Arrived(path)
    );
    let () = to.ask("place").await;
    let () = from.ask("discard").await;
    let after: Vec<_> = PATHS.map(|path| facts(&to.volume(), path)).into();
    assert_eq!(before, after);
    let inode = |path: &str| fs::metadata(to.volume().join(path)).unwrap().ino();
    assert_eq!(inode("second"), inode("deep/er/file"));
    let sparse = fs::metadata(to.volume().join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20);
    let entries = fs::read_dir(from.volume().parent().unwrap()).unwrap();
    let entries = entries.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(entries.count(), 0);
}

#[tokio::test]
async fn a_copy_that_is_cut_off_does_not_arrive() {
    let (from, to) = with_volume().await;
    let _: Detachment = from.ask("detach").await;
    for (attempt, cut) in [("x", 600), ("y", 2000), ("z", 2 << 20)] {
        // Only zeros follow the last entry: without them it is complete.
        let cut = cut + 1024;
        let copied = copy(&from, &to, attempt, cut).await;
        assert!(copied.is_err(), "{copied:?}");
        assert!(!to.volume().exists());
    }
    assert!(matches!(
        copy(&from, &to, "again", 0).await.unwrap(),
        CopyReceipt::Arrived(_)
    ));
    let () = to.ask("abandon").await;
    let () = from.ask("abandon").await;
    assert!(from.volume().join("second").exists() && !to.volume().exists());
    assert!(copy(&from, &to, "late", 0).await.is_err());
}

/// The parameters of a part.
fn part_at<'a>(offset: &'a str, last: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("attempt", "x"),
        ("offset", offset),
        ("bytes", "1048576"),
        ("last", last),
    ]
}

/// A stream of a node that was taken over: files below links and parents that lead out of the volume.
#[tokio::test]
async fn a_copy_never_leaves_the_volume() {
    let outside = tempfile::tempdir().unwrap();
    let entry = |archive: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if kind == EntryType::Symlink {
            archive
                .append_link(&mut header, path, outside.path())
                .unwrap();
        } else {
            // The builder itself refuses such names.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, std::io::empty()).unwrap();
        }
    };
    for (link, file) in [
        ("volume/link", "volume/link/file"),
        ("volume/link", "volume/../../file"),
        ("volume/link", "volume/absent/file"),
        ("volume/link", "elsewhere"),
        ("volume/link", "volume/link"),
    ] {
        let to = Node::open().await;
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, EntryType::Directory, "volume");
        entry(&mut archive, EntryType::Symlink, link);
        entry(&mut archive, EntryType::Regular, file);
        let stream = Bytes::from(archive.into_inner().unwrap());
        let length = stream.len().to_string();
        let first = to.step("receive", &part_at("0", "false"), stream).await;
        let end = to
            .step("receive", &part_at(&length, "true"), Bytes::new())
            .await;
        assert!(first.is_err() || end.is_err(), "{file}: {end:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{file}");
        assert!(!to.directory.path().join("file").exists(), "{file}");
    }
}

#[tokio::test]
async fn parts_are_taken_in_their_order() {
    let (from, to) = with_volume().await;
    let _: Detachment = from.ask("detach").await;
    let at = [("attempt", "x"), ("offset", "5"), ("bytes", "1")];
    assert!(from.step("read", &at, Bytes::new()).await.is_err());
    assert!(to.step("receive", &at, Bytes::new()).await.is_err());
    assert!(to.step("unknown", &[], Bytes::new()).await.is_err());
    assert!(to.step("place", &[], Bytes::new()).await.is_err());
}
