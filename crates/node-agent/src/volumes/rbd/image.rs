//! An image of a Ceph cluster: its names, and the texts that the kernel and `rbd` exchange about it.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{RBDPersistentVolumeSource, RBDVolumeSource, SecretReference};
use resource_kinds::storage::rbd::{DEFAULT_POOL, DEFAULT_USER, is_word};
use serde::{Deserialize, Serialize};

/// The port of a monitor that names none.
pub const MONITOR_PORT: u16 = 6789;

const KEYRING: &str = "/etc/ceph/keyring";

/// An `rbd` volume, of a pod or of a PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The monitors, as the volume names them.
    pub monitors: Vec<String>,
    /// Name of the RADOS pool.
    pub pool: String,
    /// Name of the image in the pool.
    pub image: String,
    /// The user, without `client.`.
    pub user: String,
    /// The keyring on the node, for a volume without a Secret.
    pub keyring: String,
    /// The Secret with the user's key.
    pub secret: Option<SecretName>,
    /// The type of the file system, if the volume names one.
    pub file_system: Option<String>,
    /// Whether the image is mapped read-only.
    pub read_only: bool,
}

/// The coordinates of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Whether the Secret must be of the type `kubernetes.io/rbd`.
    pub is_typed: bool,
}

impl Source {
    /// The volume that a pod of the namespace names itself.
    pub fn inline(source: &RBDVolumeSource, namespace: &str) -> Self {
        let secret = source.secret_ref.as_ref().map(|secret| SecretReference {
            name: Some(secret.name.clone()),
            namespace: None,
        });
        let volume = RBDPersistentVolumeSource {
            monitors: source.monitors.clone(),
            image: source.image.clone(),
            pool: source.pool.clone(),
            user: source.user.clone(),
            keyring: source.keyring.clone(),
            secret_ref: secret,
            fs_type: source.fs_type.clone(),
            read_only: source.read_only,
        };
        let mut inline = Self::of_volume(&volume, namespace);
        if let Some(secret) = &mut inline.secret {
            secret.is_typed = false;
        }
        inline
    }

    /// The volume of a claim of the namespace.
    pub fn of_volume(source: &RBDPersistentVolumeSource, namespace: &str) -> Self {
        let secret = source.secret_ref.as_ref().map(|secret| SecretName {
            namespace: or(secret.namespace.as_ref(), namespace),
            name: secret.name.clone().unwrap_or_default(),
            is_typed: true,
        });
        Self {
            monitors: source.monitors.clone(),
            pool: or(source.pool.as_ref(), DEFAULT_POOL),
            image: source.image.clone(),
            user: or(source.user.as_ref(), DEFAULT_USER),
            keyring: or(source.keyring.as_ref(), KEYRING),
            secret,
            file_system: source.fs_type.clone(),
            read_only: source.read_only == Some(true),
        }
    }

    /// Checks the words that are written in one line for the kernel.
    ///
    /// # Errors A word that the kernel would interpret differently.
    pub fn check(&self) -> Result<(), String> {
        for (field, word) in [
            ("pool", &self.pool),
            ("image", &self.image),
            ("user", &self.user),
        ] {
            if !is_word(word) {
                return Err(format!("the {field} {word:?} of the volume is no name"));
            }
        }
        Ok(())
    }
}

fn or(value: Option<&String>, default: &str) -> String {
    let value = value.filter(|value| !value.is_empty());
    value.map_or(default, String::as_str).to_owned()
}

/// The key of a user in the text of a keyring.
pub fn key_in(keyring: &str, user: &str) -> Option<String> {
    let section = format!("[client.{user}]");
    let mut lines = keyring.lines().map(str::trim);
    lines.find(|line| *line == section)?;
    let mut own = lines.take_while(|line| !line.starts_with('['));
    own.find_map(|line| {
        let (name, key) = line.split_once('=')?;
        let key = key.trim();
        (name.trim() == "key" && is_word(key)).then(|| key.to_owned())
    })
}

/// The address of a monitor that is written as one; `None` for a name.
pub fn address(monitor: &str) -> Option<SocketAddr> {
    let bare = monitor.trim_matches(['[', ']']);
    let with_port = || Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, MONITOR_PORT));
    monitor.parse().ok().or_else(with_port)
}

