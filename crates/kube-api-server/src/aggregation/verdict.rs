//! The decision about the availability of an extension API server, with upstream's reasons.

use json_tree::Value;

/// The condition `Available` of an APIService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AvailabilityVerdict {
    /// `True`, `False` or `Unknown`.
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The Service of an APIService.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServicePort<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) port: u16,
}

impl AvailabilityVerdict {
    fn failed(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }

    /// The Service or its endpoints cannot be read.
    pub(super) fn unreadable(of: ServicePort<'_>, error: &str) -> Self {
        let ServicePort {
            namespace, name, ..
        } = of;
        Self {
            status: "Unknown",
            reason: "ServiceAccessError",
            message: format!("service/{name} in {namespace:?} cannot be checked due to: {error}"),
        }
    }

    /// The conclusion from the request for the discovery document.
    pub(super) fn of_discovery(outcome: Result<(), String>) -> Self {
        match outcome {
            Ok(()) => Self {
                status: "True",
                reason: "Passed",
                message: "all checks passed".to_owned(),
            },
            Err(error) => Self::failed("FailedDiscoveryCheck", error),
        }
    }

    pub(super) fn is_available(&self) -> bool {
        self.status == "True"
    }
}

/// Checks the Service of an APIService and the slices of the namespace.
///
/// *Errors.* The condition if the server cannot be reached.
pub(super) fn check_endpoints(
    of: ServicePort<'_>,
    service: Option<&Value>,
    slices: &[Value],
) -> Result<(), AvailabilityVerdict> {
    let ServicePort {
        namespace,
        name,
        port,
    } = of;
    let failed = |reason, message| Err(AvailabilityVerdict::failed(reason, message));
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return failed("ServiceNotFound", message);
    };
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter(|one| one["port"].as_u64() == Some(port.into()));
    let Some(service_port) = ports.next() else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return failed("ServicePortError", message);
    };
    let port_name = service_port["name"].as_str().unwrap_or_default();
    let of_service =
        |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name;
    let slices: Vec<&Value> = slices.iter().filter(of_service).collect();
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return failed("EndpointsNotFound", message);
    }
    if !slices.iter().any(|slice| is_ready(slice, port_name)) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return failed("MissingEndpoints", message);
    }
    Ok(())
}

/// Whether a slice has a ready endpoint, and a port of that name.
fn is_ready(slice: &Value, port_name: &str) -> bool {
    let list = |field: &str| slice[field].as_array().into_iter().flatten();
    let is_port = |port: &Value| {
        port["name"].as_str().unwrap_or_default() == port_name && port["port"].is_number()
    };
    list("endpoints").any(|endpoint| endpoint["conditions"]["ready"] != false)
        && list("ports").any(is_port)
}

/// The conditions of an APIService with the verdict; `None` if they have it. The time of the transition changes with the
/// status only.
pub(super) fn conditions(
    stored: &Value,
    verdict: &AvailabilityVerdict,
    now: &str,
) -> Option<Value> {
    let stored = stored.as_array().cloned().unwrap_or_default();
    let is_available = |one: &&Value| one["type"] == "Available";
    let former = stored.iter().find(is_available);
    let text = |field: &str| {
        former
            .and_then(|one| one[field].as_str())
            .unwrap_or_default()
    };
    let same_status = text("status") == verdict.status;
    if same_status && text("reason") == verdict.reason && text("message") == verdict.message {
        return None;
    }
    let since = match text("lastTransitionTime") {
        "" => now,
        since if same_status => since,
        _ => now,
    };
    let next = json_tree::json!({"type": "Available", "status": verdict.status,
        "reason": verdict.reason, "message": verdict.message, "lastTransitionTime": since});
    let others = stored.iter().filter(|one| !is_available(one)).cloned();
    Some(others.chain([next]).collect::<Vec<Value>>().into())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    const OF: ServicePort<'_> = ServicePort {
        namespace: "ns",
        name: "api",
        port: 443,
    };

    fn service(port: u16, name: &str) -> Value {
        json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": port, "name": name}]}})
    }

    fn slice(of: &str, port_name: &str, ready: Value) -> Value {
        json!({"metadata": {"labels": {"kubernetes.io/service-name": of}},
            "ports": [{"name": port_name, "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
    }

    #[test]
    fn the_reason_names_the_first_missing_part() {
        let https = service(443, "https");
        let ready = slice("api", "https", json!(true));
        let mut without_port = ready.clone();
        without_port["ports"][0]["port"] = Value::Null;
        let cases: [(Option<Value>, Vec<Value>, &str); 10] = [
            (None, vec![ready.clone()], "ServiceNotFound"),
            (
                Some(service(8443, "https")),
                vec![ready.clone()],
                "ServicePortError",
            ),
            (
                Some(json!({"spec": {}})),
                vec![ready.clone()],
                "ServicePortError",
            ),
            (Some(https.clone()), vec![], "EndpointsNotFound"),
            (
                Some(https.clone()),
                vec![slice("other", "https", json!(true))],
                "EndpointsNotFound",
            ),
            (
                Some(https.clone()),
                vec![slice("api", "https", json!(false))],
                "MissingEndpoints",
            ),
            (
                Some(https.clone()),
                vec![slice("api", "web", json!(true))],
                "MissingEndpoints",
            ),
            (Some(https.clone()), vec![without_port], "MissingEndpoints"),
            // An endpoint without the condition is ready.
            (
                Some(https.clone()),
                vec![slice("api", "https", Value::Null)],
                "",
            ),
            (
                Some(https),
                vec![slice("api", "https", json!(false)), ready],
                "",
            ),
        ];
        for (service, slices, reason) in cases {
            let checked = check_endpoints(OF, service.as_ref(), &slices);
            let actual = checked.as_ref().err().map_or("", |verdict| verdict.reason);
            assert_eq!(actual, reason, "{service:?} {slices:?}");
            if let Err(verdict) = checked {
                assert!(!verdict.is_available());
                assert!(verdict.message.contains("service/api in \"ns\""));
            }
        }
        assert!(AvailabilityVerdict::of_discovery(Ok(())).is_available());
        let failed = AvailabilityVerdict::of_discovery(Err("timeout".to_owned()));
        assert_eq!(
            (failed.status, failed.reason),
            ("False", "FailedDiscoveryCheck")
        );
        assert_eq!(AvailabilityVerdict::unreadable(OF, "x").status, "Unknown");
    }

    #[test]
    fn the_time_of_a_transition_is_that_of_the_status() {
        let passed = AvailabilityVerdict::of_discovery(Ok(()));
        let first = conditions(&Value::Null, &passed, "t1").unwrap();
        assert_eq!(first[0]["lastTransitionTime"], "t1");
        assert_eq!(conditions(&first, &passed, "t2"), None);
        let failed = |error: &str| AvailabilityVerdict::of_discovery(Err(error.to_owned()));
        let second = conditions(&first, &failed("a"), "t2").unwrap();
        assert_eq!(second[0]["lastTransitionTime"], "t2");
        let third = conditions(&second, &failed("b"), "t3").unwrap();
        assert_eq!(
            (&third[0]["lastTransitionTime"], &third[0]["message"]),
            (&json!("t2"), &json!("b"))
        );
        let mut with_other = third.as_array().unwrap().clone();
        with_other.push(json!({"type": "Other"}));
        let fourth = conditions(&with_other.into(), &passed, "t4").unwrap();
        assert_eq!(fourth.as_array().unwrap().len(), 2);
        assert_eq!(fourth[0]["type"], "Other");
    }
}
