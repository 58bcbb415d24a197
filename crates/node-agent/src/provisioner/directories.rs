//! The volumes' directories on disk. Every path is the volumes' directory and one plain name, so
//! that nothing outside of it can be reached, whatever an object says.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ProvisionerError as Error;

/// Names of directories that are being removed start with this.
const REMOVED_PREFIX: &str = ".removed-";
/// Names of the volumes that are made for claims start with this.
pub(crate) const VOLUME_PREFIX: &str = "pvc-";
/// Anyone may write: pods run as any user, as with hostPath provisioners elsewhere.
const VOLUME_MODE: u32 = 0o777;

/// The directory of all volumes.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    root: PathBuf,
}

impl Directories {
    /// Makes the directory if it is missing, and finishes removals that were cut off.
    pub async fn open(root: PathBuf) -> Result<Self, Error> {
        let directories = Self { root };
        let own = directories.clone();
        blocking(move || {
            std::fs::create_dir_all(&own.root).map_err(failed("make", &own.root))?;
            own.finish_removals()
        })
        .await?;
        Ok(directories)
    }

    /// Where the named volume is.
    pub fn path(&self, volume: &str) -> Result<PathBuf, Error> {
        let plain = volume
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        let bounded = !volume.is_empty() && !volume.starts_with('.') && volume.len() <= 253;
        if plain && bounded {
            Ok(self.root.join(volume))
        } else {
            Err(self.out_of_bounds(volume))
        }
    }

    /// Checks that a volume object speaks of the directory that belongs to its name.
    pub fn check(&self, volume: &str, path: &str) -> Result<(), Error> {
        if self.path(volume)? == Path::new(path) {
            Ok(())
        } else {
            Err(self.out_of_bounds(path))
        }
    }

    /// Makes the directory of a volume, or finds it; it is on disk when this returns.
    pub async fn make(&self, volume: &str) -> Result<PathBuf, Error> {
        let path = self.path(volume)?;
        let (made, root) = (path.clone(), self.root.clone());
        blocking(move || {
            match DirBuilder::new().create(&made) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(failed("make", &made))?,
            }
            let metadata = std::fs::symlink_metadata(&made).map_err(failed("look at", &made))?;
            if !metadata.is_dir() {
                let source = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(failed("use", &made)(source));
            }
            // The creation mode is cut by the process's mask.
            std::fs::set_permissions(&made, Permissions::from_mode(VOLUME_MODE))
                .map_err(failed("open to all", &made))?;
            sync(&made)?;
            sync(&root)
        })
        .await?;
        Ok(path)
    }

    /// Removes the directory of a volume with all that is in it. It is moved out of the way
    /// first, so that a half-removed one is never mistaken for a volume. Missing is fine.
    pub async fn remove(&self, volume: &str) -> Result<(), Error> {
        let path = self.path(volume)?;
        let removed = self.root.join(format!("{REMOVED_PREFIX}{volume}"));
        let root = self.root.clone();
        blocking(move || {
            match std::fs::rename(&path, &removed) {
                Ok(()) => sync(&root)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A former removal is still in the way: both go.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    remove_tree(&removed)?;
                    std::fs::rename(&path, &removed).map_err(failed("move away", &path))?;
                }
                Err(error) => return Err(failed("move away", &path)(error)),
            }
            remove_tree(&removed)?;
            sync(&root)
        })
        .await
    }

    /// Removes directories that were made for volumes that never came to be. Only empty ones go:
    /// what holds data stays, whatever the objects say.
    pub async fn sweep(
        &self,
        is_wanted: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        let own = self.clone();
        blocking(move || {
            let entries = std::fs::read_dir(&own.root).map_err(failed("read", &own.root))?;
            for entry in entries {
                let entry = entry.map_err(failed("read", &own.root))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let left_over = name.starts_with(VOLUME_PREFIX) && !is_wanted(&name);
                if left_over && let Err(error) = std::fs::remove_dir(entry.path()) {
                    tracing::debug!(volume = name, %error, "directory without a volume is kept");
                }
            }
            Ok(())
        })
        .await
    }

    fn finish_removals(&self) -> Result<(), Error> {
        let entries = std::fs::read_dir(&self.root).map_err(failed("read", &self.root))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.root))?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(REMOVED_PREFIX)
            {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    fn out_of_bounds(&self, path: &str) -> Error {
        Error::OutOfBounds {
            path: path.to_owned(),
            under: self.root.clone(),
        }
    }
}

/// Removes a tree; links in it are removed, not followed.
fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed("remove", path)),
    }
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Directory {
        doing,
        path,
        source,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::CutOff)?
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (tempfile::TempDir, Directories) {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::open(root.path().join("volumes"))
            .await
            .unwrap();
        (root, directories)
    }

    #[tokio::test]
    async fn directories_are_made_once_and_open_to_all() {
        let (_root, directories) = open().await;
        let path = directories.make("pvc-1").await.unwrap();
        std::fs::write(path.join("file"), "data").unwrap();
        assert_eq!(directories.make("pvc-1").await.unwrap(), path);
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"data");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_are_refused() {
        let (_root, directories) = open().await;
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            ".removed-x",
            "a\0b",
            "a b",
        ] {
            assert!(directories.path(name).is_err(), "{name:?}");
            assert!(directories.remove(name).await.is_err(), "{name:?}");
        }
        assert!(directories.check("pvc-1", "/etc").is_err());
        let right = directories.path("pvc-1").unwrap();
        assert!(directories.check("pvc-1", right.to_str().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn removal_takes_links_not_what_they_lead_to() {
        let (root, directories) = open().await;
        let outside = root.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "data").unwrap();
        let path = directories.make("pvc-1").await.unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        directories.remove("pvc-1").await.unwrap();
        assert!(!path.exists());
        assert!(outside.join("kept").exists());
        directories.remove("pvc-1").await.unwrap();
    }

    #[tokio::test]
    async fn a_volume_that_is_itself_a_link_leads_nowhere() {
        let (root, directories) = open().await;
        let outside = root.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "data").unwrap();
        let path = directories.path("pvc-1").unwrap();
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        assert!(directories.make("pvc-1").await.is_err());
        let _ = directories.remove("pvc-1").await;
        assert!(outside.join("kept").exists());
    }

    #[tokio::test]
    async fn only_empty_directories_without_a_volume_are_swept() {
        let (_root, directories) = open().await;
        let wanted = directories.make("pvc-wanted").await.unwrap();
        let empty = directories.make("pvc-empty").await.unwrap();
        let full = directories.make("pvc-full").await.unwrap();
        let foreign = directories.make("mine").await.unwrap();
        std::fs::write(full.join("file"), "data").unwrap();
        directories
            .sweep(|name| name == "pvc-wanted")
            .await
            .unwrap();
        assert!(wanted.exists() && full.exists() && foreign.exists());
        assert!(!empty.exists());
    }

    #[tokio::test]
    async fn removals_that_were_cut_off_are_finished() {
        let (_root, directories) = open().await;
        let kept = directories.make("pvc-kept").await.unwrap();
        let half = directories.root.join(format!("{REMOVED_PREFIX}pvc-1"));
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("rest"), "data").unwrap();
        // A new volume of the same name beside the rest of the old one.
        let path = directories.make("pvc-1").await.unwrap();
        directories.remove("pvc-1").await.unwrap();
        assert!(!path.exists() && !half.exists());
        std::fs::create_dir(&half).unwrap();
        Directories::open(directories.root.clone()).await.unwrap();
        assert!(!half.exists() && kept.exists());
    }
}
