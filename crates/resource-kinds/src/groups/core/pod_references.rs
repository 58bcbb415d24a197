//! The Secrets, ConfigMaps and claims to which any field of a pod refers.

use std::collections::BTreeSet;

use json_tree::Value;
use k8s_openapi::api::core::v1::Volume;

/// A kind of objects to which pods refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferencedKind {
    Secrets,
    ConfigMaps,
}

impl ReferencedKind {
    /// The fields with this key refer to such an object; returns the fields inside of them that contain its name.
    fn fields(self, key: &str) -> &'static [&'static str] {
        match (self, key) {
            (
                Self::Secrets,
                "secret"
                | "secretKeyRef"
                | "secretRef"
                | "azureFile"
                | "imagePullSecrets"
                | "nodePublishSecretRef",
            ) => &["name", "secretName"],
            (Self::ConfigMaps, "configMap" | "configMapKeyRef" | "configMapRef") => &["name"],
            _ => &[],
        }
    }
}

/// The names in a pod's spec: in all containers, volumes and image pull secrets.
pub fn names(spec: &Value, kind: ReferencedKind) -> BTreeSet<&str> {
    let mut collected = BTreeSet::new();
    collect(spec, kind, &mut collected);
    collected
}

/// The names of the claims that a pod uses, including claims of ephemeral volumes.
pub fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(move |volume| {
        let named = volume["persistentVolumeClaim"]["claimName"].as_str();
        let ephemeral = || {
            let name = volume["name"].as_str()?;
            volume["ephemeral"]
                .is_object()
                .then(|| format!("{pod_name}-{name}"))
        };
        named.map(str::to_owned).or_else(ephemeral)
    })
}

/// The claim of a volume in the pod with this name, and whether the pod mounts the claim read-only. The claim can be
/// referenced or ephemeral.
pub fn claim_of(pod: &str, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), source.read_only == Some(true)));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{pod}-{}", volume.name), false))
}

/// The names of the ResourceClaims that a pod uses. The names of claims that were created for the pod are in its
/// status.
pub fn resource_claims(pod: &Value) -> BTreeSet<&str> {
    let named = pod["spec"]["resourceClaims"].as_array();
    let statuses = pod["status"]["resourceClaimStatuses"].as_array();
    let all = named.into_iter().chain(statuses).flatten();
    let mut names: BTreeSet<&str> = all
        .filter_map(|claim| claim["resourceClaimName"].as_str())
        .collect();
    let extended = &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"];
    names.extend(extended.as_str());
    names
}

fn collect<'v>(value: &'v Value, kind: ReferencedKind, names: &mut BTreeSet<&'v str>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| collect(item, kind, names)),
        Value::Object(map) => {
            for (key, value) in map {
                let fields = kind.fields(key);
                let several = value.as_array().map_or(&[][..], Vec::as_slice);
                for object in several.iter().chain([value]) {
                    names.extend(fields.iter().filter_map(|field| object[*field].as_str()));
                }
                collect(value, kind, names);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn claims_are_named_or_made_for_the_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "c", "emptyDir": {}},
        ]}});
        assert_eq!(claims(&pod).collect::<Vec<_>>(), ["data", "p-b"]);
    }

    /// findings C48
    #[test]
    fn device_claims_are_named_or_made_for_the_pod() {
        let pod = json!({"spec": {"resourceClaims": [{"name": "a", "resourceClaimName": "gpu"},
                {"name": "b", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}]}});
        let names: Vec<&str> = resource_claims(&pod).into_iter().collect();
        assert_eq!(names, ["gpu", "p-b-x"]);
    }

    #[test]
    fn what_a_pod_names_is_found_wherever_it_is() {
        let spec = json!({
            "nodeSelector": {"secret": "label"},
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "name": "plain",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "a"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}],
            }],
            "ephemeralContainers": [{
                "name": "later",
                "envFrom": [{"secretRef": {"name": "debug"}}],
            }],
            "volumes": [
                {"name": "v", "secret": {"secretName": "files"}},
                {"name": "c", "csi": {"nodePublishSecretRef": {"name": "publish"}}},
                {"name": "p", "projected": {"sources": [
                    {"configMap": {"name": "part"}}, {"secret": {"name": "part"}},
                ]}},
            ],
        });
        let all = |kind| names(&spec, kind).into_iter().collect::<Vec<_>>();
        assert_eq!(
            all(ReferencedKind::Secrets),
            ["debug", "env", "files", "part", "publish", "pull"]
        );
        assert_eq!(all(ReferencedKind::ConfigMaps), ["all", "part"]);
    }
}
