//! Observation of the node's memory and disks, and of the pressure conditions. Also of two faults: the disk
//! cannot store records, or the kernel cannot create control groups.
//!
//! [`pod_lifecycle::resources::eviction`] evaluates the observations. The Node object, admission and
//! eviction use the conditions that are stored here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use host_kernel::durable_file::{self, Durability};
use image_store::KeepFree;
use pod_lifecycle::resources::eviction::{
    Condition, NodePressure, ResourceObservation, ResourceObservations, Shortage, Signal, shortages,
};
use tokio::sync::watch;

use super::machine_info::{self, meminfo};
use crate::clock::Clock;
use crate::config::Eviction;

/// Observes the node's memory and disks.
pub struct Monitor {
    policy: Eviction,
    clock: Clock,
    /// A path on the file system that pods write to.
    node_files: PathBuf,
    /// A path on the file system of the images.
    image_files: PathBuf,
    pressure: Mutex<NodePressure>,
    conditions: watch::Sender<BTreeSet<Condition>>,
    /// The error of the last record that could not be stored; `None` as soon as a record can be stored.
    record_error: watch::Sender<Option<String>>,
    /// Checks whether control groups of pods can be created.
    group_check: GroupCheck,
    /// The error of the last check.
    group_error: watch::Sender<Option<String>>,
}

/// A check that creates a control group; the error is for users.
type GroupCheck = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Monitor {
    /// A monitor with a first observation of memory and disk.
    pub fn new(policy: Eviction, clock: Clock, node_files: &Path, image_files: &Path) -> Self {
        let monitor = Self {
            policy,
            clock,
            node_files: node_files.to_owned(),
            image_files: image_files.to_owned(),
            pressure: Mutex::default(),
            conditions: watch::Sender::new(BTreeSet::new()),
            record_error: watch::Sender::new(None),
            group_check: Box::new(|| Ok(())),
            group_error: watch::Sender::new(None),
        };
        monitor.observe();
        monitor
    }

    /// Adds a check whether control groups of pods can be created.
    pub fn with_group_check(
        self,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let group_check = Box::new(check);
        Self {
            group_check,
            ..self
        }
    }

    /// Reads the memory and disks again. Returns the present shortages, the most important first.
    pub fn observe(&self) -> Vec<Shortage> {
        let observations = observe(&self.node_files, &self.image_files);
        let shortages = shortages(&self.policy.thresholds, &observations);
        let mut pressure = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
        *pressure = pressure.after(
            &shortages,
            self.policy.transition_period,
            self.clock.instant(),
        );
        let conditions = pressure.conditions();
        self.conditions.send_if_modified(|reported| {
            let changed = *reported != conditions;
            if changed && conditions.is_empty() {
                tracing::info!("no more pressure on the node");
            } else if changed {
                tracing::warn!(conditions = ?conditions, lacks = ?shortages, "pressure on the node");
            }
            *reported = conditions;
            changed
        });
        shortages
    }

    /// Waits until the space of removed files is free, because some file systems free the space later.
    pub fn settle(&self) {
        for path in [&self.node_files, &self.image_files] {
            let synced = File::open(path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
            if let Err(error) = synced {
                tracing::warn!(path = %path.display(), %error, "file system not synced");
            }
        }
    }

    /// The pressure conditions that are true now.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        self.conditions.borrow().clone()
    }

    pub fn changes(&self) -> watch::Receiver<BTreeSet<Condition>> {
        self.conditions.subscribe()
    }

    /// Stores the error of a record that could not be stored. A full disk is no such error, because it is a
    /// pressure condition.
    pub fn record_not_stored(&self, error: &io::Error) {
        let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if !is_full.contains(&error.kind()) {
            cov_mark::hit!(findings_2_r34);
            let message = Some(error.to_string());
            self.record_error.send_if_modified(|reported| {
                std::mem::replace(reported, message.clone()) != message
            });
        }
    }

    /// Removes the error after a record was stored.
    pub fn record_stored(&self) {
        self.record_error
            .send_if_modified(|reported| reported.take().is_some());
    }

    /// A receiver of the errors of records that could not be stored.
    pub fn record_errors(&self) -> watch::Receiver<Option<String>> {
        self.record_error.subscribe()
    }

    /// The reason why the node can store no record of a pod. After an error, the check is repeated, because possibly no
    /// pod stores its record any more.
    pub fn record_error(&self) -> Option<String> {
        self.record_error.borrow().as_ref()?;
        let probe = self.node_files.join(".probe");
        let written = durable_file::replace(&probe, b"", 0o600, Durability::Content);
        match written.and_then(|()| fs::remove_file(&probe)) {
            Ok(()) => self.record_stored(),
            Err(error) => self.record_not_stored(&error),
        }
        self.record_error.borrow().clone()
    }

    /// Checks the control groups after a pod or a container could not be created, because the cause may be
    /// a fault of the node. Blocks.
    pub fn check_groups(&self) {
        let message = (self.group_check)().err();
        self.group_error.send_if_modified(|reported| {
            let changed = *reported != message;
            if changed && let Some(error) = &message {
                cov_mark::hit!(findings_2_s36_groups);
                tracing::error!(error, "no control groups can be made for pods");
            }
            *reported = message;
            changed
        });
    }

    /// A receiver of the errors of control groups that cannot be created.
    pub fn group_errors(&self) -> watch::Receiver<Option<String>> {
        self.group_error.subscribe()
    }

    /// The reason why the node can run no pods, for the condition of the Node. After an error, the check is repeated.
    /// Blocks.
    pub fn fault(&self) -> Option<String> {
        if let Some(error) = self.record_error() {
            return Some(format!("the disk of the node takes no records: {error}"));
        }
        if self.group_error.borrow().is_some() {
            self.check_groups();
        }
        let error = self.group_error.borrow().clone()?;
        Some(format!("no control groups can be made for pods: {error}"))
    }

    /// The free space that pulls must leave on the image file system: the eviction threshold.
    pub fn keep_free_of_images(&self) -> KeepFree {
        let observations = observe(&self.node_files, &self.image_files);
        let shared = !self.images_are_apart();
        let most = |images: Signal, pods: Signal| {
            let all = self.policy.thresholds.iter();
            let thresholds =
                all.filter(|(signal, _)| *signal == images || shared && *signal == pods);
            let amounts = thresholds.filter_map(|(signal, amount)| {
                let capacity = observations.get(&signal)?.capacity;
                u64::try_from(amount.for_capacity(capacity)).ok()
            });
            amounts.max().unwrap_or(0)
        };
        KeepFree {
            bytes: most(Signal::ImagefsAvailable, Signal::NodefsAvailable),
            files: most(Signal::ImagefsInodesFree, Signal::NodefsInodesFree),
        }
    }

    /// Whether the images and the data of pods are on different file systems.
    pub fn images_are_apart(&self) -> bool {
        are_apart(&self.node_files, &self.image_files)
    }
}

