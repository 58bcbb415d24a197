//! The default objects of every cluster, and the Service through which pods reach this server.

use std::net::{IpAddr, SocketAddr};

use futures::{StreamExt, TryStreamExt, stream};
use json_tree::{Value, json};
use object_model::{Status, StatusReason};
use resource_kinds::annotations::{RBAC_AUTOUPDATE, SCHEMA_NUMBER};

use crate::catalog::registry::Resource;
use crate::handlers::verbs::create::create;
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::decode::Decoded;
use crate::http::user::UserInfo;
use crate::objects::metadata;
use crate::objects::storage;
use crate::objects::write_request::{EditedFields, ObjectPart, Validation, WriteRequest, accept};
use crate::server::StartError;

/// Number of objects to create concurrently, so that one sync of the disk stores several of them.
const AT_ONCE: usize = 64;

/// The inputs of the creation of default objects.
pub(crate) struct Cluster {
    pub(crate) default_objects: Vec<Value>,
    pub(crate) service_ip: IpAddr,
    pub(crate) advertise: Vec<SocketAddr>,
}

/// The user of the server's own requests: `system:apiserver` of `system:masters`.
pub(crate) fn this_server() -> UserInfo {
    UserInfo::new("system:apiserver", ["system:masters"])
}

/// Creates missing objects, and publishes the server's address.
pub(crate) async fn run(writer: Writer<'_>, cluster: &Cluster) -> Result<(), StartError> {
    let user = this_server();
    // Objects in a namespace can be created only after the namespace.
    let (first, rest): (Vec<&Value>, Vec<&Value>) = cluster
        .default_objects
        .iter()
        .partition(|object| object["kind"] == "Namespace");
    for objects in [first, rest] {
        stream::iter(objects)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |object| ensure(writer, &user, object))
            .await?;
    }
    // The configured default objects may not contain the namespace `default`.
    ensure(writer, &user, &service(cluster)).await?;
    // In a pod, a loopback address is the address of the pod itself.
    let reachable = |address: &&SocketAddr| !address.ip().is_loopback();
    let advertise: Vec<SocketAddr> = cluster
        .advertise
        .iter()
        .filter(reachable)
        .copied()
        .collect();
    if !advertise.is_empty() {
        let (addresses, slice) = (endpoints(&advertise), endpoint_slice(&advertise));
        // Both writes run concurrently, so that one sync of the disk stores both.
        tokio::try_join!(put(writer, &user, &addresses), put(writer, &user, &slice))?;
    }
    Ok(())
}

fn autoupdate(object: &Value) -> &Value {
    &object["metadata"]["annotations"][RBAC_AUTOUPDATE]
}

/// Whether missing parts of the stored object are added from its default at each start.
fn is_completed(default: &Value) -> bool {
    autoupdate(default) == "true"
}

/// Whether the text of a stored object contains exactly the rules, subjects and labels of its default, so that
/// nothing is missing. This is the usual case at a start; the object need not be decoded.
fn has_text_of(stored: &[u8], default: &Value) -> bool {
    [&["rules"][..], &["subjects"], &["metadata", "labels"]]
        .into_iter()
        .all(|path| {
            let expected = path.iter().try_fold(default, |value, name| value.get(name));
            let expected = expected.map(Value::to_string);
            let there = json_text::find(stored, path);
            there == Ok(expected.as_deref().map(str::as_bytes))
        })
}

/// The existing default role or binding with the missing rules, subjects and labels of its default. Nothing is
/// removed. The object is unchanged if its annotation `rbac.authorization.kubernetes.io/autoupdate` is `false`.
/// `None` if nothing is missing.
fn completed(there: &Value, default: &Value) -> Option<Value> {
    if !is_completed(default) || autoupdate(there) == "false" {
        return None;
    }
    let mut merged = there.clone();
    for field in ["rules", "subjects"] {
        let mut all = there[field].as_array().cloned().unwrap_or_default();
        for element in default[field].as_array().into_iter().flatten() {
            if !all.contains(element) {
                all.push(element.clone());
            }
        }
        if !all.is_empty() {
            merged[field] = all.into();
        }
    }
    for (key, value) in default["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let labels = &mut merged["metadata"]["labels"];
        if labels.get(key).is_none() {
            labels[key] = value.clone();
        }
    }
    (merged != *there).then_some(merged)
}

/// Whether the object defines a kind of mainstay.
fn is_own_definition(default: &Value) -> bool {
    let group = default["spec"]["group"].as_str().unwrap_or_default();
    default["kind"] == "CustomResourceDefinition" && group.ends_with(".mainstay.dev")
}

