//! The services Identity and Node over directories and bind mounts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host_kernel::mount_table;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;
use service_protocols::csi_v1::{
    self as api, node_service_capability, volume_capability::AccessType, volume_usage::Unit,
};

use crate::server::{CallOutcome, Done};

const NOT_FOUND: u32 = 5;
const INVALID_ARGUMENT: u32 = 3;
const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;

/// The properties of a driver.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    /// The node id that the driver reports.
    pub node_id: String,
    /// Whether volumes are staged (`STAGE_UNSTAGE_VOLUME`).
    pub stages: bool,
    /// Whether volumes are expanded on the node (`EXPAND_VOLUME`).
    pub expands: bool,
    /// Whether the driver reports the usage and the condition of volumes.
    pub measures: bool,
    /// Maximum number of volumes on the node; zero for no limit.
    pub volumes_max: u64,
    /// The topology segments of the node.
    pub topology: BTreeMap<String, String>,
    /// The directory with the volumes; each is a directory with the volume's id as its name, or a link to a
    /// block device.
    pub volumes: PathBuf,
    /// Paths of calls below the first directory are below the second directory on this machine.
    pub root: (PathBuf, PathBuf),
}

/// A fault that a test has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Fails with this code before the work.
    Before(u32),
    /// Fails with this code after the work.
    After(u32),
    /// The connection breaks before the work.
    DiesBefore,
    /// The connection breaks after the work.
    DiesAfter,
    /// No response, and no work.
    HangsBefore,
    /// No response, after the work.
    HangsAfter,
    /// A response that is not a message, without the work.
    Nonsense,
    /// A success without the work.
    Idle,
}

/// A recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method, without its service.
    pub method: String,
    pub volume: String,
    /// The staging or target path.
    pub path: String,
    pub secrets: BTreeMap<String, String>,
    /// The volume context.
    pub context: BTreeMap<String, String>,
    /// The publish context of the attachment.
    pub publish_context: BTreeMap<String, String>,
    /// The access mode.
    pub mode: u64,
    /// The requested capacity in bytes.
    pub size: u64,
}

