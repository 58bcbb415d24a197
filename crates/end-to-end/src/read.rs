//! Reads objects without starting a program. The start of kubectl takes several times as much processor time as the
//! request, and waits read many times.

use http::Request;
use kube::Client;
use serde_json::Value;
use tokio::runtime::Builder;

use crate::Kubectl;
use crate::api::configuration_if_usable;

/// Names of kinds, the path of their group, their name in paths, and whether they are namespaced.
const KINDS: &[(&[&str], &str, &str, bool)] = &[
    (
        &["configmap", "configmaps", "cm"],
        "api/v1",
        "configmaps",
        true,
    ),
    (&["event", "events"], "api/v1", "events", true),
    (&["node", "nodes"], "api/v1", "nodes", false),
    (
        &["persistentvolume", "pv"],
        "api/v1",
        "persistentvolumes",
        false,
    ),
    (
        &["persistentvolumeclaim", "pvc"],
        "api/v1",
        "persistentvolumeclaims",
        true,
    ),
    (&["pod", "pods"], "api/v1", "pods", true),
    (&["service", "services", "svc"], "api/v1", "services", true),
    (
        &["statefulset", "statefulsets", "sts"],
        "apis/apps/v1",
        "statefulsets",
        true,
    ),
    (&["cronjob", "cronjobs"], "apis/batch/v1", "cronjobs", true),
    (
        &["endpointslice", "endpointslices"],
        "apis/discovery.k8s.io/v1",
        "endpointslices",
        true,
    ),
    (&["pdb"], "apis/policy/v1", "poddisruptionbudgets", true),
];

impl Kubectl {
    /// The object or the list that `kubectl get -o json` prints. If the arguments are a kind, a name, a namespace and
    /// selectors, kubectl is not started; a list has the kind of its objects.
    ///
    /// # Errors
    ///
    /// The server refuses the request, or does not respond.
    pub fn get(&self, arguments: &[&str]) -> Result<Value, String> {
        if let Some(path) = path(arguments, &self.namespace) {
            let text = self.read(&path)?;
            let object = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            return Ok(as_printed(object));
        }
        let printed = self.run(&[&["get", "-o", "json"], arguments].concat());
        let printed = printed.success().map_err(|output| output.stderr)?;
        serde_json::from_str(&printed).map_err(|error| error.to_string())
    }

    /// As [`get`](Self::get), for waits that print the object if they fail.
    ///
    /// # Errors
    ///
    /// The error as a string, as [`get`](Self::get).
    pub fn get_for_wait(&self, arguments: &[&str]) -> Result<Value, Value> {
        self.get(arguments).map_err(Value::String)
    }

    /// The log of a pod with one container.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn log(&self, pod: &str) -> Result<String, String> {
        self.read(&format!(
            "/api/v1/namespaces/{}/pods/{pod}/log",
            self.namespace
        ))
    }

    /// The response for a path, as `kubectl get --raw` prints it. The connection uses the network of this thread.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn read(&self, path: &str) -> Result<String, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let read = async {
            let configuration = configuration_if_usable(&self.kubeconfig).await;
            let mut configuration = configuration.map_err(|error| error.to_string())?;
            if let Some(token) = &self.token {
                configuration.auth_info.token = Some(token.clone().into());
            }
            let request = Request::get(path).body(Vec::new());
            let request = request.map_err(|error| error.to_string())?;
            let client = Client::try_from(configuration).map_err(|error| error.to_string())?;
            let text = client.request_text(request).await;
            text.map_err(|error| error.to_string())
        };
        runtime.block_on(read)
    }
}

/// The path of `kubectl get` with these arguments; `None` for arguments that need kubectl.
fn path(arguments: &[&str], namespace: &str) -> Option<String> {
    let mut words = arguments.iter();
    let (mut kind, mut name, mut query) = (None, None, String::new());
    let mut namespace = Some(namespace);
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => (option, Some(value)),
            _ => (*word, None),
        };
        let mut value = || value.or_else(|| words.next().copied());
        let selector = match option {
            "-A" => {
                namespace = None;
                continue;
            }
            "-n" => {
                namespace = Some(value()?);
                continue;
            }
            "-l" => "labelSelector",
            "--field-selector" => "fieldSelector",
            option if option.starts_with('-') => return None,
            first if kind.is_none() => {
                let parts = first.split_once('/');
                kind = Some(parts.map_or(first, |(kind, _)| kind));
                name = parts.map(|(_, name)| name);
                continue;
            }
            second if name.is_none() => {
                name = Some(second);
                continue;
            }
            _ => return None,
        };
        let start = if query.is_empty() { '?' } else { '&' };
        query += &format!("{start}{selector}={}", encoded(value()?));
    }
    let kind = kind?;
    let (_, group, resource, is_namespaced) =
        KINDS.iter().find(|(names, ..)| names.contains(&kind))?;
    let namespace = namespace.filter(|_| *is_namespaced);
    let namespace = namespace.map_or_else(String::new, |name| format!("namespaces/{name}/"));
    let name = name.map_or_else(String::new, |name| format!("/{name}"));
    Some(format!("/{group}/{namespace}{resource}{name}{query}"))
}

/// The text, encoded as a part of a query (RFC 3986, section 2).
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let parts = text.bytes().map(|byte| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    parts.collect()
}

/// An object as kubectl prints it: without managed fields, and in a list with the kind of the list's items.
fn as_printed(mut object: Value) -> Value {
    let of_list = object["kind"]
        .as_str()
        .and_then(|kind| kind.strip_suffix("List"));
    let of_list = of_list.map(str::to_owned);
    let version = object["apiVersion"].clone();
    let items = object.get_mut("items").and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        if let Some(kind) = &of_list {
            item["kind"] = kind.clone().into();
            item["apiVersion"] = version.clone();
        }
        without_managed_fields(item);
    }
    without_managed_fields(&mut object);
    object
}

fn without_managed_fields(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.remove("managedFields");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_arguments_are_a_path() {
        for (arguments, expected) in [
            (
                &["sts", "web"][..],
                "/apis/apps/v1/namespaces/here/statefulsets/web",
            ),
            (
                &["pvc/data"],
                "/api/v1/namespaces/here/persistentvolumeclaims/data",
            ),
            (&["nodes"], "/api/v1/nodes"),
            (
                &["pods", "-l", "a=b"],
                "/api/v1/namespaces/here/pods?labelSelector=a%3Db",
            ),
            (
                &["events", "-A", "--field-selector=reason=Preempted"],
                "/api/v1/events?fieldSelector=reason%3DPreempted",
            ),
            (
                &["svc", "kubernetes", "-n", "default"],
                "/api/v1/namespaces/default/services/kubernetes",
            ),
        ] {
            assert_eq!(path(arguments, "here").as_deref(), Some(expected));
        }
        for arguments in [
            &["flower", "rose"][..],
            &["pods", "-w"],
            &["pods", "a", "b"],
            &[],
        ] {
            assert_eq!(path(arguments, "here"), None, "{arguments:?}");
        }
    }

    #[test]
    fn a_list_is_as_kubectl_prints_it() {
        let metadata = json!({"name": "a", "managedFields": []});
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
            "items": [{"metadata": metadata}]});
        let item = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}});
        assert_eq!(as_printed(list)["items"], json!([item]));
        assert_eq!(
            as_printed(json!({"metadata": metadata})),
            json!({"metadata": {"name": "a"}})
        );
    }
}
