//! Volumes of both classes on the real kernel; as root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use controller_planners::volume_move::CopyExtent;
use controller_planners::volume_provisioning::local::VolumeMode;
use host_kernel::btrfs;
use host_kernel::loop_device::LoopDevice;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use resource_kinds::storage::Driver;

use crate::subvolumes::InitialContents;
use crate::{Class, MovedVolume, Storage, StorageError as Error};

const MIB: u64 = 1 << 20;
const COW: Driver = Driver::LocalCow;

/// A data directory whose pool is unmounted at the end.
struct Data {
    dir: tempfile::TempDir,
}

impl Data {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("pool/mount")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("pool/pool.btrfs")
    }

    fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.mount_point()).is_some_and(|inner| Some(inner) != device(self.dir.path()))
    }

    async fn open(&self) -> Storage {
        Storage::open(self.dir.path()).await.unwrap()
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        umount2(&self.mount_point(), MntFlags::MNT_DETACH).ok();
    }
}

fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = vec![7; MIB as usize];
    for _ in 0..bytes / MIB {
        file.write_all(&block)?;
    }
    file.sync_all()
}

async fn make(storage: &Storage, volume: &str, mib: u64, content: InitialContents) -> PathBuf {
    let created = storage.make(COW, volume, mib * MIB, content, VolumeMode::Filesystem);
    created.await.unwrap()
}

/// Waits until no loop device uses the file. The kernel detaches the device when no process has it open, and tests of
/// other processes open every device for a moment, to search for their devices.
async fn no_loop_device_over(file: &Path) -> bool {
    for _ in 0..100 {
        if LoopDevice::find(file).is_ok_and(|device| device.is_none()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

#[tokio::test]
async fn a_volume_is_stopped_at_its_limit_and_grows_while_it_is_used() {
    let data = Data::new();
    let storage = data.open().await;
    let full = make(&storage, "pvc-full", 32, InitialContents::Empty).await;
    let second = make(&storage, "pvc-other", 32, InitialContents::Empty).await;
    let error = fill(&full.join("file"), 40 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EDQUOT), "{error}");
    fill(&second.join("file"), 8 * MIB).unwrap();
    fs::remove_file(full.join("file")).unwrap();
    fill(&full.join("file"), 8 * MIB).unwrap();
    storage.limit(COW, "pvc-full", 64 * MIB).await.unwrap();
    fill(&full.join("more"), 40 * MIB).unwrap();
    // The counts change with each transaction of the file system; the sync of a file may need no transaction.
    btrfs::sync(&data.mount_point()).unwrap();
    let count = storage.count(COW, "pvc-full").await.unwrap().unwrap();
    assert_eq!(count.limit, Some(64 * MIB));
    assert!(count.referenced >= 48 * MIB, "{count:?}");
    storage.close().await.unwrap();
}

/// docs/storage.md: the size of a volume of `local-cow` is enforced. The kernel may stop the counts of all volumes when
/// a volume is removed.
#[tokio::test]
async fn limits_hold_after_other_volumes_were_removed() {
    let data = Data::new();
    let storage = data.open().await;
    let stays = make(&storage, "pvc-stays", 32, InitialContents::Empty).await;
    let of_stays = || InitialContents::OfVolume("pvc-stays".to_owned());
    fill(&stays.join("shared"), 4 * MIB).unwrap();
    for round in 0..6 {
        for (name, content) in [
            ("pvc-new", InitialContents::Empty),
            ("pvc-copy", of_stays()),
        ] {
            let path = make(&storage, name, 32, content).await;
            fill(&path.join("file"), 8 * MIB).unwrap();
            let snapshot = format!("snapshot-{round}");
            storage.snapshot(COW, name, &snapshot).await.unwrap();
            storage.remove_snapshot(COW, &snapshot).await.unwrap();
            let path = path.display().to_string();
            storage.remove(COW, name, &path).await.unwrap();
        }
        btrfs::sync(&data.mount_point()).unwrap();
    }
    let wrong = btrfs::counts_dir(&data.mount_point())
        .unwrap()
        .join("inconsistent");
    assert_eq!(fs::read_to_string(wrong).unwrap().trim(), "0");
    let error = fill(&stays.join("file"), 40 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EDQUOT), "{error}");
    storage.close().await.unwrap();
}

/// The first count of a new pool is complete when the pool is open, also in each restore: the counts are correct.
// findings-2 R37
#[tokio::test]
async fn the_counts_of_a_new_pool_are_right_from_the_start() {
    for _ in 0..5 {
        let data = Data::new();
        let storage = data.open().await;
        make(&storage, "pvc-first", 32, InitialContents::Empty).await;
        let counts = btrfs::counts_dir(&data.mount_point()).unwrap();
        let wrong = fs::read_to_string(counts.join("inconsistent")).unwrap();
        assert_eq!(wrong.trim(), "0");
        storage.close().await.unwrap();
    }
}

#[tokio::test]
async fn snapshots_and_clones_show_one_moment() {
    let data = Data::new();
    let storage = data.open().await;
    let source = make(&storage, "pvc-source", 32, InitialContents::Empty).await;
    fs::write(source.join("file"), "before").unwrap();
    storage
        .snapshot(COW, "pvc-source", "snapshot-1")
        .await
        .unwrap();
    fs::write(source.join("file"), "after").unwrap();
    // The second call creates no new snapshot.
    storage
        .snapshot(COW, "pvc-source", "snapshot-1")
        .await
        .unwrap();
    let of_snapshot = InitialContents::OfSnapshot("snapshot-1".to_owned());
    let restored = make(&storage, "pvc-restored", 64, of_snapshot).await;
    let of_volume = InitialContents::OfVolume("pvc-source".to_owned());
    let cloned = make(&storage, "pvc-cloned", 32, of_volume).await;
    assert_eq!(fs::read(restored.join("file")).unwrap(), b"before");
    assert_eq!(fs::read(cloned.join("file")).unwrap(), b"after");
    fs::write(restored.join("file"), "its own").unwrap();
    assert_eq!(fs::read(source.join("file")).unwrap(), b"after");
    let error = fill(&cloned.join("large"), 40 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EDQUOT), "{error}");
    storage.remove_snapshot(COW, "snapshot-1").await.unwrap();
    assert!(!storage.has_snapshot(COW, "snapshot-1").await.unwrap());
    assert_eq!(fs::read(restored.join("file")).unwrap(), b"its own");
    storage.close().await.unwrap();
}

