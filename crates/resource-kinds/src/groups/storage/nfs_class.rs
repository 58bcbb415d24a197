//! Classes whose volumes are directories of an NFS export, as of the nfs-subdir-external-provisioner (its README,
//! "StorageClass parameters" and `provisioner.go`).

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use thiserror::Error;

use crate::well_known::annotations::PROVISIONED_BY;

pub const NFS_PROVISIONER: &str = "mainstay.dev/nfs";
/// The provisioner name in the external provisioner's manifests; its chart adds a prefix.
const SUBDIR_PROVISIONER: &str = "nfs-subdir-external-provisioner";
/// The provisioner name in the manifests of the external provisioner's predecessor.
const FORMER_PROVISIONER: &str = "fuseim.pri/ifs";
/// The prefix of the name of a directory that is retained after the deletion of its claim.
const ARCHIVED: &str = "archived-";
/// The maximum length of a directory's name, in bytes (`NAME_MAX` of Linux, and of NFS servers on Linux).
const NAME_MAX: usize = 255;

/// The action for a directory whose claim is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// The directory is removed with its files.
    Delete,
    /// The directory stays unchanged.
    Retain,
    /// The directory is renamed to `archived-<name>`.
    Archive,
}

/// An invalid parameter of a class; the message is for users.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NfsClassError {
    #[error("the class needs the parameters server and path")]
    NoExport,
    #[error("the parameter archiveOnDelete is {0:?}, not a bool")]
    ArchiveOnDelete(String),
    #[error("the pathPattern of the class makes {0:?}, which is no directory below the export")]
    OutsideOfExport(String),
    #[error(
        "the pathPattern of the class makes a name of {0} bytes, and a directory's has at most {NAME_MAX}"
    )]
    NameTooLong(usize),
}

/// A class and its NFS export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NfsClass {
    /// Name or address of the server.
    pub server: String,
    /// The path that the server exports.
    pub path: String,
    /// The pattern of the directories' names. `None`: the names contain the names of the claim and the volume.
    pub path_pattern: Option<String>,
    /// The action for the directories of deleted claims.
    pub on_delete: OnDelete,
}

/// Whether a provisioner creates directories of an NFS export.
pub fn is_nfs_provisioner(name: &str) -> bool {
    name == NFS_PROVISIONER
        || name == FORMER_PROVISIONER
        || name
            .rsplit_once('/')
            .is_some_and(|(_, last)| last.ends_with(SUBDIR_PROVISIONER))
}

impl NfsClass {
    /// The class, if the built-in provisioner serves it. An external provisioner serves a class without `server` and
    /// `path` (or `share`, the name that the CSI driver for NFS uses), because it has these settings itself.
    pub fn of(class: &StorageClass) -> Option<Result<NfsClass, NfsClassError>> {
        if !is_nfs_provisioner(&class.provisioner) {
            return None;
        }
        let parameter = |name: &str| {
            let all = class.parameters.as_ref()?;
            all.get(name).filter(|value| !value.is_empty())
        };
        let path = parameter("path").or_else(|| parameter("share"));
        let (server, path) = match (parameter("server"), path) {
            (Some(server), Some(path)) => (server, path),
            _ if class.provisioner == NFS_PROVISIONER => {
                return Some(Err(NfsClassError::NoExport));
            }
            _ => return None,
        };
        let on_delete = match on_delete(parameter("onDelete"), parameter("archiveOnDelete")) {
            Ok(on_delete) => on_delete,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(NfsClass {
            server: server.clone(),
            path: path.clone(),
            path_pattern: parameter("pathPattern").cloned(),
            on_delete,
        }))
    }

    /// The directory of a claim's volume, relative to the export.
    ///
    /// Without a pattern, the names of the claim and of its namespace are shortened to fit. The name of the volume is
    /// never shortened, so two directories never have equal names.
    ///
    /// # Errors
    /// A pattern that leads out of the export, to the export itself, or to a name that is too long.
    pub fn directory(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &str,
    ) -> Result<PathBuf, NfsClassError> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let filled = self
            .path_pattern
            .as_deref()
            .map(|pattern| fill(pattern, claim));
        let text = match filled.filter(|text| !text.is_empty()) {
            Some(text) => text,
            None => {
                let end = format!("-{volume}");
                let free = NAME_MAX.saturating_sub(ARCHIVED.len() + end.len());
                cut(&format!("{namespace}-{name}"), free).to_owned() + &end
            }
        };
        let path = below(Path::new(&text)).ok_or(NfsClassError::OutsideOfExport(text))?;
        match path
            .iter()
            .map(OsStr::len)
            .find(|length| *length > NAME_MAX)
        {
            Some(length) => Err(NfsClassError::NameTooLong(length)),
            None => Ok(path),
        }
    }

    /// The path of a directory on the server.
    pub fn path_of(&self, directory: &Path) -> String {
        let joined = Path::new(&self.path).join(directory);
        joined.to_string_lossy().into_owned()
    }

    /// The directory of a volume, relative to the export; `None` if the volume is not in the export.
    pub fn directory_of(&self, volume: &PersistentVolume) -> Option<PathBuf> {
        let source = volume.spec.as_ref()?.nfs.as_ref()?;
        let rest = Path::new(&source.path).strip_prefix(&self.path).ok()?;
        below(rest).filter(|_| source.server == self.server)
    }
}