/// The number of a definition's schema; 0 without a number.
fn schema_number(definition: &Value) -> u64 {
    let number = definition["metadata"]["annotations"][SCHEMA_NUMBER].as_str();
    number
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// The existing definition of a kind of mainstay with the versions of its default: the schema belongs to the program,
/// and an earlier version of the program had fewer fields. Versions that the default does not have stay. `None` if the
/// existing schema is the same or a newer one, as after the start of an earlier version of the program.
fn with_own_versions(there: &Value, default: &Value) -> Option<Value> {
    if schema_number(there) >= schema_number(default) {
        return None;
    }
    let own = default["spec"]["versions"].as_array()?;
    let mut versions = own.clone();
    let present = there["spec"]["versions"].as_array();
    let others = present.into_iter().flatten();
    let others = others.filter(|version| own.iter().all(|own| own["name"] != version["name"]));
    for other in others {
        let mut other = other.clone();
        // Only one version is the storage version.
        other["storage"] = false.into();
        versions.push(other);
    }
    let mut changed = there.clone();
    changed["spec"]["versions"] = versions.into();
    changed["metadata"]["annotations"][SCHEMA_NUMBER] =
        default["metadata"]["annotations"][SCHEMA_NUMBER].clone();
    Some(changed)
}

/// Creates an object if it does not exist, adds missing parts to default roles and bindings, and updates the schemas of
/// mainstay's own kinds. Objects whose kind is not served are skipped.
pub(crate) async fn ensure(
    writer: Writer<'_>,
    user: &UserInfo,
    object: &Value,
) -> Result<(), StartError> {
    let Some(resource) = writer.objects.catalog.snapshot().registry.of(object) else {
        return Ok(());
    };
    let (namespace, name) = place(object);
    let failed = |source| failed(object, source);
    let request = write_request(&resource, user, namespace, name);
    if let Some(stored) = writer
        .objects
        .read(&resource, namespace, name)
        .await
        .map_err(failed)?
    {
        let is_definition = is_own_definition(object);
        if !is_definition && (!is_completed(object) || has_text_of(&stored.value, object)) {
            return Ok(());
        }
        let default = match is_definition {
            true => &accepted(&resource, object).map_err(failed)?,
            false => object,
        };
        let renewed = |there: &Value| match is_definition {
            true => with_own_versions(there, default),
            false => completed(there, default),
        };
        let there = storage::decode(&resource, &stored).map_err(failed)?;
        if renewed(&there).is_none() {
            return Ok(());
        }
        let mut change = |there: &Value| Ok(renewed(there).unwrap_or_else(|| there.clone()));
        let done = update(writer, &request, ObjectPart::Whole, &mut change).await;
        return match done {
            // The cluster works with the former schema.
            Err(status) if is_definition => {
                let error = status.message;
                tracing::warn!(name, error, "the schema of a kind is not renewed");
                Ok(())
            }
            done => done.map(drop).map_err(failed),
        };
    }
    let created = match accepted(&resource, object) {
        Ok(object) => create(writer, &request, object).await,
        Err(status) => Err(status),
    };
    match created {
        Ok(_) => Ok(()),
        Err(status) if status.reason == StatusReason::AlreadyExists => Ok(()),
        Err(status) => Err(failed(status)),
    }
}

/// Creates or updates an object.
async fn put(writer: Writer<'_>, user: &UserInfo, object: &Value) -> Result<(), StartError> {
    ensure(writer, user, object).await?;
    let Some(resource) = writer.objects.catalog.snapshot().registry.of(object) else {
        return Ok(());
    };
    let (namespace, name) = place(object);
    let request = write_request(&resource, user, namespace, name);
    let mut change = |old: &Value| {
        let mut changed = accepted(&resource, object)?;
        // Labels and annotations of other writers stay; only the fields of `object` are updated.
        let labels = changed["metadata"]["labels"].take();
        changed["metadata"] = old["metadata"].clone();
        for (key, value) in labels.as_object().into_iter().flatten() {
            changed["metadata"]["labels"][key] = value.clone();
        }
        Ok(changed)
    };
    let done = update(writer, &request, ObjectPart::Whole, &mut change).await;
    done.map(drop).map_err(|source| failed(object, source))
}

fn accepted(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let decoded = Decoded::from(object.clone());
    accept(resource, decoded, Validation::Ignore).map(|(object, _)| object)
}

/// A write of a whole object by the server itself.
pub(crate) fn write_request<'a>(
    resource: &'a Resource,
    user: &'a UserInfo,
    namespace: &'a str,
    name: &'a str,
) -> WriteRequest<'a> {
    WriteRequest {
        resource,
        namespace,
        name,
        subresource: "",
        user,
        source: None,
        dry_run: false,
        manager: "kube-apiserver",
        applied: false,
        extent: EditedFields::Part,
        is_reviewed: false,
        metadata_only: false,
        warnings: None,
        annotations: None,
        cached: None,
        turn: None,
    }
}

fn place(object: &Value) -> (&str, &str) {
    (
        metadata::text(object, "namespace"),
        metadata::text(object, "name"),
    )
}

