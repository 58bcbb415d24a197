//! The provisioner `kubernetes.io/rbd`: images of Ceph for claims, created, resized and removed by the program
//! `rbd`.
//!
//! Goal: a claim of a class of images has an image and a volume object. Guarantees: an image exists before its volume
//! object, and is removed before the object. The name of an image follows from the claim, so the next attempt continues
//! an interrupted attempt. The growth of images is planned by [`volume_expansion`](crate::volume_expansion).

mod class;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, RBDPersistentVolumeSource,
    SecretReference,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::PROVISIONED_BY;
use resource_kinds::storage::rbd::PROVISIONER;
use resource_kinds::volume_fit::{claim_reference, requested_size};
use thiserror::Error;

use crate::volume_expansion::bytes;
use crate::volume_provisioning::{
    self, NodeOfClaim, ReclaimAction, needs_volume, node_of_claim, provisioner_of, volume_name,
};
pub use class::{CephUser, RbdClass, RbdClassError};

/// Keeps a volume object until its image is removed (<https://kep.k8s.io/2644>).
pub const FINALIZER: &str = "kubernetes.io/pv-controller";

/// The start of the names of images; the uid of the claim follows.
const IMAGE_PREFIX: &str = "kubernetes-dynamic-pvc-";

const MEBIBYTE: u64 = 1 << 20;

/// The plan for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ImagePlan {
    Nothing,
    /// The claim or its class requests something that images do not support.
    Refuse(ImageError),
    /// Create the image, then the volume object.
    Create(Box<ImageCreation>),
}

/// An image to create, and its volume object.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageCreation {
    pub class: RbdClass,
    pub image: String,
    pub mebibytes: u64,
    pub volume: PersistentVolume,
}

/// An image that exists, with the class that names the administrator of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingImage {
    pub class: RbdClass,
    pub image: String,
}

/// The reason why there can be no image, or no change of an image, as the user reads it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    #[error(transparent)]
    Class(#[from] RbdClassError),
    #[error("its StorageClass {0:?}, which names the administrator, is gone")]
    ClassDeleted(String),
    #[error("its StorageClass is not of the provisioner {PROVISIONER}")]
    OtherProvisioner,
    #[error("invalid AccessModes: images of Ceph with a file system are not {0}")]
    AccessMode(String),
    #[error("claim.spec.selector is not supported for dynamic provisioning")]
    Selector,
    #[error("images of Ceph are made empty: no snapshots, no clones")]
    DataSource,
}

/// Plans the image of a claim. `has_volume` returns whether a volume object with a name exists.
pub fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    has_volume: impl Fn(&str) -> bool,
) -> Result<ImagePlan, IncompleteMetadata> {
    let Some(rbd) = RbdClass::of(class) else {
        return Ok(ImagePlan::Nothing);
    };
    let needed = provisioning(claim, class);
    let (name, image) = names(claim)?;
    if has_volume(&name) {
        return Ok(ImagePlan::Nothing);
    }
    Ok(match (needed, rbd) {
        (Provisioning::None, _) => ImagePlan::Nothing,
        (Provisioning::Unsupported(error), _) => ImagePlan::Refuse(error),
        (_, Err(error)) => ImagePlan::Refuse(ImageError::Class(error)),
        (Provisioning::Image, Ok(rbd)) => ImagePlan::Create(Box::new(ImageCreation {
            volume: volume(claim, class, &rbd, &name, &image),
            mebibytes: mebibytes(claim),
            class: rbd,
            image,
        })),
    })
}

/// The image of a volume that is deleted. `None` if the volume has no image.
pub fn image_to_remove(
    volume: &PersistentVolume,
    class: Option<&StorageClass>,
) -> Result<Option<ExistingImage>, ImageError> {
    let spec = volume.spec.as_ref();
    let name = spec.and_then(|spec| spec.storage_class_name.as_deref());
    let rbd = class
        .and_then(RbdClass::of)
        .ok_or_else(|| ImageError::ClassDeleted(name.unwrap_or_default().to_owned()))?;
    existing(volume, rbd?)
}

/// The image of a volume that grows.
pub fn image_to_grow(
    volume: &PersistentVolume,
    class: Option<&StorageClass>,
) -> Result<ExistingImage, ImageError> {
    let image = class
        .and_then(RbdClass::of)
        .map(|rbd| existing(volume, rbd?));
    let image = image.transpose()?.flatten();
    image.ok_or(ImageError::OtherProvisioner)
}

fn existing(
    volume: &PersistentVolume,
    mut class: RbdClass,
) -> Result<Option<ExistingImage>, ImageError> {
    let spec = volume.spec.as_ref();
    let Some(source) = spec.and_then(|spec| spec.rbd.as_ref()) else {
        return Ok(None);
    };
    class.move_to(source)?;
    Ok(Some(ExistingImage {
        class,
        image: source.image.clone(),
    }))
}

/// Whether a volume is an image, and its class is of this provisioner.
pub fn is_image_of(volume: &PersistentVolume, class: &StorageClass) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.rbd.is_some()) && class.provisioner == PROVISIONER
}

/// Whether the containers have the device of a volume, without a file system.
pub fn is_block(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
}

/// The provisioning that a claim needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Provisioning {
    None,
    Image,
    /// Something that images do not support.
    Unsupported(ImageError),
}