/// findings U10: if the host's file system supports snapshots, a backup also has snapshots of volumes of the class
/// `local`; snapshots of users are not removed, and a restore creates them again.
#[tokio::test]
async fn a_backup_keeps_volumes_still_and_makes_snapshots_again() {
    let data = Data::new();
    let pool = data.open().await;
    make(&pool, "pvc-any", 16, InitialContents::Empty).await;
    // A host with btrfs.
    let host = data.mount_point().join("host");
    fs::create_dir(&host).unwrap();
    let storage = Storage::open(&host).await.unwrap();
    let make_local = storage.make(
        Driver::Local,
        "pvc-1",
        16 * MIB,
        InitialContents::Empty,
        VolumeMode::Filesystem,
    );
    let volume = make_local.await.unwrap();
    fs::write(volume.join("file"), "before").unwrap();
    let snapshot = storage.snapshot(Driver::Local, "pvc-1", "snapshot-1");
    snapshot.await.unwrap();
    fs::write(volume.join("file"), "then").unwrap();
    let frozen = storage.freeze(&[Class::LocalCow, Class::Local]).await;
    let frozen = frozen.unwrap();
    fs::write(volume.join("file"), "after").unwrap();
    let [frozen] = &frozen[..] else {
        panic!("{frozen:?}");
    };
    assert_eq!(
        (frozen.class, frozen.volume.as_str()),
        (Class::Local, "pvc-1")
    );
    assert_eq!(fs::read(frozen.path.join("file")).unwrap(), b"then");
    let snapshots = storage.user_snapshots().await.unwrap();
    let names: Vec<&str> = snapshots
        .iter()
        .map(|snapshots| snapshots.name.as_str())
        .collect();
    assert_eq!(names, ["snapshot-1"]);
    assert_eq!(fs::read(snapshots[0].path.join("file")).unwrap(), b"before");
    storage.thaw().await.unwrap();
    assert!(!frozen.path.exists() && snapshots[0].path.exists());

    let volume = storage.make_empty(Class::Local, "restored-a", 64 * MIB);
    let volume = volume.await.unwrap();
    fs::write(volume.join("file"), "kept").unwrap();
    let snapshot_created = storage.turn_into_snapshot(Class::Local, "restored-a", "a");
    assert!(snapshot_created.await.unwrap());
    assert!(!volume.exists());
    assert_eq!(fs::read(host.join("snapshots/a/file")).unwrap(), b"kept");
    pool.close().await.unwrap();

    // A file system without snapshots.
    let plain = tempfile::tempdir().unwrap();
    let storage = Storage::open(plain.path()).await.unwrap();
    let volume = storage.make_empty(Class::Local, "restored-a", 64 * MIB);
    let volume = volume.await.unwrap();
    assert_eq!(storage.freeze(&[Class::Local]).await.unwrap(), []);
    let snapshot_created = storage.turn_into_snapshot(Class::Local, "restored-a", "a");
    assert!(!snapshot_created.await.unwrap());
    assert!(!volume.exists());
}