pub struct NodeDriver {
    settings: Settings,
    calls: Mutex<Vec<Call>>,
    failures: Mutex<VecDeque<(String, Failure)>>,
    sizes: Mutex<BTreeMap<String, u64>>,
    /// The staged block volumes, which no mount reveals.
    staged_devices: Mutex<BTreeSet<String>>,
    hanging: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeDriver {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            calls: Mutex::default(),
            failures: Mutex::default(),
            sizes: Mutex::default(),
            staged_devices: Mutex::default(),
            hanging: AtomicUsize::new(0),
        }
    }

    /// The recorded calls for volumes.
    pub fn calls(&self) -> Vec<Call> {
        locked(&self.calls).clone()
    }

    /// Fails the next call of a method.
    pub fn fail_next(&self, method: &str, failure: Failure) {
        locked(&self.failures).push_back((method.to_owned(), failure));
    }

    /// Removes the faults that have not occurred.
    pub fn fail_no_more(&self) {
        locked(&self.failures).clear();
    }

    pub(crate) fn respond(&self, path: &str, message: &[u8]) -> CallOutcome {
        let method = path.rsplit('/').next().unwrap_or_default();
        let failure = {
            let mut failures = locked(&self.failures);
            let at = failures.iter().position(|(of, _)| of == method);
            at.and_then(|at| failures.remove(at))
        };
        match failure.map(|(_, failure)| failure) {
            Some(Failure::Before(code)) => CallOutcome::Done(Err((code, "on purpose".to_owned()))),
            Some(Failure::DiesBefore) => CallOutcome::Dies,
            Some(Failure::Idle) => CallOutcome::Done(Ok(Vec::new())),
            Some(Failure::Nonsense) => CallOutcome::Done(Ok(vec![0xff; 7])),
            Some(Failure::HangsBefore) => self.hang(),
            Some(Failure::After(code)) => {
                drop(self.perform(method, message));
                CallOutcome::Done(Err((code, "on purpose".to_owned())))
            }
            Some(Failure::DiesAfter) => {
                drop(self.perform(method, message));
                CallOutcome::Dies
            }
            Some(Failure::HangsAfter) => {
                drop(self.perform(method, message));
                self.hang()
            }
            None => CallOutcome::Done(self.perform(method, message)),
        }
    }

    fn hang(&self) -> CallOutcome {
        self.hanging.fetch_add(1, Ordering::SeqCst);
        CallOutcome::Hangs
    }

    /// The number of calls without a response because of a fault.
    pub fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    fn perform(&self, method: &str, message: &[u8]) -> Done {
        let settings = &self.settings;
        match method {
            "GetPluginInfo" => Ok(self.plugin_info()),
            "NodeGetInfo" => Ok(self.node_info()),
            "NodeGetCapabilities" => Ok(self.capabilities()),
            "NodeStageVolume" => self.stage(read(message)?),
            "NodeUnstageVolume" => self.unstage(read(message)?),
            "NodePublishVolume" => self.publish(read(message)?),
            "NodeUnpublishVolume" => self.unpublish(read(message)?),
            "NodeExpandVolume" if settings.expands => self.expand(read(message)?),
            "NodeGetVolumeStats" if settings.measures => self.stats(read(message)?),
            method => Err((UNIMPLEMENTED, method.to_owned())),
        }
    }

    fn plugin_info(&self) -> Vec<u8> {
        let info = api::GetPluginInfoResponse {
            name: self.settings.name.clone(),
            vendor_version: "1.0".to_owned(),
            ..api::GetPluginInfoResponse::default()
        };
        info.encode_to_vec()
    }

    fn capabilities(&self) -> Vec<u8> {
        use node_service_capability::{Rpc, Type, rpc};
        let settings = &self.settings;
        let all = [
            (settings.stages, rpc::Type::StageUnstageVolume),
            (settings.measures, rpc::Type::GetVolumeStats),
            (settings.expands, rpc::Type::ExpandVolume),
            (settings.measures, rpc::Type::VolumeCondition),
        ];
        let supported = all.into_iter().filter(|(is_supported, _)| *is_supported);
        let capabilities = supported.map(|(_, of)| api::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: of.into() })),
        });
        let response = api::NodeGetCapabilitiesResponse {
            capabilities: capabilities.collect(),
        };
        response.encode_to_vec()
    }

    fn node_info(&self) -> Vec<u8> {
        let info = api::NodeGetInfoResponse {
            node_id: self.settings.node_id.clone(),
            max_volumes_per_node: self.settings.volumes_max.cast_signed(),
            accessible_topology: Some(api::Topology {
                segments: self.settings.topology.clone(),
            }),
        };
        info.encode_to_vec()
    }

    fn note(&self, call: Call) {
        locked(&self.calls).push(call);
    }

    /// Translates a path of a request to a path on this machine.
    fn local_path(&self, path: &str) -> PathBuf {
        let (agent_root, local_root) = &self.settings.root;
        match Path::new(path).strip_prefix(agent_root) {
            Ok(rest) => local_root.join(rest),
            Err(_) => PathBuf::from(path),
        }
    }

    fn stage(&self, request: api::NodeStageVolumeRequest) -> Done {
        let (volume, path) = (request.volume_id, request.staging_target_path);
        let capability = request.volume_capability;
        self.note(Call {
            method: "NodeStageVolume".to_owned(),
            volume: volume.clone(),
            path: path.clone(),
            secrets: request.secrets,
            context: request.volume_context,
            publish_context: request.publish_context,
            mode: mode(capability.as_ref()),
            size: 0,
        });
        required(&[&volume, &path])?;
        let is_block = is_block(capability.as_ref());
        let source = self.source(&volume, is_block)?;
        let target = self.local_path(&path);
        if !target.is_dir() {
            return Err((INVALID_ARGUMENT, format!("{path} is no directory")));
        }
        if is_block {
            locked(&self.staged_devices).insert(volume);
            return Ok(Vec::new());
        }
        bind(&source, &target, false)
    }

    /// The data of a volume with this mode.
    fn source(&self, volume: &str, is_block: bool) -> Result<PathBuf, (u32, String)> {
        let source = self.settings.volumes.join(volume);
        let metadata =
            fs::metadata(&source).map_err(|_| (NOT_FOUND, format!("volume {volume}")))?;
        match metadata.file_type().is_block_device() == is_block {
            true => Ok(source),
            false => Err((INVALID_ARGUMENT, format!("{volume} has another mode"))),
        }
    }

    fn publish(&self, mut request: api::NodePublishVolumeRequest) -> Done {
        let (volume, path) = (request.volume_id, request.target_path);
        let staging = request.staging_target_path;
        let capability = request.volume_capability.as_ref();
        self.note(Call {
            method: "NodePublishVolume".to_owned(),
            volume: volume.clone(),
            path: path.clone(),
            secrets: request.secrets,
            context: request.volume_context.clone(),
            publish_context: request.publish_context,
            mode: mode(capability),
            size: 0,
        });
        required(&[&volume, &path])?;
        let ephemeral = request
            .volume_context
            .remove("csi.storage.k8s.io/ephemeral");
        let target = self.local_path(&path);
        if !target.parent().is_some_and(Path::is_dir) {
            return Err((INVALID_ARGUMENT, format!("no directory for {path}")));
        }
        if is_block(capability) {
            if self.settings.stages && !locked(&self.staged_devices).contains(&volume) {
                return Err((FAILED_PRECONDITION, format!("{volume} is not staged")));
            }
            let source = self.source(&volume, true)?;
            // The mount point of a device is a file.
            fs::File::create(&target).map_err(internal)?;
            return bind(&source, &target, request.readonly);
        }
        // An ephemeral volume is published without being staged.
        let is_ephemeral = ephemeral.as_deref() == Some("true");
        let source = match self.settings.stages && !is_ephemeral {
            true => {
                let staged = self.local_path(&staging);
                if staging.is_empty() || !is_mounted(&staged) {
                    return Err((FAILED_PRECONDITION, format!("{volume} is not staged")));
                }
                staged
            }
            false => {
                let source = self.settings.volumes.join(&volume);
                if is_ephemeral {
                    fs::create_dir_all(&source).map_err(internal)?;
                }
                source
            }
        };
        fs::create_dir_all(&target).map_err(internal)?;
        bind(&source, &target, request.readonly)
    }

    fn unstage(&self, request: api::NodeUnstageVolumeRequest) -> Done {
        let (volume, path) = (request.volume_id, request.staging_target_path);
        self.undo("NodeUnstageVolume", volume, path)
    }

    fn unpublish(&self, request: api::NodeUnpublishVolumeRequest) -> Done {
        let (volume, path) = (request.volume_id, request.target_path);
        self.undo("NodeUnpublishVolume", volume, path)
    }

    fn undo(&self, method: &str, volume: String, path: String) -> Done {
        self.note(Call {
            method: method.to_owned(),
            volume: volume.clone(),
            path: path.clone(),
            secrets: BTreeMap::new(),
            context: BTreeMap::new(),
            publish_context: BTreeMap::new(),
            mode: 0,
            size: 0,
        });
        required(&[&volume, &path])?;
        let target = self.local_path(&path);
        if method == "NodeUnstageVolume" {
            let mut devices = locked(&self.staged_devices);
            let base_count = usize::from(!devices.contains(&volume));
            if self.mounts_of(&volume) > base_count {
                return Err((FAILED_PRECONDITION, format!("{volume} is still published")));
            }
            devices.remove(&volume);
        }
        while is_mounted(&target) {
            umount2(&target, MntFlags::UMOUNT_NOFOLLOW).map_err(internal)?;
        }
        if method == "NodeUnpublishVolume" {
            let removed = match target.is_file() {
                true => fs::remove_file(&target),
                false => fs::remove_dir(&target),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(internal(error));
                }
                _ => {}
            }
        }
        Ok(Vec::new())
    }

    /// Requires that the volume is staged or published, as the specification does.
    fn expand(&self, request: api::NodeExpandVolumeRequest) -> Done {
        let (volume, path) = (request.volume_id, request.volume_path);
        let staging = request.staging_target_path;
        let range = request.capacity_range.unwrap_or_default();
        let size = range.required_bytes.cast_unsigned();
        self.note(Call {
            method: "NodeExpandVolume".to_owned(),
            volume: volume.clone(),
            path: path.clone(),
            secrets: request.secrets,
            context: BTreeMap::new(),
            publish_context: BTreeMap::new(),
            mode: mode(request.volume_capability.as_ref()),
            size,
        });
        required(&[&volume, &path])?;
        if size == 0 {
            return Err((INVALID_ARGUMENT, "no capacity".to_owned()));
        }
        let is_staged = !staging.is_empty() && is_mounted(&self.local_path(&staging));
        if self.settings.stages && !is_staged {
            return Err((FAILED_PRECONDITION, format!("{volume} is not staged")));
        }
        if !is_mounted(&self.local_path(&path)) {
            return Err((NOT_FOUND, format!("{volume} is not at {path}")));
        }
        let mut sizes = locked(&self.sizes);
        let recorded = sizes.entry(volume).or_default();
        *recorded = size.max(*recorded);
        let response = api::NodeExpandVolumeResponse {
            capacity_bytes: recorded.cast_signed(),
        };
        Ok(response.encode_to_vec())
    }

    /// 1000 bytes and 9 files, of which 400 and 4 are used; a volume with a file "broken" reports an abnormal
    /// condition.
    fn stats(&self, request: api::NodeGetVolumeStatsRequest) -> Done {
        let (volume, path) = (request.volume_id, request.volume_path);
        required(&[&volume, &path])?;
        if !is_mounted(&self.local_path(&path)) {
            return Err((NOT_FOUND, format!("{volume} is not at {path}")));
        }
        let usage = [(600, 1000, 400, Unit::Bytes), (5, 9, 4, Unit::Inodes)];
        let usage = usage.map(|(available, total, used, unit)| api::VolumeUsage {
            available,
            total,
            used,
            unit: unit.into(),
        });
        let response = api::NodeGetVolumeStatsResponse {
            usage: usage.into(),
            volume_condition: Some(api::VolumeCondition {
                abnormal: self.settings.volumes.join(&volume).join("broken").exists(),
                message: "looked at".to_owned(),
            }),
        };
        Ok(response.encode_to_vec())
    }

    /// The size of a volume, in bytes; zero before the first expansion.
    pub fn size_of(&self, volume: &str) -> u64 {
        locked(&self.sizes).get(volume).copied().unwrap_or_default()
    }

    /// The number of mounts of a volume below the agent's directory.
    pub fn mounts_of(&self, volume: &str) -> usize {
        let source = self.settings.volumes.join(volume);
        let Ok(source) = fs::metadata(source) else {
            return 0;
        };
        let root = &self.settings.root.1;
        let mounts = mount_table::read().unwrap_or_default();
        let mounts = mount_table::at_or_below(&mounts, root);
        let same = |path: &&PathBuf| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(path).is_ok_and(|metadata| {
                (metadata.dev(), metadata.ino()) == (source.dev(), source.ino())
            })
        };
        mounts.iter().filter(same).count()
    }
}

