//! The endpoint addresses of Services, for requests to a Service.

use std::net::{IpAddr, SocketAddr};

use json_tree::Value;
use object_model::dialling::dialled;
use object_model::{Status, StatusReason};
use rand::RngExt;

use crate::catalog::registry::Resource;
use crate::objects::storage::Objects;
use crate::objects::storage::{self, reading};

/// One of the ready endpoint addresses of a Service's port.
///
/// *Errors.* 404 if the Service does not exist, 503 if it has no ready endpoint.
pub(crate) async fn service_address(
    objects: &Objects,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<SocketAddr, Status> {
    let services = objects.catalog.any_version("", "services");
    let resource = services.ok_or_else(|| Status::internal("Services are not served"))?;
    of_service(objects, &resource, namespace, name, &port.to_string()).await
}

/// A random ready endpoint address of the Service. `port` is a number or a name; an empty text is the first port.
///
/// *Errors.* As [`service_address`].
pub(crate) async fn of_service(
    objects: &Objects,
    resource: &Resource,
    namespace: &str,
    name: &str,
    port: &str,
) -> Result<SocketAddr, Status> {
    let stored = objects.must_read(resource, namespace, name).await?;
    let service = storage::decode(resource, &stored)?;
    let ports = service["spec"]["ports"].as_array();
    let service_port = ports.into_iter().flatten().find(|one| {
        port.is_empty() || one["name"] == port || one["port"].as_u64() == port.parse().ok()
    });
    let unavailable = |text: String| Status::new(StatusReason::ServiceUnavailable, text);
    let service_port = service_port.ok_or_else(|| {
        unavailable(format!(
            "no service port {port:?} found for service {name:?}"
        ))
    })?;
    let slices = reading(objects, |reads| {
        Ok(reads.all("discovery.k8s.io", "endpointslices", namespace))
    })?;
    let mut addresses = ready(&slices, name, &service_port["name"]);
    if addresses.is_empty() {
        let text = format!("no endpoints available for service {name:?}");
        return Err(unavailable(text));
    }
    let (ip, port) = addresses.swap_remove(rand::rng().random_range(0..addresses.len()));
    address(&ip, port)
}

/// The ready endpoint addresses of a Service, each with its port.
fn ready(slices: &[Value], service: &str, port_name: &Value) -> Vec<(String, u64)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut addresses = Vec::new();
    for slice in slices {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        let named = |port: &Value| {
            port["name"].as_str().unwrap_or_default() == port_name.as_str().unwrap_or_default()
        };
        let Some(port) = list(&slice["ports"])
            .iter()
            .find(|port| named(port))
            .and_then(|port| port["port"].as_u64())
        else {
            continue;
        };
        for endpoint in list(&slice["endpoints"]) {
            if endpoint["conditions"]["ready"] != false
                && let Some(ip) = endpoint["addresses"][0].as_str()
            {
                addresses.push((ip.to_owned(), port));
            }
        }
    }
    addresses
}

/// An address that requests may be proxied to; addresses of this machine are refused.
pub(crate) fn address(ip: &str, port: u64) -> Result<SocketAddr, Status> {
    let ip: Option<IpAddr> = ip.parse().ok();
    let refused = || Status::bad_request("address not allowed");
    let ip = dialled(ip.ok_or_else(refused)?).map_err(|_| refused())?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Status::bad_request("invalid port"))?;
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn nothing_of_the_machines_own_is_reached() {
        assert!(address("10.244.0.2", 80).is_ok());
        for ip in [
            "",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "224.0.0.1",
        ] {
            assert_eq!(address(ip, 80).unwrap_err().code, 400, "{ip}");
        }
        assert!(address("10.0.0.1", 0).is_err() && address("10.0.0.1", 70_000).is_err());
    }

    #[test]
    fn only_ready_endpoints_of_the_service_count() {
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            ],
        });
        let slices = [slice];
        let addresses = ready(&slices, "s", &json!("http"));
        assert_eq!(addresses, [("10.0.0.2".to_owned(), 8080)]);
        assert!(ready(&slices, "other", &json!("http")).is_empty());
        assert!(ready(&slices, "s", &Value::Null).is_empty());
    }
}
