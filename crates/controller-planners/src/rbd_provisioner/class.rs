//! The parameters of a StorageClass of the provisioner `kubernetes.io/rbd`.
//!
//! The parameters and their defaults are those of Kubernetes 1.30, the last version with this provisioner
//! (<https://v1-30.docs.kubernetes.io/docs/concepts/storage/storage-classes/#ceph-rbd>).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::RBDPersistentVolumeSource;
use k8s_openapi::api::storage::v1::StorageClass;
use resource_kinds::storage::rbd::{DEFAULT_POOL, DEFAULT_USER, ImageFormat, PROVISIONER, is_word};
use thiserror::Error;

/// Features that the kernel's client has, too, and that need nothing else.
const FEATURES: &[&str] = &["layering", "exclusive-lock"];

/// The namespace of the administrator's Secret.
const ADMIN_NAMESPACE: &str = "default";

/// The reason why a StorageClass describes no images, as the user reads it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RbdClassError {
    #[error("missing Ceph admin secret name")]
    NoAdminSecret,
    #[error("missing user secret name")]
    NoUserSecret,
    #[error("missing Ceph monitors")]
    NoMonitors,
    #[error("invalid option {0:?} for volume plugin {PROVISIONER}")]
    UnsupportedOption(String),
    #[error("{0:?} is no monitor, pool or user of Ceph")]
    InvalidWord(String),
    /// The location of an existing image is not one that the program `rbd` accepts.
    #[error("{0:?} is no monitor, pool or image of Ceph")]
    InvalidLocation(String),
    #[error(
        "invalid feature {0:?} for volume plugin {PROVISIONER}, supported features are: {features}",
        features = FEATURES.join(", ")
    )]
    UnsupportedFeature(String),
    #[error("images of imageFormat 1 have no imageFeatures")]
    FeaturesOfFormatOne,
    #[error("invalid imageFormat {0:?}, which is 1 or 2")]
    UnsupportedFormat(String),
}

/// A user of a Ceph cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CephUser {
    /// The name, without `client.`.
    pub id: String,
    /// The Secret with the key.
    pub secret: String,
    /// The namespace of the Secret.
    pub namespace: Option<String>,
}

/// The parameters of a StorageClass of RBD images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbdClass {
    pub monitors: Vec<String>,
    pub pool: String,
    /// The Ceph user that creates and removes images.
    pub admin: CephUser,
    /// The Ceph user that maps images on nodes.
    pub user: CephUser,
    pub file_system: Option<String>,
    pub format: ImageFormat,
}

impl RbdClass {
    /// The class, if its volumes are images of Ceph.
    pub fn of(class: &StorageClass) -> Option<Result<RbdClass, RbdClassError>> {
        (class.provisioner == PROVISIONER)
            .then(|| Self::parse(class.parameters.as_ref().unwrap_or(&BTreeMap::new())))
    }

