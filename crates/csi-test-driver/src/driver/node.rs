//! The node methods: stage, publish, measure and expand volumes.

use std::fs;
use std::path::{Path, PathBuf};

use host_kernel::mount_table;
use json_tree::{Value, json};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::rules::{
    SINGLE_NODE_MULTI_WRITER, SINGLE_WRITER, capability, capability_of, is_block, is_multi_node,
    mode, range, required,
};
use super::{Call, Done, Driver, Role, Stop, code, device, stop};
use crate::state::{allow_missing, copy};

const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD: &str = "csi.storage.k8s.io/pod.name";

fn failed(error: nix::Error) -> Stop {
    Stop::Status(code::INTERNAL, error.to_string())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = mount_table::read().unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    mount_table::at_or_below(&mounts, &path).contains(&path)
}

/// A volume and a path on the machine.
struct MountTarget<'a> {
    driver: &'a Driver,
    volume: &'a str,
    /// The path in the request.
    requested_path: &'a str,
    local_path: PathBuf,
}

impl MountTarget<'_> {
    fn is_mounted(&self) -> bool {
        is_mounted(&self.local_path)
    }

    fn event(&self, event: &str) -> Result<(), Stop> {
        let Self { driver, volume, .. } = self;
        Ok(driver
            .state
            .event(event, volume, driver.node_id(), self.requested_path)?)
    }

    /// Mounts the source at the path, unless it is mounted. The event is recorded before the mount.
    fn bind(&self, source: &Path, read_only: bool) -> Result<(), Stop> {
        if self.is_mounted() {
            return Ok(());
        }
        self.event("mounted")?;
        let none: Option<&str> = None;
        mount(Some(source), &self.local_path, none, MsFlags::MS_BIND, none).map_err(failed)?;
        if read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, &self.local_path, none, flags, none).map_err(failed)?;
        }
        Ok(())
    }

    /// Mounts a file system in memory with this capacity at the path, and fills it with the data.
    fn mount_memory(&self, data: &Path, capacity: i64) -> Result<(), Stop> {
        if self.is_mounted() {
            return Ok(());
        }
        self.event("mounted")?;
        let options = format!("size={capacity},mode=777");
        let tmpfs = Some("tmpfs");
        let options = Some(options.as_str());
        mount(tmpfs, &self.local_path, tmpfs, MsFlags::empty(), options).map_err(failed)?;
        Ok(copy(data, &self.local_path)?)
    }

    /// Increases the capacity of the file system in memory.
    fn grow_memory(&self, capacity: i64) -> Result<(), Stop> {
        let (none, options): (Option<&str>, _) = (None, format!("size={capacity}"));
        let options = Some(options.as_str());
        mount(none, &self.local_path, none, MsFlags::MS_REMOUNT, options).map_err(failed)
    }

    fn unbind(&self) -> Result<(), Stop> {
        while self.is_mounted() {
            umount2(&self.local_path, MntFlags::UMOUNT_NOFOLLOW).map_err(failed)?;
            self.event("unmounted")?;
        }
        Ok(())
    }
}

impl Driver {
    pub(crate) fn node_info(&self) -> Done {
        let Role::Node {
            id,
            zone,
            volumes_max,
            ..
        } = &self.role
        else {
            return stop(code::UNIMPLEMENTED, "NodeGetInfo");
        };
        Ok(json!({"node_id": id, "max_volumes_per_node": volumes_max,
            "accessible_topology": {"segments": {self.zone_key(): zone}}}))
    }

    /// Translates a path of a request to a path on this machine.
    fn local_path(&self, path: &str) -> PathBuf {
        let Role::Node { root, .. } = &self.role else {
            return PathBuf::from(path);
        };
        match Path::new(path).strip_prefix(&root.0) {
            Ok(rest) => root.1.join(rest),
            Err(_) => PathBuf::from(path),
        }
    }