/// An image, by the facts that do not change while it is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Addresses of the monitors, `HOST:PORT`.
    pub monitors: Vec<String>,
    /// Name of the RADOS pool.
    pub pool: String,
    /// Name of the image in the pool.
    pub name: String,
}

impl Image {
    /// Whether both are one image: of one pool and name, in clusters that have a monitor in common.
    pub fn is(&self, other: &Image) -> bool {
        self.pool == other.pool
            && self.name == other.name
            && self
                .monitors
                .iter()
                .any(|monitor| other.monitors.contains(monitor))
    }

    /// `POOL/IMAGE`, as the program `rbd` writes it.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }
}

/// The way to map an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageMapping {
    /// Nothing is written.
    ReadOnly,
    /// Other nodes may write at the same time.
    Shared,
    /// No other client may have its lock.
    Locked,
}

/// The line for `/sys/bus/rbd/add` (`Documentation/ABI/testing/sysfs-bus-rbd` of Linux).
pub fn line(image: &Image, user: &str, key: Option<&str>, access: ImageMapping) -> String {
    let mut options = format!("name={user}");
    if let Some(key) = key {
        options += &format!(",secret={key}");
    }
    options += match access {
        ImageMapping::ReadOnly => ",ro",
        ImageMapping::Shared => "",
        ImageMapping::Locked => ",lock_on_read,exclusive",
    };
    let monitors = image.monitors.join(",");
    format!("{monitors} {options} {} {} -", image.pool, image.name)
}

/// An RBD device that the kernel has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The number of the device: `/dev/rbdN`.
    pub id: u32,
    /// The image that it shows.
    pub image: Image,
    /// Whether it was mapped with the lock.
    pub is_locked: bool,
    /// The kernel's address in the cluster.
    pub client: String,
}

/// Attributes of a device that the kernel shows.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `config_info`: the line that it was mapped by.
    pub config: &'a str,
    /// `pool`: name of the pool.
    pub pool: &'a str,
    /// `name`: name of the image.
    pub name: &'a str,
    /// `current_snap`: name of the snapshot, or `-`.
    pub snapshot: &'a str,
    /// `client_addr`: address of the kernel in the cluster.
    pub client: &'a str,
}

impl Device {
    /// The device of an image; `None` for one of a snapshot.
    pub fn of(id: u32, shown: Attributes<'_>) -> Option<Self> {
        let mut words = shown.config.split_whitespace();
        let monitors = words.next().unwrap_or_default().split(',');
        let mut options = words.next().unwrap_or_default().split(',');
        let image = Image {
            monitors: monitors.map(str::to_owned).collect(),
            pool: shown.pool.trim().to_owned(),
            name: shown.name.trim().to_owned(),
        };
        (shown.snapshot.trim() == "-").then(|| Self {
            id,
            image,
            is_locked: options.any(|option| option == "exclusive"),
            client: shown.client.trim().to_owned(),
        })
    }
}