/// Whether a provisioner of NFS directories created the volume.
pub fn is_nfs_directory(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|all| all.get(PROVISIONED_BY));
    let spec = volume.spec.as_ref();
    maker.is_some_and(|maker| is_nfs_provisioner(maker))
        && spec.is_some_and(|spec| spec.nfs.is_some())
}

/// The new name of a directory that is retained after the deletion of its claim. The name ends with the volume's name
/// if another directory has the plain name already. A name that is too long is shortened.
pub fn archived(directory: &Path, volume: Option<&str>) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let end = volume.map_or_else(String::new, |volume| format!("-{volume}"));
    let free = NAME_MAX.saturating_sub(ARCHIVED.len() + end.len());
    PathBuf::from(format!("{ARCHIVED}{}{end}", cut(&name, free)))
}

/// The longest prefix of at most `bytes` bytes that ends between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// As the external provisioner: `onDelete` has precedence; otherwise the directory is archived unless
/// `archiveOnDelete` is false.
fn on_delete(
    on_delete: Option<&String>,
    archive: Option<&String>,
) -> Result<OnDelete, NfsClassError> {
    match on_delete.map(String::as_str) {
        Some("delete") => return Ok(OnDelete::Delete),
        Some("retain") => return Ok(OnDelete::Retain),
        _ => {}
    }
    // The notations of Go's `strconv.ParseBool`.
    match archive.map(String::as_str) {
        None | Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(OnDelete::Archive),
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(OnDelete::Delete),
        Some(other) => Err(NfsClassError::ArchiveOnDelete(other.to_owned())),
    }
}

/// Replaces `${.PVC.name}`, `${.PVC.namespace}`, `${.PVC.labels.KEY}` and `${.PVC.annotations.KEY}`. A missing value is
/// replaced by an empty text.
fn fill(pattern: &str, claim: &PersistentVolumeClaim) -> String {
    let metadata = &claim.metadata;
    let value = |field: &str| -> Option<&String> {
        match field.split_once('.') {
            Some(("labels", key)) => metadata.labels.as_ref()?.get(key),
            Some(("annotations", key)) => metadata.annotations.as_ref()?.get(key),
            _ if field == "name" => metadata.name.as_ref(),
            _ if field == "namespace" => metadata.namespace.as_ref(),
            _ => None,
        }
    };
    let (mut filled, mut rest) = (String::new(), pattern);
    while let Some((before, after)) = rest.split_once("${.PVC.") {
        let Some((field, after)) = after.split_once('}') else {
            break;
        };
        filled += before;
        filled += value(field).map_or("", String::as_str);
        rest = after;
    }
    filled + rest
}

