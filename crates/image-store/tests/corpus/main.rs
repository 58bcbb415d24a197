//! Unusual images, created from descriptions: the files of each image, as the kernel shows them, equal the
//! files that umoci unpacks. A difference is a defect, or has an entry with its reason below.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod description;
mod images;
mod reasons;
mod tree;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use description::Described;
use image_store::ImageStore;
use reasons::reason;
use rustix::mount::{UnmountFlags, unmount};
use tree::Tree;

/// The files of an image in this store, with the layers merged by the kernel.
fn ours(image: &Described, layout: &Path, directory: &Path) -> Result<Tree, String> {
    let store = ImageStore::open(directory.join("store")).unwrap();
    let names = store.import(layout).map_err(|error| chain(&error))?;
    let layers = store.get(&names[0]).unwrap().unwrap().layers;
    let merged = Merged::mount(&layers, &directory.join("merged"));
    assert!(layers.len() <= image.layers.len());
    Ok(tree::read(&merged.0, &|_| false))
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// A read-only overlay mount.
struct Merged(PathBuf);

impl Merged {
    fn mount(layers: &[PathBuf], at: &Path) -> Self {
        let names = at.with_extension("names");
        for directory in [at, &names, &names.join("e")] {
            fs::create_dir_all(directory).unwrap();
        }
        let mut all = Vec::new();
        for (number, layer) in layers.iter().rev().enumerate() {
            symlink(layer, names.join(number.to_string())).unwrap();
            all.push(number.to_string());
        }
        // The kernel accepts at most 500 layers, and at least two.
        if all.len() < 500 {
            all.push("e".to_owned());
        }
        let options = format!("lowerdir={}", all.join(":"));
        // Busybox uses mount(2) directly, in its working directory.
        let mounted = Command::new("busybox")
            .args(["mount", "-t", "overlay", "-o", &options, "overlay"])
            .arg(at)
            .current_dir(&names)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "{stderr} {options}");
        Merged(at.to_owned())
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// The files of an image, unpacked by umoci.
fn umocis(layout: &Path, directory: &Path) -> Result<Tree, String> {
    let bundle = directory.join("bundle");
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:image", layout.display()))
        .arg(&bundle)
        .output()
        .expect("umoci runs (cargo xtask setup installs it)");
    match unpacked.status.success() {
        true => Ok(tree::read(&bundle.join("rootfs"), &|_| false)),
        false => Err(String::from_utf8_lossy(&unpacked.stderr).into_owned()),
    }
}

/// findings-2 I3, I5
#[test]
fn the_files_of_odd_images_are_those_of_another_implementation() {
    let images = images::all();
    assert!(images.len() >= 200, "{}", images.len());
    let outer = tempfile::tempdir().unwrap();
    let (mut compared, mut faults) = (0, Vec::new());
    for image in &images {
        let directory = outer.path().join(&image.name);
        let layout = directory.join("layout");
        image.write(&layout);
        let theirs = umocis(&layout, &directory);
        let ours = ours(image, &layout, &directory);
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                compared += 1;
                let differences = tree::compare(ours, theirs);
                let unwanted = differences
                    .iter()
                    .filter(|difference| reason(image, difference).is_none());
                let unwanted: Vec<_> = unwanted
                    .map(|difference| format!("{difference:?}"))
                    .collect();
                if !unwanted.is_empty() {
                    let differences = unwanted.join("\n    ");
                    faults.push(format!(
                        "{}: {:?}\n    {differences}",
                        image.name, image.layers
                    ));
                }
            }
            (Err(ours), Ok(_)) => faults.push(format!("{}: {:?} {ours}", image.name, image.layers)),
            (_, Err(theirs)) => println!("{}: umoci refuses {theirs}", image.name),
        }
        fs::remove_dir_all(directory).unwrap();
    }
    println!("{compared} of {} compared", images.len());
    assert!(
        faults.is_empty(),
        "{} of {compared}:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