    fn target_at<'a>(&'a self, volume: &'a str, requested_path: &'a str) -> MountTarget<'a> {
        MountTarget {
            driver: self,
            volume,
            requested_path,
            local_path: self.local_path(requested_path),
        }
    }

    fn use_key(&self, volume: &str) -> String {
        format!("{}@{volume}", self.node_id())
    }

    /// The recorded uses of a volume on this machine, without mounts that no longer exist, for example after
    /// a reboot.
    fn uses(&self, volume: &str) -> Result<Value, Stop> {
        let uses = self.state.read("uses", &self.use_key(volume))?;
        let mut uses = uses.unwrap_or_else(|| json!({"targets": {}}));
        if let Some(targets) = uses["targets"].as_object_mut() {
            targets.retain(|path, _| is_mounted(&self.local_path(path)));
        }
        let staged = &uses["staged"];
        let is_there = match staged["device"].as_str() {
            Some(device) => device::is_of(device, &self.state.data(volume)),
            None => is_mounted(&self.local_path(staged["path"].as_str().unwrap_or_default())),
        };
        if !is_there && let Some(uses) = uses.as_object_mut() {
            uses.remove("staged");
        }
        Ok(uses)
    }

    fn keep(&self, volume: &str, uses: &Value) -> Result<(), Stop> {
        let is_empty = uses["targets"]
            .as_object()
            .is_none_or(json_tree::Map::is_empty);
        let key = self.use_key(volume);
        match is_empty && !uses["staged"].is_object() {
            true => self.state.remove("uses", &key)?,
            false => self.state.write("uses", &key, uses)?,
        }
        Ok(())
    }

    pub(crate) fn stage(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "staging_target_path")?;
        let capability = capability_of(request)?;
        let volume = self.volume(id)?;
        let node = self.node_id();
        if !volume["published"][node].is_object() {
            return stop(
                code::FAILED_PRECONDITION,
                format!("{id} is not attached to {node}"),
            );
        }
        if request["publish_context"]["device"] != format!("{node}/{id}") {
            return stop(code::INVALID_ARGUMENT, "publish_context");
        }
        if request["volume_context"]["name"] != volume["name"] {
            return stop(code::INVALID_ARGUMENT, "volume_context");
        }
        if json!(is_block(capability)) != volume["block"] {
            return stop(code::INVALID_ARGUMENT, "a volume of another mode");
        }
        let mut uses = self.uses(id)?;
        let staged = &uses["staged"];
        if staged.is_object() {
            return match (staged["path"] == path, staged["capability"] == *capability) {
                (true, true) => Ok(json!({})),
                (true, false) => stop(
                    code::ALREADY_EXISTS,
                    format!("{id} is staged in another way"),
                ),
                (false, _) => stop(
                    code::FAILED_PRECONDITION,
                    format!("{id} is staged elsewhere"),
                ),
            };
        }
        let target = self.target_at(id, path);
        if !target.local_path.is_dir() {
            return stop(code::FAILED_PRECONDITION, format!("{path} is no directory"));
        }
        let mut staged = json!({"path": path, "capability": capability});
        match is_block(capability) {
            true => staged["device"] = json!(device::attach(&self.state.data(id))?),
            false if is_limited(&volume) => {
                let capacity = volume["capacity"].as_i64().unwrap_or(0);
                target.mount_memory(&self.state.data(id), capacity)?;
            }
            false => target.bind(&self.state.data(id), false)?,
        }
        call.middle()?;
        uses["staged"] = staged;
        self.keep(id, &uses)?;
        Ok(json!({}))
    }

    pub(crate) fn unstage(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "staging_target_path")?;
        let mut uses = self.uses(id)?;
        if uses["targets"]
            .as_object()
            .is_some_and(|all| !all.is_empty())
        {
            return stop(code::FAILED_PRECONDITION, format!("{id} is published"));
        }
        let target = self.target_at(id, path);
        let volume = self.state.read("volumes", id)?.unwrap_or_default();
        if is_limited(&volume) && target.is_mounted() {
            self.state.remove_data(id)?;
            copy(&target.local_path, &self.state.data(id))?;
        }
        target.unbind()?;
        call.middle()?;
        if let Some(device) = uses["staged"]["device"].as_str() {
            device::detach(device, &self.state.data(id))?;
        }
        if let Some(uses) = uses.as_object_mut() {
            uses.remove("staged");
        }
        self.keep(id, &uses)?;
        Ok(json!({}))
    }

    pub(crate) fn publish(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "target_path")?;
        let capability = capability_of(request)?;
        let context = &request["volume_context"];
        let is_ephemeral = context[EPHEMERAL] == "true";
        let mut uses = self.uses(id)?;
        let read_only = request["readonly"] == true;
        let requested_use = json!({"capability": capability, "readonly": read_only});
        if let Some(published_use) = uses["targets"].get(path) {
            return match *published_use == requested_use {
                true => Ok(json!({})),
                false => stop(
                    code::ALREADY_EXISTS,
                    format!("{id} is published in another way"),
                ),
            };
        }
        let source = match is_ephemeral {
            true => self.ephemeral(id, context)?,
            false => self.staged(id, request, &uses)?,
        };
        let is_in_use = uses["targets"]
            .as_object()
            .is_some_and(|all| !all.is_empty());
        let is_single = match mode(capability) {
            SINGLE_WRITER => true,
            SINGLE_NODE_MULTI_WRITER => false,
            _ => !is_multi_node(capability),
        };
        if is_in_use && is_single {
            return stop(
                code::FAILED_PRECONDITION,
                format!("{id} is published elsewhere"),
            );
        }
        let target = self.target_at(id, path);
        if !target.local_path.parent().is_some_and(Path::is_dir) {
            return stop(
                code::FAILED_PRECONDITION,
                format!("no directory for {path}"),
            );
        }
        match is_block(capability) {
            true => drop(fs::File::create(&target.local_path)?),
            false => fs::create_dir_all(&target.local_path)?,
        }
        target.bind(&source, read_only)?;
        call.middle()?;
        uses["targets"][path] = requested_use;
        uses["ephemeral"] = json!(is_ephemeral);
        self.keep(id, &uses)?;
        Ok(json!({}))
    }

    /// The data of a volume that is deleted with its pod.
    fn ephemeral(&self, id: &str, context: &Value) -> Result<PathBuf, Stop> {
        if context[POD].as_str().is_none() {
            return stop(code::INVALID_ARGUMENT, format!("{POD} is missing"));
        }
        let data = self.state.data(id);
        fs::create_dir_all(&data)?;
        Ok(data)
    }

    /// The data of a staged volume.
    fn staged(&self, id: &str, request: &Value, uses: &Value) -> Result<PathBuf, Stop> {
        let volume = self.volume(id)?;
        let Some(staging) = request["staging_target_path"].as_str() else {
            return stop(code::FAILED_PRECONDITION, "staging_target_path is missing");
        };
        let capability = capability_of(request)?;
        if json!(is_block(capability)) != volume["block"] {
            return stop(code::INVALID_ARGUMENT, "a volume of another mode");
        }
        let staged = &uses["staged"];
        if staged["path"] != staging {
            return stop(code::FAILED_PRECONDITION, format!("{id} is not staged"));
        }
        Ok(match staged["device"].as_str() {
            Some(device) => device::node(device),
            None => self.local_path(staging),
        })
    }

    pub(crate) fn unpublish(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "target_path")?;
        let mut uses = self.uses(id)?;
        let record = self
            .state
            .read("uses", &self.use_key(id))?
            .unwrap_or_default();
        let target = self.target_at(id, path);
        target.unbind()?;
        call.middle()?;
        allow_missing(match target.local_path.is_file() {
            true => fs::remove_file(&target.local_path),
            false => fs::remove_dir(&target.local_path),
        })?;
        if let Some(targets) = uses["targets"].as_object_mut() {
            targets.remove(path);
        }
        if record["ephemeral"] == true {
            self.state.remove_data(id)?;
        }
        self.keep(id, &uses)?;
        Ok(json!({}))
    }

    pub(crate) fn expand_on_node(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "volume_path")?;
        let (at_least, _) = range(request)?;
        if request["volume_capability"].is_object() {
            capability(&request["volume_capability"])?;
        }
        let volume = self.volume(id)?;
        let mut uses = self.uses(id)?;
        let is_here = uses["targets"].get(path).is_some() || uses["staged"]["path"] == path;
        if !is_here {
            return stop(code::NOT_FOUND, format!("{id} is not at {path}"));
        }
        let capacity = volume["capacity"].as_i64().unwrap_or(0);
        if at_least > capacity {
            return stop(code::OUT_OF_RANGE, format!("{id} has {capacity} bytes"));
        }
        if let Some(device) = uses["staged"]["device"].as_str() {
            device::grow(device)?;
        }
        if is_limited(&volume)
            && let Some(staged) = uses["staged"]["path"].as_str()
        {
            self.target_at(id, staged).grow_memory(capacity)?;
        }
        call.middle()?;
        uses["capacity"] = json!(capacity);
        self.keep(id, &uses)?;
        Ok(json!({"capacity_bytes": capacity}))
    }

    /// The usage of a volume; a volume with a file "broken" reports an abnormal condition.
    pub(crate) fn stats(&self, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let path = required(request, "volume_path")?;
        let local_path = self.local_path(path);
        if !is_mounted(&local_path) {
            return stop(code::NOT_FOUND, format!("{id} is not at {path}"));
        }
        let volume = self.state.read("volumes", id)?.unwrap_or_default();
        if is_limited(&volume) {
            return limited_stats(&local_path);
        }
        let total = volume["capacity"].as_i64().unwrap_or(0);
        let data = self.state.data(id);
        let mut used = 0;
        let mut files: i64 = 1;
        for entry in fs::read_dir(&data).into_iter().flatten().flatten() {
            used += entry
                .metadata()
                .map_or(0, |statistics| statistics.len().cast_signed());
            files += 1;
        }
        let bytes =
            json!({"total": total, "used": used, "available": (total - used).max(0), "unit": 1});
        let inodes = json!({"total": 1000, "used": files, "available": 1000 - files, "unit": 2});
        let usage = match volume["block"] == true {
            true => vec![json!({"total": total, "unit": 1})],
            false => vec![bytes, inodes],
        };
        let is_broken = data.join("broken").exists();
        Ok(
            json!({"usage": usage, "volume_condition": {"abnormal": is_broken, "message": "looked at"}}),
        )
    }
}

/// Whether the capacity of the volume is enforced.
fn is_limited(volume: &Value) -> bool {
    volume["parameters"]["limited"] == "true" && volume["block"] != true
}

/// The usage of a volume with a separate file system.
fn limited_stats(local_path: &Path) -> Done {
    let statistics = nix::sys::statvfs::statvfs(local_path).map_err(failed)?;
    let bytes = |blocks: u64| blocks * statistics.fragment_size();
    let (total, free) = (statistics.blocks(), statistics.blocks_free());
    let (files, files_free) = (statistics.files(), statistics.files_free());
    Ok(json!({"usage": [
        {"total": bytes(total), "used": bytes(total - free), "available": bytes(statistics.blocks_available()),
            "unit": 1},
        {"total": files, "used": files - files_free, "available": files_free, "unit": 2}]}))
}