fn failed(object: &Value, source: Status) -> StartError {
    let (namespace, name) = place(object);
    let kind = object["kind"].as_str().unwrap_or_default();
    let what = format!("{kind} {namespace}/{name}");
    StartError::DefaultObject { what, source }
}

fn service(cluster: &Cluster) -> Value {
    let port = cluster.advertise.first().map_or(6443, SocketAddr::port);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster.service_ip.to_string(),
            "clusterIPs": [cluster.service_ip.to_string()],
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    })
}

fn endpoints(advertise: &[SocketAddr]) -> Value {
    let mut ports: Vec<u16> = advertise.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let subsets: Vec<Value> = ports
        .into_iter()
        .map(|port| {
            let addresses: Vec<Value> = advertise
                .iter()
                .filter(|address| address.port() == port)
                .map(|address| json!({"ip": address.ip().to_string()}))
                .collect();
            json!({
                "addresses": addresses,
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    })
}

/// The EndpointSlice of the server. A slice has one port for all addresses, so the port of the first address is used.
fn endpoint_slice(advertise: &[SocketAddr]) -> Value {
    let port = advertise.first().map_or(6443, SocketAddr::port);
    let same = advertise
        .iter()
        .filter(|address| address.port() == port && address.is_ipv4());
    let endpoints: Vec<Value> = same
        .map(|address| {
            json!({"addresses": [address.ip().to_string()], "conditions": {"ready": true}})
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(autoupdate: &str, rules: &[&str]) -> Value {
        let rules: Vec<Value> = rules.iter().map(|verb| json!({"verbs": [verb]})).collect();
        json!({
            "kind": "ClusterRole",
            "metadata": {"name": "view", "annotations": {RBAC_AUTOUPDATE: autoupdate}},
            "rules": rules,
        })
    }

    #[test]
    fn default_roles_get_what_they_lack_and_keep_what_they_have() {
        let default = role("true", &["get", "list"]);
        let merged = completed(&role("true", &["list", "mine"]), &default);
        assert_eq!(merged, Some(role("true", &["list", "mine", "get"])));
        assert_eq!(completed(&merged.unwrap(), &default), None);
        let mut empty = role("true", &[]);
        empty["rules"] = Value::Null;
        assert_eq!(completed(&empty, &default), Some(default.clone()));
        assert_eq!(completed(&role("false", &[]), &default), None);
        assert_eq!(completed(&role("true", &[]), &role("", &["get"])), None);
    }

    #[test]
    fn an_object_like_its_default_is_known_by_its_text() {
        let mut default = role("true", &["get"]);
        default["metadata"]["labels"] = json!({"a": "b"});
        let has = |there: &Value| has_text_of(there.to_string().as_bytes(), &default);
        let mut there = default.clone();
        there["metadata"]["uid"] = "1".into();
        assert!(has(&there));
        for (field, other) in [("rules", json!([])), ("subjects", json!([{"name": "a"}]))] {
            let mut changed = there.clone();
            changed[field] = other;
            assert!(!has(&changed), "{field}");
        }
        there["metadata"]["labels"]["a"] = "mine".into();
        assert!(!has(&there));
        there["metadata"] = json!({});
        assert!(!has(&there));
    }

    fn definition(number: Option<&str>, versions: &[(&str, &str)]) -> Value {
        let versions = versions.iter().map(|(name, schema)| {
            json!({"name": name, "served": true, "storage": *name == "v1", "schema": schema})
        });
        let mut definition =
            json!({"metadata": {}, "spec": {"versions": versions.collect::<Vec<_>>()}});
        if let Some(number) = number {
            definition["metadata"]["annotations"] = json!({SCHEMA_NUMBER: number});
        }
        definition
    }

    /// A schema is renewed only by a newer one, so that servers of two versions do not change it back and forth.
    #[test]
    fn a_schema_is_renewed_by_a_newer_one_only() {
        let own = definition(Some("3"), &[("v1", "new")]);
        for there in [None, Some("2"), Some("x")] {
            let there = definition(there, &[("v1", "old"), ("v0", "other")]);
            let renewed = with_own_versions(&there, &own).unwrap();
            let expected = definition(Some("3"), &[("v1", "new"), ("v0", "other")]);
            assert_eq!(renewed, expected);
            assert_eq!(with_own_versions(&renewed, &own), None);
        }
        for there in ["3", "4", "10"] {
            let there = definition(Some(there), &[("v1", "of another program")]);
            assert_eq!(with_own_versions(&there, &own), None);
        }
    }

    #[test]
    fn labels_that_are_lacking_come_back() {
        let mut default = role("true", &[]);
        default["metadata"]["labels"] = json!({"a": "b", "c": "d"});
        let mut there = role("true", &[]);
        there["metadata"]["labels"] = json!({"a": "mine"});
        let merged = completed(&there, &default).unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"a": "mine", "c": "d"}));
    }
}
