//! A custom resource like that of an operator for databases: 1.3 KB, with or without validation rules.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use json_tree::{Value, json};
use kube::Client;

use crate::call::{Call, is_not_found};

pub const KIND: &str = "Database";
pub const PLURAL: &str = "databases";
const VERSION: &str = "v1";
/// The time until the server serves a new definition.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// The group of the definition, of which each run has its own.
fn group(namespace: &str) -> String {
    format!("{namespace}.mainstay.dev")
}

pub fn api_version(namespace: &str) -> String {
    format!("{}/{VERSION}", group(namespace))
}

/// Creates the definition, and waits until the server accepts objects.
pub async fn define(client: &Client, namespace: &str, rules: bool) -> Result<()> {
    let uri = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let created = Call::post(uri.to_owned(), &definition(namespace, rules));
    let created = created.send(client).await;
    created.context("create the definition of the custom resource")?;
    let list = format!(
        "/apis/{}/namespaces/{namespace}/{PLURAL}",
        api_version(namespace)
    );
    let deadline = Instant::now() + ESTABLISHED;
    loop {
        match Call::get(list.clone()).send(client).await {
            Ok(_) => return Ok(()),
            Err(error) if !is_not_found(&error) => {
                return Err(error.context("list the custom resources"));
            }
            Err(_) if Instant::now() > deadline => {
                bail!("the definition was not established in {ESTABLISHED:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Deletes the definition.
pub async fn remove(client: &Client, namespace: &str) -> Result<()> {
    let name = format!("{PLURAL}.{}", group(namespace));
    let uri = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    match Call::delete(uri).send(client).await {
        Err(error) if !is_not_found(&error) => Err(error.context(format!("delete {name}"))),
        _ => Ok(()),
    }
}

fn definition(namespace: &str, rules: bool) -> Value {
    let text = || json!({"type": "string", "maxLength": 200});
    let member = json!({
        "type": "object",
        "required": ["name", "host"],
        "properties": {
            "name": text(), "host": text(), "zone": text(),
            "weight": {"type": "integer", "minimum": 0, "maximum": 100},
            "roles": {"type": "array", "maxItems": 10, "items": text()},
        },
    });
    let mut spec = json!({
        "type": "object",
        "required": ["version", "replicas"],
        "properties": {
            "version": {"type": "string", "maxLength": 20, "pattern": "^[0-9]+\\.[0-9]+$"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 99, "default": 1},
            "mode": {"type": "string", "enum": ["primary", "standby"], "default": "primary"},
            "storage": {"type": "object", "properties": {
                "class": text(), "size": {"type": "string", "maxLength": 20},
                "retain": {"type": "boolean", "default": true},
            }},
            "members": {"type": "array", "maxItems": 20, "items": member},
            "parameters": {"type": "object", "maxProperties": 50, "additionalProperties": text()},
        },
    });
    if rules {
        spec["x-kubernetes-validations"] = json!([
            {"rule": "self.members.all(m, m.weight <= 100 && m.host.startsWith(m.name))",
             "message": "a host begins with the name of its member"},
            {"rule": "size(self.members) <= self.replicas",
             "message": "no more members than replicas"},
            {"rule": "self.storage.class == oldSelf.storage.class", "message": "class is immutable"},
        ]);
    }
    let schema = json!({"openAPIV3Schema": {
        "type": "object",
        "properties": {"spec": spec, "status": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        }},
    }});
    let group = group(namespace);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": KIND, "plural": PLURAL, "singular": "database"},
            "versions": [{
                "name": VERSION, "served": true, "storage": true, "schema": schema,
                "subresources": {"status": {}},
            }],
        },
    })
}

/// An object of the definition.
pub fn object(namespace: &str, name: &str) -> Value {
    let member = |number: u32| {
        json!({
            "name": format!("member-{number}"),
            "host": format!("member-{number}.database.example.svc.cluster.local"),
            "zone": format!("zone-{number}"),
            "weight": 10 * number,
            "roles": ["voter", "reader"],
        })
    };
    json!({
        "apiVersion": api_version(namespace),
        "kind": KIND,
        "metadata": {"name": name, "labels": {"app.kubernetes.io/instance": name}},
        "spec": {
            "version": "16.4",
            "replicas": 5,
            "storage": {"class": "local", "size": "20Gi"},
            "members": (1..=5).map(member).collect::<Vec<_>>(),
            "parameters": {
                "shared_buffers": "512MB", "max_connections": "200", "wal_level": "replica",
                "archive_mode": "on", "log_min_duration_statement": "250ms",
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_size_of_the_reference() {
        let bytes = object("mainstay-bench-abcde", "database-17")
            .to_string()
            .len();
        // The server adds metadata of some 300 bytes.
        assert!((950..1150).contains(&bytes), "{bytes}");
    }

    #[test]
    fn rules_are_a_choice() {
        let rules = |rules| {
            let definition = definition("n", rules);
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let rules = schema["properties"]["spec"]["x-kubernetes-validations"].as_array();
            rules.map(|rules| rules.len())
        };
        assert_eq!((rules(true), rules(false)), (Some(3), None));
    }
}
