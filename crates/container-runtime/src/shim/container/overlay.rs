//! Overlays of up to 500 layers.
//!
//! The kernel accepts the options of an overlay in one page; newer kernels accept each layer separately.
//! The paths of layers contain digests, and about 40 paths fill the page. If there are more layers, or if
//! their ids are mapped, each layer gets a short name in a directory that exists only for the mount. Other
//! processes recognise layers in use by the options of the mount, so a short name is a prefix of the
//! digest.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, umount2};

use super::mapped_mounts::{self, MountDepth};
use super::user_namespace::UserNamespace;

/// Maximum bytes of mount options: one page, including the terminating zero.
const OPTIONS_BYTES_MAX: usize = 4095;

/// Maximum number of layers: the kernel's `OVL_MAX_STACK`.
const LAYERS_MAX: usize = 500;

/// Bytes of a short name. The options of 500 names and the two writable directories fit into a page.
const NAME_BYTES: usize = 6;

/// Names of the writable directories.
const UPPER: &str = "up";
const WORK: &str = "work";

/// Mounts an overlay of layers, of which the last is the top. Without `written` directories (upper and
/// work), the overlay is read-only and not executable. With `users`, the ids of the layers are mapped.
pub(crate) fn mount(
    layers: &[PathBuf],
    written: Option<(&Path, &Path)>,
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    if layers.len() > LAYERS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the image has {} layers, and the kernel mounts {LAYERS_MAX} at most",
                layers.len()
            ),
        ));
    }
    let paths = options(layers, written);
    let mounted = if users.is_none() && paths.len() <= OPTIONS_BYTES_MAX {
        mount_options(paths, target, written.is_some())
    } else {
        let staged = Staged::make(layers, written, &target.with_extension("staged"), users)?;
        staged.mount(target)
    };
    mounted.map_err(|error| {
        let count = layers.len();
        io::Error::new(
            error.kind(),
            format!("mount the overlay of {count} layers: {error}"),
        )
    })
}

fn mount_options(options: Vec<u8>, target: &Path, is_written: bool) -> io::Result<()> {
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "its options have {} bytes, and the kernel takes {OPTIONS_BYTES_MAX}",
                options.len()
            ),
        ));
    }
    let flags = match is_written {
        true => MsFlags::empty(),
        false => MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    };
    let options = OsString::from_vec(options);
    let kind = Some("overlay");
    Ok(nix::mount::mount(
        kind,
        target,
        kind,
        flags,
        Some(options.as_os_str()),
    )?)
}

/// A directory with the layers by their short names: links, or mounts with mapped ids. It is removed when
/// the value is dropped; the overlay holds references to the layers.
struct Staged {
    dir: PathBuf,
    names: Vec<PathBuf>,
    is_written: bool,
    is_mapped: bool,
}

impl Staged {
    fn make(
        layers: &[PathBuf],
        written: Option<(&Path, &Path)>,
        dir: &Path,
        users: Option<&UserNamespace>,
    ) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut staged = Staged {
            dir: dir.to_owned(),
            names: Vec::new(),
            is_written: written.is_some(),
            is_mapped: users.is_some(),
        };
        for (layer, name) in layers.iter().zip(short_names(layers)) {
            let staged_layer = dir.join(&name);
            staged.names.push(name.into());
            let attached = match users {
                None => std::os::unix::fs::symlink(layer, &staged_layer),
                Some(_) => mapped_mounts::find(layer).and_then(|source| {
                    mapped_mounts::bind(&source, &staged_layer, MountDepth::One, users)
                }),
            };
            attached.map_err(|error| {
                let layer = layer.display();
                io::Error::new(error.kind(), format!("mount {layer}: {error}"))
            })?;
        }
        if let Some((upper, work)) = written {
            std::os::unix::fs::symlink(upper, dir.join(UPPER))?;
            std::os::unix::fs::symlink(work, dir.join(WORK))?;
        }
        Ok(staged)
    }

    fn mount(&self, target: &Path) -> io::Result<()> {
        let written = self
            .is_written
            .then_some((Path::new(UPPER), Path::new(WORK)));
        let options = options(&self.names, written);
        // The working directory may change, because this process mounts and then exits.
        let before = std::env::current_dir()?;
        std::env::set_current_dir(&self.dir)?;
        let mounted = mount_options(options, target, self.is_written);
        std::env::set_current_dir(before)?;
        mounted
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // If a removal fails, the files are removed with the container's directory.
        for staged_layer in self.names.iter().map(|name| self.dir.join(name)) {
            if self.is_mapped {
                umount2(&staged_layer, MntFlags::MNT_DETACH).ok();
                fs::remove_dir(&staged_layer).ok();
            } else {
                fs::remove_file(&staged_layer).ok();
            }
        }
        for name in [UPPER, WORK] {
            fs::remove_file(self.dir.join(name)).ok();
        }
        fs::remove_dir(&self.dir).ok();
    }
}

