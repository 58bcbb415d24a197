//! The decisions of the provisioner `kubernetes.io/rbd`. Pure.
//!
//! Parameters and defaults are those of Kubernetes 1.30, the last version with it
//! (<https://v1-30.docs.kubernetes.io/docs/concepts/storage/storage-classes/#ceph-rbd>).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, RBDPersistentVolumeSource,
    SecretReference,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use planners::volume_expansion::bytes;
use planners::volume_provisioning::{
    self, NodeOfClaim, ReclaimAction, needs_volume, node_of_claim, provisioner_of, volume_name,
};
use resource_kinds::annotations::PROVISIONED_BY;
use resource_kinds::storage::rbd::{DEFAULT_POOL, DEFAULT_USER, PROVISIONER, is_word};
use resource_kinds::volume_fit::{claim_reference, requested_size};

/// Keeps a volume object until its image is removed (<https://kep.k8s.io/2644>).
pub(crate) const FINALIZER: &str = "kubernetes.io/pv-controller";

/// The start of the names of images; the uid of the claim follows.
const IMAGE_PREFIX: &str = "kubernetes-dynamic-pvc-";

const MEBIBYTE: u64 = 1 << 20;

/// Features that the kernel's client has, too, and that need nothing else.
const FEATURES: &[&str] = &["layering", "exclusive-lock"];

/// The namespace of the administrator's Secret.
const ADMIN_NAMESPACE: &str = "default";

/// The user of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Its name, without `client.`.
    pub id: String,
    /// The Secret with its key.
    pub secret: String,
    /// The namespace of the Secret.
    pub namespace: Option<String>,
}

/// The parameters of a StorageClass of RBD images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RbdClass {
    pub monitors: Vec<String>,
    pub pool: String,
    /// The Ceph user that creates and removes images.
    pub admin: User,
    /// The Ceph user that maps images on nodes.
    pub user: User,
    pub file_system: Option<String>,
    pub format: Format,
}

/// `imageFormat` of the class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    One,
    /// With these features.
    Two(Vec<String>),
}

impl RbdClass {
    /// The class, if its volumes are images of Ceph.
    ///
    /// *Errors.* As the user reads them.
    pub fn of(class: &StorageClass) -> Option<Result<RbdClass, String>> {
        (class.provisioner == PROVISIONER)
            .then(|| Self::parse(class.parameters.as_ref().unwrap_or(&BTreeMap::new())))
    }

    fn parse(parameters: &BTreeMap<String, String>) -> Result<RbdClass, String> {
        let mut known: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in parameters {
            known.insert(name.to_lowercase(), value);
        }
        let mut take = |name: &str| {
            let value = known.remove(name);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let monitors = take("monitors").unwrap_or_default();
        let monitors: Vec<String> = monitors
            .split(',')
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect();
        let admin = User {
            id: take("adminid").unwrap_or_else(|| DEFAULT_USER.to_owned()),
            secret: take("adminsecretname").ok_or("missing Ceph admin secret name")?,
            namespace: take("adminsecretnamespace").or_else(|| Some(ADMIN_NAMESPACE.to_owned())),
        };
        let user = User {
            id: take("userid").unwrap_or_else(|| admin.id.clone()),
            secret: take("usersecretname").ok_or("missing user secret name")?,
            namespace: take("usersecretnamespace"),
        };
        let pool = take("pool").unwrap_or_else(|| DEFAULT_POOL.to_owned());
        let file_system = take("fstype");
        let (format, features) = (take("imageformat"), take("imagefeatures"));
        if let Some(name) = known.keys().next() {
            return Err(format!(
                "invalid option {name:?} for volume plugin {PROVISIONER}"
            ));
        }
        if monitors.is_empty() {
            return Err("missing Ceph monitors".to_owned());
        }
        let odd = monitors
            .iter()
            .chain([&pool, &admin.id, &user.id])
            .find(|word| !is_word(word));
        if let Some(word) = odd {
            return Err(format!("{word:?} is no monitor, pool or user of Ceph"));
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

    /// The class with the location of an existing image: the class may have been replaced since the image was
    /// made.
    ///
    /// *Errors.* As the user reads them.
    pub fn move_to(&mut self, source: &RBDPersistentVolumeSource) -> Result<(), String> {
        self.monitors.clone_from(&source.monitors);
        self.pool = source.pool.clone().unwrap_or_else(|| self.pool.clone());
        let mut words = self.monitors.iter().chain([&self.pool, &source.image]);
        match words.find(|word| !is_word(word)) {
            Some(word) => Err(format!("{word:?} is no monitor, pool or image of Ceph")),
            None => Ok(()),
        }
    }
}

fn format_of(format: Option<&str>, features: Option<&str>) -> Result<Format, String> {
    let features = features.unwrap_or_default().split(',').map(str::trim);
    let features: Vec<String> = features
        .filter(|feature| !feature.is_empty())
        .map(str::to_owned)
        .collect();
    let unknown = features
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()));
    if let Some(unknown) = unknown {
        return Err(format!(
            "invalid feature {unknown:?} for volume plugin {PROVISIONER}, supported features are: {}",
            FEATURES.join(", ")
        ));
    }
    match format {
        None | Some("2") => Ok(Format::Two(features)),
        Some("1") if features.is_empty() => Ok(Format::One),
        Some("1") => Err("images of imageFormat 1 have no imageFeatures".to_owned()),
        Some(other) => Err(format!("invalid imageFormat {other:?}, which is 1 or 2")),
    }
}

/// The provisioning that a claim needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Provisioning {
    None,
    Image,
    /// Something that images do not support.
    Unsupported(String),
}

