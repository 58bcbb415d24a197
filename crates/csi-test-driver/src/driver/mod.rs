//! The complete driver: Identity, Controller and Node over a directory that all machines of a test share.

mod attach;
mod device;
mod node;
mod rules;
mod snapshots;
mod stop;
mod volumes;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use json_tree::{Value, json};

use crate::faults::{Fault, next_fault};
use crate::schema::{decode, encode};
use crate::server::CallOutcome;
use crate::state::State;

pub(crate) use stop::{Done, Stop, code, stop};

/// The CSI service that the driver serves in addition to Identity.
#[derive(Clone, Debug)]
pub enum Role {
    /// The Controller service; one instance in the cluster.
    Controller,
    /// The Node service of one machine.
    Node {
        /// The name of the node.
        id: String,
        /// The zone of the node.
        zone: String,
        /// Maximum number of volumes on the node; zero for no limit.
        volumes_max: i64,
        /// The directory to which paths in calls are relative, and its path on this machine.
        root: (PathBuf, PathBuf),
    },
}

/// The effect of the fault `die`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process kills itself with SIGKILL.
    Process,
    /// Only the connection breaks: for drivers in the process of a test.
    Connection,
}

#[derive(Debug)]
pub struct Driver {
    name: String,
    role: Role,
    state: State,
    death: Death,
    /// The volumes and names with a pending call.
    pending: Mutex<BTreeSet<String>>,
    /// Lock that serialises changes of the state.
    changes: Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pending call; the volume can be used by another call after the drop.
struct Pending<'a>(&'a Driver, String);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        locked(&self.0.pending).remove(&self.1);
    }
}

/// A call, with the faults that tests have ordered for it.
pub(crate) struct Call<'a> {
    driver: &'a Driver,
    method: &'a str,
    subject: &'a str,
}

impl Call<'_> {
    fn fault(&self, at: &str) -> Result<Option<Fault>, Stop> {
        let role = self.driver.role_name();
        let of = (self.method, at, self.subject);
        Ok(next_fault(&self.driver.state, &role, of)?)
    }

    /// A point at which the call may fail. Executes delays.
    fn pass(&self, at: &str) -> Result<bool, Stop> {
        match self.fault(at)? {
            None => Ok(false),
            Some(Fault::Repeat) => Ok(true),
            Some(Fault::Slow(milliseconds)) => {
                sleep(Duration::from_millis(milliseconds));
                Ok(false)
            }
            Some(Fault::Fail(code)) => stop(code, "on purpose"),
            Some(fault) => Err(Stop::Fault(fault)),
        }
    }

    /// The point between two steps of a method.
    pub(crate) fn middle(&self) -> Result<(), Stop> {
        self.pass("middle").map(drop)
    }
}