#[tokio::test]
async fn a_pool_outlives_a_killed_program_and_a_reboot() {
    let data = Data::new();
    let storage = data.open().await;
    let volume = make(&storage, "pvc-1", 16, InitialContents::Empty).await;
    fs::write(volume.join("file"), "data").unwrap();
    fs::File::open(volume.join("file"))
        .unwrap()
        .sync_all()
        .unwrap();
    // Killed: the mount stays.
    drop(storage);
    let before = fs::metadata(data.mount_point()).unwrap().dev();
    let storage = data.open().await;
    assert_eq!(fs::metadata(data.mount_point()).unwrap().dev(), before);
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"data");
    // A reboot: the mount and the device do not exist, and a volume was not complete.
    drop(storage);
    fs::create_dir(data.mount_point().join("volumes/.unfinished-pvc-2")).unwrap();
    umount2(&data.mount_point(), MntFlags::empty()).unwrap();
    assert!(!data.is_mounted() && no_loop_device_over(&data.file()).await);
    let storage = data.open().await;
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"data");
    assert!(
        !data
            .mount_point()
            .join("volumes/.unfinished-pvc-2")
            .exists()
    );
    let error = fill(&volume.join("large"), 20 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EDQUOT), "{error}");
    // A shutdown removes the mount and the device, and the data stays; an empty pool is deleted.
    storage.close().await.unwrap();
    assert!(!data.is_mounted() && no_loop_device_over(&data.file()).await);
    let storage = data.open().await;
    let path = volume.to_str().unwrap();
    storage.remove(COW, "pvc-1", path).await.unwrap();
    storage.close().await.unwrap();
    assert!(!data.file().exists());
}

#[tokio::test]
async fn two_pools_are_mounted_beside_each_other() {
    let (first_data, second_data) = (Data::new(), Data::new());
    let (first, second) = (first_data.open().await, second_data.open().await);
    let a = make(&first, "pvc-1", 16, InitialContents::Empty).await;
    let b = make(&second, "pvc-1", 16, InitialContents::Empty).await;
    fs::write(a.join("file"), "one").unwrap();
    fs::write(b.join("file"), "two").unwrap();
    assert_eq!(fs::read(a.join("file")).unwrap(), b"one");
    first.close().await.unwrap();
    second.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_volumes_and_harms_none() {
    let data = Data::new();
    let pool = data.dir.path().join("pool");
    fs::create_dir(&pool).unwrap();
    let memory = Some("size=2G");
    mount(
        Some("tmpfs"),
        &pool,
        Some("tmpfs"),
        MsFlags::empty(),
        memory,
    )
    .unwrap();
    let storage = data.open().await;
    let existing = make(&storage, "pvc-kept", 64, InitialContents::Empty).await;
    let large = storage
        .make(
            COW,
            "pvc-large",
            4096 * MIB,
            InitialContents::Empty,
            VolumeMode::Filesystem,
        )
        .await;
    assert!(matches!(large, Err(Error::DiskFull { .. })), "{large:?}");
    // The rest of the disk fills up: existing volumes keep their space.
    fill(&pool.join("others"), 4096 * MIB).unwrap_err();
    fill(&existing.join("file"), 48 * MIB).unwrap();
    let grown = storage.limit(COW, "pvc-kept", 1024 * MIB).await;
    assert!(matches!(grown, Err(Error::DiskFull { .. })), "{grown:?}");
    storage.close().await.unwrap();
    umount2(&pool, MntFlags::MNT_DETACH).unwrap();
}

#[tokio::test]
async fn plain_directories_are_not_copied() {
    let data = Data::new();
    let local = data.dir.path().join("volumes");
    fs::create_dir(&local).unwrap();
    mount(
        Some("tmpfs"),
        &local,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=8M"),
    )
    .unwrap();
    let storage = data.open().await;
    let bytes = 4 * MIB;
    let make = |volume: &'static str, content| {
        storage.make(
            Driver::Local,
            volume,
            bytes,
            content,
            VolumeMode::Filesystem,
        )
    };
    make("pvc-1", InitialContents::Empty).await.unwrap();
    let snapshot = storage.snapshot(Driver::Local, "pvc-1", "snapshot-1").await;
    assert!(matches!(snapshot, Err(Error::NoCopies { .. })));
    let clone = make("pvc-2", InitialContents::OfVolume("pvc-1".to_owned())).await;
    assert!(matches!(clone, Err(Error::NoCopies { .. })));
    assert!(!local.join("pvc-2").exists());
    assert!(!data.file().exists());
    storage.close().await.unwrap();
    umount2(&local, MntFlags::MNT_DETACH).unwrap();
}

