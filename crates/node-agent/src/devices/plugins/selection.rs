//! The choice of devices for a container. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use object_model::Quantity;

use super::inventory::Inventory;

/// Whether later containers of a pod may have the devices of a container, which has ended before they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// An init container that is not a sidecar.
    Afterwards,
    Never,
}

/// The devices of one resource that a container needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    pub container: String,
    pub resource: String,
    pub count: usize,
    pub reuse: Reuse,
}

/// The extended resources of a pod's containers, in the order in which the containers start.
pub fn requests(spec: &PodSpec) -> Vec<DeviceRequest> {
    let reuse = |container: &Container| match container.restart_policy.as_deref() {
        Some("Always") => Reuse::Never,
        _ => Reuse::Afterwards,
    };
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|container| (container, reuse(container)));
    let main = spec.containers.iter();
    let main = main.map(|container| (container, Reuse::Never));
    init.chain(main)
        .flat_map(|(container, reuse)| of_container(container, reuse))
        .collect()
}

fn of_container(container: &Container, reuse: Reuse) -> Vec<DeviceRequest> {
    let limits = container.resources.as_ref();
    let limits = limits.and_then(|resources| resources.limits.as_ref());
    let extended = limits
        .into_iter()
        .flatten()
        .filter(|(name, _)| is_extended(name));
    let requests = extended.filter_map(|(name, amount)| {
        let amount: Quantity = amount.0.parse().ok()?;
        let count = usize::try_from(amount.value()).ok()?;
        (count > 0).then(|| DeviceRequest {
            container: container.name.clone(),
            resource: name.clone(),
            count,
            reuse,
        })
    });
    requests.collect()
}

/// Whether a name is that of an extended resource: `vendor.com/name`, of another domain than Kubernetes' own, and
/// short enough for `requests.vendor.com/name` in a quota.
pub fn is_extended(name: &str) -> bool {
    let Some((domain, resource)) = name.split_once('/') else {
        return false;
    };
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let ends = |word: &str| is_end(word.bytes().next()) && is_end(word.bytes().next_back());
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_resource_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_domain = domain.len() <= 253 - "requests.".len()
        && domain
            .split('.')
            .all(|label| ends(label) && label.bytes().all(is_lower));
    let is_resource =
        resource.len() <= 63 && ends(resource) && resource.bytes().all(is_resource_byte);
    is_domain && is_resource && !name.starts_with("requests.") && !name.contains("kubernetes.io/")
}

/// Devices of containers that have ended before later containers of the pod start, by resource.
#[derive(Clone, Debug, Default)]
pub struct Reusable(BTreeMap<String, BTreeSet<String>>);

impl Reusable {
    /// Records the devices of a container.
    pub fn record(&mut self, request: &DeviceRequest, devices: &[String]) {
        let reusable = self.0.entry(request.resource.clone()).or_default();
        match request.reuse {
            Reuse::Afterwards => reusable.extend(devices.iter().cloned()),
            Reuse::Never => reusable.retain(|device| !devices.contains(device)),
        }
    }

    fn of(&self, resource: &str) -> impl Iterator<Item = &String> {
        self.0.get(resource).into_iter().flatten()
    }
}

/// The reason why a container gets no devices; the texts are those that users of kubelet know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDevices {
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    #[error(
        "requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}"
    )]
    TooFew {
        resource: String,
        requested: usize,
        available: usize,
    },
}

/// The devices among which a container's devices are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Devices that the container certainly gets.
    pub included: Vec<String>,
    /// The other devices that it may get.
    pub available: BTreeSet<String>,
    /// The number of devices that are chosen from `available`.
    pub missing: usize,
}

/// The candidates for a request; `allocated` has the devices of other pods and of earlier containers.
///
/// # Errors
/// There are too few devices.
pub fn candidates(
    request: &DeviceRequest,
    inventory: &Inventory,
    allocated: &BTreeSet<String>,
    reusable: &Reusable,
) -> Result<Candidates, NoDevices> {
    let healthy = inventory.healthy();
    if healthy.is_empty() {
        return Err(NoDevices::NoneHealthy(request.resource.clone()));
    }
    let reused = reusable.of(&request.resource).take(request.count);
    let included: Vec<String> = reused.cloned().collect();
    let missing = request.count - included.len();
    let available: BTreeSet<String> = healthy
        .into_iter()
        .filter(|id| !allocated.contains(*id))
        .map(str::to_owned)
        .collect();
    if available.len() < missing {
        return Err(NoDevices::TooFew {
            resource: request.resource.clone(),
            requested: missing,
            available: available.len(),
        });
    }
    Ok(Candidates {
        included,
        available,
        missing,
    })
}

