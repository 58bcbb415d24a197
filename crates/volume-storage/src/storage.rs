//! The storage of each class of volumes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use controller_planners::volume_provisioning::local::VolumeMode;
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::{blocking, disk_usage};
use resource_kinds::storage::Driver;

use crate::directories::{Directories, failed};
use crate::error::{StorageError as Error, with_causes};
use crate::pool::Pool;
use crate::subvolumes::{InitialContents, VolumeCount};

/// The volumes of this node.
#[derive(Clone, Debug)]
pub struct Storage {
    local: Arc<Directories>,
    pool: Arc<PoolUse>,
}

/// The pool. Only one task uses the pool at a time, so that no bytes are assigned twice.
#[derive(Debug)]
struct PoolUse {
    pool: Pool,
    /// The directories of the mounted pool.
    opened: Mutex<Option<Directories>>,
}

/// Work on the directories of a driver.
type DirectoryWork<T> =
    Box<dyn FnOnce(&Directories, Option<&Pool>) -> Result<T, Error> + Send + 'static>;

impl Storage {
    /// Opens the directories below the data directory: `volumes` for the class `local`, and the
    /// pool of `local-cow` if there is one.
    ///
    /// # Errors
    /// The volumes' directory cannot be created. A failed mount of the pool is retried at its use.
    pub async fn open(data_dir: &Path) -> Result<Self, Error> {
        let below = |name: &str| data_dir.join(name);
        let (volumes, snapshots) = (below("volumes"), below("snapshots"));
        let pool = Pool::at(below("pool"));
        blocking(move || {
            let storage = Self {
                local: Arc::new(Directories::open(volumes, snapshots)?),
                pool: Arc::new(PoolUse {
                    pool,
                    opened: Mutex::new(None),
                }),
            };
            if storage.pool.pool.exists()
                && let Err(error) = storage.pool.with(|_, _| Ok(()))
            {
                let error = with_causes(&error);
                tracing::error!(error, "the pool of local-cow is not mounted");
            }
            Ok(storage)
        })
        .await
    }

    /// Unmounts the pool; a pool without volumes and snapshots is deleted. The caller must ensure that no pod uses a
    /// volume any more.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub async fn close(self) -> Result<(), Error> {
        blocking(move || {
            let mut opened = self.pool.lock();
            let empty = match opened.take() {
                Some(directories) => directories.is_empty()?,
                None => false,
            };
            self.pool.pool.close()?;
            if empty {
                self.pool.pool.discard()
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Whether volumes of the class `local` cannot hold more than their size.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub async fn limits_local_volumes(&self) -> Result<bool, Error> {
        self.on(Driver::Local, |directories, _| directories.limits_volumes())
            .await
    }

    pub(crate) fn on<T: Send + 'static>(
        &self,
        driver: Driver,
        work: impl FnOnce(&Directories, Option<&Pool>) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        self.run(driver, Box::new(work))
    }

    /// As [`on`](Self::on). `on` is compiled for each closure, this function once for each type of result.
    fn run<T: Send + 'static>(
        &self,
        driver: Driver,
        work: DirectoryWork<T>,
    ) -> BoxFuture<'static, Result<T, Error>> {
        match driver {
            Driver::Local => {
                let local = self.local.clone();
                blocking(move || work(&local, None)).boxed()
            }
            Driver::LocalCow => {
                let pool = self.pool.clone();
                let work = move || pool.with(|directories, pool| work(directories, Some(pool)));
                blocking(work).boxed()
            }
        }
    }

    /// Whether volumes or snapshots of the driver may exist.
    pub(crate) async fn is_used(&self, driver: Driver) -> Result<bool, Error> {
        let pool = self.pool.clone();
        match driver {
            Driver::Local => Ok(true),
            Driver::LocalCow => blocking(move || Ok(pool.pool.exists())).await,
        }
    }

    /// The bytes that the first volumes of a pool could have, if the pool does not exist yet.
    pub(crate) async fn free_without_pool(&self) -> Result<u64, Error> {
        let pool = self.pool.clone();
        blocking(move || pool.pool.free_capacity(0)).await
    }