/// The provisioning that a claim needs of this provisioner.
fn provisioning(claim: &PersistentVolumeClaim, class: &StorageClass) -> Provisioning {
    let is_requested = provisioner_of(claim) == Some(PROVISIONER)
        && needs_volume(claim)
        && node_of_claim(claim, class) != NodeOfClaim::NotChosen;
    let Some(spec) = claim.spec.as_ref().filter(|_| is_requested) else {
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
        return Provisioning::Unsupported(ImageError::AccessMode(mode.clone()));
    }
    if spec.selector.is_some() {
        return Provisioning::Unsupported(ImageError::Selector);
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Provisioning::Unsupported(ImageError::DataSource);
    }
    Provisioning::Image
}

/// The names of a claim's volume and image: equal at each attempt, so that an interrupted attempt leaves no other
/// names.
fn names(claim: &PersistentVolumeClaim) -> Result<(String, String), IncompleteMetadata> {
    let uid = claim.metadata.object_uid()?;
    Ok((volume_name(claim)?, format!("{IMAGE_PREFIX}{uid}")))
}

/// The size of a claim's image in MiB.
pub fn mebibytes(claim: &PersistentVolumeClaim) -> u64 {
    bytes(requested_size(claim)).div_ceil(MEBIBYTE).max(1)
}

/// The volume object for a claim.
fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    rbd: &RbdClass,
    name: &str,
    image: &str,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let size = Quantity(format!("{}Mi", mebibytes(claim)));
    let by = BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())]);
    let source = RBDPersistentVolumeSource {
        fs_type: rbd.file_system.clone(),
        image: image.to_owned(),
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
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
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
    }
}

/// The action for a volume; none for a volume of another provisioner.
pub fn reclaim_action(volume: &PersistentVolume) -> ReclaimAction {
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
            let decision = provisioning(&claim(spec), &class);
            assert!(
                matches!(decision, Provisioning::Unsupported(_)),
                "{decision:?}"
            );
        }
    }

    #[test]
    fn the_volume_names_the_image_and_the_users_secret() {
        let class = class(parameters());
        let ImagePlan::Create(creation) = plan(&claim(json!({})), &class, |_| false).unwrap()
        else {
            panic!("no image");
        };
        let encoded = json_tree::to_value(&creation.volume).unwrap();
        assert_eq!(
            (creation.image.as_str(), creation.mebibytes),
            ("kubernetes-dynamic-pvc-c1", 2)
        );
        assert_eq!(encoded["spec"]["capacity"]["storage"], "2Mi");
        assert_eq!(
            encoded["spec"]["rbd"],
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
        let provisioned_by = json!({PROVISIONED_BY: PROVISIONER});
        assert_eq!(
            with(provisioned_by.clone(), image.clone()),
            ReclaimAction::Remove
        );
        assert_eq!(with(json!({}), image), ReclaimAction::Keep);
        let directory = json!({"local": {"path": "/x"}});
        assert_eq!(with(provisioned_by, directory), ReclaimAction::Keep);
    }

    #[test]
    fn an_image_is_created_once_and_a_bad_class_is_refused() {
        let claim = claim(json!({}));
        let has_volume = |name: &str| name == "pvc-c1";
        let existing = plan(&claim, &class(parameters()), has_volume).unwrap();
        assert_eq!(existing, ImagePlan::Nothing);
        let mut bad = parameters();
        bad["imageFormat"] = json!("3");
        let refused = plan(&claim, &class(bad.clone()), |_| false).unwrap();
        assert!(
            matches!(&refused, ImagePlan::Refuse(error) if error.to_string().contains("imageFormat"))
        );
        assert_eq!(
            plan(&claim, &class(bad), has_volume).unwrap(),
            ImagePlan::Nothing
        );
        let mut foreign = class(parameters());
        foreign.provisioner = "rbd.csi.ceph.com".to_owned();
        assert_eq!(
            plan(&claim, &foreign, |_| false).unwrap(),
            ImagePlan::Nothing
        );
    }

    #[test]
    fn an_existing_image_is_in_the_cluster_that_its_volume_names() {
        let class = class(parameters());
        let volume = |source: Value| -> PersistentVolume {
            let spec = json!({"storageClassName": "fast", "rbd": source});
            json_tree::from_value(json!({"metadata": {"name": "pvc-c1"}, "spec": spec})).unwrap()
        };
        let image = volume(json!({"monitors": ["m"], "image": "i", "pool": "old"}));
        let existing = image_to_remove(&image, Some(&class)).unwrap().unwrap();
        assert_eq!(existing.class.monitors, ["m"]);
        assert_eq!(
            (existing.class.pool.as_str(), existing.image.as_str()),
            ("old", "i")
        );
        assert_eq!(image_to_grow(&image, Some(&class)).unwrap(), existing);
        let error = image_to_remove(&image, None).unwrap_err().to_string();
        assert!(error.contains("StorageClass \"fast\""), "{error}");
        assert!(image_to_grow(&image, None).is_err());
        let option = volume(json!({"monitors": ["m"], "image": "-i"}));
        assert!(image_to_remove(&option, Some(&class)).is_err());
        let other = volume(Value::Null);
        assert_eq!(image_to_remove(&other, Some(&class)).unwrap(), None);
        assert!(image_to_grow(&other, Some(&class)).is_err());
    }
}