fn are_apart(first: &Path, second: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    device(first) != device(second)
}

fn observe(node_files: &Path, image_files: &Path) -> ResourceObservations {
    let amount = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let observation = |available: u64, capacity: u64| ResourceObservation {
        available: amount(available),
        capacity: amount(capacity),
    };
    let mut observations = ResourceObservations::new();
    if let (Some(available), Some(total)) = (meminfo("MemAvailable"), meminfo("MemTotal")) {
        observations.insert(Signal::MemoryAvailable, observation(available, total));
    }
    let disk = |path: &Path| {
        let disk = machine_info::disk(path);
        if disk.is_none() {
            tracing::warn!(path = %path.display(), "file system not checked");
        }
        disk
    };
    let of_pods = disk(node_files);
    // A shared file system is read once, because two readings would differ while a process writes to it.
    let of_images = if are_apart(node_files, image_files) {
        disk(image_files)
    } else {
        of_pods
    };
    for (disk, space, files) in [
        (of_pods, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (
            of_images,
            Signal::ImagefsAvailable,
            Signal::ImagefsInodesFree,
        ),
    ] {
        let Some(disk) = disk else { continue };
        observations.insert(space, observation(disk.free, disk.total));
        // Some file systems have no fixed number of inodes and report 0.
        if disk.files > 0 {
            observations.insert(files, observation(disk.files_free, disk.files));
        }
    }
    observations
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use pod_lifecycle::resources::eviction::Thresholds;

    use super::*;

    fn monitor(thresholds: &str) -> Monitor {
        let policy = Eviction {
            thresholds: thresholds.parse().unwrap(),
            transition_period: SignedDuration::from_mins(5),
        };
        Monitor::new(
            policy,
            Clock::unstored(),
            Path::new("/proc"),
            Path::new("/"),
        )
    }

    // findings-2 R34
    #[test]
    fn a_disk_that_takes_no_records_is_known_until_it_does() {
        cov_mark::check!(findings_2_r34);
        let temp = tempfile::tempdir().unwrap();
        let pods = temp.path().join("pods");
        let policy = Eviction {
            thresholds: Thresholds::none(),
            transition_period: SignedDuration::ZERO,
        };
        let monitor = Monitor::new(policy, Clock::unstored(), &pods, temp.path());
        let changes = monitor.record_errors();
        monitor.record_not_stored(&io::ErrorKind::StorageFull.into());
        assert_eq!(monitor.record_error(), None);
        monitor.record_not_stored(&io::ErrorKind::ReadOnlyFilesystem.into());
        assert!(changes.has_changed().unwrap());
        // The directory does not exist yet.
        assert!(monitor.record_error().is_some());
        let fault = monitor.fault().unwrap();
        assert!(fault.starts_with("the disk of the node takes no records: "));
        fs::create_dir(&pods).unwrap();
        assert_eq!((monitor.record_error(), monitor.fault()), (None, None));
        assert_eq!(fs::read_dir(&pods).unwrap().count(), 0);
    }

    // findings-2 S36
    #[test]
    fn a_kernel_that_takes_no_groups_is_known_until_it_does() {
        cov_mark::check!(findings_2_s36_groups);
        let temp = tempfile::tempdir().unwrap();
        let marker = temp.path().join("refuses");
        let (dir, refuses) = (temp.path().to_owned(), marker.clone());
        let check = move || match refuses.exists() {
            true => Err("make /c/probe: no room".to_owned()),
            false => Ok(()),
        };
        let monitor = monitor("memory.available<1").with_group_check(check);
        let changes = monitor.group_errors();
        monitor.check_groups();
        assert_eq!(
            (monitor.fault(), changes.has_changed().unwrap()),
            (None, false)
        );
        fs::write(&marker, "").unwrap();
        // The check was not repeated since the error.
        assert_eq!(monitor.fault(), None);
        monitor.check_groups();
        assert!(changes.has_changed().unwrap());
        let fault = "no control groups can be made for pods: make /c/probe: no room";
        assert_eq!(monitor.fault().as_deref(), Some(fault));
        fs::remove_file(dir.join("refuses")).unwrap();
        assert_eq!(monitor.fault(), None);
    }

    #[test]
    fn the_machine_is_observed_and_its_conditions_are_reported() {
        // statefulset.md 12.16
        let observations = observe(Path::new("/"), Path::new("/"));
        assert!(observations[&Signal::MemoryAvailable].available > 0);
        assert_eq!(
            observations[&Signal::NodefsAvailable],
            observations[&Signal::ImagefsAvailable]
        );
        let short = monitor("memory.available<8Ei");
        assert_eq!(short.observe().len(), 1);
        assert_eq!(short.conditions(), [Condition::MemoryPressure].into());
        let fine = monitor("memory.available<1");
        assert_eq!(
            (fine.observe(), fine.conditions()),
            (vec![], BTreeSet::new())
        );
        assert!(fine.images_are_apart());
        assert_eq!(fine.keep_free_of_images(), KeepFree::default());
        let apart = monitor("imagefs.available<7,imagefs.inodesFree<3,nodefs.available<9");
        let keep_free = apart.keep_free_of_images();
        assert_eq!(keep_free, KeepFree { bytes: 7, files: 3 });
        let policy = apart.policy.clone();
        let shared = Monitor::new(policy, Clock::unstored(), Path::new("/"), Path::new("/"));
        assert_eq!(shared.keep_free_of_images().bytes, 9);
        let none = Thresholds::none();
        assert_eq!(shortages(&none, &observations), []);
    }
}
