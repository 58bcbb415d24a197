//! Acknowledged writes have reached the disk: a file system on a disk in memory, of which a copy is
//! made at once, as a loss of power would leave it. (Needs root, to mount it.)

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use mvcc_store::{
    Operation, Range, Store, Txn, Value,
    embedded::{EmbeddedOptions, EmbeddedStore},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
}

/// Something mounted, unmounted in the end.
struct Mounted(PathBuf);

impl Mounted {
    /// A file system in the image whose blocks are written only to the image.
    fn image(image: &Path, at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let (image, mount_point) = (image.to_str().unwrap(), at.to_str().unwrap());
        // Its own journal is written every few hundred seconds, not every five.
        run("mount", &["-o", "loop,commit=300", image, mount_point]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

async fn keys(store: &EmbeddedStore) -> usize {
    let all = Range {
        start: vec![],
        end: Some(vec![0xff]),
        ..Range::default()
    };
    store.range(all).await.unwrap().count
}

/// findings A10: with a store that does not sync, the copy has none of this.
#[tokio::test]
async fn what_is_acknowledged_survives_a_loss_of_power() {
    let dir = tempfile::tempdir().unwrap();
    let options = c"size=400m";
    mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options).unwrap();
    let _memory = Mounted(dir.path().to_owned());
    let image = dir.path().join("image");
    File::create(&image).unwrap().set_len(160 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    let volume = Mounted::image(&image, dir.path().join("volume"));
    let options = EmbeddedOptions::new(volume.0.join("store"));
    let store = EmbeddedStore::open(options).unwrap();
    for number in 1..=20 {
        let operation = Operation::Put {
            key: format!("key/{number}").into(),
            value: Value::Plain(Bytes::from(vec![b'x'; 1000])),
            lease: None,
        };
        let txn = Txn {
            compare: vec![],
            operations: vec![operation],
        };
        store.txn(txn).await.unwrap();
        if number % 10 != 0 {
            continue;
        }
        let copy = dir.path().join(format!("image-{number}"));
        run(
            "cp",
            &[
                "--sparse=always",
                image.to_str().unwrap(),
                copy.to_str().unwrap(),
            ],
        );
        let after = Mounted::image(&copy, dir.path().join(format!("after-{number}")));
        let reopened = EmbeddedStore::open(EmbeddedOptions::new(after.0.join("store"))).unwrap();
        assert_eq!(
            keys(&reopened).await,
            number,
            "of those that were acknowledged"
        );
        reopened.close();
    }
    store.close();
}