/// The addresses of other clients that have an image open, from `rbd status --format json`.
///
/// # Errors
/// The text is something else.
pub fn other_watchers(status: &str, own: &str) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        watchers: Vec<Watcher>,
    }
    #[derive(Deserialize)]
    struct Watcher {
        address: String,
    }
    let status: Status = serde_json::from_str(status)
        .map_err(|error| format!("the answer of \"rbd status\" is not understood: {error}"))?;
    let addresses = status.watchers.into_iter().map(|watcher| watcher.address);
    Ok(addresses.filter(|address| address != own).collect())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn image(monitors: &[&str]) -> Image {
        Image {
            monitors: monitors.iter().map(|one| (*one).to_owned()).collect(),
            pool: "kube".to_owned(),
            name: "foo".to_owned(),
        }
    }

    #[test]
    fn a_volume_has_the_defaults_of_the_api() {
        let inline: RBDVolumeSource =
            json_tree::from_value(json!({"monitors": ["10.16.154.78:6789"],
            "image": "foo", "secretRef": {"name": "ceph"}}))
            .unwrap();
        let inline = Source::inline(&inline, "shop");
        assert_eq!(
            (inline.pool.as_str(), inline.user.as_str()),
            ("rbd", "admin")
        );
        assert_eq!(inline.keyring, "/etc/ceph/keyring");
        assert_eq!(inline.secret.unwrap().namespace, "shop");
        // seeds.md M7
        let volume: RBDPersistentVolumeSource = json_tree::from_value(json!({
            "monitors": ["10.16.154.78:6789"], "pool": "kube", "image": "foo", "fsType": "ext4",
            "readOnly": true, "user": "admin", "keyring": "/etc/ceph/keyring",
            "secretRef": {"name": "ceph", "namespace": "system"}}))
        .unwrap();
        let volume = Source::of_volume(&volume, "shop");
        let secret = volume.secret.clone().unwrap();
        assert!(volume.read_only && secret.is_typed && secret.namespace == "system");
        assert_eq!(volume.check(), Ok(()));
    }

    #[test]
    fn words_cannot_add_options_or_arguments() {
        let volume = json!({"monitors": ["m"], "image": "foo"});
        let volume: RBDVolumeSource = json_tree::from_value(volume).unwrap();
        let volume = Source::inline(&volume, "shop");
        for word in ["a b", "a,ro", "-p", "", "a\nb", "ä"] {
            let with = |change: fn(&mut Source, String)| {
                let mut changed = volume.clone();
                change(&mut changed, word.to_owned());
                changed.check()
            };
            assert!(with(|volume, word| volume.image = word).is_err(), "{word}");
            assert!(with(|volume, word| volume.pool = word).is_err(), "{word}");
            assert!(with(|volume, word| volume.user = word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_key_is_found_in_a_keyring() {
        let text = "[mon.]\n\tkey = no\n[client.admin]\n\tcaps mon = \"allow *\"\n\tkey = AQA=\n\
            [client.kube]\nkey=AQK=\n[client.none]\n";
        assert_eq!(key_in(text, "admin").unwrap(), "AQA=");
        assert_eq!(key_in(text, "kube").unwrap(), "AQK=");
        assert_eq!(key_in(text, "none"), None);
        assert_eq!(key_in(text, "other"), None);
    }

    #[test]
    fn a_monitor_has_a_port() {
        let shown = |monitor| address(monitor).map(|found| found.to_string());
        assert_eq!(shown("10.0.0.1").unwrap(), "10.0.0.1:6789");
        assert_eq!(shown("10.0.0.1:1").unwrap(), "10.0.0.1:1");
        assert_eq!(shown("[fd00::1]").unwrap(), "[fd00::1]:6789");
        assert_eq!(shown("fd00::1").unwrap(), "[fd00::1]:6789");
        assert_eq!(shown("mon.example:6789"), None);
    }

    #[test]
    fn a_mapped_image_is_known_by_pool_name_and_a_monitor() {
        let wanted = image(&["10.0.0.1:6789", "10.0.0.2:6789"]);
        let text = line(&wanted, "kube", Some("AQ=="), ImageMapping::Locked);
        assert_eq!(
            text,
            "10.0.0.1:6789,10.0.0.2:6789 name=kube,secret=AQ==,lock_on_read,exclusive kube foo -"
        );
        let shown = Attributes {
            config: &text.replace("AQ==", "<hidden>"),
            pool: "kube\n",
            name: "foo\n",
            snapshot: "-\n",
            client: "10.0.2.15:0/77\n",
        };
        let device = Device::of(3, shown).unwrap();
        assert!(device.is_locked && device.image.is(&image(&["10.0.0.2:6789"])));
        assert!(!device.image.is(&image(&["10.9.9.9:6789"])));
        let of_snapshot = Attributes {
            snapshot: "snap1\n",
            ..shown
        };
        assert_eq!(Device::of(3, of_snapshot), None);
        assert!(
            line(&wanted, "kube", None, ImageMapping::ReadOnly).contains(" name=kube,ro kube ")
        );
    }

    #[test]
    fn other_clients_of_an_image_are_counted_without_this_one() {
        let status = r#"{"watchers":[{"address":"10.0.2.15:0/77","client":1,"cookie":2},
            {"address":"10.0.2.16:0/5","client":3,"cookie":4}]}"#;
        assert_eq!(
            other_watchers(status, "10.0.2.15:0/77").unwrap(),
            ["10.0.2.16:0/5"]
        );
        let none = other_watchers(r#"{"watchers":[]}"#, "a").unwrap();
        assert_eq!(none, Vec::<String>::new());
        assert!(other_watchers("rbd: error", "a").is_err());
    }
}
