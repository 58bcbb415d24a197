//! Volumes of `local-cow`, in pools of their own.

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use volume_storage::Class;

use super::*;

/// The limit of the volume.
const LIMIT: u64 = 64 << 20;

impl Drop for Node {
    fn drop(&mut self) {
        // Only a node with a pool has a mount.
        umount2(
            &self.directory.path().join("pool/mount"),
            MntFlags::MNT_DETACH,
        )
        .ok();
    }
}

async fn open() -> Node {
    let mut node = Node::open().await;
    node.driver = Driver::LocalCow;
    node
}

pub(super) async fn with_volume() -> (Node, Node) {
    let (from, to) = (open().await, open().await);
    let created = from
        .moves
        .storage
        .make_empty(Class::LocalCow, VOLUME, LIMIT);
    fill(&created.await.unwrap());
    (from, to)
}

async fn copied(
    from: &Node,
    to: &Node,
    attempt: &str,
    extent: CopyExtent,
) -> StepResult<CopyReceipt> {
    let stream = read(from, attempt, extent).await?;
    write(to, attempt, extent, &stream).await
}

fn arrived_at(node: &Node) -> CopyReceipt {
    CopyReceipt::Arrived(node.volume().to_string_lossy().into_owned())
}

/// The names in the directory of the volume, without the files of ended moves.
pub(super) fn names(node: &Node) -> Vec<String> {
    let Ok(entries) = fs::read_dir(node.volume().parent().unwrap()) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = entries.map(|entry| name(entry).into_string().unwrap());
    names.filter(|name| !name.starts_with(".ended-")).collect()
}

/// The changes of a pod after the first copy.
fn change(volume: &Path) {
    let file = File::options().write(true).open(volume.join("second"));
    file.unwrap().write_all_at(b"changed", 1 << 20).unwrap();
    fs::rename(volume.join("deep/er"), volume.join("moved")).unwrap();
    fs::create_dir(volume.join("deep/er")).unwrap();
    fs::rename(volume.join("moved/file"), volume.join("deep/er/file")).unwrap();
    fs::remove_dir(volume.join("moved")).unwrap();
    fs::remove_file(volume.join("link")).unwrap();
    symlink("second", volume.join("link")).unwrap();
    fs::set_permissions(volume.join("script"), Permissions::from_mode(0o600)).unwrap();
    fs::write(volume.join("script"), "longer than before").unwrap();
}

async fn inspection(node: &Node) -> Inspection {
    node.ask("inspect").await
}

#[tokio::test]
async fn a_volume_of_the_pool_arrives_in_two_streams() {
    let (from, to) = with_volume().await;
    let measured = inspection(&from).await;
    assert!(
        measured.used.is_some_and(|used| used >= 3 << 20),
        "{measured:?}"
    );
    assert_eq!(
        (measured.limit, measured.has_first_copy),
        (Some(LIMIT), false)
    );
    // Without a pool, the node has free bytes for one pool.
    assert!(inspection(&to).await.free > LIMIT);
    let first = read(&from, "a", CopyExtent::First).await.unwrap();
    // Pods run all the time.
    change(&from.volume());
    let received = write(&to, "a", CopyExtent::First, &first).await.unwrap();
    assert_eq!(received, arrived_at(&to));
    assert!(from.volume().exists() && !to.volume().exists());
    assert!(inspection(&from).await.has_first_copy && inspection(&to).await.has_first_copy);
    assert!(read(&from, "b", CopyExtent::Increment).await.is_err());
    let detached: Detachment = from.ask("detach").await;
    assert_eq!(detached, Detachment::Detached);
    let before: Vec<_> = {
        let moving = from.volume().with_file_name(format!(".moving-a1-{VOLUME}"));
        PATHS.map(|path| facts(&moving, path)).into()
    };
    let increment = read(&from, "b", CopyExtent::Increment).await.unwrap();
    assert!(increment.len() < first.len() / 4, "{}", increment.len());
    let received = write(&to, "b", CopyExtent::Increment, &increment)
        .await
        .unwrap();
    assert_eq!(received, arrived_at(&to));
    let () = to.ask("place").await;
    let () = from.ask("discard").await;
    let after: Vec<_> = PATHS.map(|path| facts(&to.volume(), path)).into();
    assert_eq!(before, after);
    assert_eq!(
        (names(&from), names(&to)),
        (vec![], vec![VOLUME.to_owned()])
    );
    let arrived = inspection(&to).await;
    assert_eq!(
        (arrived.limit, arrived.has_first_copy),
        (Some(LIMIT), false)
    );
    // Calls that were on their way.
    assert!(read(&from, "c", CopyExtent::First).await.is_err());
    assert!(write(&to, "c", CopyExtent::First, &first).await.is_err());
    assert_eq!(
        (names(&from), names(&to)),
        (vec![], vec![VOLUME.to_owned()])
    );
}