/// The normalised path relative to the export; `None` if the path leaves the export or is the export itself.
fn below(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn class(provisioner: &str, parameters: Value) -> Option<Result<NfsClass, NfsClassError>> {
        let class = json!({"provisioner": provisioner, "parameters": parameters});
        NfsClass::of(&json_tree::from_value(class).unwrap())
    }

    fn served(more: &[(&str, &str)]) -> NfsClass {
        let mut parameters = json!({"server": "s", "path": "/srv"});
        for (key, value) in more {
            parameters[*key] = json!(value);
        }
        class(NFS_PROVISIONER, parameters).unwrap().unwrap()
    }

    fn claim() -> PersistentVolumeClaim {
        json_tree::from_value(json!({"metadata": {"name": "data", "namespace": "shop",
            "labels": {"app": "web"}, "annotations": {"nfs.io/storage-path": "deep/place",
                "up": "../../etc"}}}))
        .unwrap()
    }

    #[test]
    fn a_class_without_an_export_is_served_by_another() {
        let subdir = "k8s-sigs.io/nfs-subdir-external-provisioner";
        assert_eq!(class(subdir, json!({"archiveOnDelete": "false"})), None);
        let export = json!({"server": "s", "share": "/srv"});
        for name in [
            subdir,
            "cluster.local/nfs-subdir-external-provisioner",
            "fuseim.pri/ifs",
        ] {
            let nfs_class = class(name, export.clone()).unwrap().unwrap();
            assert_eq!(
                (nfs_class.server.as_str(), nfs_class.path.as_str()),
                ("s", "/srv")
            );
        }
        assert_eq!(class("nfs.csi.k8s.io", export), None);
        assert!(
            class(NFS_PROVISIONER, json!({"server": "s"}))
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn directories_are_archived_unless_the_class_says_otherwise() {
        for (parameters, expected) in [
            (vec![], OnDelete::Archive),
            (vec![("archiveOnDelete", "true")], OnDelete::Archive),
            (vec![("archiveOnDelete", "false")], OnDelete::Delete),
            (
                vec![("onDelete", "retain"), ("archiveOnDelete", "false")],
                OnDelete::Retain,
            ),
            (
                vec![("onDelete", "delete"), ("archiveOnDelete", "true")],
                OnDelete::Delete,
            ),
            (vec![("onDelete", "other")], OnDelete::Archive),
        ] {
            assert_eq!(served(&parameters).on_delete, expected, "{parameters:?}");
        }
        let odd = json!({"server": "s", "path": "/srv", "archiveOnDelete": "perhaps"});
        assert!(class(NFS_PROVISIONER, odd).unwrap().is_err());
    }

    #[test]
    fn directories_are_named_for_the_claim_or_by_the_pattern() {
        let directory = |pattern: &str| {
            let class = served(&[("pathPattern", pattern)]);
            class
                .directory(&claim(), "pvc-1")
                .map(|path| path.display().to_string())
        };
        assert_eq!(directory("").unwrap(), "shop-data-pvc-1");
        let pattern = "${.PVC.namespace}/${.PVC.annotations.nfs.io/storage-path}";
        assert_eq!(directory(pattern).unwrap(), "shop/deep/place");
        assert_eq!(
            directory("/${.PVC.labels.app}//${.PVC.name}").unwrap(),
            "web/data"
        );
        // A pattern that expands to an empty path is ignored.
        assert_eq!(directory("${.PVC.labels.none}").unwrap(), "shop-data-pvc-1");
        for out in ["..", "a/../..", "${.PVC.annotations.up}", "/", "."] {
            assert!(directory(out).is_err(), "{out}");
        }
    }

    /// A namespace has up to 63 bytes and a claim up to 253, the name of a directory up to 255.
    #[test]
    fn names_of_the_longest_claims_fit_into_a_directory_also_when_it_is_archived() {
        let volume = "pvc-4d1e0c3b-6f1c-4a59-9a53-5d3f0c0f5a10";
        let mut claim = claim();
        claim.metadata.namespace = Some("n".repeat(63));
        claim.metadata.name = Some("c".repeat(253));
        let path = served(&[]).directory(&claim, volume).unwrap();
        let text = path.display().to_string();
        assert_eq!(text.len(), 246);
        assert!(
            text.starts_with(&format!("{}-ccc", "n".repeat(63))),
            "{text}"
        );
        assert!(text.ends_with(&format!("c-{volume}")), "{text}");
        assert_eq!(
            archived(&path, None),
            Path::new(&format!("archived-{text}"))
        );
        let again = archived(&path, Some(volume)).display().to_string();
        assert_eq!(again.len(), 255);
        assert!(again.ends_with(&format!("-{volume}")), "{again}");
        // A name from a pattern is archived, too, and is cut between two characters. A name that leaves no space for
        // the suffix is refused.
        let long = "ä".repeat(127);
        let archive_name = archived(Path::new(&long), None).display().to_string();
        assert_eq!(archive_name, format!("archived-{}", "ä".repeat(123)));
        let by_pattern = served(&[(
            "pathPattern",
            "${.PVC.namespace}/${.PVC.name}.of.${.PVC.name}",
        )]);
        let error = by_pattern.directory(&claim, volume).unwrap_err();
        assert_eq!(error, NfsClassError::NameTooLong(510));
    }

    #[test]
    fn a_directory_is_found_again_below_its_export_only() {
        let class = served(&[]);
        let volume = |server: &str, path: &str| -> PersistentVolume {
            json_tree::from_value(json!({"metadata": {"annotations":
                {"pv.kubernetes.io/provisioned-by": NFS_PROVISIONER}},
                "spec": {"nfs": {"server": server, "path": path}}}))
            .unwrap()
        };
        let path = class.path_of(Path::new("shop-data-pvc-1"));
        let created = volume("s", &path);
        assert!(is_nfs_directory(&created));
        assert_eq!(class.directory_of(&created), Some("shop-data-pvc-1".into()));
        for (server, path) in [
            ("s", "/srv"),
            ("s", "/srv2/a"),
            ("t", "/srv/a"),
            ("s", "/srv/../a"),
        ] {
            assert_eq!(
                class.directory_of(&volume(server, path)),
                None,
                "{server}:{path}"
            );
        }
        assert_eq!(archived(Path::new("a/b"), None), Path::new("archived-b"));
    }
}