    /// The bytes of all files below a directory, which is walked through.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn measure(&self, directory: PathBuf) -> Result<u64, Error> {
        blocking(move || {
            let used = disk_usage::below(&directory);
            used.map_err(failed("measure", &directory))
        })
        .await
    }

    /// Creates a volume, unless it exists; returns its path, which is the path of an image for a block device.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn make(
        &self,
        driver: Driver,
        volume: &str,
        bytes: u64,
        content: InitialContents,
        mode: VolumeMode,
    ) -> Result<PathBuf, Error> {
        let volume = volume.to_owned();
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool
                && !directories.path(&volume)?.exists()
            {
                pool.ensure_capacity(directories.reserved()?.saturating_add(bytes))?;
            }
            match mode {
                VolumeMode::Filesystem => directories.make(&volume, bytes, &content),
                VolumeMode::Block => directories.make_image(&volume, bytes, &content),
            }
        })
        .await
    }

    /// Removes a volume, if its path is its path on this node.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn remove(&self, driver: Driver, volume: &str, path: &str) -> Result<(), Error> {
        if !self.is_used(driver).await? {
            return Ok(());
        }
        let (volume, path) = (volume.to_owned(), path.to_owned());
        self.on(driver, move |directories, pool| {
            directories.check(&volume, &path)?;
            directories.detach_image(&path)?;
            directories.remove(&volume)?;
            match pool {
                Some(pool) => directories.forget_removed(&pool.root()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Sets the limit of a volume in bytes, if its file system supports limits.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn limit(&self, driver: Driver, volume: &str, bytes: u64) -> Result<(), Error> {
        let volume = volume.to_owned();
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool {
                let count = directories.count(&volume)?;
                let limit = count.and_then(|count| count.limit).unwrap_or(0);
                let other_volumes = directories.reserved()?.saturating_sub(limit);
                pool.ensure_capacity(other_volumes.saturating_add(bytes))?;
            }
            directories.limit(&volume, bytes)
        })
        .await
    }

    /// Lets the image of a block device grow.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn grow_image(&self, driver: Driver, volume: &str, bytes: u64) -> Result<(), Error> {
        let volume = volume.to_owned();
        let grow = move |directories: &Directories, _: Option<&Pool>| {
            directories.grow_image(&volume, bytes)
        };
        self.on(driver, grow).await
    }

    /// The kernel's count of a volume; `None` where the file system does not count.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn count(&self, driver: Driver, volume: &str) -> Result<Option<VolumeCount>, Error> {
        let volume = volume.to_owned();
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool {
                pool.keep_counting()?;
            }
            directories.count(&volume)
        })
        .await
    }

    /// Creates a snapshot of a volume, unless it exists.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn snapshot(
        &self,
        driver: Driver,
        volume: &str,
        snapshot: &str,
    ) -> Result<(), Error> {
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool
                && !directories.has_snapshot(&snapshot)?
            {
                // When all files of the volume have changed, the snapshot alone occupies all these bytes.
                let count = directories.count(&volume)?;
                let holds = count.map_or(0, |count| count.referenced);
                pool.ensure_capacity(directories.reserved()?.saturating_add(holds))?;
            }
            directories.snapshot(&volume, &snapshot)
        })
        .await
    }

    /// Whether a snapshot with this name exists.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn has_snapshot(&self, driver: Driver, snapshot: &str) -> Result<bool, Error> {
        if !self.is_used(driver).await? {
            return Ok(false);
        }
        let snapshot = snapshot.to_owned();
        self.on(driver, move |directories, _| {
            directories.has_snapshot(&snapshot)
        })
        .await
    }

    /// Removes a snapshot; a missing snapshot is no error.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn remove_snapshot(&self, driver: Driver, snapshot: &str) -> Result<(), Error> {
        if !self.is_used(driver).await? {
            return Ok(());
        }
        let snapshot = snapshot.to_owned();
        self.on(driver, move |directories, _| {
            directories.remove_snapshot(&snapshot)
        })
        .await
    }

    /// Removes empty directories without a volume.
    ///
    /// # Errors
    /// Errors of the disk, except in the pool.
    pub async fn sweep_volumes(
        &self,
        has_volume: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let has_pool = self.is_used(Driver::LocalCow).await?;
        let has_volume = Arc::new(has_volume);
        let has_local_volume = has_volume.clone();
        let driver = Driver::Local;
        self.on(driver, move |directories, _| {
            directories.sweep(&*has_local_volume)
        })
        .await?;
        if has_pool {
            let driver = Driver::LocalCow;
            let swept = self.on(driver, move |directories, _| {
                directories.sweep_pool(&*has_volume)
            });
            let swept = swept.await;
            if let Err(error) = swept {
                let error = with_causes(&error);
                tracing::warn!(error, "the pool is not swept");
            }
        }
        Ok(())
    }
}

impl PoolUse {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Directories>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Directories, &Pool) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut opened = self.lock();
        let directories = match opened.take() {
            Some(directories) => directories,
            None => {
                self.pool.open()?;
                let below = |name: &str| self.pool.root().join(name);
                Directories::open(below("volumes"), below("snapshots"))?
            }
        };
        let directories = opened.insert(directories);
        work(directories, &self.pool)
    }
}