/// The class `local` on a host that has btrfs itself.
#[tokio::test]
async fn a_hosts_own_btrfs_copies_volumes_of_the_class_local() {
    let host = Data::new();
    let on_host = host.open().await;
    make(&on_host, "pvc-any", 64, InitialContents::Empty).await;
    let dir = host.mount_point().join("data");
    fs::create_dir(&dir).unwrap();
    let storage = Storage::open(&dir).await.unwrap();
    let local = Driver::Local;
    let source = storage.make(
        local,
        "pvc-1",
        16 * MIB,
        InitialContents::Empty,
        VolumeMode::Filesystem,
    );
    let source = source.await.unwrap();
    fs::write(source.join("file"), "data").unwrap();
    storage
        .snapshot(local, "pvc-1", "snapshot-1")
        .await
        .unwrap();
    let of_snapshot = InitialContents::OfSnapshot("snapshot-1".to_owned());
    let restored = storage.make(
        local,
        "pvc-2",
        16 * MIB,
        of_snapshot,
        VolumeMode::Filesystem,
    );
    let restored = restored.await.unwrap();
    assert_eq!(fs::read(restored.join("file")).unwrap(), b"data");
    let error = fill(&restored.join("large"), 20 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EDQUOT), "{error}");
    let path = restored.to_str().unwrap();
    storage.remove(local, "pvc-2", path).await.unwrap();
    assert!(!restored.exists());
    copy_an_image(&storage).await;
    storage.close().await.unwrap();
    on_host.close().await.unwrap();
}

/// Block devices are copied like files, and only their size limits them.
async fn copy_an_image(storage: &Storage) {
    let local = Driver::Local;
    let make = |volume: &'static str, mib: u64, content| {
        storage.make(local, volume, mib * MIB, content, VolumeMode::Block)
    };
    let source = make("pvc-raw", 16, InitialContents::Empty).await.unwrap();
    fill(&source, 16 * MIB).unwrap();
    assert_eq!(
        storage
            .count(local, "pvc-raw")
            .await
            .unwrap()
            .unwrap()
            .limit,
        None
    );
    storage
        .snapshot(local, "pvc-raw", "snapshot-raw")
        .await
        .unwrap();
    let of_snapshot = InitialContents::OfSnapshot("snapshot-raw".to_owned());
    let restored = make("pvc-copy", 32, of_snapshot).await.unwrap();
    let image = fs::read(&restored).unwrap();
    assert_eq!(image.len() as u64, 32 * MIB);
    assert!(image.starts_with(&[7; 4096]) && image.ends_with(&[0; 4096]));
    // A volume of files cannot become an image.
    let of_files = InitialContents::OfVolume("pvc-1".to_owned());
    assert!(make("pvc-wrong", 32, of_files).await.is_err());
}

/// The leader was not known when the node was away.
#[tokio::test]
async fn snapshots_of_a_move_that_is_over_go_at_the_start_of_the_node() {
    let data = Data::new();
    let storage = data.open().await;
    make(&storage, "pvc-1", 16, InitialContents::Empty).await;
    let of = |id| MovedVolume {
        driver: Driver::LocalCow,
        id,
        volume: "pvc-1",
    };
    for id in ["a1", "b2"] {
        let snapshots = storage.snapshots_of_move(of(id), CopyExtent::First).await;
        assert!(snapshots.unwrap().snapshot.exists());
    }
    storage
        .sweep_moves(|id, volume| (id, volume) == ("b2", "pvc-1"))
        .await
        .unwrap();
    let has_first_copy = async |id| {
        let inspection = storage.inspect_move(of(id)).await.unwrap();
        assert!(inspection.used.is_some());
        inspection.has_first_copy
    };
    assert!(!has_first_copy("a1").await && has_first_copy("b2").await);
}