fn read<M: Message + Default>(message: &[u8]) -> Result<M, (u32, String)> {
    M::decode(message).map_err(internal)
}

fn is_block(capability: Option<&api::VolumeCapability>) -> bool {
    let access = capability.and_then(|capability| capability.access_type.as_ref());
    matches!(access, Some(AccessType::Block(_)))
}

fn mode(capability: Option<&api::VolumeCapability>) -> u64 {
    let mode = capability.and_then(|capability| capability.access_mode);
    mode.map_or(0, |mode| u64::try_from(mode.mode).unwrap_or_default())
}

fn required(texts: &[&str]) -> Result<(), (u32, String)> {
    match texts.iter().any(|text| text.is_empty()) {
        true => Err((INVALID_ARGUMENT, "a required field is missing".to_owned())),
        false => Ok(()),
    }
}

fn internal(error: impl std::fmt::Display) -> (u32, String) {
    (INTERNAL, error.to_string())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = mount_table::read().unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    mount_table::at_or_below(&mounts, &path).contains(&path)
}

/// Bind-mounts a directory, unless the target is a mount point.
fn bind(source: &Path, target: &Path, read_only: bool) -> Done {
    if is_mounted(target) {
        return Ok(Vec::new());
    }
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none).map_err(internal)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, target, none, flags, none).map_err(internal)?;
    }
    Ok(Vec::new())
}