impl Driver {
    /// A driver over a directory. The driver of a node records the node there.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(name: &str, role: Role, dir: &Path, death: Death) -> io::Result<Self> {
        let state = State::open(dir)?;
        if let Role::Node {
            id,
            zone,
            volumes_max,
            ..
        } = &role
        {
            let node = json!({"zone": zone, "volumes_max": volumes_max});
            state.write("nodes", id, &node)?;
        }
        Ok(Self {
            name: name.to_owned(),
            role,
            state,
            death,
            pending: Mutex::default(),
            changes: Mutex::default(),
        })
    }

    /// `controller`, or `node` and the node's name.
    fn role_name(&self) -> String {
        match &self.role {
            Role::Controller => "controller".to_owned(),
            Role::Node { id, .. } => format!("node {id}"),
        }
    }

    /// The label key of zones on nodes.
    pub(crate) fn zone_key(&self) -> String {
        format!("topology.{}/zone", self.name)
    }

    pub(crate) fn respond(&self, path: &str, message: &[u8]) -> CallOutcome {
        let method = path.rsplit('/').next().unwrap_or_default();
        let request = decode(&format!("{method}Request"), message);
        let done = match request {
            Ok(request) => self.noted(path, method, &request),
            Err(error) => stop(code::INVALID_ARGUMENT, error.to_string()),
        };
        let done = done.and_then(|response| {
            encode(&format!("{method}Response"), &response)
                .map_err(|error| Stop::Status(code::INTERNAL, error.to_string()))
        });
        match done {
            Ok(bytes) => CallOutcome::Done(Ok(bytes)),
            Err(Stop::Status(code, words)) => CallOutcome::Done(Err((code, words))),
            Err(Stop::Fault(Fault::Hang)) => CallOutcome::Hangs,
            Err(Stop::Fault(_)) => {
                if self.death == Death::Process {
                    let pid = nix::unistd::getpid();
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
                }
                CallOutcome::Dies
            }
        }
    }

    /// Executes a call and writes its request and response to the journal; only the names of secrets are
    /// written.
    fn noted(&self, path: &str, method: &str, request: &Value) -> Done {
        let is_question = method.contains("Get") || method == "Probe";
        let mut logged = request.clone();
        if let Some(secrets) = logged["secrets"].as_object_mut() {
            secrets.values_mut().for_each(|value| *value = json!("…"));
        }
        if !logged["secrets"].is_object()
            && let Some(logged) = logged.as_object_mut()
        {
            logged.remove("secrets");
        }
        let role = self.role_name();
        if !is_question {
            let line = json!({"call": method, "role": role, "request": logged});
            self.state.note(&line)?;
        }
        let done = self.called(path, method, request);
        if !is_question {
            let code = match &done {
                Ok(_) => json!(0),
                Err(Stop::Status(code, words)) => json!([code, words]),
                Err(Stop::Fault(fault)) => json!(format!("{fault:?}")),
            };
            let volume = subject_of(request);
            let line = json!({"done": method, "role": role, "of": volume, "code": code});
            self.state.note(&line)?;
        }
        done
    }

    fn called(&self, path: &str, method: &str, request: &Value) -> Done {
        if !self.serves(path) {
            return stop(code::UNIMPLEMENTED, path);
        }
        rules::lengths(request)?;
        let subject = subject_of(request);
        let _pending = match subject.is_empty() || method.contains("Get") {
            true => None,
            false => Some(self.begin(&subject)?),
        };
        let call = Call {
            driver: self,
            method,
            subject: &subject,
        };
        let repeats = call.pass("before")?;
        if repeats {
            drop(self.perform(&call, request));
        }
        let done = self.perform(&call, request)?;
        if call.pass("after")? {
            return self.perform(&call, request);
        }
        Ok(done)
    }

    fn serves(&self, path: &str) -> bool {
        let service = match self.role {
            Role::Controller => "/csi.v1.Controller/",
            Role::Node { .. } => "/csi.v1.Node/",
        };
        path.starts_with("/csi.v1.Identity/") || path.starts_with(service)
    }

    fn begin(&self, subject: &str) -> Result<Pending<'_>, Stop> {
        if !locked(&self.pending).insert(subject.to_owned()) {
            return stop(code::ABORTED, format!("a call for {subject} is pending"));
        }
        Ok(Pending(self, subject.to_owned()))
    }

    fn perform(&self, call: &Call<'_>, request: &Value) -> Done {
        match call.method {
            "GetPluginInfo" => Ok(json!({"name": self.name, "vendor_version": "1.0"})),
            "GetPluginCapabilities" => Ok(json!({"capabilities": [
                {"service": {"type": 1}}, {"service": {"type": 2}}, {"volume_expansion": {"type": 1}}]})),
            "Probe" => Ok(json!({"ready": true})),
            "ControllerGetCapabilities" => {
                Ok(capabilities(&[1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 14]))
            }
            "NodeGetCapabilities" => Ok(capabilities(&[1, 2, 3, 4, 5])),
            "NodeGetInfo" => self.node_info(),
            "GetCapacity" => self.free_capacity(request),
            _ => self.change(call, request),
        }
    }

    /// Dispatches the calls that read or change the state.
    fn change(&self, call: &Call<'_>, request: &Value) -> Done {
        let _lock = locked(&self.changes);
        match call.method {
            "CreateVolume" => self.create_volume(call, request),
            "DeleteVolume" => self.delete_volume(call, request),
            "ControllerPublishVolume" => self.attach(call, request),
            "ControllerUnpublishVolume" => self.detach(call, request),
            "ValidateVolumeCapabilities" => self.validate(request),
            "ListVolumes" => self.list_volumes(request),
            "ControllerGetVolume" => self.get_volume(request),
            "ControllerExpandVolume" => self.expand_volume(call, request),
            "ControllerModifyVolume" => self.modify_volume(call, request),
            "CreateSnapshot" => self.create_snapshot(call, request),
            "DeleteSnapshot" => self.delete_snapshot(call, request),
            "ListSnapshots" => self.list_snapshots(request),
            "NodeStageVolume" => self.stage(call, request),
            "NodeUnstageVolume" => self.unstage(call, request),
            "NodePublishVolume" => self.publish(call, request),
            "NodeUnpublishVolume" => self.unpublish(call, request),
            "NodeExpandVolume" => self.expand_on_node(call, request),
            "NodeGetVolumeStats" => self.stats(request),
            method => stop(code::UNIMPLEMENTED, method),
        }
    }
}

fn capabilities(types: &[u64]) -> Value {
    let all = types.iter().map(|of| json!({"rpc": {"type": of}}));
    json!({"capabilities": all.collect::<Vec<_>>()})
}

/// The volume id or the volume name in a request.
fn subject_of(request: &Value) -> String {
    let keys = ["volume_id", "name", "snapshot_id"];
    let subject = keys.iter().find_map(|key| request[*key].as_str());
    subject.unwrap_or_default().to_owned()
}