impl Candidates {
    /// The chosen devices. Preferred devices that are not available are ignored.
    pub fn choose(&self, preferred: &[String]) -> Vec<String> {
        let is_available = |id: &&String| self.available.contains(*id);
        let preferred: BTreeSet<&String> = preferred.iter().filter(is_available).collect();
        let others = self.available.iter();
        let others = others.filter(|id| !preferred.contains(id));
        let chosen = preferred.iter().copied().chain(others).take(self.missing);
        self.included.iter().chain(chosen).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn request(count: usize, reuse: Reuse) -> DeviceRequest {
        DeviceRequest {
            container: "c".to_owned(),
            resource: "v.com/gpu".to_owned(),
            count,
            reuse,
        }
    }

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn inventory(text: &str) -> Inventory {
        let device = |id: String| match id.strip_suffix('!') {
            Some(id) => (id.to_owned(), false),
            None => (id, true),
        };
        Inventory::Connected(ids(text).into_iter().map(device).collect())
    }

    #[test]
    fn requests_are_extended_resources_in_the_order_of_start() {
        let resources = |amount: &str| {
            json!({"limits": {"cpu": "1", "v.com/gpu": amount,
            "v.com/none": "0", "hugepages-2Mi": "2Mi", "kubernetes.io/batch": "1"}})
        };
        let spec = json_tree::from_value(json!({
            "containers": [{"name": "main", "resources": resources("2")}],
            "initContainers": [{"name": "init", "resources": resources("1")},
                {"name": "side", "restartPolicy": "Always", "resources": resources("3")}]}));
        let found: Vec<_> = requests(&spec.unwrap())
            .into_iter()
            .map(|request| (request.container, request.count, request.reuse))
            .collect();
        let expected = [
            ("init".to_owned(), 1, Reuse::Afterwards),
            ("side".to_owned(), 3, Reuse::Never),
            ("main".to_owned(), 2, Reuse::Never),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn names_of_extended_resources() {
        for name in ["v.com/gpu", "amd.com/gpu_1.x", "a/b"] {
            assert!(is_extended(name), "{name}");
        }
        let long = format!("{}/gpu", "a".repeat(245));
        for name in [
            "cpu",
            "/gpu",
            "v.com/",
            "V.com/gpu",
            "v..com/gpu",
            "requests.v.com/gpu",
            "kubernetes.io/gpu",
            "node.kubernetes.io/gpu",
            "v.com/gpu/x",
            "../gpu",
            &long,
        ] {
            assert!(!is_extended(name), "{name}");
        }
    }

    #[test]
    fn free_healthy_devices_are_chosen_and_preferred_devices_first() {
        let inventory = inventory("a b c! d e");
        let allocated = ids("b").into_iter().collect();
        let none = Reusable::default();
        let found = candidates(&request(2, Reuse::Never), &inventory, &allocated, &none).unwrap();
        assert_eq!(found.choose(&[]), ["a", "d"]);
        assert_eq!(found.choose(&ids("e b c unknown")), ["e", "a"]);
        assert_eq!(found.choose(&ids("e d a")), ["a", "d"]);
        let error = candidates(&request(4, Reuse::Never), &inventory, &allocated, &none);
        assert_eq!(
            error.unwrap_err().to_string(),
            "requested number of devices unavailable for v.com/gpu. Requested: 4, Available: 3"
        );
        let unhealthy = Inventory::Connected([("a".to_owned(), false)].into());
        let error = candidates(&request(1, Reuse::Never), &unhealthy, &allocated, &none);
        assert_eq!(
            error.unwrap_err(),
            NoDevices::NoneHealthy("v.com/gpu".to_owned())
        );
    }

    #[test]
    fn main_containers_have_the_devices_of_init_containers_but_each_device_once() {
        let inventory = inventory("a b c");
        let mut allocated: BTreeSet<String> = BTreeSet::new();
        let mut reusable = Reusable::default();
        let mut chosen = Vec::new();
        for request in [
            request(2, Reuse::Afterwards),
            request(1, Reuse::Afterwards),
            request(1, Reuse::Never),
            request(2, Reuse::Never),
        ] {
            let found = candidates(&request, &inventory, &allocated, &reusable).unwrap();
            let devices = found.choose(&[]);
            reusable.record(&request, &devices);
            allocated.extend(devices.iter().cloned());
            chosen.push(devices.join(" "));
        }
        assert_eq!(chosen, ["a b", "a", "a", "b c"]);
    }
}