/// A name for each layer: the first bytes of its name in the image store, more bytes if two layers have
/// equal first bytes.
fn short_names(layers: &[PathBuf]) -> Vec<String> {
    let mut used = BTreeSet::from([UPPER.to_owned(), WORK.to_owned()]);
    let mut unique = |index: usize, layer: &PathBuf| {
        let stem = layer.parent().and_then(Path::file_name).unwrap_or_default();
        let stem: String = stem
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        let beginnings = (NAME_BYTES..=stem.len()).map(|length| stem[..length].to_owned());
        let numbered = std::iter::once(format!("{index}-{stem}"));
        let mut names = beginnings.chain(numbered);
        let name = names.find(|name| used.insert(name.clone()));
        name.unwrap_or_default()
    };
    let layers = layers.iter().enumerate();
    layers.map(|(index, layer)| unique(index, layer)).collect()
}

/// The mount options; pure.
fn options(layers: &[PathBuf], written: Option<(&Path, &Path)>) -> Vec<u8> {
    let mut options = b"lowerdir=".to_vec();
    // The kernel expects the top layer first.
    for (index, layer) in layers.iter().rev().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        escape(layer, b":,\\", &mut options);
    }
    if let Some((upper, work)) = written {
        options.extend(b",upperdir=");
        escape(upper, b",\\", &mut options);
        options.extend(b",workdir=");
        escape(work, b",\\", &mut options);
    }
    options
}

fn escape(path: &Path, special: &[u8], out: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topmost_layer_comes_first_and_special_characters_are_escaped() {
        let layers = ["/l/base".into(), "/l/top:x".into()];
        let written = Some((Path::new("/u,1"), Path::new("/w")));
        let text = String::from_utf8(options(&layers, written)).unwrap();
        assert_eq!(
            text,
            r"lowerdir=/l/top\:x:/l/base,upperdir=/u\,1,workdir=/w"
        );
    }

    #[test]
    fn a_short_name_begins_as_the_layer_in_its_store() {
        let layers = [
            "/images/layers/0a1b2c3d4e/fs",
            "/images/layers/0a1b2c3d55/fs",
            "/images/layers/ffffffffff/fs",
            "/x/y",
        ];
        let names = short_names(&layers.map(PathBuf::from));
        assert_eq!(names, ["0a1b2c", "0a1b2c3", "ffffff", "3-x"]);
    }

    /// findings-2 I1
    #[test]
    fn the_options_of_the_most_layers_fit_into_a_page() {
        let layers: Vec<PathBuf> = (1..=500_u32)
            .map(|number| {
                let digits = number.wrapping_mul(2_654_435_761);
                format!("/images/layers/{digits:08x}{:056x}/fs", 0).into()
            })
            .collect();
        let names: Vec<PathBuf> = short_names(&layers).into_iter().map(Into::into).collect();
        let written = Some((Path::new(UPPER), Path::new(WORK)));
        assert!(options(&names, written).len() <= OPTIONS_BYTES_MAX);
    }
}