/// The provisioning that a claim needs of this provisioner.
pub(crate) fn provisioning(claim: &PersistentVolumeClaim, class: &StorageClass) -> Provisioning {
    let is_asked = provisioner_of(claim) == Some(PROVISIONER)
        && needs_volume(claim)
        && node_of_claim(claim, class) != NodeOfClaim::NotChosen;
    let Some(spec) = claim.spec.as_ref().filter(|_| is_asked) else {
        return Provisioning::None;
    };
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    let modes = spec.access_modes.iter().flatten();
    let unsupported = modes.into_iter().find(|mode| match mode.as_str() {
        "ReadWriteOnce" | "ReadOnlyMany" | "ReadWriteOncePod" => false,
        "ReadWriteMany" => !is_block,
        _ => true,
    });
    if let Some(mode) = unsupported {
        return Provisioning::Unsupported(format!(
            "invalid AccessModes: images of Ceph with a file system are not {mode}"
        ));
    }
    if spec.selector.is_some() {
        let text = "claim.spec.selector is not supported for dynamic provisioning";
        return Provisioning::Unsupported(text.to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        let text = "images of Ceph are made empty: no snapshots, no clones";
        return Provisioning::Unsupported(text.to_owned());
    }
    Provisioning::Image
}

/// The names of a claim's volume and image: the same at each attempt, so that none is left behind.
pub(crate) fn names(claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let uid = claim.metadata.uid.as_deref()?;
    Some((volume_name(claim)?, format!("{IMAGE_PREFIX}{uid}")))
}

/// The size of a claim's image in MiB.
pub(crate) fn mebibytes(claim: &PersistentVolumeClaim) -> u64 {
    bytes(requested_size(claim)).div_ceil(MEBIBYTE).max(1)
}

/// The volume object for a claim.
pub(crate) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    rbd: &RbdClass,
) -> Option<PersistentVolume> {
    let (name, image) = names(claim)?;
    let spec = claim.spec.clone().unwrap_or_default();
    let size = Quantity(format!("{}Mi", mebibytes(claim)));
    let by = BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())]);
    let source = RBDPersistentVolumeSource {
        fs_type: rbd.file_system.clone(),
        image,
        keyring: None,
        monitors: rbd.monitors.clone(),
        pool: Some(rbd.pool.clone()),
        read_only: None,
        secret_ref: Some(SecretReference {
            name: Some(rbd.user.secret.clone()),
            namespace: rbd.user.namespace.clone(),
        }),
        user: Some(rbd.user.id.clone()),
    };
    Some(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some(by),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(BTreeMap::from([("storage".to_owned(), size)])),
            claim_ref: Some(claim_reference(claim)),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: Some(
                class
                    .reclaim_policy
                    .clone()
                    .unwrap_or_else(|| "Delete".to_owned()),
            ),
            rbd: Some(source),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// The action for a volume; none for a volume of another provisioner.
pub(crate) fn reclaim_action(volume: &PersistentVolume) -> ReclaimAction {
    let annotations = volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|all| all.get(PROVISIONED_BY));
    let is_image = volume.spec.as_ref().is_some_and(|spec| spec.rbd.is_some());
    match is_image && maker.is_some_and(|maker| maker == PROVISIONER) {
        true => volume_provisioning::reclaim_action(volume, FINALIZER),
        false => ReclaimAction::Keep,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use resource_kinds::annotations::{SELECTED_NODE, STORAGE_PROVISIONER};

    use super::*;

    fn class(parameters: Value) -> StorageClass {
        json_tree::from_value(
            json!({"metadata": {"name": "fast"}, "provisioner": PROVISIONER,
            "parameters": parameters}),
        )
        .unwrap()
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut all = json!({"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1500k"}}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        json_tree::from_value(
            json!({"metadata": {"name": "data", "namespace": "shop", "uid": "c1",
            "annotations": {STORAGE_PROVISIONER: PROVISIONER}}, "spec": all}),
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
        let found = RbdClass::of(&class(parameters())).unwrap().unwrap();
        assert_eq!(found.monitors, ["10.16.153.105:6789", "10.16.153.106:6789"]);
        assert_eq!(found.format, Format::Two(vec!["layering".to_owned()]));
        assert_eq!(found.admin.namespace.as_deref(), Some("kube-system"));
        assert_eq!(found.user.namespace, None);
        let least = json!({"monitors": "m", "adminSecretName": "a", "userSecretName": "u"});
        let least = RbdClass::of(&class(least)).unwrap().unwrap();
        assert_eq!(
            (least.pool.as_str(), least.user.id.as_str()),
            ("rbd", "admin")
        );
        assert_eq!(least.admin.namespace.as_deref(), Some("default"));
        assert_eq!(least.format, Format::Two(Vec::new()));
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
            assert!(error.contains(text), "{name}: {error}");
        }
    }

    #[test]
    fn an_image_is_made_for_a_claim_that_asks_and_that_has_its_node() {
        let class = class(parameters());
        assert_eq!(provisioning(&claim(json!({})), &class), Provisioning::Image);
        let mut late = class.clone();
        late.volume_binding_mode = Some("WaitForFirstConsumer".to_owned());
        assert_eq!(provisioning(&claim(json!({})), &late), Provisioning::None);
        let mut placed = claim(json!({}));
        let annotations = placed.metadata.annotations.as_mut().unwrap();
        annotations.insert(SELECTED_NODE.to_owned(), "n".to_owned());
        assert_eq!(provisioning(&placed, &late), Provisioning::Image);
        let bound = claim(json!({"volumeName": "v"}));
        assert_eq!(provisioning(&bound, &class), Provisioning::None);
        let many = json!({"accessModes": ["ReadWriteMany"], "volumeMode": "Block"});
        assert_eq!(provisioning(&claim(many), &class), Provisioning::Image);
        for spec in [
            json!({"accessModes": ["ReadWriteMany"]}),
            json!({"selector": {}}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}),
        ] {
            let found = provisioning(&claim(spec), &class);
            assert!(matches!(found, Provisioning::Unsupported(_)), "{found:?}");
        }
    }

    #[test]
    fn the_volume_names_the_image_and_the_users_secret() {
        let class = class(parameters());
        let rbd = RbdClass::of(&class).unwrap().unwrap();
        let made = json_tree::to_value(volume(&claim(json!({})), &class, &rbd)).unwrap();
        assert_eq!(made["spec"]["capacity"]["storage"], "2Mi");
        assert_eq!(
            made["spec"]["rbd"],
            json!({"fsType": "ext4", "image": "kubernetes-dynamic-pvc-c1", "pool": "kube",
                "monitors": ["10.16.153.105:6789", "10.16.153.106:6789"], "user": "kube",
                "secretRef": {"name": "ceph-secret-user"}})
        );
    }

    #[test]
    fn only_an_image_of_the_provisioner_goes() {
        let with = |annotations: Value, source: Value| {
            let mut volume = json!({"metadata": {"name": "pvc-c1", "annotations": annotations},
                "status": {"phase": "Released"}, "spec": source});
            volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
            reclaim_action(&json_tree::from_value(volume).unwrap())
        };
        let image = json!({"rbd": {"monitors": ["m"], "image": "i"}});
        let own = json!({PROVISIONED_BY: PROVISIONER});
        assert_eq!(with(own.clone(), image.clone()), ReclaimAction::Remove);
        assert_eq!(with(json!({}), image), ReclaimAction::Keep);
        let directory = json!({"local": {"path": "/x"}});
        assert_eq!(with(own, directory), ReclaimAction::Keep);
    }
}
