//! The admission plug-in ServiceAccount: sets the account of a pod and mounts its token, unless the pod disables the
//! mount (`statefulset.md` 12.15).

use json_tree::{Value, json};
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, creates, forbidden};
use crate::admission::ObjectReader;
use crate::json::parts;
use crate::validation::volume_sources;
use crate::well_known::annotations::MIRROR_POD;

/// The mount path of the token; client libraries read it there.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Letters and digits that do not form words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) struct ServiceAccount;

impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !creates(request, "pods") || object["metadata"]["annotations"][MIRROR_POD].is_string() {
            return Ok(());
        }
        let suffix = suffix(object, request.namespace);
        let account_name = object["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or_default();
        let name = if account_name.is_empty() {
            "default"
        } else {
            account_name
        }
        .to_owned();
        let Some(account) = cluster.get("", "serviceaccounts", request.namespace, &name) else {
            let namespace = request.namespace;
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not \
                 found"
            );
            return Err(forbidden(request, object, &why));
        };
        let Some(spec) = object.get_mut("spec") else {
            return Ok(());
        };
        parts::set(spec, "serviceAccountName", name.clone());
        parts::set(spec, "serviceAccount", name);
        let pod_setting = spec["automountServiceAccountToken"].as_bool();
        if pod_setting.or(account["automountServiceAccountToken"].as_bool()) != Some(false) {
            mount_token(spec, &suffix);
        }
        let secrets = &account["imagePullSecrets"];
        let has_secrets = spec["imagePullSecrets"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        if !has_secrets && secrets.is_array() {
            parts::set(spec, "imagePullSecrets", secrets.clone());
        }
        Ok(())
    }
}

/// Five characters that differ between pods. They are a hash, because this crate has no source of randomness.
fn suffix(object: &Value, namespace: &str) -> String {
    let metadata = &object["metadata"];
    let [uid, name, prefix] =
        ["uid", "name", "generateName"].map(|key| metadata[key].as_str().unwrap_or(""));
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in [namespace, "/", uid, "/", name, "/", prefix] {
        hash = text.bytes().fold(hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    }
    // The low bits of this hash depend on few bytes of the input, so the high bits are folded in.
    hash ^= hash >> 32;
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        let index = usize::try_from(hash % 27).unwrap_or_default();
        text.push(char::from(ALPHABET[index]));
        hash /= 27;
    }
    text
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let is_new = existing.is_none();
    let volume = existing.unwrap_or_else(|| [VOLUME_PREFIX, suffix].concat());
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in parts::each(spec, list) {
            let mounts = container["volumeMounts"].as_array();
            let mut mounts = mounts.into_iter().flatten();
            if mounts.any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            parts::push(container, "volumeMounts", mount);
        }
    }
    if needed && is_new {
        let volume = volume_sources::service_account_volume(&volume);
        parts::push(spec, "volumes", volume);
    }
}

#[cfg(test)]
mod tests {
    use super::super::plugin::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    fn accounts() -> Objects {
        Objects::default()
            .with(
                "serviceaccounts",
                json!({"metadata": {"name": "default", "namespace": "d"},
                "imagePullSecrets": [{"name": "s"}]}),
            )
            .with(
                "serviceaccounts",
                json!({"metadata": {"name": "quiet", "namespace": "d"},
                "automountServiceAccountToken": false}),
            )
    }

    fn admit(mut spec: Value) -> Result<Value, Status> {
        spec["containers"] = json!([{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": MOUNT_PATH}]}]);
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        ServiceAccount.admit(&request(Operation::Create, "pods"), &mut pod, &accounts())?;
        Ok(pod["spec"].clone())
    }

    /// `statefulset.md` 12.15
    #[test]
    fn a_pod_gets_its_accounts_token() {
        let spec = admit(json!({})).unwrap();
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5);
        let token = &spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(token, &json!({"expirationSeconds": 3607, "path": "token"}));
        let mount = json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn a_pod_can_do_without() {
        assert!(
            admit(json!({"automountServiceAccountToken": false})).unwrap()["volumes"].is_null()
        );
        assert!(admit(json!({"serviceAccountName": "quiet"})).unwrap()["volumes"].is_null());
        let loud = json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true});
        assert!(admit(loud).unwrap()["volumes"].is_array());
    }

    #[test]
    fn an_account_must_exist() {
        assert_eq!(
            admit(json!({"serviceAccountName": "x"}))
                .unwrap_err()
                .message,
            "pods \"p\" is forbidden: error looking up service account d/x: serviceaccount \"x\" \
             not found"
        );
    }
}