    fn parse(parameters: &BTreeMap<String, String>) -> Result<RbdClass, RbdClassError> {
        let mut unread: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in parameters {
            unread.insert(name.to_lowercase(), value);
        }
        let mut parameter = |name: &str| {
            let value = unread.remove(name);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let monitors = parameter("monitors").unwrap_or_default();
        let monitors: Vec<String> = monitors
            .split(',')
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect();
        let admin = CephUser {
            id: parameter("adminid").unwrap_or_else(|| DEFAULT_USER.to_owned()),
            secret: parameter("adminsecretname").ok_or(RbdClassError::NoAdminSecret)?,
            namespace: parameter("adminsecretnamespace")
                .or_else(|| Some(ADMIN_NAMESPACE.to_owned())),
        };
        let user = CephUser {
            id: parameter("userid").unwrap_or_else(|| admin.id.clone()),
            secret: parameter("usersecretname").ok_or(RbdClassError::NoUserSecret)?,
            namespace: parameter("usersecretnamespace"),
        };
        let pool = parameter("pool").unwrap_or_else(|| DEFAULT_POOL.to_owned());
        let file_system = parameter("fstype");
        let (format, features) = (parameter("imageformat"), parameter("imagefeatures"));
        if let Some(name) = unread.keys().next() {
            return Err(RbdClassError::UnsupportedOption(name.clone()));
        }
        if monitors.is_empty() {
            return Err(RbdClassError::NoMonitors);
        }
        let odd = monitors
            .iter()
            .chain([&pool, &admin.id, &user.id])
            .find(|word| !is_word(word));
        if let Some(word) = odd {
            return Err(RbdClassError::InvalidWord(word.clone()));
        }
        Ok(RbdClass {
            monitors,
            pool,
            admin,
            user,
            file_system,
            format: format_of(format.as_deref(), features.as_deref())?,
        })
    }

    /// The class with the location of an existing image: the class may have been replaced since the creation of the
    /// image.
    pub fn move_to(&mut self, source: &RBDPersistentVolumeSource) -> Result<(), RbdClassError> {
        self.monitors.clone_from(&source.monitors);
        self.pool = source.pool.clone().unwrap_or_else(|| self.pool.clone());
        let mut words = self.monitors.iter().chain([&self.pool, &source.image]);
        match words.find(|word| !is_word(word)) {
            Some(word) => Err(RbdClassError::InvalidLocation(word.clone())),
            None => Ok(()),
        }
    }
}

fn format_of(format: Option<&str>, features: Option<&str>) -> Result<ImageFormat, RbdClassError> {
    let features = features.unwrap_or_default().split(',').map(str::trim);
    let features: Vec<String> = features
        .filter(|feature| !feature.is_empty())
        .map(str::to_owned)
        .collect();
    let unknown = features
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()));
    if let Some(unknown) = unknown {
        return Err(RbdClassError::UnsupportedFeature(unknown.clone()));
    }
    match format {
        None | Some("2") => Ok(ImageFormat::Two(features)),
        Some("1") if features.is_empty() => Ok(ImageFormat::One),
        Some("1") => Err(RbdClassError::FeaturesOfFormatOne),
        Some(other) => Err(RbdClassError::UnsupportedFormat(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn class(parameters: Value) -> StorageClass {
        json_tree::from_value(
            json!({"metadata": {"name": "fast"}, "provisioner": PROVISIONER,
            "parameters": parameters}),
        )
        .unwrap()
    }

    fn parameters() -> Value {
        json!({"monitors": "10.16.153.105:6789, 10.16.153.106:6789", "adminId": "kube",
            "adminSecretName": "ceph-secret", "adminSecretNamespace": "kube-system", "pool": "kube",
            "userId": "kube", "userSecretName": "ceph-secret-user", "fsType": "ext4",
            "imageFormat": "2", "imageFeatures": "layering"})
    }

    #[test]
    fn a_class_of_the_documentation_is_understood() {
        let parsed = RbdClass::of(&class(parameters())).unwrap().unwrap();
        assert_eq!(
            parsed.monitors,
            ["10.16.153.105:6789", "10.16.153.106:6789"]
        );
        assert_eq!(parsed.format, ImageFormat::Two(vec!["layering".to_owned()]));
        assert_eq!(parsed.admin.namespace.as_deref(), Some("kube-system"));
        assert_eq!(parsed.user.namespace, None);
        let least = json!({"monitors": "m", "adminSecretName": "a", "userSecretName": "u"});
        let least = RbdClass::of(&class(least)).unwrap().unwrap();
        assert_eq!(
            (least.pool.as_str(), least.user.id.as_str()),
            ("rbd", "admin")
        );
        assert_eq!(least.admin.namespace.as_deref(), Some("default"));
        assert_eq!(least.format, ImageFormat::Two(Vec::new()));
        let mut other = class(parameters());
        other.provisioner = "rbd.csi.ceph.com".to_owned();
        assert_eq!(RbdClass::of(&other), None);
    }

    #[test]
    fn a_class_that_cannot_be_served_says_why() {
        for (name, value, text) in [
            ("monitors", "", "missing Ceph monitors"),
            ("adminSecretName", "", "missing Ceph admin secret name"),
            ("userSecretName", "", "missing user secret name"),
            (
                "imageFeatures",
                "journaling",
                "invalid feature \"journaling\"",
            ),
            ("imageFormat", "3", "invalid imageFormat \"3\""),
            ("imageFormat", "1", "have no imageFeatures"),
            ("clusterID", "x", "invalid option \"clusterid\""),
            ("pool", "-p", "is no monitor, pool or user"),
        ] {
            let mut changed = parameters();
            changed[name] = json!(value);
            let error = RbdClass::of(&class(changed)).unwrap().unwrap_err();
            let error = error.to_string();
            assert!(error.contains(text), "{name}: {error}");
        }
    }
}
