//! The storage of each class of volumes.

mod backup;
mod moves;
mod replicas;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::blocking;
use resource_kinds::storage::Driver;

use crate::decide::VolumeMode;
use crate::directories::Directories;
use crate::error::ProvisionerError as Error;
use crate::pool::Pool;
use crate::subvolumes::{Count, InitialContents};
pub use backup::{Class, Frozen, UserSnapshot};
pub use moves::MovedVolume;
pub use replicas::{CopyOf, ReplicatedVolume};

/// The volumes of this node.
#[derive(Clone, Debug)]
pub struct Storage {
    local: Arc<Directories>,
    pool: Arc<PoolUse>,
}

/// The pool, used by one task at a time, so that space is not promised twice.
#[derive(Debug)]
struct PoolUse {
    pool: Pool,
    /// Once it is mounted.
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
                let error = api_client::guarded_writes::chain(&error);
                tracing::error!(error, "the pool of local-cow is not mounted");
            }
            Ok(storage)
        })
        .await
    }

    /// Unmounts the pool; one without volumes and snapshots is removed. To be called when no pod
    /// uses volumes any more.
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

    fn on<T: Send + 'static>(
        &self,
        driver: Driver,
        work: impl FnOnce(&Directories, Option<&Pool>) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        self.run(driver, Box::new(work))
    }

    /// As [`on`](Self::on), which is compiled for each work: this is compiled once for all results of a type.
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

    /// Whether there may be something of the driver.
    fn is_used(&self, driver: Driver) -> bool {
        driver == Driver::Local || self.pool.pool.exists()
    }

    pub(crate) async fn make(
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
                pool.make_room(directories.reserved()?.saturating_add(bytes))?;
            }
            match mode {
                VolumeMode::Filesystem => directories.make(&volume, bytes, &content),
                VolumeMode::Block => directories.make_image(&volume, bytes, &content),
            }
        })
        .await
    }

    pub(crate) async fn remove(
        &self,
        driver: Driver,
        volume: &str,
        path: &str,
    ) -> Result<(), Error> {
        if !self.is_used(driver) {
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

    pub(crate) async fn limit(
        &self,
        driver: Driver,
        volume: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let volume = volume.to_owned();
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool {
                let count = directories.count(&volume)?;
                let has = count.and_then(|count| count.limit).unwrap_or(0);
                let others = directories.reserved()?.saturating_sub(has);
                pool.make_room(others.saturating_add(bytes))?;
            }
            directories.limit(&volume, bytes)
        })
        .await
    }

    pub(crate) async fn grow_image(
        &self,
        driver: Driver,
        volume: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let volume = volume.to_owned();
        let grow = move |directories: &Directories, _: Option<&Pool>| {
            directories.grow_image(&volume, bytes)
        };
        self.on(driver, grow).await
    }

    pub(crate) async fn count(&self, driver: Driver, volume: &str) -> Result<Option<Count>, Error> {
        let volume = volume.to_owned();
        self.on(driver, move |directories, pool| {
            if let Some(pool) = pool {
                pool.keep_counting()?;
            }
            directories.count(&volume)
        })
        .await
    }

    pub(crate) async fn snapshot(
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
                // All of it will be the snapshot's alone once the volume has changed.
                let count = directories.count(&volume)?;
                let holds = count.map_or(0, |count| count.referenced);
                pool.make_room(directories.reserved()?.saturating_add(holds))?;
            }
            directories.snapshot(&volume, &snapshot)
        })
        .await
    }

    pub(crate) async fn has_snapshot(&self, driver: Driver, snapshot: &str) -> Result<bool, Error> {
        if !self.is_used(driver) {
            return Ok(false);
        }
        let snapshot = snapshot.to_owned();
        self.on(driver, move |directories, _| {
            directories.has_snapshot(&snapshot)
        })
        .await
    }

    pub(crate) async fn remove_snapshot(
        &self,
        driver: Driver,
        snapshot: &str,
    ) -> Result<(), Error> {
        if !self.is_used(driver) {
            return Ok(());
        }
        let snapshot = snapshot.to_owned();
        self.on(driver, move |directories, _| {
            directories.remove_snapshot(&snapshot)
        })
        .await
    }

    /// Removes empty directories without a volume.
    pub(crate) async fn sweep(
        &self,
        is_wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let pool = self.pool.pool.exists();
        let is_wanted = Arc::new(is_wanted);
        let wanted = is_wanted.clone();
        self.on(Driver::Local, move |directories, _| {
            directories.sweep(&*wanted)
        })
        .await?;
        if pool {
            let driver = Driver::LocalCow;
            let swept = self.on(driver, move |directories, _| {
                directories.sweep_pool(&*is_wanted)
            });
            let swept = swept.await;
            if let Err(error) = swept {
                let error = api_client::guarded_writes::chain(&error);
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