#[tokio::test]
async fn a_stream_that_is_cut_off_is_received_again() {
    let (from, to) = with_volume().await;
    for extent in [CopyExtent::First, CopyExtent::Increment] {
        let stream = read(&from, extent.name(), extent).await.unwrap();
        for length in [0, 16, stream.len() / 2, stream.len() - 1] {
            let attempt = format!("{}-{length}", extent.name());
            let cut = write(&to, &attempt, extent, &stream[..length]).await;
            assert!(cut.is_err(), "{extent:?} {length} {cut:?}");
            assert_eq!(
                inspection(&to).await.has_first_copy,
                extent != CopyExtent::First
            );
        }
        let whole = write(&to, "whole", extent, &stream).await.unwrap();
        assert_eq!(whole, arrived_at(&to));
        if extent == CopyExtent::First {
            change(&from.volume());
            let _: Detachment = from.ask("detach").await;
        }
    }
    let () = to.ask("place").await;
    assert_eq!(
        fs::read(to.volume().join("script")).unwrap(),
        b"longer than before"
    );
    assert_eq!(names(&to), [VOLUME]);
}

#[tokio::test]
async fn a_difference_to_another_first_copy_is_not_received() {
    let (from, to) = with_volume().await;
    copied(&from, &to, "a", CopyExtent::First).await.unwrap();
    // The source loses its first snapshot, and creates another first snapshot.
    let of = MovedVolume {
        driver: Driver::LocalCow,
        id: "a1",
        volume: VOLUME,
    };
    from.moves.storage.forget_first_copy(of).await.unwrap();
    change(&from.volume());
    read(&from, "b", CopyExtent::First).await.unwrap();
    let _: Detachment = from.ask("detach").await;
    let refused = copied(&from, &to, "c", CopyExtent::Increment).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(!inspection(&to).await.has_first_copy);
    let whole = copied(&from, &to, "d", CopyExtent::Whole).await.unwrap();
    assert_eq!(whole, arrived_at(&to));
    let () = to.ask("place").await;
    let () = from.ask("discard").await;
    assert_eq!(
        fs::read(to.volume().join("script")).unwrap(),
        b"longer than before"
    );
    assert_eq!(
        (names(&from), names(&to)),
        (vec![], vec![VOLUME.to_owned()])
    );
}

#[tokio::test]
async fn an_abandoned_move_leaves_the_volume_alone() {
    let (from, to) = with_volume().await;
    copied(&from, &to, "a", CopyExtent::First).await.unwrap();
    let _: Detachment = from.ask("detach").await;
    copied(&from, &to, "b", CopyExtent::Increment)
        .await
        .unwrap();
    for _ in 0..2 {
        let () = from.ask("abandon").await;
        let () = to.ask("abandon").await;
    }
    assert_eq!(
        (names(&from), names(&to)),
        (vec![VOLUME.to_owned()], vec![])
    );
    assert!(from.volume().join("deep/er/file").exists());
    assert!(read(&from, "late", CopyExtent::First).await.is_err());
    // This step does not create a pool on a node without a pool.
    let third = open().await;
    let () = third.ask("abandon").await;
    assert!(!third.volume().parent().unwrap().exists());
}

#[tokio::test]
async fn files_that_streams_do_not_have_are_refused() {
    let (from, to) = with_volume().await;
    let device = from.volume().join("device");
    mknod(&device, SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    let refused = copied(&from, &to, "a", CopyExtent::First).await.unwrap();
    assert!(
        matches!(&refused, CopyReceipt::Impossible(text) if text.contains("device")),
        "{refused:?}"
    );
    let () = from.ask("abandon").await;
    let (from, _) = with_volume().await;
    host_kernel::btrfs::create_subvolume(&from.volume().join("deep/inner")).unwrap();
    let refused = read(&from, "a", CopyExtent::First).await.unwrap_err();
    assert_eq!(refused.code, 422, "{refused:?}");
}
